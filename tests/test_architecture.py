"""The house's own rules: imports go down, public names are what they say, nothing is imported for nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

import budgets
import etude

ROOT = Path(etude.__file__).parent

FLOORS = {
    0: [
        "types",
        "errors",
        "random",
        "boxes",
        "losses",
        "focal",
        "regression",
        "metrics",
        "set_metrics",
        "schedules",
        "optim",
        "muon",
        "layers",
        "hooks",
        "plots",
        "output",
    ],
    1: ["data"],
    2: ["training"],
    3: ["vision", "text"],
    4: ["runs", "exports", "testing"],
    5: ["recipes", "commands", "cli", "__main__", "__init__"],
}


def _floor(module: str) -> int:
    """The floor of `etude.x.y`."""
    first = module.split(".")[1] if "." in module else "__init__"
    return next(floor for floor, names in FLOORS.items() if first in names)


def _imports(path: Path) -> list[str]:
    """What a file imports from the package, imports for type checkers aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] == "etude"]


def test_imports_go_down_only():
    up = []
    for path in ROOT.rglob("*.py"):
        module = ".".join(["etude", *path.relative_to(ROOT).with_suffix("").parts])
        if module == "etude.__init__":
            continue
        up += [f"{module} -> {name}" for name in _imports(path) if _floor(name) > _floor(module)]

    assert not up


def test_vision_and_text_do_not_import_each_other():
    for domain, other in (("vision", "text"), ("text", "vision")):
        for path in (ROOT / domain).rglob("*.py"):
            assert not [name for name in _imports(path) if name.startswith(f"etude.{other}")]


def test_no_dynamic_tricks():
    """House law 4: no __getattr__ on classes, no hasattr, no import *, no **kwargs pass-through in classes."""
    found = []
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ClassDef):
                found += [f"{where} __getattr__" for item in node.body if getattr(item, "name", "") == "__getattr__"]
            if isinstance(node, ast.Name) and node.id == "hasattr":
                found.append(f"{where} hasattr")
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                found.append(f"{where} import *")

    assert not found


def test_exported_names():
    """The lazy table and what type checkers see are the same names, and each can be had."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname for node in block.body for alias in node.names}

    assert seen == set(etude.__all__)
    for name in etude.__all__:
        assert getattr(etude, name) is not None
    assert set(etude.__all__) <= set(dir(etude))


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, etude, etude.cli; print([m for m in ('torch', 'numpy', 'matplotlib', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_budgets_hold(capsys):
    assert budgets.main() == 0, capsys.readouterr().out


def test_shapes_are_checked_at_run_time_in_tests():
    """Else every annotation of a shape would be a comment."""
    with pytest.raises(jaxtyping.TypeCheckError, match="class"):
        etude.accuracy(torch.zeros(3, 4), torch.zeros(5, dtype=torch.long))
