"""The picture of the study of transfer: how each row's accuracy goes, and where each seed ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_COLORS: Final = ("#8c8c8c", "#4c72b0", "#c44e52", "#dd8452", "#55a868", "#8172b3")


def draw(curves: Mapping[str, Sequence[Sequence[float]]], frozen: Mapping[str, int], path: Path) -> None:
    """Left, the mean accuracy over the epochs, dashed while the body is frozen; right, a dot for each seed's end.

    Args:
        curves: of each row, seed by seed, the accuracy of each epoch.
        frozen: how many epochs each row's first phase has.
        path: of the PNG.
    """
    from etude.plots import new_figure, save_figure

    figure, axes = new_figure(1, 2, width=11, height=4.4)
    left, right = axes
    for i, (title, seeds) in enumerate(curves.items()):
        color = _COLORS[i % len(_COLORS)]
        means = [100 * sum(epoch) / len(epoch) for epoch in zip(*seeds, strict=True)]
        first, epochs = frozen[title], list(range(1, len(means) + 1))
        if first:
            left.plot(epochs[:first], means[:first], "--", color=color)
            left.plot(epochs[first - 1 : first + 1], means[first - 1 : first + 1], ":", color=color, linewidth=1)
        left.plot(epochs[first:], means[first:], "-o", color=color, markersize=3, label=title)
        ends = [100 * seed[-1] for seed in seeds]
        right.plot(ends, [i] * len(ends), "o", color=color, alpha=0.6)
        right.plot([sum(ends) / len(ends)] * 2, [i - 0.25, i + 0.25], color=color, linewidth=3)
        right.annotate(f"{sum(ends) / len(ends):.1f}", (sum(ends) / len(ends), i - 0.32), ha="center", fontsize=8)
    left.set(xlabel="epoch; dashed while the body is frozen", ylabel="validation accuracy, %")
    left.set_xticks(range(1, max(len(seeds[0]) for seeds in curves.values()) + 1))
    right.set_yticks(range(len(curves)), list(curves))
    right.set_ylim(len(curves) - 0.5, -0.7)
    right.set(xlabel="at the end, %: a dot for each seed, a line at their mean")
    save_figure(figure, path)
