"""Remember the loss and learning rate of every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from typing_extensions import override

from etude.training.callback import Callback
from etude.types import Batch, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner


@final
class Record(Callback):
    """Keeps one loss per batch and the last layer group's learning rate and momentum with it.

    Losses stay on the device until `losses` is read.

    Source: SPEC A11.
    """

    decides_training = False

    def __init__(self) -> None:
        self.lrs: list[float] = []
        self.momenta: list[float] = []
        self.steps: list[int] = []
        """The step (counted from 1, over the learner's life) that each batch belongs to."""
        self._read: list[float] = []
        self._unread: list[Tensor] = []

    @property
    def losses(self) -> list[float]:
        """Every batch's loss so far; waits for the device, once for each."""
        if self._unread:
            self._read += torch.stack(self._unread).tolist()
            self._unread = []
        return self._read

    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """Append this batch."""
        assert learner.optimizer is not None
        group = learner.optimizer.param_groups[-1]
        self.lrs.append(float(group["lr"]))
        self.momenta.append(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))
        self.steps.append(learner.progress.step)
        self._unread.append(output.loss)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Everything recorded."""
        numbers = {"losses": self.losses, "lrs": self.lrs, "momenta": self.momenta}
        return {
            **{name: torch.tensor(values, dtype=torch.float64) for name, values in numbers.items()},
            "steps": torch.tensor(self.steps, dtype=torch.int64),
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a record."""
        self.lrs, self.momenta, self.steps = (state[name].tolist() for name in ("lrs", "momenta", "steps"))
        self._read, self._unread = state["losses"].tolist(), []
