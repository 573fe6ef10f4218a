"""aiortc's `server` example: a track whose `recv` takes a frame, works on it, gives it back.

As there, the model runs inside `recv` and so on the event loop, behind a `MediaRelay` in its
default setting. The example serves by aiohttp; here FastAPI answers the one POST of the offer.
"""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaRelay
from fastapi import FastAPI, Request

from benchmarks.peers import web
from benchmarks.peers.model import FaceModel


class VideoTransformTrack(MediaStreamTrack):
    """The example's track with the model in the place of its cartoon."""

    kind = "video"

    def __init__(self, track: MediaStreamTrack, model: FaceModel) -> None:
        super().__init__()
        self.track = track
        self._model = model

    async def recv(self) -> av.VideoFrame:
        """The next frame, annotated."""
        frame = await self.track.recv()
        assert isinstance(frame, av.VideoFrame)
        bgr = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
        drawn = self._model.annotate(bgr)
        new = av.VideoFrame.from_ndarray(drawn, format="bgr24")
        new.pts = frame.pts
        new.time_base = frame.time_base
        return new


def main() -> None:
    """Serve until killed."""
    given = web.options(__doc__).parse_args()
    model, relay = web.model(given), MediaRelay()
    peers: set[RTCPeerConnection] = set()
    app = FastAPI()

    @app.post("/offer")
    async def offer(request: Request) -> dict[str, Any]:
        wanted = await request.json()
        peer = RTCPeerConnection()
        peers.add(peer)

        @peer.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            peer.addTrack(VideoTransformTrack(relay.subscribe(track), model))

        await peer.setRemoteDescription(RTCSessionDescription(wanted["sdp"], wanted["type"]))
        await peer.setLocalDescription(await peer.createAnswer())
        return {"sdp": peer.localDescription.sdp, "type": peer.localDescription.type}

    web.serve(app, given.port, "/offer")


if __name__ == "__main__":
    main()
