"""Techniques together, where each alone is right: what one does must not be undone by another in silence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import etude
from etude import EMA, SAM, Callback, ConfigError, Debug, Learner, MixedPrecision, MixUp, SkipStep, StepOutput, detached
from etude.training.precision import make_precision
from halves import batches, fit, perceptron

HALF = ["bf16-master", MixedPrecision("fp16", loss_scale=128.0), MixedPrecision("bf16", flat=True)]


def _moved(made: Learner) -> torch.Tensor:
    return nn.utils.parameters_to_vector(made.model.parameters()).detach()


@pytest.mark.parametrize("precision", HALF, ids=["bf16", "fp16", "flat"])
def test_a_callback_that_runs_the_model_and_one_that_clips_weights(precision):
    """Both see float32 weights, and what is written to them stays."""

    class Looks(Callback):
        def after_step(self, learner, batch, output):
            with torch.no_grad():
                learner.forward(batch)

        def before_step(self, learner):
            with torch.no_grad():
                for weight in learner.model.parameters():
                    weight.clamp_(-0.05, 0.05)

    made = fit(perceptron(), precision, callbacks=[Looks()], optimizer=etude.optim.sgd(lr=1e-4))

    assert max(weight.abs().max() for weight in made.model.parameters()) < 0.1


@pytest.mark.parametrize("precision", HALF, ids=["bf16", "fp16", "flat"])
def test_gradients_of_two_losses_are_asked_for_one_after_the_other(precision):
    found = {}

    def step(learner, batch):
        first, preds = learner.forward(batch)
        second, _ = learner.forward(batch._replace(inputs=-batch.inputs))
        learner.preds(batch)
        weights = list(learner.model.parameters())
        found[learner.precision.name] = [
            sum(grad.abs().sum().item() for grad in learner.grad(loss, weights)) for loss in (first, second)
        ]
        learner.backward(learner.forward(batch)[0])
        return StepOutput(first.detach(), detached(preds), batch, learner.update())

    for which in ("fp32", precision):
        fit(perceptron(), which, batches(1), step=step)
    single, half = found.values()

    assert half == pytest.approx(single, rel=0.05)
    assert min(half) > 0.1


@pytest.mark.parametrize("precision", HALF, ids=["bf16", "fp16", "flat"])
def test_a_climb_written_through_data_is_computed_with(precision):
    rises = []

    def step(learner, batch):
        loss, preds = learner.forward(batch)
        weights = list(learner.model.parameters())
        climbs = learner.grad(loss, weights)
        for weight, climb in zip(weights, climbs, strict=True):
            weight.data = weight.data + climb
        above = learner.forward(batch)[0]
        rises.append((above - loss).item())
        for weight, climb in zip(weights, climbs, strict=True):
            weight.data.sub_(climb)
        learner.backward(learner.forward(batch)[0])
        return StepOutput(loss.detach(), detached(preds), batch, learner.update())

    fit(perceptron(), precision, step=step)

    assert min(rises) > 0.01


@pytest.mark.parametrize("precision", HALF, ids=["bf16", "fp16", "flat"])
def test_gradients_that_a_callback_keeps_stay_as_they_were(precision):
    kept, copies = [], []

    def keep(learner, *_):
        kept.extend(weight.grad for weight in learner.model.parameters())
        copies.extend(weight.grad.clone() for weight in learner.model.parameters())

    fit(perceptron(), precision, callbacks=[Debug("transform_grads", call=keep)])

    assert all(map(torch.equal, kept, copies))


def test_weights_that_share_memory_stay_together():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 3))
    model[1].weight.data = model[0].weight.data
    places = [weight.data_ptr() for weight in model.parameters()]
    made = fit(model, MixedPrecision("bf16", flat=True))
    made.evaluate(batches())

    assert [weight.data_ptr() for weight in model.parameters()] == places


@pytest.mark.parametrize("precision", HALF, ids=["bf16", "fp16", "flat"])
def test_weights_keep_their_place_in_memory(precision):
    model = perceptron()
    places = [weight.data_ptr() for weight in model.parameters()]
    fit(model, precision).evaluate(batches())

    assert [weight.data_ptr() for weight in model.parameters()] == places


def test_buffers_keep_float32():
    """A count goes beyond 256, where bfloat16 has no next whole number."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.tensor(255.0))

        def forward(self, x):
            self.count += 1
            return x

    model = nn.Sequential(Counts(), perceptron())
    fit(model, "bf16-master")

    assert model[0].count == 255 + 4


def test_a_callback_that_skips_overflowing_steps_does_not_keep_the_scale_up():
    class SkipBad(Callback):
        def transform_grads(self, model, learner):
            if not all(weight.grad.isfinite().all() for weight in model.parameters()):
                raise SkipStep("not finite")

    made = fit(perceptron(), MixedPrecision(loss_scale=2.0**24, dynamic=True), batches(30), callbacks=[SkipBad()])

    assert made.precision.loss_scale < 2.0**24
    assert made.history["overflows"][0] < 20


def test_equal_settings_have_one_name():
    names = [make_precision(given, torch.device("cpu")).name for given in ("fp16", MixedPrecision("fp16"))]

    assert names == ["fp16", "fp16"]
    assert make_precision(MixedPrecision("bf16"), torch.device("cpu")).name == "bf16-master"
    assert "growth_interval=7" in MixedPrecision(growth_interval=7).name


def test_distillation_refuses_hidden_mixing_in_a_later_fit_too():
    teacher = perceptron()
    made = fit(perceptron(), "fp32", step=etude.Distillation(teacher))
    with pytest.raises(ConfigError, match="where the teacher cannot see it"):
        made.fit(1, lr=0.1, callbacks=[MixUp(0.4, at="0")])


def test_sam_counts_nothing_twice():
    """Neither a buffer that the model makes anew, nor what a loss counts."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return x

    class Loss(nn.CrossEntropyLoss):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, preds, targets):
            self.calls += 1
            return super().forward(preds, targets)

    model, loss_fn = nn.Sequential(Mean(), perceptron()), Loss()
    fit(model, "fp32", step=SAM(), loss_fn=loss_fn)

    assert model[0].calls == loss_fn.calls == 4


@pytest.mark.parametrize("precision", ["fp32", "bf16-master"])
def test_an_average_with_sam_and_accumulation_ends_where_its_last_row_says(precision):
    data = batches()
    made = fit(perceptron(), precision, (data, data), step=SAM(), accumulate=3, average=EMA(0.9, every=2), epochs=2)

    assert made.evaluate()["loss"] == made.history["valid_loss"][-1]
    assert made.average is not None


def test_the_place_of_a_bad_gradient_is_named_in_half_precision_too():
    """A fixed scale that is too large: the gradient is named, and the scale."""
    with pytest.raises(
        etude.NonFiniteError, match=r"the gradient of .*weight.* The loss scale is fixed at 1\.07374e\+09"
    ):
        fit(perceptron(), MixedPrecision(loss_scale=2.0**30, dynamic=False))


@pytest.mark.parametrize("precision", ["fp32", *HALF], ids=["fp32", "bf16", "fp16", "flat"])
def test_asking_for_some_gradients_changes_no_other(precision):
    kept = []

    def step(learner, batch):
        loss, preds = learner.forward(batch)
        learner.grad(loss, [learner.model[0].weight])
        kept.extend(weight.grad for weight in learner.model.parameters())
        learner.backward(learner.forward(batch)[0])
        return StepOutput(loss.detach(), detached(preds), batch, learner.update())

    fit(perceptron(), precision, batches(1), step=step)

    assert kept == [None] * 6
