import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models.registry import resolve
from stream_server.analyse import Analyser, judge
from stream_server.classify.batcher import Batcher
from stream_server.frames import FaceBox, Picture, Pixels, Verdict
from stream_server.telemetry.metrics import Metrics

BOX = FaceBox(10.0, 10.0, 40.0, 50.0, 0.9)
CARD = resolve().card
LABELS = CARD.labels


class OneFace:
    """A detector that finds `boxes` in every picture."""

    def __init__(self, *boxes: FaceBox) -> None:
        self.boxes = list(boxes)

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]:
        return self.boxes


class Bright:
    """A classifier: bright faces wear a mask, dark ones do not."""

    labels = LABELS
    input_size = CARD.input_size

    def classify(self, crops: Pixels) -> np.ndarray:
        bright = crops.mean(axis=(1, 2, 3)) > 128
        return np.where(bright[:, None], [[0.9, 0.1, 0.0]], [[0.2, 0.8, 0.0]]).astype(np.float32)


def analyser(batcher: Batcher, metrics: Metrics, pool: ThreadPoolExecutor, *boxes: FaceBox):
    return Analyser(
        OneFace(*boxes),
        batcher,
        CARD,
        uncertain_below=0.6,
        workers=pool,
        detectors=pool,
        detections=1,
        metrics=metrics,
    )


def passes(metrics: Metrics, stage: str) -> float:
    """How often the stage was gone through."""
    name = "maskstream_stage_seconds_count"
    return metrics.registry.get_sample_value(name, {"stage": stage}) or 0.0


async def test_each_face_of_a_picture_is_judged_by_its_own_pixels() -> None:
    bgr = np.zeros((60, 120, 3), np.uint8)
    bgr[:, 60:] = 255
    metrics = Metrics()
    other = FaceBox(75.0, 10.0, 105.0, 50.0, 0.8)
    with ThreadPoolExecutor(1) as pool:
        async with Batcher(Bright()) as batcher:
            one = analyser(batcher, metrics, pool, BOX, other)
            faces = await one.analyse(Picture.from_bgr(bgr))
            none = await analyser(batcher, metrics, pool).analyse(Picture.from_bgr(bgr))
    assert [(face.box, face.verdict) for face in faces] == [
        (BOX, Verdict.WITHOUT_MASK),
        (other, Verdict.WITH_MASK),
    ]
    assert none == ()
    assert passes(metrics, "detect") == 2
    assert passes(metrics, "crop") == 2
    assert passes(metrics, "classify") == 1


async def test_what_no_frame_waits_for_is_a_stage_of_its_own() -> None:
    metrics = Metrics()
    face = np.zeros((CARD.input_size, CARD.input_size, 3), np.uint8)
    with ThreadPoolExecutor(1) as pool:
        async with Batcher(Bright()) as batcher:
            one = analyser(batcher, metrics, pool)
            await asyncio.gather(one.classify([face]), one.classify([face], patience=0.01))
            await one.classify([face], urgent=False, patience=0.01)
    assert passes(metrics, "recheck") == 2
    assert passes(metrics, "classify") == 1


@pytest.mark.parametrize(("sure", "verdict"), [(0.62, "uncertain"), (0.625, "with_mask")])
def test_below_the_threshold_nothing_is_claimed(sure: float, verdict: str) -> None:
    face = judge(BOX, np.array([sure, 1 - sure, 0.0], np.float32), LABELS, 0.625)
    assert face.verdict == Verdict(verdict)
    assert face.confidence == pytest.approx(sure)
