"""Training on the CPU: faces a second of `maskstream train`, and of the plain way, in one run.

    python -m benchmarks.training [--data FOLDER] [--size 64] [--rounds 3] [--json OUT]

The plain way is what torchvision's reference script for classification does by its defaults: an
ImageFolder of JPEG files read by PIL, transforms to normalised float tensors in the workers of a
DataLoader, planes (NCHW), SGD with momentum, loss and accuracy read at each step. Network, faces,
augmentation, batch and number of workers are those of ours. Each measurement is a process of its
own; the ways take turns. The first of two epochs warms up, the second counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.camera import machine
from models import LABELS

WAYS = ("plain", "ours")
WORKERS, EPOCHS = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--data", type=Path, help="class folders of faces (default: drawn ones)")
    parser.add_argument("--size", type=int, default=64, help="side of the crop, pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--faces", type=int, default=1920, help="in each of the two epochs")
    parser.add_argument("--rounds", type=int, default=3, help="how often the ways take turns")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.faces < options.batch or options.rounds < 1:
        parser.error("--faces must be at least one batch, --rounds at least 1")
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options)))
        return 0
    found = run(options)
    report(found, options)
    return 0


def run(options: argparse.Namespace) -> dict[str, list[float]]:
    """Faces a second of each way, round by round."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="maskstream-bench-") as folder:
        data = options.data or draw_faces(Path(folder) / "faces", options.faces)
        for number in range(options.rounds):
            for way in WAYS:
                found[way].append(_in_child(way, data, options))
                print(f"round {number + 1}, {way}: {found[way][-1]:.0f} faces/s", flush=True)
    return found


def _in_child(way: str, data: Path, options: argparse.Namespace) -> float:
    words = [sys.executable, "-m", "benchmarks.training", "--measure", way, "--data", str(data)]
    for name in ("size", "batch", "faces"):
        words += [f"--{name}", str(getattr(options, name))]
    child = subprocess.run(words, capture_output=True, text=True, timeout=1800, check=False)
    if child.returncode:
        raise RuntimeError(f"measuring the {way} way failed:\n{child.stderr[-4000:]}")
    return float(json.loads(child.stdout.splitlines()[-1]))


def draw_faces(folder: Path, count: int) -> Path:
    """Class folders of JPEG pictures, as large as face crops usually are."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (160, 160), interpolation=cv2.INTER_CUBIC)
        place = folder / LABELS[number % len(LABELS)] / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), picture)
    return folder


def measure_ours(options: argparse.Namespace) -> float:
    """The loop of `maskstream train`, preset best, as it counts itself."""
    import csv

    from trainer.config import load_config
    from trainer.data import crops_of, read_dataset
    from trainer.sets import Held, no_crops
    from trainer.train import fit

    faces = [face for part in read_dataset(options.data).splits.values() for face in part]
    crops, _ = crops_of(faces)
    pools = {
        f"folder_{name}": crops.where(crops.labels == label)
        for label, name in enumerate(("with", "without", "incorrect"))
    }
    settings = {
        "epochs": EPOCHS,
        "small_size": options.size,
        "size": options.size,
        "batch": options.batch,
        "faces_per_epoch": options.faces,
        "workers": WORKERS,
    }
    config = load_config("best", settings=settings)
    held = Held(crops.where(np.arange(len(crops)) < options.batch), no_crops(), no_crops())
    with tempfile.TemporaryDirectory(prefix="maskstream-bench-") as folder:
        fit({name: c for name, c in pools.items() if len(c)}, held, config, Path(folder))
        with (Path(folder) / "metrics.csv").open(newline="") as file:
            return float([*csv.DictReader(file)][-1]["faces_per_second"])


def measure_plain(options: argparse.Namespace) -> float:
    """The reference script's way, with our augmentation in the place of its own."""
    import torch
    from PIL import Image
    from torch import nn
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from models.mobilenet_v3 import build_network
    from trainer.augment import augment
    from trainer.data import whole_crop
    from trainer.sets import MEAN, STD

    rng = np.random.default_rng(0)

    def ours(picture: Image.Image) -> Image.Image:
        bgr = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
        view = augment(whole_crop(bgr, 0).images[0], options.size, rng)
        return Image.fromarray(np.ascontiguousarray(view[:, :, ::-1]))

    steps = [ours, v2.PILToTensor(), v2.ToDtype(torch.float, scale=True), v2.Normalize(MEAN, STD)]
    data = ImageFolder(str(options.data), transform=v2.Compose(steps))
    faces = options.faces // options.batch * options.batch
    loader = DataLoader(
        data,
        batch_size=options.batch,
        sampler=RandomSampler(data, replacement=True, num_samples=faces),
        num_workers=WORKERS,
    )
    network = build_network()
    loss_of = nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    watched = []
    for _ in range(EPOCHS):
        started = time.monotonic()
        for images, labels in loader:
            logits = network(images)
            loss = loss_of(logits, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            watched.append((loss.item(), (logits.argmax(1) == labels).float().mean().item()))
        seconds = time.monotonic() - started
    return float(faces / seconds)


MEASURES: dict[str, Callable[[argparse.Namespace], float]] = {
    "plain": measure_plain,
    "ours": measure_ours,
}


def report(found: dict[str, list[float]], options: argparse.Namespace) -> None:
    """A table for people, and the JSON if it is asked for."""
    ratios = [mine / plain for mine, plain in zip(found["ours"], found["plain"], strict=True)]
    print(f"\n{machine()}, {options.size} px, batch {options.batch}\n")
    print("| way | faces/s, median (least to most) |\n|---|---|")
    for way, rates in found.items():
        print(f"| {way} | {statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f}) |")
    print(f"\nratio, median of the rounds: {statistics.median(ratios):.2f}")
    if options.json:
        record = {
            "machine": machine(),
            "size": options.size,
            "batch": options.batch,
            "faces": options.faces,
            "faces_per_second": found,
            "ratios": ratios,
            "ratio": statistics.median(ratios),
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
