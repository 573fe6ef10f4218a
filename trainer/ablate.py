"""What each ingredient of the preset `best` brings: `python -m trainer.ablate DATA... --out DIR`.

Trains with each of them left out, on a small budget, and compares on validation faces; no Test part
is looked at. Called again with the same --out, it goes on where it was ended.
"""

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from models.errors import InputError
from trainer.cli import need
from trainer.config import TrainConfig, load_config
from trainer.data import Crops
from trainer.sets import Held, read_faces, read_held, read_pools
from trainer.train import fit, open_run

LEFT_OUT: dict[str, dict[str, object]] = {
    "nothing": {},
    "augmentation": {"augment": False},
    "painted masks": {"shares.painted_with": 0, "shares.painted_incorrect": 0},
    "hard negatives": {"shares.hard_with": 0, "shares.hard_without": 0},
    "street scenes": {
        "shares.scene_with": 0,
        "shares.scene_without": 0,
        "shares.scene_incorrect": 0,
    },
    "moving average": {"ema_decay": None},
    "label smoothing": {"label_smoothing": 0.0},
    "one-cycle schedule": {"schedule": "constant"},
    "small pictures first": {"small_share": 0.0},
    "cross-entropy (focal loss instead)": {"loss": "focal", "label_smoothing": 0.0},
}
TAUGHT = "nothing, a teacher added"
COLUMNS = {
    "val_folder_accuracy": "face pictures, accuracy",
    "val_scenes_accuracy": "scenes ≥ 24 px, accuracy",
    "val_scenes_macro_f1": "scenes, macro F1",
    "val_scenes_recall_incorrect": "scenes, recall incorrect",
}

Rows = dict[str, list[dict[str, float]]]
"""For each thing left out, the last epoch's figures of each seed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, compare, write ablation.md and ablation.json; 2 on wrong input."""
    try:
        need("lightning", "torchmetrics", "tensorboard")
        options = parse(arguments)
        budget = {"epochs": options.epochs, "faces_per_epoch": options.faces}
        base = load_config("best", settings=budget)
        faces = read_faces(options.data)
        held = read_held(faces)
        rows = ablate(read_pools(faces, held, base), held, budget, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = as_table(rows, base)
    (options.out / "ablation.md").write_text(table, encoding="utf-8")
    record = {"budget": budget, "seeds": options.seeds, "rows": rows}
    (options.out / "ablation.json").write_text(json.dumps(record, indent=2) + "\n")
    print(table)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.ablate", description=__doc__)
    parser.add_argument("data", type=Path, nargs="+", help="data sets, as for maskstream train")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--epochs", type=int, default=8, help="of each run (%(default)s)")
    parser.add_argument("--faces", type=int, default=5000, help="views an epoch (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7], help="runs of each kind")
    parser.add_argument("--only", nargs="+", choices=LEFT_OUT, default=list(LEFT_OUT))
    parser.add_argument("--teacher", type=Path, help="also try what a teacher (a .pt file) adds")
    return parser.parse_args(arguments)


def ablate(
    pools: Mapping[str, Crops],
    held: Held,
    budget: Mapping[str, object],
    options: argparse.Namespace,
) -> Rows:
    """Train with each ingredient of `options.only` left out, with each of `options.seeds`."""
    changes = {name: LEFT_OUT[name] for name in options.only}
    if options.teacher:
        changes[TAUGHT] = {"teacher": str(options.teacher)}
    rows: Rows = {}
    for name, change in changes.items():
        for seed in options.seeds:
            settings = {**budget, **change, "seed": seed}
            folder = options.out / f"without {name}, seed {seed}".replace(" ", "-")
            config = load_config("best", settings=settings)
            open_run(folder, config, resume=(folder / "checkpoints").exists())
            print(f"without {name}, seed {seed}", flush=True)
            fit(pools, held, config, folder)
            rows.setdefault(name, []).append(last_row(folder / "metrics.csv"))
    return rows


def last_row(path: Path) -> dict[str, float]:
    """The figures of a run's last epoch: those of the weights that the preset keeps."""
    with path.open(newline="", encoding="utf-8") as file:
        return {key: float(value) for key, value in [*csv.DictReader(file)][-1].items()}


def as_table(rows: Rows, config: TrainConfig) -> str:
    """Markdown: the mean over the seeds of each figure, and the seeds' range."""
    columns = {key: title for key, title in COLUMNS.items() if key in rows[next(iter(rows))][0]}
    runs = len(rows[next(iter(rows))])
    lines = [
        f"Preset `best`, {config.epochs} epochs of {config.faces_per_epoch} views, {runs} seed(s); "
        "validation faces, nothing else.",
        "",
        "| left out | " + " | ".join(columns.values()) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, found in rows.items():
        cells = [_cell([row[key] for row in found]) for key in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    span = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{mean(values):.3f}{span}"


if __name__ == "__main__":
    sys.exit(main())
