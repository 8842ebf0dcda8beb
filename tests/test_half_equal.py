"""Mixed precision equals the loop that a reader of the paper would write by hand, bit for bit."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from etude import ClipGradNorm, MixedPrecision
from halves import batches, fit, network, perceptron
from reference import mixed_precision

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)
ADAMW = partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1)
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def _check(model, data, optimizer, dtype, flat=False, clip=None, **scaling) -> list[float]:
    """Train both ways and compare weights, losses and the scale; the scale after each step."""
    by_hand = mixed_precision.train(
        model, data, nn.CrossEntropyLoss(), optimizer, TYPES[dtype], max_norm=clip, num_epochs=2, **scaling
    )
    precision = MixedPrecision(
        dtype,
        loss_scale=scaling.get("scale", 512.0),
        dynamic=scaling.get("dynamic", False),
        growth_interval=scaling.get("scale_wait", 500),
        flat=flat,
    )
    callbacks = [ClipGradNorm(clip)] if clip else []
    ours = fit(model, precision, data, epochs=2, optimizer=optimizer, callbacks=callbacks)

    names = [name for name, _ in model.named_parameters()]
    pairs = zip(names, model.parameters(), by_hand.masters, strict=True)
    assert [name for name, weight, master in pairs if not torch.equal(weight, master)] == []
    means = [sum(by_hand.losses[i : i + len(data)]) / len(data) for i in (0, len(data))]
    assert ours.history["train_loss"] == pytest.approx(means, abs=1e-6)
    assert ours.precision.loss_scale == by_hand.scales[-1]
    return by_hand.scales


@pytest.mark.parametrize("flat", [False, True], ids=["lists", "flat"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("dtype", TYPES)
def test_equal_to_the_hand_written_loop(dtype, optimizer, fused, flat):
    _check(perceptron(), batches(), partial(optimizer, fused=fused), dtype, flat)


@pytest.mark.parametrize("flat", [False, True], ids=["lists", "flat"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", TYPES)
def test_convolutions_in_both_memory_formats(dtype, memory_format, flat):
    data = [(x.contiguous(memory_format=memory_format), y) for x, y in batches(shape=(3, 6, 6))]
    model = network(memory_format)
    strides = [weight.stride() for weight in model.parameters()]
    _check(model, data, partial(ADAMW, fused=True), dtype, flat)

    assert [weight.stride() for weight in model.parameters()] == strides


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("flat", [False, True], ids=["lists", "flat"])
def test_equal_with_a_dynamic_scale_that_falls_and_grows(flat, clip):
    """Real overflows: the first gradients are too large for a scale of 2^20, later ones again once it has grown."""
    data = [(x * 8, y) for x, y in batches(6)]
    scales = _check(perceptron(), data, ADAMW, "fp16", flat, clip, scale=2.0**20, dynamic=True, scale_wait=2)

    changes = [now / then for then, now in pairwise([2.0**20, *scales])]
    assert changes[0] == 0.5
    assert changes.count(0.5) > 4
    assert 2 in changes
