"""Roboflow `inference`: its `InferencePipeline` with custom logic over all cameras at once.

Buffers are as its docs advise for live streams, which is what it chooses for itself there
(filling: ADAPTIVE_DROP_OLDEST, consumption: EAGER), with the batch time-out that they ask for in
production; a verdict is there when the sink is called. Its grabbing threads count all frames, and
at the camera's fixed rate that count is the camera's clock. Where the RTSP server drops frames
because they are not fetched in time, arrival-to-verdict comes out too long: the fair figure then
is decoded-to-verdict, which begins with the frame's own time stamp, taken when it was grabbed.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import datetime
from pathlib import Path

# Read when `inference` is imported.
os.environ.setdefault("TELEMETRY_OPT_OUT", "True")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")

from inference import InferencePipeline
from inference.core.interfaces.camera.entities import VideoFrame
from inference.core.interfaces.stream.inference_pipeline import SinkMode

from benchmarks.peers.judgements import Log
from benchmarks.peers.model import FaceModel, Judged

RATE = 30
BATCH_TIMEOUT_SECONDS = 0.1


def main() -> None:
    """One pipeline of all cameras until the figures are taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm-up", type=float, required=True)
    given = parser.parse_args()
    model, log = FaceModel(given.cache), Log(len(given.urls))

    def judge(frames: list[VideoFrame]) -> list[dict[str, list[Judged]]]:
        return [{"faces": model.judge(frame.image)} for frame in frames]

    def sink(verdicts: dict[str, list[Judged]] | None, frame: VideoFrame | None) -> None:
        if verdicts is None or frame is None:
            return
        age = (datetime.now(frame.frame_timestamp.tzinfo) - frame.frame_timestamp).total_seconds()
        log.note(frame.source_id or 0, frame.frame_id / RATE, time.monotonic() - age)

    pipeline = InferencePipeline.init_with_custom_logic(
        video_reference=given.urls,
        on_video_frame=judge,
        on_prediction=sink,
        batch_collection_timeout=BATCH_TIMEOUT_SECONDS,
        sink_mode=SinkMode.SEQUENTIAL,
    )
    pipeline.start(use_main_thread=False)
    log.run(given.warm_up, given.seconds)
    # Its threads may hang in a camera's last read.
    os._exit(0)


if __name__ == "__main__":
    main()
