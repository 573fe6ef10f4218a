"""Cards round-trip, and weights that are not what the card says never load."""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from models import LABELS
from models.card import ModelCard, load_card, save_card
from models.registry import DEFAULT, Weights, WeightsError, names, resolve

FILES = ("tiny.safetensors", "tiny.xml", "tiny.bin")


def make_card(**changes):
    files = {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES}
    card = ModelCard(
        name="tiny",
        labels=LABELS,
        input_size=112,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        crop_margin=0.15,
        temperature=1.2,
        uncertain_below=0.6,
        files=files,
        preset="best",
        seed=7,
        commit="abc",
        command="python -m trainer.train",
        data=("a set",),
        limitations=("none known is not none",),
        figures={"Validation": {"accuracy": 0.99, "interval": [0.98, 1.0]}, "gap": 0.001},
    )
    return replace(card, **changes)


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes(name.encode())
    save_card(make_card(), tmp_path / "tiny.json")
    return tmp_path


def test_a_card_round_trips_and_has_a_twin_for_people(folder):
    assert load_card(folder / "tiny.json") == replace(
        make_card(), figures=json.loads(json.dumps(dict(make_card().figures)))
    )
    text = (folder / "tiny.md").read_text()
    assert "0.9900" in text
    assert make_card().files["tiny.bin"] in text


def test_weights_resolve_by_folder_and_by_card(folder):
    expected = Weights(
        load_card(folder / "tiny.json"), folder / "tiny.safetensors", folder / "tiny.xml"
    )
    assert resolve(str(folder)) == expected
    assert resolve(str(folder / "tiny.json")) == expected


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_named(folder, name):
    (folder / name).write_bytes(b"something else")
    with pytest.raises(WeightsError, match=re.escape(name)):
        resolve(str(folder))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=re.escape(name)):
        resolve(str(folder))


def test_a_card_that_does_not_name_the_openvino_files_is_refused(folder):
    card = make_card(files={FILES[0]: make_card().files[FILES[0]]})
    save_card(card, folder / "tiny.json")
    with pytest.raises(WeightsError, match=r"tiny\.xml"):
        resolve(str(folder))


def test_unknown_names_list_the_shipped_ones():
    with pytest.raises(WeightsError, match=DEFAULT):
        resolve("no-such-weights")


def test_an_empty_folder_and_a_broken_card_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="0 model cards"):
        resolve(str(tmp_path))
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(WeightsError, match="not JSON"):
        resolve(str(tmp_path))
    (tmp_path / "x.json").write_text('{"flavour": 1}')
    with pytest.raises(WeightsError, match="flavour"):
        resolve(str(tmp_path))
    (tmp_path / "x.json").write_text('{"name": "x"}')
    with pytest.raises(WeightsError, match="not a usable model card"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a", "b", "c")}, "labels"),
        ({"temperature": 0.0}, "temperature"),
        ({"uncertain_below": 1.5}, "uncertain_below"),
        ({"input_size": 3}, "input_size"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
        ({"crop_margin": -1.0}, "crop_margin"),
        ({"files": {"../x": "0" * 64}}, "plain file name"),
        ({"format": 99}, "format"),
    ],
)
def test_a_card_no_program_could_use_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_card(**change)


def test_the_default_weights_are_shipped_whole():
    assert DEFAULT in names()
    assert resolve().card.name == DEFAULT


def test_card_and_registry_load_without_torch():
    imports = "import sys, models.registry, models.crop, models.mask_painter"
    code = f"{imports}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
