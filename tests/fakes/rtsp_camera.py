"""A real RTSP server as a camera that can freeze, lose its sensor, or speak another codec."""

from __future__ import annotations

import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.peers import free_port

CODECS = {
    "h264": ("libx264", ("-preset", "veryfast", "-bf", "0")),
    "hevc": ("libx265", ("-preset", "ultrafast", "-x265-params", "log-level=none:bframes=0")),
    "mjpeg": ("mjpeg", ("-q:v", "5", "-pix_fmt", "yuvj420p", "-huffman", "default")),
}


@dataclass
class RtspCamera:
    """GStreamer's RTSP server, fed by FFmpeg; it can be killed and comes back on its port.

    `clip` must be encoded in `codec`, with its parameter sets before each key frame: a .ts.
    """

    clip: Path
    auth: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    rtp_port: int = field(default_factory=lambda: free_port(socket.SOCK_DGRAM))
    codec: str = "h264"
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        login = "{}:{}@".format(*self.auth[1:]) if self.auth else ""
        return f"rtsp://{login}127.0.0.1:{self.port}/cam"

    def start(self) -> None:
        """Serve; returns when it listens."""
        script = Path(__file__).parent / "gst_rtsp_server.py"
        command = ["/usr/bin/python3", str(script), str(self.port), str(self.rtp_port), self.codec]
        server = subprocess.Popen([*command, *self.auth], stdout=subprocess.PIPE, text=True)
        self._processes.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", "the RTSP server did not start"
        feed = [
            *("ffmpeg", "-loglevel", "error", "-nostdin", "-re", "-stream_loop", "-1"),
            *("-i", str(self.clip), "-c", "copy"),
            *("-f", "rtp", f"rtp://127.0.0.1:{self.rtp_port}"),
        ]
        self._processes.append(subprocess.Popen(feed, stdout=subprocess.DEVNULL, text=True))

    def kill(self) -> None:
        """End server and feed as a power cut would: without a word to the clients."""
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._processes.clear()

    def freeze(self) -> None:
        """Connections stay open, nothing is sent any more; `kill` still works."""
        self._processes[0].send_signal(signal.SIGSTOP)

    def lose_sensor(self) -> None:
        """No pictures any more, but the server goes on, RTCP and all."""
        self._processes[1].kill()


def encode(clip: Path, target: Path, codec: str) -> Path:
    """The clip at 25 frames/s in another codec, a key frame each second."""
    name, options = CODECS[codec]
    command = [
        *("ffmpeg", "-loglevel", "error", "-nostdin", "-y", "-i", str(clip), "-an", "-r", "25"),
        *("-c:v", name, "-pix_fmt", "yuv420p", "-g", "25", *options, str(target)),
    ]
    subprocess.run(command, check=True, timeout=120)
    return target
