"""CPU time of decoding a 720p camera with B-frames: all frames, reference frames, key frames.

    python -m benchmarks.decode [--clip PATH] [--frames 300] [--rounds 5] [--json OUT]

The clip (or the moving portrait) is encoded by x264 at 30 frames/s with three B-frames and a key
frame every two seconds. CPU time, not wall time, so that other work on the machine counts little;
the least of the rounds. "late" is how many packets after its own a picture comes out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import av

from benchmarks.clips import HEIGHT, RATE, WIDTH, moving_portrait, pictures_of
from stream_server.ingest.decode import Decoding, Extent, PacketDecoder

EXTENTS: tuple[Extent, ...] = ("all", "reference", "key")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    decoded: Extent
    pictures: int
    cpu_seconds: float
    late_mean: float
    late_max: float


def write_clip(target: Path, clip: Path | None, frames: int) -> Path:
    """So many frames of the clip, again from its start where it is shorter."""
    shown = list(islice(moving_portrait() if clip is None else pictures_of(clip), frames))
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = 2 * RATE
        stream.options = {"preset": "veryfast", "crf": "20", "bf": "3"}
        for number in range(frames):
            bgr = shown[number % len(shown)]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bgr, format="bgr24")))
        container.mux(stream.encode())
    return target


def decode(clip: Path, extent: Extent) -> Row:
    """Once through the clip, with nobody watching."""
    late: list[float] = []
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        decoder = PacketDecoder(stream, live=False, decoding=Decoding(extent, lambda: False))
        started = time.process_time()
        for number, packet in enumerate(container.demux(stream)):
            if packet.size:
                shots = decoder.feed(packet, arrived=float(number), lag=0.0)
                late += [number - shot.captured for shot in shots]
        seconds = time.process_time() - started
    return Row(extent, len(late), seconds, sum(late) / len(late), max(late))


def table(rows: Sequence[Row]) -> str:
    """For people."""
    whole = rows[0].cpu_seconds
    lines = [
        "decoded     pictures   CPU s   of all   late: mean   max (packets)",
        *(
            f"{row.decoded:10} {row.pictures:9d} {row.cpu_seconds:7.3f} "
            f"{row.cpu_seconds / whole:8.0%} {row.late_mean:12.1f} {row.late_max:5.0f}"
            for row in rows
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="CPU time of decoding less")
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "camera.ts", given.clip, given.frames)
        rounds = [[decode(clip, extent) for extent in EXTENTS] for _ in range(given.rounds)]
    rows = [min(found, key=lambda row: row.cpu_seconds) for found in zip(*rounds, strict=True)]
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
