"""Samples that are decoded anew for every batch: for sets whose decoded form has no room on any disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from etude.data.build import BadFile, Codec, Report, look_at
from etude.data.files import relative_name
from etude.data.store import FileMark, Gathered, Incident, content_key, mark_files, store_key
from etude.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Int

_BLOCK = 8
"""Files that a thread decodes at a time."""


@final
class Unstored:
    """Files that stay files. Every one is decoded once beforehand, so that broken ones are known before training.

    Args:
        paths: the files, below `root`.
        root: what names are relative to.
        codec: how a file becomes values.
        report: told how far the work is.
        threads: that decode a batch; torch's own threads are another matter.

    Raises:
        DataError: no file can be used.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        root: Path,
        codec: Codec,
        *,
        report: Report | None = None,
        threads: int = os.cpu_count() or 1,
    ) -> None:
        paths = sorted(paths, key=lambda path: relative_name(path, root))
        looks = look_at(paths, root, codec, report)
        good = [i for i, look in enumerate(looks) if not isinstance(look, BadFile)]
        self.names = tuple(relative_name(paths[i], root) for i in good)
        self.shapes = torch.tensor([looks[i].shape for i in good])  # type: ignore[union-attr]  # bad ones are left out
        self.incidents = tuple(
            Incident(relative_name(path, root), "skipped", str(look))
            if isinstance(look, BadFile)
            else Incident(relative_name(path, root), look.outcome, look.reason)
            for path, look in zip(paths, looks, strict=True)
            if isinstance(look, BadFile) or look.outcome
        )
        marks = mark_files(paths, root)
        self.marks: dict[str, FileMark] = {mark.name: mark for mark in marks}
        self.key = store_key(marks, codec.config())
        self.device = torch.device("cpu")
        self._paths = [paths[i] for i in good]
        self._sizes = self.shapes.prod(1)
        self._codec = codec
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def content(self) -> str:
        """What tells these samples from any other: the name, size and ends of each one's file."""
        known = (self.marks[name] for name in self.names)
        return content_key(self.names, ((mark.size, mark.ends) for mark in known))

    def __len__(self) -> int:
        return len(self.names)

    def gather(self, rows: Int[Tensor, "batch"]) -> Gathered:
        """Decode some samples, in threads; raises `DataError` when a file has changed since it was looked at."""
        sizes = self._sizes[rows]
        ends = sizes.cumsum(0)
        values = torch.empty(int(ends[-1]), dtype=torch.uint8)
        out = values.numpy()
        shapes = self.shapes[rows]
        jobs = list(zip(rows.tolist(), (ends - sizes).tolist(), ends.tolist(), shapes.tolist(), strict=True))

        def decode(block: list[tuple[int, int, int, list[int]]]) -> None:
            for row, start, end, shape in block:
                try:
                    self._codec.decode(self._paths[row], out[start:end].reshape(shape))
                except BadFile as bad:
                    raise DataError(f"{self._paths[row]} changed since training began: it {bad}") from bad

        with self._codec.quietly():
            if self._pool is None:
                decode(jobs)
            else:
                list(self._pool.map(decode, [jobs[i : i + _BLOCK] for i in range(0, len(jobs), _BLOCK)]))
        return Gathered(values, ends - sizes, shapes)

    def fits(self, device: torch.device) -> bool:
        """Whether batches can be made without a copy to the device."""
        return device.type == "cpu"

    def on(self, device: torch.device) -> Unstored:
        """Itself: files have no place on a device."""
        return self
