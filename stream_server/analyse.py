"""From a picture to judged faces: detect, crop, classify in the shared batch, decide."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

from models.card import ModelCard
from stream_server.classify.batcher import Batcher
from stream_server.classify.crops import crops
from stream_server.flow.share import DetectionShare
from stream_server.frames import Face, FaceBox, Picture, Pixels, Verdict
from stream_server.ports import FaceDetector
from stream_server.telemetry.metrics import Metrics


def judge(
    box: FaceBox,
    probabilities: npt.NDArray[np.float32],
    labels: Sequence[str],
    uncertain_below: float,
) -> Face:
    """The verdict on one face: its likeliest label, or `uncertain` below the card's threshold."""
    best = int(probabilities.argmax())
    confidence = float(probabilities[best])
    verdict = Verdict(labels[best]) if confidence >= uncertain_below else Verdict.UNCERTAIN
    return Face(box, verdict, confidence, tuple(float(p) for p in probabilities))


class Analyser:
    """Finds and judges faces. One for all streams; safe for concurrent calls.

    `labels` and `uncertain_below` (0..1) are those by which it judges. `workers` are for what takes
    a moment; faces are looked for in `detectors`, `detections` of them at once, so that no stream's
    frame waits for another's detection.
    """

    def __init__(
        self,
        detector: FaceDetector,
        batcher: Batcher,
        card: ModelCard,
        *,
        uncertain_below: float,
        workers: Executor,
        detectors: Executor,
        detections: int,
        metrics: Metrics,
    ) -> None:
        self.labels = card.labels
        self.uncertain_below = uncertain_below
        self.workers = workers
        self.share = DetectionShare(detections)
        self._detectors = detectors
        self._detector = detector
        self._batcher = batcher
        self._card = card
        self._metrics = metrics

    async def analyse(self, picture: Picture) -> tuple[Face, ...]:
        """Judged faces of a single picture, best detection first.

        Raises `Overloaded` if the batcher shed the crops.
        """
        loop = asyncio.get_running_loop()
        boxes, faces = await loop.run_in_executor(self._detectors, self._find, picture)
        if not boxes:
            return ()
        probabilities = await self.classify(faces)
        return tuple(
            judge(box, row, self.labels, self.uncertain_below)
            for box, row in zip(boxes, probabilities, strict=True)
        )

    def _find(self, picture: Picture) -> tuple[list[FaceBox], list[Pixels]]:
        boxes = self.detect(picture)
        return boxes, self.crop(picture, boxes)

    async def search(self, picture: Picture, scale: float, *, stream: str) -> list[FaceBox]:
        """Faces of a picture of this stream, best first, as soon as a thread is free for it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._detectors, self._detect_for, stream, picture, scale)

    def _detect_for(self, stream: str, picture: Picture, scale: float) -> list[FaceBox]:
        started = time.monotonic()
        boxes = self.detect(picture, scale)
        now = time.monotonic()
        self.share.took(stream, now - started, now)
        return boxes

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]:
        """Faces of a picture, best first; `scale` below 1 looks at it smaller. Blocking."""
        started = time.perf_counter()
        boxes = self._detector.detect(picture, scale)
        self._metrics.stage_seconds("detect", time.perf_counter() - started)
        return boxes

    def crop(self, picture: Picture, boxes: Sequence[FaceBox]) -> list[Pixels]:
        """What the network sees of each box. Blocking."""
        started = time.perf_counter()
        faces = crops(picture, boxes, self._card.crop_margin, self._card.input_size)
        self._metrics.stage_seconds("crop", time.perf_counter() - started)
        return faces

    async def classify(
        self,
        faces: Sequence[Pixels],
        *,
        stream: str = "",
        urgent: bool = True,
        deadline: float | None = None,
        patience: float = 0.0,
    ) -> npt.NDArray[np.float32]:
        """Probabilities (n, labels) of crops; `deadline` is in monotonic seconds, for `patience`
        seconds they may wait for company.

        Raises `Overloaded` if the batcher shed them.
        """
        stage, started = "recheck" if patience else "classify", time.perf_counter()
        probabilities = await self._batcher.classify(
            faces, stream=stream, urgent=urgent, deadline=deadline, patience=patience
        )
        self._metrics.stage_seconds(stage, time.perf_counter() - started)
        return probabilities
