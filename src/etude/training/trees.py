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
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Tensor):
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
    if isinstance(json, list):
        return [from_json(item, tensors) for item in json]
    if not isinstance(json, dict):
        return json
    if not any(key.startswith("$") for key in json):
        return {key: from_json(item, tensors) for key, item in json.items()}
    try:
        ((kind, content),) = json.items()
        if kind == "$tensor":
            return tensors[content]
        if kind == "$float":
            return _NOT_FINITE[content]
        if kind == "$tuple":
            return tuple(from_json(item, tensors) for item in content)
        if kind == "$dict":
            return {from_json(key, tensors): from_json(item, tensors) for key, item in content}
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"the state holds {str(json)[:80]}, which cannot be read: {error}") from error
    raise LoadError(f"the state holds a {kind!r}, which this version of etude does not know")
