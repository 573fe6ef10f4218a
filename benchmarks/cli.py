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
    from benchmarks.cameras import measure, table

    _check(clip)
    found = measure(cameras, seconds, clip)
    print(table(found))
    _write(out, asdict(found))


def _check(clip: Path | None) -> None:
    if clip is not None and not clip.is_file():
        raise InputError(f"--clip: there is no file {clip}")


def _write(out: Path | None, figures: object) -> None:
    if out is None:
        return
    try:
        out.write_text(json.dumps(figures, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"--json {out}: {error.strerror}") from error
