"""Every listing of the lesson notes has a row in docs/from-the-notes.md, and every row that can run prints what it says."""

from __future__ import annotations

import ast
import io
import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPO = Path(__file__).parent.parent
PAGE = REPO / "docs" / "from-the-notes.md"
PARTS = {"mixed precision", "transfer learning", "text", "pictures from archives"}
CODE = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    number: int
    words: list[str]
    entry: str
    prints: str


def rows() -> list[Row]:
    """The rows of all tables of the page, in order."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d+ \|", line)]
    cells = [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [
        Row(int(number), CODE.findall(words), entry, "\n".join(CODE.findall(prints)))
        for number, words, entry, prints in cells
    ]


def code_and_prints(row: Row, page: str) -> tuple[str, str] | None:
    """What a row runs and what it says that prints; None for a row that runs nothing."""
    if row.entry.startswith("`"):
        return CODE.findall(row.entry)[0], row.prints
    if not row.entry.startswith("below"):
        return None
    block = re.search(rf"^#### Listing {row.number}\n+```python\n(.*?)^```\n+```text\n(.*?)^```", page, re.M | re.S)
    assert block, (
        f"row {row.number} says below, but there is no `#### Listing {row.number}` with python and text blocks"
    )
    return block[1], block[2].strip()


def run(code: str, namespace: dict[str, Any]) -> str:
    """What the code prints, the values of expressions included, as at Python's prompt."""
    with redirect_stdout(io.StringIO()) as out:
        try:
            for statement in ast.parse(code).body:
                exec(compile(ast.Interactive([statement]), str(PAGE), "single"), namespace)
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
    return out.getvalue().strip()


def notes() -> str:
    """The lesson notes, which are not part of the project."""
    beside = [Path(os.environ[name]).parent for name in ("ETUDE_TEST_DATA",) if name in os.environ]
    found = [path for folder in (*beside, REPO.parent / "shared") for path in sorted((folder / "seed").glob("*.txt"))]
    if named := os.environ.get("ETUDE_NOTES"):
        found = [Path(named)]
    if not found:
        pytest.skip("the lesson notes are not at hand; name their text file in ETUDE_NOTES")
    return found[0].read_text(encoding="utf-8")


def listings(text: str) -> list[str]:
    """Fenced blocks and numbered lines that have lost their fence; those that hold only line numbers do not count."""
    found = re.findall(r"^```[^\n]*\n(.*?)^```[^\n]*$|^\d+ \| (\S[^\n]*)$", text, re.M | re.S)
    return [block or line for block, line in found if re.sub(r"[\d\s|]", "", block or line)]


def test_every_entry_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "displayhook", lambda value: None if value is None else print(repr(value)))
    page, namespace = PAGE.read_text(encoding="utf-8"), {"__name__": "from_the_notes"}
    imports = re.search(r"```python\n(.*?)```", page, re.S)
    assert imports and run(imports[1], namespace) == ""
    wrong = {}
    for row in rows():
        if given := code_and_prints(row, page):
            code, expected = given
            if (printed := run(code, namespace)) != expected or not expected:
                wrong[row.number] = f"the page says {expected!r}, it prints {printed!r}"
    assert not wrong


def test_rows_are_complete() -> None:
    table, page = rows(), PAGE.read_text(encoding="utf-8")
    assert [row.number for row in table] == list(range(1, len(table) + 1))
    below = [row.number for row in table if row.entry.startswith("below")]
    assert [int(number) for number in re.findall(r"^#### Listing (\d+)$", page, re.M)] == below
    for row in table:
        assert row.words, row
        if not row.entry.startswith(("`", "below")):
            kind, _, what = row.entry.partition(": ") if row.entry.startswith("later") else row.entry.partition(" of ")
            source = re.match(r"\d+", what)
            assert (kind == "later" and what in PARTS) or (
                kind == "output" and source and int(source[0]) < row.number
            ), row
            assert not row.prints, row


def test_no_listing_of_the_notes_is_left_out() -> None:
    found, table = listings(notes()), rows()
    for row, listing in zip(table, found, strict=False):
        missing = [words for words in row.words if " ".join(words.split()) not in " ".join(listing.split())]
        assert not missing, f"row {row.number} names {missing}, which its listing does not hold: {listing[:80]!r}"
    assert len(table) == len(found)
