"""Numbers as targets: learned in any units, predicted, measured, resumed and loaded in the user's."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import etude as library
from coloring import FAST, etude, with_pictures
from etude import LoadError, MixUp, vision
from numbered import learner, load, save


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """Numbers far from 0 with a small spread: 5000 plus brightness."""
    return save(tmp_path_factory.mktemp("numbers") / "data", label=lambda mean: f"{5000 + mean:.4f}")


@pytest.fixture(scope="module")
def run(bright):
    short = [
        "--target",
        "number",
        "--epochs",
        "10",
        "--precision",
        "fp32",
        "--quiet",
        "--run-dir",
        bright.parent / "run",
    ]
    with with_pictures():
        done = etude("train", bright, *FAST, *short, "--json")
    assert done.code == 0, done.errors
    return bright.parent / "run"


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "loss"),
    [((1.0, 0.0), "mse"), ((1e-4, 0.0), "mse"), ((1e4, -1e6), "l1"), ((1e4, -1e6), "huber")],
    ids=["as they are", "small", "large l1", "large huber"],
)
def test_brightness_is_learned_in_any_units(bright, units, loss):
    scale, shift = units

    def label(path, root):
        return float(np.asarray(Image.open(path)).mean()) * scale + shift

    found = learner(load(bright, valid=0.25, label=label), loss_fn=loss)
    found.fit(10, lr=1e-2)
    row = found.evaluate()

    assert row["r2"] > 0.8
    assert row["rmse"] < 25 * scale
    assert row["mae"] <= row["rmse"]


def test_two_numbers_are_learned_beside_each_other(tmp_path):
    data = load(save(tmp_path, label=lambda mean: f"{mean:.3f};{-mean / 1e3:.6f}"))
    found = learner(data)
    found.fit(10, lr=1e-2)
    prediction = found.predict(tmp_path / "000.png")

    assert list(prediction.numbers) == ["value 1", "value 2"]
    assert prediction.numbers["value 2"] == pytest.approx(-prediction.numbers["value 1"] / 1e3, abs=0.05)
    assert found.evaluate()["r2"] > 0.8


def test_mixed_pictures_are_learned(bright):
    found = learner(load(bright), callbacks=[MixUp(0.2)])
    found.fit(10, lr=1e-2)

    assert found.evaluate()["r2"] > 0.7


def test_a_model_of_ones_own_is_left_as_it_is(bright):
    own = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    made = vision.learner(own, load(bright), precision="fp32", progress=False)

    assert type(own[2]) is nn.Linear
    assert made.loss_fn.scale.tolist() == pytest.approx(list(made.data.numbers.std))


# -- using ------------------------------------------------------------------------------------------------------------


def test_a_run_says_how_far_off_it_is(run):
    result = json.loads((run / "result.json").read_text())

    assert result["valid_r2"] > 0.8
    assert result["valid_samples"] == 15
    assert (run / "predictions.png").exists()
    assert json.loads((run / "config.json").read_text())["options"]["target"] == "number"


def test_predictions_are_in_the_users_units_everywhere(run, bright):
    rows = [json.loads(line) for line in etude("predict", run, bright, "--format", "json").out.splitlines()]
    table = list(csv.DictReader(etude("predict", run, bright, "--format", "csv").out.splitlines()))
    loaded = library.load(run).predict(bright)

    assert [row["numbers"] for row in rows] == [prediction.numbers for prediction in loaded]
    assert [float(row["value"]) for row in table] == [row["numbers"]["value"] for row in rows]
    assert all(4900 < row["numbers"]["value"] < 5400 for row in rows)
    assert f"{rows[0]['numbers']['value']:.6g}" in etude("predict", run, rows[0]["file"]).out
    assert repr(loaded[0]).startswith("Prediction(value=5")


def test_evaluate_gives_what_training_gave(run, bright):
    own = json.loads((run / "result.json").read_text())
    done = etude("evaluate", run, "--data", bright, "--tta", "flip", "--json")
    plain = etude("evaluate", run, "--data", bright, "--json")

    assert plain.code == 0, plain.errors
    for name in ("mae", "rmse", "r2"):
        assert plain.json[name] == pytest.approx(own[f"valid_{name}"], rel=1e-4)
    assert (plain.json["samples"], plain.json["trained_on"]) == (15, 0)
    assert "R2 0." in plain.out.splitlines()[-2]
    assert done.out.splitlines()[-2].endswith("over 15 pictures, the mean of 2 views each")


def test_evaluate_refuses_numbers_of_another_count(run, tmp_path):
    done = etude("evaluate", run, "--data", save(tmp_path / "two", num=8, label=lambda mean: f"{mean};1"))

    assert done.code == 2
    assert "predicts 1 numbers (value), but the pictures in" in done.errors


def test_a_body_that_learned_numbers_lends_itself_to_classes_and_back(run, bright, tmp_path):
    for i in range(24):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        shutil.copy(bright / f"{i:03}.png", tmp_path / "ab"[i % 2])
    classes = vision.learner(run, vision.load(tmp_path, size=16, valid=0.25, progress=False), progress=False)
    numbers = vision.learner(run, load(bright), progress=False, precision="fp32")

    assert classes.model.eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 2)
    assert 4000 < numbers.predict(bright / "000.png").numbers["value"] < 6000


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_numbers(bright, tmp_path):
    flags = [
        "--target",
        "number",
        "--loss",
        "huber",
        *FAST,
        "--epochs",
        "2",
        "--precision",
        "fp32",
        "--quiet",
        "--json",
    ]
    whole = etude("train", bright, *flags, "--run-dir", tmp_path / "run").json
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "result.json").unlink()
    shutil.rmtree(max((tmp_path / "run" / "checkpoints").iterdir()))
    again = etude("resume", tmp_path / "run", "--json", "--quiet")

    assert again.code == 0, again.errors
    assert again.json["valid_rmse"] == whole["valid_rmse"]
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights


def test_data_check_and_show_know_numbers(bright, tmp_path):
    done = etude("data", "check", bright, "--target", "number", "--size", "16", "--json")
    assert done.json["numbers"]["names"] == ["value"]
    assert "value: mean 51" in done.out
    assert etude("data", "show", bright, "--target", "number", "--size", "16", "--out", tmp_path / "seen.png").code == 0


@pytest.mark.parametrize(
    "numbers",
    [
        5,
        {"names": ["a"], "mean": [0.0]},
        {"names": ["a"], "mean": ["0"], "std": [1.0]},
        {"names": ["a"], "mean": [0.0], "std": [0.0]},
        {"names": ["a"], "mean": [1e999], "std": [1.0]},
        {"names": ["a", "b"], "mean": [0.0, 0.0], "std": [1.0, 1.0]},
        {"names": [["a"]], "mean": [0.0], "std": [1.0]},
    ],
    ids=["no dict", "half", "text", "no spread", "infinite", "too many", "nested"],
)
def test_a_description_with_odd_numbers_is_refused(run, tmp_path, numbers):
    for name in ("model.safetensors", "model.json"):
        shutil.copy(run / name, tmp_path / name)
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**description, "numbers": numbers}))

    with pytest.raises(LoadError, match=r"model\.json"):
        library.load(tmp_path)
