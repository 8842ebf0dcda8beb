"""The finder: it changes nothing, sees the true loss, stops by itself, and what it suggests trains well."""

from __future__ import annotations

import copy
import math
import random as python_random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from etude import (
    Callback,
    ClipGradNorm,
    DataLoaders,
    Learner,
    MixUp,
    NonFiniteError,
    Record,
    find_lr,
)
from etude.errors import ConfigError, SkipStep
from etude.training.step import supervised_step
from etude.types import StepOutput

PLAIN_SGD = lambda groups: torch.optim.SGD(groups, 0.1)  # noqa: E731  # a factory


def small(optimizer=torch.optim.AdamW, *, callbacks=(), **options) -> Learner:
    """A network with norms and dropout, on a loader with a generator of its own."""
    torch.manual_seed(3)
    inputs = torch.randn(48, 4)
    dataset = TensorDataset(inputs, inputs[:, :3].argmax(1))
    loader = DataLoader(dataset, 16, shuffle=True, generator=torch.Generator().manual_seed(5))
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    made = optimizer if optimizer is torch.optim.AdamW else optimizer(model.parameters())
    options = {"device": "cpu", "progress": False, **options}
    return Learner(model, (loader, loader), nn.CrossEntropyLoss(), made, callbacks=callbacks, **options)


def squares(sizes=(4, 4, 3), curvatures=(1.0, 4.0), reduction="mean", **options) -> Learner:
    """Half the squared distance from a weight vector to zero, scaled: SGD diverges at 2 / the largest curvature."""
    torch.manual_seed(0)
    model = nn.Linear(len(curvatures), 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    rows = torch.diag(torch.tensor(curvatures).sqrt()) * len(curvatures) ** 0.5 / 2**0.5
    batches = [(rows.repeat(size, 1), torch.zeros(size * len(curvatures), 1)) for size in sizes]
    options = {"device": "cpu", "progress": False, **options}
    return Learner(model, batches, nn.MSELoss(reduction=reduction), PLAIN_SGD, **options)


def everything(learner) -> list[object]:
    """What a fit reads, as comparable values."""
    tensors = [tensor.tolist() for tensor in learner.model.state_dict().values()]
    grads = [parameter.grad for parameter in learner.model.parameters()]
    numpy = np.random.get_state()
    generators = torch.get_rng_state().tolist(), python_random.getstate(), numpy[1].tolist(), numpy[2]
    loader = learner.data.train.iterable.generator.get_state().tolist()
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in learner.history]
    optimizer = repr(learner.optimizer.state_dict()) if learner.optimizer else ""
    return [tensors, grads, optimizer, *generators, loader, repr(learner.progress), history]


# -- nothing is changed -----------------------------------------------------------------------------------------------


def breaking(learner, batch):
    """A step that fails after some good ones."""
    if learner.progress.step == 5:
        raise ZeroDivisionError("in the step")
    return supervised_step(learner, batch)


@pytest.mark.usefixtures("without_type_checks")  # the checker draws from Python's generator
@pytest.mark.parametrize("step", [supervised_step, breaking], ids=["to the end", "after an exception"])
@pytest.mark.parametrize("fits", [0, 1])
@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.AdamW, lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9)],
    ids=["factory", "instance"],
)
def test_the_finder_leaves_everything_as_it_was_and_the_next_fit_the_same(optimizer, fits, step, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    searched, plain = (small(optimizer, callbacks=[MixUp(0.4), ClipGradNorm(1.0), Record()]) for _ in range(2))
    for learner in (searched, plain):
        torch.manual_seed(1)
        for _ in range(fits):
            learner.fit(1, lr=0.1)
    before, recorded = everything(searched), len(searched.callbacks[2].lrs)
    searched.step = step
    if step is breaking:
        with pytest.raises(ZeroDivisionError):
            find_lr(searched)
    else:
        assert len(find_lr(searched).lrs) > 20
    searched.step = supervised_step

    assert everything(searched) == before
    assert len(searched.callbacks[2].lrs) == recorded
    assert not list(tmp_path.iterdir())
    for learner in (searched, plain):
        torch.manual_seed(2)
        learner.fit(1, lr=0.1)
    assert everything(searched) == everything(plain)


def test_two_searches_are_the_same():
    learner = small(callbacks=[MixUp(0.4)])

    assert find_lr(learner, num_steps=20) == find_lr(learner, num_steps=20)


def test_it_begins_where_the_learner_is_and_after_a_change_of_head():
    learner = small()
    learner.fit(2, lr=0.1)
    first = find_lr(learner, num_steps=20).losses[0]
    watch = Record()
    learner.model[4] = nn.Linear(8, 3)
    changed = find_lr(learner, num_steps=20)
    learner.model[4] = nn.Linear(8, 4)  # the old state would not even fit
    assert find_lr(learner, num_steps=20).losses
    learner = small()
    learner.fit(2, lr=0.1)
    learner.fit(1, lr=0.1, callbacks=[watch])

    assert watch.losses[0] == pytest.approx(first)
    assert changed.losses[0] != first


# -- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_are_those_of_a_plain_loop_at_geometric_rates(accumulate, reduction):
    learner = squares(accumulate=accumulate, reduction=reduction)
    curve = find_lr(learner, low=1e-5, high=1e-2, num_steps=12)
    model, loss_fn = copy.deepcopy(learner.model), nn.MSELoss(reduction=reduction)
    batches = list(learner.data.train.iterable)
    windows = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    for i in range(12):
        lr = 1e-5 * 1000 ** (i / 11)
        inputs, targets = (torch.cat(parts) for parts in zip(*windows[i % len(windows)], strict=True))
        loss = loss_fn(model(inputs), targets)
        (grad,) = torch.autograd.grad(loss, [model.weight])
        with torch.no_grad():
            model.weight -= lr * grad
        expected = float(loss.detach()) / (len(windows[i % len(windows)]) if reduction == "sum" else 1)

        assert curve.lrs[i] == pytest.approx(lr)
        assert curve.losses[i] == pytest.approx(expected, rel=1e-4), i


def test_every_layer_group_gets_the_rate_and_frozen_ones_stay(monkeypatch):
    rates = set()

    def step(learner, batch):
        rates.add(tuple(group["lr"] for group in learner.optimizer.param_groups))
        output = supervised_step(learner, batch)
        assert torch.equal(learner.model[0].weight, frozen)
        return output

    learner = small(groups=lambda model: [model[:2], model[2:]], step=step)
    learner.model[0].requires_grad_(False)
    frozen = learner.model[0].weight.clone()
    find_lr(learner, num_steps=15)

    assert len(rates) == 15
    assert all(len(set(rate)) == 1 and len(rate) == 2 for rate in rates)


def test_transforms_work_watchers_do_not_and_nothing_is_validated():
    seen = []

    class Doubled(Callback):
        def transform_batch(self, batch, learner):
            seen.append(learner.model.training)
            return batch._replace(inputs=2 * batch.inputs)

    class Watch(Callback):
        def after_step(self, learner, batch, output):
            raise AssertionError("a watcher was called")

    class NoValidation:
        def __len__(self):
            return 1

        def batches(self, epoch, device):
            raise AssertionError("validation was asked for")

    learner = squares(callbacks=[Doubled(), Watch()])
    learner.data = DataLoaders(learner.data.train, NoValidation())
    curve = find_lr(learner, num_steps=20)

    assert curve.losses[0] == pytest.approx(4 * find_lr(squares(), num_steps=20).losses[0])
    assert len(seen) == len(curve.losses)
    assert all(seen)


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_any_precision_gives_the_loss_in_float32(precision):
    torch.manual_seed(1)
    curve = find_lr(small(precision=precision), num_steps=40)
    torch.manual_seed(1)
    wide = find_lr(small(), num_steps=40)

    if precision == "bf16":  # measuring takes a batch, and so the loader's next order
        assert curve.losses[:10] == pytest.approx(wide.losses[:10], abs=0.03)
    assert any(loss != float(torch.tensor(loss).bfloat16()) for loss in curve.losses)


def test_a_step_of_ones_own_without_predictions():
    def step(learner, batch):
        output = supervised_step(learner, batch)
        return StepOutput(output.loss, None, output.batch, output.updated)

    assert find_lr(squares(step=step)) == find_lr(squares())


def test_a_refused_batch_has_no_point_on_the_curve():
    class Refuse(Callback):
        def transform_batch(self, batch, learner):
            if learner.progress.step == 7:
                raise SkipStep("odd")
            return batch

    curve = find_lr(squares(callbacks=[Refuse()]), num_steps=30, high=1e-3)

    assert len(curve.lrs) == 29
    assert curve.stopped == "tried all 30 rates"


def test_a_bar_only_where_the_learner_shows_one(monkeypatch):
    shown = []
    monkeypatch.setattr("etude.training.display.PlainDisplay.bar", lambda self, *news: shown.append(news))
    find_lr(squares(), num_steps=10, high=1e-3)
    assert not shown
    find_lr(squares(progress=True), num_steps=10, high=1e-3)

    assert shown[-1] == ("learning rates", 10, 10, "")


# -- when it stops ----------------------------------------------------------------------------------------------------


def test_it_stops_when_the_loss_diverges():
    curve = find_lr(squares())

    assert curve.lrs[-1] < 10
    assert "the running mean of the loss rose to" in curve.stopped
    assert len(curve.lrs) == len(curve.losses) == len(curve.smoothed)
    assert len(find_lr(squares(), stop_at=1.5).lrs) <= len(curve.lrs) < len(find_lr(squares(), stop_at=1e6).lrs)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient", "report"])
def test_a_value_that_is_not_finite_stops_it_and_keeps_the_curve(where, bad):
    def step(learner, batch):
        loss, preds = learner.forward(batch)
        now = learner.progress.step == 30
        # a root at zero: a finite loss with a gradient that is not
        root = (loss * 0 * (0 if bad is math.nan or not now else 1)).abs().sqrt()
        learner.backward(
            loss * bad if now and where == "loss" else loss + root if now and where == "gradient" else loss
        )
        updated = learner.update()
        return StepOutput(loss.detach() * (bad if now and where == "report" else 1), preds.detach(), batch, updated)

    curve = find_lr(squares(step=step), num_steps=50, high=1e-2)

    assert len(curve.losses) == 30
    assert all(map(math.isfinite, curve.losses))
    assert curve.stopped.startswith("stopped at 2.8e-04: ")
    assert ("the loss is" if where == "report" else "met a value that is not finite") in curve.stopped


def test_bad_inputs_are_named_and_nothing_is_suggested():
    learner = squares()
    learner.data.train.iterable[1][0][0, 0] = math.nan
    curve = find_lr(learner)

    assert "first in the inputs of the batch" in curve.stopped
    assert curve.suggestion is None
    assert curve.note.startswith("only 1 steps before the end, 10 are needed")
    with pytest.raises(NonFiniteError):
        learner.fit(1, lr=0.1)


@pytest.mark.parametrize("shift", [-3.0, -30.0], ids=["through zero", "negative"])
def test_negative_losses_do_not_stop_it_at_once(shift):
    learner = squares()
    learner.loss_fn = lambda preds, targets: nn.functional.mse_loss(preds, targets) + shift
    curve = find_lr(learner)

    assert curve.suggestion == pytest.approx(find_lr(squares()).suggestion, rel=0.5)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "low=1 to high=0.1"),
        ({"low": 0.0}, "must grow from above 0"),
        ({"high": math.inf}, "must grow"),
        ({"low": math.nan}, "must grow"),
        ({"num_steps": 9}, "num_steps=9 must be a whole number of at least 10"),
        ({"num_steps": 20.5}, "num_steps=20.5"),
        ({"stop_at": 1.0}, "stop_at must be above 1"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_what_makes_no_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        find_lr(squares(), **options)


def test_a_learner_without_training_data_or_copy_is_refused():
    learner = squares()
    learner.model.odd = (i for i in range(3))
    with pytest.raises(ConfigError, match="Linear cannot be copied"):
        find_lr(learner)
    learner.data = DataLoaders(None)
    with pytest.raises(ConfigError, match="no training data"):
        find_lr(learner)
