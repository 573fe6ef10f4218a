"""Where a training starts: random weights, ImageNet's features, or earlier weights."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights

from models.errors import InputError, WeightsError
from models.mobilenet_v3 import build_network
from models.registry import resolve
from trainer.teacher import EfficientNetLite0, imagenet_lite0

State = dict[str, Tensor]


SERVED = "mobilenet_v3_large"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    SERVED: build_network,
    "efficientnet_lite0": EfficientNetLite0,
}


def start_network(init: str, name: str = SERVED) -> nn.Module:
    """The network `name` as training finds it; `init` is scratch, imagenet or a path.

    Random parts follow torch's seed. Raises InputError when `init` cannot be had or does not fit.
    """
    if (name, init) == ("efficientnet_lite0", "imagenet"):
        return imagenet_lite0()
    network = NETWORKS[name]()
    if init == "scratch":
        return network
    state = imagenet_state() if init == "imagenet" else file_state(Path(init))
    if not any(name.startswith("head.") for name in state):
        # A torchvision network: its classifier has other layers than our head.
        fresh = {k: v for k, v in network.state_dict().items() if k.startswith("head.")}
        state = {k: v for k, v in state.items() if not k.startswith("classifier.")} | fresh
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        line = str(error).splitlines()[-1].strip()
        raise InputError(
            f"--init {init}: not the weights of {name} as we build it ({line[:160]})"
        ) from error
    return network


def imagenet_state() -> State:
    """ImageNet's weights, downloaded by torchvision or from its cache.

    Raises InputError when the download is impossible.
    """
    try:
        return dict(MobileNet_V3_Large_Weights.IMAGENET1K_V2.get_state_dict(check_hash=True))
    except (OSError, RuntimeError) as error:  # no network; a download cut short
        raise InputError(
            f"ImageNet's weights cannot be downloaded ({error}): give --init PATH "
            "(a torchvision state dict, a checkpoint, a model card) or --init scratch"
        ) from error


def file_state(path: Path) -> State:
    """The weights in a card's files, in safetensors, in a checkpoint of ours or of torchvision.

    Raises InputError when the file is missing or is none of these.
    """
    try:
        if path.suffix == ".json" or path.is_dir():
            path = resolve(str(path)).torch_path
        if path.suffix == ".safetensors":
            return {name: value.float() for name, value in load_file(path).items()}
        return _bare(torch.load(path, weights_only=True, map_location="cpu"))
    except WeightsError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"cannot read the weights {path}: {error.strerror or error}") from error
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
        line = str(error).partition("\n")[0] or "it is cut short"
        if isinstance(error, pickle.UnpicklingError):
            line = "no checkpoint"  # torch's own words advise to load it unsafely
        raise InputError(
            f"{path} holds no weights ({line}): give a model card, safetensors, a checkpoint of "
            "this trainer or a torchvision state dict"
        ) from error


def _bare(saved: Any) -> State:
    """The network's own weights, whatever they were saved within. Raises TypeError on others."""
    if isinstance(saved, Mapping) and "state_dict" in saved:
        inside = saved["state_dict"]
        saved = {k.removeprefix("network."): v for k, v in inside.items() if "network." in k}
    if not isinstance(saved, Mapping) or not all(isinstance(v, Tensor) for v in saved.values()):
        raise TypeError("no state dict")
    return dict(saved)
