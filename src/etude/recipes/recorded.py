"""Options and back: from a run's record, and into the words of a command."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from etude.recipes.options import Options

_T = TypeVar("_T", bound=Options)


def options_of(kind: type[_T], record: Mapping[str, Any]) -> _T:
    """Options from a record; what an older version did not know yet has its default.

    Raises:
        KeyError: a newer version wrote it.
        TypeError: a value is of another kind than the default.
    """
    known = {one.name for one in fields(kind)}
    if unknown := sorted(set(record) - known):
        raise KeyError(f"unknown settings {unknown}; a newer version of etude may have written them")
    # JSON has no tuples
    made = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})
    for one in fields(kind):
        if not _is_like(value := getattr(made, one.name), one.default):
            raise TypeError(f"{one.name} is {value!r}, where {one.default!r} is usual")
    return made


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value can stand where the default does; nothing is known of what has no default."""
    if default is None:
        return value is None or isinstance(value, str | int | float | tuple)
    if isinstance(default, tuple):
        return isinstance(value, tuple) and len(value) == len(default) and all(map(_is_like, value, default))
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def words(*options: Options, leave_out: Collection[str] = (), renamed: Mapping[str, str] | None = None) -> list[str]:
    """The words of a command for all options that are not at their defaults.

    Args:
        options: of the command.
        leave_out: names that stand elsewhere in it.
        renamed: where a flag is not called as its option.
    """
    found: list[str] = []
    for given in options:
        for one in fields(given):
            value = getattr(given, one.name)
            if one.name in leave_out or value == getattr(type(given)(), one.name):
                continue
            values = (
                [] if value is True else [str(part) for part in value] if isinstance(value, tuple) else [str(value)]
            )
            found += ["--" + (renamed or {}).get(one.name, one.name).replace("_", "-"), *values]
    return found
