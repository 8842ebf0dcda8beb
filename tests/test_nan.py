"""NaN written anywhere at a random step: it never reaches the weights, and the message names the step and the place.

The five places are the input, the loss, one gradient, one parameter and the optimizer's state. What the weights have to
be comes from a second run without the NaN that ends a step earlier.
"""

from __future__ import annotations

import copy
import random
from functools import cache

import pytest
import torch
from torch import nn

from etude import Debug, EarlyStopping, Learner, NonFiniteError, SaveBest, optim
from etude.training import finite, loop
from etude.training.finite import FiniteGuard

STEPS = 6
PLACES = ["input", "loss", "gradient", "parameter", "state"]
OPTIMIZERS = {
    "sgd": optim.sgd(lr=0.1),
    "torch sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "fused adamw": optim.adamw(lr=0.01),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.5),
    "lamb": optim.lamb(lr=0.01),
}


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def _batches(count):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 4, generator=generator), torch.randint(2, (6,), generator=generator)) for _ in range(count)]


def _loss_that_fails_at(call):
    """Cross entropy, NaN in one call."""
    calls = []

    def loss_fn(preds, targets, reduction="mean"):
        calls.append(1)
        loss = nn.functional.cross_entropy(preds, targets, reduction=reduction)
        return loss * torch.nan if len(calls) == call else loss

    return loss_fn


class _Poison:
    """Writes one bad value at one step (counted from 1), when `at` comes; `where` is what the message has to name."""

    def __init__(self, place, step, seed):
        self.place, self.step, self.random = place, step, random.Random(seed)
        self.at = self.random.choice(["before_step", "transform_grads"]) if place != "gradient" else "transform_grads"
        self.value = self.random.choice([torch.nan, torch.inf, -torch.inf])
        self.where, self.poisoned = "", None

    def write(self, learner, *model):
        if learner.progress.step != self.step - 1 or self.where:
            return
        name, parameter = self.random.choice(list(learner.model.named_parameters()))
        tensor, self.where = parameter, f"the parameter {name}"
        if self.place == "gradient":
            tensor, self.where = parameter.grad, f"the gradient of {name}"
        if self.place == "state":
            # the group with this parameter can have lists of state of different names
            state = {k: v for k, v in learner.optimizer.state[parameter].items() if isinstance(v, torch.Tensor)}
            key = self.random.choice(sorted(state))
            tensor, self.where = state[key], f"the optimizer's {key} of {name}"
        with torch.no_grad():
            index = self.random.randrange(tensor.numel())
            self.poisoned = tensor
            tensor.view(-1)[index] = self.value


def _run(optimizer, accumulate, steps, poison=None, callbacks=()):
    """Train; the learner, and the message of the error that ended it."""
    batches, loss_fn = _batches(steps * accumulate), nn.functional.cross_entropy
    callbacks = list(callbacks)
    if poison is not None:
        bad = (poison.step - 1) * accumulate + poison.random.randrange(accumulate)
        if poison.place == "input":
            batches[bad][0][poison.random.randrange(6), poison.random.randrange(4)] = poison.value
            poison.where = "the inputs of the batch"
        elif poison.place == "loss":
            loss_fn, poison.where = _loss_that_fails_at(bad + 1), "a loss"
        else:
            callbacks.append(Debug(poison.at, call=poison.write))
    learner = Learner(
        _model(),
        batches,
        loss_fn,
        optimizer,
        accumulate=accumulate,
        callbacks=callbacks,
        progress=False,
        device="cpu",
    )
    torch.manual_seed(2)
    if poison is None:
        learner.fit(1)
        return learner, ""
    with pytest.raises(NonFiniteError) as caught:
        learner.fit(1)
    return learner, str(caught.value)


@cache
def _reference(name, accumulate, steps):
    """The same run without a NaN; only looked at."""
    return _run(OPTIMIZERS[name], accumulate, steps)[0]


def _same(a, b, besides=()):
    """Whether two sets of named tensors agree, entries that are not finite in the tensors `besides` left out."""
    for name, value in a.items():
        if name in besides:
            ok = value.isfinite()
            assert int((~ok).sum()) == 1, name
            assert torch.equal(value[ok], b[name][ok]), name
        else:
            assert torch.equal(value, b[name]), name


def _check_weights(learner, reference, poison):
    bad = {name for name, parameter in learner.model.named_parameters() if parameter is poison.poisoned}
    _same(learner.model.state_dict(), reference.model.state_dict(), bad)
    mine, theirs = list(learner.model.parameters()), list(reference.model.parameters())
    for a, b in zip(mine, theirs, strict=True):
        for key, value in learner.optimizer.state[a].items():
            if value is not poison.poisoned:
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(reference.optimizer.state[b][key])), key


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("place", PLACES)
def test_weights_are_those_of_the_last_good_step(place, name, accumulate):
    for seed in range(2):
        poison = _Poison(place, random.Random(f"{place}{name}{accumulate}{seed}").randint(2, STEPS), seed)
        learner, message = _run(OPTIMIZERS[name], accumulate, STEPS, poison)
        reference = _reference(name, accumulate, poison.step - 1)

        _check_weights(learner, reference, poison)
        assert f"step {poison.step} (epoch 1)" in message
        assert f"first in {poison.where}" in message
        all_or_other = "All other" if place == "parameter" else "The"
        assert f"{all_or_other} weights are those of step {poison.step - 1}." in message
        assert learner.progress.step == poison.step - 1
        assert not learner.history.rows


def _defer(monkeypatch):
    monkeypatch.setattr(loop, "FiniteGuard", lambda *args: FiniteGuard(*args, deferred=True))


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("place", PLACES)
def test_the_same_where_the_host_hears_of_it_later(place, name, accumulate, monkeypatch):
    _defer(monkeypatch)
    poison = _Poison(place, random.Random(f"{place}{name}{accumulate}").randint(2, STEPS), 5)
    learner, message = _run(OPTIMIZERS[name], accumulate, STEPS, poison)
    reference = _reference(name, accumulate, poison.step - 1)

    _check_weights(learner, reference, poison)
    assert f"step {poison.step} (epoch 1)" in message
    # a loss or gradient that was bad once and is not when the batch is run again cannot be told by then
    assert f"first in {poison.where}" in message or place in ("loss", "gradient")
    assert not learner.history.rows


@pytest.mark.parametrize("place", PLACES)
def test_found_at_most_fifty_steps_later(place, monkeypatch):
    """Even where no copy of the flag has arrived until the host waits for it."""

    class Slow:
        def query(self):
            return False

        def synchronize(self):
            pass

    look = finite._Look
    monkeypatch.setattr(finite, "_Look", lambda state, arrived, steps: look(state, Slow(), steps))
    _defer(monkeypatch)
    poison = _Poison(place, 5, 3)
    learner, message = _run(OPTIMIZERS["fused adamw"], 1, 80, poison)
    reference = _reference("fused adamw", 1, 4)

    assert "step 5 (epoch 1)" in message
    assert 4 + 40 < learner.progress.step <= 4 + 50
    _check_weights(learner, reference, poison)


@pytest.mark.parametrize("place", PLACES)
def test_nothing_that_is_kept_holds_a_nan_and_the_next_fit_goes_on(place):
    batches, calls, poison = _batches(8), [], _Poison(place, 7, 1)
    poison.at = "transform_grads" if place == "gradient" else "before_step"
    saved = copy.deepcopy(batches[2])

    def loss_fn(preds, targets, reduction="mean"):
        calls.append(1)
        loss = nn.functional.cross_entropy(preds, targets, reduction=reduction)
        return loss + torch.nan if place == "loss" and len(calls) == 7 else loss

    def poison_it(learner, *_):
        if place == "input" and learner.progress.step == 6 and not poison.where:
            poison.where = "the inputs of the batch"
            batches[2][0][0, 0] = torch.nan
        elif place not in ("input", "loss"):
            poison.write(learner)

    best, patience = SaveBest("train_loss"), EarlyStopping("train_loss", patience=1)
    learner = Learner(
        _model(),
        batches[:4],
        loss_fn,
        OPTIMIZERS["adamw"],
        callbacks=[Debug(poison.at, call=poison_it), best, patience],
        progress=False,
        device="cpu",
    )
    with pytest.raises(NonFiniteError, match=r"step 7 \(epoch 2\)"):
        learner.fit(2)
    assert [row["epoch"] for row in learner.history.rows] == [1]
    assert best.epoch == 1
    assert best.best == patience.best == learner.history["train_loss"][0]
    assert all(value.isfinite().all() for value in best.weights.values())
    assert all(value.isfinite().all() for value in learner.model.state_dict().values())  # SaveBest puts them back

    batches[2][0].copy_(saved[0])
    learner.fit(1, reset_optimizer=place == "state")
    assert len(learner.history.rows) == 2
    assert all(value.isfinite().all() for value in learner.model.state_dict().values())


class _Valid:
    """Validation batches with a NaN from the second pass on."""

    def __init__(self):
        self.passes = 0

    def __len__(self):
        return 2

    def __iter__(self):
        self.passes += 1
        for inputs, targets in _batches(2):
            yield (inputs * torch.nan if self.passes > 1 else inputs), targets


def test_nan_in_the_validation_data_shows_and_is_never_the_best():
    best, patience = SaveBest(), EarlyStopping(patience=5)
    learner = Learner(
        _model(),
        (_batches(4), _Valid()),
        nn.functional.cross_entropy,
        OPTIMIZERS["adamw"],
        callbacks=[best, patience],
        progress=False,
        device="cpu",
    )
    history = learner.fit(4)

    first, second = history["valid_loss"]
    assert first == first
    assert second != second
    assert best.epoch == 1
    assert best.best == patience.best == first
    assert "valid_loss is not a number" in history.stopped
    assert all(value.isfinite().all() for value in learner.model.state_dict().values())
