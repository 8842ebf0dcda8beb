"""One training step, written with the learner's four verbs.

    raw batch --transform--> batch --forward--> loss, preds --backward--> gradients --update--> weights

A step is any function of (learner, batch) that returns a `StepOutput`. GANs, SAM and distillation are other
functions made of the same verbs: see docs/your-own-step.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor
from torch.utils._pytree import tree_map_only

from etude.types import Batch, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner

Step: TypeAlias = "Callable[[Learner, Batch], StepOutput]"


def supervised_step(learner: Learner, batch: Batch) -> StepOutput:
    """Predict, compare with the targets, follow the gradient."""
    batch = learner.transform(batch)
    loss, preds = learner.forward(batch)
    learner.backward(loss)
    updated = learner.update()
    return StepOutput(loss.detach(), detached(preds), batch, updated)


def detached(preds: object) -> object:
    """The predictions cut off from the graph; tuples, lists and dicts keep their form."""
    return preds.detach() if isinstance(preds, Tensor) else tree_map_only(Tensor, Tensor.detach, preds)
