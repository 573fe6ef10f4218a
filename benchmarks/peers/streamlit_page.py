"""streamlit-webrtc: `video_frame_callback` with its default, asynchronous processing.

A script for `streamlit run`; the page that Chromium opens is streamlit's own, and starts by
itself. Without a STUN server, since browser and service are on one machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import streamlit
from streamlit_webrtc import webrtc_streamer

from benchmarks.peers.model import FaceModel

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--cache", type=Path, required=True)
parser.add_argument("--slow", type=float, default=1.0)
given = parser.parse_args()


@streamlit.cache_resource  # type: ignore[untyped-decorator]
def model() -> FaceModel:
    """One for all runs of the script."""
    return FaceModel(given.cache, given.slow)


annotate = model().annotate


def callback(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame with its faces boxed."""
    drawn = annotate(frame.to_ndarray(format="bgr24"))
    return av.VideoFrame.from_ndarray(drawn, format="bgr24")


webrtc_streamer(
    key="camera",
    video_frame_callback=callback,
    desired_playing_state=True,
    rtc_configuration={"iceServers": []},
    media_stream_constraints={
        "video": {"width": 640, "height": 480, "frameRate": 30},
        "audio": False,
    },
)
