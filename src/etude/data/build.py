"""Make a ragged store: decode every file once, in parallel, and keep the result for later and concurrent runs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from etude.data import cache
from etude.data.files import relative_name
from etude.data.store import (
    FORMAT,
    FileMark,
    Incident,
    RaggedStore,
    checksum,
    in_threads,
    mark_files,
    open_store,
    store_key,
)
from etude.errors import DataError, LoadError
from etude.types import Json

if TYPE_CHECKING:
    from jaxtyping import Int

Report: TypeAlias = Callable[[str, int, int], None]
"""(what is being done, how many are done, of how many)"""
_R = TypeVar("_R")


class BadFile(DataError):
    """A file that a codec cannot use; the message is the reason, without the file's name."""


class Scan(NamedTuple):
    """What a codec says of a file before it decodes it."""

    shape: tuple[int, ...]
    outcome: str = ""
    """What will be done that is not a matter of course; empty for most files."""
    reason: str = ""


@runtime_checkable
class Codec(Protocol):
    """From files to arrays: the part of a store that knows what the files are."""

    def config(self) -> dict[str, Json]:
        """Everything that the decoded values depend on, besides the file."""
        ...

    def quietly(self) -> AbstractContextManager[None]:
        """What is open while files are scanned and decoded, in the calling thread."""
        ...

    def scan(self, path: Path) -> Scan:
        """The shape that `decode` will fill; raises `BadFile`."""
        ...

    def decode(self, path: Path, out: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Fill an array of the shape that `scan` told; raises `BadFile`."""
        ...


def open_or_build(
    paths: Sequence[Path], root: Path, codec: Codec, *, report: Report | None = None, say: Callable[[str], None] = print
) -> RaggedStore:
    """The store of these files: found in the cache, or decoded into it.

    Several processes may ask at once: one builds, the others wait and use what it built.

    Args:
        paths: the files, below `root`.
        root: what names are relative to.
        codec: how a file becomes values.
        report: told how far the work is.
        say: told what is about to happen.

    Raises:
        DataError: no file can be used, or the disk has no room.
    """
    marks = mark_files(paths, root)

    def make(part: Path) -> None:
        in_order = sorted(paths, key=lambda path: relative_name(path, root))
        with codec.quietly():
            _build(part, in_order, root, codec, marks, report or _silent)

    return kept(store_key(marks, codec.config()), open_store, make, say)


def kept(
    key: str, open_folder: Callable[[Path], _R], make: Callable[[Path], None], say: Callable[[str], None] = print
) -> _R:
    """What a folder of the cache holds: found there, or made first.

    Several processes may ask at once: one makes it, the others wait. A folder appears whole or not at all; what an
    interrupted process left is removed, and made anew.

    Args:
        key: the folder's name, a key of all that goes into it.
        open_folder: raises `LoadError` for a damaged folder, which is then made anew.
        make: fills an empty folder.
        say: told what is about to happen.

    Raises:
        DataError: the disk has no room.
    """
    folder = cache.home() / "stores" / key
    if (found := _whole(folder, open_folder, say)) is not None:
        return found
    with cache.lock(folder, waiting=say):
        # another process may have made it meanwhile
        if _whole(folder, open_folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
            with _part_of(folder) as part:
                make(part)
    return open_folder(folder)


def _whole(folder: Path, open_folder: Callable[[Path], _R], say: Callable[[str], None] | None = None) -> _R | None:
    """What a folder holds; None where there is none, or a damaged one, which is said and will be made anew."""
    if not folder.is_dir():
        return None
    try:
        return open_folder(folder)
    except LoadError as error:
        if say is not None:
            say(f"{error} It is made anew.")
        return None


def look_at(paths: Sequence[Path], root: Path, codec: Codec, report: Report | None) -> list[Scan | BadFile]:
    """Scan and decode every file without keeping it: what each is, or why it cannot be used.

    Raises:
        DataError: no file can be used.
    """

    def look(path: Path) -> Scan:
        scan = codec.scan(path)
        codec.decode(path, np.empty(scan.shape, np.uint8))
        return scan

    report = report or _silent
    with codec.quietly():
        looks = in_threads(_guarded(look), paths, lambda done: report("looking at files", done, len(paths)))
    _refuse_nothing(looks, [relative_name(path, root) for path in paths], root)
    return looks


@contextmanager
def _part_of(folder: Path) -> Iterator[Path]:
    """A temporary folder, which takes its name when all is on disk."""
    # only the holder of the lock is here: what lies there was left by a process that was killed
    for left in folder.parent.glob(f"{folder.name}.part-*"):
        shutil.rmtree(left, ignore_errors=True)
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        part.mkdir()
        yield part
        part.replace(folder)
    except (OSError, SafetensorError) as error:
        raise DataError(f"the decoded files cannot be kept in {folder.parent}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _build(part: Path, paths: Sequence[Path], root: Path, codec: Codec, marks: list[FileMark], report: Report) -> None:
    """Decode every file into a folder."""
    names = [relative_name(path, root) for path in paths]
    scans = in_threads(_guarded(codec.scan), paths, lambda done: report("reading sizes", done, len(paths)))
    sizes = np.array([0 if isinstance(scan, BadFile) else int(np.prod(scan.shape)) for scan in scans], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    _refuse_nothing(scans, names, root)
    cache.check_space(part.parent, int(starts[-1]), "the decoded files")
    _reserve(part / "values.bin", int(starts[-1]))
    values = np.memmap(part / "values.bin", np.uint8, "r+", shape=(int(starts[-1]),))

    def decode(i: int) -> int | BadFile:
        scan = scans[i]
        if isinstance(scan, BadFile):
            return scan
        out = values[starts[i] : starts[i + 1]].reshape(scan.shape)
        done = _guarded(lambda path: codec.decode(path, out))(paths[i])
        return done if isinstance(done, BadFile) else checksum(out)

    checks = in_threads(decode, range(len(paths)), lambda done: report("decoding", done, len(paths)))
    _refuse_nothing(checks, names, root)
    values.flush()
    del values
    _describe(part, names, scans, checks, starts, codec, marks)


def _reserve(path: Path, size: int) -> None:
    """A file of this size whose room on the disk is taken: writing to a map of a full disk would kill the process."""
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:
            # Windows, macOS and some file systems have no such call; the free space was looked at before
            if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            file.truncate(size)


def _describe(
    part: Path,
    names: list[str],
    scans: Sequence[Scan | BadFile],
    checks: Sequence[int | BadFile],
    starts: np.ndarray[Any, np.dtype[np.int64]],
    codec: Codec,
    marks: list[FileMark],
) -> None:
    """Write the index and the description; samples that could not be decoded leave a hole that nothing points to."""
    incidents = []
    for name, scan, check in zip(names, scans, checks, strict=True):
        if isinstance(check, BadFile):
            incidents.append(Incident(name, "skipped", str(check)))
        elif isinstance(scan, Scan) and scan.outcome:
            incidents.append(Incident(name, scan.outcome, scan.reason))
    good = [(i, scan, check) for i, (scan, check) in enumerate(zip(scans, checks, strict=True)) if _usable(scan, check)]
    write_description(
        part,
        names=[names[i] for i, _, _ in good],
        starts=torch.tensor([int(starts[i]) for i, _, _ in good]),
        shapes=torch.tensor([scan.shape for _, scan, _ in good if isinstance(scan, Scan)]),
        checks=torch.tensor([check for _, _, check in good]),
        incidents=incidents,
        marks=marks,
        codec=codec.config(),
    )


def write_description(
    part: Path,
    *,
    names: Sequence[str],
    starts: Int[Tensor, "samples"],
    shapes: Int[Tensor, "samples rank"],
    checks: Int[Tensor, "samples"],
    incidents: Sequence[Incident],
    marks: Sequence[FileMark],
    codec: dict[str, Json],
    dtype: str = "uint8",
) -> None:
    """Write the index and the description of the values in a folder; see `RaggedStore` for what they hold."""
    save_file({"starts": starts, "shapes": shapes, "checks": checks}, part / "index.safetensors")
    description = {
        "format": FORMAT,
        "bytes": (part / "values.bin").stat().st_size,
        "dtype": dtype,
        "index": hashlib.sha256((part / "index.safetensors").read_bytes()).hexdigest(),
        "codec": codec,
        "names": names,
        "incidents": incidents,
        "marks": marks,
    }
    with (part / "store.json").open("w", encoding="utf-8") as file:
        # a file's name may hold bytes that are no text, which JSON can only keep escaped
        json.dump(description, file)
        file.flush()
        os.fsync(file.fileno())


def _usable(scan: Scan | BadFile, check: int | BadFile) -> bool:
    return not isinstance(scan, BadFile) and not isinstance(check, BadFile)


def _refuse_nothing(results: Sequence[object], names: list[str], root: Path) -> None:
    """Raise when no file is left."""
    if all(isinstance(result, BadFile) for result in results):
        first = f": {names[0]} {results[0]}" if names else ""
        raise DataError(f"none of the {len(names)} files in {root} can be used{first}")


def _guarded(function: Callable[[Path], _R]) -> Callable[[Path], _R | BadFile]:
    """The function with a bad file as a value, so that one file does not end the work on the others."""

    def guarded(path: Path) -> _R | BadFile:
        try:
            return function(path)
        except BadFile as bad:
            return bad

    return guarded


def _silent(what: str, done: int, total: int) -> None:
    """Report nothing."""
