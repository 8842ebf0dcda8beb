"""Checkpoints on disk: whole or not at all, hashed file by file, without pickle.

    RUN/checkpoints/
      step-00000148/                     in the middle of an epoch
      step-00000296-epoch-0002/          at the end of one
        model.safetensors  model.json    what `etude.load` reads
        state.safetensors  state.json    optimizer, callbacks, random generators, progress: what a resume needs
        manifest.json                    format, and the SHA-256 of every file, its own content included

A checkpoint is written into a hidden folder beside its place, every file is brought to the disk, and then the folder
gets its name in one step: a process that dies at any moment leaves either a whole checkpoint or none. One that takes
the place of another is named `...+new` until the other is gone, so that one of them is there at every moment. What is
read is hashed before it is used, so a file that was cut, changed, swapped, lost or added is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from etude.errors import ConfigError, LoadError
from etude.training.durable import can_write, sync_folder, write_tensors, write_text
from etude.training.guarded import check_header, parse_json, read_bytes
from etude.training.snapshot import Snapshot
from etude.training.trees import from_json, to_json
from etude.types import Json

FORMAT: Final = 2
MANIFEST: Final = "manifest.json"
FOLDER: Final = "checkpoints"
LOCK: Final = ".lock"
"""In a folder of checkpoints: held by the fit that fills it."""
_MODEL, _DESCRIPTION = "model.safetensors", "model.json"
_TENSORS, _STATE = "state.safetensors", "state.json"
_UNFINISHED, _REMOVED, _REPLACING = ".writing-", ".removed-", "+new"
_NAME: Final = re.compile(r"step-(\d+)(?:-epoch-(\d+))?(\+new)?")
_NOT_OURS: Final = {"Thumbs.db", "desktop.ini"}
"""Files that a system puts into any folder that somebody looks at; so are hidden ones."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    # before mixed precision and averages
    1: lambda state: {"precision": {}, "average": {}, **state, "settings": {"average": None, **state["settings"]}},
}
"""From a format to the next one: what the state of an older checkpoint needs to be read by this version."""


def name_of(snapshot: Snapshot) -> str:
    """Its folder's name."""
    step, epoch = snapshot.progress["step"], snapshot.progress["epoch"]
    return name_at(step, epoch) if snapshot.meter is None else name_at(step)


def name_at(step: int, epoch: int | None = None) -> str:
    """The name of the checkpoint after a step or, with an epoch, at the end of one."""
    return f"step-{step:08d}" + ("" if epoch is None else f"-epoch-{epoch:04d}")


def position_of(checkpoint: Path) -> tuple[int, int, bool] | None:
    """Step and epoch (-1 in the middle of one) by which checkpoints are in order; None for a folder that is none."""
    if (found := _NAME.fullmatch(checkpoint.name)) is None:
        return None
    return int(found[1]), int(found[2] or -1), found[3] is not None


def write(snapshot: Snapshot, folder: Path, description: dict[str, Json] | None) -> Path:
    """Write a checkpoint into the folder of checkpoints.

    Args:
        snapshot: what to keep.
        folder: which holds a run's checkpoints; made if it is missing.
        description: content of `model.json`; None for a model that cannot say how it was built.

    Returns:
        The checkpoint's own folder.

    Raises:
        OSError: the disk is full, or may not be written to; nothing is left of this checkpoint, and others stay.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    name = name_of(snapshot)
    unfinished = folder / f"{_UNFINISHED}{name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        _write_files(snapshot, unfinished, description)
        sync_folder(unfinished)
        _publish(unfinished, folder / name)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder / name


def check_can_keep(snapshot: Snapshot) -> None:
    """Refuse, before anything is trained, what no checkpoint could hold.

    Raises:
        ConfigError: naming the callback, or the part of the state, and what in it.
    """
    parts = [(field.name, getattr(snapshot, field.name)) for field in fields(Snapshot) if field.name != "callbacks"]
    for part, state in [*parts, *((name.partition("(")[0], state) for name, state in snapshot.callbacks)]:
        tensors: dict[str, Tensor] = {}
        to_json(state, tensors, part)
        for place, tensor in tensors.items():
            if not can_write(tensor):
                raise ConfigError(
                    f"{place} is a tensor of {tensor.dtype}, {tensor.layout}, which a checkpoint cannot keep"
                )


def _write_files(snapshot: Snapshot, folder: Path, description: dict[str, Json] | None) -> None:
    state = {field.name: getattr(snapshot, field.name) for field in fields(Snapshot)}
    # what predicts is the average, if there is one; the weights that are trained then stand with the rest of the state
    kept = "average" if snapshot.average else "model"
    whole = snapshot.average["weights"] if snapshot.average else snapshot.model
    weights = {name: value for name, value in whole.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in whole.items() if name not in weights}
    state[kept] = {**snapshot.average, "weights": rest} if snapshot.average else rest
    state["weights"] = list(whole)
    tensors: dict[str, Tensor] = {}
    text = json.dumps(to_json(state, tensors), allow_nan=False)
    digests = {
        _MODEL: write_tensors(weights, folder / _MODEL),
        _TENSORS: write_tensors(tensors, folder / _TENSORS),
        _STATE: write_text(text, folder / _STATE),
    }
    if description is not None:
        digests[_DESCRIPTION] = write_text(json.dumps(description), folder / _DESCRIPTION)
    about = {
        "format": FORMAT,
        "torch": str(torch.__version__),
        "step": snapshot.progress["step"],
        "epoch": snapshot.progress["epoch"],
        "results": snapshot.rows[-1] if snapshot.rows and snapshot.meter is None else {},
        "files": digests,
    }
    manifest = to_json(about, {})
    assert isinstance(manifest, dict)
    write_text(json.dumps({**manifest, "sha256": _digest_of(manifest)}, indent=2), folder / MANIFEST)


def _publish(unfinished: Path, place: Path) -> None:
    """Give a finished checkpoint its name, in place of an older one of the same step if there is one."""
    if os.path.lexists(place):
        replacing = place.with_name(place.name + _REPLACING)
        if replacing.exists():
            _take_place(replacing)
        unfinished.rename(replacing)
        sync_folder(place.parent)
        _take_place(replacing)
    else:
        unfinished.rename(place)
    sync_folder(place.parent)


def _take_place(replacing: Path) -> None:
    """Remove the checkpoint that another one replaces, if that is still there."""
    place = replacing.with_name(replacing.name.removesuffix(_REPLACING))
    if os.path.lexists(place):
        remove(place)
    replacing.rename(place)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; at no moment is there half of one under its name."""
    hidden = checkpoint.with_name(f"{_REMOVED}{checkpoint.name}")
    _discard(hidden)
    checkpoint.rename(hidden)
    _discard(hidden)


def _discard(path: Path) -> None:
    """Remove a folder, or a file or link in its place; what cannot be removed now is left for the next time."""
    if path.is_symlink() or path.is_file():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Clear what a process that was killed left half written, half removed or half replaced."""
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith((_UNFINISHED, _REMOVED)):
            _discard(path)
        elif (position := position_of(path)) is not None and position[2]:
            if os.path.lexists(path.with_name(path.name.removesuffix(_REPLACING))) and not is_whole(path):
                remove(path)
            else:
                _take_place(path)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    found = {path: position_of(path) for path in (folder.iterdir() if folder.is_dir() else ())}
    placed = [(position, path) for path, position in found.items() if position is not None and path.is_dir()]
    return [path for _, path in sorted(placed, reverse=True)]


def read_newest(path: str | os.PathLike[str], *, say: Callable[[str], object] = print) -> Snapshot:
    """The newest checkpoint that is whole.

    Args:
        path: a checkpoint, a folder of several, or a run.
        say: called with a line for each one that is damaged and passed over.

    Raises:
        LoadError: there is none, or the named checkpoint is damaged.
    """
    place = Path(path)
    if (place / MANIFEST).exists() or position_of(place) is not None:
        return read(place)
    folder = place / FOLDER if (place / FOLDER).is_dir() else place
    for _, snapshot in good_ones(folder, say=say):
        return snapshot
    damaged = checkpoints(folder)
    raise LoadError(
        f"none of the {len(damaged)} checkpoints in {folder} is whole"
        if damaged
        else f"{place} holds no checkpoint; expected a folder of a run, or step-... folders"
    )


def good_ones(folder: Path, *, say: Callable[[str], object]) -> Iterator[tuple[Path, Snapshot]]:
    """The checkpoints of a folder that are whole, newest first, each read when it is asked for."""
    for path in checkpoints(folder):
        try:
            yield path, read(path)
        except LoadError as error:
            say(f"{error}; trying the one before it")


def read(checkpoint: Path) -> Snapshot:
    """Read one checkpoint; every byte is hashed before it is used.

    Raises:
        LoadError: naming the file that is missing or damaged, or the newer format.
    """
    manifest = _manifest(checkpoint)
    files = {name: _read_file(checkpoint / name, digest) for name, digest in manifest["files"].items()}
    try:
        for name in (_MODEL, _TENSORS):
            check_header(files[name][:8], len(files[name]))
        weights, tensors = (safetensors.torch.load(files[name]) for name in (_MODEL, _TENSORS))
        state = from_json(parse_json(files[_STATE]), tensors)
        for older in range(manifest["format"], FORMAT):
            state = UPGRADES[older](state)
        extra, names = state["average"]["weights"] if state["average"] else state["model"], state.pop("weights")
        if unknown := sorted(set(weights) - set(names)):
            raise LoadError(f"{_MODEL} holds {unknown[:5]}, which the state does not know")
        whole = {name: weights[name] if name in weights else extra[name] for name in names}
        state |= {"average": {**state["average"], "weights": whole}} if state["average"] else {"model": whole}
        return Snapshot.of(state)
    except (LoadError, KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise LoadError(f"the checkpoint {checkpoint} cannot be read: {error}") from error


def verify(checkpoint: Path) -> None:
    """Hash every file of a checkpoint; raises `LoadError` that names the one that is missing or damaged."""
    for name, digest in _manifest(checkpoint)["files"].items():
        _read_file(checkpoint / name, digest)


def is_whole(checkpoint: Path) -> bool:
    """Whether `verify` finds nothing."""
    try:
        verify(checkpoint)
    except LoadError:
        return False
    return True


def _manifest(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's manifest, checked against its own digest and against the files that are there."""
    path = checkpoint / MANIFEST
    try:
        manifest: dict[str, Any] = parse_json(_read_bytes(path))
        digest = manifest.pop("sha256")
        whole = digest == _digest_of(manifest)
        number, files = manifest["format"], manifest["files"].keys()
        newer, upgrades = number > FORMAT, range(number, FORMAT)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(f"the checkpoint {checkpoint} is damaged: {MANIFEST} cannot be read ({error})") from error
    if not whole:
        raise LoadError(f"the checkpoint {checkpoint} is damaged: {MANIFEST} does not match its own digest")
    if newer:
        raise LoadError(
            f"the checkpoint {checkpoint} has format {number}, this version of etude reads up to {FORMAT}; "
            "a newer one wrote it"
        )
    if any(older not in UPGRADES for older in upgrades):
        raise LoadError(f"the checkpoint {checkpoint} has format {number}, which this version of etude cannot read")
    needed = {_MODEL, _TENSORS, _STATE}
    if wrong := (needed - files) | (files - needed - {_DESCRIPTION}):
        raise LoadError(f"the checkpoint {checkpoint} is damaged: {MANIFEST} does not name the files of one: {wrong}")
    for name in sorted(found.name for found in checkpoint.iterdir()):
        if name not in files and name not in {MANIFEST, *_NOT_OURS} and not name.startswith("."):
            raise LoadError(f"the checkpoint {checkpoint} is damaged: {name} was added to it")
    return manifest


def _read_file(path: Path, digest: str) -> bytes:
    data = _read_bytes(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise LoadError(f"the checkpoint {path.parent} is damaged: {path.name} is not what was written (SHA-256)")
    return data


def _read_bytes(path: Path) -> bytes:
    if not os.path.lexists(path):
        raise LoadError(f"the checkpoint {path.parent} is damaged: {path.name} is missing")
    try:
        return read_bytes(path, path.parent)
    except LoadError as error:
        raise LoadError(f"the checkpoint {path.parent} is damaged: {error}") from error


def _digest_of(manifest: Any) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
