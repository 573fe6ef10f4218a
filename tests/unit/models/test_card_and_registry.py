"""Cards round-trip, and weights that are not what the card says never load."""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from models import LABELS
from models.card import ModelCard, Variant, card_markdown, load_card, save_card
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
        ({"openvino": "../x.xml"}, "plain file name"),
        ({"pictures": {"a/b.jpg": "x"}}, "plain file name"),
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


# --- variants -------------------------------------------------------------------------------------


def make_variant(file="tiny-int8.xml", **changes):
    variant = Variant(
        files={file: hashlib.sha256(file.encode()).hexdigest()},
        runtime="openvino",
        precision="int8",
        size=6_600_000,
        faces=1328,
        accuracy=0.961,
        drop=0.12,
        largest_difference=0.42,
        ms_alone=1.25,
        ms_in_batch=0.41,
        threads=2,
    )
    return replace(variant, **changes)


def test_variants_round_trip_and_stand_in_a_table(tmp_path):
    card = make_card(variants={"openvino-int8": make_variant()})
    save_card(card, tmp_path / "tiny.json")
    assert load_card(tmp_path / "tiny.json").variants == card.variants
    row = "| openvino-int8 | `tiny-int8.xml` | 6.6 | 96.10% | +0.12 | 0.4200 | 1.25 | 0.41 |"
    assert row in (tmp_path / "tiny.md").read_text()


def test_a_card_of_before_the_variants_is_read(folder):
    raw = json.loads((folder / "tiny.json").read_text())
    for key in ("variants", "openvino", "pictures"):
        del raw[key]
    (folder / "tiny.json").write_text(json.dumps(raw))
    assert resolve(str(folder)).openvino_path == folder / "tiny.xml"


def test_the_card_says_what_is_served(folder):
    for name in ("tiny-int8.xml", "tiny-int8.bin"):
        (folder / name).write_bytes(name.encode())
    files = make_card().files | {
        name: hashlib.sha256(name.encode()).hexdigest()
        for name in ("tiny-int8.xml", "tiny-int8.bin")
    }
    card = make_card(files=files, openvino="tiny-int8.xml")
    save_card(card, folder / "tiny.json")
    assert resolve(str(folder)).openvino_path == folder / "tiny-int8.xml"
    save_card(replace(card, files=make_card().files), folder / "tiny.json")
    with pytest.raises(WeightsError, match=r"does not name tiny-int8\.xml"):
        resolve(str(folder))


def test_a_variant_beside_the_card_is_verified_one_elsewhere_is_not_missed(folder):
    save_card(make_card(variants={"openvino-int8": make_variant()}), folder / "tiny.json")
    resolve(str(folder))
    (folder / "tiny-int8.xml").write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"tiny-int8\.xml"):
        resolve(str(folder))


@pytest.mark.parametrize(("drop", "may"), [(0.3, True), (0.31, False), (-2.0, True)])
def test_what_lost_too_much_may_not_serve(drop, may):
    assert make_variant(drop=drop).may_serve is may


@pytest.mark.parametrize("files", [{}, {"a/b.xml": "0" * 64}, {"b.xml": "0"}])
def test_a_variant_without_proper_files_is_refused(files, folder):
    with pytest.raises(ValueError, match="file"):
        make_variant(files=files)
    raw = json.loads((folder / "tiny.json").read_text())
    raw["variants"] = {"x": {"files": files}}
    (folder / "tiny.json").write_text(json.dumps(raw))
    with pytest.raises(WeightsError, match="not a usable model card"):
        resolve(str(folder))


def test_confusion_intervals_and_pictures_are_for_people():
    figures = {
        "V": {
            "accuracy": 0.9,
            "accuracy_interval": [0.8, 0.95],
            "confusion": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        }
    }
    text = card_markdown(make_card(figures=figures, pictures={"e.jpg": "Errors"}))
    assert "| accuracy | 0.9000 (95 %: 0.8000 to 0.9500) |" in text
    assert "| **without_mask** | 4 | 5 | 6 |" in text
    assert "![Errors](e.jpg)" in text
