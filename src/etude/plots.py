"""Figures: matplotlib is imported when the first one is drawn, and never opens a window. Charts of text need none."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


def png_bytes(figure: Any, dpi: int = 110) -> bytes:
    """A figure as a PNG on no ground of its own, to be put on a page."""
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi, format="png", transparent=True)
    return file.getvalue()


@contextmanager
def ink(color: str) -> Iterator[None]:
    """Figures made inside the `with` block have letters, axes and grids of a color: a light one for dark ground."""
    import matplotlib

    colors: Any = dict.fromkeys(_INKED, color)
    with matplotlib.rc_context(colors):
        yield


_INKED = (
    "text.color",
    "axes.labelcolor",
    "axes.edgecolor",
    "axes.titlecolor",
    "xtick.color",
    "ytick.color",
    "grid.color",
)


def cut(line: str, length: int) -> str:
    """A line without its middle where it is too long: names of classes differ at both ends.

    >>> cut("german_shorthaired_pointer", 15)
    'german_…pointer'
    """
    if len(line) <= length:
        return line
    return f"{line[: length // 2]}…{line[len(line) - (length - 1) // 2 :]}"


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
