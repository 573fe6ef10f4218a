"""The plots hold the figures they were given, and are PNG files."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from models import LABELS as NAMES
from models.errors import InputError
from models.registry import resolve
from trainer import plots
from trainer.data import LabelledFace
from trainer.evaluate import calibration_error, softmax
from trainer.judge import Answer

LABELS = np.repeat([0, 1, 2], 40)
ROWS = softmax(np.random.default_rng(0).normal(0, 1, (120, 3)) + 1.5 * np.eye(3)[LABELS])


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved; they are still written."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **options):
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def line(axes, index=0):
    return np.array(axes.get_lines()[index].get_xydata())


def test_the_confusion_matrix_says_counts_and_shares(drawn, tmp_path):
    rows = np.eye(2)[[0, 0, 0, 1, 1]]
    plots.confusion_matrix(rows, np.array([0, 0, 0, 0, 1]), NAMES[:2], tmp_path / "c.png")
    said = [text.get_text() for text in drawn[0].axes[0].texts]
    assert said == ["3\n75.0%", "1\n25.0%", "0\n0.0%", "1\n100.0%"]
    assert [tick.get_text() for tick in drawn[0].axes[0].get_yticklabels()] == [
        "with mask",
        "without mask",
    ]


def test_the_roc_names_each_class_with_its_area_and_leaves_out_one_that_is_not_there(
    drawn, tmp_path
):
    plots.roc(np.eye(3)[[0, 0, 1]], np.array([0, 0, 1]), NAMES, tmp_path / "r.png")
    said = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert said == ["with mask: area 1.0000", "without mask: area 1.0000"]
    assert line(drawn[0].axes[0])[:, 1].max() == 1.0


def test_reliability_is_accuracy_by_confidence(drawn, tmp_path):
    rows = np.array([[0.9, 0.1], [0.9, 0.1], [0.62, 0.38]])
    plots.reliability(rows, np.array([0, 1, 0]), tmp_path / "r.png")
    upper, lower = drawn[0].axes
    measured = next(np.array(c.lines[0].get_xydata()) for c in upper.containers)
    assert measured == pytest.approx(np.array([[0.62, 1.0], [0.9, 0.5]]))
    assert sum(bar.get_height() for bar in lower.patches) == 3
    plots.reliability(ROWS, LABELS, tmp_path / "r.png")
    assert f"{calibration_error(ROWS, LABELS):.4f}" in drawn[1].axes[0].get_title()


def test_the_risk_curve_ends_with_all_faces_and_marks_the_threshold(drawn, tmp_path):
    plots.risk_coverage(ROWS, LABELS, 0.7, tmp_path / "r.png")
    curve, point = line(drawn[0].axes[0]), line(drawn[0].axes[0], 1)
    wrong = ROWS.argmax(axis=1) != LABELS
    sure = ROWS.max(axis=1) >= 0.7
    assert curve[-1] == pytest.approx([1.0, wrong.mean()])
    assert point[0] == pytest.approx([sure.mean(), wrong[sure].mean()])
    assert curve[sure.sum() - 1] == pytest.approx(point[0])
    assert (np.diff(curve[:, 0]) > 0).all()


def test_faces_of_equal_confidence_are_answered_together(drawn, tmp_path):
    plots.risk_coverage(np.eye(2)[[0, 0, 1]], np.array([0, 1, 1]), 1.0, tmp_path / "r.png")
    assert line(drawn[0].axes[0]).tolist() == [[1.0, pytest.approx(1 / 3)]]


def test_where_no_face_is_covered_no_point_is_marked(drawn, tmp_path):
    plots.risk_coverage(ROWS, LABELS, 1.01, tmp_path / "r.png")
    assert len(drawn[0].axes[0].get_lines()) == 1


def test_the_axes_begin_where_there_is_something_to_see(drawn, tmp_path):
    rows = np.full((200, 2), 0.05)
    rows[:, 0] = 0.95
    labels = np.zeros(200, int)
    # The least sure of all, a mistake.
    rows[0], labels[0] = (0.6, 0.4), 1
    plots.risk_coverage(rows, labels, 0.5, tmp_path / "r.png")
    left, right = drawn[0].axes[0].get_xlim()
    assert 0.9 < left < 0.995
    assert 1 < right < 1.01
    plots.roc(rows, labels, NAMES[:2], tmp_path / "r.png")
    assert drawn[1].axes[0].get_ylim()[0] > 0.9
    plots.risk_coverage(ROWS, LABELS, 0.99, tmp_path / "r.png")
    assert drawn[2].axes[0].get_xlim()[0] == 0


def answer_of(folder, count):
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((20, 20, 3), 8 * index, np.uint8))
    faces = tuple(LabelledFace(path, 0, None) for path in paths)
    return Answer(faces, np.empty((count, 3), np.float32), ())


def test_the_surest_mistakes_come_first(tmp_path):
    card = resolve().card
    rows = np.array([[0.2, 0.8], [0.9, 0.1], [0.05, 0.95], [0.4, 0.6]])
    found = plots.mistakes(answer_of(tmp_path, 4), rows, np.zeros(4, int), NAMES[:2], card)
    assert [(each.name, each.confidence) for each in found] == [
        ("2.png", 0.95),
        ("0.png", 0.8),
        ("3.png", 0.6),
    ]
    assert {(each.truth, each.answer) for each in found} == {("with_mask", "without_mask")}
    assert found[0].crop.shape == (160, 160, 3)
    assert (found[0].crop == 16).all()


def test_a_sheet_is_no_longer_than_a_page(drawn, tmp_path):
    rows = np.tile([0.1, 0.9], (30, 1))
    card = resolve().card
    found = plots.mistakes(answer_of(tmp_path, 30), rows, np.zeros(30, int), NAMES[:2], card)
    plots.worst_errors(found, tmp_path / "w.png")
    assert len([axes for axes in drawn[0].axes if axes.images]) == 24
    title = drawn[0].axes[0].get_title()
    assert title.split("\n")[:2] == ["with mask", "judged without mask 90%"]


def test_a_faultless_model_has_a_sheet_that_says_so(drawn, tmp_path):
    plots.worst_errors([], tmp_path / "w.png")
    assert drawn[0].get_suptitle() == "No mistakes"


def test_a_long_file_name_is_cut(drawn, tmp_path):
    crop = np.zeros((8, 8, 3), np.uint8)
    short = plots.Mistake(crop, "incorrect", "with_mask", 0.7, "a.png")
    long = replace(short, name="x" * 40 + ".png")
    plots.worst_errors([short, long], tmp_path / "w.png")
    said = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert said == ["a.png", "…" + "x" * 21 + ".png"]


# --- curves of a training -------------------------------------------------------------------------

LOG = """epoch,step,lr,train_loss,val_acc,val_loss
0,4,0.1,0.9,,
0,9,0.1,0.7,,
0,9,,,0.5,1.0
1,19,,0.6,,
1,19,,,0.75,0.8
"""


def test_curves_are_means_by_epoch(drawn, tmp_path):
    source = tmp_path / "metrics.csv"
    source.write_text(LOG)
    plots.curves(source, tmp_path / "curves.png")
    loss, share = drawn[0].axes
    said = [text.get_text() for text in loss.get_legend().get_texts()]
    assert said == ["train loss", "val loss"]
    assert line(loss) == pytest.approx(np.array([[0, 0.8], [1, 0.6]]))
    assert line(loss, 1).tolist() == [[0, 1.0], [1, 0.8]]
    assert line(share).tolist() == [[0, 0.5], [1, 0.75]]
    assert len(share.get_lines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("", "no loss"),
        ("epoch,lr\n0,0.1\n", "no loss"),
        ("epoch,train_loss\n0,much\n", "could not convert"),
        ("\udcff", "cannot read"),
    ],
)
def test_what_is_no_log_of_a_training_is_named(tmp_path, text, said):
    source = tmp_path / "metrics.csv"
    if text is not None:
        source.write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=said) as caught:
        plots.curves(source, tmp_path / "curves.png")
    assert str(source) in str(caught.value)


# --- all of them ----------------------------------------------------------------------------------


def test_all_are_png_files_of_a_useful_size(tmp_path):
    (tmp_path / "metrics.csv").write_text(LOG)
    plots.confusion_matrix(ROWS, LABELS, NAMES, tmp_path / "confusion.png")
    plots.roc(ROWS, LABELS, NAMES, tmp_path / "roc.png")
    plots.reliability(ROWS, LABELS, tmp_path / "reliability.png")
    plots.risk_coverage(ROWS, LABELS, 0.6, tmp_path / "risk_coverage.png")
    plots.worst_errors([], tmp_path / "worst_errors.png")
    plots.curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    written = sorted(tmp_path.glob("*.png"))
    assert len(written) == 6
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert min(cv2.imread(str(path)).shape[:2]) >= 400
