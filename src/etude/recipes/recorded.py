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
    """
    known = {one.name for one in fields(kind)}
    if unknown := sorted(set(record) - known):
        raise KeyError(f"unknown settings {unknown}; a newer version of etude may have written them")
    # JSON has no tuples
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})


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
