"""`maskstream evaluate` end to end: on a painted portrait, and with made-up classifiers."""

import json
import sys

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from models import LABELS
from models.mask_painter import paint_mask
from models.registry import DEFAULT
from stream_server.classify import openvino
from stream_server.cli import run
from trainer.data import label_of

LANDMARKS = np.array(
    [[203.3, 103.0], [247.1, 104.7], [223.9, 125.7], [204.3, 143.2], [242.0, 144.4]], np.float32
)
BOX = (182, 59, 270, 177)
WORN = {"without_mask": None, "with_mask": "correct", "mask_weared_incorrect": "nose_out"}
COLOURS = {"WithMask": (200, 40, 40), "WithoutMask": (40, 200, 40), "incorrect": (40, 40, 200)}
KEYS = {
    *("weights", "layout", "split", "faces", "min_size", "n", "classes", "broken"),
    *("accuracy", "accuracy_interval", "accuracy_all_classes", "roc_auc_macro", "ece"),
    *("macro_f1", "macro_precision", "macro_recall", "per_class", "confusion"),
    *("threshold", "coverage", "risk", "answered_otherwise"),
}


def portrait(wearing, style="surgical"):
    picture = np.ascontiguousarray(astronaut()[:, :, ::-1])
    if wearing is None:
        return picture
    rng = np.random.default_rng(1)
    return paint_mask(picture, LANDMARKS, wearing=wearing, style=style, rng=rng)


def write_scene(root, name, picture, faces):
    """One picture with its Pascal VOC annotation; `faces` are (class, box)."""
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "images" / f"{name}.png"), picture)
    objects = "".join(
        f"<object><name>{kind}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for kind, (x0, y0, x1, y1) in faces
    )
    text = f"<annotation><filename>{name}.png</filename>{objects}</annotation>"
    (root / "annotations" / f"{name}.xml").write_text(text)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The portrait in each way of wearing and two styles; each with a small face of nobody."""
    root = tmp_path_factory.mktemp("scenes")
    for kind, wearing in WORN.items():
        for style in ("surgical", "dark"):
            faces = [(kind, BOX), ("with_mask", (5, 5, 17, 17))]
            write_scene(root, f"{kind}-{style}", portrait(wearing, style), faces)
    return root


def write_folders(root, classes=("WithMask", "WithoutMask"), splits=("",), count=3):
    """Plain pictures whose colour says their class."""
    for split in splits:
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                picture = np.full((40, 40, 3), COLOURS[name], np.uint8) + np.uint8(index)
                cv2.imwrite(str(folder / f"{index}.png"), picture)
    return root


class FakeClassifier:
    """Knows the class of a plain picture by its colour, and answers with one `shift` from it."""

    shift = 0
    labels = LABELS
    input_size = 96

    def __init__(self, weights):
        self.input_size = weights.card.input_size

    def classify(self, crops):
        means = crops.mean(axis=(1, 2))
        colours = np.array(list(COLOURS.values()))
        names = list(COLOURS)
        nearest = np.abs(means[:, None] - colours).sum(axis=2).argmin(axis=1)
        truth = np.array([label_of(names[index]) for index in nearest], np.int64)
        rows = np.full((len(crops), 3), 0.1, np.float32)
        rows[np.arange(len(crops)), (truth + self.shift) % 3] = 0.8
        return rows


@pytest.fixture
def fake(monkeypatch):
    """Put the made-up classifier in place of the network; the class is returned."""
    monkeypatch.setattr(FakeClassifier, "shift", 0)
    monkeypatch.setattr(openvino, "OpenVinoClassifier", FakeClassifier)
    return FakeClassifier


@pytest.fixture
def measured(tmp_path):
    """Run the command; the figures of its JSON."""

    def command(*arguments):
        out = tmp_path / "out" / "figures.json"
        assert run(["evaluate", *map(str, arguments), "--json", str(out)]) == 0
        return json.loads(out.read_text(), parse_constant=pytest.fail)

    return command


# --- with the shipped weights ---------------------------------------------------------------------


def test_scenes_are_judged_by_their_boxes(scenes, measured, tmp_path, capsys):
    plots = tmp_path / "plots"
    found = measured(scenes, "--min-size", "16", "--plots", plots)
    assert found.keys() == KEYS
    assert found["weights"] == DEFAULT
    assert (found["layout"], found["split"], found["faces"]) == ("voc", "all", "boxes")
    assert found["n"] == 6
    assert found["classes"] == list(LABELS)
    assert found["confusion"] == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
    assert found["accuracy"] == found["macro_f1"] == found["coverage"] == 1.0
    assert found["accuracy_interval"] == pytest.approx([0.6097, 1.0], abs=1e-4)
    assert found["per_class"]["incorrect"] == {
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
        "support": 2,
    }
    assert {path.name for path in plots.iterdir()} == {
        "confusion.png",
        "roc.png",
        "reliability.png",
        "risk_coverage.png",
        "worst_errors.png",
    }
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{DEFAULT} on {scenes}, layout voc, all of it")
    assert any(line.split()[:2] == ["accuracy", "1.0000"] for line in said)
    assert any(line.split() == ["incorrect", "0", "0", "2"] for line in said)


def test_small_faces_count_unless_they_are_left_out(scenes, measured):
    found = measured(scenes)
    assert found["n"] == 12
    assert found["min_size"] == 0
    assert found["per_class"]["with_mask"]["support"] == 8


def test_scenes_are_judged_as_the_detector_finds_them(scenes, measured, capsys):
    found = measured(scenes, "--faces", "detect")
    assert found.keys() == KEYS | {"detection", "end_to_end_macro_f1"}
    assert found["min_size"] == 16
    # The six faces, and not the small ones of nobody.
    assert found["n"] == 6
    assert found["detection"] == {
        "recall_16": 1.0,
        "recall_24": 1.0,
        "recall_40": 1.0,
        "precision": 1.0,
    }
    right = np.trace(found["confusion"])
    assert right >= 5
    assert found["accuracy"] == pytest.approx(right / 6)
    # Nothing is missed and nothing found too often: the way's F1 is the classifier's.
    assert found["end_to_end_macro_f1"] == pytest.approx(found["macro_f1"])
    captured = capsys.readouterr()
    assert "end-to-end macro F1" in captured.out
    assert captured.err == ""


def test_a_detector_that_finds_nothing_leaves_figures_of_nobody(tmp_path, measured):
    root = tmp_path / "blank"
    blank = np.full((200, 200, 3), 128, np.uint8)
    write_scene(root, "a", blank, [("with_mask", (20, 20, 80, 80))])
    write_scene(root, "b", blank, [("without_mask", (20, 20, 80, 80))])
    found = measured(root, "--faces", "detect", "--plots", tmp_path / "plots")
    assert found["n"] == 0
    assert found["accuracy"] is found["roc_auc_macro"] is found["risk"] is None
    assert found["detection"]["recall_40"] == 0.0
    assert found["detection"]["precision"] is None
    assert found["end_to_end_macro_f1"] == 0.0


def test_an_excluded_class_is_left_out_and_not_an_answer(scenes, measured, capsys):
    found = measured(scenes, "--exclude", "mask_weared_incorrect", "--min-size", "16")
    assert found["n"] == 4
    assert found["classes"] == ["with_mask", "without_mask"]
    assert "accuracy, all labels" in capsys.readouterr().out


@pytest.mark.shared
def test_the_shipped_weights_on_real_faces(shared_data, measured):
    found = measured(shared_data / "face-mask-12k", "--split", "Validation")
    assert found["layout"] == "12k"
    assert found["n"] == np.sum(found["confusion"]) == 800
    assert found["accuracy"] > 0.95
    low, high = found["accuracy_interval"]
    assert low < found["accuracy"] < high


# --- with made-up classifiers ---------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "share"), [(0, 1.0), (1, 0.0)])
def test_a_perfect_and_an_always_wrong_classifier(fake, shift, share, tmp_path, measured):
    fake.shift = shift
    root = write_folders(tmp_path / "data", tuple(COLOURS))
    found = measured(root, "--plots", tmp_path / "plots")
    assert found["layout"] == "folders"
    assert found["n"] == 9
    for key in ("accuracy", "accuracy_all_classes", "macro_f1", "macro_precision", "macro_recall"):
        assert found[key] == share
    assert found["risk"] == 1 - share
    assert found["ece"] == pytest.approx(abs(0.8 - share), abs=1e-6)
    assert found["roc_auc_macro"] == pytest.approx(1.0 if share else 0.25)


def test_a_set_of_two_classes_is_asked_about_two_and_hides_nothing(
    fake, tmp_path, measured, capsys
):
    # Bare faces are called incorrect, masked ones bare.
    fake.shift = 1
    found = measured(write_folders(tmp_path / "data"))
    assert found["classes"] == ["with_mask", "without_mask"]
    assert found["accuracy_all_classes"] == 0.0
    assert found["answered_otherwise"] == 3
    assert "3 of 6 would be called incorrect" in capsys.readouterr().out
    # Without that answer bare faces are a tie, which the first class wins.
    assert found["confusion"] == [[0, 3], [3, 0]]
    # 0.8 and 0.1 of 0.9 for the masked, 0.5 for the bare: under the threshold of the card.
    assert found["coverage"] == 0.5


@pytest.mark.parametrize(
    ("splits", "given", "looked_at"),
    [
        (("Train", "Validation", "Test"), None, "Test"),
        (("train", "val"), None, "Validation"),
        (("Train",), None, "Train"),
        (("Train", "Validation", "Test"), "train", "Train"),
        (("Train", "Validation", "Test"), "valid", "Validation"),
        (("",), None, "all"),
    ],
)
def test_one_part_is_looked_at_and_named(
    fake, splits, given, looked_at, tmp_path, measured, capsys
):
    root = write_folders(tmp_path / "data", splits=splits)
    found = measured(root, *(["--split", given] if given else []))
    assert found["split"] == looked_at
    assert found["n"] == 6
    shown = "all of it" if looked_at == "all" else f"{looked_at} part"
    assert shown in capsys.readouterr().out.splitlines()[0]


def test_broken_pictures_are_named_and_left_out(fake, tmp_path, measured, capsys):
    root = write_folders(tmp_path / "data")
    broken = root / "WithMask" / "broken.png"
    broken.write_bytes(b"not a picture")
    found = measured(root)
    assert found["n"] == 6
    assert [entry["path"] for entry in found["broken"]] == [str(broken)]
    assert "not a picture" in found["broken"][0]["reason"]
    assert str(broken) in capsys.readouterr().out


def test_a_class_without_a_face_has_no_figures(fake, tmp_path, measured):
    root = write_folders(tmp_path / "data", tuple(COLOURS))
    for path in (root / "incorrect").iterdir():
        cv2.imwrite(str(path), np.full((8, 8, 3), COLOURS["incorrect"], np.uint8))
    found = measured(root, "--min-size", "20")
    assert found["classes"] == list(LABELS)
    assert found["per_class"]["incorrect"] == {
        "precision": None,
        "recall": None,
        "f1": None,
        "support": 0,
    }
    assert found["macro_f1"] == 1.0


def test_the_curves_of_a_training_are_drawn_too(fake, tmp_path, measured):
    log = "epoch,train_loss,val_acc\n0,1.0,0.5\n1,0.8,0.6\n"
    (tmp_path / "metrics.csv").write_text(log)
    root = write_folders(tmp_path / "data")
    measured(root, "--plots", tmp_path / "plots", "--run", tmp_path)
    assert (tmp_path / "plots" / "curves.png").is_file()


# --- what cannot work -----------------------------------------------------------------------------


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run the command, which has to refuse before it loads a network; its one line."""

    def command(*arguments):
        def load(weights):
            pytest.fail("the work has begun")

        monkeypatch.setattr(openvino, "OpenVinoClassifier", load)
        assert run(["evaluate", *map(str, arguments)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("maskstream: ")
        return lines[0]

    return command


def test_wrong_data_is_named(refused, tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(tmp_path / "empty")
    root = write_folders(tmp_path / "data")
    (root / "WithMask").rename(root / "hats")
    assert "hats" in refused(root)


def test_a_wrong_choice_is_named_with_what_there_is(refused, tmp_path):
    root = write_folders(tmp_path / "data", splits=("Train", "Test"))
    assert "choose one of Train, Test" in refused(root, "--split", "Validation")
    plain = write_folders(tmp_path / "plain")
    assert "leave --split away" in refused(plain, "--split", "Test")
    assert "with_mask, without_mask, incorrect" in refused(root, "--exclude", "hats")
    assert "two classes" in refused(root, "--exclude", "with_mask")
    assert "maskstream-v9" in refused(root, "--weights", "maskstream-v9")
    assert "square" in refused(root, "--layout", "square")
    assert "--faces" in refused(root, "--faces", "guess")
    assert "--min-size" in refused(root, "--min-size", "-1")
    assert "--plots" in refused(root, "--run", tmp_path)
    assert "metrics.csv" in refused(root, "--run", tmp_path, "--plots", tmp_path / "plots")


def test_what_cannot_be_written_is_named_before_the_work(refused, tmp_path):
    root = write_folders(tmp_path / "data")
    (tmp_path / "file").write_text("mine")
    assert "--json" in refused(root, "--json", tmp_path)
    assert "--json" in refused(root, "--json", tmp_path / "file" / "out.json")
    assert "--plots" in refused(root, "--plots", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_refused_run_leaves_no_file_and_spares_the_last_ones(refused, tmp_path):
    root = write_folders(tmp_path / "data")
    refused(root, "--split", "Test", "--json", tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()
    (tmp_path / "old.json").write_text("{}")
    refused(root, "--split", "Test", "--json", tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "{}"


def test_no_face_left_is_an_error_that_says_why(fake, tmp_path, capsys):
    root = write_folders(tmp_path / "data")
    assert run(["evaluate", str(root), "--min-size", "500"]) == 2
    assert "500 px wide: lower --min-size" in capsys.readouterr().err
    assert run(["evaluate", str(root), "--faces", "detect"]) == 2
    assert "needs scenes with boxes" in capsys.readouterr().err


def test_without_the_train_extra_it_says_what_to_install(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    assert "pip install" in refused(tmp_path)
