"""A plan says what a fit then does, and leaves everything as it was."""

from __future__ import annotations

import random as python_random
import re

import numpy as np
import pytest
import torch
from torch import nn

from etude import (
    Callback,
    ClipGradNorm,
    Debug,
    Learner,
    MixUp,
    Record,
    SaveBest,
    ShowProgress,
    StopFit,
    flat,
    optim,
)
from etude.errors import ConfigError
from etude.recipes.demo import digits
from etude.schedules import cosine, linear
from etude.training.callbacks.scheduler import Scheduler
from etude.training.plan_data import data_plan
from etude.training.transfer import HoldNorms, freeze_body
from planning import little_time, small_learner

__all__ = ["little_time"]


def _rest(learner) -> list[object]:
    """What a fit reads, as comparable values."""
    optimizer = learner.optimizer.state_dict() if learner.optimizer else {}
    tensors = [tensor.tolist() for tensor in learner.model.state_dict().values()]
    flags = [parameter.requires_grad for parameter in learner.model.parameters()]
    modes = [module.training for module in learner.model.modules()]
    numpy = np.random.get_state()
    generators = torch.get_rng_state().tolist(), python_random.getstate(), numpy[1].tolist(), numpy[2]
    loader = learner.data.train.iterable.generator.get_state().tolist()
    rows = [{**row, "seconds": None} for row in learner.history]
    rest = rows, learner.history.notes, learner.precision and learner.precision.name, learner.callbacks
    return [tensors, flags, modes, repr(optimizer), *generators, loader, repr(learner.progress), *rest]


# -- nothing is changed -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_type_checks")  # the checker draws from Python's generator
@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("fits", [0, 1])
def test_a_plan_changes_nothing_and_the_next_fit_is_the_same_to_the_bit(fits, precision):
    planned, plain = (small_learner(callbacks=[MixUp(0.4), Record()], precision=precision) for _ in range(2))
    for learner in (planned, plain):
        torch.manual_seed(1)
        for _ in range(fits):
            learner.fit(1, lr=0.01)
    before = _rest(planned)
    planned.plan(3, lr=0.1, callbacks=[ClipGradNorm(1.0)])

    assert _rest(planned) == before
    for learner in (planned, plain):
        torch.manual_seed(2)
        learner.fit(1, lr=0.01)
    assert _rest(planned)[:-1] == _rest(plain)[:-1]
    assert planned.callbacks[1].losses == plain.callbacks[1].losses


def test_only_what_decides_a_step_works_on_the_copy():
    seen = []

    class Watcher(Callback):
        def after_step(self, learner, batch, output):
            seen.append("step")

    class Change(Callback):
        def __init__(self, model):
            self.model, self.calls = model, 0

        def transform_grads(self, model, learner):
            assert self.model is model, "the copied callback knows the copied model"
            self.calls += 1

    learner = small_learner()
    change = Change(learner.model)
    debug = Debug("transform_batch", call=lambda *values: seen.append("debug"))
    plan = learner.plan(1, lr=0.1, callbacks=[change, Watcher(), debug])

    assert seen == []
    assert change.calls == 0
    assert [callback.name for callback in plan.callbacks] == ["Scheduler", "Change", "Watcher", "Debug"]


# -- what it says -----------------------------------------------------------------------------------------------------


def test_data_is_what_the_loaders_give():
    plan = small_learner().plan(2, lr=0.1)
    train = plan.data.train

    assert (train.samples, train.batches, train.batch_size, train.inputs) == (50, 4, 16, "4 float32")
    assert plan.data.valid.batches == 4
    assert (plan.steps_per_epoch, plan.num_steps) == (4, 8)
    data = digits()
    batches = [next(loader.batches(0, torch.device("cpu"))) for loader in (data.train, data.valid)]
    plan = data_plan(data, *batches)
    assert (plan.train.samples, plan.train.batches, plan.valid.samples) == (1437, 22, 360)
    assert plan.train.inputs == "1x8x8 uint8"
    assert plan.classes == [str(i) for i in range(10)]
    assert plan.augment == "flip_and_shift"


def test_without_validation_there_is_none():
    loader = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(3)]
    learner = Learner(nn.Linear(4, 3), loader, nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu", progress=False)
    plan = learner.plan(2)

    assert plan.data.valid is None
    assert plan.forecast.valid_batch is None
    assert plan.data.train.samples is None
    assert "no validation" in repr(plan)


def test_groups_are_the_optimizers_with_what_is_frozen():
    learner = small_learner()
    learner.model[0][0].weight.requires_grad_(False)
    groups = learner.plan(2, lr=[0.01, 0.1]).groups

    assert [(group.layer_group, group.tensors, group.parameters, group.frozen) for group in groups] == [
        (0, 2, 32 + 48, 32),
        (0, 6, 8 + 16 + 6 + 12, 0),
        (1, 1, 18, 0),
        (1, 1, 3, 0),
    ]
    assert [group.weight_decay for group in groups] == [(0.1, 0.1), (0, 0)] * 2
    assert [group.lr[1] for group in groups] == pytest.approx([0.01, 0.01, 0.1, 0.1], rel=0.05)


class Rates(Callback):
    """Every group's learning rate and the momentum in each step."""

    def __init__(self):
        self.lr, self.momentum = [], []

    def after_step(self, learner, batch, output):
        groups = {group["layer_group"]: group for group in learner.optimizer.param_groups}
        self.lr.append([groups[i]["lr"] for i in sorted(groups)])
        last = learner.optimizer.param_groups[-1]
        self.momentum.append(last["betas"][0] if "betas" in last else last["momentum"])


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        (optim.adamw(), {"lr": [0.01, 0.1]}),
        (optim.sgd(), {"lr": 0.1, "momentum": (0.9, 0.7)}),
        (optim.sgd(), {"lr": 0.1, "schedule": flat}),
        (optim.adamw(), {"schedule": {"lr": cosine(0.1, 0), "weight_decay": linear(0, 0.2)}}),
        (optim.adamw(lr=0.02), {}),
    ],
    ids=["groups", "momentum", "flat", "own", "none"],
)
def test_rates_are_those_of_every_step_of_the_fit(optimizer, arguments):
    learner, seen = small_learner(optimizer), Rates()
    plan = learner.plan(3, callbacks=[seen], **arguments)
    learner.fit(3, callbacks=[seen], **arguments)

    assert plan.rates.steps == list(range(12))
    assert plan.rates.lr == [list(column) for column in zip(*seen.lr, strict=True)]
    assert plan.rates.momentum == seen.momentum
    for group in plan.groups:
        values = [step[group.layer_group] for step in seen.lr]
        assert group.lr == (values[0], max(values), values[-1])
    if "schedule" in arguments and isinstance(arguments["schedule"], dict):
        assert plan.groups[0].weight_decay == pytest.approx((0, 0.2 * 11 / 12))


def test_a_long_fit_keeps_its_ends_and_not_every_step():
    plan = small_learner().plan(5000, lr=0.1)

    assert len(plan.rates.steps) == 5000
    assert (plan.rates.steps[0], plan.rates.steps[-1]) == (0, 19_999)
    thin = plan.as_json()["rates"]["steps"]
    assert (len(thin), thin[0], thin[-1]) == (200, 0, 19_999)


def test_steps_of_several_batches_are_counted_as_the_loop_does():
    learner, seen = small_learner(accumulate=3), Rates()
    plan = learner.plan(2, lr=0.1)
    learner.fit(2, lr=0.1, callbacks=[seen])

    assert (plan.steps_per_epoch, plan.num_steps) == (2, learner.progress.step)
    assert "of 3 batches each" in repr(plan)


@pytest.mark.parametrize(
    ("policy", "body", "layer_norm"),
    [
        (None, ("move", "train"), "train"),
        ("train", ("move", "train"), "train"),
        ("affine", ("move", "frozen"), "frozen"),
        ("frozen", ("stand still", "frozen"), "frozen"),
    ],
)
def test_norms_do_what_the_plan_says(policy, body, layer_norm):
    learner = small_learner()
    callbacks = freeze_body(learner, policy) if policy else []
    plan = learner.plan(1, lr=0.1, callbacks=callbacks)
    said = {norm.name: (norm.kind, norm.statistics, norm.affine) for norm in plan.norms}

    assert said == {
        "0.1": ("BatchNorm1d", *body),
        "0.4": ("LayerNorm", "none", layer_norm),
        "1.0": ("BatchNorm1d", "move", "none"),
    }
    norms = {name: learner.model.get_submodule(name) for name in ("0.1", "1.0")}
    before = {name: (norm.running_mean.clone(), [p.clone() for p in norm.parameters()]) for name, norm in norms.items()}
    learner.fit(1, lr=0.1, callbacks=callbacks)
    for name, norm in norms.items():
        mean, weights = before[name]
        assert torch.equal(mean, norm.running_mean) == (said[name][1] == "stand still")
        if weights:
            assert torch.equal(weights[0], norm.weight) == (said[name][2] == "frozen")
    text = repr(plan)
    assert "1 BatchNorm1d: statistics move, no scale and shift" in text


def test_norms_that_differ_from_the_rest_are_named():
    model = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.BatchNorm1d(4))], nn.Linear(4, 3))
    text = repr(small_learner(model=model, groups=None).plan(1, lr=0.1, callbacks=[HoldNorms(["3"])]))

    assert "2 BatchNorm1d: statistics move, scale and shift train\n" in text
    assert "1 BatchNorm1d: statistics stand still, scale and shift train: 3\n" in text


class Own(Callback):
    """Of a user."""

    def __init__(self):
        self.order = []

    def transform_batch(self, batch, learner):
        return batch

    def transform_grads(self, model, learner):
        pass

    def before_fit(self, learner):
        self.order = list(learner.running().events.callbacks)

    def config(self):
        return {"strength": 3}


def test_callbacks_come_in_the_order_of_the_fit_with_their_parts_in_it():
    own, learner = Own(), small_learner(callbacks=[SaveBest(), MixUp(0.4)], progress=True)
    plan = learner.plan(1, lr=0.1, callbacks=[own])
    learner.fit(1, lr=0.1, callbacks=[own])

    assert [callback.name for callback in plan.callbacks] == [type(callback).__name__ for callback in own.order]
    found = {callback.name: callback for callback in plan.callbacks}
    assert found["Scheduler"].sets == ["lr", "momentum"]
    assert (found["MixUp"].transforms, found["Own"].transforms) == (["batch"], ["batch", "gradients"])
    assert (found["Own"].watches, found["Own"].settings) == (["before_fit"], "Own(strength=3)")
    assert (found["SaveBest"].transforms, found["SaveBest"].watches) == ([], ["before_fit", "after_epoch", "after_fit"])
    assert re.search(r"4 Own\(strength=3\) +transforms batch and gradients; watches the fit\n", repr(plan))
    assert isinstance(own.order[0], Scheduler)
    assert isinstance(own.order[-1], ShowProgress)


def test_the_rest_is_said_too():
    plan = small_learner(precision="auto").plan(1, lr=0.1)

    assert (plan.loss, plan.metrics, plan.optimizer, plan.device) == (
        "CrossEntropyLoss()",
        ["accuracy"],
        "AdamW",
        "cpu",
    )
    assert plan.precision in ("fp32", "bf16")
    assert plan.precision_reason != "as asked"


# -- what cannot be planned -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_type_checks")
def test_errors_are_those_of_the_fit():
    learner = small_learner()
    for arguments, words in (
        ({"num_epochs": 0}, "num_epochs must be"),
        ({"num_epochs": 1, "lr": [0.1, 0.1, 0.1]}, "3 schedules of lr for 2 layer groups"),
        ({"num_epochs": 1, "momentum": 0.9}, "without lr has no effect"),
        ({"num_epochs": 1, "lr": 0.1, "callbacks": [MixUp]}, "make one: MixUp"),
    ):
        with pytest.raises(ConfigError, match=words):
            learner.plan(**arguments)
    learner.data.train = None
    with pytest.raises(ConfigError, match="no training data, so there is no fit to plan"):
        learner.plan(1, lr=0.1)


def test_a_callback_that_stops_at_once_leaves_nothing_to_time():
    class Stop(Callback):
        def transform_batch(self, batch, learner):
            return batch

        def before_step(self, learner):
            raise StopFit("not today")

    with pytest.raises(ConfigError, match="the fit ended before: not today"):
        small_learner().plan(1, lr=0.1, callbacks=[Stop()])
