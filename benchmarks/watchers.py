"""WebRTC viewers that count frames and decode none: `python -m benchmarks.watchers URL N SECONDS`.

Says `ready` once every viewer has its first frame, then counts for SECONDS and prints a JSON list
of frames per viewer. Decoding many streams would need more machine than serving them.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
import threading
from typing import Any

import aiortc.rtcrtpreceiver
import httpx
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription

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


async def view(url: str, client: httpx.AsyncClient) -> RTCPeerConnection:
    """One connected viewer of an H.264 stream."""
    peer = RTCPeerConnection()
    video = peer.addTransceiver("video", direction="recvonly")
    known = RTCRtpReceiver.getCapabilities("video").codecs
    video.setCodecPreferences([codec for codec in known if codec.mimeType == "video/H264"])
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


async def main(url: str, viewers: int, seconds: float) -> None:
    """Connect, count, say, leave."""
    counter = Counter()
    aiortc.rtcrtpreceiver.decoder_worker = counter
    async with httpx.AsyncClient() as client:
        peers = [await view(url, client) for _ in range(viewers)]
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
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
