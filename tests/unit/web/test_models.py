"""The wire's forms: strict JSON, rounded, closed."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from stream_server.frames import Analysis, FaceBox, Frame, Picture, Verdict
from stream_server.web.models import FaceOut, FrameResult, StreamIn
from tests.fakes.camera import FACE


def analysis() -> Analysis:
    picture = Picture.from_bgr(np.zeros((48, 64, 3), np.uint8))
    return Analysis(Frame("lobby", 12, 100.0, 1_700_000_000.25, None, picture), (FACE,))


def test_a_frames_result() -> None:
    told = json.loads(FrameResult.from_analysis(analysis(), now=100.0421).model_dump_json())
    assert told == {
        "stream": "lobby",
        "frame": 12,
        "time": 1_700_000_000.25,
        "media_time": None,
        "width": 64,
        "height": 48,
        "latency_ms": 42.1,
        "faces": [
            {
                "box": [8.0, 4.0, 32.0, 40.0],
                "label": "with_mask",
                "confidence": 0.9,
                "probabilities": {"with_mask": 0.9, "without_mask": 0.06, "incorrect": 0.04},
                "detection": 0.93,
                "landmarks": [[16.0, 16.0], [32.0, 16.0]],
                "track": None,
            }
        ],
    }


def test_the_clock_is_monotonic_by_default() -> None:
    now = time.monotonic()
    told = FrameResult.from_analysis(replace(analysis(), frame=_captured(now - 1)))
    assert 1000 <= told.latency_ms < 1500


def _captured(at: float) -> Frame:
    return replace(analysis().frame, captured=at)


def test_numbers_are_rounded_and_shares_kept_in_bounds() -> None:
    face = replace(
        FACE,
        box=FaceBox(1 / 3, 2 / 3, 10.0, 10.0, 0.5),
        verdict=Verdict.UNCERTAIN,
        confidence=1.0000001,
        probabilities=(1.0000001, -1e-9, 1 / 7),
    )
    told = json.loads(FaceOut.from_face(face).model_dump_json())
    assert told["box"] == [0.33, 0.67, 9.67, 9.33]
    assert told["confidence"] == 1.0
    assert told["probabilities"] == {"with_mask": 1.0, "without_mask": 0.0, "incorrect": 0.1429}
    assert (told["label"], told["landmarks"]) == ("uncertain", [])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_say_is_refused(wrong: float) -> None:
    with pytest.raises(ValidationError):
        FaceOut.from_face(replace(FACE, box=FaceBox(wrong, 0, 1, 1, 0.5)))
    with pytest.raises(ValidationError):
        FaceOut.from_face(replace(FACE, box=FaceBox(0, 0, 1, 1, wrong)))


def test_what_comes_in_is_closed_and_strict() -> None:
    assert StreamIn(name="a", url="demo:").name == "a"
    for body in ({"name": "a"}, {"name": "a", "url": "demo:", "x": 1}, {"name": 1, "url": "demo:"}):
        with pytest.raises(ValidationError):
            StreamIn.model_validate(body)
