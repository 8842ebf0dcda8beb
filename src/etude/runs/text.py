"""Text for a terminal: aligned columns, and words from files that may hold anything."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from etude.output import plain as plain

RIGHT = ">"
"""How a column of numbers is aligned."""


def many(count: int, noun: str) -> str:
    """A number and what there are so many of.

    >>> many(1, "batch"), many(2, "batch"), many(1200, "step")
    ('1 batch', '2 batches', '1,200 steps')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith(("ch", "s")) else "s")


def shorten(text: str, width: int) -> str:
    """A text of at most `width` signs, its middle left out.

    >>> shorten("a-rather-long-name", 11)
    'a-rat…-name'
    """
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return text[: width - 1 - tail] + "…" + text[len(text) - tail :]


def columns(rows: Sequence[Sequence[str]], align: str = "") -> list[str]:
    """Rows as aligned lines; all rows are of one length.

    Args:
        rows: the cells; the first row may be a header.
        align: one sign per column, `>` for numbers; columns beyond it are aligned to the left.

    >>> columns([["name", "loss"], ["a", "0.5"]], " >")
    ['name  loss', 'a      0.5']
    """
    if not rows:
        return []
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    align = align.ljust(len(widths))
    return ["  ".join(_filled(*cell) for cell in zip(row, widths, align, strict=False)).rstrip() for row in rows]


def _filled(cell: str, width: int, align: str) -> str:
    space = " " * (width - _width(cell))
    return space + cell if align == RIGHT else cell + space


def _width(text: str) -> int:
    """How many columns of a terminal a text takes: two for a wide sign, none for an accent of its own."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)
