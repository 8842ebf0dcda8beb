"""Figures: matplotlib is imported when the first one is drawn, and never opens a window."""

from __future__ import annotations

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
