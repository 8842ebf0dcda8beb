"""What is read off a curve, how it is shown, and the command."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from etude import (
    Learner,
    LRCurve,
    NonFiniteError,
    accuracy,
    cli,
    find_lr,
)
from etude.errors import ConfigError
from etude.optim import adamw, sgd
from etude.recipes.demo import digits
from etude.training.lr_curve import smooth, suggest
from etude.vision import LessonCNN
from test_finder import squares


def made_curve(losses, low=1e-6, high=10.0, *, rose=True) -> dict[str, float]:
    """What is suggested for losses at rates between two."""
    lrs = np.geomspace(low, high, len(losses)).tolist()
    return suggest(lrs, losses, smooth(losses), rose=rose)


# -- what is suggested ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", [0.5, 4.0, 60.0])
def test_the_suggestion_for_squares_is_below_where_they_diverge(curvature):
    curve = find_lr(squares(curvatures=(curvature, curvature / 3)), low=1e-5, high=100, num_steps=150)
    limit = 2 / curvature

    assert limit / 40 < curve.suggestion < limit
    assert curve.suggestions["steepest"] < limit
    assert curve.suggestions["valley"] < limit


def plain_network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def lesson_network():
    return LessonCNN(10, channels=1, widths=[16, 32, 64], stem_stride=1)


@pytest.mark.parametrize("optimizer", [adamw(), pytest.param(sgd(), marks=pytest.mark.slow)], ids=["adamw", "sgd"])
@pytest.mark.parametrize("network", [plain_network, pytest.param(lesson_network, marks=pytest.mark.slow)])
def test_training_with_the_suggestion_is_nearly_as_good_as_the_best_of_a_grid(network, optimizer):
    data = digits(batch_size=64)

    def learner():
        torch.manual_seed(0)
        return Learner(
            network(), data, nn.CrossEntropyLoss(), optimizer, metrics=[accuracy], device="cpu", progress=False
        )

    def accuracy_of(lr):
        try:
            return learner().fit(6, lr=lr)["valid_accuracy"][-1]
        except NonFiniteError:
            return 0.0

    suggestion = find_lr(learner()).suggestion
    accuracies = [accuracy_of(10.0**exponent) for exponent in (-3, -2, -1, 0)]

    assert min(accuracies) < max(accuracies) - 0.1
    assert accuracy_of(suggestion) > max(accuracies) - 0.02


def test_rules_on_a_curve_with_known_places():
    decades = np.linspace(-6, 1, 141)
    # falls from 2 to 1 between 1e-4 and 1e-1, fastest at 10 ** -2.5; rises from there, to 1.5 at 0.51
    losses = np.where(
        decades < -4, 2, np.where(decades > -1, 1 + (decades + 1) ** 2, 1.5 + 0.5 * np.cos((decades + 4) * np.pi / 3))
    )
    rules = made_curve(losses.tolist())

    assert rules["minimum / 10"] == pytest.approx(1e-2, rel=0.35)
    assert rules["steepest"] == pytest.approx(10**-2.5, rel=0.25)
    assert rules["break / 20"] == pytest.approx(0.51 / 20, rel=0.35)
    assert 1e-4 < rules["valley"] < 1e-1
    assert "break / 20" not in made_curve(losses[:105].tolist(), high=10**-0.8, rose=False)


def test_a_lone_spike_does_not_decide():
    decades = np.linspace(-6, 1, 100)
    losses = np.where(decades > -1, 1 + (decades + 1) ** 2, np.where(decades < -4, 2, 2 - (decades + 4) / 3)).tolist()
    spiked = list(losses)
    spiked[40] = 1e9
    rules, others = made_curve(losses), made_curve(spiked)

    assert others["minimum / 10"] == pytest.approx(rules["minimum / 10"], rel=0.2)


NOISE = np.random.default_rng(0).normal(2.3, 0.1, 100).tolist()


@pytest.mark.parametrize(
    ("losses", "options", "reason"),
    [
        ([2.0] * 100, {"rose": False}, "the loss fell by 0,"),
        (NOISE, {"rose": False}, "less than 2 times what it differs by between steps"),
        (np.linspace(1, 5, 100).tolist(), {}, "the loss fell by 0,"),
        (np.linspace(2, 1, 100).tolist(), {"rose": False}, r"still falls at the highest rate, 1\.0e\+01"),
        ([2.0, 1.0, 3.0], {}, "only 3 steps before the end"),
        ([*np.linspace(2, 1, 10), *np.linspace(1, 3, 90)], {}, "begin with a lower one, low="),
    ],
    ids=["constant", "noise", "rising", "falling", "short", "too high"],
)
def test_a_curve_that_does_not_say_gives_no_number(losses, options, reason):
    with pytest.raises(ConfigError, match=reason):
        made_curve(losses, **options)


def test_a_search_without_a_suggestion_says_so_in_words_and_in_the_picture(tmp_path):
    curve = find_lr(squares(), low=1e-9, high=1e-8, num_steps=30)
    curve.draw(tmp_path / "flat.png")

    assert curve.suggestion is None
    assert curve.suggestions == {}
    assert "\nno suggestion: the loss" in repr(curve)
    assert (tmp_path / "flat.png").exists()


# -- how it is shown --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curve() -> LRCurve:
    return find_lr(squares())


def test_the_picture_and_the_words(curve, tmp_path):
    curve.draw(tmp_path / "curve.png")
    curve.draw(str(tmp_path / "part.png"), skip_first=10, skip_last=5)
    legend = [text.get_text() for text in curve._figure().legends[0].get_texts()]

    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size[0] > 700
    assert (tmp_path / "part.png").read_bytes() != (tmp_path / "curve.png").read_bytes()
    assert f"break / 20: {curve.suggestion:.1e}, the suggestion" in legend
    assert len(legend) == 2 + len(curve.suggestions)
    assert curve._figure().axes[0].get_xscale() == "log"
    assert curve._repr_png_().startswith(b"\x89PNG")
    assert f"suggestion {curve.suggestion:.1e}; of the rules steepest" in repr(curve)
    assert len(repr(curve).splitlines()) == 3
    with pytest.raises(ConfigError, match="leave 1 of"):
        curve.draw(tmp_path / "x.png", skip_first=len(curve.lrs) - 1)


def test_a_curve_without_steps_has_no_picture_but_words():
    curve = LRCurve((), (), (), stopped="at once", suggestions={}, note="nothing")

    assert curve._repr_png_() is None
    assert "no suggestion: nothing" in repr(curve)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_draws_says_what_to_use_and_makes_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run_command(["lr-find", "demo", "--epochs", "7", "--mixup", "0", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)

    assert lines[0].startswith("trying learning rates from 1e-06 to 10 in 100 steps")
    assert f"use it: etude demo --epochs 7 --mixup 0.0 --lr {result['suggestion']:.1e}" in lines
    assert result["command"] == lines[-1].removeprefix("use it: ")
    assert 1e-4 < result["suggestion"] < 1e-1
    assert len(result["lrs"]) == len(result["losses"]) > 50
    assert [path.name for path in tmp_path.iterdir()] == ["lr-find.png"]
    cli.app.parse_args(result["command"].split()[1:], exit_on_error=False)


def test_quiet_prints_the_json_line_only_and_no_suggestion_exits_with_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = "lr-find demo --high 1e-5 --num-steps 12 --out flat.png --quiet --json"
    assert cli.run_command(command.split()) == 1
    captured = capsys.readouterr()
    result = json.loads(captured.out)

    assert captured.err == ""
    assert result["suggestion"] is None
    assert result["command"] is None
    assert "--num-steps" in result["note"]
    assert result["picture"] == "flat.png"
    assert Path("flat.png").exists()


def test_flags_of_the_training_stand_in_the_command():
    from etude.recipes.imagenette import ImagenetteOptions, training
    from etude.recipes.lr_find import command_of
    from etude.recipes.options import DataOptions, ModelOptions, TrainOptions
    from etude.recipes.training import Training

    data = DataOptions(data="my photos/", size=64, squash=True)
    asked = Training(name="train", data=data, model=ModelOptions(arch="xresnet34"), train=TrainOptions(seed=7, lr=0.5))
    woof = training("imagewoof", DataOptions(), ModelOptions(), ImagenetteOptions(epochs=80))

    assert command_of(asked, 0.0123) == (
        "etude train 'my photos/' --size 64 --squash --arch xresnet34 --seed 7 --lr 1.2e-02"
    )
    assert command_of(woof, 0.004) == "etude imagewoof --data imagewoof2-160 --epochs 80 --lr 4.0e-03"


def test_the_smoothed_curve_does_not_lag():
    """A symmetric dip stays where it is."""
    losses = [abs(i - 50) / 50 for i in range(101)]
    smoothed = smooth(losses)

    assert smoothed.index(min(smoothed)) == 50
    assert smoothed == pytest.approx(smoothed[::-1])
    assert statistics.mean(smooth([3.0] * 20)) == pytest.approx(3.0)
