"""Fits in mixed precision: who is trained, what is left behind, and that every knob reaches the step."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from typing_extensions import override

from etude import (
    EMA,
    Batch,
    Callback,
    ClipGradNorm,
    Debug,
    MixedPrecision,
    SaveBest,
    StepOutput,
    StopFit,
    detached,
    flat,
)
from etude.errors import NonFiniteError
from etude.testing import same
from halves import batches, fit, learner, perceptron, representable, state_of

PRECISIONS = {
    "fp16": MixedPrecision("fp16"),
    "fp16 flat": MixedPrecision("fp16", flat=True),
    "bf16": MixedPrecision("bf16"),
    "bf16 flat": MixedPrecision("bf16", flat=True),
}
EVERY = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
LAYOUTS = pytest.mark.parametrize("precision", [PRECISIONS["fp16"], PRECISIONS["fp16 flat"]], ids=["lists", "flat"])
ADAMW = partial(torch.optim.AdamW, weight_decay=0.5)
STATIC = MixedPrecision(loss_scale=256.0)
"""At which nothing here overflows, so no step is skipped."""


class _Unused(nn.Module):
    """Has a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = perceptron(), nn.Linear(4, 4)

    @override
    def forward(self, x):
        return self.used(x)


@LAYOUTS
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_layer_without_a_gradient_gets_no_update_no_decay_no_state(fused, precision):
    """The notes' flat masters crashed there, and zero gradients would have let it decay."""
    model = _Unused()
    before = copy.deepcopy(model.unused.state_dict())
    trained = fit(model, precision, optimizer=partial(ADAMW, fused=fused))

    assert same(before, model.unused.state_dict())
    assert len(trained.optimizer.state) == len(list(model.used.parameters()))


@LAYOUTS
def test_a_frozen_group_stays_and_is_trained_once_a_callback_unfreezes_it(precision):
    """The notes made masters of what was trainable at the beginning: nothing else could be trained later."""
    model, seen = perceptron(), []

    def thaw(learner, *_):
        seen.append(model[0].weight.detach().clone())
        if learner.progress.fit_epoch == 1:
            model[0].requires_grad_(True)

    model[0].requires_grad_(False)
    groups = lambda model: [model[:2], model[2:]]  # noqa: E731
    before = Debug("before_epoch", call=thaw)
    fit(model, precision, epochs=3, optimizer=ADAMW, groups=groups, callbacks=[before])

    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert not representable(model[0].weight, torch.float16)


@EVERY
def test_two_fits_equal_one_longer_and_the_scale_goes_on(precision):
    """Error 5 of the notes: their second fit trained detached copies."""
    if precision.scaler.dynamic:
        precision = MixedPrecision(loss_scale=256.0, dynamic=True, growth_interval=3, flat=precision.flat)
    one, two = (learner(perceptron(), precision, optimizer=partial(ADAMW, fused=True)) for _ in range(2))
    one.fit(3, lr=0.05, schedule=flat)
    two.fit(2, lr=0.05, schedule=flat)
    between = two.precision.loss_scale
    two.fit(1, lr=0.05, schedule=flat)

    assert same(state_of(one), state_of(two))
    assert one.history["train_loss"] == two.history["train_loss"]
    assert one.precision.loss_scale == two.precision.loss_scale
    if precision.scaler.dynamic:
        assert one.history["loss_scale"] == two.history["loss_scale"]
        assert (between, two.precision.loss_scale) == (2.0**10, 2.0**12), "8, then 12 good steps, doubled every 3"


class _Planted(Exception):
    pass


class _BreaksBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, fail):
        ctx.fail = fail
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.fail()
        return grad, None


def _failing_learner(place, error, precision, callbacks):
    """Fails at a place of the third step, once."""
    model, calls = perceptron(), []

    def fail(*_):
        calls.append(1)
        if len(calls) == 3:
            raise error("planted")

    def loss_fn(preds, targets, reduction="mean"):
        if place == "loss":
            fail()
        preds = _BreaksBackward.apply(preds, fail) if place == "backward" and preds.requires_grad else preds
        return nn.functional.cross_entropy(preds, targets, reduction=reduction)

    if place == "forward":
        model[3].register_forward_pre_hook(fail)
    own = [Debug(place, call=fail)] if place not in ("forward", "loss", "backward") else []
    return learner(model, precision, loss_fn=loss_fn, callbacks=[*own, *callbacks])


PLACES = ["forward", "loss", "backward", "before_step", "transform_batch", "transform_grads", "after_step"]


@pytest.mark.parametrize("error", [_Planted, KeyboardInterrupt, StopFit])
@pytest.mark.parametrize("place", PLACES)
def test_however_a_fit_ends_the_weights_are_the_masters(place, error):
    """Error 5 of the notes: after the fit the weights had been rounded, or were half."""
    seen = []

    def look(made, *_):
        seen.append((state_of(made), {value.dtype for value in made.model.parameters()}))

    callbacks = [Debug("after_step", call=look), Debug("after_fit", call=look)]
    made = _failing_learner(place, error, MixedPrecision(flat=error is KeyboardInterrupt), callbacks)
    hooks = [len(module._forward_pre_hooks) for module in made.model.modules()]
    with nullcontext() if error is StopFit else pytest.raises(error):
        made.fit(1, lr=0.05)

    done = 3 if place == "after_step" else 2
    assert {dtype for _, dtypes in seen for dtype in dtypes} == {torch.float32}, "callbacks see float32 to the end"
    assert same(seen[-1][0]["optimizer"], state_of(made)["optimizer"])
    assert made.progress.step == done
    assert not any(representable(weight, torch.float16) for weight in made.model.parameters() if weight.ndim > 1)
    assert {value.dtype for value in made.model.parameters()} == {torch.float32}
    for i in (0, 3):
        assert torch.equal(made.model[i].weight, seen[1 if done == 2 else -1][0]["model"][f"{i}.weight"])
    assert [len(module._forward_pre_hooks) for module in made.model.modules()] == hooks
    assert all(weight.grad is None for weight in made.model.parameters())
    assert len(made.fit(1, lr=0.05)) == 1


def test_the_best_weights_are_put_back_when_a_later_epoch_fails():
    """A callback that sets weights when the fit is over sets the masters, whatever the model was doing."""
    best, calls = SaveBest("train_loss"), []

    def loss_fn(preds, targets, reduction="mean"):
        calls.append(1)
        loss = nn.functional.cross_entropy(preds, targets, reduction=reduction)
        return loss if len(calls) < 7 else loss * torch.nan

    made = learner(perceptron(), "fp16", loss_fn=loss_fn, callbacks=[best])
    with pytest.raises(NonFiniteError, match="step 7"):
        made.fit(2, lr=0.05)

    assert best.epoch == 1
    assert same(dict(made.model.state_dict()), best.weights)


@EVERY
@pytest.mark.parametrize("average", [None, EMA(0.9, every=2)], ids=["weights", "average"])
def test_evaluation_and_prediction_after_a_fit_are_those_of_its_last_row(average, precision):
    data = batches()
    made = learner(perceptron(), precision, (data, data), average=average)
    made.fit(2, lr=0.05)
    before = state_of(made)

    assert made.evaluate()["loss"] == made.history["valid_loss"][-1]
    output = made.predict().output
    again = made.predict(torch.cat([inputs for inputs, _ in data])).output
    assert output.dtype == torch.float32
    assert torch.equal(output, again)
    assert same(before, state_of(made))
    targets = torch.cat([targets for _, targets in data])
    loss = nn.functional.nll_loss(output.log(), targets)
    assert loss.item() == pytest.approx(made.history["valid_loss"][-1], abs=1e-5)


@LAYOUTS
def test_a_forward_pass_outside_of_a_fit_leaves_the_weights_alone(precision):
    made = fit(perceptron(), precision)
    made.model.eval()
    before = state_of(made)
    loss, preds = made.forward(Batch(*batches()[0]))
    loss.backward()

    assert same(before, state_of(made))
    assert preds.dtype == torch.float32
    assert {weight.grad.dtype for weight in made.model.parameters()} == {torch.float32}


class _Grads(Callback):
    def __init__(self) -> None:
        self.seen = []

    @override
    def transform_grads(self, model, learner):
        self.seen.append([weight.grad.clone() for weight in model.parameters()])


@EVERY
def test_accumulated_gradients_are_those_of_the_big_batch(precision):
    """Half of them in each comparison is rounding: a few units in the last place of the 16-bit type."""
    data = batches()
    big = [tuple(map(torch.cat, zip(*data, strict=True)))]
    grads = {}
    for name, which, batch, accumulate in [
        ("fp32", "fp32", big, 1),
        ("big", precision, big, 1),
        ("small", precision, data, 4),
    ]:
        torch.manual_seed(0)
        model, look = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3)), _Grads()
        fit(model, which, batch, accumulate=accumulate, callbacks=[look])
        (grads[name],) = look.seen

    eps = torch.finfo(precision.dtype).eps
    for name in ("big", "small"):
        for true, grad in zip(grads["fp32"], grads[name], strict=True):
            assert (grad - true).abs().max() < 2 * eps * true.abs().max(), name


@pytest.mark.parametrize("average", [None, EMA(0.9, every=2)], ids=["weights", "average"])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_accumulation_precision_clipping_and_average_are_equivalent_in_float64(clip, average):
    """A model in float64 has no half weights, and a scale that is a power of two rounds nothing."""

    def run(precision, accumulate):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3)).double()
        data = [(x.double(), y) for x, y in batches(8)]
        if accumulate == 1:
            data = [tuple(map(torch.cat, zip(*data[i : i + 4], strict=True))) for i in (0, 4)]
        callbacks = [ClipGradNorm(clip)] if clip else []
        options = {"accumulate": accumulate, "average": average, "callbacks": callbacks, "epochs": 3}
        made = fit(model, precision, (data, data), **options)
        state = state_of(made)
        values = [*state["model"].values(), *state["average"].values()]
        return torch.cat([value.flatten() for value in values]), made.history

    plain, history = run("fp32", 1)
    windows, _ = run("fp32", 4)
    assert torch.allclose(plain, windows, rtol=0, atol=1e-12)
    for which in (PRECISIONS["fp16 flat"], PRECISIONS["bf16"]):
        values, rows = run(which, 1)
        assert torch.equal(values, plain)
        assert rows["valid_loss"] == history["valid_loss"]
        assert torch.equal(run(which, 4)[0], windows)


def _sam_step(learner, batch):
    """Sharpness-aware: the gradient at the worst point nearby."""
    weights = list(learner.model.parameters())
    batch = learner.transform(batch)
    loss, preds = learner.forward(batch)
    grads = learner.grad(loss, weights)
    assert {grad.dtype for grad in grads} == {torch.float32}
    assert 0.01 < torch.stack([grad.norm() for grad in grads]).norm() < 10, "unscaled"
    assert all(weight.grad is None and weight.dtype == torch.float32 for weight in weights)
    kept = [weight.detach().clone() for weight in weights]
    length = torch.stack([grad.norm() for grad in grads]).norm()
    with torch.no_grad():
        for weight, grad in zip(weights, grads, strict=True):
            weight.add_(grad, alpha=0.5 / length.item())
    learner.backward(learner.forward(batch)[0])
    with torch.no_grad():
        for weight, old in zip(weights, kept, strict=True):
            weight.copy_(old)
    return StepOutput(loss.detach(), detached(preds), batch, learner.update())


def test_gradients_that_a_step_asks_for_are_true_and_in_float32():
    """Unscaled, and taken at the point where the weights have been moved to."""
    sgd = partial(torch.optim.SGD, momentum=0.9)
    half, single = (fit(perceptron(), which, optimizer=sgd, step=_sam_step) for which in (STATIC, "fp32"))
    plain = fit(perceptron(), "fp32", optimizer=sgd)
    weights = [nn.utils.parameters_to_vector(made.model.parameters()).detach() for made in (half, single, plain)]

    assert (weights[0] - weights[1]).abs().max() < 5e-3
    assert (weights[1] - weights[2]).abs().max() > 5e-2


@pytest.mark.parametrize("first", [False, True])
def test_a_penalty_on_the_weights_in_a_step_works_on_a_clone(first):
    def step(learner, batch, clone=True):
        weight = learner.model[0].weight.clone() if clone else learner.model[0].weight
        penalty = (weight @ weight.T).square().mean() if first else 0.0
        loss, preds = learner.forward(batch)
        penalty = penalty if first else (weight @ weight.T).square().mean()
        learner.backward(loss + penalty)
        return StepOutput(loss.detach(), detached(preds), batch, learner.update())

    with pytest.raises(RuntimeError) as error:
        fit(perceptron(), STATIC, step=partial(step, clone=False))
    assert "weight.clone()" in error.value.__notes__[0]
    half, single = (fit(perceptron(), which, step=step).history["train_loss"] for which in (STATIC, "fp32"))
    assert half == pytest.approx(single, abs=5e-3)
