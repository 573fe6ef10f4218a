"""What can be said of lanes without a GPU. That CUDA does what is asked of it only a GPU shows: the
contract suites run on one where there is one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_server.classify import cuda
from stream_server.classify.cuda import CpuLane, CudaLane, lane, replica_devices
from stream_server.errors import ModelError
from stream_server.frames import Pixels


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_count(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return set_count


def test_cuda_means_all_gpus_and_the_first_replicas_are_on_different_ones(
    gpus: Callable[[int], None],
) -> None:
    gpus(3)
    assert replica_devices("cuda") == ("cuda:0", "cuda:1", "cuda:2") * cuda.LANES_PER_GPU
    assert replica_devices("cuda:1") == ("cuda:1",) * cuda.LANES_PER_GPU
    assert replica_devices("cpu") == ("cpu",)


@pytest.mark.parametrize(
    ("count", "device", "message"),
    [(0, "cuda", "torch finds no CUDA GPU"), (2, "cuda:2", "there is no cuda:2: torch finds 2")],
)
def test_gpus_that_are_not_there_are_named(
    gpus: Callable[[int], None], count: int, device: str, message: str
) -> None:
    gpus(count)
    for ask in (lane, replica_devices):
        with pytest.raises(ModelError, match=message):
            ask(device)


def test_memory_of_a_gpu_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"cuda:0": 100, "cuda:1": 10}
    monkeypatch.setattr(torch.cuda, "memory_reserved", held.__getitem__)
    assert cuda.gpu_memory(("cuda:0", "cuda:1", "cuda:0", "cuda:1")) == 110


def _sums(pictures: Tensor) -> Tensor:
    return pictures.float().sum((1, 2, 3))[:, None] * torch.tensor([1.0, 2.0])


def _pictures(*numbers: int) -> Pixels:
    return np.stack([np.full((2, 2, 3), number, np.uint8) for number in numbers])


def _rows(*numbers: int) -> list[list[float]]:
    return [[12.0 * number, 24.0 * number] for number in numbers]


def test_a_lane_on_the_cpu() -> None:
    run = CpuLane().prepare(_sums, (4, 2, 2, 3))
    assert run(_pictures(1, 2, 3)).tolist() == _rows(1, 2, 3)
    assert run(list(_pictures(5))).dtype == np.float32


class FakeCuda:
    """Stands in for CUDA on the CPU: a graph computes again what was computed at its capture."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.capturing = False
        self.captured: tuple[Tensor, Tensor] | None = None

    def network(self, pictures: Tensor) -> Tensor:
        self.log.append("captured" if self.capturing else "warmed up")
        rows = _sums(pictures)
        self.captured = pictures, rows
        return rows

    def replay(self) -> None:
        self.log.append("replayed")
        assert self.captured is not None
        pictures, rows = self.captured
        rows.copy_(_sums(pictures))

    @contextmanager
    def capture(self, graph: object, **options: object) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        self.log.append("synchronised by the capture")
        self.capturing = True
        yield
        self.capturing = False


class FakeStream:
    def __init__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class FakeEvent:
    def __init__(self, *, blocking: bool) -> None:
        assert blocking
        self.recorded = False

    def record(self, stream: FakeStream) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded, "nothing to wait for"
        self.recorded = False


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    replaced: dict[str, Any] = {
        "Stream": FakeStream,
        "Event": FakeEvent,
        "CUDAGraph": lambda: fake,
        "graph": fake.capture,
        "graph_pool_handle": object,
        "stream": lambda _: nullcontext(),
        "device": lambda _: nullcontext(),
        "synchronize": lambda _: None,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name in ("zeros", "empty"):
        monkeypatch.setattr(torch, name, _pageable(getattr(torch, name)))
    return fake


def _pageable(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*shape: Any, pin_memory: bool, **options: Any) -> Tensor:
        assert pin_memory, "a copy from pageable memory would not overlap"
        return make(*shape, **options)

    return made


def test_a_run_is_captured_after_warming_up_and_replayed_once_each_time(fake: FakeCuda) -> None:
    run = CudaLane(torch.device("cpu")).prepare(fake.network, (4, 2, 2, 3))
    warm = ["warmed up"] * cuda.WARM_UPS
    assert fake.log == [*warm, "synchronised by the capture", "captured"]
    run(_pictures(1))
    run(_pictures(2))
    assert fake.log[-2:] == ["replayed"] * 2
    assert len(fake.log) == len(warm) + 4


def test_buffers_are_used_again_and_answers_are_not(fake: FakeCuda) -> None:
    run = CudaLane(torch.device("cpu")).prepare(fake.network, (4, 2, 2, 3))
    first = run(_pictures(1, 2, 3, 4))
    second = run(iter(_pictures(9, 8)))
    assert second.tolist() == _rows(9, 8)
    assert first.tolist() == _rows(1, 2, 3, 4)
