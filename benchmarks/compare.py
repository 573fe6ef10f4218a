"""`--peers`: ours and theirs one after another from the same load, with the ratios."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import cameras as wall
from benchmarks import roundtrip, viewers
from benchmarks.cameras import Wall
from benchmarks.floor import encode_alone
from benchmarks.peers.contest import (
    BROWSER,
    CAMERAS,
    RELAYS,
    CameraRow,
    NotMeasured,
    RelayRow,
    attempted,
    browser_row,
    camera_row,
    relay_row,
)
from benchmarks.roundtrip import RoundTrip
from benchmarks.rtsp import rtsp_camera
from benchmarks.viewers import Viewing

Figures = dict[str, Any]
ENOUGH_FPS, SOON_MS = 10.0, 150.0
"""A camera is held when it is judged so often, and 95 % of its frames so soon."""


def compare_cameras(most: int, seconds: float, clip: Path | None) -> tuple[Figures, str]:
    """1, 2, 3, 4, 6, 8, 12 … `most` cameras through ours and through each peer, in turns.

    A peer that held two counts in a row no more is not asked for greater ones. Its latencies are
    counted kindly: from when FFmpeg gives the fastest frame out (`peers.judgements.walled`), about
    33 ms after the frame's first byte, from which ours are counted.
    Gives ours at `most` cameras with the peers' and the ratios beside, and a table for people.
    """
    ours: list[Wall] = []
    peers: dict[str, list[CameraRow | NotMeasured]] = {name: [] for name in CAMERAS}
    with wall.camera_file(clip) as file:
        with rtsp_camera(file) as url:
            for count in rising(most):
                _progress(f"{count} cameras: maskstream")
                ours.append(wall.measure_at(url, count, seconds))
                for name, rows in peers.items():
                    if beaten(rows):
                        continue
                    _progress(f"{count} cameras: {name}")
                    rows.append(attempted(partial(camera_row, name, count, url, seconds)))
        figures = asdict(wall.floored(ours[-1], file))
    figures |= {
        "ours": [asdict(row) for row in ours],
        "peers": {name: [asdict(row) for row in rows] for name, rows in peers.items()},
        "held": held(ours, "arrival_to_verdict_p95_ms"),
        "peers_held": {
            name: held(rows, "arrival_to_verdict_p95_ms") for name, rows in peers.items()
        },
    }
    figures["held_ratio"] = ratio(figures["held"], max(figures["peers_held"].values(), default=0))
    header = ["", "cameras", "frames/s", "p50 ms", "p95 ms", "from decoded, p95", "cores", "MB"]
    lines = [_camera_cells("maskstream", row) for row in ours]
    lines += [_camera_cells(name, row) for name, rows in peers.items() for row in rows]
    return figures, markdown(header, lines)


def compare_roundtrip(seconds: float, slow: float, clip: Path | None) -> tuple[Figures, str]:
    """The same Chromium camera through ours and through each peer."""
    peers: dict[str, RoundTrip | NotMeasured] = {}
    with roundtrip.numbered_camera(seconds, clip) as camera:
        _progress("maskstream")
        ours = roundtrip.measure_at(camera, seconds, slow)
        for name in BROWSER:
            _progress(name)
            peers[name] = attempted(partial(browser_row, name, camera, seconds, slow))
    figures = asdict(ours) | {"peers": {name: asdict(row) for name, row in peers.items()}}
    keys = (
        "decoded_fps",
        "returned_fps",
        "added_latency_p50_ms",
        "added_latency_p95_ms",
        "added_latency_at_end_ms",
        "memory_growth_mb_per_minute",
    )
    header = ["", "decoded/s", "new shown/s", "p50 ms", "p95 ms", "at the end, ms", "MB/min"]
    rows = {"maskstream": ours, **peers}.items()
    lines = [[name, *_cells(asdict(row), keys)] for name, row in rows]
    return figures, markdown(header, lines)


def compare_viewers(count: int, seconds: float, clip: Path | None) -> tuple[Figures, str]:
    """So many viewers of one camera through ours, analysis included, and through a bare relay."""
    with wall.camera_file(clip) as file:
        encoding = encode_alone(file)
        with rtsp_camera(file) as url:
            _progress("maskstream")
            ours = viewers.measure_at(url, count, seconds, encoding)
            peers = {}
            for name in RELAYS:
                _progress(name)
                peers[name] = attempted(partial(relay_row, name, count, url, seconds))
    figures = asdict(ours) | {"peers": {name: asdict(row) for name, row in peers.items()}}
    keys = ("viewers", "cpu_cores_all", "viewer_fps_min", "viewer_fps_mean", "late_at_end_ms")
    # A relay that is too slow for its viewers saves cores by what it does not send.
    header = ["", "viewers", "cores", "frames/s, least", "mean", "late, ms", "CPU ms", "times ours"]
    lines = []
    for name, row in {"maskstream": ours, **peers}.items():
        cells = _cells(asdict(row), keys)
        if not isinstance(row, NotMeasured):
            cost = cpu_ms_per_frame_seen(row)
            cells += [shown(cost), shown(ratio(cost, cpu_ms_per_frame_seen(ours)))]
        lines.append([name, *cells])
    return figures, markdown(header, lines)


def cpu_ms_per_frame_seen(row: Viewing | RelayRow) -> float:
    """CPU milliseconds for each frame that one viewer got."""
    return 1e3 * row.cpu_cores_all / max(1e-9, row.viewers * row.viewer_fps_mean)


def rising(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 … and `most` itself: by a third or a half from one to the next."""
    powers = [2**n for n in range(most.bit_length())]
    return sorted({n for p in powers for n in (p, p * 3 // 2) if n <= most} | {most})


def beaten(rows: Sequence[CameraRow | NotMeasured]) -> bool:
    """Whether a peer held none of its last two counts."""
    last = rows[-2:]
    return len(last) == 2 and not held(last, "arrival_to_verdict_p95_ms")


def held(rows: Iterable[Wall | CameraRow | NotMeasured], p95_key: str) -> int:
    """The most cameras of which each was judged often enough, and soon enough by `p95_key`."""
    found = 0
    for row in rows:
        if isinstance(row, NotMeasured):
            continue
        p95 = getattr(row, p95_key)
        if row.analysed_fps_min >= ENOUGH_FPS and p95 is not None and p95 <= SOON_MS:
            found = max(found, row.cameras)
    return found


def ratio(value: float, base: float) -> float | None:
    """None where there is nothing to compare with."""
    return value / base if base else None


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; short lines are those of a peer without figures."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def shown(value: object) -> str:
    """A cell: two decimals below ten, none above, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    return str(value)


def _cells(figures: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    if reason := figures.get("not_measured"):
        return [f"not measured: {reason}"]
    return [shown(figures.get(key)) for key in keys]


def _camera_cells(name: str, row: Wall | CameraRow | NotMeasured) -> list[str]:
    keys = (
        "cameras",
        "analysed_fps_min",
        "arrival_to_verdict_p50_ms",
        "arrival_to_verdict_p95_ms",
        "decoded_to_verdict_p95_ms",
        "cpu_cores",
        "rss_mb",
    )
    return [name, *_cells(asdict(row), keys)]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
