"""The faces of several pictures in one run of the network."""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt

from stream_server.analyse import Analyser, judge
from stream_server.frames import Face, FaceBox, Picture, Pixels

FULL = 32
"""Crops in a batch at which it is not worth waiting for more."""

Rows = npt.NDArray[np.float32]


class Together:
    """Analyses pictures; the crops of all that are under way are classified at once.

    A live stream must not wait for its neighbours; files may. The crops wait until there are
    `FULL` of them, or until no other picture is still being searched for faces.
    """

    def __init__(self, analyser: Analyser) -> None:
        self._analyser = analyser
        self._searched = 0
        self._crops: list[Pixels] = []
        self._waiting: list[tuple[int, asyncio.Future[Rows]]] = []

    async def analyse(self, picture: Picture) -> tuple[Face, ...]:
        """Judged faces of a picture, best detection first."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Rows] = loop.create_future()
        self._searched += 1
        try:
            boxes, crops = await loop.run_in_executor(self._analyser.workers, self._find, picture)
            self._crops += crops
            self._waiting.append((len(crops), answer))
        finally:
            self._searched -= 1
            if not self._searched or len(self._crops) >= FULL:
                await self._classify()
        rows = await answer
        labels, least = self._analyser.labels, self._analyser.uncertain_below
        return tuple(judge(box, row, labels, least) for box, row in zip(boxes, rows, strict=True))

    def _find(self, picture: Picture) -> tuple[list[FaceBox], list[Pixels]]:
        boxes = self._analyser.detect(picture)
        return boxes, self._analyser.crop(picture, boxes)

    async def _classify(self) -> None:
        """Classify what waits and hand out the answers."""
        crops, waiting = self._crops, self._waiting
        self._crops, self._waiting = [], []
        try:
            rows = await self._analyser.classify(crops) if crops else np.empty((0, 0), np.float32)
        except BaseException as error:
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()  # Whoever has gone away need not ask for it.
            raise
        ends = np.cumsum([count for count, _ in waiting])[:-1]
        for (_, answer), part in zip(waiting, np.split(rows, ends), strict=True):
            if not answer.done():
                answer.set_result(part)
