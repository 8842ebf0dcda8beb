"""What a learning-rate range test found: the loss at each rate, and what three rules read off it."""

from __future__ import annotations

import io
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from textwrap import fill
from typing import Any, Final

from typing_extensions import override

from etude.errors import ConfigError
from etude.plots import new_figure, save_figure

_BREAK, _MINIMUM = "break / 20", "minimum / 10"
FEWEST: Final = 10
"""A curve of fewer losses says nothing."""
_KEEP: Final = 0.8
"""How much less a loss weighs in the mean with every step that it is farther away."""
_SIGNIFICANT: Final = 2.0
"""A fall of the smoothed loss is believed from so many standard deviations of a single step's loss."""
_STILL_FALLING: Final = 0.05
"""Share of the whole fall that must not lie in the last tenth of a curve that was not stopped by its rise."""
_COLORS: Final = {"steepest": "#8172b3", "valley": "#55a868", _MINIMUM: "#937860", _BREAK: "#dd8452"}
_LOSS: Final = "#4c72b0"


@dataclass(frozen=True)
class LRCurve:
    """The loss at growing learning rates, made by `etude.find_lr`.

    Printed it says the suggestion, in a notebook it shows the picture, and `draw` writes that to a file.
    """

    lrs: tuple[float, ...]
    """The learning rates that were tried, growing geometrically."""
    losses: tuple[float, ...]
    """The training loss of each step, before the update with its rate: in float32, not scaled."""
    smoothed: tuple[float, ...]
    """See `smooth`: at each rate a mean over the losses around it."""
    stopped: str
    """Why the test ended."""
    suggestions: dict[str, float]
    """Rule to learning rate, see `suggest`; empty when the curve does not say."""
    note: str = ""
    """Why there is no suggestion; empty when there is one."""

    @property
    def suggestion(self) -> float | None:
        """The rate to train with, as the peak of one-cycle; None when the curve does not say.

        It is "break / 20", and "minimum / 10" where no break was seen. Compared with grids of real trainings, on digits
        with and without norms, for SGD, AdamW and LAMB, "break / 20" came nearest to the best (docs/decisions.md).
        """
        return self.suggestions.get(_BREAK, self.suggestions.get(_MINIMUM))

    def draw(self, path: str | PathLike[str], *, skip_first: int = 0, skip_last: int = 0) -> None:
        """Write a PNG of the losses over the logarithm of the learning rate, with what each rule suggests.

        Args:
            path: the file; replaced when it exists.
            skip_first: steps to leave out on the left. What is suggested stays the same.
            skip_last: steps to leave out on the right. The loss is cut off a little above its start in any case.

        Raises:
            ConfigError: fewer than two steps would be left.
        """
        save_figure(self._figure(skip_first, skip_last), Path(path))

    def _figure(self, skip_first: int = 0, skip_last: int = 0) -> Any:
        end = len(self.lrs) - skip_last
        if min(skip_first, skip_last) < 0 or end - skip_first < 2:
            raise ConfigError(
                f"skip_first={skip_first} and skip_last={skip_last} leave {max(end - skip_first, 0)} of "
                f"{len(self.lrs)} steps to draw; two are needed"
            )
        lrs, losses, means = (values[skip_first:end] for values in (self.lrs, self.losses, self.smoothed))
        figure, axis = new_figure(1, 1, width=7.5, height=4.2)
        axis.plot(lrs, losses, color=_LOSS, alpha=0.35, linewidth=1, label="loss of each step")
        axis.plot(lrs, means, color=_LOSS, linewidth=2, label="smoothed")
        for rule, lr in self.suggestions.items():
            if lrs[0] <= lr <= lrs[-1]:
                best = lr == self.suggestion
                label = f"{rule}: {lr:.1e}" + (", the suggestion" if best else "")
                axis.axvline(
                    lr, color=_COLORS[rule], linewidth=2 if best else 1.2, ls="-" if best else "--", label=label
                )
        # what comes after the loss has left its range would press all else flat
        low, start = min(means), means[0]
        room = 0.15 * (start - low) or 0.05 * abs(start) or 1.0
        axis.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        axis.set_ylim(min(*losses, low) - room / 3, max(start, *losses[: len(losses) // 2]) + room)
        axis.set_title("" if self.suggestions else fill(f"no suggestion: {self.note}", 80), fontsize=10)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        return figure

    @override
    def __repr__(self) -> str:
        head = f"LRCurve of {len(self.lrs)} steps"
        if self.lrs:
            head += (
                f" from {self.lrs[0]:.1e} to {self.lrs[-1]:.1e}, loss {self.losses[0]:.3f} to {min(self.losses):.3f}"
            )
        if self.suggestion is None:
            return f"{head}\n{self.stopped}\nno suggestion: {self.note}"
        rules = ", ".join(f"{rule} {lr:.1e}" for rule, lr in self.suggestions.items())
        return f"{head}\n{self.stopped}\nsuggestion {self.suggestion:.1e}; of the rules {rules}"

    def _repr_png_(self) -> bytes | None:
        """The picture in a notebook."""
        if len(self.lrs) < 2:
            return None
        file = io.BytesIO()
        self._figure().savefig(file, dpi=110, format="png")
        return file.getvalue()


def smooth(losses: Sequence[float], keep: float = _KEEP) -> list[float]:
    """At each step a mean over all losses, in which a loss k steps away weighs keep^k, corrected for both ends.

    Looking to both sides keeps it in place: a mean over the past alone would lag behind the loss, and at learning rates
    that grow by a fifth per step a lag is a rate that is too large. Losses above the highest of the first ten count as
    that one: how far a loss breaks away says nothing, and would pull up the means before it.

    >>> [round(value, 3) for value in smooth([1.0, 1.0, 4.0], keep=0.5)]
    [1.429, 1.75, 2.714]
    """
    losses = [min(loss, max(losses[:FEWEST])) for loss in losses]
    forward, backward = _one_sided(losses, keep), _one_sided(losses[::-1], keep)[::-1]
    return [
        # the step itself is in both sums
        (before[0] + after[0] - loss) / (before[1] + after[1] - 1)
        for before, after, loss in zip(forward, backward, losses, strict=True)
    ]


def _one_sided(losses: Sequence[float], keep: float) -> list[tuple[float, float]]:
    """The weighted sum of each loss and those before it, and the sum of the weights."""
    total = weight = 0.0
    sums = []
    for loss in losses:
        total, weight = keep * total + loss, keep * weight + 1
        sums.append((total, weight))
    return sums


def suggest(
    lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], *, rose: bool
) -> dict[str, float]:
    """The learning rate that each of four rules reads off a curve.

    - "steepest": where the smoothed loss falls fastest per decade of the learning rate.
    - "valley": the middle of the longest falling subsequence of the smoothed loss.
    - "minimum / 10": a tenth of the rate at which the smoothed loss is least.
    - "break / 20": a twentieth of the rate at which it has risen half of the way back up, or at which its rise ended
      the test; at most the rate at which it is least. A minimum is flat, so that noise moves it; the break is steep.

    Args:
        lrs: learning rates, rising geometrically.
        losses: the loss at each.
        smoothed: the same, smoothed.
        rose: whether the test was ended by a rise of the loss; else the curve must have stopped falling by itself.

    Raises:
        ConfigError: the curve does not say; the message is the reason and what to do.

    Source: Smith 2015, "Cyclical learning rates for training neural networks", section 3.3 (the test, whose
    bounds are where the loss begins to fall and where it gets worse); fastai's lr_find for its rules `steep`, `valley`
    and `minimum`. "break / 20" is our own.
    """
    if len(losses) < FEWEST:
        raise ConfigError(
            f"only {len(losses)} steps before the end, {FEWEST} are needed; begin with a lower rate, low="
        )
    least = min(range(len(smoothed)), key=smoothed.__getitem__)
    # only what lies before the minimum is a fall
    falling = smoothed[: least + 1]
    top = max(range(len(falling)), key=falling.__getitem__)
    fall, noise = falling[top] - smoothed[least], _noise(losses)
    if fall <= _SIGNIFICANT * noise or fall <= 1e-9 * abs(smoothed[0]):
        raise ConfigError(
            f"the loss fell by {fall:.2g}, less than {_SIGNIFICANT:g} times what it differs by between steps, "
            f"{noise:.2g}; take more steps (num_steps=) or larger batches. A model that does not learn, or has learned "
            "all, has no fall"
        )
    tail = len(smoothed) - 1 - max(len(smoothed) // 10, 2)
    if not rose and smoothed[tail] - smoothed[-1] > _STILL_FALLING * fall:
        raise ConfigError(f"the loss still falls at the highest rate, {lrs[-1]:.1e}; go on to a higher one, high=")
    half = smoothed[least] + fall / 2
    risen = (lr for lr, mean in zip(lrs[least:], smoothed[least:], strict=True) if mean >= half)
    broken = next(risen, lrs[-1] if rose else None)
    if min(lrs[least] / 10, broken / 20 if broken else lrs[0]) < lrs[0]:
        raise ConfigError(
            f"the loss is least at {lrs[least]:.1e}, too near the first rate; begin with a lower one, low="
        )
    slopes = [after - before for before, after in zip(falling[top:], falling[top + 2 :], strict=False)]
    steepest = top + 1 + min(range(len(slopes)), key=slopes.__getitem__) if slopes else top
    valley = longest_fall(smoothed)
    rules = {"steepest": lrs[steepest], "valley": lrs[valley[len(valley) // 2]], _MINIMUM: lrs[least] / 10}
    return rules | {_BREAK: min(broken / 20, lrs[least])} if broken else rules


def longest_fall(values: Sequence[float]) -> list[int]:
    """Positions of the longest subsequence in which each value is less than the one before.

    >>> longest_fall([3.0, 5.0, 4.0, 4.5, 2.0])
    [1, 3, 4]
    """
    ends: list[int] = []  # the last position of the best subsequence of each length
    before: list[int | None] = []
    for i, value in enumerate(values):
        place = bisect_left(ends, -value, key=lambda end: -values[end])
        before.append(ends[place - 1] if place else None)
        ends[place : place + 1] = [i]
    found: list[int] = []
    at = ends[-1] if ends else None
    while at is not None:
        found.append(at)
        at = before[at]
    return found[::-1]


def _noise(losses: Sequence[float]) -> float:
    """The standard deviation of a step's loss around its mean, from the median difference of neighbors.

    The median does not see the few large differences of a diverging end; for a normal distribution it is 0.954 of the
    standard deviation.
    """
    return statistics.median(abs(after - before) for before, after in pairwise(losses)) / 0.954
