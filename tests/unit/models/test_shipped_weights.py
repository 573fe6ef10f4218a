"""The shipped weights: one network in two formats, and right on faces that anyone can see."""

from dataclasses import replace

import numpy as np
import openvino as ov
import pytest
import torch
from safetensors.torch import save_file
from skimage.data import astronaut

from models import LABELS
from models.crop import crop_face
from models.mask_painter import paint_mask
from models.mobilenet_v3 import build_network, load_network
from models.registry import WeightsError, resolve

# CenterFace's answer on scikit-image's astronaut.
BOX = (182.0, 58.9, 269.6, 177.2)
LANDMARKS = np.array(
    [[203.3, 103.0], [247.1, 104.7], [223.9, 125.7], [204.3, 143.2], [242.0, 144.4]], np.float32
)


@pytest.fixture(scope="module")
def weights():
    return resolve()


@pytest.fixture(scope="module")
def probabilities(weights):
    """A function from crops (N x size x size x 3, BGR) to probabilities, by OpenVINO."""
    card = weights.card
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    network = ov.Core().compile_model(str(weights.openvino_path), "CPU", settings)

    def run(crops):
        logits = np.asarray(network([normalised(crops, card)])[0]) / card.temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    return run


def normalised(crops, card):
    rgb = crops[..., ::-1].astype(np.float32) / 255
    scaled = (rgb - np.array(card.mean, np.float32)) / np.array(card.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def test_torch_and_openvino_give_the_same_probabilities(weights, probabilities):
    size = weights.card.input_size
    crops = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    network = load_network(weights)
    assert not network.training
    with torch.inference_mode():
        logits = network(torch.from_numpy(normalised(crops, weights.card)))
    expected = torch.softmax(logits / weights.card.temperature, dim=1).numpy()
    np.testing.assert_allclose(probabilities(crops), expected, atol=1e-2)


@pytest.mark.parametrize("count", [1, 3])
def test_any_batch_size_is_taken(weights, probabilities, count):
    size = weights.card.input_size
    assert probabilities(np.zeros((count, size, size, 3), np.uint8)).shape == (count, len(LABELS))


@pytest.mark.parametrize(
    ("wearing", "label"),
    [(None, "without_mask"), ("correct", "with_mask"), ("nose_out", "incorrect")],
)
@pytest.mark.parametrize("style", ["surgical", "dark"])
def test_a_portrait_gets_the_right_verdict(weights, probabilities, wearing, label, style):
    picture = np.ascontiguousarray(astronaut()[:, :, ::-1])
    if wearing:
        rng = np.random.default_rng(1)
        picture = paint_mask(picture, LANDMARKS, wearing=wearing, style=style, rng=rng)
    card = weights.card
    crop = crop_face(picture, BOX, card.crop_margin, card.input_size)
    found = probabilities(crop[None])[0]
    assert card.labels[int(found.argmax())] == label
    assert found.max() >= card.uncertain_below


def test_weights_of_another_network_are_refused(weights, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors"):
        load_network(replace(weights, torch_path=tmp_path / "other.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightsError, match=r"cut\.safetensors"):
        load_network(replace(weights, torch_path=tmp_path / "cut.safetensors"))


def test_the_network_has_the_documented_head_and_takes_other_sizes():
    network = build_network(3).eval()
    widths = [(m.in_features, m.out_features) for m in network.head if hasattr(m, "in_features")]
    assert widths == [(960, 1280), (1280, 640), (640, 3)]
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 96, 96)).shape == (2, 3)
