"""The ragged store: samples of different sizes in one flat, memory-mapped tensor, decoded once.

A store is a folder that is never changed after it was made:

    values.bin           every sample's values, one after the other: pixels, or the ids of tokens
    index.safetensors    where each sample starts, its shape, and a checksum of its bytes
    store.json           names, what was noted of each file, and what the store was made of

Its name is a key of all that went into it: each file's path, size, time and a hash of its ends, and the codec's
settings. So a changed picture means another store, and nothing has to be compared when a store is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from etude.data.files import relative_name
from etude.errors import LoadError
from etude.types import Json

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped

FORMAT: Final = 1
_SHARE: Final = 0.4
"""A store moves to a GPU when it takes at most this share of what is free there."""
_END: Final = 4096
"""Bytes hashed at each end of a file; a file of up to twice that is hashed whole."""
_DTYPES: Final[dict[str, np.dtype[Any]]] = {"uint8": np.dtype(np.uint8), "int32": np.dtype(np.int32)}
"""Of pixels and of token ids; stores of older versions do not say that they hold pixels."""
_BLOCK: Final = 64
"""Files that a thread takes at a time."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class Incident(NamedTuple):
    """A file that was not taken as it was."""

    name: str
    outcome: str
    """"converted", "first frame", "skipped", "duplicate", or "leak" for pictures that a body was trained on."""
    reason: str


class FileMark(NamedTuple):
    """What tells one version of a file from another without reading all of it."""

    name: str
    """Relative to the root, with forward slashes."""
    size: int
    mtime_ns: int
    ends: str
    """Hash of its first and last bytes; empty when the file cannot be read."""


class Gathered(NamedTuple):
    """Some samples: flat values, where in them each sample begins, and its shape."""

    values: Tensor
    starts: Tensor
    shapes: Tensor


@dataclass(frozen=True, eq=False)
class RaggedStore:
    """Samples of different sizes in one flat tensor.

    Args:
        values: all samples' values, one after the other, (total,).
        starts: where each sample begins, (samples,).
        shapes: each sample's shape, (samples, rank).
        names: each sample's file, relative to the root, sorted.
        incidents: files that were not taken as they were, skipped ones included.
        marks: by name, what tells a file's version.
        folder: where it is kept; None in memory.
        checks: a checksum of each sample's bytes, (samples,).
    """

    values: Shaped[Tensor, "total"]
    starts: Int[Tensor, "samples"]
    shapes: Int[Tensor, "samples rank"]
    names: tuple[str, ...]
    incidents: tuple[Incident, ...] = ()
    marks: dict[str, FileMark] = field(default_factory=dict)
    folder: Path | None = None
    checks: Int[Tensor, "samples"] | None = None
    _placed: WeakValueDictionary[torch.device, RaggedStore] = field(
        default_factory=WeakValueDictionary, repr=False, compare=False
    )

    @property
    def content(self) -> str:
        """What tells these samples from any other: their names, and the checksum of each one's values."""
        return content_key(self.names, [] if self.checks is None else self.checks.tolist())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Shaped[Tensor, "..."]:
        """One sample, a view."""
        shape = self.shapes[i].tolist()
        start = int(self.starts[i])
        return self.values[start : start + int(np.prod(shape))].view(shape)

    @property
    def key(self) -> str:
        """What identifies its contents; empty in memory."""
        return self.folder.name if self.folder else ""

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    def gather(self, rows: Int[Tensor, "batch"]) -> Gathered:
        """The values of some samples, and where in them each one is."""
        return Gathered(self.values, self.starts.index_select(0, rows), self.shapes.index_select(0, rows))

    def fits(self, device: torch.device) -> bool:
        """Whether the values are on the device, or may move there: a GPU must have room for more than them."""
        if device in self._placed:
            return True
        if device.type == "cuda" and self.device != device:
            return self.values.nbytes <= _SHARE * torch.cuda.mem_get_info(device)[0]
        return device.type in ("cpu", "cuda")

    def on(self, device: torch.device) -> RaggedStore:
        """The same store with its values on a device; they move once, whoever asks, and go when nobody uses them."""
        if device == self.device:
            return self
        placed = self._placed.get(device)
        if placed is None:
            values, starts, shapes = (tensor.to(device) for tensor in (self.values, self.starts, self.shapes))
            placed = self._placed[device] = replace(self, values=values, starts=starts, shapes=shapes)
        return placed

    def damaged(self) -> list[str]:
        """The names of samples whose bytes are not those that were written; reads everything."""
        assert self.checks is not None
        return [name for i, name in enumerate(self.names) if checksum(self[i].numpy()) != int(self.checks[i])]


def mark_files(paths: Sequence[Path], root: Path) -> list[FileMark]:
    """What tells each file's version, in the order of the paths."""

    def mark(path: Path) -> FileMark:
        name = relative_name(path, root)
        try:
            # opening a pipe would wait for ever
            if not path.is_file():
                return FileMark(name, -1, 0, "")
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                digest = hashlib.blake2b(file.read(2 * _END if stat.st_size <= 2 * _END else _END), digest_size=12)
                if stat.st_size > 2 * _END:
                    file.seek(-_END, os.SEEK_END)
                    digest.update(file.read(_END))
                return FileMark(name, stat.st_size, stat.st_mtime_ns, digest.hexdigest())
        except OSError:
            return FileMark(name, -1, 0, "")

    return in_threads(mark, paths, None)


def content_key(names: Sequence[str], what: Iterable[object]) -> str:
    """What tells samples from any other by their names and content, wherever and whenever their files were written."""
    digest = hashlib.blake2b(json.dumps(list(names)).encode(), digest_size=16)
    for part in what:
        digest.update(str(part).encode())
    return digest.hexdigest()


def store_key(marks: Iterable[FileMark], config: dict[str, Json]) -> str:
    """The name of the store that these files and this codec make."""
    digest = hashlib.blake2b(json.dumps([FORMAT, config], sort_keys=True).encode(), digest_size=16)
    for mark in sorted(marks):
        digest.update(json.dumps(mark).encode())
    return digest.hexdigest()


def open_store(folder: Path) -> RaggedStore:
    """Map a store from its folder.

    Raises:
        LoadError: a file of it is missing, damaged or of another format.
    """
    try:
        description = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        index_bytes = (folder / "index.safetensors").read_bytes()
        index = load_file(folder / "index.safetensors")
        size = (folder / "values.bin").stat().st_size
        if description["format"] != FORMAT or description["bytes"] != size:
            expected = f"expected {FORMAT} and {description['bytes']} bytes"
            raise ValueError(f"format {description['format']} and {size} bytes of values; {expected}")
        if hashlib.sha256(index_bytes).hexdigest() != description["index"]:
            raise ValueError("the index was changed after it was written")
        return RaggedStore(
            _mapped(folder / "values.bin", size, _DTYPES[description.get("dtype", "uint8")]),
            index["starts"],
            index["shapes"],
            tuple(description["names"]),
            tuple(Incident(*incident) for incident in description["incidents"]),
            {mark[0]: FileMark(*mark) for mark in description["marks"]},
            folder,
            index["checks"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise LoadError(f"the decoded files in {folder} are damaged ({error}).") from error


def _mapped(path: Path, num_bytes: int, dtype: np.dtype[Any]) -> Tensor:
    """The file as a tensor, read as it is needed.

    The map is read-only: a writable one counts against the machine's memory, and a store larger than that could not
    be opened.
    """
    values = np.memmap(path, dtype, "r", shape=(num_bytes // dtype.itemsize,))
    with warnings.catch_warnings():
        # torch warns that nothing may be written into it; nothing is
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


def in_threads(function: Callable[[_T], _R], items: Sequence[_T], done: Callable[[int], None] | None) -> list[_R]:
    """`function` of every item, in order, in as many threads as there are cores."""

    def block(part: Sequence[_T]) -> list[_R]:
        return [function(item) for item in part]

    results: list[_R] = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for part in pool.map(block, [items[i : i + _BLOCK] for i in range(0, len(items), _BLOCK)]):
            results += part
            if done is not None:
                done(len(results))
    finally:
        # after an error or Ctrl-C, what has not begun is not begun
        pool.shutdown(cancel_futures=True)
    return results


def checksum(values: np.ndarray[Any, np.dtype[Any]]) -> int:
    """What tells whether a sample's bytes are those that were written."""
    return zlib.crc32(values.reshape(-1).data)
