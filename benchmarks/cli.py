"""`maskstream bench`: one command per figure; from a checkout, where `benchmarks/` is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from models.errors import InputError

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


@app.command()
def cameras(
    cameras: Annotated[int, typer.Option(min=1, max=1000, help="How many cameras.")] = 8,
    seconds: Seconds = 60,
    clip: Clip = None,
    out: Json = None,
) -> None:
    """A wall of 720p cameras from a real RTSP server through the whole service."""
    from benchmarks.cameras import measure

    _check(clip)
    _tell(asdict(measure(cameras, seconds, clip)), out)


@app.command()
def viewers(
    viewers: Annotated[int, typer.Option(min=1, max=1000, help="How many viewers.")] = 25,
    seconds: Seconds = 20,
    clip: Clip = None,
    out: Json = None,
) -> None:
    """One 720p camera watched by one, then by many WebRTC viewers: what each costs."""
    from benchmarks.viewers import measure

    _check(clip)
    _tell(asdict(measure(viewers, seconds, clip)), out)


@app.command()
def soak(
    cameras: Annotated[int, typer.Option(min=1, max=1000, help="How many cameras.")] = 8,
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 30,
    clip: Clip = None,
    out: Json = None,
) -> None:
    """Memory while viewers come and go for a long time."""
    from benchmarks.soak import measure

    _check(clip)
    _tell(asdict(measure(cameras, minutes, clip)), out)


@app.command()
def roundtrip(
    seconds: Seconds = 20,
    clip: Clip = None,
    out: Json = None,
) -> None:
    """A browser's camera there and back: frames a second, and the latency that is added."""
    from benchmarks.roundtrip import measure

    _check(clip)
    _tell(asdict(measure(seconds, clip)), out)


def _check(clip: Path | None) -> None:
    if clip is not None and not clip.is_file():
        raise InputError(f"--clip: there is no file {clip}")


def _tell(figures: dict[str, object], out: Path | None) -> None:
    for name, value in figures.items():
        print(f"{name:32} {value:.2f}" if isinstance(value, float) else f"{name:32} {value}")
    if out is None:
        return
    try:
        out.write_text(json.dumps(figures, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"--json {out}: {error.strerror}") from error
