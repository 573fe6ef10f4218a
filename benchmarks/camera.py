"""One 720p camera through our pipeline, and the plain way, in the same run.

    python -m benchmarks.camera [--clip PATH] [--seconds 10] [--rounds 3] [--json OUT]

Each measurement is a process of its own; the ways take turns, so that a busy machine is as bad
for one as for the other. Stated are medians over the rounds; the ratio is that of each round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.clips import HEIGHT, RATE, WIDTH, write_camera
from benchmarks.figures import Figures, as_json, summary
from benchmarks.rtsp import available, rtsp_camera

WAYS = {
    "plain": "plain way, as fast as it goes",
    "unpaced": "maskstream, as fast as it goes",
    "paced": f"maskstream, camera at {RATE} frames/s",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.camera", description=__doc__)
    parser.add_argument("--clip", type=Path, help="a video of faces (default: a moving portrait)")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often the ways take turns")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--camera", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        found = measure(options.measure, options.camera, options.seconds, options.cache)
        print(json.dumps(asdict(found)))
        return 0
    if options.clip is not None and not options.clip.is_file():
        parser.error(f"there is no file {options.clip}")
    if options.seconds <= 0 or options.rounds < 1:
        parser.error("--seconds must be above 0 and --rounds at least 1")
    rounds, source = run(options.clip, options.seconds, options.rounds)
    report(rounds, source)
    if options.json:
        options.json.write_text(json.dumps(to_json(rounds, source), indent=2) + "\n")
    return 0


def measure(way: str, camera: str, seconds: float, cache: Path) -> Figures:
    """One measurement, in this process."""
    if way == "plain":
        from benchmarks import plain

        return plain.measure(camera, seconds)
    from benchmarks import ours

    ways = {"unpaced": ours.measure_unpaced, "paced": ours.measure_paced}
    return ways[way](camera, seconds, cache)


def run(clip: Path | None, seconds: float, rounds: int) -> tuple[dict[str, list[Figures]], str]:
    """All measurements by way, and what the paced camera was."""
    found: dict[str, list[Figures]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maskstream-bench-")))
        file = write_camera(folder / "camera.ts", clip)
        by_rtsp = available()
        for number in range(rounds):
            for way, text in WAYS.items():
                with ExitStack() as peers:
                    camera = str(file)
                    if way == "paced" and by_rtsp:
                        camera = peers.enter_context(rtsp_camera(file))
                    found[way].append(_in_child(way, camera, seconds, folder))
                fps = found[way][-1].fps
                print(f"round {number + 1}, {text}: {fps:.1f} frames/s", flush=True)
    return found, "RTSP (GStreamer's server, TCP)" if by_rtsp else "file"


def _in_child(way: str, camera: str, seconds: float, cache: Path) -> Figures:
    words = [sys.executable, "-m", "benchmarks.camera", "--measure", way, "--camera", camera]
    words += ["--seconds", str(seconds), "--cache", str(cache)]
    child = subprocess.run(
        words, capture_output=True, text=True, timeout=seconds + 180, check=False
    )
    if child.returncode:
        raise RuntimeError(f"measuring the {way} way failed:\n{child.stderr[-4000:]}")
    return Figures(**json.loads(child.stdout.splitlines()[-1]))


def ratios(rounds: dict[str, list[Figures]]) -> list[float]:
    """Ours by the plain way's frames a second, round by round."""
    return [
        ours.fps / plain.fps for ours, plain in zip(rounds["unpaced"], rounds["plain"], strict=True)
    ]


def report(rounds: dict[str, list[Figures]], source: str) -> None:
    """A table for people."""
    print(f"\n{WIDTH}x{HEIGHT}, {machine()}; paced camera: {source}\n")
    print("| way | frames/s | p50 ms | p95 ms | faces/frame |\n|---|---|---|---|---|")
    for way, text in WAYS.items():
        s = summary(rounds[way])
        latency = "– | –" if way == "unpaced" else f"{s['p50_ms']:.0f} | {s['p95_ms']:.0f}"
        spread = f"{s['fps']:.1f} ({s['fps_min']:.1f} to {s['fps_max']:.1f})"
        print(f"| {text} | {spread} | {latency} | {s['faces_per_frame']:.2f} |")
    print(f"\nratio: {statistics.median(ratios(rounds)):.1f} times the plain way's frames/s")
    for way, text in WAYS.items():
        parts = (
            f"{name} {statistics.median(r.stages_ms.get(name, 0) for r in rounds[way]):.1f}"
            for name in rounds[way][0].stages_ms
        )
        print(f"mean ms by stage, {text}: {', '.join(parts)}")


def to_json(rounds: dict[str, list[Figures]], source: str) -> dict[str, object]:
    """Everything, for machines."""
    return {
        "machine": machine(),
        "picture": [WIDTH, HEIGHT],
        "paced_source": source,
        "ratio": statistics.median(ratios(rounds)),
        "ratios": ratios(rounds),
        "summary": {way: summary(found) for way, found in rounds.items()},
        "rounds": {way: as_json(found) for way, found in rounds.items()},
    }


def machine() -> str:
    """The CPU's name and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
