import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from models.registry import resolve
from stream_server.classify.torch_cuda import served
from stream_server.detect.torch_network import candidates

CPU = torch.device("cpu")


def test_without_a_gpu_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--json", str(tmp_path / "figures.json")])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "no CUDA GPU" in said.err
    assert not list(tmp_path.iterdir())


def test_the_whole_of_it_runs_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "CROPS", (1, 2))
    monkeypatch.setattr(gpu, "PICTURES", (1,))
    monkeypatch.setattr(gpu, "SHOWN", 2)
    out = tmp_path / "figures.json"
    gpu.main(["--device", "cpu", "--seconds", "0.2", "--streams", "2", "--json", str(out)])
    assert "says nothing of a GPU" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert figures["precision"] == "fp32"
    assert [rate["batch"] for rate in figures["crops"]] == [1, 2]
    for rate in figures["crops"] + figures["pictures"]:
        assert rate["per_second"] > 0
        assert 0 < rate["product_share"] < 2
        assert rate["bandwidth_share"] > 0
    assert figures["streams"]["faces_per_frame"] == pytest.approx(1)
    assert figures["streams"]["frames_per_second"] > 0


def test_operations_are_those_of_the_layers() -> None:
    """Two for each weight and place of a convolution: CenterFace's first layer by hand, and that
    pictures cost twice as much together."""
    network = candidates(CPU, torch.float32)
    first = torch.nn.Sequential(
        next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    )

    class First(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = first(pictures.permute(0, 3, 1, 2).float())
            return out

    moved, operations = gpu.work(First(), (1, 64, 32, 3), CPU)
    assert operations == 2 * (32 * 16) * 32 * 27
    read_as_floats = 64 * 32 * 3 * (1 + 4)
    assert moved == read_as_floats + 4 * (64 * 32 * 3 + 32 * 16 * 32 + 32 * 27 + 32)
    one, two = (gpu.work(network, (n, 64, 64, 3), CPU)[1] for n in (1, 2))
    assert two == 2 * one


def test_a_batch_s_traffic_reads_the_weights_once() -> None:
    weights = resolve()
    network, side = served(weights, CPU, torch.float32), weights.card.input_size
    one, four = (gpu.work(network, (n, side, side, 3), CPU)[0] for n in (1, 4))
    assert one < four < 4 * one
