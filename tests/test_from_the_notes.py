"""docs/from-the-notes.md has a row for every listing of the lesson notes, and what it shows runs and prints that."""

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
CODE = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    number: int
    words: list[str]
    """Found in the listing."""
    entry: str
    prints: str


def rows() -> list[Row]:
    """The rows of all tables of the page, in order."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d+ \|", line)]
    cells = [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [Row(int(a), CODE.findall(b), c, "\n".join(CODE.findall(d))) for a, b, c, d in cells]


def code_and_prints(row: Row, page: str) -> tuple[str, str] | None:
    """What a row runs and what the page says that it prints; None for a row that runs nothing."""
    if row.entry.startswith("`"):
        return CODE.findall(row.entry)[0], row.prints
    if not row.entry.startswith("below"):
        return None
    block = re.search(rf"^### Listing {row.number}\n+```python\n(.*?)^```\n+```text\n(.*?)^```", page, re.M | re.S)
    assert block, f"row {row.number} says below, where `### Listing {row.number}` lacks its python and text blocks"
    return block[1], block[2].strip()


def run(code: str, namespace: dict[str, Any]) -> str:
    """What the code prints, the values of expressions included, as Python's interpreter shows them."""
    with redirect_stdout(io.StringIO()) as out:
        try:
            for statement in ast.parse(code).body:
                exec(compile(ast.Interactive([statement]), str(PAGE), "single"), namespace)
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
    return out.getvalue().strip()


def notes() -> str:
    """The lesson notes, which are not part of the project."""
    if named := os.environ.get("ETUDE_NOTES"):
        return Path(named).read_text(encoding="utf-8")
    shared = REPO.parent / "shared"
    for folder in (Path(os.environ.get("ETUDE_TEST_DATA", shared / "data")).parent, shared):
        for path in sorted((folder / "seed").glob("*.txt")):
            return path.read_text(encoding="utf-8")
    pytest.skip("the lesson notes are not at hand; name their text file in ETUDE_NOTES")


def listings(text: str) -> list[str]:
    """Fenced blocks, and numbered lines that lost their fence; what holds only line numbers does not count."""
    found = re.findall(r"^```[^\n]*\n(.*?)^```[^\n]*$|^\d+ \| (\S[^\n]*)$", text, re.M | re.S)
    return [block or line for block, line in found if re.sub(r"[\d\s|]", "", block or line)]


def test_every_entry_prints_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "displayhook", lambda value: None if value is None else print(repr(value)))
    page, namespace = PAGE.read_text(encoding="utf-8"), {"__name__": "from_the_notes"}
    assert run(page.split("```python\n")[1].split("```")[0], namespace) == ""
    wrong = []
    for row in rows():
        if given := code_and_prints(row, page):
            printed = run(given[0], namespace)
            if printed != given[1] or not printed:
                wrong.append(f"row {row.number}: the page says\n{given[1]}\nbut it prints\n{printed}")
    assert not wrong, "\n".join(wrong)


def test_what_is_right_instead_of_the_slips_holds() -> None:
    """Error 25 of the index: what the notes say in passing is told apart from what is so."""
    page = PAGE.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "slips"}
    run(
        page.split("```python\n")[1].split("```")[0] + 'learner = vision.learner("lesson_cnn", data, **quiet, **small)',
        namespace,
    )
    checks = re.findall(r"^\|[^|]+\|[^|]+\| `([^`]+)` \|$", page.split("## Slips in the text")[1], re.M)

    assert len(checks) == 7
    assert [check for check in checks if not eval(check, namespace)] == []


def test_every_row_is_whole() -> None:
    table, page = rows(), PAGE.read_text(encoding="utf-8")
    assert [row.number for row in table] == list(range(1, len(table) + 1))
    below = [row.number for row in table if row.entry.startswith("below")]
    assert [int(number) for number in re.findall(r"^### Listing (\d+)$", page, re.M)] == below
    for row in table:
        assert row.words, f"row {row.number} has no words to recognize its listing by"
        if not row.entry.startswith(("`", "below")):
            output = re.fullmatch(r"output of (\d+)(?:\. .*)?", row.entry)
            assert output, row
            assert int(output[1]) < row.number, row
            assert not row.prints, row


def test_no_listing_of_the_notes_is_left_out() -> None:
    found, table = listings(notes()), rows()
    for row, listing in zip(table, found, strict=False):
        missing = [words for words in row.words if " ".join(words.split()) not in " ".join(listing.split())]
        assert not missing, f"row {row.number} names {missing}, which its listing lacks: {listing[:80]!r}"
    assert len(table) == len(found)
