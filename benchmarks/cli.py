"""`maskstream bench`: one command per figure; from a checkout, where `benchmarks/` is."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from models.errors import InputError
from trainer.cli import need

app = typer.Typer(
    help="Measure this machine: one command per figure.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Clip = Annotated[
    Path | None, typer.Option(help="A video of faces; a moving portrait if not given.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]
Seconds = Annotated[float, typer.Option(min=1, help="Of each measurement, after warming up.")]
Peers = Annotated[
    bool,
    typer.Option(
        "--peers", help="Measure in the same run what people would use in maskstream's place."
    ),
]


@app.callback()
def quiet() -> None:
    """Keep what the service's parts log out of the figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


@app.command()
def cameras(
    cameras: Annotated[int, typer.Option(min=1, max=1000, help="How many cameras.")] = 8,
    seconds: Seconds = 60,
    clip: Clip = None,
    peers: Peers = False,
    out: Json = None,
) -> None:
    """A wall of 720p cameras from a real RTSP server; with --peers 1, 2, 3, 4, 6 … of them."""
    _check(clip, out)
    from benchmarks.cameras import measure

    if peers:
        from benchmarks.compare import compare_cameras

        _tell(*compare_cameras(cameras, seconds, clip), out)
    else:
        _tell(asdict(measure(cameras, seconds, clip)), None, out)


@app.command()
def viewers(
    viewers: Annotated[int, typer.Option(min=1, max=1000, help="How many viewers.")] = 25,
    seconds: Seconds = 20,
    processes: Annotated[
        int, typer.Option(min=0, max=64, help="Spread them over so many more processes.")
    ] = 0,
    clip: Clip = None,
    peers: Peers = False,
    out: Json = None,
) -> None:
    """One 720p camera watched by one, then by many WebRTC viewers: what each costs."""
    _check(clip, out)
    from benchmarks.viewers import measure

    if peers:
        from benchmarks.compare import compare_viewers

        _tell(*compare_viewers(viewers, seconds, clip), out)
    else:
        _tell(asdict(measure(viewers, seconds, clip, processes)), None, out)


@app.command()
def soak(
    cameras: Annotated[int, typer.Option(min=1, max=1000, help="How many cameras.")] = 8,
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 30,
    clip: Clip = None,
    out: Json = None,
) -> None:
    """Memory while viewers come and go for a long time."""
    _check(clip, out)
    from benchmarks.soak import measure

    _tell(asdict(measure(cameras, minutes, clip)), None, out)


@app.command()
def roundtrip(
    seconds: Annotated[float, typer.Option(min=1, max=500, help="After settling.")] = 20,
    slow: Annotated[
        float, typer.Option(min=1, max=1000, help="Make the models so many times slower.")
    ] = 1,
    clip: Clip = None,
    peers: Peers = False,
    out: Json = None,
) -> None:
    """A browser's camera there and back: frames a second, and the latency that is added."""
    _check(clip, out)
    from benchmarks.roundtrip import measure

    if peers:
        from benchmarks.compare import compare_roundtrip

        _tell(*compare_roundtrip(seconds, slow, clip), out)
    else:
        _tell(asdict(measure(seconds, clip, slow)), None, out)


def _check(clip: Path | None, out: Path | None) -> None:
    need("httpx", "playwright", "psutil", "skimage", extra="bench")
    if clip is not None:
        _check_clip(clip)
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--json: there is no folder {out.parent}")


def _check_clip(clip: Path) -> None:
    from benchmarks.clips import pictures_of

    if not clip.is_file():
        raise InputError(f"--clip: there is no file {clip}")
    try:
        has_picture = any(True for _ in pictures_of(clip))
    except InputError as error:
        raise InputError(f"--clip: {error}") from error
    if not has_picture:
        raise InputError(f"--clip: no picture of {clip} can be decoded")


def _tell(figures: Mapping[str, Any], table: str | None, out: Path | None) -> None:
    for name, value in figures.items():
        if name not in ("ours", "peers"):
            print(f"{name:32} {value:.2f}" if isinstance(value, float) else f"{name:32} {value}")
    if table is not None:
        print(f"\n{table}")
    if out is None:
        return
    try:
        out.write_text(json.dumps(figures, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"--json {out}: {error.strerror}") from error
