"""A run that was killed and resumed ends as one that was not; what a run's folder refuses."""

import csv
import os
import signal
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch

from tests.unit.trainer.test_training import TINY, held, pools
from trainer.config import ConfigError, TrainConfig
from trainer.train import fit, open_run, read_run

RUN = replace(TINY, epochs=4, patience=4, threads=1)


@pytest.fixture
def threads():
    """A run sets torch's threads; what comes after it gets back what it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def train_until_killed(folder, config):
    """What the child runs: a training that is killed in the middle of its third epoch."""
    from trainer.module import MaskModule

    plain = MaskModule.training_step

    def step(module, batch, number):
        if module.current_epoch == 2 and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(module, batch, number)

    MaskModule.training_step = step
    fit(pools(), held(), config, folder)


def read_history(folder):
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "faces_per_second"} for row in rows]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "changed",
    [{}, {"ema_decay": None, "schedule": "cosine", "select": "val_accuracy"}],
    ids=["average", "plain"],
)
def test_a_killed_run_resumes_to_the_very_same_weights(tmp_path, threads, changed):
    config = replace(RUN, **changed)
    process = get_context("spawn").Process(
        target=train_until_killed, args=(tmp_path / "killed", config)
    )
    process.start()
    whole = fit(pools(), held(), config, tmp_path / "whole").state_dict()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL
    assert len(read_history(tmp_path / "killed")) == 2
    resumed = fit(pools(), held(), config, tmp_path / "killed").state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert read_history(tmp_path / "killed") == read_history(tmp_path / "whole")
    assert [row["epoch"] for row in read_history(tmp_path / "whole")] == ["0", "1", "2", "3"]


def test_a_run_stands_in_its_folder_and_is_not_overwritten(tmp_path):
    config = TrainConfig(epochs=3)
    open_run(tmp_path / "run", config, resume=False)
    assert read_run(tmp_path / "run") == config
    (tmp_path / "run" / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match=r"holds a run: go on with --resume"):
        open_run(tmp_path / "run", config, resume=False)
    open_run(tmp_path / "run", config, resume=True)


def test_a_run_that_ended_before_its_first_epoch_is_in_nobody_s_way(tmp_path):
    open_run(tmp_path, TrainConfig(epochs=3), resume=False)
    open_run(tmp_path, TrainConfig(epochs=4), resume=False)
    assert read_run(tmp_path).epochs == 4


def test_a_run_is_not_resumed_with_other_settings(tmp_path):
    open_run(tmp_path, TrainConfig(epochs=3), resume=False)
    with pytest.raises(ConfigError, match=r"epochs is 3 in the run .* and 4 now"):
        open_run(tmp_path, TrainConfig(epochs=4), resume=True)


def test_machine_settings_may_differ(tmp_path):
    open_run(tmp_path, TrainConfig(workers=1), resume=False)
    other = TrainConfig(workers=3, threads=2)
    open_run(tmp_path, other, resume=True)


def test_what_is_no_run_cannot_be_resumed(tmp_path):
    with pytest.raises(ConfigError, match="no run to resume"):
        open_run(tmp_path, TrainConfig(), resume=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*file"):
        open_run(tmp_path / "file" / "run", TrainConfig(), resume=False)
