"""A plan's forecast, its text, picture and JSON, and the command."""

from __future__ import annotations

import json
import re
import runpy
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from etude import (
    Learner,
    MixUp,
    cli,
    optim,
)
from etude.plots import text_chart
from etude.training.memory import COMPILED, StepMemory
from planning import little_time, small_learner

__all__ = ["little_time"]


# -- forecast and memory ----------------------------------------------------------------------------------------------


class Slow:
    """Batches that take their time."""

    def __init__(self, batches, seconds):
        self.length, self.seconds = batches, seconds

    def __len__(self):
        return self.length

    def __iter__(self):
        for i in range(self.length):
            time.sleep(self.seconds)
            yield torch.randn(4, 4, generator=torch.Generator().manual_seed(i)), torch.zeros(4, dtype=torch.long)


def test_the_forecast_counts_the_loader_and_every_batch_that_was_not_timed():
    data = (Slow(1000, 0.02), Slow(500, 0.01))
    learner = Learner(nn.Linear(4, 3), data, nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu", progress=False)
    forecast = learner.plan(10).forecast

    assert 0.02 < forecast.step < 0.1
    assert 0.01 < forecast.valid_batch < 0.08
    assert 0.02 < forecast.waiting <= forecast.step
    assert forecast.timed_steps < 1000
    assert forecast.epoch == pytest.approx(1000 * forecast.step + 500 * forecast.valid_batch, rel=0.1)
    assert forecast.total == pytest.approx(10 * forecast.epoch, rel=0.1)


def test_memory_is_counted_exactly():
    """One linear layer on 256 samples: what torch makes in a step is known."""
    batches = [(torch.randn(256, 512), torch.randn(256, 128))]
    model = nn.Linear(512, 128, bias=False)

    def loss(preds, targets):
        return (preds * targets).sum()

    memory = Learner(model, batches, loss, optim.sgd(momentum=0.9), device="cpu", progress=False).plan(1, lr=0).memory
    weights, inputs, outputs = 512 * 128 * 4, 256 * 512 * 4, 256 * 128 * 4

    assert memory.parameters == memory.gradients == memory.optimizer == weights
    # inputs, targets, predictions, their gradient, the loss and its own, and the weights' gradient as it is made
    assert memory.activations == inputs + 3 * outputs + 2 * 4 + weights
    assert memory.peak == memory.parameters + memory.optimizer + memory.activations


def test_frozen_weights_need_neither_gradients_nor_momentum():
    learner = small_learner(optim.adamw())
    learner.model[0].requires_grad_(False)
    memory = learner.plan(1, lr=0.1).memory

    assert memory.gradients == (18 + 3) * 4
    assert 2 * (18 + 3) * 4 <= memory.optimizer <= 2 * (18 + 3) * 4 + 2 * 4


def test_what_cannot_be_counted_is_not_guessed():
    learner = small_learner()
    learner.fit(1, lr=0.1)
    memory = StepMemory(learner.step, [], counted=False).result(learner)

    assert (memory.activations, memory.peak, memory.how) == (None, None, COMPILED)


# -- as text, picture, JSON -------------------------------------------------------------------------------------------


def test_the_chart_has_its_shape():
    chart = text_chart([i / 59 for i in range(60)], width=60, height=6)

    assert len(chart) == 6
    assert [len(line) for line in chart] == [60] * 6
    assert chart[0][-1] == chart[-1][-1] == "█"
    assert chart[0].count("█") < chart[3].count("█") < chart[5].count("█")
    assert chart[0][:50].strip() == ""
    assert text_chart([0.0, 0.0], width=4, height=2) == ["", ""]
    assert text_chart([2.0], width=3, height=1) == ["███"]
    assert text_chart([1.0, 2.0], width=2, height=1) == ["▄█"]


def test_the_text_is_aligned_and_complete():
    plan = small_learner(callbacks=[MixUp(0.4)]).plan(3, lr=[0.01, 0.1])
    lines = repr(plan).splitlines()
    titles = [line.split()[0] for line in lines if not line.startswith(" ")]

    assert titles == ["plan", "data", "model", "groups", "norms", "callbacks", "rates", "forecast", "memory"]
    assert all(line.startswith(" " * 12) or line[:12].strip() in titles for line in lines)
    assert max(map(len, lines)) <= 120
    chart = [line for line in lines if "┤" in line]
    assert len(chart) == 6
    assert "learning rate of layer group 1" in repr(plan)
    html = plan._repr_html_()
    assert html.count("<pre>") == 9
    assert "┤" in html
    assert "&#x27;input&#x27;" in html


def test_the_plan_is_json_with_every_norm():
    plan = small_learner().plan(2, lr=0.1)
    kept = json.loads(json.dumps(plan.as_json(), allow_nan=False))

    assert len(kept["norms"]) == 3
    assert kept["rates"]["lr"] == plan.rates.lr
    assert kept["num_steps"] == 8
    assert kept["data"]["train"]["batches"] == 4


def test_the_picture_is_drawn(tmp_path):
    small_learner().plan(2, lr=[0.01, 0.1]).draw(tmp_path / "plan.png")

    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.format == "PNG"
        assert picture.size[0] > 1000


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_type_checks")
def test_the_command_plans_what_the_demo_then_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["demo", "--epochs", "2", "--batch-size", "256", "--seed", "7"]
    assert cli.run_command(["plan", *flags, "--out", "plan.png", "--json"]) == 0
    text = capsys.readouterr().out
    plan = json.loads(text.splitlines()[-1])

    assert text.index("timing a few steps") < text.index("2 epochs of 5 steps")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.png"]
    assert cli.run_command([*flags, "--run-dir", "run", "--quiet"]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [callback["settings"] for callback in plan["callbacks"] if callback["name"] != "ShowProgress"] == config[
        "callbacks"
    ]
    assert (plan["num_epochs"], plan["steps_per_epoch"]) == (config["epochs"], config["steps_per_epoch"])
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    steps = [line for line in history if line["kind"] == "step"]
    assert plan["rates"]["lr"][-1] == [line["lr"] for line in steps]
    assert plan["rates"]["momentum"] == [line["momentum"] for line in steps]


@pytest.mark.usefixtures("without_type_checks")
def test_quiet_prints_the_json_line_only_and_several_seeds_are_several_runs(capsys):
    assert (
        cli.run_command(["plan", "demo", "--epochs", "1", "--batch-size", "512", "--seeds", "3", "--quiet", "--json"])
        == 0
    )
    captured = capsys.readouterr()
    plan = json.loads(captured.out)

    assert (plan["runs"], captured.err) == (3, "")
    assert plan["runs_seconds"] == pytest.approx(3 * plan["forecast"]["total"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--epoch", "3"], "Did you mean --epochs?"),
        (["dmo"], 'Did you mean "demo"?'),
        (["demo", "--epochs", "0"], "--epochs must be a number of at least 1, got 0"),
        (["demo", "--out", "plan.jpg"], "--out must be a .png file"),
        (["train"], "name a folder or archive of pictures"),
        (["train", "here", "--folds", "1"], "--folds must be at least 2"),
        (["train", "here", "--data", "there"], "two places for the data"),
        (["imagenette", "here"], "Unused Tokens"),
        (["imagewoof", "--size", "big"], "--size"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_usage_exits_with_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = cli.run_command(["plan", *arguments])
    errors = capsys.readouterr().err

    assert code == 2, errors
    assert words in re.sub(r"\s+", " ", errors.replace("│", " "))


# -- forecasts beside what happens ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "imagenette", "pets", "mlp"])
@pytest.mark.usefixtures("without_type_checks")
def test_forecasts_are_within_a_quarter_of_what_happens(name, data_folder):
    """Once more when it fails, in seconds of CPU time: other processes may have come or gone in between."""
    compare = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "plan.py"))["compare"]
    found = []
    for clock in ("wall", "cpu"):
        found.append(compare(name, data_folder, clock))
        if abs(found[-1]["around"] - 1) <= 0.25:
            return
    pytest.fail(f"forecast over fact is not within a quarter: {found}")
