"""Values that are not finite never reach the weights, and the message names the step and the place."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from etude import Debug, Learner, NonFiniteError, SkipStep, StopFit, optim, supervised_step
from etude.training import loop
from etude.training.finite import FiniteGuard

BAD_STEP = 3
"""Counted from 1."""


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 2))


def _batches(count=6):
    torch.manual_seed(1)
    return [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(count)]


class _Plant:
    """Puts a NaN somewhere at one step, and keeps the state as it was before that step."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.before = None

    def at_step(self, learner):
        if learner.progress.step == BAD_STEP - 1:
            self.before = copy.deepcopy((learner.model.state_dict(), learner.optimizer.state_dict()["state"]))

    def into_grads(self, learner, model):
        if self.place == "gradient" and learner.progress.step == BAD_STEP - 1:
            model[3].weight.grad[0, 0] = torch.inf


def _planted(place, optimizer, monkeypatch, deferred):
    if deferred:
        monkeypatch.setattr(loop, "FiniteGuard", lambda *args: FiniteGuard(*args, deferred=True))
    plant, batches, loss_fn = _Plant(place), _batches(), nn.CrossEntropyLoss()
    if place == "input":
        batches[BAD_STEP - 1][0][2, 1] = torch.nan
    if place == "loss":
        calls = []

        def loss_fn(preds, targets, reduction="mean"):
            loss = nn.functional.cross_entropy(preds, targets, reduction=reduction)
            calls.append(1)
            return loss + torch.nan if len(calls) >= BAD_STEP else loss

    callbacks = [Debug("before_step", call=plant.at_step), Debug("transform_grads", call=plant.into_grads)]
    learner = Learner(_model(), batches, loss_fn, optimizer, callbacks=callbacks, progress=False, device="cpu")
    return plant, learner


@pytest.mark.parametrize("deferred", [False, True], ids=["in the step", "later"])
@pytest.mark.parametrize("optimizer", [optim.adamw(), torch.optim.AdamW, optim.lamb()], ids=["fused", "plain", "lamb"])
@pytest.mark.parametrize("place", ["input", "loss", "gradient"])
def test_weights_statistics_and_optimizer_are_those_of_the_last_good_step(place, optimizer, monkeypatch, deferred):
    plant, learner = _planted(place, optimizer, monkeypatch, deferred)
    with pytest.raises(NonFiniteError, match=f"step {BAD_STEP} .* those of step {BAD_STEP - 1}"):
        learner.fit(1, lr=0.01)

    weights, state = plant.before
    assert all(torch.equal(value, weights[name]) for name, value in learner.model.state_dict().items())
    now = learner.optimizer.state_dict()["state"]
    assert all(torch.equal(torch.as_tensor(now[i][k]), torch.as_tensor(state[i][k])) for i in state for k in state[i])


@pytest.mark.parametrize(
    ("place", "words"),
    [("input", "the inputs of the batch"), ("loss", "the loss"), ("gradient", "did not show again")],
)
def test_the_message_names_the_place(place, words, monkeypatch):
    _, learner = _planted(place, torch.optim.SGD, monkeypatch, deferred=False)
    with pytest.raises(NonFiniteError, match=words):
        learner.fit(1, lr=0.01)


class _Log(nn.Module):
    def forward(self, x):
        return (x - x.min()).log()


class _RootAtZero(nn.Module):
    """Finite forwards, infinite backwards."""

    def forward(self, x):
        return (x * 0).abs().sqrt()


@pytest.mark.parametrize(
    ("bad", "words"),
    [(_Log(), r"the output of 1 \(_Log\)"), (_RootAtZero(), r"the gradient of 0\.")],
    ids=["forward", "backward"],
)
def test_the_message_names_the_first_bad_module(bad, words):
    model = nn.Sequential(nn.Linear(4, 8), bad, nn.Linear(8, 2))
    learner = Learner(model, _batches(), nn.CrossEntropyLoss(), torch.optim.SGD, progress=False, device="cpu")
    with pytest.raises(NonFiniteError, match=words):
        learner.fit(1, lr=0.01)


def test_a_bad_parameter_is_named():
    model = _model()
    with torch.no_grad():
        model[3].bias[0] = torch.nan
    learner = Learner(model, _batches(), nn.CrossEntropyLoss(), torch.optim.SGD, progress=False, device="cpu")
    with pytest.raises(NonFiniteError, match=r"the parameter 3\.bias"):
        learner.fit(1, lr=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_check_changes_no_gradient(dtype):
    """The fused check multiplies by one: gradients keep their bits, in any memory format."""
    grad = torch.randn(8, 4, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    grad[0, 0, 0, 0] = 1e-42
    before = grad.clone()
    weight = nn.Parameter(torch.zeros_like(grad))
    guard = FiniteGuard(nn.Identity(), torch.optim.SGD([weight], lr=0.1), torch.device("cpu"))

    assert guard.step([], [grad])
    assert torch.equal(grad, before)


def test_a_step_that_claims_an_update_cannot_hide_a_bad_one():
    def step(learner, batch):
        return supervised_step(learner, batch)._replace(updated=True)

    batches = _batches()
    batches[2][0][0, 0] = torch.nan
    learner = Learner(
        _model(), batches, nn.CrossEntropyLoss(), torch.optim.SGD, step=step, progress=False, device="cpu"
    )
    with pytest.raises(NonFiniteError, match="step 3 "):
        learner.fit(1, lr=0.01)


def _deferred(monkeypatch, batches, *callbacks, optimizer=None):
    monkeypatch.setattr(loop, "FiniteGuard", lambda *args: FiniteGuard(*args, deferred=True))
    return Learner(
        _model(),
        batches,
        nn.CrossEntropyLoss(),
        optimizer or optim.sgd(),
        callbacks=callbacks,
        progress=False,
        device="cpu",
    )


def test_a_skipped_step_does_not_shift_the_count_of_a_late_look(monkeypatch):
    def skip(learner, batch):
        if learner.progress.step == 1:
            raise SkipStep("not this one")

    batches = _batches()
    batches[3][0][0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"step 4 .* those of step 3"):
        _deferred(monkeypatch, batches, Debug("transform_batch", call=skip)).fit(1, lr=0.01)


def test_stopping_does_not_hide_a_bad_step_that_the_host_has_not_heard_of(monkeypatch):
    def stop(learner, *_):
        if learner.progress.step == 4:
            raise StopFit("time is up")

    batches = _batches()
    batches[2][0][0, 0] = torch.nan
    learner = _deferred(monkeypatch, batches, Debug("after_step", call=stop))
    with pytest.raises(NonFiniteError, match="step 3 "):
        learner.fit(1, lr=0.01)

    assert all(buffer.isfinite().all() for buffer in learner.model.buffers())


def test_the_guard_leaves_nothing_on_a_users_optimizer(monkeypatch):
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    monkeypatch.setattr(loop, "FiniteGuard", lambda *args: FiniteGuard(*args, deferred=True))
    Learner(model, _batches(), nn.CrossEntropyLoss(), optimizer, progress=False, device="cpu").fit(1)

    assert not {"found_inf", "grad_scale"} & set(vars(optimizer))


def test_the_first_of_several_bad_steps_is_found_when_the_host_looks_late(monkeypatch):
    monkeypatch.setattr(loop, "FiniteGuard", lambda *args: FiniteGuard(*args, deferred=True))
    batches = _batches(40)
    for i in (23, 24, 31):
        batches[i][0][0, 0] = torch.nan
    learner = Learner(_model(), batches, nn.CrossEntropyLoss(), optim.sgd(), progress=False, device="cpu")
    with pytest.raises(NonFiniteError, match="step 24 "):
        learner.fit(1, lr=0.01)
