"""What is learnt and what is not; where weights come from; averages and figures."""

import copy
import json
from urllib.error import URLError

import pytest
import torch
from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large

from models.errors import InputError
from models.mobilenet_v3 import build_network
from models.registry import SHIPPED
from trainer.config import TrainConfig
from trainer.initial import file_state, start_network
from trainer.module import Average, MaskModule, build_schedule, parameter_groups

SMALL = {"small_size": 32, "size": 32}


def batch(count=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=draw)
    return images, torch.arange(count) % 3


def same(network, state, part=""):
    return all(torch.equal(v, state[k]) for k, v in network.state_dict().items() if part in k)


# --- where it starts ------------------------------------------------------------------------------


def test_a_scratch_network_follows_the_seed():
    torch.manual_seed(1)
    first = start_network("scratch").state_dict()
    torch.manual_seed(1)
    assert same(start_network("scratch"), first)


@pytest.mark.parametrize("kind", ["state", "checkpoint"])
def test_earlier_weights_are_taken_whole(tmp_path, kind):
    network = build_network()
    state = network.state_dict()
    inside = {f"network.{name}": value for name, value in state.items()}
    torch.save(state if kind == "state" else {"state_dict": inside, "epoch": 3}, tmp_path / "w.pt")
    assert same(start_network(str(tmp_path / "w.pt")), state)


def test_of_a_torchvision_network_the_features_are_taken(tmp_path):
    other = mobilenet_v3_large(weights=None).state_dict()
    torch.save(other, tmp_path / "imagenet.pth")
    network = start_network(str(tmp_path / "imagenet.pth"))
    assert same(network, other, "features.")


def test_the_shipped_card_and_its_file_are_taken():
    card = next(SHIPPED.glob("*.json"))
    name = json.loads(card.read_text())["name"]
    by_card, by_file = file_state(card), file_state(SHIPPED / f"{name}.safetensors")
    assert same(start_network(str(card)), by_card)
    assert by_card.keys() == by_file.keys()
    assert by_card["head.6.bias"].dtype == torch.float32


@pytest.mark.parametrize("content", [b"", b"no weights", "tensor", "other", "dict"])
def test_a_file_without_our_weights_is_named(tmp_path, content):
    path = tmp_path / "broken.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(
            {
                "tensor": torch.zeros(1),
                "other": {"x": torch.zeros(1)},
                "dict": {"state_dict": {"network.features.0.0.weight": torch.zeros(1)}},
            }[content],
            path,
        )
    with pytest.raises(InputError, match=r"broken\.pt") as caught:
        start_network(str(path))
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.pt", "missing.json", "missing.safetensors"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(InputError, match="missing"):
        start_network(str(tmp_path / name))


def test_without_a_network_imagenet_names_the_ways_out(monkeypatch):
    def refuse(*_, **__):
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(InputError, match=r"--init PATH.*--init scratch"):
        start_network("imagenet")


def test_imagenet_s_features_are_taken_where_they_can_be_had(monkeypatch):
    other = mobilenet_v3_large(weights=None).state_dict()
    monkeypatch.setattr(MobileNet_V3_Large_Weights, "get_state_dict", lambda *_, **__: other)
    assert same(start_network("imagenet"), other, "features.")


# --- what is learnt -------------------------------------------------------------------------------


def step(module):
    optimiser = torch.optim.SGD(parameter_groups(module.network, 0.0), lr=0.1)
    module.log_dict = lambda *_, **__: None
    loss = module.training_step(batch(), 0)
    loss.backward()
    optimiser.step()


def test_frozen_features_neither_learn_nor_follow_their_batches():
    config = TrainConfig(freeze_features=True, init="imagenet", **SMALL)
    module = MaskModule(build_network(), config, 1, {"folder": {0, 1, 2}}).train()
    before = copy.deepcopy(module.network.state_dict())
    step(module)
    assert same(module.network, before, "features.")
    assert not torch.equal(module.network.state_dict()["head.6.weight"], before["head.6.weight"])


def test_the_whole_network_learns_and_follows_its_batches():
    module = MaskModule(build_network(), TrainConfig(**SMALL), 1, {"folder": {0, 1, 2}}).train()
    before = copy.deepcopy(module.network.state_dict())
    step(module)
    after = module.network.state_dict()
    for name in ("features.0.0.weight", "features.0.1.running_mean", "head.0.weight"):
        assert not torch.equal(after[name], before[name]), name


def test_only_weights_decay():
    decayed, plain = parameter_groups(build_network(), 0.1)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in plain["params"]} == {1}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("schedule", "low", "high"),
    [("one_cycle", 1e-3, 0.1), ("cosine", 1e-3, 0.1), ("constant", 0.1, 0.1)],
)
def test_the_learning_rate_goes_as_the_schedule_says(schedule, low, high):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    course = build_schedule(optimiser, TrainConfig(learning_rate=0.1, schedule=schedule), 50)
    rates = []
    for _ in range(50):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        course.step()
    assert max(rates) == pytest.approx(high)
    assert optimiser.param_groups[0]["lr"] <= low
    assert (rates[0] < rates[9]) == (schedule == "one_cycle")


# --- averages and figures -------------------------------------------------------------------------


def test_the_average_holds_weights_and_statistics_and_soon_forgets_the_start():
    module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    average = Average(0.9)
    averaged = torch.optim.swa_utils.AveragedModel(
        module, use_buffers=average._use_buffers, **average._kwargs
    )
    values = [1.0, 0.0, 0.0]
    for value in values:
        with torch.no_grad():
            module[0].weight.fill_(value)
            module[1].running_mean.fill_(value)
            module[1].num_batches_tracked.fill_(int(value) + 5)
        averaged.update_parameters(module)
    # A copy first, then decays of 2/11 and 3/12.
    expected = pytest.approx(2 / 11 * 3 / 12)
    assert averaged.module[0].weight.item() == expected
    assert averaged.module[1].running_mean.item() == expected
    assert averaged.module[1].num_batches_tracked.item() == 5


class Answers(torch.nn.Module):
    """Says of every face what it is told to."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, _):
        return torch.nn.functional.one_hot(torch.tensor(self.answers), 3).float() * 9


def test_validation_figures_are_those_of_the_faces(monkeypatch):
    sets = {"folder": {0, 1}, "scenes": {0, 1, 2}}
    network = Answers([])
    module = MaskModule(network, TrainConfig(), 1, sets)
    logged = {}
    monkeypatch.setattr(module, "log_dict", logged.update)
    images = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    network.answers = [0, 1, 0, 0]
    module.validation_step((images, torch.tensor([0, 1, 1, 1])), 0, 0)
    network.answers = [0, 1, 2, 1]
    module.validation_step((images, torch.tensor([0, 1, 2, 2])), 0, 1)
    module.on_validation_epoch_end()
    found = {key: float(value) for key, value in logged.items()}
    assert found["val_accuracy"] == pytest.approx(5 / 8)
    assert found["val_folder_accuracy"] == pytest.approx(2 / 4)
    assert found["val_scenes_accuracy"] == pytest.approx(3 / 4)
    assert found["val_scenes_recall_incorrect"] == found["val_recall_incorrect"] == 0.5
    assert found["val_scenes_macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert "val_folder_macro_f1" not in found, "it has no incorrect face"
    assert found["val_loss"] > 0
