"""Figures of what a model does: confusion matrix, classes, calibration, residuals, activations.

Each function returns a matplotlib figure; what is drawn takes its color of letters from `etude.plots.ink`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from etude.plots import cut, new_figure
from etude.training.calibration import wilson_interval

if TYPE_CHECKING:
    from etude.training.activations import ActivationStatistics
    from etude.training.calibration import Calibration, Reliability
    from etude.training.interpret import Interpretation

RIGHT: Final = "#3f76bf"
WRONG: Final = "#dd6b3d"
QUIET: Final = "#9a9a9a"
_MOST_NUMBERED: Final = 45
"""Classes up to which the matrix has numbers in its cells."""
_MOST_NAMED: Final = 150
"""Classes up to which the axes have names."""
_MOST_BARS: Final = 40
_MOST_ROWS: Final = 6
"""Numbers that are drawn, one in each row."""
_NAME: Final = 22
"""Letters of a class's name."""


def confusion_figure(interpretation: Interpretation) -> Any:
    """Rows are true classes, columns what the model says; blue is right, orange a mistake, the stronger the oftener."""
    counts = interpretation.confusion.numpy()
    num = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell, letters = _cell_size(num)
    names = [cut(name, _NAME) for name in interpretation.names]
    room = 0.5 + letters * 0.0085 * max(map(len, names)) if num <= _MOST_NAMED else 0.6
    side = num * cell + room
    figure, axis = new_figure(1, 1, width=max(side, 3.4), height=max(side, 3.2) + 0.2)
    colors = _colors(shares)
    axis.imshow(colors, aspect="equal", interpolation="nearest")
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    if num <= _MOST_NAMED:
        upright = max(map(len, names)) * letters * 0.0085 > cell
        axis.set_xticks(range(num), names, fontsize=letters, rotation=90 if upright else 0)
        axis.set_yticks(range(num), names, fontsize=letters)
        _lines(axis, num)
    axis.set_xlabel("what the model says")
    axis.set_ylabel("what it is")
    if num <= _MOST_NUMBERED:
        size = min(letters, 72 * cell * 0.8 / (0.62 * len(str(counts.max()))))
        for row, column in zip(*counts.nonzero(), strict=True):
            over = {"color": "white"} if colors[row, column, 3] > 0.65 else {}
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size, **over)
    return figure


def _cell_size(num: int) -> tuple[float, float]:
    """Inches of a cell, and points of its letters."""
    for most, cell, letters in ((4, 0.9, 11), (12, 0.55, 10), (_MOST_NUMBERED, 0.27, 8), (_MOST_NAMED, 0.14, 6.5)):
        if num <= most:
            return cell, letters
    return max(12 / num, 0.01), 6.0


def _colors(shares: Any) -> Any:
    """Colors of the cells, as strong as their share of the row is large; mistakes are rare, so theirs rise faster."""
    wrong = shares * (1 - np.eye(len(shares)))
    strength = np.sqrt(wrong / max(wrong.max(), 1e-9)) * 0.9
    np.fill_diagonal(strength, shares.diagonal() * 0.95)
    colors = np.empty((*shares.shape, 4))
    colors[..., :3] = _rgb(WRONG)
    colors[np.arange(len(shares)), np.arange(len(shares)), :3] = _rgb(RIGHT)
    colors[..., 3] = strength
    return colors


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _lines(axis: Any, num: int) -> None:
    """Thin lines between cells, that the eye can follow a row by."""
    edges = np.arange(num + 1) - 0.5
    for place in edges:
        axis.axhline(place, color=QUIET, linewidth=0.4, alpha=0.35)
        axis.axvline(place, color=QUIET, linewidth=0.4, alpha=0.35)


def classes_figure(interpretation: Interpretation) -> Any:
    """F1 as bars, precision and recall as marks on them; the worst classes at the top."""
    known = [score for score in interpretation.per_class if score.support]
    scores = sorted(known, key=lambda score: score.f1)
    shown = scores[:_MOST_BARS]
    figure, axis = new_figure(1, 1, width=5.8, height=1.3 + 0.24 * len(shown))
    places = range(len(shown))
    axis.barh(places, [score.f1 for score in shown], color=RIGHT, alpha=0.35, height=0.72, label="F1")
    for name, marker, color in (("precision", "d", WRONG), ("recall", "o", RIGHT)):
        values = [score.precision if name == "precision" else score.recall for score in shown]
        axis.plot(values, places, marker, color=color, ms=5, label=name, clip_on=False)
    labels = [f"{cut(score.name, 30)}  ({score.support})" for score in shown]
    axis.set_yticks(places, labels, fontsize=9)
    axis.set(xlim=(0, 1), ylim=(len(shown) - 0.4, -0.6))
    axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axis.grid(False, axis="y")
    left_out = f"the {len(shown)} worst of {len(scores)} classes (and their samples)"
    axis.set_title(left_out if len(scores) > len(shown) else "classes (and their samples), worst first", fontsize=10)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def calibration_figure(calibration: Calibration) -> Any:
    """The share of right answers by confidence, with 95 % intervals; below it, how often each confidence comes."""
    figure, axes = new_figure(2, 1, width=5.6, height=6.2)
    axes[0].plot([0, 1], [0, 1], "--", color=QUIET, linewidth=1, label="as right as sure")
    _reliability(axes, calibration.before, RIGHT, "as it is", -0.22)
    if calibration.after is not None and calibration.found:
        _reliability(axes, calibration.after, WRONG, f"temperature {calibration.temperature:.2f}", 0.22)
    axes[0].set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of answers that are right")
    axes[1].set(xlim=(0, 1), xlabel="confidence: the probability of the answer", ylabel="share of answers")
    for side in (axes[0].xaxis, axes[0].yaxis, axes[1].xaxis, axes[1].yaxis):
        side.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", frameon=False, fontsize=9)
    return figure


def _reliability(axes: Any, one: Reliability, color: str, name: str, shift: float) -> None:
    bins = [bin for bin in one.bins if bin.num]
    places = [bin.confidence for bin in bins]
    for bin in bins:
        ends = wilson_interval(round(bin.accuracy * bin.num), bin.num)
        axes[0].plot([bin.confidence] * 2, ends, color=color, alpha=0.35, linewidth=2)
    label = f"{name}: calibration error {100 * one.ece:.1f} %"
    axes[0].plot(places, [bin.accuracy for bin in bins], "o-", color=color, ms=4, label=label)
    total, width = sum(bin.num for bin in bins), one.bins[0].high - one.bins[0].low
    middles = [(bin.low + bin.high) / 2 + shift * width for bin in one.bins]
    shares = [bin.num / total for bin in one.bins]
    axes[1].bar(middles, shares, width=0.42 * width, color=color, alpha=0.6)


def residuals_figure(interpretation: Interpretation) -> Any:
    """Predicted numbers against true ones, and the errors as a histogram: a row for each number, each in its unit."""
    true, said = interpretation.targets.flatten(1).numpy(), interpretation.output.flatten(1).numpy()
    names, num = interpretation.number_names, min(true.shape[1], _MOST_ROWS)
    figure, axes = new_figure(num, 2, width=9, height=4 if num == 1 else 3.2 * num)
    for i, row in enumerate(axes.reshape(num, 2)):
        _residuals(row, true[:, i], said[:, i], names[i])
    if num < true.shape[1]:
        figure.suptitle(f"the first {num} of {true.shape[1]} numbers", fontsize=10)
    return figure


def _residuals(axes: Any, true: Any, said: Any, name: str) -> None:
    of = f"{cut(name, _NAME)}: " if name else ""
    low, high = min(true.min(), said.min()), max(true.max(), said.max())
    axes[0].plot([low, high], [low, high], "--", color=QUIET, linewidth=1)
    axes[0].plot(true, said, "o", color=RIGHT, ms=4, alpha=min(max(60 / len(true), 0.08), 0.7), markeredgewidth=0)
    axes[0].set(xlabel="what it is", ylabel="what the model says")
    axes[0].set_title(f"{of}predicted against true", fontsize=10 if name else None)
    axes[1].hist(said - true, bins=min(max(len(true) // 8, 8), 50), color=RIGHT, alpha=0.6)
    axes[1].axvline(0, color=QUIET, linewidth=1, linestyle="--")
    axes[1].set(xlabel="predicted minus true", ylabel="samples")
    axes[1].set_title(f"{of}errors", fontsize=10 if name else None)


def activations_figure(statistics: ActivationStatistics) -> Any:
    """Mean and deviation of each layer, and its share near zero, from the first layer to the last."""
    rows = [row for row in statistics.rows if np.isfinite(row.mean) and np.isfinite(row.deviation)]
    places = np.array([i for i, row in enumerate(statistics.rows) if row in rows])
    means, deviations = (np.array([getattr(row, name) for row in rows]) for name in ("mean", "deviation"))
    figure, axes = new_figure(2, 1, width=6.5, height=5.2)
    axes[0].fill_between(places, means - deviations, means + deviations, color=RIGHT, alpha=0.2, linewidth=0)
    axes[0].plot(places, means, color=RIGHT, linewidth=1)
    axes[0].set(title=f"mean ± deviation, in {'training' if statistics.training else 'evaluation'} mode")
    axes[1].bar(range(len(statistics.rows)), [row.near_zero for row in statistics.rows], color=QUIET, alpha=0.35)
    for kind, color, test in (("activations", WRONG, True), ("other layers", RIGHT, False)):
        chosen = [(i, row.near_zero) for i, row in enumerate(statistics.rows) if _is_activation(row.kind) == test]
        if chosen:
            axes[1].plot(*zip(*chosen, strict=True), "o", color=color, ms=4, label=kind)
    axes[1].set(title="share of values near zero", ylim=(0, 1.04), xlabel="layer, from the first to the last")
    axes[1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes[1].legend(frameon=False, fontsize=9, ncols=2, loc="upper left")
    for axis in axes:
        axis.set_xlim(-0.7, len(statistics.rows) - 0.3)
        axis.locator_params(axis="x", integer=True)
    return figure


def _is_activation(kind: str) -> bool:
    from torch.nn.modules import activation

    return kind in activation.__all__
