"""From bytes to text: encodings are recognized, and what is no text is put right and told of."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from etude.data.build import BadFile

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, with which some programs begin a text; the longer of two that begin alike comes first."""
_LOST: Final = "\ufffd"
"""Stands for what could not be decoded."""
_MOST_ODD: Final = 0.4
"""Of a file's signs. All bytes in turn have 0.5, and so has English in UTF-16 without a byte order mark."""
_HALVES: Final = re.compile("[\ud800-\udfff]")
"""Halves of characters, which JSON and Python can hold and no encoding can."""


class Plain(NamedTuple):
    """A text without what is no text."""

    text: str
    told: str = ""
    """What had to be put right; empty for most texts."""


def open_text(path: Path) -> TextIO:
    """A text file as lines with their ends as they are: UTF-8, or what its byte order mark says.

    Bytes that cannot be decoded become U+FFFD each, so that one of them costs a sign and not the text.

    Raises:
        BadFile: it cannot be read; the message is the reason.
    """
    try:
        # opening a pipe would wait for ever
        if not path.is_file():
            raise BadFile("is no file")
        with path.open("rb") as file:
            first = file.read(4)
        encoding = next((name for mark, name in _MARKS if first.startswith(mark)), "utf-8")
        return path.open(encoding=encoding, errors="replace", newline="")
    except OSError as error:
        raise BadFile(f"cannot be read ({error.strerror})") from error


def read_text(path: Path) -> Plain:
    """A whole file; raises `BadFile`."""
    with open_text(path) as file:
        try:
            return clean_file(file.read())
        except OSError as error:
            raise BadFile(f"cannot be read ({error.strerror})") from error


def clean(text: str) -> Plain:
    r"""A text with line breaks as "\n", without NULs, and with U+FFFD for halves of characters.

    >>> clean("one\r\ntwo\0")
    Plain(text='one\ntwo', told='NULs were taken out: 1')
    """
    odd: dict[str, int] = {}
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if nulls := text.count("\0"):
        text = text.replace("\0", "")
        odd["NULs were taken out"] = nulls
    if not text.isascii():
        text = _HALVES.sub(_LOST, text)
        if lost := text.count(_LOST):
            odd["signs that could not be decoded"] = lost
    # the numbers stand behind a colon, for they belong to one text alone
    return Plain(text, f"{', '.join(odd)}: {', '.join(map(str, odd.values()))}" if odd else "")


def clean_file(text: str) -> Plain:
    """What a file holds, as `clean` leaves it; raises `BadFile` where most of it is no text, as of a picture."""
    found = clean(text)
    share = (text.count("\0") + found.text.count(_LOST)) / max(len(text), 1)
    if share > _MOST_ODD:
        raise BadFile(f"is no text: {share:.0%} of its signs are NULs or cannot be decoded as UTF-8")
    return found
