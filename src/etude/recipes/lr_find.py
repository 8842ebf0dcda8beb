"""Find a learning rate for a recipe: try a hundred on a copy of its model, draw the losses, say what to use."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude.recipes.options import Options, OutputOptions, check_picture, in_flags, refuse_changed, teller

if TYPE_CHECKING:
    from etude.recipes.asked import Asked
    from etude.training.learner import Learner
    from etude.types import Json


@dataclass(frozen=True, kw_only=True)
class FinderOptions(Options):
    """Which rates are tried."""

    low: float = 1e-6
    """The first learning rate."""
    high: float = 10.0
    """The last learning rate; the test ends earlier when the loss rises out of its range."""
    num_steps: int = 100
    """Steps between the two; as many epochs as they take."""
    out: str = "lr-find.png"
    """The PNG to write."""


def lr_find(
    training: Asked,
    finder: FinderOptions = FinderOptions(),  # frozen
    output: OutputOptions = OutputOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Try learning rates on a training as it was asked for; no run's folder is made.

    Args:
        training: what is to be trained. What only a whole training reads, such as its epochs, goes into the command.
        finder: which rates, and where the picture goes.
        output: what is printed.

    Returns:
        `{"suggestion": rate or None, "suggestions": {rule: rate}, "note": why there is none, "stopped": why the test
        ended, "command": the training with that rate, "picture": path, "lrs": rates, "losses": loss at each}`.
    """
    from etude.training.finder import find_lr

    say = teller(output)
    _check(training, finder)
    say(
        f"trying learning rates from {finder.low:g} to {finder.high:g} in {finder.num_steps} steps, on a copy of the "
        "model; no run is kept"
    )
    learner = training.learner(quiet=output.quiet)
    with _as_it_begins(training, learner):
        curve = find_lr(learner, low=finder.low, high=finder.high, num_steps=finder.num_steps)
    say(curve.stopped)
    if picture := finder.out if len(curve.lrs) > 1 else None:
        curve.draw(picture)
        say(f"look at {picture}")
    for rule, lr in curve.suggestions.items():
        say(f"  {rule:<14} {lr:.1e}{', the suggestion' if lr == curve.suggestion else ''}")
    note, command = _with_flags(curve.note), None
    if curve.suggestion is None:
        say(f"no suggestion: {note}")
    else:
        command = command_of(training, curve.suggestion)
        say(f"use it: {command}")
    return {
        "suggestion": curve.suggestion,
        "suggestions": {**curve.suggestions},
        "note": note,
        "stopped": curve.stopped,
        "command": command,
        "picture": picture,
        "lrs": list(curve.lrs),
        "losses": list(curve.losses),
    }


@contextmanager
def _as_it_begins(training: Asked, learner: Learner) -> Iterator[None]:
    """Inside, the learner is as in its first phase: `--lr` of a fine-tuning is the rate of the head alone."""
    from etude.training.transfer import in_phase

    phases = training.all_phases()
    before = learner.callbacks
    with ExitStack() as stack:
        if phases:
            learner.callbacks = (*before, *stack.enter_context(in_phase(learner, phases[0])))
        try:
            yield
        finally:
            learner.callbacks = before


def _check(training: Asked, finder: FinderOptions) -> None:
    """Refuse what cannot be done before pictures are read."""
    from etude.errors import ConfigError
    from etude.training.finder import check_rates

    check_picture(finder.out)
    refuse_changed(training.train, ("lr",), "every learning rate from --low to --high is tried")
    training.check()
    phases = training.all_phases()
    if phases and phases[0].trained is None:
        part = "embedding" if training.kind == "language model" else "head"
        raise ConfigError(f"--freeze-epochs 0: it is the rate of the {part} alone that is looked for; leave it out")
    try:
        check_rates(finder.low, finder.high, finder.num_steps)
    except ConfigError as error:
        raise ConfigError(_with_flags(str(error))) from error


def command_of(training: Asked, lr: float) -> str:
    """The command that trains this with a learning rate: every flag that is not at its default."""
    return shlex.join(training.command(lr))


def _with_flags(message: str) -> str:
    return in_flags(message, ("low", "high", "num_steps"))
