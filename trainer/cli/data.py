"""`maskstream data`."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from models.errors import InputError
from trainer.cli import need

SHOWN = 5

app = typer.Typer(help="Fetch and look at training data.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Fetch and look at training data."""


@app.command()
def report(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Data sets: class folders, as Face Mask 12K or any other, or Pascal VOC scenes.",
        ),
    ],
    layout: Annotated[
        str, typer.Option(metavar="LAYOUT", help="auto, 12k, folders or voc.")
    ] = "auto",
    json: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Count classes, sizes, duplicates, leaks between splits, and broken files.

    Exit code 0 when all is well, 1 when a picture or its near-copy stands in two splits or a file
    is broken, 2 when DATA is no data set.
    """
    if json is not None and not json.absolute().parent.is_dir():
        raise InputError(f"cannot write {json}: there is no folder {json.parent}")
    from trainer.data import read_dataset
    from trainer.data.report import has_leaks

    sets = [_look(read_dataset(root, layout)) for root in data]
    print("\n\n".join("\n".join(_lines(found)) for found in sets))
    if json is not None:
        _write(json, {"sets": sets})
    if any(has_leaks(found) or found["broken"] for found in sets):
        raise typer.Exit(1)


def _look(dataset: Any) -> dict[str, Any]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    from trainer.data.report import report as report_on

    pictures = len({face.path for faces in dataset.splits.values() for face in faces})
    with tqdm(total=pictures, unit=" pictures", disable=not sys.stderr.isatty()) as bar:
        return report_on(dataset, bar.update)


def _write(path: Path, figures: Mapping[str, Any]) -> None:
    try:
        path.write_text(json_module.dumps(figures, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


# --- on the terminal ------------------------------------------------------------------------------


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A report as text."""
    yield f"{found['root']}: {found['pictures']} pictures, layout {found['layout']}"
    yield from _split_lines(found["splits"])
    yield from _duplicate_lines(found)
    for pair in found["contradictions"][:SHOWN]:
        yield f"  identical, yet of two classes: {', '.join(pair)}"
    yield f"blank, of one colour: {len(found['blank'])}"
    yield from (f"  {path}" for path in found["blank"][:SHOWN])
    broken = found["broken"]
    yield f"broken, left out: {len(broken)}"
    yield from (f"  {item['path']}: {item['reason']}" for item in broken[:SHOWN])
    if len(broken) > SHOWN:
        yield f"  ... and {len(broken) - SHOWN} more"


def _split_lines(splits: Mapping[str, Any]) -> Iterator[str]:
    names = list(next(iter(splits.values()))["classes"])
    widths = ("narrowest", "median", "widest", "< 24 px")
    heads = "".join(f"{name:>14}" for name in names) + "".join(f"{name:>11}" for name in widths)
    yield f"{'faces':<12}{heads}"
    for split, row in splits.items():
        counts = "".join(f"{row['classes'][name]:>14}" for name in names)
        yield f"{split or 'all':<12}{counts}{_width_cells(row['width'])}"


def _width_cells(width: Mapping[str, float] | None) -> str:
    if width is None:
        return f"{'-':>11}" * 4
    sizes = "".join(f"{width[name]:>8.0f} px" for name in ("min", "median", "max"))
    return f"{sizes}{width['share_under_24']:>11.1%}"


def _duplicate_lines(found: Mapping[str, Any]) -> Iterator[str]:
    meanings = (
        ("identical", "the same bytes"),
        ("near_identical", "look the same, the identical ones included"),
        ("same_source", "by their names copies of one source"),
    )
    for kind, meaning in meanings:
        leak = found["leaks"][kind]
        yield f"{kind.replace('_', ' ')} ({meaning}): {_leak(found['duplicates'][kind], leak)}"
        yield from (f"  {_example(paths)}" for paths in leak["examples"])


def _leak(groups: int, leak: Mapping[str, Any]) -> str:
    if not leak["groups"]:
        return f"{groups} groups, none across splits"
    pictures = f"{leak['training_pictures']} training pictures in them"
    return f"{groups} groups, {leak['groups']} of them across splits ({pictures})"


def _example(paths: Sequence[str]) -> str:
    return " = ".join(paths)


# --- fetching -------------------------------------------------------------------------------------


@app.command()
def fetch(
    into: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the data sets go, each in its folder.")
    ] = Path("data"),
) -> None:
    """Download both public data sets (CC0) from Kaggle: Face Mask 12K and Face Mask Detection.

    What is there already is kept. An account is not needed.
    """
    need("kagglehub")
    from trainer.data.fetch import SETS
    from trainer.data.fetch import fetch as fetch_set

    for name in SETS:
        found = fetch_set(name, into, lambda line: print(line, file=sys.stderr))
        faces = sum(len(faces) for faces in found.splits.values())
        print(f"{into / name}: {faces} faces")
    print(f"next: maskstream train {' '.join(str(into / name) for name in SETS)}")
