"""FastRTC: `Stream(modality="video", mode="send-receive")`, mounted in FastAPI as its docs do.

`--skip` wraps the handler in its `VideoStreamHandler(skip_frames=True)`, which the docs name for
handlers that are slower than the camera. The page is the benchmarks' own; it speaks FastRTC's
signalling and sets the input once it is connected, as the pages of FastRTC's demos do.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastrtc import Stream, VideoStreamHandler

from benchmarks.peers import web
from stream_server.frames import Pixels


def main() -> None:
    """Serve until killed."""
    parser = web.options(__doc__)
    parser.add_argument("--skip", action="store_true")
    given = parser.parse_args()
    model = web.model(given)

    # FastRTC sets attributes on its handler: a method would not do.
    def annotate(bgr: Pixels) -> Pixels:
        return model.annotate(bgr)

    handler = VideoStreamHandler(annotate, skip_frames=True) if given.skip else annotate
    stream = Stream(handler=handler, modality="video", mode="send-receive")
    app = FastAPI()
    stream.mount(app)

    @app.post("/input_hook")
    def set_input(webrtc_id: str) -> None:
        # The frame takes the place of the first argument.
        stream.set_input(webrtc_id, None)

    web.serve(app, given.port, "/webrtc/offer", "/input_hook")


if __name__ == "__main__":
    main()
