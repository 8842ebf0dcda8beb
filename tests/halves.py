"""Small models, batches and learners in mixed precision."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from etude import Learner, StepOutput, detached, flat
from etude.training import loop
from etude.training.finite import FiniteGuard

CLASSES = 3


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Linear(16, CLASSES))


def network(memory_format: torch.memory_format = torch.contiguous_format) -> nn.Sequential:
    """Two convolutions, a norm of each kind, and a linear layer, for pictures of 6x6."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    ).to(memory_format=memory_format)


def batches(count: int = 4, shape: tuple[int, ...] = (4,), size: int = 8) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, *shape, generator=generator), torch.randint(CLASSES, (size,), generator=generator))
        for _ in range(count)
    ]


def learner(model: nn.Module, precision: Any = "fp16", data: Any = None, **options: Any) -> Learner:
    parts = {"loss_fn": nn.CrossEntropyLoss(), "optimizer": torch.optim.AdamW} | options
    return Learner(model, data or batches(), precision=precision, progress=False, device="cpu", **parts)


def fit(model: nn.Module, precision: Any = "fp16", data: Any = None, epochs: int = 1, **options: Any) -> Learner:
    """A learner after a fit at a constant rate."""
    trained = learner(model, precision, data, **options)
    trained.fit(epochs, lr=0.05, schedule=flat)
    return trained


class Overflow:
    """A step function in whose listed steps (counted from 0) a gradient of the half model is infinite."""

    def __init__(self, steps: Collection[int], value: float = torch.inf) -> None:
        self.steps, self.value = frozenset(steps), value

    def __call__(self, learner, batch):
        batch = learner.transform(batch)
        loss, preds = learner.forward(batch)
        learner.backward(loss)
        if learner.progress.step in self.steps:
            next(weight for weight in learner.model.parameters() if weight.grad is not None).grad[0] = self.value
        return StepOutput(loss.detach(), detached(preds), batch, learner.update())


def state_of(trained: Learner) -> dict[str, Any]:
    """Weights, buffers and all that the optimizer keeps, copied."""
    parts = {
        "model": trained.model.state_dict(),
        "optimizer": trained.optimizer.state_dict()["state"],
        "average": _averaged(trained) if trained.average else {},
    }
    return copy.deepcopy(parts)


def _averaged(trained: Learner) -> dict[str, torch.Tensor]:
    weights = trained.average.state_dict()["weights"]
    return {name: value for name, value in weights.items() if value.is_floating_point()}


def defer(monkeypatch) -> None:
    """Let the host hear of bad steps and overflows later, as on a device that runs ahead of it."""
    monkeypatch.setattr(loop, "FiniteGuard", lambda *args: FiniteGuard(*args, deferred=True))


def representable(weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a float32 tensor holds only numbers of a 16-bit type."""
    return torch.equal(weight, weight.to(dtype).float())
