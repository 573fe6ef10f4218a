"""One camera to many viewers as aiortc's `webcam` example does it: a player, a `MediaRelay`, and
an encoder for each viewer.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections import deque

import av
import uvicorn
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer, MediaRelay
from fastapi import FastAPI, Request, Response


class Watch:
    """How late frames are: against the fastest one so far, by the camera's own clock (s)."""

    def __init__(self) -> None:
        self._apart = math.inf

    def late(self, media: float) -> float:
        """Of a frame with this media time that is here now."""
        apart = time.monotonic() - media
        self._apart = min(self._apart, apart)
        return apart - self._apart


class TimedTrack(MediaStreamTrack):
    """A viewer's track, and how late its last frames came to the encoder."""

    kind = "video"

    def __init__(self, track: MediaStreamTrack, watch: Watch) -> None:
        super().__init__()
        self.late: deque[float] = deque(maxlen=30)
        self._track, self._watch = track, watch

    async def recv(self) -> av.VideoFrame:
        """The next frame."""
        frame = await self._track.recv()
        assert isinstance(frame, av.VideoFrame)
        assert frame.time is not None
        self.late.append(self._watch.late(frame.time))
        return frame


async def serve(url: str, port: int, codec: str) -> None:
    """Serve until killed."""
    player = MediaPlayer(url, options={"rtsp_transport": "tcp"})
    assert player.video is not None
    camera, relay, watch = player.video, MediaRelay(), Watch()
    known = RTCRtpReceiver.getCapabilities("video")
    assert known is not None
    codecs = [k for k in known.codecs if k.mimeType == f"video/{codec}"]
    peers: set[RTCPeerConnection] = set()
    tracks: list[TimedTrack] = []
    app = FastAPI()

    @app.get("/late")
    def late() -> float:
        """Seconds, of the latest viewer: the mean of its last 30 frames."""
        return max((sum(t.late) / len(t.late) for t in tracks if t.late), default=0.0)

    @app.post("/whep/camera")
    async def view(request: Request) -> Response:
        peer = RTCPeerConnection()
        peers.add(peer)
        track = TimedTrack(relay.subscribe(camera), watch)
        tracks.append(track)
        sender = peer.addTrack(track)
        transceiver = next(t for t in peer.getTransceivers() if t.sender is sender)
        transceiver.setCodecPreferences(codecs)
        offer = RTCSessionDescription((await request.body()).decode(), "offer")
        await peer.setRemoteDescription(offer)
        await peer.setLocalDescription(await peer.createAnswer())
        return Response(peer.localDescription.sdp, 201)

    await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning")).serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--codec", choices=("VP8", "H264"), required=True)
    given = parser.parse_args()
    asyncio.run(serve(given.url, given.port, given.codec))
