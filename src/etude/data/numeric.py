"""Labels that are numbers: read from text, checked, and told apart from names of classes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any, Final, final

SEPARATOR: Final = ";"
"""Between several numbers of one sample."""
_LARGEST: Final = (2 - 2**-23) * 2.0**127
"""Of float32."""
_FEW_CLASSES: Final = 20
_SHARE_OF_NUMBERS: Final = 0.1
"""Of the samples: more different whole numbers than that are hardly numbers of classes."""


def numbers_of(label: Any) -> tuple[str, ...]:
    """A label as numbers, written so that `float` gives back every bit.

    Args:
        label: a number, a text such as "1.5" or "1.5;2", or a tuple of numbers.

    Raises:
        ValueError: naming the part that is no finite number.

    >>> numbers_of("1.50; -2e3"), numbers_of(7)
    (('1.5', '-2000.0'), ('7.0',))
    """
    parts = label.split(SEPARATOR) if isinstance(label, str) else label if isinstance(label, tuple | list) else (label,)
    if not parts:
        raise ValueError("there is no number")
    return tuple(repr(_number(part)) for part in parts)


def _number(part: Any) -> float:
    try:
        if isinstance(part, bool) or not isinstance(part, str | Real) or (isinstance(part, str) and "_" in part):
            raise ValueError
        value = float(part)
    except ValueError:
        comma = " (a decimal point is a point)" if isinstance(part, str) and "," in part else ""
        raise ValueError(f"{part!r} is no number{comma}") from None
    if not math.isfinite(value):
        raise ValueError(f"{part!r} is no finite number, so nothing can be learned from it")
    if abs(value) > _LARGEST:
        raise ValueError(f"{part!r} is beyond what a 32-bit number holds, 3.4e38; divide all by the same number")
    return value


@final
class NumberColumn:
    """Checks one label after another: each must be as many numbers as the first one."""

    def __init__(self) -> None:
        self._num = 0

    def __call__(self, label: Any) -> tuple[str, ...]:
        """The numbers of a label; raises `ValueError` for what is none, or for another count."""
        found = numbers_of(label)
        self._num = self._num or len(found)
        if len(found) != self._num:
            raise ValueError(f"{label!r} holds {len(found)} numbers, the samples before it {self._num}")
        return found


def hint_of_numbers(labels: Iterable[Any]) -> str:
    """What is said when the names of classes look like numbers that mean an amount; empty when they do not."""
    labels = list(labels)
    different = {label for label in labels if isinstance(label, str)}
    try:
        values = {float(_number(label)) for label in different}
    except ValueError:
        return ""
    broken = any(value != int(value) for value in values)
    many = len(values) > (5 if broken else max(_FEW_CLASSES, _SHARE_OF_NUMBERS * len(labels)))
    if not many or len(different) < len(set(labels)):
        return ""
    return (
        f"the {len(values)} different labels look like numbers, such as {sorted(different)[0]!r}; target='number' "
        "(--target number) trains a regression"
    )
