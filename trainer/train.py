"""`python -m trainer.train`: from two public data sets to verified weights with a card."""

import argparse
import pickle
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.errors import WeightsError
from models.mobilenet_v3 import build_network
from trainer.config import ConfigError, TrainConfig
from trainer.data import Crops, DataError
from trainer.evaluate import accuracy, predict_torch
from trainer.export import export
from trainer.sets import Held, batches, normalise, read_held, read_training


def train(pools: dict[str, Crops], held: Held, config: TrainConfig, checkpoint: Path) -> nn.Module:
    """Train from scratch on `pools`; return the averaged network, in eval mode, on the CPU.

    The averaged weights are also written to `checkpoint` after every epoch.
    """
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    network = build_network().to(memory_format=torch.channels_last)
    follow_statistics(network)
    averaging = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    loss_of = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    optimiser = AdamW(parameter_groups(network, config.weight_decay), lr=config.learning_rate)
    steps = config.epochs * config.steps_per_epoch()
    schedule = OneCycleLR(optimiser, config.learning_rate, total_steps=steps, pct_start=0.2)
    for epoch in range(config.epochs):
        started, seen, total = time.monotonic(), 0, 0.0
        network.train()
        for images, labels in batches(pools, config, epoch):
            loss = loss_of(network(normalise(images)), labels)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(network)
            seen += len(labels)
            total += loss.item() * len(labels)
        torch.save(average.module.state_dict(), checkpoint)
        rate = seen / (time.monotonic() - started)
        checks = validation_line(average.module, held, config.size_at(epoch))
        print(f"epoch {epoch + 1:2} loss {total / seen:.4f} {checks} {rate:.0f}/s", flush=True)
    return average.module.eval()


def follow_statistics(network: nn.Module, momentum: float = 0.1) -> None:
    """Let normalisation follow its batches; torchvision's 0.01 is meant for far longer runs."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weights decay, biases and normalisation do not."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def load_checkpoint(path: Path) -> nn.Module:
    """The network that `train` left in `path`. Raises WeightsError when it is not one."""
    network = build_network()
    try:
        network.load_state_dict(torch.load(path, weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        line = str(error).splitlines()[0] if str(error) else "it is cut short"
        raise WeightsError(f"{path} is not a checkpoint of this trainer: {line}") from error
    return network


def validation_line(network: nn.Module, held: Held, size: int) -> str:
    """Accuracies on the validation faces, for the log."""
    network.eval()
    folder = predict_torch(network, held.folder.centres(size))
    scenes = predict_torch(network, held.scenes.centres(size))
    large = held.scenes.width >= 24
    wrong = large & (held.scenes.labels == 2)
    return (
        f"12k {accuracy(folder, held.folder.labels):.4f} "
        f"scenes {accuracy(scenes, held.scenes.labels):.4f} "
        f">=24px {accuracy(scenes[large], held.scenes.labels[large]):.4f} "
        f"incorrect {accuracy(scenes[wrong], held.scenes.labels[wrong]):.3f}"
    )


def parse(arguments: list[str]) -> tuple[argparse.Namespace, TrainConfig]:
    """Command line to settings. Raises ConfigError on a setting that cannot work."""
    parser = argparse.ArgumentParser(prog="python -m trainer.train", description=__doc__)
    parser.add_argument("--faces12k", type=Path, required=True, help="Face Mask 12K folder")
    parser.add_argument("--voc", type=Path, required=True, help="Face Mask Detection folder (VOC)")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and card")
    parser.add_argument("--name", default="maskstream-v1", help="name of the weights")
    parser.add_argument(
        "--checkpoint", type=Path, help="train nothing: export and measure these weights (.pt)"
    )
    parser.add_argument(
        "--report-test", action="store_true", help="measure the 12K Test part too: once, at the end"
    )
    config = TrainConfig()
    numbers = [f.name for f in fields(config) if f.type in ("int", "float", int, float)]
    for name in numbers:
        default = getattr(config, name)
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(default), default=default, help="(%(default)s)")
    options = parser.parse_args(arguments)
    return options, replace(config, **{name: getattr(options, name) for name in numbers})


def main(arguments: list[str] | None = None) -> int:
    """Train, calibrate, export, measure, write the card; 2 when data or a setting is wrong."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options, config = parse(words)
        held = read_held(options.faces12k, options.voc)
        pools = read_training(options.faces12k, options.voc, held, config.painted, config.seed)
        print({name: len(crops) for name, crops in pools.items()}, flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        if options.checkpoint:
            network = load_checkpoint(options.checkpoint)
        else:
            network = train(pools, held, config, options.out / f"{options.name}.pt")
        sizes = {name: len(crops) for name, crops in pools.items()}
        card = export(
            network,
            held,
            config,
            options.out,
            options.name,
            sizes,
            report_test=options.report_test,
        )
    except (ConfigError, DataError, WeightsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out / card.name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
