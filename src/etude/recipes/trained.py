"""What a run's folder says of its training: which pictures, and how they were held out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.runs.files import mapping, read_object, text

if TYPE_CHECKING:
    from etude.data.block import Samples
    from etude.vision.samples import PictureSet

_FEW = 3
"""Examples named in a line."""


class Trained:
    """What a run's folder says of its training."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._options = mapping(config.get("options"))
        self._data = mapping(config.get("data"))
        self._training: dict[str, Any] | None = config.get("training")

    @classmethod
    def of(cls, run: str) -> Trained:
        """From the folder of a run, or from a checkpoint in it; nothing is known of a model that lies elsewhere."""
        folder = Path(run).resolve()
        folder = folder.parent.parent if folder.parent.name == "checkpoints" else folder
        config = mapping(read_object(folder / "config.json")[0])
        options = mapping(config.get("options"))
        cwd = text(read_object(folder / "environment.json")[0].get("cwd"))
        own = text(options.get("data"))
        if own and cwd and not Path(own).exists() and (Path(cwd) / own).exists():
            # a path as it was meant where the run was started
            options["data"] = str(Path(cwd) / own)
        return cls(config)

    @property
    def source(self) -> str | None:
        """The folder, archive or known data set that the run was trained on, as it was named."""
        return text(self._options.get("data")) or None

    @property
    def fold(self) -> tuple[int, int] | None:
        """(which, of how many) was held out, counted from 0; None for a run that is not part of a cross-validation."""
        fold = re.search(r"fold (\d+) of (\d+) held out", str(self._data.get("description")))
        return (int(fold[1]) - 1, int(fold[2])) if fold else None

    @property
    def kind(self) -> str:
        """What was trained on: "pictures", "whole pictures" or "digits"; empty where it is not known."""
        return text(mapping(self._training).get("kind"))

    @property
    def several(self) -> bool:
        """Whether it was said that a picture may have several labels."""
        return bool(self._options.get("several"))

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
        return {sample.path for sample in self.samples(root).train}

    def samples(self, root: Path) -> Samples:
        """The files of the training in its folder, and those that it held out; raises `DataError` where it changed."""
        from etude.vision.finding import block_of

        block = block_of(
            root,
            self._options.get("valid_pct"),
            self._options.get("split_seed", 42),
            self._options.get("label"),
            split=None,
            fold=self.fold,
            several=self.several,
            numbers=self._options.get("target") == "number",
        )
        return block.samples(root)


def _place(data: str | Path) -> Path:
    return Path(data).expanduser().resolve()
