"""Look inside a model for the length of a `with` block: hooks that are always removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def forward_hooks(modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    """Call `hook(module, inputs, output)` after each forward of each module; what it returns replaces the output.

    >>> model, seen = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), []
    >>> with forward_hooks(model, lambda module, inputs, output: seen.append(tuple(output.shape))):
    ...     _ = model(__import__("torch").ones(5, 2))
    >>> seen, model[0]._forward_hooks
    ([(5, 3), (5, 3)], OrderedDict())

    Source: SPEC X11.
    """
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put every module in training or evaluation mode, and each back into its own mode afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training
