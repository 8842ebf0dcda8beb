"""Budgets: a file up to 350 lines, a function up to 40 beside its docstring. Prints what is over, in `make check`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

FILE_LINES, FUNCTION_LINES = 350, 40
SOURCES = ("src", "tests", "benchmarks", "docs")

# Raising a budget is a reviewed line with a reason.
RAISED: dict[str, tuple[int, str]] = {
    "src/etude/training/learner.py:Learner.__init__": (48, "its signature and the fields it sets, hardly a branch"),
    "src/etude/vision/data.py:load": (51, "one call for every user: half of it is its signature"),
}


def over_budget(path: Path, name: str) -> list[str]:
    """What is over budget in one file, in words."""
    text = path.read_text(encoding="utf-8")
    found = []
    lines = text.count("\n")
    if lines > RAISED.get(name, (FILE_LINES, ""))[0]:
        found.append(f"{name}: {lines} lines, at most {FILE_LINES}")
    for qualified, node in _functions(ast.parse(text), ""):
        length = node.end_lineno - node.lineno + 1 - _docstring_lines(node)
        most, _ = RAISED.get(f"{name}:{qualified}", (FUNCTION_LINES, ""))
        if length > most:
            found.append(f"{name}:{node.lineno} {qualified}: {length} lines, at most {most}")
    return found


def _functions(node: ast.AST, prefix: str):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")


def _docstring_lines(node: ast.FunctionDef) -> int:
    first = node.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return first.end_lineno - first.lineno + 1 if is_text else 0


def main() -> int:
    """Print what is over budget; 0 when nothing is."""
    root = Path(__file__).parent.parent
    paths = sorted(path for source in SOURCES for path in (root / source).rglob("*.py"))
    found = [line for path in paths for line in over_budget(path, path.relative_to(root).as_posix())]
    print("\n".join(found) or f"{len(paths)} files within budget")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
