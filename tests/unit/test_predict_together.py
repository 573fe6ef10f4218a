"""Several pictures share a run of the network, and each gets its own answers."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stream_server.errors import Overloaded
from stream_server.frames import FaceBox, Picture, Pixels, Verdict
from stream_server.predict.together import FULL, Rows, Together


class Parts:
    """As many faces in a picture as its brightness says; each crop says which picture it is of."""

    labels = ("with_mask", "without_mask", "incorrect")
    uncertain_below = 0.6

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.workers = pool
        self.runs: list[int] = []
        self.failing = False

    def detect(self, picture: Picture) -> list[FaceBox]:
        count = int(picture.y[0, 0])
        if count > 100:
            raise ValueError("not a picture this can look at")
        time.sleep(0.01)
        return [FaceBox(n, 0, n + 1, 1, 0.9) for n in range(count)]

    def crop(self, picture: Picture, boxes: Sequence[FaceBox]) -> list[Pixels]:
        return [np.full((1, 1, 3), picture.y[0, 1], np.uint8) for _ in boxes]

    async def classify(self, faces: Sequence[Pixels]) -> Rows:
        await asyncio.sleep(0.01)
        if self.failing:
            raise Overloaded("too much")
        self.runs.append(len(faces))
        return np.array([np.eye(3)[int(face[0, 0, 0])] for face in faces], np.float32)


@pytest.fixture
def parts() -> Iterator[Parts]:
    with ThreadPoolExecutor(4) as pool:
        yield Parts(pool)


def picture(faces: int, label: int) -> Picture:
    i420 = np.zeros((3, 2), np.uint8)
    i420[0] = (faces, label)
    return Picture(i420)


async def test_pictures_share_a_run_and_get_their_own_answers(parts: Parts) -> None:
    together = Together(parts)
    asked = [(2, 0), (0, 1), (1, 2), (3, 1)]
    found = await asyncio.gather(*(together.analyse(picture(*each)) for each in asked))
    assert [[face.verdict for face in faces] for faces in found] == [
        [Verdict(parts.labels[label])] * count for count, label in asked
    ]
    assert parts.runs == [6]


async def test_a_picture_alone_does_not_wait(parts: Parts) -> None:
    assert len(await Together(parts).analyse(picture(1, 0))) == 1
    assert await Together(parts).analyse(picture(0, 0)) == ()
    assert parts.runs == [1]


async def test_a_full_batch_does_not_wait_for_more(parts: Parts) -> None:
    together = Together(parts)
    jobs = [together.analyse(picture(FULL // 2, 0)) for _ in range(12)]
    assert [len(faces) for faces in await asyncio.gather(*jobs)] == [FULL // 2] * 12
    assert len(parts.runs) > 1
    assert max(parts.runs) < 12 * FULL // 2


async def test_a_picture_that_fails_holds_up_no_other(parts: Parts) -> None:
    together = Together(parts)
    jobs = [together.analyse(picture(*each)) for each in ((1, 0), (101, 0), (1, 2))]
    found = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 5)
    assert isinstance(found[1], ValueError)
    assert [len(faces) for faces in (found[0], found[2])] == [1, 1]  # type: ignore[arg-type]


async def test_a_failed_run_fails_all_that_shared_it(parts: Parts) -> None:
    together = Together(parts)
    parts.failing = True
    jobs = [together.analyse(picture(1, 0)) for _ in range(3)]
    found = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 5)
    assert all(isinstance(error, Overloaded) for error in found)
    parts.failing = False
    assert len(await together.analyse(picture(1, 0))) == 1


async def test_one_that_is_cancelled_holds_up_no_other(parts: Parts) -> None:
    together = Together(parts)
    jobs = [asyncio.ensure_future(together.analyse(picture(1, n))) for n in range(3)]
    await asyncio.sleep(0.001)
    jobs[1].cancel()
    found = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 5)
    assert isinstance(found[1], asyncio.CancelledError)
    assert [len(faces) for faces in (found[0], found[2])] == [1, 1]  # type: ignore[arg-type]
