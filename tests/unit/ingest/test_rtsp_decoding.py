"""Decoding less of a real camera: every picture stays whole through each change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stream_server.frames import AnyPicture
from stream_server.ingest.decode import UNWATCHED, Decoding, Extent
from stream_server.ingest.rtsp import RtspSource
from tests.fakes.clips import counter, make_clip, read_counter
from tests.fakes.collect import Collector, Run, Shown, until
from tests.fakes.rtsp_camera import RtspCamera

# The feed stutters where the clip begins again: no test lasts so long.
FRAMES, GROUP = 250, 10
B_FRAMES = {"preset": "ultrafast", "bf": "2", "b_strategy": "0", "b-pyramid": "none"}


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[RtspCamera]:
    """25 frames/s with B-frames, a key frame every ten; each picture shows its number."""
    path = make_clip(tmp_path / "clip.ts", frames=FRAMES, paint=counter, options=B_FRAMES)
    camera = RtspCamera(path)
    try:
        camera.start()
        yield camera
    finally:
        camera.kill()


def shown(sink: Collector, since: int = 0) -> list[int]:
    """The numbers of the pictures; fails where one is not black and white bars."""
    return [_whole(one) for one in sink.shown[since:]]


def _whole(one: Shown) -> int:
    luma = one.picture.y
    number = read_counter(luma)
    # What is decoded without its references is grey, or shows parts of other pictures.
    wanted = counter(luma.shape[1], luma.shape[0], number)[..., 0].astype(int) * 219 // 255 + 16
    inner = np.abs(luma.astype(int) - wanted)[:, 4:-4]
    assert np.quantile(inner, 0.9) < 16, f"picture {number} is spoilt"
    return number


def following(numbers: list[int]) -> list[int]:
    """The steps from picture to picture."""
    return [later - earlier for earlier, later in pairwise(numbers)]


@pytest.mark.parametrize(
    ("extent", "steps"), [("reference", {1, 2, 3}), ("key", {GROUP}), ("all", {1})]
)
async def test_watched_and_not_in_turns(
    camera: RtspCamera, extent: Extent, steps: set[int]
) -> None:
    sink, watching = Collector(), False
    decoding = Decoding(extent, lambda: watching)
    source = RtspSource(camera.url, transport="tcp", decoding=decoding, on_drop=sink.count_drop)
    async with Run(source, sink) as run:
        await run.pictures(6)
        assert (sink.drops.get(UNWATCHED, 0) > 0) == (extent != "all")
        alone = len(sink.shown)
        watching = True
        await run.pictures(alone + 40)
        dropped = sink.drops.get(UNWATCHED, 0)
        await asyncio.sleep(0.5)
        assert sink.drops.get(UNWATCHED, 0) == dropped
        watched = len(sink.shown)
        watching = False
        wanted = max(steps)
        await until(lambda: wanted in following(shown(sink, watched)), 6, f"a step of {wanted}")
    assert set(following(shown(sink)[1:alone])) <= steps
    assert set(following(shown(sink, alone)[GROUP : watched - alone])) == {1}
    assert set(following(shown(sink, watched))) <= {1, *steps}


async def test_what_lay_in_the_socket_counts_as_arrived_when_it_did(camera: RtspCamera) -> None:
    late: list[float] = []

    def sink(picture: AnyPicture, *, captured: float, media_time: float | None = None) -> None:
        late.append(time.monotonic() - captured)
        if len(late) == 60:
            time.sleep(0.8)

    source = RtspSource(camera.url, transport="tcp")
    running = asyncio.create_task(source.run(sink))
    try:
        await until(lambda: len(late) > 100, 15, "the pictures after the stop")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert late[64] > 0.3
    # With B-frames a picture is given out after those that are shown later.
    assert np.median(late[30:60]) < 0.2
    assert np.median(late[90:]) < 0.2
