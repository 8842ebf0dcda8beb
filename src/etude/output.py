"""Say a line, words from files that may hold anything among it; and where a file may be written."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from etude.errors import ConfigError


def tell(line: str) -> None:
    """Print a line at once; work goes on in silence when whoever read our output has left, as `head` does."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # what is printed from now on, and what Python still holds at its end, goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain(value: object) -> str:
    r"""A value on one line, with what no terminal should be sent written as an escape.

    >>> plain("two\nlines")
    'two\\nlines'
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def plain_lines(text: str) -> str:
    r"""A text of several lines, each as `plain` writes it.

    >>> plain_lines("two\nlines \x07")
    'two\nlines \\x07'
    """
    return "\n".join(map(plain, text.split("\n")))


def file_to_write(path: str | os.PathLike[str], what: str) -> Path:
    """Where to write the file that a user names: at the end of its links, so that a link stays one.

    What is put in a file's place must not take that of a device, a pipe or a folder.

    Args:
        path: the file, new or to be replaced.
        what: how the user named it, such as "--out".

    Raises:
        ConfigError: it is no regular file, or its folder does not exist.
    """
    given = plain(os.fspath(path))
    try:
        place = Path(os.path.realpath(path))
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        # a loop of links, a name that is too long, one with a NUL
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{what} must be a file in a folder that exists, got {given}: {reason}") from error
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "no regular file")
        raise ConfigError(f"{what} must be a file in a folder that exists, and {given} is {kind}; name another")
    if not place.parent.is_dir():
        raise ConfigError(
            f"{what} must be a file in a folder that exists, got {given}: there is no folder {plain(place.parent)}; "
            "make it first"
        )
    return place


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)
