"""SAM: follow the gradient of the worst place near the weights, not that of the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from etude.errors import ConfigError
from etude.training.step import detached
from etude.types import Batch, Json, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner

_TINY = 1e-12
"""Added to the gradient's length, so that a gradient of zero climbs nowhere."""


@final
class SAM:
    """A step that looks for weights whose whole neighborhood has a low loss: `Learner(..., step=SAM())`.

        climb = rho * gradient / |gradient|        the update follows the gradient at weights + climb

    Two passes, so twice the time. Both see the same batch, transformed once (the same pairs of MixUp, also in a hidden
    layer), the same dropout, and the buffers of before, such as the state that a language model carries along: one
    function is climbed and then descended, not two. Running statistics of norms and that state follow the first pass
    alone, at weights that exist; so do `loss` and `preds`. The weights are kept and copied back,
    for adding and subtracting is not exact. With `accumulate` each batch climbs from its own gradient, as each
    processor's part of a batch does in the paper.

    Where the first gradient is not finite there is no way up: the second pass is made where the weights are, and meets
    what a plain step would have met.

    Args:
        rho: how far to climb, in the Euclidean length over all trained weights together. 0.05 is what the paper took
            for CIFAR-10 and ImageNet; it tried 0.01 to 0.5.
        every: climb in each step whose number is a multiple of this, and make plain steps between: 5 costs a fifth more
            time instead of twice as much.

    Raises:
        ConfigError: `rho` or `every` is not positive.

    Source: Foret et al. 2020, "Sharpness-aware minimization for efficiently improving generalization", equations 2
    and 3, algorithm 1; section 4.1 for parts of a batch.
    """

    def __init__(self, rho: float = 0.05, *, every: int = 1) -> None:
        if not 0 < rho < math.inf:
            raise ConfigError(f"rho must be positive, got {rho}; leave SAM out to train without it")
        if not isinstance(every, int) or every < 1:
            raise ConfigError(f"every must be a whole number of at least 1, got {every!r}")
        self.rho, self.every = rho, every

    def __call__(self, learner: Learner, batch: Batch) -> StepOutput:
        """One step, with a climb or without."""
        batch = learner.transform(batch)
        if learner.progress.step % self.every:
            loss, preds = learner.forward(batch)
            learner.backward(loss)
        else:
            loss, preds = self._two_passes(learner, batch)
        updated = learner.update()
        return StepOutput(loss.detach(), detached(preds), batch, updated)

    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"rho": self.rho, "every": self.every}

    def _two_passes(self, learner: Learner, batch: Batch) -> tuple[Tensor, Any]:
        """Add the gradient from above; the loss and predictions are those of where the weights are."""
        weights: list[Tensor] = [weight for weight in learner.model.parameters() if weight.requires_grad]
        before = {(module, name): buffer.clone() for module, name, buffer in _buffers_of(learner)}
        # the generators go back to where they were, so that the second pass drops the same units
        with torch.random.fork_rng([learner.device] if learner.device.type == "cuda" else []):
            loss, preds = learner.forward(batch)
        # .grad is left alone: what the window has gathered so far lies there
        grads = learner.grad(loss, weights)
        if any(grad.is_sparse for grad in grads):
            raise ConfigError("SAM needs dense gradients; make embeddings with sparse=False")
        buffers = _buffers_of(learner)
        kept = [weight.detach().clone() for weight in weights]
        try:
            for module, name, buffer in buffers:
                # of before the first pass; one that is made anew in each pass has no before
                module._buffers[name] = before.get((module, name), buffer).clone()
            with torch.no_grad():
                torch._foreach_add_(weights, self._climb(grads))
            learner.backward(learner.forward(batch)[0])
        finally:
            for module, name, buffer in buffers:
                module._buffers[name] = buffer
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)
        return loss, preds

    def _climb(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """What is added to each weight: `rho` long in all, or nothing where the length is not finite."""
        length = torch.nn.utils.get_total_norm(grads)
        steps = torch._foreach_mul(list(grads), self.rho / (length + _TINY))
        return [step.where(length.isfinite(), 0.0) for step in steps]


def _buffers_of(learner: Learner) -> list[tuple[nn.Module, str, Tensor]]:
    """Every buffer of the model and of the loss, and where it stands."""
    parts = (learner.model, learner.loss_fn)
    modules = dict.fromkeys(module for part in parts if isinstance(part, nn.Module) for module in part.modules())
    return [
        (module, name, buffer) for module in modules for name, buffer in module._buffers.items() if buffer is not None
    ]
