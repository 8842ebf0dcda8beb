"""Nested values as JSON and tensors: how a state is written without pickle, and read without naming any code.

Numbers, strings, None, lists and dicts with string keys are JSON already. What JSON lacks is written as an object
with one key that begins with `$`: tensors, tuples, other keys, and numbers that are not finite.
"""

from __future__ import annotations

import math
from typing import Any, Final

from torch import Tensor

from etude.errors import ConfigError, LoadError
from etude.types import Json

_NOT_FINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def to_json(value: Any, tensors: dict[str, Tensor], place: str = "") -> Json:
    """A value as JSON; its tensors are put into `tensors` under their place in it.

    >>> tensors = {}
    >>> to_json({"betas": (0.9, 0.99), 0: float("inf")}, tensors)
    {'$dict': [['betas', {'$tuple': [0.9, 0.99]}], [0, {'$float': 'inf'}]]}

    Raises:
        ConfigError: something else is in it, named by its place.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # float(): NumPy's own kind writes itself otherwise
        return value if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Tensor):
        while place in tensors:  # two places can have one name, such as those of 0 and "0"
            place += "'"
        tensors[place] = value
        return {"$tensor": place}
    if isinstance(value, tuple):
        return {"$tuple": [to_json(item, tensors, f"{place}/{i}") for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [to_json(item, tensors, f"{place}/{i}") for i, item in enumerate(value)]
    if isinstance(value, dict):
        items = [(key, to_json(item, tensors, f"{place}/{key}")) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(items)
        return {"$dict": [[to_json(key, tensors), item] for key, item in items]}
    raise ConfigError(
        f"{place.strip('/') or 'the state'} is a {type(value).__name__}, which a checkpoint cannot keep; state is made "
        "of numbers, strings, tensors, lists, tuples and dicts"
    )


def from_json(json: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that `to_json` wrote.

    Raises:
        LoadError: a tensor is not there, or the form is none that `to_json` writes.
    """
    try:
        return _value(json, tensors)
    except RecursionError:
        raise LoadError("the state is nested deeper than any that etude writes") from None


def _value(json: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(json, list):
        return [_value(item, tensors) for item in json]
    if not isinstance(json, dict):
        return json
    if not any(key.startswith("$") for key in json):
        return {key: _value(item, tensors) for key, item in json.items()}
    try:
        ((kind, content),) = json.items()
        if kind == "$tensor":
            return tensors[content]
        if kind == "$float":
            return _NOT_FINITE[content]
        if kind in ("$tuple", "$dict") and not isinstance(content, list):
            raise TypeError(f"a {type(content).__name__} is no list")
        if kind == "$tuple":
            return tuple(_value(item, tensors) for item in content)
        if kind == "$dict":
            return {_value(key, tensors): _value(item, tensors) for key, item in map(_pair, content)}
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"the state holds {str(json)[:80]}, which cannot be read: {error!r}") from error
    raise LoadError(f"the state holds a {kind!r}, which this version of etude does not know")


def _pair(content: Any) -> tuple[Any, Any]:
    if not isinstance(content, list):
        raise TypeError(f"a {type(content).__name__} is no list")
    key, value = content
    return key, value
