"""Recipes with a teacher: --teacher, --distill-weight, --temperature."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import etude
from coloring import etude as command
from coloring import save_colors
from etude import ConfigError, LoadError
from etude.recipes.demo import DemoOptions
from etude.recipes.demo import training as demo_training
from etude.recipes.training import Training
from etude.training.distill import digest_of
from etude.training.settings import told
from stopped_commands import TRAIN, digest, steps, stopped_after


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """A saved model of the demo's digits."""
    folder = tmp_path_factory.mktemp("teacher") / "large"
    demo_training(DemoOptions()).learner(quiet=True).save(folder)
    return str(folder)


def test_a_recipe_takes_a_run_as_its_teacher(run):
    training = demo_training(DemoOptions(teacher=run, distill_weight=0.5, temperature=2.0))
    training.check()
    made = Training.of(json.loads(json.dumps(training.record()))).learner(quiet=True)

    digest = digest_of(etude.load(run).model, etude.load(run).data.preprocess)[:16]
    assert told(made.step) == f"Distillation(teacher='LessonCNN {digest}', temperature=2.0, weight=0.5)"
    assert training.flags()["teacher"] == run


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"temperature": 2.0}, ConfigError, "--temperature has no effect here: there is no --teacher"),
        ({"distill_weight": 0.5}, ConfigError, "--distill-weight has no effect here"),
        ({"teacher": "RUN", "distill_weight": 0.0}, ConfigError, "--distill-weight must be a share above 0"),
        ({"teacher": "RUN", "temperature": 0.0}, ConfigError, "--temperature must be a number from 0.01"),
        ({"teacher": "nowhere"}, LoadError, "nowhere does not exist"),
    ],
    ids=str,
)
def test_a_wrong_teacher_is_refused_before_anything_is_read(options, error, words, run):
    options = {name: run if value == "RUN" else value for name, value in options.items()}
    with pytest.raises(error, match=words):
        demo_training(DemoOptions(**options)).check()


@pytest.mark.slow
def test_a_run_with_a_teacher_is_resumed_exactly_and_refuses_another(tmp_path, monkeypatch):
    colors, teacher = save_colors(tmp_path / "colors"), tmp_path / "teacher"
    assert command("train", colors, *TRAIN, "--seed", "1", "--run-dir", teacher).code == 0
    taught = [colors, *TRAIN, "--teacher", teacher, "--temperature", "2", "--distill-weight", "0.5"]
    assert command("train", *taught, "--run-dir", tmp_path / "whole").code == 0
    with stopped_after(4, monkeypatch):
        command("train", *taught, "--run-dir", tmp_path / "cut")
    other = etude.load(teacher)
    with torch.no_grad():
        next(other.model.parameters()).mul_(2)
    shutil.move(teacher, tmp_path / "kept")
    other.save(teacher)
    refused = command("resume", tmp_path / "cut")
    assert refused.code != 0
    assert "has step=Distillation(teacher='LessonCNN" in refused.errors
    shutil.rmtree(teacher)
    shutil.move(tmp_path / "kept", teacher)
    done = command("resume", tmp_path / "cut")

    assert done.code == 0, done.errors
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    assert steps(tmp_path / "cut") == steps(tmp_path / "whole")
