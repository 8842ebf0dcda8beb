"""Pictures that tell where each pixel comes from, and callbacks applied to them as a step would."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etude import ArrayLoader, Batch, Callback, DataLoaders, Learner, MixedTargets


def learner(*callbacks: Callback, model: nn.Module | None = None, batches: int = 3, **options) -> Learner:
    """A small network for pictures of 3x6x6 pixels."""
    torch.manual_seed(0)
    inputs = torch.randn(8 * batches, 3, 6, 6)
    targets = torch.arange(8 * batches) % 4
    made = model or nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    train = ArrayLoader(inputs, targets, batch_size=8)
    valid = ArrayLoader(inputs[:8], targets[:8], batch_size=8)
    data = DataLoaders(train, valid, seed=3)
    loss_fn, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD
    quiet = {"device": "cpu", "progress": False, "precision": "fp32"}
    return Learner(made, data, loss_fn, optimizer, callbacks=callbacks, **quiet, **options)


def known(num: int, height: int = 9, width: int = 7) -> Batch:
    """Sample i has label i and is 1 in channel i: a mixture's mean over its pixels is the share of every sample."""
    inputs = torch.eye(num).view(num, num, 1, 1).expand(-1, -1, height, width).contiguous()
    return Batch(inputs, torch.arange(num))


def through(batch: Batch, *callbacks: Callback, at_batch: int = 0) -> Batch:
    """A batch after some callbacks."""
    made = learner(*callbacks, batches=1)
    made.progress.batch = at_batch
    return made.transform(batch)


def shares_of_labels(targets: MixedTargets, num_classes: int) -> Tensor:
    """(batch, class): the targets as explicit distributions, in float64."""
    found = torch.zeros(len(targets.weight), num_classes, dtype=torch.float64)
    for labels, shares in zip(targets.labels(), targets.shares(), strict=True):
        found.scatter_add_(1, labels[:, None], shares.double()[:, None])
    return found


def shares_of_pixels(inputs: Tensor) -> Tensor:
    """(batch, sample): how much of `known` pictures is in each one."""
    return inputs.double().mean((2, 3))
