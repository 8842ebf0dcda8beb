"""Choose: one of several ways to mix or erase for each batch, and what may not stand in one list."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, final

import torch
from typing_extensions import override

from etude.errors import ConfigError
from etude.training.callback import Callback, describe, instances
from etude.training.callbacks.mixing import check_share, keyed
from etude.types import Batch, Json, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner

_CUTS = ("CutMix", "FourCorners")
"""Whose shares are areas of a whole picture, and wrong for one that is cut already."""


@final
class Choose(Callback):
    """Let one of several callbacks transform each batch: `Choose(MixUp(0.2), CutMix())`.

    Which one is a function of (seed, batch number), so that all of a batch is mixed in one way, and a resumed run
    chooses alike. The others do nothing to that batch. A callback that is chosen works as it would alone.

    Args:
        mixers: callbacks that transform batches and watch nothing but the fit's start and each step's end.
        weights: how likely each is, in any unit; None makes them equally likely.
        p: the share of batches that are transformed at all; 1.0 because MixUp and CutMix have gentle draws of their
            own.
        seed: None takes the learner's.

    Raises:
        ConfigError: there is nothing to choose from, weights do not match, or a callback does other work.

    Source: SPEC M11; the usual recipes for ImageNet draw MixUp or CutMix for each batch (Touvron et al. 2020,
    "Training data-efficient image transformers", table 9).
    """

    def __init__(
        self, *mixers: Callback, weights: Sequence[float] | None = None, p: float = 1.0, seed: int | None = None
    ) -> None:
        self.mixers = instances(mixers)
        self.weights = None if weights is None else list(weights)
        _check_mixers(self.mixers)
        if self.weights is not None and not _fit_together(self.weights, len(mixers)):
            raise ConfigError(
                f"weights must be a positive number for each of the {len(mixers)} callbacks, got {self.weights}"
            )
        check_share(p, "p is a share of the batches")
        self.p, self.seed = p, seed
        self._chosen: Callback | None = None

    @override
    def before_fit(self, learner: Learner) -> None:
        """Refuse what would go wrong beside it in one list."""
        refuse_conflicts(self, learner)
        for mixer in self.mixers:
            mixer.before_fit(learner)

    @override
    def during_fit(self, learner: Learner) -> AbstractContextManager[Any]:
        """Keep open what any of them needs open."""
        with ExitStack() as stack:
            for mixer in self.mixers:
                stack.enter_context(mixer.during_fit(learner))
            return stack.pop_all()

    @override
    def transform_batch(self, batch: Batch, learner: Learner) -> Batch:
        """Hand the batch to the chosen one, or to none."""
        # on the CPU, so that the host knows the choice without waiting for the device
        generator = keyed(learner, self.seed, "choose")
        self._chosen = None
        if torch.rand((), generator=generator).item() >= self.p:
            return batch
        weights = torch.tensor(self.weights or [1.0] * len(self.mixers), dtype=torch.float64)
        self._chosen = self.mixers[int(torch.multinomial(weights, 1, generator=generator).item())]
        return self._chosen.transform_batch(batch, learner)

    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """Tell the one that was chosen."""
        chosen, self._chosen = self._chosen, None
        if chosen is not None:
            chosen.after_step(learner, batch, output)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Of each of them."""
        return {"mixers": [mixer.state_dict() for mixer in self.mixers]}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give each its own back."""
        for mixer, own in zip(self.mixers, state["mixers"], strict=True):
            mixer.load_state_dict(own)

    @override
    def config(self) -> dict[str, Json]:
        """The constructor's arguments, the callbacks with their settings in one line each."""
        mixers: list[Json] = [describe(mixer) for mixer in self.mixers]
        weights: list[Json] | None = None if self.weights is None else [*self.weights]
        return {"mixers": mixers, "weights": weights, "p": self.p, "seed": self.seed}


def refuse_conflicts(mixer: Callback, learner: Learner) -> None:
    """Refuse what would go silently wrong beside `mixer` in the list of a fit.

    Two of a kind with one seed draw the same numbers: the second Cutout would blank the same squares again, the second
    CutMix paste the same box, with labels that say otherwise. And shares that are areas are wrong for pictures that
    are cut already, since a box may lie on what was pasted or beside it. Those of one `Choose` never meet.

    Args:
        mixer: a callback with a setting `seed`, in the list or in a `Choose` there.
        learner: inside of a fit.

    Raises:
        ConfigError: naming both and what to do.
    """
    name = type(mixer).__name__
    for other in _others(mixer, learner.running().events.callbacks):
        if type(other) is type(mixer) and _seed(other, learner) == _seed(mixer, learner):
            raise ConfigError(
                f"two {name} in the list of callbacks have the same seed and would draw the same numbers; "
                f"give one of them another: {name}(..., seed={_seed(mixer, learner) + 1})"
            )
        if name in _CUTS and type(other).__name__ in _CUTS:
            raise ConfigError(
                f"{name} and {type(other).__name__} in one list would cut pictures that are cut already, for which "
                f"areas are wrong shares of the labels. Take one for each batch: Choose(CutMix(), FourCorners())"
            )


def _others(mixer: Callback, entries: Sequence[Callback]) -> Iterator[Callback]:
    """Every callback of a list but the mixer and those of a `Choose` around it; what a `Choose` holds counts."""
    own = next((i for i, entry in enumerate(entries) if any(one is mixer for one in _within(entry))), -1)
    for i, entry in enumerate(entries):
        if i != own:
            yield from _within(entry)


def _within(entry: Callback) -> tuple[Callback, ...]:
    return (entry, *entry.mixers) if isinstance(entry, Choose) else (entry,)


def _seed(mixer: Callback, learner: Learner) -> int:
    seed = mixer.config()["seed"]
    return seed if isinstance(seed, int) else learner.seed


def _check_mixers(mixers: Sequence[Callback]) -> None:
    if not mixers:
        raise ConfigError("Choose needs callbacks to choose from, such as Choose(MixUp(0.2), CutMix())")
    if len(set(map(id, mixers))) < len(mixers):
        raise ConfigError("Choose got the same callback twice; say how likely each is with weights=[...]")
    for mixer in mixers:
        name = type(mixer).__name__
        if isinstance(mixer, Choose):
            raise ConfigError("Choose in a Choose: put all callbacks into one, with weights=[...]")
        events = [event for event in vars(type(mixer)) if event.startswith(("before_", "after_", "transform_"))]
        if "transform_batch" not in events:
            raise ConfigError(f"Choose takes callbacks that transform batches, and {name} does not")
        if other := sorted(set(events) - {"transform_batch", "before_fit", "after_step"}):
            raise ConfigError(
                f"Choose cannot take {name}, which also works in {', '.join(other)}, whatever is chosen; "
                "put it into the list of callbacks itself"
            )


def _fit_together(weights: Sequence[float], num: int) -> bool:
    return len(weights) == num and all(weight > 0 and math.isfinite(weight) for weight in weights)
