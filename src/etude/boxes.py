"""Rectangles in pictures: where they lie, and which pixels they hold."""

from __future__ import annotations

from types import EllipsisType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class Box(NamedTuple):
    """A rectangle of whole pixels, known to the host: rows `top` to `bottom` - 1, columns `left` to `right` - 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """In pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def pixels(self) -> tuple[EllipsisType, slice, slice]:
        """The index of its pixels in a tensor (..., height, width)."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)


def around(row: int, column: int, tall: int, wide: int, height: int, width: int) -> Box:
    """The box of `tall` x `wide` pixels around a pixel, as much of it as lies in a picture of `height` x `width`.

    >>> around(0, 5, 4, 3, height=8, width=8)
    Box(top=0, left=4, bottom=2, right=7)
    """
    top, left = row - tall // 2, column - wide // 2
    return Box(max(top, 0), max(left, 0), min(top + tall, height), min(left + wide, width))


def inside(
    top: Float[Tensor, "batch"],
    left: Float[Tensor, "batch"],
    tall: Float[Tensor, "batch"],
    wide: Float[Tensor, "batch"],
    height: int,
    width: int,
) -> Bool[Tensor, "batch height width"]:
    """Which pixels lie in the rectangle of each picture; what reaches over the border is cut off."""
    rows, columns = _within(top, tall, height), _within(left, wide, width)
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def _within(start: Float[Tensor, "batch"], length: Float[Tensor, "batch"], num: int) -> Bool[Tensor, "batch num"]:
    """Which of the places 0 .. num - 1 lie in [start, start + length)."""
    after = torch.arange(num, device=start.device) - start.unsqueeze(1)
    return (after >= 0) & (after < length.unsqueeze(1))
