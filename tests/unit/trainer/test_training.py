"""Settings, drawing of faces, augmentation, painting of training faces, a few steps of training."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from models.errors import WeightsError
from trainer import augment as views
from trainer.config import ConfigError, Shares, TrainConfig
from trainer.data import INCORRECT, WIDE, WITH_MASK, WITHOUT_MASK, Crops
from trainer.sets import Held, batches, draw, normalise, paint_pools
from trainer.train import load_checkpoint, main, parse, train

LANDMARKS = np.array([[54, 54], [90, 54], [72, 75], [57, 96], [87, 96]], np.float32)
TINY = TrainConfig(
    epochs=1, small_epochs=1, small_size=32, faces_per_epoch=32, batch=16, workers=0, threads=1
)


def crops(label, count=6, seed=0, width=100.0):
    images = np.random.default_rng(seed).integers(0, 256, (count, WIDE, WIDE, 3), dtype=np.uint8)
    return Crops(images, np.full(count, label), np.full(count, width, np.float32))


def pools():
    return {
        "folder_with": crops(WITH_MASK),
        "scene_with": crops(WITH_MASK),
        "painted_with": crops(WITH_MASK),
        "folder_without": crops(WITHOUT_MASK),
        "scene_without": crops(WITHOUT_MASK),
        "scene_incorrect": crops(INCORRECT, count=2),
        "painted_incorrect": crops(INCORRECT),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"size": 8},
        {"small_epochs": 99},
        {"ema_decay": 1.0},
        {"label_smoothing": 1.0},
        {"learning_rate": 0.0},
        {"workers": -1},
    ],
)
def test_settings_that_cannot_work_are_named(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        TrainConfig(**change)


def test_shares_must_be_a_distribution():
    with pytest.raises(ConfigError, match="add up to 1"):
        Shares(folder_with=0.9)


def test_flags_become_settings_and_bad_ones_an_exit_code(tmp_path, capsys):
    words = ["--faces12k", str(tmp_path), "--voc", str(tmp_path), "--out", str(tmp_path / "o")]
    _, config = parse([*words, "--epochs", "30", "--learning-rate", "0.01"])
    assert config == replace(TrainConfig(), epochs=30, learning_rate=0.01)
    assert main([*words, "--epochs", "0"]) == 2
    assert main(words) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_an_epoch_is_drawn_by_shares_and_by_seed():
    config = replace(TINY, faces_per_epoch=1600)
    order = draw(pools(), Shares(), config, epoch=0)
    assert order == draw(pools(), Shares(), config, epoch=0)
    assert order != draw(pools(), Shares(), config, epoch=1)
    assert order != draw(pools(), Shares(), replace(config, seed=8), epoch=0)
    assert len(order) == 1600
    rare = [index for source, index in order if source == "scene_incorrect"]
    assert len(rare) == round(Shares().scene_incorrect * 1600)
    assert rare.count(0) == rare.count(1)


def drawn_twice(workers):
    config = replace(TINY, workers=workers)
    return [[*batches(pools(), config, 0)] for _ in range(2)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_whole_and_the_same_for_the_same_seed(workers):
    # Workers are forked, which a process full of other libraries' threads does not survive: here
    # it is one that runs nothing but the trainer, as the real one does.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        first, again = alone.submit(drawn_twice, workers).result(timeout=100)
    assert sum(len(labels) for _, labels in first) == 32
    for (images, labels), (others, also) in zip(first, again, strict=True):
        assert images.shape[1:] == (32, 32, 3)
        assert torch.equal(images, others)
        assert torch.equal(labels, also)


def test_training_sees_rgb():
    blue = {name: replace(p, images=p.images // 2) for name, p in pools().items()}
    for crops_of in blue.values():
        crops_of.images[..., 0] += 128
    images = torch.cat([images for images, _ in batches(blue, TINY, 0)]).float()
    red, _, blue_mean = images.mean(dim=(0, 1, 2))
    assert blue_mean > red + 20


STEPS = (views.occlude, views.recolour, views.dim, views.blur, views.shrink, views.compress)


@pytest.mark.parametrize("step", STEPS)
def test_every_augmentation_keeps_shape_and_changes_pixels(step):
    image = crops(0, count=1).images[0][:80, :80]
    for seed in range(4):
        out = step(image, np.random.default_rng(seed))
        assert out.shape == image.shape
        assert out.dtype == np.uint8
        assert (out != image).any()


def test_a_view_keeps_the_middle_of_the_face_in_sight():
    wide = np.zeros((WIDE, WIDE, 3), np.uint8)
    wide[66:78, 66:78] = 255
    for seed in range(20):
        view = views.move(wide, 112, np.random.default_rng(seed))
        rows, columns = np.nonzero(view[:, :, 0] > 128)
        assert abs(rows.mean() - 56) < 12
        assert abs(columns.mean() - 56) < 12


def test_painted_faces_have_the_label_of_their_way_of_wearing():
    painted = paint_pools(pools(), 16, lambda _: LANDMARKS, np.random.default_rng(0))
    assert (painted["painted_with"].labels == WITH_MASK).all()
    assert (painted["painted_incorrect"].labels == INCORRECT).all()
    assert (len(painted["painted_with"]), len(painted["painted_incorrect"])) == (4, 12)


def test_normalised_white_and_black_are_what_the_card_says():
    rgb = torch.tensor([[[[255, 0, 255]]]], dtype=torch.uint8)
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(normalise(rgb)[0, :, 0, 0], expected)


def test_training_twice_with_one_seed_gives_the_same_weights(tmp_path, capsys):
    held = Held(crops(WITH_MASK), crops(INCORRECT), crops(WITHOUT_MASK))
    states = [train(pools(), held, TINY, tmp_path / "t.pt").state_dict() for _ in range(2)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    saved = torch.load(tmp_path / "t.pt", weights_only=True)
    assert torch.equal(saved["head.6.bias"], states[0]["head.6.bias"])
    assert "incorrect" in capsys.readouterr().out


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "broken.pt"
    for content in (b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"broken\.pt"):
            load_checkpoint(path)
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"broken\.pt"):
        load_checkpoint(path)
