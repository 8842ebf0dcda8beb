"""Files that may hold anything: every value is checked before it is used, and what cannot be read is no error."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from etude.errors import LoadError
from etude.training.guarded import MOST_JSON, read_bytes, refuse_bomb

_TAIL: Final = 1 << 16
"""Bytes that are read at a time from the end of a history."""


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """The value if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def finite(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def whole(value: Any) -> int | None:
    """The value if it is a whole number of at least 0, else None."""
    found = finite(value)
    return int(found) if found is not None and found >= 0 and found == int(found) else None


def parse(line: str | bytes) -> Any:
    """JSON, with NaN and infinity as None, so that it can be written as JSON again.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(line, parse_constant=lambda _: None, parse_float=lambda digits: finite(float(digits)))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock; a file that is not there is not made."""
    from filelock import FileLock, Timeout

    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        # a folder that cannot be written to, a file system without locks
        return False


def read_object(path: Path) -> tuple[dict[str, Any], str]:
    """A JSON object; an empty one with the reason where a file holds none, without a reason where there is no file."""
    if not os.path.lexists(path):
        return {}, ""
    try:
        data = read_bytes(path, most=MOST_JSON)
        refuse_bomb(data)
        value = parse(data.decode("utf-8-sig"))
    except LoadError as error:
        return {}, f"cannot be read: {error}"
    except ValueError as error:
        return {}, f"is not whole JSON: {error}"
    return (value, "") if isinstance(value, dict) else ({}, f"holds a {type(value).__name__}, expected an object")


def read_lines(path: Path) -> Iterator[Any]:
    """The lines of a JSONL file that can be read; a last line may be half written."""
    try:
        data = path.read_bytes()
    except OSError:
        return
    for line in data.split(b"\n"):
        try:
            yield parse(line)
        except ValueError:
            continue


def last_epoch(path: Path) -> dict[str, Any]:
    """The last epoch's line, sought from the end."""
    try:
        with path.open("rb") as file:
            end, tail = file.seek(0, 2), b""
            while end > 0:
                start = max(end - _TAIL, 0)
                file.seek(start)
                lines = (file.read(end - start) + tail).split(b"\n")
                # the first line of a chunk may begin before it
                tail, end = (lines[0], start) if start else (b"", 0)
                for line in reversed(lines[1:] if start else lines):
                    if row := _epoch(line):
                        return row
    except OSError:
        pass
    return {}


def _epoch(line: bytes) -> dict[str, Any]:
    if b'"epoch"' not in line:
        return {}
    try:
        row = mapping(parse(line))
    except ValueError:
        return {}
    return row if row.get("kind") == "epoch" else {}


def changed(path: Path) -> float:
    """When a file was last written; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
