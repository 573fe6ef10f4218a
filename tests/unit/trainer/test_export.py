"""A whole export in small: the files, the card and its figures belong together."""

import shlex

import numpy as np
import pytest
import torch

from models.mobilenet_v3 import build_network, load_network
from models.registry import resolve
from trainer.config import TrainConfig
from trainer.data import INCORRECT, WIDE, Crops
from trainer.export import command, export
from trainer.sets import Held
from trainer.train import parse

CONFIG = TrainConfig(size=32, small_size=32, epochs=3, small_epochs=1)


def crops(labels, seed):
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), WIDE, WIDE, 3), np.uint8)
    return Crops(images, np.array(labels), np.full(len(labels), 30, np.float32))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    held = Held(crops([0, 1, 0, 1], 1), crops([0, 1, INCORRECT], 2), crops([0, 1], 3))
    folder = tmp_path_factory.mktemp("weights")
    network = build_network().eval()
    card = export(network, held, CONFIG, folder, "tiny", {"folder_with": 4})
    return folder, network, card


def test_the_exported_files_resolve_and_hold_the_network(exported):
    folder, network, card = exported
    weights = resolve(str(folder))
    assert weights.card.files == dict(card.files)
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(load_network(weights)(image), network(image))


def test_the_card_shows_what_was_measured(exported):
    _, _, card = exported
    scenes = card.figures["street scenes, validation, all faces"]
    assert scenes["faces"] == 3
    assert sum(map(sum, scenes["confusion (rows: true)"])) == 3
    assert "recall_incorrect_interval" in scenes
    assert card.figures["largest difference of a probability, torch against OpenVINO"] < 1e-2
    assert not any("Test" in title for title in card.figures), "not asked for, not measured"


def test_the_command_in_the_card_is_understood_and_means_the_same():
    words = shlex.split(command(CONFIG, "tiny", report_test=True))
    assert words[:3] == ["python", "-m", "trainer.train"]
    options, config = parse(words[3:])
    assert config == CONFIG
    assert options.name == "tiny"
    assert options.report_test
