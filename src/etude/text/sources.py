"""Where texts come from: folders of files, tables, WikiText, any long file, or texts in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from numbers import Number
from pathlib import Path
from typing import Any, Final, TypeAlias

from etude.data import fetch
from etude.data.build import BadFile
from etude.data.files import LEFTOVERS, relative_name
from etude.data.items import VALID_NAMES, Label
from etude.data.sources.archive import SUFFIXES as ARCHIVES
from etude.data.sources.archive import is_archive
from etude.errors import ConfigError, DataError
from etude.text.corpus import Corpus
from etude.text.files import of_folder, text_files
from etude.text.reading import Plain, clean, open_text
from etude.text.tables import SUFFIXES as TABLES
from etude.text.tables import Row, columns_of, is_table, label_of, rows_of
from etude.text.wikitext import texts_of
from etude.training.display import progress_bar

Folder: TypeAlias = str | os.PathLike[str]
_LONG: Final = (".txt", ".tokens", ".raw")
"""Of files that are cut into texts."""
_SIDES: Final = re.compile(
    rf"(?:\w+\.)?(train|{'|'.join(VALID_NAMES)})\.(?:txt|tokens|raw|csv|tsv|jsonl|ndjson)", re.IGNORECASE
)
"""Files that are called as a side of a split, such as train.txt, wiki.valid.tokens or test.csv."""


def find(path: Folder, *, label: str | Label | None, text_column: str | None = None, progress: bool = True) -> Corpus:
    """The texts of a folder, a file, an archive or a known data set.

    Understood, the first that fits: a table (csv, tsv, jsonl), or another text file; in a folder, files that are called
    as the sides of a split, such as train.txt and valid.txt; one table; text files, at any depth.

    Args:
        path: where.
        label: where labels come from; see `text.load`. "auto" is the column "label" of a table, and "parent" of files;
            None reads none.
        text_column: the column of a table that holds the texts; None finds it.
        progress: show bars.

    Raises:
        DataError: naming the folder, file, column or line that cannot be used.
    """
    of_table, of_text = ("label", "parent") if label == "auto" else (label, label)
    place = Path(path).expanduser()
    if place.is_file() and is_long_file(place):
        return of_files([place], place.parent, None, label=of_table, text_column=text_column)
    _refuse_other(place, str(path))
    with progress_bar(enabled=progress) as bar:
        base = _unwrapped(
            fetch.resolve(
                path,
                say=print if progress else (lambda line: None),
                progress=partial(bar, "downloading"),
                unpacking=partial(bar, "unpacking"),
            )
        )
    inside = sorted(path for path in base.iterdir() if path.is_file() and not path.name.startswith("."))
    sides = {found[1].lower(): path for path in inside if (found := _SIDES.fullmatch(path.name))}
    if "train" in sides:
        held = next((name for name in VALID_NAMES if name in sides), None)
        files = [sides["train"], *([sides[held]] if held else [])]
        return of_files(files, base, [False, True][: len(files)], label=of_table, text_column=text_column)
    tables = [path for path in inside if is_table(path)]
    deep = any(path.parent != base for path in text_files(base))
    if len(tables) > 1 and not deep:
        raise DataError(f"{base} holds several tables ({[path.name for path in tables[:5]]}); name one of them")
    if tables and not deep:
        return of_files(tables, base, None, label=of_table, text_column=text_column)
    if text_column is not None:
        raise ConfigError(f"text_column={text_column!r} names a column of a table, and {base} holds files of texts")
    return of_folder(base, of_text)


def _refuse_other(place: Path, name: str) -> None:
    """Refuse what holds no texts whatever is in it, before anything is downloaded; raises `DataError`."""
    known = [one.name for one in fetch.DATASETS.values() if one.kind == "text"]
    if place.is_dir() or (place.is_file() and is_archive(place)) or name in known:
        return
    if place.is_file():
        wrong = f"{place} is no file of texts."
    elif name in fetch.DATASETS:
        wrong = f"{name} is a data set of pictures."
    else:
        wrong = f"{place} does not exist{fetch.meant(place, known)}"
    raise DataError(
        f"{wrong} Expected a folder of .txt files, a file of texts ({', '.join(_LONG)}), a table "
        f"({', '.join(TABLES)}), an archive ({', '.join(ARCHIVES)}), or a known data set: {', '.join(sorted(known))}"
    )


def _unwrapped(root: Path) -> Path:
    """The first folder below the root that is more than the wrapping of another one."""
    base = root
    while True:
        inside = [path for path in base.iterdir() if not path.name.startswith(".") and path.name not in LEFTOVERS]
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].is_symlink():
            return base
        if inside[0].name.lower() in ("train", *VALID_NAMES):
            return base
        base = inside[0]


# -- files that hold many texts ---------------------------------------------------------------------------------------


def is_long_file(path: Path) -> bool:
    """Whether a file is one that is cut into texts, or a table of them."""
    return is_table(path) or path.suffix.lower() in _LONG


def of_files(
    files: Sequence[Path], root: Path, sides: Sequence[bool | None] | None, *, label: Any, text_column: str | None
) -> Corpus:
    """The texts of tables and long files.

    Args:
        files: of one kind; WikiText files are cut into articles, other text files into parts.
        root: the folder that they lie in.
        sides: of each file; None takes a table's column is_valid.
        label: the column of the labels; None reads none.
        text_column: the column of the texts; None finds it.

    Raises:
        DataError: naming the file, the column or the line that cannot be used.
    """
    if label is not None and not all(is_table(path) and isinstance(label, str) for path in files):
        raise ConfigError(
            f"labels={label!r} cannot be told of {files[0].name}: texts of one file are labeled by a column of a table "
            "(csv, tsv, jsonl), and texts in files of their own by folders"
        )
    read = [_reader(path, label, text_column) for path in files]
    names, labels, said = [], [], []
    for number, (path, rows) in enumerate(zip(files, read, strict=True)):
        for place, row in enumerate(rows(), 1):
            names.append(f"{relative_name(path, root)}/{place}")
            labels.append(row.label)
            said.append(row.is_valid if sides is None else sides[number])
    if not names:
        raise DataError(f"{' and '.join(map(str, files))} holds no text")

    def stream(wanted: Sequence[int]) -> Iterator[Plain | BadFile]:
        chosen = iter(wanted)
        following = next(chosen, None)
        for i, row in enumerate(row for rows in read for row in rows()):
            if i == following:
                yield clean(row.text)
                following = next(chosen, None)

    return Corpus(
        root,
        tuple(names),
        stream,
        ", ".join(path.name for path in files),
        tuple(files),
        labels=None if label is None else tuple(labels),
        sides=_with_validation(said),
        config=(text_column, label),
    )


def _reader(path: Path, label: str | None, text_column: str | None) -> Callable[[], Iterator[Row]]:
    """What reads a file's rows from its beginning."""
    if is_table(path):
        return partial(rows_of, path, columns_of(path, text=text_column, label=label))
    if text_column is not None:
        raise ConfigError(f"text_column={text_column!r} names a column of a table, and {path.name} is none")
    return partial(_cut, path)


def _cut(path: Path) -> Iterator[Row]:
    try:
        with open_text(path) as lines:
            yield from (Row(text, "", is_valid=False) for text in texts_of(lines))
    except BadFile as bad:
        raise DataError(f"{path} {bad}") from bad


def _with_validation(sides: Sequence[bool | None]) -> tuple[bool | None, ...] | None:
    """The sides, if there is something to validate on; test texts validate where no others do."""
    if not any(sides):
        sides = [side is None for side in sides]
    return tuple(sides) if any(sides) else None


# -- texts in memory --------------------------------------------------------------------------------------------------


def of_memory(texts: Iterable[Any]) -> Corpus:
    """Strings, or pairs of a string and its label; 1 and "1" are the same label.

    Raises:
        DataError: something else, with its position.
    """
    if isinstance(texts, str):
        raise ConfigError("texts= is one text; give a list of them, or name a file or folder as the path")
    found = list(texts)
    if not found:
        raise DataError("texts= holds no text")
    labeled = bool(found) and not isinstance(found[0], str)
    for i, item in enumerate(found):
        pair = (
            isinstance(item, tuple | list)
            and len(item) == 2
            and isinstance(item[0], str)
            and isinstance(item[1], str | Number)
        )
        if not (pair if labeled else isinstance(item, str)):
            expected = "a pair of a text and a label, a string or a number," if labeled else "a text"
            raise DataError(f"text {i} is {item!r:.60}, a {type(item).__name__}; expected {expected} as the others are")
    strings = [item[0] for item in found] if labeled else found

    def stream(wanted: Sequence[int]) -> Iterator[Plain | BadFile]:
        return (clean(strings[i]) for i in wanted)

    labels = tuple(label_of(item[1]) for item in found) if labeled else None
    return Corpus(Path(), tuple(str(i) for i in range(len(found))), stream, "texts in memory", labels=labels)
