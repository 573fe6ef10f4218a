"""`maskstream data fetch`, with Kaggle played by a script."""

import importlib.util
from pathlib import Path

import cv2
import kagglehub
import pytest
from kagglehub.exceptions import BackendError
from requests.exceptions import ConnectionError as NoConnection
from typer.testing import CliRunner

from models.errors import InputError
from stream_server.cli import run
from tests.unit.trainer.test_layouts import annotate, write
from trainer.cli.data import app
from trainer.data.fetch import SETS, fetch


class Kaggle:
    """Lays down what Kaggle's archives hold; `fails` is raised after half of it."""

    def __init__(self):
        self.asked = []
        self.fails = None

    def dataset_download(self, handle, *, output_dir):
        self.asked.append(handle)
        folder = Path(output_dir)
        if "12k" in handle:
            for split in ("Train", "Validation", "Test"):
                write(folder / "Face Mask Dataset" / split / "WithMask" / "a.png")
                if self.fails:
                    raise self.fails
                write(folder / "Face Mask Dataset" / split / "WithoutMask" / "b.png")
        else:
            write(folder / "images" / "maksssksksss0.png")
            annotate(folder / "annotations" / "maksssksksss0.xml", ("with_mask", (1, 1, 20, 20)))
        return output_dir


@pytest.fixture
def kaggle(monkeypatch):
    fake = Kaggle()
    monkeypatch.setattr(kagglehub, "dataset_download", fake.dataset_download)
    return fake


def test_both_sets_are_laid_where_training_takes_them(kaggle, tmp_path):
    result = CliRunner().invoke(app, ["fetch", "--into", str(tmp_path / "data")])
    assert result.exit_code == 0
    assert kaggle.asked == [handle for handle, _ in SETS.values()]
    assert (tmp_path / "data/face-mask-12k/Train/WithMask/a.png").is_file()
    assert (tmp_path / "data/face-mask-detection/annotations/maksssksksss0.xml").is_file()
    assert f"maskstream train {tmp_path}/data/face-mask-12k {tmp_path}/data/" in result.output
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(SETS)


def test_what_is_there_is_kept(kaggle, tmp_path):
    fetch("face-mask-12k", tmp_path)
    mark = tmp_path / "face-mask-12k" / "Train" / "WithMask" / "mine.png"
    cv2.imwrite(str(mark), cv2.imread(str(mark.with_name("a.png"))))
    assert len(fetch("face-mask-12k", tmp_path).splits["Train"]) == 3
    assert len(kaggle.asked) == 1


def test_what_is_in_the_way_is_named_and_kept(kaggle, tmp_path):
    (tmp_path / "face-mask-12k").mkdir()
    (tmp_path / "face-mask-12k" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is in the way"):
        fetch("face-mask-12k", tmp_path)
    assert (tmp_path / "face-mask-12k" / "notes.txt").is_file()
    assert kaggle.asked == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NoConnection("HTTPSConnectionPool(...)\nmore"), "no connection to Kaggle.*HTTPS_PROXY"),
        (BackendError("403 for it\nmore"), "403 for it.*unpack it to .*face-mask-12k"),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing_behind(kaggle, tmp_path, capfd, error, words):
    kaggle.fails = error
    with pytest.raises(InputError, match=words):
        fetch("face-mask-12k", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert run(["data", "fetch", "--into", str(tmp_path)]) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_another_layout_than_expected_is_said(kaggle, tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, "face-mask-12k", ("somebody/12k", "voc"))
    with pytest.raises(InputError, match="has changed its layout"):
        fetch("face-mask-12k", tmp_path)


def test_a_folder_that_cannot_be_written_is_said(kaggle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*--into"):
        fetch("face-mask-12k", tmp_path / "file")


def test_without_the_extra_its_installation_is_named(monkeypatch, tmp_path, capfd):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "kagglehub" else find(name)
    )
    assert run(["data", "fetch", "--into", str(tmp_path)]) == 2
    assert "pip install 'maskstream[train]'" in capfd.readouterr().err
