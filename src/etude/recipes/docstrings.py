"""English that is on every machine with Python: the documentation strings of its standard library.

The files are parsed, and no module is imported. A text that comes several times is one. A language model is measured on
whole modules that it has not read, a classifier on single texts, which no language model has read either: of most
modules it has seen other texts. Another version of Python has other texts: results are of a version.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

DOCSTRINGS: Final = "python-docstrings"
"""What the texts are called where a folder or a data set could be named."""
TOPICS: Final = {
    "internet": "email http urllib xmlrpc smtplib ftplib imaplib poplib nntplib telnetlib socketserver ssl socket "
    "wsgiref cgi mailbox webbrowser ipaddress cookiejar",
    "windows": "tkinter curses",
    "concurrency": "asyncio multiprocessing threading concurrent queue selectors subprocess sched _threading_local",
    "numbers": "_pydecimal decimal fractions statistics random numbers datetime _pydatetime calendar colorsys heapq "
    "bisect _strptime zoneinfo",
    "files": "pathlib tarfile zipfile shutil tempfile os ntpath posixpath genericpath gzip bz2 lzma glob fileinput io "
    "_pyio fnmatch filecmp zipapp shelve dbm mimetypes",
    "markup": "xml html json csv configparser plistlib difflib textwrap string codecs encodings re sre_parse gettext "
    "base64 quopri tomllib",
    "programs": "unittest doctest pdb bdb trace traceback inspect dis ast symtable pydoc distutils importlib typing "
    "tokenize pickletools code codeop venv pyclbr modulefinder profile pstats timeit logging argparse optparse",
}
"""Which modules and packages are about what; of the others nothing is asked."""
_SKIPPED: Final = {"test", "tests", "idlelib", "turtledemo", "lib2to3", "ensurepip", "pydoc_data", "__pycache__"}
_SKIPPED_TOO: Final = {"site-packages", "dist-packages"}
_HELD_OUT: Final = 0.15
"""Share of the texts, and of the words of each topic in whole modules."""
_LARGEST: Final = 0.5
"""A module with more of its topic's words is never held out: too little would be left to learn from."""
_FEWEST_WORDS: Final = 8
"""A shorter text does not say what it is about."""
_RULES: Final = 3
"""Raised when these rules change, so that what was written by the old ones is not taken."""


class Docstring(NamedTuple):
    """One documentation string."""

    text: str
    module: str
    topic: str
    """Empty where its module has none."""


def find_docstrings(root: Path) -> list[Docstring]:
    """Every documentation string below a folder of Python files, each text once, in the order of the files."""
    topics = {module: topic for topic, modules in TOPICS.items() for module in modules.split()}
    found: dict[str, Docstring] = {}
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).parts
        if (_SKIPPED | _SKIPPED_TOO) & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            # a few files of the library are wrong on purpose
            continue
        module = ".".join(parts).removesuffix(".py").removesuffix(".__init__")
        for text in _texts(tree):
            found.setdefault(text, Docstring(text, module, topics.get(module.split(".")[0], "")))
    return list(found.values())


def _texts(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """The documentation strings of a module, its classes and functions, from top to bottom."""
    if text := ast.get_docstring(node):
        yield text
    for inside in node.body:
        if isinstance(inside, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _texts(inside)


def modules_held_out(docstrings: Iterable[Docstring]) -> set[str]:
    """The modules that a language model is measured on: of each topic some, chosen by a hash of their names."""
    words: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for one in docstrings:
        words[one.topic][one.module] += len(one.text.split())
    chosen: set[str] = set()
    for modules in words.values():
        total, taken = sum(modules.values()), 0
        for module in sorted(modules, key=lambda name: hashlib.blake2b(name.encode()).digest()):
            if taken < _HELD_OUT * total and modules[module] < _LARGEST * total:
                chosen.add(module)
                taken += modules[module]
    return chosen


def is_held_out(text: str) -> bool:
    """Whether a classifier is measured on a text, by a hash of it."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return number < _HELD_OUT * 2**64


def folder_of_docstrings(*, labeled: bool) -> Path:
    """A folder with train.jsonl and valid.jsonl, made at the first call for a version of Python.

    Args:
        labeled: only texts that have a topic, which is their label, and are long enough to tell it; else all texts.
    """
    from etude.data import cache

    root = Path(sysconfig.get_path("stdlib"))
    key = hashlib.blake2b(f"{_RULES} {TOPICS} {root}".encode(), digest_size=4).hexdigest()
    folder = cache.home() / DOCSTRINGS / f"{platform.python_version()}-{key}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix="part-", ignore_cleanup_errors=True) as part:
            _write(find_docstrings(root), Path(part) / "made")
            try:
                (Path(part) / "made").rename(folder)
            except OSError:
                # another process was faster
                if not folder.exists():
                    raise
    return folder / ("topics" if labeled else "all")


def _write(docstrings: list[Docstring], folder: Path) -> None:
    """Both folders, with a file for each side."""
    away = modules_held_out(docstrings)
    told = [one for one in docstrings if one.topic and len(one.text.split()) >= _FEWEST_WORDS]
    sides = {
        "all/train": [one for one in docstrings if one.module not in away and not is_held_out(one.text)],
        "all/valid": [one for one in docstrings if one.module in away],
        "topics/train": [one for one in told if not is_held_out(one.text)],
        "topics/valid": [one for one in told if is_held_out(one.text)],
    }
    for name, rows in sides.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": one.text, "label": one.topic, "module": one.module}) for one in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
