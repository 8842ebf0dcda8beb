"""What is named to be predicted, one by one: pictures, or texts; files, folders, tables, or names on standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from etude.output import plain

if TYPE_CHECKING:
    from etude.errors import DataError
    from etude.training.learner import Learner

Noun: TypeAlias = Literal["picture", "text"]
_SHOWN: Final = 60
"""Letters of a text that a row is called by."""


class Item(NamedTuple):
    """One of what is to be predicted."""

    name: str
    """What its row is called."""
    given: Path | str | DataError
    """A file, a text, or why there is nothing to read."""


def noun_of(learner: Learner, run: str) -> Noun:
    """What a run predicts something of; raises `ConfigError` where it cannot be read from files."""
    from etude.errors import ConfigError
    from etude.text.language_model import LanguageModel
    from etude.text.reader import TextReader
    from etude.vision.preprocess import ImageReader

    if isinstance(learner.model, LanguageModel):
        raise ConfigError(
            f"{run} holds a language model, which goes on with a text and says nothing of it: "
            f"etude generate {run} PROMPT"
        )
    if isinstance(learner.data.read, TextReader):
        return "text"
    if not isinstance(learner.data.read, ImageReader):
        raise ConfigError(f"{run} does not say how to read a picture or a text; it was trained on other data")
    return "picture"


def items_of(
    noun: Noun, files: Sequence[str], texts: Sequence[str], column: str | None
) -> tuple[Iterable[Item], int | None]:
    """The pictures or texts that are meant, and how many, where that is known before they are read.

    Args:
        noun: which of the two.
        files: names of files and folders, or "-".
        texts: texts themselves.
        column: of a table, that holds the texts; None finds it by its name.

    Raises:
        ConfigError: texts for a model of pictures.
    """
    from etude.errors import ConfigError
    from etude.text.tables import is_table

    if noun == "picture" and (texts or column is not None):
        raise ConfigError("--text and --text-column are for models of texts, and this one looks at pictures")
    folder, file = (_pictures, _file) if noun == "picture" else (_texts, partial(_text_file, column=column))
    named = _each(files, folder, file)
    said = (Item(_called(text), text) for text in texts)
    if "-" in files or (noun == "text" and any(is_table(Path(name)) for name in files)):
        return _all(named, said), None
    found = [*named, *said]
    return found, len(found)


def _all(*parts: Iterable[Item]) -> Iterator[Item]:
    for part in parts:
        yield from part


def _each(
    files: Sequence[str], folder: Callable[[Path], Iterable[Item]], file: Callable[[Path], Iterable[Item]]
) -> Iterator[Item]:
    """Folders are looked through, "-" reads names from standard input."""
    from etude.errors import DataError

    for name in files:
        if name == "-":
            for line in filter(None, map(str.strip, sys.stdin)):
                yield from file(Path(line))
        elif Path(name).is_dir():
            try:
                yield from folder(Path(name))
            except DataError as error:
                yield Item(name, error)
        else:
            yield from file(Path(name))


def _file(path: Path) -> Iterator[Item]:
    yield Item(str(path), path)


def _pictures(folder: Path) -> Iterator[Item]:
    """All pictures below a folder; those of kinds that are not read are told of."""
    from etude.data.files import UNREAD_SUFFIXES, find_images, other_files
    from etude.errors import DataError

    try:
        for path in find_images(folder):
            yield from _file(path)
    except DataError as error:
        yield Item(str(folder), error)
    passed = {suffix: num for suffix, num in other_files(folder).items() if suffix in UNREAD_SUFFIXES}
    if passed:
        told = ", ".join(f"{num} {suffix}" for suffix, num in sorted(passed.items()))
        print(f"note: {plain(folder)} also holds pictures of kinds that are not read ({told})", file=sys.stderr)


def _texts(folder: Path) -> Iterator[Item]:
    """All text files below a folder; a table in it is none of them and has to be named."""
    from etude.text.files import find_texts

    for path in find_texts(folder):
        yield from _file(path)


def _text_file(path: Path, column: str | None) -> Iterator[Item]:
    """A file of one text, or the rows of a table."""
    from etude.errors import DataError
    from etude.text.tables import columns_of, is_table, rows_of

    if not is_table(path):
        yield from _file(path)
        return
    try:
        # which side of a split a text is on does not matter here
        columns = columns_of(path, text=column)._replace(is_valid=None)
        number = 0
        for number, row in enumerate(rows_of(path, columns), 1):
            name = f"{path}/{number}"
            yield Item(name, row.text if row.text.strip() else DataError(f"{name} holds no text"))
        if not number:
            yield Item(str(path), DataError(f"{path} holds no texts: it has no rows below its first line"))
    except DataError as error:
        # what follows in the table cannot be told apart any more
        yield Item(str(path), error)


def _called(text: str) -> str:
    from etude.runs.text import shorten

    return shorten(text, _SHOWN)
