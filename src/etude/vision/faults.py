"""Whose fault it is that a picture cannot be read: the file's, or that of the disk, the network and the memory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from etude.data.build import BadFile
from etude.errors import DataError
from etude.output import plain

MAX_PIXELS: Final = 178_956_970
"""Pillow's limit of what is more likely an attack than a picture: half a gigabyte of pixels."""
TOO_LARGE: Final = f"has more than {MAX_PIXELS:,} pixels"
_MISSING: Final = "does not exist or is not a file"
_OF_THE_FILE: Final = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP),
        # a damaged file sends its reader to places that no file has
        *(errno.EINVAL, errno.EOVERFLOW),
    }
)
"""What the system answers where the file itself cannot be read, today and tomorrow."""


def is_ours(error: BaseException) -> bool:
    """Whether the disk, the network or the memory failed, not the file."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_THE_FILE
    return isinstance(error, MemoryError)


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """What is not the file's fault is a plain `DataError` that names it, and no `BadFile`, which a store would keep."""
    try:
        yield
    except OSError as error:
        answer = error.strerror or error
        raise DataError(f"{path}: the disk or network answered '{answer}'; nothing was kept, try again") from error
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory to read it; nothing was kept, try again") from error


@contextmanager
def bad_files(what: str) -> Iterator[None]:
    """Whatever is the file's fault is a `BadFile`."""
    try:
        yield
    except BadFile:
        raise
    except UnidentifiedImageError as error:
        raise BadFile("is not a picture in any known format") from error
    except Image.DecompressionBombError as error:
        raise BadFile(TOO_LARGE) from error
    except PermissionError as error:
        raise BadFile("may not be read") from error
    # broken data makes Pillow's readers raise nearly everything, struct.error and EOFError among it
    except Exception as error:
        if is_ours(error):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadFile(f"{what}: {reason}") from error


def missing(item: object) -> str:
    """What is said of a path at which there is nothing; empty for anything else."""
    if not isinstance(item, str | os.PathLike):
        return ""
    name = os.fspath(item)
    if "\0" in name:
        return f"the name {plain(name)} holds a NUL, as no file's name does; names go one a line"
    if os.path.lexists(name):
        return ""
    where = "" if Path(name).is_absolute() else f", and the folder that it counts from: {Path.cwd()}"
    return f"there is no file {plain(name)}; check its name{where}"


def size_of(path: Path) -> int:
    """A file's size in bytes; raises `BadFile` for what is no file, as a pipe would be waited for."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError) or is_ours(error):
            raise
        raise BadFile(_MISSING) from error
    if not stat.S_ISREG(status.st_mode):
        raise BadFile(_MISSING)
    return status.st_size
