"""Files that somebody else may have made: looked at before they take memory, and no name in them is ever imported.

- A file is a plain one: no folder, device or pipe, which would be waited for; no link that leads out of the folder it
  was found in; and not mostly holes, which take a name and no disk, but hours to hash.
- JSON is UTF-8, whole, without NaN, without a name twice, and cannot become much more in memory than it is on disk.
- A safetensors file begins with a header of a size that a model has; the rest is in `etude.training.tensor_files`.

Nothing here needs torch: a list of runs is read with it.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, Final

from etude.errors import LoadError

MOST_JSON: Final = 64 << 20
"""Bytes of a description; the names of a million classes are half of it."""
_MOST_HEADER: Final = 4 << 20
"""Bytes of a safetensors header: thirty thousand tensors. Their objects in memory take twenty times as much."""
_ROOM: Final = 128 << 20
"""Bytes that the values of a JSON file may take beyond twice its size."""
_SOLID: Final = 64 << 20
"""Up to this many bytes nobody asks for holes."""
_DIGITS: Final = re.compile(rb"(?<!\d)\d{4301}")
"""More than Python itself takes for a number; looked for only where a number begins, so that it takes one pass."""
_WIDE: Final = re.compile(rb"[\xf0-\xf4]")
"""The first byte of a letter beyond the first 65,536, which makes every letter of a text four bytes wide."""
_CODE: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How the files of torch.save and pickle begin."""


def plain_size(path: Path, inside: Path | None = None) -> int:
    """The size of a plain file in bytes.

    Args:
        path: the file.
        inside: the folder out of which no link may lead.

    Raises:
        LoadError: it is missing, is something else, or cannot be looked at.
    """
    try:
        if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
            raise LoadError(f"{path} is a link that leads out of its folder; put the file itself there")
        status = path.stat()
    except FileNotFoundError:
        raise LoadError(f"{path} is missing") from None
    # a loop of links is a RuntimeError to some versions of Python
    except (OSError, RuntimeError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise LoadError(f"{path} is no file, but a folder, a pipe or a device")
    if status.st_size > _SOLID and (there := _bytes_there(path, status.st_size)) < status.st_size // 16:
        raise LoadError(f"{path} is mostly holes: {there:,} of its {status.st_size:,} bytes are there; copy it again")
    return status.st_size


def _bytes_there(path: Path, size: int) -> int:
    """How much of a file is not a hole, counted up to a sixteenth; all of it where the system cannot tell."""
    seek_data, seek_hole = getattr(os, "SEEK_DATA", None), getattr(os, "SEEK_HOLE", None)
    if seek_data is None or seek_hole is None:
        return size
    descriptor = os.open(path, os.O_RDONLY)
    there = place = 0
    try:
        while there <= size // 16 and place < size:
            start = os.lseek(descriptor, place, seek_data)
            place = os.lseek(descriptor, start, seek_hole)
            there += place - start
    except OSError:
        # no more data after this place
        return there
    finally:
        os.close(descriptor)
    return there


def read_bytes(path: Path, inside: Path | None = None, most: int | None = None) -> bytes:
    """A plain file's bytes; raises `LoadError` for what is none, or is larger than `most`."""
    size = plain_size(path, inside)
    if most is not None and size > most:
        raise LoadError(f"{path} has {size:,} bytes, and no file of its kind has more than {most:,}")
    try:
        with path.open("rb") as file:
            # one more than it has: a file that grows meanwhile is another one
            data = file.read(size + 1)
    except (OSError, MemoryError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    if len(data) != size:
        raise LoadError(f"{path} changed while it was read; it had {size:,} bytes")
    return data


def read_json(path: Path, inside: Path | None = None) -> Any:
    """The value of a JSON file.

    Raises:
        LoadError: naming the file and what is wrong with it.
    """
    data = read_bytes(path, inside, MOST_JSON)
    try:
        return parse_json(data)
    except ValueError as error:
        raise LoadError(f"{path} is damaged: {error}") from error


def parse_json(data: bytes) -> Any:
    """The value of JSON that takes at most twice its size in memory, and a little.

    >>> parse_json(b'{"lr": 0.1}')
    {'lr': 0.1}
    >>> parse_json(b'{"lr": 0.1, "lr": 1}')
    Traceback (most recent call last):
    ...
    ValueError: the name 'lr' comes twice

    Raises:
        ValueError: it is none, or would take more.
    """
    refuse_bomb(data)
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def refuse_bomb(data: bytes) -> None:
    """Refuse JSON whose values would take much more than twice its size; raises `ValueError`."""
    width = 1 if data.isascii() else 4 if _WIDE.search(data) else 2
    values = 100 * (data.count(b"[") + data.count(b"{")) + 30 * data.count(b'"') + 32 * data.count(b",")
    if values > 2 * len(data) + _ROOM or width * len(data) > max(2 * len(data), _ROOM):
        raise ValueError(f"its {len(data):,} bytes would take many times as much memory")
    if _DIGITS.search(data):
        raise ValueError("it holds a number of more than 4,300 digits")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names: set[str] = set()
        twice = next(name for name, _ in pairs if name in names or names.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice!r} comes twice")
    return found


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits[:20]} is no finite number")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no finite number")


def check_header(start: bytes, size: int) -> None:
    """Refuse the first bytes of what is no safetensors file, or of one whose header is too large for a model.

    Args:
        start: its first 8 bytes.
        size: of the whole file.

    Raises:
        ValueError: saying which.
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) == 8 and length <= min(size - 8, _MOST_HEADER):
        return
    if start.startswith(_CODE):
        raise ValueError("it is a pickle or a file of torch.save, which can hold code, and is not opened")
    if len(start) < 8 or length > size - 8:
        raise ValueError(f"its header is longer than the file of {size:,} bytes")
    raise ValueError(f"its header has {length:,} bytes, and that of a model has at most {_MOST_HEADER:,}")
