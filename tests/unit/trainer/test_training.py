"""Drawing of faces, their views, painting of training faces, whole runs in small."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import cv2
import numpy as np
import pytest
import torch

from models.mobilenet_v3 import build_network
from models.registry import resolve
from stream_server import cli
from trainer import augment as views
from trainer.config import Shares, TrainConfig
from trainer.data import INCORRECT, WIDE, WITH_MASK, WITHOUT_MASK, Crops, DataError
from trainer.sets import (
    Draw,
    Held,
    Order,
    Stills,
    Views,
    draw,
    no_crops,
    normalise,
    paint_pools,
    read_faces,
    read_held,
    read_pools,
    split_by_picture,
)

LANDMARKS = np.array([[54, 54], [90, 54], [72, 75], [57, 96], [87, 96]], np.float32)
TINY = TrainConfig(
    epochs=2, small_share=0.5, small_size=32, size=40, faces_per_epoch=32, batch=16, workers=0
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


def sizes():
    return {name: len(crops) for name, crops in pools().items()}


# --- drawing --------------------------------------------------------------------------------------


def test_an_epoch_is_drawn_by_shares_and_by_seed():
    config = replace(TINY, faces_per_epoch=1600)
    order = draw(sizes(), config, epoch=0)
    assert order == draw(sizes(), config, epoch=0)
    assert order != draw(sizes(), config, epoch=1)
    assert order != draw(sizes(), replace(config, seed=8), epoch=0)
    assert len(order) == 1600
    rare = [index for source, index in order if source == "scene_incorrect"]
    present = sum(getattr(Shares(), name) for name in sizes())
    assert len(rare) == round(Shares().scene_incorrect / present * 1600)
    assert rare.count(0) == pytest.approx(rare.count(1), abs=1)


def test_without_shares_each_face_comes_once_an_epoch():
    config = replace(TINY, shares=None, faces_per_epoch=None, batch=2)
    order = draw(sizes(), config, epoch=3)
    assert len(order) == len(set(order)) == sum(sizes().values())


def test_sources_without_a_share_are_named():
    config = replace(TINY, shares=Shares(**dict.fromkeys(sizes(), 0.0)))
    with pytest.raises(DataError, match=r"shares.*scene_incorrect"):
        draw(sizes(), config, 0)


def test_too_few_faces_for_a_batch_are_an_error():
    config = replace(TINY, shares=None, faces_per_epoch=None)
    with pytest.raises(DataError, match=r"3 training faces .* batch of 16"):
        Order({"folder_with": 3}, config)


def test_several_processes_share_an_epoch_between_them():
    config = replace(TINY, faces_per_epoch=80)
    alone = list(Order(sizes(), config))
    shared = [list(Order(sizes(), config, rank, 2)) for rank in range(2)]
    assert [len(part) for part in shared] == [2, 2]
    assert [b for pair in zip(*shared, strict=True) for b in pair] == alone[:4]


def test_batches_do_not_depend_on_who_makes_them():
    made = Views(pools(), TINY)
    first, second = list(Order(sizes(), TINY))
    images, labels = made[second]
    assert images.shape == (16, 32, 32, 3)
    assert images.dtype == torch.uint8
    again, also = Views(pools(), TINY)[second]
    assert torch.equal(images, again)
    assert torch.equal(labels, also)
    assert not torch.equal(images, made[first][0])


def test_a_face_that_comes_again_looks_different():
    pair = ("folder_with", 0)
    batches = [Draw(0, 0, (pair, pair)), Draw(0, 16, (pair,)), Draw(1, 0, (pair,))]
    seen = [
        view
        for batch in batches
        for view in Views(pools(), replace(TINY, small_share=1.0))[batch][0]
    ]
    for number, view in enumerate(seen):
        assert not any(torch.equal(view, other) for other in seen[:number])


def test_the_picture_grows_when_the_small_part_is_over():
    order = Order(sizes(), TINY)
    held = Stills(crops(WITH_MASK, 130), TINY)
    for epoch, size in ((0, 32), (1, 40)):
        order.set_epoch(epoch)
        held.set_epoch(epoch)
        assert Views(pools(), TINY)[next(iter(order))][0].shape[1:] == (size, size, 3)
        assert [held[key][0].shape for key in held] == [(128, size, size, 3), (2, size, size, 3)]


def test_training_and_validation_see_rgb():
    blue = {name: replace(p, images=p.images // 2) for name, p in pools().items()}
    for crops_of in blue.values():
        crops_of.images[..., 0] += 128
    held = Stills(blue["folder_with"], TINY)
    for images, _ in (Views(blue, TINY)[next(iter(Order(sizes(), TINY)))], held[32, 0]):
        red, _, blue_mean = images.float().mean(dim=(0, 1, 2))
        assert blue_mean > red + 20


def test_without_augmentation_a_view_is_what_the_server_sees():
    config = replace(TINY, augment=False)
    batch = next(iter(Order(sizes(), config)))
    source, index = batch.pairs[0]
    expected = pools()[source].centres(32)[index][:, :, ::-1]
    assert (Views(pools(), config)[batch][0][0].numpy() == expected).all()


# --- reading --------------------------------------------------------------------------------------


def draw_picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (60, 60), interpolation=cv2.INTER_CUBIC))


@pytest.fixture
def folders(tmp_path):
    """Class folders without splits: ten pictures each."""
    for number, name in enumerate(("with_mask", "without_mask", "incorrect")):
        for index in range(10):
            draw_picture(tmp_path / "data" / name / f"{index}.png", 100 * number + index)
    return tmp_path / "data"


def test_a_set_without_splits_is_split_by_picture(folders):
    draw_picture(folders / "with_mask" / "copy.png", 0)  # of 0.png
    faces = read_faces([folders])
    assert len(faces.train) + len(faces.validation) == 31
    assert 4 <= len(faces.validation) <= 10
    assert not faces.test
    masked = {f.path.name for f in faces.validation if f.label == WITH_MASK}
    assert len({"copy.png", "0.png"} & masked) in (0, 2)
    learning, held = split_by_picture(faces.train + faces.validation)
    assert (set(learning), set(held)) == (set(faces.train), set(faces.validation))


def test_splits_that_are_there_are_kept_and_nothing_held_is_learnt(folders, tmp_path):
    for split, shift in (("Train", 0), ("Validation", 1000), ("Test", 2000)):
        for number, name in enumerate(("WithMask", "WithoutMask", "incorrect")):
            for index in range(4):
                picture = tmp_path / "split" / split / name / f"{index}.png"
                draw_picture(picture, shift + 100 * number + index)
    draw_picture(tmp_path / "split" / "Train" / "WithMask" / "leak.png", 2000)
    faces = read_faces([tmp_path / "split"])
    assert [len(part) for part in (faces.train, faces.validation, faces.test)] == [13, 12, 12]
    held = read_held(faces)
    found = read_pools(faces, held, replace(TINY, painted=0, hard=0))
    assert {name: len(crops) for name, crops in found.items()} == {
        "folder_with": 4,
        "folder_without": 4,
        "folder_incorrect": 4,
    }
    assert list(held.choosing()) == ["folder"]


def test_broken_pictures_are_named_and_left_out(folders, capsys):
    (folders / "with_mask" / "broken.png").write_bytes(b"no picture")
    faces = read_faces([folders])
    assert len(faces.train) + len(faces.validation) == 30
    assert "broken.png" in capsys.readouterr().err


def test_a_class_that_nobody_can_learn_is_named(folders):
    for path in (folders / "incorrect").iterdir():
        path.unlink()
    (folders / "incorrect").rmdir()
    faces = read_faces([folders])
    with pytest.raises(DataError, match="no training face is incorrect"):
        read_pools(faces, read_held(faces), replace(TINY, painted=0, hard=0))


@pytest.mark.shared
def test_the_scenes_are_split_as_ever(shared_data):
    from trainer.data import read_scenes, split_scenes

    root = shared_data / "face-mask-detection"
    _, held = split_scenes(read_scenes(root))
    assert {f.path for f in read_faces([root]).validation} == {s.path for s in held if s.faces}


# --- views ----------------------------------------------------------------------------------------


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
    config = replace(TINY, painted=16, hard=0)
    painted = paint_pools(pools(), config, lambda _: LANDMARKS, np.random.default_rng(0))
    assert (painted["painted_with"].labels == WITH_MASK).all()
    assert (painted["painted_incorrect"].labels == INCORRECT).all()
    assert (len(painted["painted_with"]), len(painted["painted_incorrect"])) == (4, 12)


def test_nothing_can_be_painted_on_faces_without_landmarks():
    with pytest.raises(DataError, match="no landmarks"):
        paint_pools(pools(), TINY, lambda _: None, np.random.default_rng(0))


def test_normalised_white_and_black_are_what_the_card_says():
    rgb = torch.tensor([[[[255, 0, 255]]]], dtype=torch.uint8)
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(normalise(rgb)[0, :, 0, 0], expected)


# --- whole runs -----------------------------------------------------------------------------------


def held():
    return Held(crops(WITH_MASK, seed=3), crops(INCORRECT, seed=4), no_crops())


def trained(folder, config):
    """Runs in a process of its own; the workers are forked, which pytest's would not survive."""
    from trainer.train import fit

    torch.set_num_threads(1)
    return {k: v.numpy() for k, v in fit(pools(), held(), config, folder).state_dict().items()}


def test_one_seed_gives_the_same_weights_however_many_workers(tmp_path):
    runs = [
        replace(TINY, workers=0),
        replace(TINY, workers=2),
        replace(TINY, workers=0, seed=8),
    ]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        jobs = [alone.submit(trained, tmp_path / str(n), c) for n, c in enumerate(runs)]
        first, again, other = [job.result(timeout=100) for job in jobs]
    for name, value in first.items():
        assert np.array_equal(value, again[name]), name
    assert not np.array_equal(first["head.6.weight"], other["head.6.weight"])


SHORT = ("painted=0", "hard=0", "size=32", "small_size=32", "batch=16", "faces_per_epoch=16")


def command(data, out, *words, settings=SHORT):
    """`maskstream train`, in this process; its exit code."""
    sets = [word for setting in (*settings, "workers=0") for word in ("--set", setting)]
    return cli.run(["train", str(data), "--out", str(out), "--epochs", "1", *sets, *words])


@pytest.mark.timeout(300)
def test_a_run_leaves_weights_with_a_card_and_its_history(folders, tmp_path, capsys):
    out = tmp_path / "run"
    assert command(folders, out, "--name", "tiny", "--report-test") == 0
    card = resolve(str(out / "tiny.json")).card
    assert (card.preset, card.input_size) == ("best", 32)
    assert {path.name for path in out.iterdir()} >= {
        "config.yaml",
        "metrics.csv",
        "curves.png",
        "tensorboard",
        "checkpoints",
        "tiny.pt",
    }
    printed = capsys.readouterr().out
    assert "epoch 1/1 32 px" in printed
    assert "folder_incorrect" in printed
    assert f"wrote {out / 'tiny.json'}" in printed
    assert "face pictures, validation: faces" in printed
    assert command(folders, out) == 2
    assert "go on with --resume" in capsys.readouterr().err
    weights = (out / "tiny.safetensors").read_bytes()
    (out / "tiny.safetensors").unlink()
    assert cli.run(["train", str(folders), "--out", str(out), "--name", "tiny", "--resume"]) == 0
    assert (out / "tiny.safetensors").read_bytes() == weights
    assert "epoch 1/1" not in capsys.readouterr().out, "it was trained already"


@pytest.mark.timeout(300)
def test_a_teacher_is_trained_by_its_preset_and_taught_by_in_another_run(folders, tmp_path, capsys):
    out, size = tmp_path / "teacher", ("--set", "teacher_size=32")
    assert command(folders, out, "--preset", "teacher", "--name", "lite") == 0
    path = out / "lite.pt"
    assert f"--set teacher={path}" in capsys.readouterr().out
    assert not (out / "lite.json").exists(), "a teacher is not served"
    taught = tmp_path / "taught"
    assert command(folders, taught, "--set", f"teacher={path}", *size, "--name", "tiny") == 0
    assert (taught / "tiny.json").is_file()
    missing = tmp_path / "none.pt"
    assert command(folders, tmp_path / "other", "--set", f"teacher={missing}") == 2
    assert f"cannot read the weights {missing}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--preset", "worst"), "'worst'"),
        (("--set", "epoch=3"), "did you mean epochs"),
        (("--set", "epochs"), "KEY=VALUE"),
        (("--config", "none.yaml"), "none.yaml"),
        (("--init", "none.pt"), "none.pt"),
        (("--learning-rate", "0"), "learning_rate"),
        (("--resume",), "no run to resume"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(
    folders, tmp_path, capsys, monkeypatch, words, error
):
    monkeypatch.setattr("trainer.initial.imagenet_state", lambda: build_network().state_dict())
    assert command(folders, tmp_path / "run", *words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("maskstream: ")
    assert error in line
    assert not (tmp_path / "run").exists()


def test_data_that_is_none_leaves_no_run_behind(tmp_path, capsys):
    assert command(tmp_path / "nowhere", tmp_path / "run") == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_the_trainer_s_libraries_the_extra_is_named(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trainer.cli.importlib.util.find_spec", lambda _: None)
    assert command(folders, tmp_path / "run") == 2
    assert "pip install 'maskstream[train]'" in capsys.readouterr().err
