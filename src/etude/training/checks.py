"""What a user may hand over by mistake, told before anything is trained."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from etude.data.loaders import Loader
from etude.errors import ConfigError
from etude.training.average import EMA


def check_parts(loss_fn: Any, optimizer: Any, accumulate: Any, average: Any, step: Any) -> None:
    """Refuse parts of a learner that cannot work; raises `ConfigError` with the value and what was expected."""
    if isinstance(loss_fn, type) or not callable(loss_fn):
        raise ConfigError(f"loss_fn must be a loss that can be called, such as nn.CrossEntropyLoss(), got {loss_fn!r}")
    if not callable(optimizer) and not isinstance(optimizer, Optimizer):
        raise ConfigError(f"optimizer must be a factory such as torch.optim.AdamW or an optimizer, got {optimizer!r}")
    if average is not None and not isinstance(average, EMA):
        raise ConfigError(f"average must be an EMA, such as etude.EMA(0.99), got {average!r}")
    if isinstance(step, type) or not callable(step):
        raise ConfigError(f"step must be a function (learner, batch) -> StepOutput, such as etude.SAM(), got {step!r}")
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ConfigError(f"accumulate must be a whole number of at least 1, got {accumulate!r}")


def check_fit(model: nn.Module, train: Loader, num_epochs: Any) -> None:
    """Refuse a fit that could not train anything; raises `ConfigError`."""
    if not isinstance(num_epochs, int) or num_epochs < 1:
        raise ConfigError(f"num_epochs must be a whole number of at least 1, got {num_epochs!r}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"no parameter of {type(model).__name__} is trainable; unfreeze some: requires_grad_(True)")
    if len(train) == 0:
        raise ConfigError("the training loader has no batches; with drop_last, is the data smaller than one batch?")
