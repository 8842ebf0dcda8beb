"""Write a bundle that reads texts: safetensors and JSON, test vectors, a reader and a tokenizer that need no etude."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import torch

from etude.errors import ConfigError, SaveError
from etude.exports.bundle import DESCRIPTION, VERSION, describe, weights_of
from etude.exports.plain import Plain
from etude.exports.texts import license_note, text_bundle_readme
from etude.training.durable import write_tensors, write_text
from etude.types import Json

FORMAT: Final = "etude-text-bundle"
READER: Final = "read_text_bundle.py"
_VOCAB: Final = "vocab.json"
_TESTS: Final = "test_texts.json"
_MOST: Final = 6 << 20
"""Bytes of a JSON file that the reader takes."""
_WORDS: Final[dict[str, Json]] = {"name": "words"}
"""The tokenizer that goes into a bundle; others need packages of their own."""
_IMPORT: Final = re.compile(r"^from etude\.text\.(\w+) import", re.MULTILINE)
_TEXTS: Final = (
    ".",
    "It was GOOD!!!!!! I'd see it again (and again) :-)",
    "no no no no no, <br /><br />It&#39;s &lt;i&gt; not...  worth $5.50/h\n\nMr. O'Neill can't. #1",
    "<script>alert('x')</script> \\n \\\" \x00 \x07 \ud800 \u202eright to left\u202c \ufeff",
    "Été à Zürich: 你好世界。 Привет! שלום 🎉🎉🎉🎉👩‍👩‍👧 ﬁ ǆ İstanbul ẞ",
    "a" * 3000 + " xxbos xxunk xxmaj XXUP word https://example.org/a?b=c me@example.org",
    "the cat, the CAT and The Cat " * 60,
)
"""Texts of every odd kind, none of which comes from anybody's data."""


def check_text_bundle(given: Plain) -> None:
    """Refuse what the reader cannot read; raises `ConfigError` that says what goes out as a graph instead."""
    assert given.net is not None
    assert given.preprocess is not None
    if (tokenizer := given.preprocess["tokenizer"]) != _WORDS:
        raise ConfigError(
            f"a bundle holds etude's own tokenizer 'words', and this model's is {str(tokenizer)[:60]}; export it as a "
            "graph, which takes the numbers of tokens: to='torch-export' or to='onnx'"
        )
    if given.labels is not None and given.net["num_classes"] != len(given.labels):
        raise ConfigError(f"the model has {given.net['num_classes']} outputs for {len(given.labels)} labels")


def write_text_bundle(given: Plain, folder: Path, *, license: str, origin: dict[str, Json]) -> None:
    """Write a bundle's files into an empty folder.

    Args:
        given: what is exported; `check_text_bundle` took it.
        folder: new and empty.
        license: of the data.
        origin: where the model comes from.

    Raises:
        SaveError: its labels or tokens are more than the reader takes.
    """
    expected = torch.cat([given.expected(given.inputs), given.expected(list(_TEXTS))])
    write_tensors(weights_of(given), folder / "model.safetensors")
    write_tensors({**given.inputs, "expected": expected}, folder / "test_vectors.safetensors")
    texts = {
        _VOCAB: json.dumps(given.tokens),
        _TESTS: json.dumps(_TEXTS),
        "README.md": text_bundle_readme(given, license),
        "LICENSE": license_note(license, texts=True),
        **reader_files(),
    }
    for name, text in texts.items():
        write_text(text, folder / name)
    about: dict[str, Json] = {
        "format": FORMAT,
        "version": VERSION,
        "model": given.net,
        "text": given.preprocess,
        "labels": list(given.labels) if given.labels is not None else None,
        "outputs": given.outputs,
        "precision": "float32",
        "data_license": license,
        "origin": origin,
    }
    named = ["model.safetensors", "test_vectors.safetensors", *texts]
    described = describe(about, folder, named)
    if max(len(described), len(texts[_VOCAB])) > _MOST:
        raise SaveError("the labels or tokens of this model are too many for a bundle; use another form")
    write_text(described, folder / DESCRIPTION)


def reader_files() -> dict[str, str]:
    """The reader and what it needs of the package, by the names of the files beside it.

    The modules that cut texts into tokens need nothing but the standard library and each other: in a bundle,
    `etude.text.rules` is called `text_rules`.
    """
    found: dict[str, str] = {}
    waiting = {READER: files("etude.exports") / READER}
    while waiting:
        name, place = waiting.popitem()
        source = place.read_text(encoding="utf-8")
        found[name] = _IMPORT.sub(r"from text_\1 import", source)
        for module in _IMPORT.findall(source):
            if f"text_{module}.py" not in found:
                waiting[f"text_{module}.py"] = files("etude.text") / f"{module}.py"
    return found


def check_written(folder: Path) -> float:
    """Read a bundle with the reader in it, and say how far it is from what was expected.

    Raises:
        SaveError: it does not give what this model gives.
    """
    try:
        with _beside(folder):
            bundle: Any = runpy.run_path(str(folder / READER))["Bundle"]
            difference: float = bundle(folder).check()
    except ValueError as error:
        raise SaveError(f"the bundle does not give what the model gives, and is not kept: {error}") from error
    return difference


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Inside, modules are found in a folder, as they are for a script in it; none of them stays, nor a file of one."""
    before, wrote = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = wrote
        for name in {name for name in set(sys.modules) - before if name.startswith("text_")}:
            del sys.modules[name]
