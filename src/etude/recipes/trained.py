"""What a run's folder says of its training: which pictures or texts, and how they were held out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.runs.files import mapping, read_object, text

if TYPE_CHECKING:
    from etude.data.block import Samples
    from etude.data.loaders import DataLoaders
    from etude.recipes.options import DataOptions, ModelOptions
    from etude.vision.samples import PictureSet

_FEW = 3
"""Examples named in a line."""


class Trained:
    """What a run's folder says of its training."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self._folder = folder
        self._options = mapping(config.get("options"))
        self._data = mapping(config.get("data"))
        self._training: dict[str, Any] | None = config.get("training")
        self._body = mapping(config.get("body"))

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
        return cls(config, folder)

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
        """What was trained: of pictures "pictures", "whole pictures" or "digits"; of texts "language model" or "text
        classifier"; empty where it is not known."""
        return text(mapping(self._training).get("kind"))

    @property
    def several(self) -> bool:
        """Whether it was said that a picture may have several labels."""
        return bool(self._options.get("several"))

    @property
    def text_column(self) -> str | None:
        """The column of a table that held the texts, where that was said."""
        return text(self._options.get("text_column")) or None

    def _option(self, name: str, is_good: Callable[[Any], bool], expected: str) -> Any:
        """What the training was told, or None; raises `LoadError` for what no training can have been told."""
        from etude.errors import LoadError

        found = self._options.get(name)
        if found is not None and not is_good(found):
            raise LoadError(f"{self._folder / 'config.json'} says {name}={found!r:.60}; expected {expected}")
        return found

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
        own = {
            "valid_pct": self._option(
                "valid_pct", lambda value: type(value) is float and 0 < value < 1, "a share such as 0.2"
            ),
            "split_seed": self._option("split_seed", lambda value: type(value) is int, "a whole number"),
            "label": self._option("label", lambda value: isinstance(value, str), "a text"),
        }
        asked = {"valid_pct": valid_pct, "split_seed": split_seed, "label": label}
        taken = {name: own[name] for name, value in asked.items() if value is None and own[name] is not None}
        both = asked | taken
        told = [name for name in taken if name != "split_seed" or both["valid_pct"] is not None]
        if told and not quiet:
            print("as in the training:", *(f"--{name.replace('_', '-')} {taken[name]}" for name in told), flush=True)
        return both["valid_pct"], both["split_seed"], both["label"]

    def trained_on(self, found: PictureSet, data: str, *, quiet: bool) -> int | None:
        """How many pictures were trained on, which it says; None where the data no longer gives what it gave."""
        both = self.among([found.store.names[row] for row in found.valid[0].tolist()], found.root, data)
        if both and not quiet:
            told = f"{len(both)} of these pictures were trained on: {_named(both)}; new ones will do worse"
            print(f"  note: {told}", flush=True)
        return None if both is None else len(both)

    def among(self, names: Sequence[str], root: Path, data: str) -> list[str] | None:
        """Which pictures were trained on, by their paths below a root; None where the data gives other ones now.

        Args:
            names: of the pictures.
            root: the folder that `data` lies in.
            data: what it is called.
        """
        from etude.errors import EtudeError

        if self._options.get("data") is None:
            return []
        place = _place(root)
        # an archive lies in the cache by now
        own = place if self.is_on(data) else _place(self._options["data"])
        if not own.is_dir() or not (own.is_relative_to(place) or place.is_relative_to(own)):
            return []
        try:
            train = self._files(own)
        except EtudeError:
            return None
        return sorted(name for name in names if place / name in train)

    @property
    def body(self) -> str | None:
        """The run that its body came from, if it came from one."""
        return text(self._body.get("from")) or None

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


def with_leaks_told(loaders: DataLoaders, model: ModelOptions, data: DataOptions, *, quiet: bool) -> DataLoaders:
    """The same pictures, with an incident where the body was trained on some that are held out here."""
    from etude.data.store import Incident
    from etude.vision.finding import folder_of
    from etude.vision.pictures import PictureLoader

    source = model.pretrained or model.arch
    if data.data is None or not Path(source).is_dir() or not isinstance(loaders.valid, PictureLoader):
        return loaders
    names = loaders.valid.names
    seen = seen_by_body(source, names, folder_of(data.data, progress=False), data.data)
    if not seen:
        return loaders
    told = told_of(seen, len(names))
    if not quiet:
        print(f"  note: {told}", flush=True)
    return replace(loaders, incidents=(*loaders.incidents, Incident(source, "leak", told)))


def seen_by_body(body: str, names: Sequence[str], root: Path, data: str) -> list[str]:
    """Which pictures a body was trained on, or the body that it came from, as far back as the runs are there."""
    seen: set[str] = set()
    known: set[Path] = set()
    run: str | None = body
    while run is not None and Path(run).exists() and _place(run) not in known:
        known.add(_place(run))
        trained = Trained.of(run)
        seen.update(trained.among(names, root, data) or ())
        run = trained.body
    return sorted(seen)


def told_of(seen: Sequence[str], total: int) -> str:
    """What a body has seen of held-out pictures, in words."""
    return (
        f"{len(seen)} of the {total} held-out pictures were trained on by the body ({_named(seen)}), so the accuracy "
        "will look better than it is; hold out what its training held out: the same --valid-pct and --split-seed"
    )


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (", ..." if len(names) > _FEW else "")


def _place(data: str | Path) -> Path:
    return Path(data).expanduser().resolve()
