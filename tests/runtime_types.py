"""Shapes are checked at run time in tests: every function of the package whose signature gives the shape of a tensor.

All other types are mypy's work. To check them at run time as well takes half as long again, and finds nothing more.
"""

from __future__ import annotations

import ast
import re
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""The checker: an int is a float, as in static typing (PEP 484)."""
_SHAPES = re.compile(r"\b(Bool|Float|Int|Shaped|UInt8)\[")
_CHECK = "__import__('jaxtyping').jaxtyped(typechecker=__import__('runtime_types').checked)"


def has_shapes(source: str) -> bool:
    """Whether a module may have shapes in a signature."""
    return _SHAPES.search(source) is not None


def _decorate(tree: ast.AST) -> None:
    """Put the checker on functions with shapes in their signature."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        arguments = node.args
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        said = [one.annotation for one in every if one is not None and one.annotation is not None]
        said += [node.returns] if node.returns is not None else []
        if any(has_shapes(ast.unparse(one)) for one in said):
            check = ast.copy_location(ast.parse(_CHECK, mode="eval").body, node)
            # last, so that it is the innermost: a property or a class method stays one
            node.decorator_list.append(ast.fix_missing_locations(check))


class _Loader(SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        tree = ast.parse(data, path)
        _decorate(tree)
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_code(self, fullname: str) -> Any:
        # no file of byte code: those are of the package as it is for users
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.split(".")[0] != "etude":
            return None
        spec = PathFinder.find_spec(name, path, target)
        loader = spec.loader if spec is not None else None
        if isinstance(loader, SourceFileLoader) and has_shapes(loader.get_data(loader.path).decode()):
            spec.loader = _Loader(loader.name, loader.path)
        return spec


def check_shapes() -> None:
    """From now on, modules of the package are imported with the checker on their functions with shapes."""
    sys.meta_path.insert(0, _Finder())
