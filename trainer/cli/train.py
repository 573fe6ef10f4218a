"""`maskstream train`."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import need


def train(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Data sets: class folders, as Face Mask 12K or any other, or Pascal VOC scenes.",
        ),
    ],
    preset: Annotated[
        str | None,
        typer.Option(metavar="best|seed|teacher", help="The recipe to start from (best)."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML with settings that differ.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting of the presets (trainer/presets/*.yaml); may be repeated.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="PATH|scratch|imagenet", help="Weights to start from."),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", "--max-epochs")] = None,
    batch: Annotated[int | None, typer.Option(help="Faces in a batch.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", "--lr")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is drawn by lot.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/maskstream"),
    name: Annotated[str, typer.Option(help="Name of the exported weights.")] = "maskstream",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out; the result is the same.")
    ] = False,
    limit_time: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="Train no longer; what is learnt is exported."),
    ] = None,
    report_test: Annotated[
        bool | None,
        typer.Option(
            "--report-test", help="Measure the Test parts too: once, when all is decided."
        ),
    ] = None,
) -> None:
    """Train the network on DATA; calibrate, export and measure it, and write its model card."""
    need("lightning", "torchmetrics", "tensorboard")
    from datetime import timedelta

    from trainer.config import load_config, parse_settings
    from trainer.train import read_run, run

    flags = {
        "init": init,
        "epochs": epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
        "report_test": report_test,
    }
    changed = parse_settings(settings or [])
    changed |= {key: value for key, value in flags.items() if value is not None}
    if resume and not (preset or config):
        read_run(out)
        config = out / "config.yaml"
    limit = timedelta(minutes=limit_time) if limit_time is not None else None
    run(data, load_config(preset, config, changed), out, name, resume=resume, limit=limit)
