"""A small chart of signs for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a Braille sign, by row and column."""
MARK: Final = "●"


def chart(
    line: Sequence[float], marks: Sequence[tuple[float, float]] = (), *, width: int = 60, height: int = 9
) -> list[str]:
    """A curve in Braille dots with marks over it; empty where nothing is finite.

    Args:
        line: the curve, at equal distances.
        marks: (place in [0, 1], value) of single points.
        width: of the chart without its labels, in signs.
        height: in lines.

    >>> print(*chart([0.0, 1.0, 2.0], [(1.0, 2.0)], width=3, height=2), sep="\\n")
    2 ┤ ⢀●
    0 ┤⡠⠔
    """
    values = [value for value in [*line, *(value for _, value in marks)] if math.isfinite(value)]
    if not values:
        return []
    low, high = min(values), max(values)
    dots = [[0] * width for _ in range(height)]
    before: int | None = None
    for column in range(2 * width):
        value = _at(line, column / (2 * width - 1))
        row = None if value is None else _row(value, low, high, 4 * height)
        if row is not None:
            for filled in _between(before, row):
                dots[filled // 4][column // 2] |= _DOTS[filled % 4][column % 2]
        before = row
    signs = [[chr(0x2800 + bits) if bits else " " for bits in row] for row in dots]
    for place, value in marks:
        if math.isfinite(value) and 0 <= place <= 1:
            signs[_row(value, low, high, height)][round(place * (width - 1))] = MARK
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
    room = max(map(len, labels))
    return [f"{label:>{room}} ┤{''.join(row)}" for label, row in zip(labels, signs, strict=True)]


def _at(line: Sequence[float], place: float) -> float | None:
    """The curve's value at a place in [0, 1], between its points along a straight line."""
    if not line:
        return None
    position = place * (len(line) - 1)
    before = math.floor(position)
    value = line[before]
    if position > before:
        value += (line[before + 1] - value) * (position - before)
    return value if math.isfinite(value) else None


def _between(before: int | None, row: int) -> range:
    """The rows that a column fills, so that a steep curve has no gaps."""
    if before is None or abs(before - row) <= 1:
        return range(row, row + 1)
    return range(row, before) if before > row else range(before + 1, row + 1)


def _row(value: float, low: float, high: float, rows: int) -> int:
    share = (value - low) / (high - low) if high > low else 0.5
    return round((1 - share) * (rows - 1))
