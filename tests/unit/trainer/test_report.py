"""`maskstream data report`."""

import json
import shutil

import cv2
import pytest
from typer.testing import CliRunner

from models.errors import InputError
from stream_server.cli import run
from tests.unit.trainer.test_duplicates import portrait, recoded
from trainer.cli.data import app
from trainer.data import read_dataset
from trainer.data.report import has_leaks, report


@pytest.fixture
def twin(tmp_path):
    """A small Face Mask 12K of drawn faces, each another one."""
    seed = 0
    for split, count in (("Train", 4), ("Validation", 2), ("Test", 2)):
        for name in ("WithMask", "WithoutMask"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed += 1
                cv2.imwrite(str(folder / f"{number}.png"), portrait(seed))
    return tmp_path / "set"


def test_a_clean_set(twin):
    found = report(read_dataset(twin))
    assert found["pictures"] == 16
    assert found["splits"]["Train"]["classes"] == {
        "with_mask": 4,
        "without_mask": 4,
        "incorrect": 0,
    }
    assert found["splits"]["Train"]["width"] == {
        "min": 97.4,
        "median": 97.4,
        "max": 97.4,
        "share_under_24": 0.0,
    }
    assert found["duplicates"] == {"identical": 0, "near_identical": 0, "same_source": 0}
    assert found["broken"] == found["blank"] == found["contradictions"] == []
    assert not has_leaks(found)
    assert json.loads(json.dumps(found)) == found


def test_leaks_are_counted_by_kind_with_examples(twin):
    train, test = twin / "Train" / "WithMask", twin / "Test" / "WithMask"
    shutil.copy(train / "0.png", test / "same.png")
    cv2.imwrite(str(test / "near.jpg"), recoded(cv2.imread(str(train / "1.png"))))
    (train / "2.png").rename(train / "Augmented_5_1.png")
    (test / "0.png").rename(test / "Augmented_5_2.png")
    shutil.copy(train / "3.png", train / "again.png")
    found = report(read_dataset(twin))
    assert found["duplicates"] == {"identical": 2, "near_identical": 3, "same_source": 1}
    leaks = found["leaks"]
    assert {kind: leak["groups"] for kind, leak in leaks.items()} == {
        "identical": 1,
        "near_identical": 2,
        "same_source": 1,
    }
    assert leaks["identical"]["examples"] == [["Train/WithMask/0.png", "Test/WithMask/same.png"]]
    assert leaks["near_identical"]["training_pictures"] == 2
    assert has_leaks(found)


def test_one_picture_in_two_classes_is_told(twin):
    shutil.copy(twin / "Train/WithMask/0.png", twin / "Train/WithoutMask/x.png")
    found = report(read_dataset(twin))
    assert found["contradictions"] == [["Train/WithMask/0.png", "Train/WithoutMask/x.png"]]
    assert not has_leaks(found)


def test_broken_blank_and_small(twin):
    folder = twin / "Train" / "WithMask"
    (folder / "bad.jpg").write_bytes(b"no picture")
    cv2.imwrite(str(folder / "black.png"), portrait(1) * 0)
    cv2.imwrite(str(folder / "tiny.png"), cv2.resize(portrait(99), (20, 20)))
    steps = []
    found = report(read_dataset(twin), steps.append)
    assert [item["path"] for item in found["broken"]] == [str(folder / "bad.jpg")]
    assert found["blank"] == ["Train/WithMask/black.png"]
    assert found["splits"]["Train"]["width"]["share_under_24"] == 0.1
    assert sum(steps) == 19


def test_blank_copies_are_near_identical_too(twin):
    for split in ("Train", "Test"):
        cv2.imwrite(str(twin / split / "WithMask" / "black.png"), portrait(1) * 0)
    found = report(read_dataset(twin))
    assert found["leaks"]["near_identical"]["groups"] == 1


def test_scenes_count_by_face(tmp_path):
    (tmp_path / "a.xml").write_text(
        "<annotation>"
        + "".join(
            f"<object><name>mask</name><bndbox><xmin>{x}</xmin><ymin>5</ymin><xmax>{x + 20}</xmax>"
            "<ymax>30</ymax></bndbox></object>"
            for x in (5, 100, 500)
        )
        + "</annotation>"
    )
    cv2.imwrite(str(tmp_path / "a.png"), portrait(3))
    found = report(read_dataset(tmp_path))
    assert found["splits"][""]["classes"]["with_mask"] == 2
    assert found["splits"][""]["width"]["min"] == 12
    assert "500" in found["broken"][0]["reason"]


def test_the_command_and_its_exit_codes(twin, tmp_path):
    runner = CliRunner()
    out = tmp_path / "report.json"
    clean = runner.invoke(app, ["report", str(twin), "--json", str(out)])
    assert clean.exit_code == 0
    assert "Validation               2             2             0      97 px" in clean.output
    assert json.loads(out.read_text())["sets"][0]["layout"] == "12k"
    (twin / "Test/WithMask/bad.jpg").write_bytes(b"x")
    broken = runner.invoke(app, ["report", str(twin)])
    assert broken.exit_code == 1
    assert "bad.jpg: not a picture" in broken.output
    (twin / "Test/WithMask/bad.jpg").unlink()
    shutil.copy(twin / "Train/WithMask/0.png", twin / "Test/WithMask/same.png")
    leaking = runner.invoke(app, ["report", str(twin)])
    assert leaking.exit_code == 1
    assert "Train/WithMask/0.png = Test/WithMask/same.png" in leaking.output


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, twin, capfd):
    assert run(["data", "report", str(tmp_path / "absent")]) == 2
    complaint = capfd.readouterr().err
    assert "no folder" in complaint
    assert complaint.count("\n") == 1
    with pytest.raises(InputError, match="there is no folder"):
        CliRunner().invoke(
            app,
            ["report", str(twin), "--json", str(tmp_path / "no" / "r.json")],
            catch_exceptions=False,
        )


@pytest.mark.shared
def test_the_real_scenes(shared_data):
    found = report(read_dataset(shared_data / "face-mask-detection"))
    assert found["splits"][""]["classes"] == {
        "with_mask": 1954,
        "without_mask": 366,
        "incorrect": 66,
    }
    assert found["duplicates"]["identical"] == 2
    assert found["broken"] == []
