"""A real RTSP server with a clip, where GStreamer's and FFmpeg are installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.errors import MeasureError

SYSTEM_PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).parent.parent / "tests" / "fakes" / "gst_rtsp_server.py"


def available() -> bool:
    """Debian's gir1.2-gst-rtsp-server-1.0, python3-gi and ffmpeg are there."""
    if not (shutil.which("ffmpeg") and Path(SYSTEM_PYTHON).exists()):
        return False
    code = "import gi; gi.require_version('GstRtspServer', '1.0')"
    asked = subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, check=False)
    return asked.returncode == 0


@contextmanager
def rtsp_camera(clip: Path) -> Iterator[str]:
    """The URL at which `clip`, an H.264 transport stream, is played in a loop at its own speed."""
    port, rtp_port = _free_port(socket.SOCK_STREAM), _free_port(socket.SOCK_DGRAM)
    words = [SYSTEM_PYTHON, str(SCRIPT), str(port), str(rtp_port), "h264"]
    feed = [
        *("ffmpeg", "-loglevel", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", str(clip)),
        *("-c", "copy", "-f", "rtp", f"rtp://127.0.0.1:{rtp_port}"),
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            if server.stdout is None or server.stdout.readline() != "ready\n":
                raise MeasureError("the RTSP server did not start")
            with subprocess.Popen(feed, stdout=subprocess.DEVNULL) as feeder:
                try:
                    yield f"rtsp://127.0.0.1:{port}/cam"
                finally:
                    feeder.kill()
        finally:
            server.kill()


def _free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
