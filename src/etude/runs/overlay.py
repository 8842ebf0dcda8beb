"""The curves of several runs over each other: `etude compare --out compare.png`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from etude.plots import new_figure, save_figure
from etude.runs.compare import Comparison
from etude.runs.draw import smoothed
from etude.runs.files import finite
from etude.runs.read import RunRecord
from etude.runs.series import Series, read_series
from etude.runs.statistics import mean
from etude.runs.text import plain, shorten

COLORS: Final = (
    "#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd",
)  # fmt: skip
DASHES: Final = ("-", "--", ":", "-.")
_NAME_WIDTH: Final = 48
_PANELS: Final = (("valid_loss", "validation loss"), ("valid_accuracy", "validation accuracy"))


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Smoothed training loss, validation loss and validation accuracy, one color per run, over epochs.

    Of the runs in a folder of several each is a thin line, and their mean a thick one.
    """
    figure, axes = new_figure(1, 3, width=13.5, height=4.4)
    names = distinct_names(comparison.runs)
    for i, (run, letter) in enumerate(zip(comparison.runs, comparison.letters, strict=True)):
        style = {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i // len(COLORS) % len(DASHES)]}
        histories = [(part, read_series(part.folder)) for part in (run.parts if run.planned is not None else (run,))]
        _train_loss(axes[0], histories, style)
        for axis, (name, _) in zip(axes[1:], _PANELS, strict=True):
            _column(axis, [series for _, series in histories], name, style)
        axes[0].plot([], [], linewidth=2.2, label=f"{letter}  {shorten(plain(names[i]), _NAME_WIDTH)}", **style)
    for axis, title in zip(axes, ("training loss, smoothed", *(title for _, title in _PANELS)), strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.set_xlim(left=0)
        axis.locator_params(axis="x", integer=True)
    legend = figure.legend(loc="outside lower center", frameon=False, ncols=2)
    for label in legend.get_texts():
        label.set_parse_math(False)  # a $ in a folder's name is no formula
    with warnings.catch_warnings():
        # a sign that matplotlib's own font lacks is drawn as a box; the letters still tell the runs apart
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        save_figure(figure, path)


def distinct_names(runs: Sequence[RunRecord]) -> list[str]:
    """The folders' names, with as many of the folders above them as tell them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.folder) for run in runs]


def _train_loss(axis: Any, histories: Sequence[tuple[RunRecord, Series]], style: dict[str, str]) -> None:
    lines = []
    for run, series in histories:
        losses = [step.loss for step in series.steps]
        per_epoch = finite(run.config.get("steps_per_epoch")) or 1.0
        keep = 1 - 1 / max(min(len(losses) / 20, 50), 1)
        line = ([step.step / per_epoch for step in series.steps], smoothed(losses, keep))
        lines.append(line)
    _draw(axis, lines, style)


def _column(axis: Any, histories: Sequence[Series], name: str, style: dict[str, str]) -> None:
    lines = [([float(row["epoch"]) for row in series.epochs], series.column(name)) for series in histories]
    _draw(axis, lines, style, marker="o", ms=3)


def _draw(axis: Any, lines: Sequence[tuple[list[float], list[float]]], style: dict[str, str], **more: Any) -> None:
    """One line thick; of several each thin, and their mean thick as far as all go."""
    lines = [line for line in lines if any(map(math.isfinite, line[1]))]
    if len(lines) == 1:
        axis.plot(*lines[0], linewidth=1.8, **style, **more)
        return
    for line in lines:
        axis.plot(*line, linewidth=0.7, alpha=0.4, **style, **more)
    if lines:
        shortest = min(len(values) for _, values in lines)
        means = [mean([values[i] for _, values in lines]) for i in range(shortest)]
        axis.plot(lines[0][0][:shortest], means, linewidth=2.2, **style, **more)
