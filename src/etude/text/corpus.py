"""Texts, wherever they come from: what they are called, how they are read, and what the source says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

from etude.data.build import BadFile
from etude.text.reading import Plain
from etude.types import Json

Stream: TypeAlias = Callable[[Sequence[int]], Iterator[Plain | BadFile]]
"""The texts at some positions, which ascend, one after the other; or why one cannot be used."""


@final
@dataclass(frozen=True)
class Corpus:
    """Texts that can be read as often as they are needed; those in files are not kept in memory.

    Args:
        root: what names are relative to.
        names: of each text: its file, or its file and its place in there, counted from 1.
        stream: reads them.
        description: what they are, in words.
        files: that they are in.
        labels: of each text, where they were asked for.
        sides: True for validation, False for training, None to leave a text out; None where the source does not say.
        config: all that the texts depend on besides the files.
        notes: what is odd about them, in words.
    """

    root: Path
    names: tuple[str, ...]
    stream: Stream
    description: str
    files: tuple[Path, ...] = ()
    labels: tuple[str, ...] | None = None
    sides: tuple[bool | None, ...] | None = None
    config: tuple[Json, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> Sequence[Path]:
        """Where each text is, in form: a text within a file has the path of a file in a folder."""
        return self.files if self.in_files else [self.root / name for name in self.names]

    @property
    def place(self) -> str:
        """Where the texts are, in words."""
        if not self.files:
            return self.description
        return f"{self.root} ({self.description})" if self.in_files or len(self.files) > 1 else str(self.files[0])

    @property
    def in_files(self) -> bool:
        """Whether each text is a file of its own."""
        return bool(self.names) and self.files[:1] == (self.root / self.names[0],)
