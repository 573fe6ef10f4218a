"""What every `FaceClassifier` keeps: the probabilities of torch in fp32 on the CPU."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from models.crop import crop_face
from models.mobilenet_v3 import load_network
from models.registry import Weights, resolve
from stream_server.classify.openvino import OpenVinoClassifier
from stream_server.classify.replicas import Replicas
from stream_server.classify.torch_cuda import TorchClassifier
from stream_server.frames import Pixels
from stream_server.ports import FaceClassifier

Reference = Callable[[Pixels], np.ndarray]
FACE = (178, 60, 272, 177)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return resolve()


@pytest.fixture(scope="module")
def reference(weights: Weights) -> Reference:
    """Written without the code under test: numpy and torch."""
    network, card = load_network(weights), weights.card

    def probabilities(crops: Pixels) -> np.ndarray:
        rgb = crops[..., ::-1].astype(np.float32) / 255
        normalised = (rgb - np.float32(card.mean)) / np.float32(card.std)
        with torch.no_grad():
            logits = network(torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy()))
        return torch.softmax(logits / card.temperature, 1).numpy()

    return probabilities


TORCH_DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(scope="module", params=["openvino", "replicas", *TORCH_DEVICES])
def classifier(request: pytest.FixtureRequest, weights: Weights) -> FaceClassifier:
    if request.param == "openvino":
        return OpenVinoClassifier(weights)
    if request.param == "replicas":
        return Replicas([TorchClassifier(weights, device="cpu") for _ in range(2)])
    return TorchClassifier(weights, device=request.param)


def _noise(count: int, size: int) -> Pixels:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), np.uint8)


def _portraits(size: int) -> Pixels:
    """The astronaut's face as it is, darker, with its lower half covered, and shifted about."""
    bgr = np.ascontiguousarray(astronaut()[:, :, ::-1])
    covered = bgr.copy()
    covered[125:177, 180:270] = (200, 150, 120)
    pictures = [(bgr, 0), (bgr // 2, 0), (covered, 0), (bgr, 12), (covered, -10), (bgr, 200)]
    return np.stack(
        [
            crop_face(picture, (FACE[0] + by, FACE[1], FACE[2] + by, FACE[3]), 0.15, size)
            for picture, by in pictures
        ]
    )


@pytest.mark.parametrize("count", [0, 1, 3, 8, 33])
def test_probabilities_of_noise(
    classifier: FaceClassifier, reference: Reference, count: int
) -> None:
    crops = _noise(count, classifier.input_size)
    rows = classifier.classify(crops)
    assert rows.shape == (count, len(classifier.labels))
    assert rows.dtype == np.float32
    assert np.allclose(rows, reference(crops), atol=1e-2)


def test_probabilities_of_faces(classifier: FaceClassifier, reference: Reference) -> None:
    crops = _portraits(classifier.input_size)
    wanted = reference(crops)
    assert np.ptp(wanted, axis=0).max() > 0.5, "the pictures must not all look the same to it"
    assert np.allclose(classifier.classify(crops), wanted, atol=1e-2)


def test_colours_are_not_swapped(classifier: FaceClassifier, reference: Reference) -> None:
    crops = _portraits(classifier.input_size)
    swapped = np.ascontiguousarray(crops[..., ::-1])
    assert not np.allclose(reference(crops), reference(swapped), atol=2e-2)
    assert np.allclose(classifier.classify(swapped), reference(swapped), atol=1e-2)


def test_rows_are_probabilities(classifier: FaceClassifier) -> None:
    rows = classifier.classify(_noise(9, classifier.input_size))
    assert rows.sum(1) == pytest.approx(np.ones(9), abs=1e-5)
    assert (rows >= 0).all()


def test_a_crop_s_row_does_not_depend_on_its_batch(classifier: FaceClassifier) -> None:
    crops = _noise(7, classifier.input_size)
    together = classifier.classify(crops)
    alone = np.concatenate([classifier.classify(crop[None]) for crop in crops])
    assert np.allclose(together, alone, atol=1e-4)


def test_crops_are_not_written_to_nor_rows_reused(classifier: FaceClassifier) -> None:
    crops = _noise(3, classifier.input_size)
    before = crops.copy()
    crops.setflags(write=False)
    rows = classifier.classify(crops)
    kept = rows.copy()
    classifier.classify(_portraits(classifier.input_size))
    assert np.array_equal(crops, before)
    assert np.array_equal(rows, kept)


def test_wrong_shapes_are_refused(classifier: FaceClassifier) -> None:
    size = classifier.input_size
    for shape in ((size, size, 3), (1, size + 1, size, 3), (1, 3, size, size)):
        with pytest.raises(ValueError, match="expected uint8 crops"):
            classifier.classify(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="expected uint8 crops"):
        classifier.classify(np.zeros((1, size, size, 3), np.float32))  # type: ignore[arg-type]


def test_it_says_what_it_needs(classifier: FaceClassifier, weights: Weights) -> None:
    assert tuple(classifier.labels) == weights.card.labels
    assert classifier.input_size == weights.card.input_size
