"""How far the GPU path fills the GPU: both networks alone, and 64 streams through both.

    python -m benchmarks.gpu [--seconds 5] [--streams 64] [--device cuda] [--json OUT]

Crops/s and pictures/s by batch go from uint8 in main memory to answers in main memory, on all lanes
at once. Beside them stand shares of two ceilings that are measured first: a copy within the GPU's
memory, and a product of two large matrices. A network's traffic is what its layers read and write
one by one, as if nothing stayed in a cache; its operations are those of its convolutions and
matrix products.

The streams are decoded 720p pictures in memory. Each asks again as soon as its picture has gone
through detector and classifier, in the service's own batches: no decoding, tracking or encoding.

`--device cpu` runs the same code on the CPU, to see that it works; its figures say nothing of a
GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clips import HEIGHT, WIDTH, moving_portrait, pictures_of
from benchmarks.figures import percentile
from models.registry import Weights, resolve
from stream_server.app import open_analyser
from stream_server.classify.cuda import DTYPES, lane, replica_devices
from stream_server.classify.select import Selected, choose
from stream_server.classify.torch_cuda import served
from stream_server.detect.geometry import input_size
from stream_server.detect.torch_cuda import TorchCenterFaceDetector
from stream_server.detect.torch_network import candidates
from stream_server.frames import Picture
from stream_server.settings import Settings
from stream_server.telemetry.metrics import Metrics

CROPS = (1, 8, 64, 256)
PICTURES = (1, 4, 16)
SHOWN = 30
CPU_NOTE = "on the CPU: this shows that the code runs, and says nothing of a GPU"


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of all GPUs together: bytes/s read and written by a copy, operations/s of a product."""

    bytes_per_second: float
    operations_per_second: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Items/s in batches of `batch`, and its shares of the ceilings."""

    batch: int
    per_second: float
    bandwidth_share: float
    product_share: float


@dataclass(frozen=True, slots=True)
class Streams:
    """Frames/s of all streams together; milliseconds from a picture to its verdicts."""

    streams: int
    frames_per_second: float
    p50_ms: float
    p95_ms: float
    faces_per_frame: float


@dataclass(frozen=True, slots=True)
class Report:
    """All of it; `precision` is the networks'."""

    device: str
    replicas: int
    precision: str
    note: str
    ceilings: Ceilings
    crops: list[Rate]
    pictures: list[Rate]
    streams: Streams


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes that operations read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        """Run one operation; a view moves nothing."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def work(network: torch.nn.Module, shape: tuple[int, ...], device: torch.device) -> tuple[int, int]:
    """Bytes moved and operations done for one batch."""
    batch = torch.zeros(shape, dtype=torch.uint8, device=device)
    with torch.no_grad(), Traffic() as traffic, FlopCounterMode(display=False) as counter:
        network(batch)
    return traffic.bytes, counter.get_total_flops()


def measure_ceilings(
    device: torch.device, dtype: torch.dtype, gpus: int, seconds: float
) -> Ceilings:
    """By torch's own copy and product."""
    on_gpu = device.type == "cuda"
    size, side = (1 << 30, 8192) if on_gpu else (1 << 26, 1024)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def finished(run: Callable[[], object]) -> Callable[[], object]:
        def several() -> None:
            for _ in range(10):
                run()
            if on_gpu:
                torch.cuda.synchronize(device)

        return several

    copies = per_second([finished(lambda: target.copy_(source))], 10, seconds)
    products = per_second([finished(lambda: torch.mm(left, right))], 10, seconds)
    return Ceilings(2 * size * copies * gpus, 2 * side**3 * products * gpus)


def per_second(runs: Sequence[Callable[[], object]], items: int, seconds: float) -> float:
    """Items/s when each of `runs`, of `items` each, is repeated by a thread of its own."""

    def repeat(run: Callable[[], object], until: float) -> int:
        done = 0
        while time.perf_counter() < until or not done:
            run()
            done += 1
        return done

    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(lambda run: run(), runs))
        started = time.perf_counter()
        done = sum(pool.map(repeat, runs, itertools.repeat(started + seconds)))
        return done * items / (time.perf_counter() - started)


def measure_crops(
    weights: Weights, selected: Selected, ceilings: Ceilings, device: torch.device, seconds: float
) -> list[Rate]:
    """The classifier, called by as many threads as it has replicas."""
    network = served(weights, device, DTYPES[selected.precision])
    side = weights.card.input_size
    rates = []
    for batch in CROPS:
        shape = (batch, side, side, 3)
        crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        runs = [lambda crops=crops: selected.classifier.classify(crops)] * selected.replicas
        found = per_second(runs, batch, seconds)
        rates.append(_rate(batch, found, work(network, shape, device), ceilings))
    return rates


def measure_pictures(
    devices: Sequence[str], dtype: torch.dtype, ceilings: Ceilings, seconds: float
) -> list[Rate]:
    """The detector's network at a 720p camera's size, each lane with full batches."""
    width, height = input_size(WIDTH, HEIGHT)
    lanes = [lane(name) for name in devices]
    networks = [candidates(one.device, dtype) for one in lanes]
    rates = []
    for batch in PICTURES:
        shape = (batch, height, width, 3)
        pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        prepared = [one.prepare(net, shape) for one, net in zip(lanes, networks, strict=True)]
        runs = [lambda run=run, pictures=pictures: run(pictures) for run in prepared]
        found = per_second(runs, batch, seconds)
        moved = work(networks[0], shape, lanes[0].device)
        rates.append(_rate(batch, found, moved, ceilings))
    return rates


def _rate(batch: int, found: float, moved: tuple[int, int], ceilings: Ceilings) -> Rate:
    runs = found / batch
    return Rate(
        batch,
        found,
        runs * moved[0] / ceilings.bytes_per_second,
        runs * moved[1] / ceilings.operations_per_second,
    )


async def measure_streams(
    weights: Weights,
    selected: Selected,
    devices: Sequence[str],
    pictures: Sequence[Picture],
    streams: int,
    seconds: float,
) -> Streams:
    """Each stream has one picture under way, and at least one is counted, however slow the
    machine; a quarter of `seconds` goes before, and is not."""
    detector = TorchCenterFaceDetector([lane(name) for name in devices])
    options = Settings().classifier
    async with open_analyser(detector, selected, weights.card, options, Metrics()) as analyser:

        async def show(first: int, until: float) -> list[tuple[float, int]]:
            shown: list[tuple[float, int]] = []
            while not shown or time.perf_counter() < until:
                started = time.perf_counter()
                picture = pictures[(first + len(shown)) % len(pictures)]
                found = await analyser.analyse(picture)
                shown.append((time.perf_counter() - started, len(found)))
            return shown

        async def all_show(seconds: float) -> list[tuple[float, int]]:
            until = time.perf_counter() + seconds
            each = await asyncio.gather(*(show(number, until) for number in range(streams)))
            return list(itertools.chain(*each))

        await all_show(seconds / 4)
        counted = time.perf_counter()
        shown = await all_show(seconds)
        passed = time.perf_counter() - counted
    latencies = [latency for latency, _ in shown]
    return Streams(
        streams,
        len(latencies) / passed,
        1e3 * percentile(latencies, 0.5),
        1e3 * percentile(latencies, 0.95),
        statistics.fmean(faces for _, faces in shown),
    )


def measure(device: str, streams: int, seconds: float, clip: Path | None) -> Report:
    """All figures on "cuda" (all GPUs), "cuda:N" or "cpu"; blocking, a minute or so."""
    weights = resolve()
    selected = choose(weights, runtime="torch", device=device)
    devices = replica_devices(device)
    first, dtype = lane(devices[0]).device, DTYPES[selected.precision]
    ceilings = measure_ceilings(first, dtype, len(set(devices)), seconds)
    shown = itertools.islice(pictures_of(clip) if clip else moving_portrait(), SHOWN)
    pictures = [Picture.from_bgr(bgr) for bgr in shown]
    return Report(
        selected.device,
        selected.replicas,
        selected.precision,
        CPU_NOTE if device == "cpu" else "",
        ceilings,
        measure_crops(weights, selected, ceilings, first, seconds),
        measure_pictures(devices, dtype, ceilings, seconds),
        asyncio.run(measure_streams(weights, selected, devices, pictures, streams, seconds)),
    )


def table(report: Report) -> str:
    """For people."""
    ceilings, streams = report.ceilings, report.streams
    lines = [
        f"{report.device}, {report.precision}, {report.replicas} lanes; {report.note}".rstrip("; "),
        f"ceilings: copy {ceilings.bytes_per_second / 1e9:.0f} GB/s, "
        f"product {ceilings.operations_per_second / 1e12:.2f} T operations/s",
        "                    batch   items/s   of the copy   of the product",
    ]
    for name, rates in (
        ("crops, classifier", report.crops),
        ("pictures, detector", report.pictures),
    ):
        lines += [
            f"{name:19} {rate.batch:5d} {rate.per_second:9.0f} {rate.bandwidth_share:13.1%} "
            f"{rate.product_share:16.1%}"
            for rate in rates
        ]
    lines.append(
        f"{streams.streams} streams: {streams.frames_per_second:.0f} frames/s in all, "
        f"p50 {streams.p50_ms:.1f} ms, p95 {streams.p95_ms:.1f} ms, "
        f"{streams.faces_per_frame:.1f} faces a frame"
    )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """The command; exit code 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description="How far the GPU path fills the GPU")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--device", default="cuda", help="cuda (all GPUs), cuda:N or cpu")
    parser.add_argument(
        "--clip", type=Path, help="a video of faces; a moving portrait if not given"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args(words)
    if given.device != "cpu" and not torch.cuda.is_available():
        print(
            "benchmarks.gpu: torch finds no CUDA GPU here, so there is nothing to measure; "
            "--device cpu only shows that the code runs",
            file=sys.stderr,
        )
        raise SystemExit(2)
    report = measure(given.device, given.streams, given.seconds, given.clip)
    print(table(report))
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1) + "\n")


if __name__ == "__main__":
    main()
