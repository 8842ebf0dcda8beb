"""No step of mixed precision makes the host wait, and looking for overflows is one operation for any model."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from etude import EMA, ClipGradNorm, Debug, MixedPrecision, MixUp, Record, optim
from halves import batches, defer, learner, perceptron

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal", "allclose", "masked_select", "unique")
LOOKS = ("isfinite", "isnan", "isinf", "all", "any", "ne", "abs")
ONE_LOOK = "_amp_foreach_non_finite_check_and_unscale_"
PRECISIONS = {
    "fp32": "fp32",
    "bf16": "bf16",
    "bf16-master": "bf16-master",
    "fp16": "fp16",
    "fp16 flat": MixedPrecision(flat=True),
    "fp16 static": MixedPrecision(loss_scale=128.0),
    "fp16 without masters": MixedPrecision(master_weights=False),
}


class _Count(TorchDispatchMode):
    """Counts operations by their name, and copies from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    @override
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, result = func.overloadpacket.__name__, func(*args, **(kwargs or {}))
        self.seen[name] += 1
        if name in ("_to_copy", "copy_") and len({t.device for t in (*args[:2], result) if torch.is_tensor(t)}) > 1:
            self.seen["between devices"] += 1
        return result


def _per_step(model, precision, steps=13, accumulate=1, **options) -> list[Counter[str]]:
    """The operations of every step but the first."""
    mode, marks = _Count(), []
    last = Debug("after_step", call=lambda made, *_: marks.append((made.progress.step, Counter(mode.seen))))
    options["callbacks"] = [*options.get("callbacks", []), last]
    made = learner(model, precision, batches(steps * accumulate), accumulate=accumulate, **options)
    with mode:
        made.fit(1, lr=0.01)
    ends = list(dict(marks).values())
    return [now - before for before, now in pairwise(ends)]


def _everything() -> dict:
    return {
        "callbacks": [MixUp(0.4), ClipGradNorm(1.0), Record()],
        "average": EMA(0.9, every=2),
    }


def _check_that_no_step_waits(precision, accumulate, optimizer) -> None:
    steps = _per_step(perceptron(), precision, accumulate=accumulate, optimizer=optimizer, **_everything())

    found = sum(steps, Counter())
    assert {name: found[name] for name in (*WAITS, "between devices") if found[name]} == {}
    assert found["_fused_adamw_"] + found["_fused_sgd_"] >= len(steps), "it was trained"


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
def test_no_step_waits(precision, monkeypatch):
    defer(monkeypatch)
    _check_that_no_step_waits(precision, 1, optim.adamw())


@pytest.mark.slow
@pytest.mark.parametrize("deferred", [False, True], ids=["in the step", "later"])
@pytest.mark.parametrize("optimizer", [optim.adamw(), optim.sgd()], ids=["adamw", "sgd"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
def test_no_step_waits_with_either_optimizer_and_guard(precision, accumulate, optimizer, deferred, monkeypatch):
    if deferred:
        defer(monkeypatch)
    _check_that_no_step_waits(precision, accumulate, optimizer)


def test_a_wait_would_be_seen():
    """What the notes did in every step: ask for one number."""
    ask = Debug("transform_grads", call=lambda made, model: float(next(model.parameters()).grad.sum()))

    steps = _per_step(perceptron(), "fp16", callbacks=[ask], optimizer=optim.adamw())
    assert [step["_local_scalar_dense"] for step in steps] == [1] * len(steps)


def _deep(num_layers: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(num_layers - 1)), nn.Linear(4, 3))


@pytest.mark.parametrize("precision", ["fp16", MixedPrecision(flat=True), "bf16-master"], ids=["fp16", "flat", "bf16"])
def test_the_look_for_overflows_is_one_operation_for_any_number_of_tensors(precision):
    """Error 6 of the notes: a question per tensor doubled the time of an epoch."""
    counts = []
    for num_layers in (10, 60):
        steps = _per_step(_deep(num_layers), precision, steps=4, optimizer=optim.sgd())
        counts.append([{name: step[name] for name in (ONE_LOOK, *LOOKS)} for step in steps])

    assert counts[0] == counts[1]
    assert {step[ONE_LOOK] for step in counts[0]} == {1 if precision == "bf16-master" else 3}
    assert {step["isfinite"] for step in counts[0]} == {0}


@pytest.mark.parametrize("num_layers", [10, 60])
def test_rounding_flat_masters_is_one_copy(num_layers):
    """However many tensors: the copies of a step beside it are those of the gradients."""
    flat, lists = (
        _per_step(_deep(num_layers), MixedPrecision("bf16", flat=flat), steps=3, optimizer=optim.sgd())[0]
        for flat in (True, False)
    )

    assert lists["_foreach_copy_"] == 2, "weights to half, gradients to float"
    assert flat["_foreach_copy_"] == 1
