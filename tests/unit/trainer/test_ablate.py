"""The ablation: every ingredient is really left out, and the table says what was measured."""

import json

import pytest

from tests.unit.trainer.test_training import draw_picture, pools
from trainer import ablate
from trainer.config import load_config
from trainer.sets import draw

BUDGET = {"epochs": 2, "faces_per_epoch": 640}


@pytest.mark.parametrize("name", [name for name in ablate.LEFT_OUT if name != "nothing"])
def test_each_run_differs_from_the_preset(name):
    config = load_config("best", settings={**BUDGET, **ablate.LEFT_OUT[name]})
    assert config != load_config("best", settings=BUDGET)


@pytest.mark.parametrize(
    ("name", "start"), [("painted masks", "painted"), ("street scenes", "scene")]
)
def test_sources_left_out_are_not_drawn(name, start):
    config = load_config("best", settings={**BUDGET, **ablate.LEFT_OUT[name]})
    sizes = {source: len(crops) for source, crops in pools().items()}
    drawn = {source for source, _ in draw(sizes, config, 0)}
    assert drawn == {source for source in sizes if not source.startswith(start)}


def test_the_table_has_the_mean_and_the_span_of_the_seeds():
    rows = {
        "nothing": [{"val_scenes_accuracy": 0.9}, {"val_scenes_accuracy": 0.8}],
        "augmentation": [{"val_scenes_accuracy": 0.5}, {"val_scenes_accuracy": 0.5}],
    }
    table = ablate.as_table(rows, load_config("best", settings=BUDGET))
    assert "| nothing | 0.850 (0.800 to 0.900) |" in table
    assert "| left out | scenes ≥ 24 px, accuracy |" in table
    assert "2 epochs of 640 views, 2 seed(s)" in table


def test_runs_are_compared_on_validation_faces(tmp_path, monkeypatch, capsys):
    trained = []

    def fit(found, held, config, folder):
        trained.append((sorted(found), config))
        (folder / "metrics.csv").write_text("epoch,val_folder_accuracy\n0,0.1\n1,0.75\n")

    monkeypatch.setattr(ablate, "fit", fit)
    monkeypatch.setattr(ablate, "read_pools", lambda *_: pools())
    for number, name in enumerate(("with_mask", "without_mask", "incorrect")):
        for index in range(8):
            draw_picture(tmp_path / "data" / name / f"{index}.png", 100 * number + index)
    words = [str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--epochs", "2"]
    words += ["--only", "nothing", "moving average", "--seeds", "1", "2"]
    assert ablate.main(words) == 0
    assert [(c.ema_decay, c.seed, c.epochs) for _, c in trained] == [
        (0.995, 1, 2),
        (0.995, 2, 2),
        (None, 1, 2),
        (None, 2, 2),
    ]
    assert "| moving average | 0.750 (0.750 to 0.750) |" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert record["rows"]["nothing"][0]["val_folder_accuracy"] == 0.75
    assert ablate.main(words) == 0, "it goes on where it was"
    del trained[:]
    teacher = str(tmp_path / "teacher.pt")
    assert ablate.main([*words, "--teacher", teacher]) == 0
    assert [config.teacher for _, config in trained] == [None] * 4 + [teacher] * 2
    assert "| nothing, a teacher added | 0.750" in capsys.readouterr().out


def test_wrong_data_is_one_line(tmp_path, capsys):
    assert ablate.main([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "none" in capsys.readouterr().err
