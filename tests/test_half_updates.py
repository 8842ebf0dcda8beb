"""What masters are for, and the hyper-parameters that have to reach the step that changes them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from typing_extensions import override

from etude import Debug, MixedPrecision
from etude.schedules import linear
from halves import learner, perceptron, representable

EVERY = [MixedPrecision(dtype, flat=flat) for dtype in ("fp16", "bf16") for flat in (False, True)]


def _mean(preds, targets, reduction="mean"):
    return preds.mean()


@pytest.mark.parametrize(("masters", "moved"), [(True, 0.002), (False, 0.0)])
def test_an_update_that_half_cannot_hold_is_kept_by_the_masters(masters, moved):
    """SPEC E1, E2: 1 - 0.0001 is 1 in float16, twenty times over."""
    model, seen = nn.Linear(1, 1, bias=False), []
    nn.init.ones_(model.weight)
    look = Debug("after_step", call=lambda *_: seen.append(representable(model.weight, torch.float16)))
    data = [(torch.ones(1, 1), torch.zeros(1))] * 20
    precision = MixedPrecision(loss_scale=512.0, master_weights=masters)
    made = learner(model, precision, data, loss_fn=_mean, callbacks=[look], optimizer=partial(torch.optim.SGD, lr=1e-4))
    made.fit(1)

    assert 1 - model.weight.item() == pytest.approx(moved, abs=1e-6)
    assert all(seen) is not masters


def _hypers_reach_the_step(optimizer, precision) -> bool:
    """Whether every update is the one of the scheduled learning rate, momentum and weight decay."""
    model, found, speed = perceptron(), [], {}

    def expect(learner, model):
        (group,) = learner.optimizer.param_groups
        lr, momentum, decay = (group[name] for name in ("lr", "momentum", "weight_decay"))
        for weight in model.parameters():
            step = weight.grad + decay * weight.detach()
            speed[weight] = step + momentum * speed[weight] if weight in speed else step
            found.append((weight, weight.detach() - lr * speed[weight]))

    def compare(learner, *_):
        found[:] = [torch.allclose(pair[0], pair[1], atol=1e-6) if isinstance(pair, tuple) else pair for pair in found]

    schedules = {"lr": linear(0.1, 0.01), "momentum": linear(0.5, 0.9), "weight_decay": linear(0.5, 0.0)}
    callbacks = [Debug("transform_grads", call=expect), Debug("after_step", call=compare)]
    learner(model, precision, optimizer=optimizer, callbacks=callbacks).fit(2, schedule=schedules)
    return all(found)


class _OtherGroups(torch.optim.SGD):
    """The bug that cost the lesson's author weeks: the step reads groups that no schedule writes to."""

    def __init__(self, params, **settings) -> None:
        super().__init__(params, **settings)
        self._own = [dict(group) for group in self.param_groups]

    @override
    def step(self, closure=None):
        shown, self.param_groups = self.param_groups, self._own
        super().step()
        self.param_groups = shown


@pytest.mark.parametrize("precision", EVERY, ids=["fp16", "fp16 flat", "bf16", "bf16 flat"])
def test_scheduled_hyper_parameters_reach_the_executed_step(precision):
    """SPEC E12: four letters were missing, and it showed after fifty epochs."""
    settings = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.5}

    assert _hypers_reach_the_step(partial(torch.optim.SGD, **settings), precision)
    assert not _hypers_reach_the_step(partial(_OtherGroups, **settings), precision)
