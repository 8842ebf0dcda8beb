"""What a run's folder says of its training: which pictures, and how they were held out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude.vision.samples import PictureSet

_FEW = 3
"""Examples named in a line."""


class Trained:
    """What a run's folder says of its training."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._options: dict[str, Any] = config.get("options", {})
        self._data: dict[str, Any] = config.get("data", {})
        self._training: dict[str, Any] | None = config.get("training")

    @classmethod
    def of(cls, run: str) -> Trained:
        """From the folder of a run, or from a checkpoint in it; nothing is known of a model that lies elsewhere."""
        folder = Path(run).resolve()
        folder = folder.parent.parent if folder.parent.name == "checkpoints" else folder
        try:
            return cls(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return cls({})

    def is_on(self, data: str) -> bool:
        """Whether the run was trained on what is called so."""
        own = self._options.get("data")
        return own is not None and (own == data or _place(own) == _place(data))

    def mirrored(self) -> bool | None:
        """Whether training mirrored some of its pictures; None where nothing is known of it."""
        if self._training is None:
            return None
        return self._training.get("kind") == "pictures" and bool(self._options.get("flip"))

    def completed(
        self, valid_pct: float | None, split_seed: int | None, label: str | None, *, quiet: bool
    ) -> tuple[float | None, int | None, str | None]:
        """What was asked for, and for the rest what the training had; says what it took."""
        asked = {"valid_pct": valid_pct, "split_seed": split_seed, "label": label}
        taken = {name: self._options.get(name) for name, value in asked.items() if value is None}
        taken = {name: value for name, value in taken.items() if value is not None}
        both = asked | taken
        told = [name for name in taken if name != "split_seed" or both["valid_pct"] is not None]
        if told and not quiet:
            print("as in the training:", *(f"--{name.replace('_', '-')} {taken[name]}" for name in told), flush=True)
        return both["valid_pct"], both["split_seed"], both["label"]

    def trained_on(self, found: PictureSet, data: str, *, quiet: bool) -> int | None:
        """How many pictures were trained on, which it says; None where the data no longer gives what it gave."""
        from etude.errors import EtudeError

        if self._options.get("data") is None:
            return 0
        place = _place(found.root)
        # an archive lies in the cache by now
        own = place if self.is_on(data) else _place(self._options["data"])
        if not own.is_dir() or not (own.is_relative_to(place) or place.is_relative_to(own)):
            return 0
        try:
            train = self._files(own)
        except EtudeError:
            return None
        names = [found.store.names[row] for row in found.valid[0].tolist()]
        both = sorted(name for name in names if place / name in train)
        if both and not quiet:
            named = ", ".join(both[:_FEW]) + (", ..." if len(both) > _FEW else "")
            print(f"  note: {len(both)} of these pictures were trained on: {named}; new ones will do worse", flush=True)
        return len(both)

    def _files(self, root: Path) -> set[Path]:
        """The files of the training."""
        from etude.vision.finding import block_of

        fold = re.search(r"fold (\d+) of (\d+) held out", str(self._data.get("description")))
        block = block_of(
            root,
            self._options.get("valid_pct"),
            self._options.get("split_seed", 42),
            self._options.get("label"),
            split=None,
            fold=(int(fold[1]) - 1, int(fold[2])) if fold else None,
        )
        return {sample.path for sample in block.samples(root).train}


def _place(data: str | Path) -> Path:
    return Path(data).expanduser().resolve()
