"""Figures: matplotlib is imported when the first one is drawn, and never opens a window. Charts of text need none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def new_figure(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, Any]:
    """A figure outside pyplot's global state, with light axes; returns it and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG, replacing the file in one step."""
    temporary = path.with_name(path.name + ".part")
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(path)


_BLOCKS = " ▁▂▃▄▅▆▇█"


def text_chart(values: Sequence[float], *, width: int = 60, height: int = 6) -> list[str]:
    """Numbers of at least 0 as columns of blocks, from left to right, the largest one as high as the chart.

    Args:
        values: what to draw; more or fewer than `width` are sampled at even distances.
        width: of the chart, in characters.
        height: in lines; a line has eight levels.

    >>> print("\\n".join(text_chart([0.0, 0.5, 1.0], width=3, height=2)))
      █
     ██
    """
    last, top = len(values) - 1, max(values)
    columns = [values[round(i * last / max(width - 1, 1))] for i in range(width)]
    levels = [round(value / top * 8 * height) if top > 0 else 0 for value in columns]
    return [
        "".join(_BLOCKS[min(max(level - 8 * row, 0), 8)] for level in levels).rstrip()
        for row in reversed(range(height))
    ]
