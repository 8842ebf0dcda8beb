"""Export a trained model: written into a hidden folder, read back, compared, and only then given its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from etude.errors import ConfigError
from etude.exports import bundle, graph, text_bundle
from etude.exports.origin import license_of, origin_of, run_of
from etude.exports.plain import plain
from etude.exports.vectors import some_pictures
from etude.runs.load import load
from etude.training.durable import sync_folder
from etude.training.learner import Learner

Form: TypeAlias = Literal["bundle", "torch-export", "onnx"]
FORMS: Final = ("bundle", "torch-export", "onnx")
TEST_PICTURES: Final = 4
"""How many held-out pictures a bundle is tested with, where they are at hand."""


class Exported(NamedTuple):
    """What was written."""

    folder: Path
    difference: float
    """The largest one between the outputs of what was written and those of the model, on the test vectors."""
    pictures: list[str]
    """Files of the test pictures in it."""
    license: str
    """Of the data."""


def export(
    source: Learner | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    to: Form = "bundle",
    pictures: Sequence[Any] | None = None,
    data_license: str | None = None,
) -> Exported:
    """Write a trained model for use without etude.

    It is exported in float32, whatever it was trained in, with the average of its weights if it has one.

    Args:
        source: a learner; or the folder of a run, checkpoint or saved model.
        path: a new or empty folder, in one that exists.
        to: "bundle" is a folder of safetensors and JSON with a reader of its own, for etude's own models of pictures
            and its classifier of texts; "torch-export" and "onnx" are graphs, for any model of one tensor and for the
            classifier of texts.
        pictures: files or PIL pictures that a bundle shall be tested with, and that go into it; None takes four that
            the learner's data holds out, if it has some. Seeded random pixels are always among the test vectors. A
            bundle of texts is tested with random tokens and with texts that are nobody's.
        data_license: of the data that it learned from; None knows those of the known data sets.

    Returns:
        The folder, and how far what was written is from the model.

    Raises:
        ConfigError: this form cannot hold this model, the folder holds something, or that which it is in is missing.
        LoadError: the source is damaged.
        SaveError: what was written gives other numbers than the model does; nothing is left of it.
    """
    folder = Path(path)
    check_form(to, folder)
    learner = source if isinstance(source, Learner) else load(source, device="cpu")
    run = None if isinstance(source, Learner) else run_of(Path(source))
    given = plain(learner)
    license, origin = license_of(run, data_license), origin_of(run, learner)
    if to != "bundle":
        file = graph.PT2 if to == "torch-export" else graph.ONNX
        with _new(folder) as hidden:
            graph.write_graph(given, hidden, file, license=license, origin=origin)
            difference = graph.check_written(given, hidden, file)
        return Exported(folder, difference, [], license)
    if given.tokens is not None:
        text_bundle.check_text_bundle(given)
        with _new(folder) as hidden:
            text_bundle.write_text_bundle(given, hidden, license=license, origin=origin)
            difference = text_bundle.check_written(hidden)
        return Exported(folder, difference, [], license)
    bundle.check_bundle(given)
    tests = some_pictures(learner.data.valid, TEST_PICTURES) if pictures is None else list(pictures)
    with _new(folder) as hidden:
        written = bundle.write_bundle(given, hidden, pictures=tests, license=license, origin=origin)
        difference = bundle.check_written(hidden)
    return Exported(folder, difference, [path.name for path in written], license)


def check_form(to: str, folder: Path) -> None:
    """Refuse an unknown form, one without its packages, and a folder that cannot be made; raises `ConfigError`."""
    if to not in FORMS:
        raise ConfigError(f"a model is exported to one of {', '.join(FORMS)}, got {to!r}")
    if to == "onnx":
        graph.check_onnx()
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder; name another one, or remove it")
    if not (parent := folder.absolute().parent).is_dir():
        raise ConfigError(f"{folder} cannot be written: there is no folder {parent}; make it, or name another")


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A hidden folder beside its place, which gets its name when the block has ended without an error."""
    folder = folder.absolute()
    hidden = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        hidden.mkdir()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    try:
        yield hidden
        if folder.is_dir():
            folder.rmdir()
        hidden.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
