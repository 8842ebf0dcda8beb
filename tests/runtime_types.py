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


class _Decorate(ast.NodeTransformer):
    """Puts the checker on functions with shapes in their signature."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        arguments = node.args
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        said = [one.annotation for one in every if one is not None and one.annotation is not None]
        said += [node.returns] if node.returns is not None else []
        if any(_SHAPES.search(ast.unparse(one)) for one in said):
            text = "__import__('jaxtyping').jaxtyped(typechecker=__import__('runtime_types').checked)"
            # last, so that it is the innermost: a property or a class method stays one
            node.decorator_list.append(ast.copy_location(ast.parse(text, mode="eval").body, node))
        return node


class _Loader(SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        tree = _Decorate().visit(ast.parse(data, path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)

    def get_code(self, fullname: str) -> Any:
        # no file of byte code: those are of the package as it is for users
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.split(".")[0] != "etude":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def check_shapes() -> None:
    """From now on, modules of the package are imported with the checker on their functions with shapes."""
    sys.meta_path.insert(0, _Finder())
