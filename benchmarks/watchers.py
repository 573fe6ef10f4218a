"""WebRTC viewers that count frames and decode none.

    python -m benchmarks.watchers URL N SECONDS [H264|VP8]

Says `ready` once every viewer has its first frame, then counts for SECONDS and prints a JSON list
of frames per viewer. Decoding many streams would need more machine than serving them.
"""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiortc.rtcrtpreceiver
import httpx
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription

from benchmarks.errors import MeasureError

CONNECT_SECONDS = 60.0


class Counter:
    """Stands in for aiortc's decoding thread; pinned with aiortc's version."""

    def __init__(self) -> None:
        self.frames: list[list[int]] = []

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        input_q: queue.Queue[Any],
        output_q: asyncio.Queue[Any],
        decode_error: threading.Event,
    ) -> None:
        count = [0]
        self.frames.append(count)
        while input_q.get() is not None:
            count[0] += 1
        asyncio.run_coroutine_threadsafe(output_q.put(None), loop)


@contextmanager
def watching(
    url: str, viewers: int, seconds: float, codec: str = "H264"
) -> Iterator[Callable[[], list[int]]]:
    """So many viewers in a process of their own, all of which have a picture when this begins.

    Gives what waits until they have counted for `seconds` and tells the frames of each. Raises
    MeasureError if not all get a picture.
    """
    words = [sys.executable, "-m", "benchmarks.watchers", url, str(viewers), str(seconds), codec]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        output = child.stdout
        try:
            if output.readline() != "ready\n":
                raise MeasureError("the viewers did not all get a picture")
            yield lambda: list(json.loads(output.readline()))
        finally:
            child.kill()


async def view(url: str, client: httpx.AsyncClient, codec: str) -> RTCPeerConnection:
    """One connected viewer of a stream in this codec."""
    peer = RTCPeerConnection()
    video = peer.addTransceiver("video", direction="recvonly")
    known = RTCRtpReceiver.getCapabilities("video")
    assert known is not None
    video.setCodecPreferences([k for k in known.codecs if k.mimeType == f"video/{codec}"])
    await peer.setLocalDescription(await peer.createOffer())
    answer = await client.post(
        url,
        content=peer.localDescription.sdp,
        headers={"content-type": "application/sdp"},
        timeout=30,
    )
    answer.raise_for_status()
    await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
    return peer


async def main(url: str, viewers: int, seconds: float, codec: str = "H264") -> None:
    """Connect, count, say, leave."""
    counter = Counter()
    aiortc.rtcrtpreceiver.decoder_worker = counter
    async with httpx.AsyncClient() as client:
        peers = [await view(url, client, codec) for _ in range(viewers)]
    async with asyncio.timeout(CONNECT_SECONDS):
        while len(counter.frames) < viewers or not all(c[0] for c in counter.frames):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    print("ready", flush=True)
    before = [count[0] for count in counter.frames]
    await asyncio.sleep(seconds)
    after = [count[0] for count in counter.frames]
    print(json.dumps([b - a for a, b in zip(before, after, strict=True)]), flush=True)
    await asyncio.gather(*(peer.close() for peer in peers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]))
