"""docs/rows.md names files and tests that exist, and no row is missing."""

from __future__ import annotations

import re
from pathlib import Path

REPO = Path(__file__).parent.parent
ROWS = (
    [f"A{i}" for i in range(1, 18)]
    + [f"M{i}" for i in range(1, 15)]
    + ["L1", "L2"]
    + [f"X{i}" for i in range(1, 20)]
    + [f"E{i}" for i in range(1, 13)]
    + ["E8-CHK"]
    + [f"T{i}" for i in range(1, 13)]
    + [f"P{i}" for i in range(1, 9)]
    + [f"B{i}" for i in range(1, 10)]
    + [f"R{i}" for i in range(1, 29)]
    + ["Q1", "Q3", "Q4", "Q5", "Q6"]
)
TEXT = (REPO / "docs" / "rows.md").read_text(encoding="utf-8")


def _cells() -> list[list[str]]:
    lines = [line for line in TEXT.splitlines() if re.match(r"\| ([AMLXETPBRQ])?\d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_no_row_is_missing():
    assert [cells[0] for cells in _cells() if len(cells) == 4] == ROWS


def test_every_named_file_exists():
    files = [cells[2].strip("`") for cells in _cells() if len(cells) == 4 and cells[2] != "*later*"]
    missing = [name for name in files if not (REPO / "src/etude" / name).exists() and not (REPO / name).exists()]

    assert not missing


def test_every_named_test_exists():
    missing = []
    for name in re.findall(r"`(test_\w+\.py::test_\w+)`", TEXT):
        file, test = name.split("::")
        path = REPO / "tests" / file
        if not path.exists() or f"def {test}(" not in path.read_text(encoding="utf-8"):
            missing.append(name)

    assert not missing
