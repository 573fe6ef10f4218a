"""Detections against labelled faces, by hand and on one scene of a real face."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from models.errors import InputError
from models.registry import resolve
from stream_server.classify.openvino import OpenVinoClassifier
from stream_server.detect.centerface import CenterFaceDetector
from stream_server.frames import FaceBox
from trainer.data import INCORRECT, WITH_MASK, WITHOUT_MASK, DataSet, LabelledFace
from trainer.detection import (
    NOBODY,
    by_detector,
    detection_figures,
    end_to_end_macro_f1,
    found_faces,
    match,
    scene,
)
from trainer.judge import Judged, Question

PLACE = Path("scene.png")
FACE = (180.0, 70.0, 270.0, 180.0)
"""The astronaut's."""


def box(x, y, width, score=0.9):
    return FaceBox(x, y, x + width, y + width, score)


def face(x, y, width, label=WITH_MASK):
    return LabelledFace(PLACE, label, (x, y, x + width, y + width))


def question(classes=(0, 1, 2), min_size=16.0, faces=(), layout="voc"):
    data = DataSet(PLACE.parent, layout, {"": tuple(faces)}, (0, 1, 2), ())
    return Question(data, "all", tuple(faces), classes, min_size)


def judged(faces, found, answers):
    return scene(Judged(tuple(faces), tuple(found), np.eye(3, dtype=np.float32)[answers]))


# --- who has found whom ---------------------------------------------------------------------------


def test_the_best_score_chooses_first_and_each_face_is_found_once():
    faces = [(0, 0, 10, 10), (100, 0, 110, 10)]
    found = [box(1, 0, 10, 0.5), box(0, 0, 10, 0.9), box(100, 1, 10, 0.6), box(50, 50, 10, 0.99)]
    assert match(faces, found).tolist() == [NOBODY, 0, 1, NOBODY]


def test_a_detection_takes_the_next_face_when_the_best_is_taken():
    # Both overlap the first face most; the second face overlaps the later detection enough.
    faces = [(0, 0, 10, 10), (4, 0, 14, 10)]
    found = [box(0, 0, 10, 0.9), box(1, 0, 10, 0.8)]
    assert match(faces, found).tolist() == [0, 1]


@pytest.mark.parametrize(("shift", "hit"), [(4.2, True), (4.4, False)])
def test_the_overlap_has_to_be_four_tenths(shift, hit):
    # (10 - s) / (10 + s) is 0.408 and 0.389.
    assert (match([(0, 0, 10, 10)], [box(shift, 0, 10)])[0] == 0) == hit


def test_nobody_is_found_where_nobody_is():
    assert match([], [box(0, 0, 10)]).tolist() == [NOBODY]
    assert match([(0, 0, 10, 10)], []).tolist() == []


# --- recall and precision -------------------------------------------------------------------------


def test_recall_counts_faces_of_a_size_and_precision_detections():
    scenes = [
        judged(
            [face(0, 0, 15), face(50, 0, 20), face(100, 0, 30), face(150, 0, 50)],
            [box(0, 0, 15), box(100, 0, 30), box(150, 0, 50), box(300, 0, 20), box(400, 0, 9)],
            [0] * 5,
        )
    ]
    figures = detection_figures(scenes, question())
    # Of 16 px and wider: 20 (missed), 30, 50; detections: 30, 50 and one of nothing.
    assert figures == pytest.approx(
        {"recall_16": 2 / 3, "recall_24": 1.0, "recall_40": 1.0, "precision": 2 / 3}
    )
    assert detection_figures(scenes, question(min_size=0))["precision"] == pytest.approx(3 / 5)
    assert detection_figures(scenes, question(min_size=45))["recall_24"] == 1.0


def test_what_no_face_can_tell_is_none():
    empty = {"recall_16": None, "recall_24": None, "recall_40": None, "precision": None}
    assert detection_figures([judged([], [], [])], question()) == empty
    assert end_to_end_macro_f1([judged([], [], [])], question()) is None
    assert end_to_end_macro_f1([], question()) is None


def test_recall_leaves_out_an_excluded_class_and_precision_does_not_blame_its_finder():
    scenes = [judged([face(0, 0, 30, INCORRECT), face(90, 0, 30)], [box(0, 0, 30)], [2])]
    figures = detection_figures(scenes, question(classes=(0, 1)))
    assert figures["recall_16"] == 0.0
    assert figures["precision"] == 1.0


# --- the whole way --------------------------------------------------------------------------------


def test_end_to_end_f1_by_hand():
    scenes = [
        judged(
            # Found and right, missed, found and wrong.
            [face(0, 0, 30), face(50, 0, 30), face(100, 0, 30, WITHOUT_MASK)],
            # The last one is a false alarm for without_mask.
            [box(0, 0, 30), box(100, 0, 30), box(300, 0, 30)],
            [WITH_MASK, WITH_MASK, WITHOUT_MASK],
        ),
        judged([face(0, 0, 30, WITHOUT_MASK)], [box(0, 0, 30)], [WITHOUT_MASK]),
    ]
    # with_mask: 1 right, 1 missed, 1 false: 2 / 4. without_mask: 1 right, 1 missed, 1 false: 2 / 4.
    assert end_to_end_macro_f1(scenes, question()) == pytest.approx(0.5)
    # Without the picture of the last it is 0 of 2 for without_mask.
    assert end_to_end_macro_f1(scenes[:1], question()) == pytest.approx(0.25)


def test_faces_that_are_not_asked_about_count_neither_way():
    small, excluded = face(50, 0, 10), face(100, 0, 30, INCORRECT)
    scenes = [
        judged(
            [face(0, 0, 30), small, excluded],
            [box(1, 0, 30), box(50, 0, 10), box(100, 0, 30), box(300, 0, 12)],
            [WITH_MASK, WITHOUT_MASK, WITH_MASK, WITH_MASK],
        )
    ]
    asked = question(classes=(0, 1))
    assert end_to_end_macro_f1(scenes, asked) == 1.0
    faces, rows = found_faces(scenes, asked, 3)
    # Where the detector has found it, not where the label says.
    assert [found.box for found in faces] == [(1, 0, 31, 30)]
    assert rows.tolist() == [[1, 0, 0]]
    # With 0 px the small one counts, wrongly judged, and so does the false alarm.
    assert end_to_end_macro_f1(scenes, replace(asked, min_size=0)) == pytest.approx(0.5)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=8))
def test_a_perfect_detector_and_classifier_have_all_ones_and_a_blind_one_noughts(labels):
    faces = [face(100 * index, 0, 50, label) for index, label in enumerate(labels)]
    found = [box(100 * index, 0, 50, 0.5 + index / 100) for index in range(len(labels))]
    scenes = [judged(faces, found, labels)]
    assert set(detection_figures(scenes, question()).values()) == {1.0}
    assert end_to_end_macro_f1(scenes, question()) == 1.0
    blind = [judged(faces, [], [])]
    assert detection_figures(blind, question())["recall_16"] == 0.0
    assert detection_figures(blind, question())["precision"] is None
    assert end_to_end_macro_f1(blind, question()) == 0.0


# --- on a picture ---------------------------------------------------------------------------------


def test_the_service_finds_and_judges_the_face_of_a_scene(tmp_path):
    path = tmp_path / "scene.png"
    cv2.imwrite(str(path), np.ascontiguousarray(astronaut()[:, :, ::-1]))
    faces = (
        LabelledFace(path, WITHOUT_MASK, FACE),
        LabelledFace(path, WITH_MASK, (400.0, 400.0, 460.0, 460.0)),
        LabelledFace(path, WITH_MASK, (600.0, 0.0, 700.0, 100.0)),
    )
    weights = resolve()
    seen: list[int] = []
    answer = by_detector(
        question(faces=faces),
        weights.card,
        OpenVinoClassifier(weights, threads=1),
        CenterFaceDetector(threads=1),
        seen.append,
    )
    assert seen == [1]
    assert [found.label for found in answer.faces] == [WITHOUT_MASK]
    assert np.abs(np.subtract(answer.faces[0].box, FACE)).max() < 15
    assert answer.probabilities[0].argmax() == WITHOUT_MASK
    assert "nothing of the picture" in str(answer.broken[0])
    figures = detection_figures(answer.scenes, question())
    assert figures == {"recall_16": 0.5, "recall_24": 0.5, "recall_40": 0.5, "precision": 1.0}
    # without_mask 1, with_mask 0: the badge that is labelled as a face is not found.
    assert end_to_end_macro_f1(answer.scenes, question()) == 0.5


def test_a_face_found_where_the_labels_have_none_is_a_false_alarm(tmp_path):
    for name in ("labelled", "empty"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.ascontiguousarray(astronaut()[:, :, ::-1]))
    faces = (LabelledFace(tmp_path / "labelled.png", WITHOUT_MASK, FACE),)
    asked = replace(question(faces=faces), without=(tmp_path / "empty.png",))
    weights = resolve()
    seen: list[int] = []
    answer = by_detector(
        asked,
        weights.card,
        OpenVinoClassifier(weights, threads=1),
        CenterFaceDetector(threads=1),
        seen.append,
    )
    assert (sum(seen), len(answer.faces)) == (2, 1)
    assert detection_figures(answer.scenes, asked)["precision"] == 0.5
    # One right, one false alarm of the same class.
    assert end_to_end_macro_f1(answer.scenes, asked) == pytest.approx(2 / 3)


def test_pictures_that_are_crops_cannot_be_searched():
    crop = LabelledFace(PLACE, 0, None)
    with pytest.raises(InputError, match="needs scenes with boxes"):
        by_detector(question(faces=[crop], layout="12k"), None, None, None, print)
