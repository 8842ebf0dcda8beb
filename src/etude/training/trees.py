"""Nested values as JSON and tensors: how a state is written without pickle, and read without naming any code.

Numbers, strings, None, lists and dicts with string keys are JSON already. What JSON lacks is written as an object
with one key that begins with `$`: tensors, tuples, other keys, and numbers that are not finite. What is only derived
from one of these, as a named tuple is, would come back as something else, and is refused. Only NumPy's float64
may come back as a float, and the ordered dicts that torch's state dicts are as plain ones.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np
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
    if type(value) in (NoneType, bool, int, str):
        plain: Json = value
        return plain
    if type(value) in (float, np.float64):
        # float(): NumPy's own kind writes itself otherwise
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Tensor):
        while place in tensors:  # two places can have one name, such as those of 0 and "0"
            place += "'"
        tensors[place] = value
        return {"$tensor": place}
    if type(value) is tuple:
        return {"$tuple": [to_json(item, tensors, f"{place}/{i}") for i, item in enumerate(value)]}
    if type(value) is list:
        return [to_json(item, tensors, f"{place}/{i}") for i, item in enumerate(value)]
    if type(value) in (dict, OrderedDict):
        items = [(key, to_json(item, tensors, f"{place}/{key}")) for key, item in value.items()]
        if all(type(key) is str and not key.startswith("$") for key in value):
            return dict(items)
        return {"$dict": [[to_json(key, tensors, f"{place}/{key}"), item] for key, item in items]}
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


def check_type(value: Any, hint: Any, place: str) -> None:
    """Refuse a value that was read unless it is of the annotated type, all through.

    >>> check_type({"loss": [0.5, 1]}, dict[str, list[float]], "rows")
    >>> check_type({"loss": [0.5, "1"]}, dict[str, list[float]], "rows")
    Traceback (most recent call last):
    ...
    etude.errors.LoadError: the state's rows/loss/1 is a str, not a float

    Raises:
        LoadError: naming the place.
    """
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        one = next((part for part in parts if isinstance(value, get_origin(part) or _class_of(part))), parts[0])
        check_type(value, one, place)
        return
    if kind is not Any and not _is_a(value, _class_of(kind)):
        raise LoadError(f"the state's {place} is a {type(value).__name__}, not a {_class_of(kind).__name__}")
    if is_typeddict(kind):
        for name, part in get_type_hints(kind).items():
            check_type(value.get(name), part, f"{place}/{name}")
    elif kind is tuple:
        if len(value) != len(parts):
            raise LoadError(f"the state's {place} has {len(value)} parts, not {len(parts)}")
        for i, (item, part) in enumerate(zip(value, parts, strict=True)):
            check_type(item, part, f"{place}/{i}")
    elif kind is list and parts:
        for i, item in enumerate(value):
            check_type(item, parts[0], f"{place}/{i}")
    elif kind is dict and parts:
        for key, item in value.items():
            check_type(key, parts[0], f"{place}/{key}")
            check_type(item, parts[1], f"{place}/{key}")


def _class_of(hint: Any) -> type:
    return dict if is_typeddict(hint) else hint


def _is_a(value: Any, kind: type) -> bool:
    """As a type checker sees it: a whole number will do for a float, and yes is no number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
