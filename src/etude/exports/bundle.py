"""Write a bundle: safetensors and JSON, test vectors, and the reader that needs no etude."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from etude.errors import ConfigError, SaveError
from etude.exports.plain import Plain
from etude.exports.texts import bundle_readme, license_note
from etude.exports.vectors import write_pictures
from etude.training.durable import write_tensors, write_text
from etude.types import Json
from etude.vision.preprocess import ImageReader

if TYPE_CHECKING:
    from jaxtyping import Float

FORMAT: Final = "etude-bundle"
VERSION: Final = 1
DESCRIPTION: Final = "bundle.json"
READER: Final = "read_bundle.py"
_MOST: Final = 6 << 20
"""Bytes of the description that the reader takes."""


def check_bundle(given: Plain) -> None:
    """Refuse what the reader cannot build; raises `ConfigError` that says what goes out as a graph instead."""
    name = type(given.learner.model).__name__
    if given.net is None or given.preprocess is None:
        what = f"a {name}" if given.net is None else "a model of other data than pictures"
        raise ConfigError(
            f"a bundle holds etude's own picture models, and this is {what}; export it as a graph, which holds any: "
            "to='torch-export' or to='onnx'"
        )
    if given.labels is not None and given.net["num_classes"] != len(given.labels):
        raise ConfigError(f"the model has {given.net['num_classes']} outputs for {len(given.labels)} labels")
    if given.net["channels"] != given.preprocess["channels"]:
        raise ConfigError(
            f"pictures have {given.preprocess['channels']} channels, the model takes {given.net['channels']}"
        )
    if other := [name for name, tensor in weights_of(given).items() if tensor.dtype != torch.float32]:
        raise ConfigError(f"a bundle holds float32 weights, and {other[:3]} are others; use to='torch-export'")


def weights_of(given: Plain) -> dict[str, Tensor]:
    """The weights that prediction uses: no counts of batches."""
    state = given.learner.model.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def write_bundle(
    given: Plain, folder: Path, *, pictures: Sequence[Any], license: str, origin: dict[str, Json]
) -> list[Path]:
    """Write a bundle's files into an empty folder.

    Args:
        given: what is exported; `check_bundle` took it.
        folder: new and empty.
        pictures: files or PIL pictures to keep as test pictures.
        license: of the data.
        origin: where the model comes from.

    Returns:
        The test pictures.

    Raises:
        SaveError: its labels are more than the reader takes.
    """
    read, seen = given.learner.data.read, given.preprocess
    assert isinstance(read, ImageReader)
    assert seen is not None
    tests = write_pictures(pictures, read, folder)
    write_tensors(weights_of(given), folder / "model.safetensors")
    vectors = {"pixels": given.inputs["inputs"], "expected": _expected(given, tests)}
    write_tensors(vectors, folder / "test_vectors.safetensors")
    reader = (files("etude.exports") / READER).read_text(encoding="utf-8")
    texts = {READER: reader, "README.md": bundle_readme(given, license, tests), "LICENSE": license_note(license)}
    for name, text in texts.items():
        write_text(text, folder / name)
    named = ["model.safetensors", "test_vectors.safetensors", *(path.name for path in tests), *texts]
    about: dict[str, Json] = {
        "format": FORMAT,
        "version": VERSION,
        "model": given.net,
        # the model says how many channels there are
        "preprocess": {name: value for name, value in seen.items() if name != "channels"},
        "labels": list(given.labels) if given.labels is not None else None,
        "outputs": given.outputs,
        "precision": "float32",
        "data_license": license,
        "origin": origin,
    }
    text = describe(about, folder, named)
    if len(text) > _MOST:
        raise SaveError(f"the labels of this model are too many for a bundle: {len(text):,} bytes; use another form")
    write_text(text, folder / DESCRIPTION)
    return tests


def describe(about: dict[str, Json], folder: Path, named: Sequence[str]) -> str:
    """What stands in bundle.json: what a bundle is, with the hash of each of its files, and one of all of this."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in named}
    whole: dict[str, Json] = {**about, "files": hashes, "sha256": ""}
    # the reader writes it again and compares, so that nothing in it has two meanings
    whole["sha256"] = hashlib.sha256(json.dumps(whole).encode()).hexdigest()
    return json.dumps(whole, indent=1, allow_nan=False)


def _expected(given: Plain, tests: Sequence[Path]) -> Float[Tensor, "sample output"]:
    """What comes out of the random pixels, then of the pictures."""
    parts = [given.expected(given.inputs), *([given.expected(list(tests))] if tests else [])]
    return torch.cat(parts)


def check_written(folder: Path) -> float:
    """Read a bundle as a stranger would, and say how far it is from what was expected.

    Raises:
        SaveError: it does not give what this model gives.
    """
    from etude.exports.read_bundle import Bundle

    try:
        return Bundle(folder).check()
    except ValueError as error:
        raise SaveError(f"the bundle does not give what the model gives, and is not kept: {error}") from error
