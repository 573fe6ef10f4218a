"""The network: torchvision's MobileNetV3-Large features under a head of three linear layers."""

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

from models.errors import WeightsError
from models.registry import Weights


class MaskNet(nn.Module):
    """MobileNetV3-Large for face crops.

    Takes normalised RGB, N x 3 x H x W, float; gives logits, N x classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        backbone = mobilenet_v3_large(weights=None)
        self.features = backbone.features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(
            nn.Linear(960, 1280),
            nn.Hardswish(),
            nn.Dropout(0.5),
            nn.Linear(1280, 640),
            nn.Hardswish(),
            nn.Dropout(0.5),
            nn.Linear(640, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes."""
        pooled = self.pool(self.features(images)).flatten(1)
        logits: Tensor = self.head(pooled)
        return logits


def build_network(num_classes: int = 3) -> nn.Module:
    """A network with random weights; forward takes normalised NCHW RGB and gives logits."""
    return MaskNet(num_classes)


def load_network(weights: Weights) -> nn.Module:
    """The network with the given weights, float32, in eval mode.

    Raises WeightsError when the file does not fit the network.
    """
    network = build_network(len(weights.card.labels))
    try:
        state = load_file(weights.torch_path)
        network.load_state_dict({name: value.float() for name, value in state.items()})
    except (SafetensorError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise WeightsError(
            f"{weights.torch_path} does not fit the network ({line}); export the weights again"
        ) from error
    return network.eval()
