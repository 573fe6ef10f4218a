"""A whole export in small: the files, the card and its figures belong together."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
import pytest
import torch

from models.card import Variant, load_card
from models.errors import InputError, WeightsError
from models.mobilenet_v3 import build_network, load_network
from models.registry import DEFAULT, resolve
from trainer.config import load_config, parse_settings, to_yaml
from trainer.data import INCORRECT, WIDE, Crops
from trainer.export import (
    check_wishes,
    command,
    describe,
    export,
    export_variants,
    open_weights,
    served_now,
)
from trainer.sets import Held
from trainer.variants import BATCH, FORMATS, blob, check, onnx_predictor, truth

CONFIG = load_config("best", settings={"size": 32, "small_size": 32, "epochs": 3})
SIZE = 32


def crops(labels, seed):
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), WIDE, WIDE, 3), np.uint8)
    return Crops(images, np.array(labels), np.full(len(labels), 30, np.float32))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two of torch's threads wait for each other without end where other work has the cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.variants.THREADS", 1)
        patch.setattr("trainer.variants.ROUNDS", {1: 1, BATCH: 1})
        patch.setattr("trainer.variants.LEAST_ROUNDS", 1)
        patch.setattr("trainer.failures.TAKES", 1)
        yield


HELD = Held(crops([0, 1, 0, 1], 1), crops([0, 1, INCORRECT], 2), crops([0, 1], 3))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network().eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, network):
    folder = tmp_path_factory.mktemp("weights")
    card = export(network, HELD, CONFIG, folder, "tiny", {"folder_with": 4})
    return folder, card


@pytest.fixture(scope="module")
def variants(tmp_path_factory, exported):
    folder = tmp_path_factory.mktemp("variants")
    weights = resolve(str(exported[0]))
    return folder, export_variants(weights, HELD, crops([0, 1] * 4, 4), folder, tuple(FORMATS))


# --- from a training ------------------------------------------------------------------------------


def test_the_exported_files_resolve_and_hold_the_network(exported, network):
    folder, card = exported
    weights = resolve(str(folder))
    assert weights.card.files == dict(card.files)
    image = torch.randn(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(load_network(weights)(image), network(image))


def test_the_card_shows_what_was_measured(exported):
    _, card = exported
    scenes = card.figures["street scenes, validation, all faces"]
    assert scenes["faces"] == 3
    assert sum(map(sum, scenes["confusion (rows: true)"])) == 3
    assert "recall_incorrect_interval" in scenes
    assert card.figures["largest difference of a probability, torch against OpenVINO"] < 1e-2
    assert not any("test" in title for title in card.figures), "not asked for, not measured"


def test_the_test_part_is_measured_when_asked_for_and_a_missing_set_is_left_out(tmp_path, network):
    empty = crops([0], 5).where(np.array([False]))
    held = replace(HELD, folder=empty)
    card = export(network, held, CONFIG, tmp_path, "tiny", {}, report_test=True)
    assert card.figures["test (for information; nothing was chosen on it)"]["faces"] == 2
    assert not any(title.startswith("face pictures") for title in card.figures)


@pytest.mark.parametrize("settings", [{}, {"epochs": 3, "shares.scene_with": 0.3, "clip": None}])
def test_the_command_in_the_card_means_the_same_settings(settings):
    config = load_config("best", settings=settings)
    words = shlex.split(command(config, "tiny", [Path("/x/face-mask-12k")]))
    assert words[:3] == ["maskstream", "train", "face-mask-12k"]
    assert words[words.index("--name") + 1] == "tiny"
    changed = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert load_config(words[words.index("--preset") + 1], None, parse_settings(changed)) == config


def test_a_card_names_files_and_their_part_but_no_place(tmp_path, network):
    config = replace(CONFIG, init="/here/first.pt", teacher="/there/lite.pt")
    card = export(network, HELD, config, tmp_path, "tiny", {}, data=[Path("/far/mine")])
    text = (tmp_path / "tiny.json").read_text() + (tmp_path / "tiny.md").read_text()
    assert not any(place in text for place in ("/here", "/there", "/far", str(tmp_path)))
    assert "init=first.pt" in card.command
    assert "teacher=lite.pt" in card.command
    assert "Trained from first.pt." in card.limitations
    assert any("lite.pt: EfficientNet-Lite0" in line for line in card.limitations)
    assert card.figures["settings"]["teacher"] == "lite.pt"


def test_data_that_is_known_is_described_with_its_licence_other_data_without():
    lines = describe([Path("a/face-mask-12k-images-dataset"), Path("mine")], {"painted_with": 2})
    assert "CC0" in lines[0]
    assert lines[1].startswith("mine: ")
    assert "painted" in lines[2]
    assert lines[3] == "Training faces: painted_with 2"
    assert describe([], {}) == ()


# --- to other formats -----------------------------------------------------------------------------


def test_every_format_is_written_checked_and_verified(variants):
    folder, card = variants
    assert list(card.variants) == list(FORMATS)
    assert load_card(folder / "tiny.json").variants == card.variants
    for name, variant in card.variants.items():
        assert variant.size == sum((folder / file).stat().st_size for file in variant.files), name
        assert variant.faces == 7
        assert variant.ms_alone > 0
        assert variant.ms_in_batch > 0
    assert card.variants["safetensors"].largest_difference == 0
    assert card.variants["openvino"].largest_difference < 1e-2
    assert card.variants["onnx"].largest_difference < 1e-4
    assert card.variants["openvino-int8"].size < 0.8 * card.variants["openvino"].size
    assert card.variants["onnx-int8"].size < 0.4 * card.variants["onnx"].size


def test_int8_is_int8_and_still_the_same_network(variants, network):
    folder, card = variants
    model = ov.Core().read_model(folder / "tiny-int8.xml")
    kinds = [op.get_element_type() for op in model.get_ops() if op.get_type_name() == "Constant"]
    assert ov.Type.i8 in kinds
    expected = truth(network, HELD.scenes, SIZE, card.temperature)
    for file in ("openvino-int8", "onnx-int8"):
        assert card.variants[file].largest_difference < 0.1, file
    logits = onnx_predictor(folder / "tiny-int8.onnx")(expected.crops)
    np.testing.assert_allclose(logits, expected.logits, atol=0.1)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_onnx_takes_any_number_of_crops(variants, network, count):
    folder, _ = variants
    images = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    found = onnx_predictor(folder / "tiny.onnx")(images)
    with torch.inference_mode():
        expected = network(torch.from_numpy(blob(images))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_base_must_be_there_and_what_else_is_there_must_be_right(variants, tmp_path):
    folder, _ = variants
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert resolve(str(tmp_path)).openvino_path.name == "tiny.xml"
    (tmp_path / "tiny-int8.onnx").unlink()
    resolve(str(tmp_path))
    (tmp_path / "tiny.onnx").write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"tiny\.onnx"):
        resolve(str(tmp_path))


def test_int8_is_served_only_when_told_and_then_it_is_what_loads(exported, tmp_path):
    weights = resolve(str(exported[0]))
    calibration = crops([0, 1] * 4, 4)
    card = export_variants(weights, HELD, calibration, tmp_path, (), serve="openvino-int8")
    assert list(card.variants) == ["safetensors", "openvino", "openvino-int8"]
    again = resolve(str(tmp_path))
    assert again.openvino_path.name == "tiny-int8.xml"
    assert set(card.files) >= {"tiny-int8.xml", "tiny-int8.bin", "tiny.safetensors"}
    int8, plain = [tmp_path / "tiny-int8.xml"], [tmp_path / "tiny.xml"]
    assert served_now(card, {"openvino": plain, "openvino-int8": int8}) == "openvino-int8"
    assert export_variants(again, HELD, calibration, tmp_path, ()).openvino_file == "tiny.xml"


def test_a_variant_that_lost_too_much_is_not_served(exported, tmp_path, monkeypatch):
    def worse(name, files, card, expected):
        return replace(check(name, files, card, expected), drop=0.31)

    monkeypatch.setattr("trainer.export.check", worse)
    weights = resolve(str(exported[0]))
    with pytest.raises(InputError, match=r"loses 0\.31 points"):
        export_variants(weights, HELD, crops([0, 1], 4), tmp_path, ())
    assert not list(tmp_path.glob("*.json"))


def test_a_wrong_network_is_seen(variants, network):
    """The check compares with torch's answers, not with itself."""
    folder, card = variants
    expected = truth(network, HELD.scenes, SIZE, card.temperature)
    answers = expected.logits.argmax(axis=1)
    others = 50 * np.eye(3, dtype=np.float32)[(answers + 1) % 3]
    wrong = replace(expected, logits=expected.logits + others, labels=answers)
    found = check("openvino", [folder / "tiny.xml"], card, wrong)
    assert isinstance(found, Variant)
    assert found.accuracy == 1.0
    assert found.drop == -100.0
    assert found.largest_difference > 0.5


def test_the_sheet_of_errors_is_in_the_card(variants):
    folder, card = variants
    (file,) = card.pictures
    picture = cv2.imread(str(folder / file))
    assert picture.shape[1] == 6 * 120
    assert f"![{card.pictures[file]}]({file})" in (folder / "tiny.md").read_text()


def test_a_checkpoint_gets_its_settings_from_its_run(tmp_path, network):
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    torch.save(network.state_dict(), run / "mine.pt")
    with pytest.raises(InputError, match=r"config\.yaml"):
        open_weights(str(run / "mine.pt"), HELD, [], out)
    (run / "config.yaml").write_text(to_yaml(load_config("teacher")))
    with pytest.raises(InputError, match=r"mine\.pt is a teacher .*--set teacher="):
        open_weights(str(run / "mine.pt"), HELD, [], out)
    (run / "config.yaml").write_text(to_yaml(CONFIG))
    weights = open_weights(str(run / "mine.pt"), HELD, [], out)
    assert weights.card.name == "mine"
    assert weights.card.input_size == SIZE
    assert weights.torch_path.parent == out


@pytest.mark.parametrize(
    ("weights", "formats", "serve", "message"),
    [
        (DEFAULT, ["onnx", "tflite"], None, "no 'tflite': choose from safetensors, openvino"),
        (DEFAULT, [], "onnx", "loads openvino or openvino-int8"),
        (DEFAULT, [], None, "name another folder"),
        ("nobody", [], "openvino", "no weights called 'nobody'"),
        ("none/mine.pt", [], "openvino", "no config.yaml"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(tmp_path, weights, formats, serve, message):
    (tmp_path / "file").write_text("")
    folder = tmp_path / ("file" if formats == [] and serve is None else "out")
    with pytest.raises(InputError, match=message):
        check_wishes(weights, formats, serve, folder)


def test_the_command_names_what_is_wrong(tmp_path):
    words = [str(Path(sys.executable).parent / "maskstream"), "export", "maskstream-v3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [*words, "--data", str(tmp_path / "none"), "--to", str(tmp_path / "out")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert str(tmp_path / "none") in found.stderr
