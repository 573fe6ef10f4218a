"""Settings of a training: presets, file, flags, and what cannot work."""

import string
from dataclasses import asdict, replace
from importlib.resources import files

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import (
    NAMES,
    PRESETS,
    ConfigError,
    Shares,
    TrainConfig,
    changes,
    load_config,
    parse_settings,
    to_yaml,
)


def test_the_seed_recipe_is_that_of_the_project_s_seed():
    seed = load_config("seed")
    assert (seed.init, seed.freeze_features, seed.size) == ("imagenet", True, 224)
    assert (seed.loss, seed.focal_alpha, seed.focal_gamma) == ("focal", 1, 2)
    assert (seed.batch, seed.learning_rate, seed.weight_decay) == (32, 1e-4, 1e-4)
    assert (seed.epochs, seed.patience, seed.select) == (30, 7, "val_accuracy")
    assert seed.augment
    assert seed.report_test
    assert seed.schedule != "constant"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_every_setting_that_its_run_reads(preset):
    text = (files("trainer") / "presets" / f"{preset}.yaml").read_text()
    missing = set(NAMES) - yaml.safe_load(text).keys() - {"preset"}
    focal = {"focal_alpha", "focal_gamma"}
    taught = {"teacher_share", "teacher_temperature", "teacher_size"}
    unused = {"best": focal, "seed": {"faces_per_epoch"} | taught, "teacher": focal | taught}
    assert missing <= unused[preset]


def test_the_file_and_then_the_flags_take_the_preset_s_place(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: seed\nepochs: 3\nbatch: 8\n")
    found = load_config(file=file, settings={"batch": 16})
    assert found == replace(load_config("seed"), epochs=3, batch=16)
    assert load_config("best", file).preset == "best"
    assert load_config() == load_config("best")


def test_dots_reach_into_shares():
    found = load_config(settings={"shares.scene_with": 0.5})
    assert found.shares == replace(Shares(), scene_with=0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"size": 8}, "size"),
        ({"small_share": 1.5}, "small_share"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"label_smoothing": 0.1, "loss": "focal"}, "label_smoothing"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"workers": -1}, "workers"),
        ({"schedule": "weekly"}, "one_cycle"),
        ({"freeze_features": True}, "imagenet"),
        ({"faces_per_epoch": 10}, "one batch, 64"),
        ({"faces_per_epoch": None}, "shares and faces_per_epoch"),
        ({"shares.scene_with": -1}, "shares.scene_with"),
        ({"shares": dict.fromkeys(asdict(Shares()), 0)}, "at least one"),
        ({"epoch": 3}, "did you mean epochs"),
        ({"shares.scene_wit": 0.1}, "did you mean scene_with"),
        ({"zzz": 3}, "known are .*learning_rate"),
        ({"epochs.deep": 3}, "epochs"),
    ],
)
def test_what_cannot_work_is_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        load_config(settings=settings)


def test_every_mistake_has_its_line():
    with pytest.raises(ConfigError) as caught:
        load_config(settings={"epochs": 0, "batch": "many"})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "epochs",
        "batch",
    ]


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigError, match=r"'worst'.*best and seed"):
        load_config("worst")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"- 1\n", "KEY: VALUE"), (b"a: [", "not YAML"), (b"\xff\xfe", "not YAML"), (None, "No such")],
)
def test_a_file_without_settings_is_named(tmp_path, content, words):
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"mine\.yaml.*{words}"):
        load_config(file=file)


def test_flags_are_yaml():
    found = parse_settings(["ema_decay=null", "learning-rate=1e-3", "shares.scene_with=0.2"])
    assert found == {"ema_decay": None, "learning_rate": "1e-3", "shares.scene_with": 0.2}
    assert load_config(settings=found).learning_rate == 1e-3


@pytest.mark.parametrize("word", ["epochs", "=3", "a=[", " =1"])
def test_flags_that_are_none_are_named(word):
    with pytest.raises(ConfigError, match="--set"):
        parse_settings([word])


def test_changes_are_what_it_takes_to_get_there_from_the_preset():
    config = load_config("seed", settings={"epochs": 4, "init": "some/where.pt"})
    assert changes(config) == {"epochs": 4, "init": "some/where.pt"}
    assert changes(load_config("best")) == {}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 1000),
            "init": st.text(string.printable, min_size=1),
            "learning_rate": st.floats(1e-9, 10),
            "ema_decay": st.none() | st.floats(0.1, 0.999),
            "augment": st.booleans(),
        },
    )
)
def test_a_run_s_settings_are_read_again_as_they_were_written(tmp_path_factory, settings):
    config = load_config(settings=settings)
    file = tmp_path_factory.mktemp("run") / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(file=file) == config


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_picture_is_small_in_the_first_part_of_the_run(share):
    config = TrainConfig(epochs=8, small_share=share)
    sizes = [config.size_at(epoch) for epoch in range(8)]
    assert sizes == [64] * round(8 * share) + [96] * (8 - round(8 * share))
