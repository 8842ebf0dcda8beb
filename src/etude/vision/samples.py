"""A set of stored pictures with their numbers and targets, and what is odd about it, in words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from etude.data.block import DataBlock, Samples
from etude.data.duplicates import Duplicate, shared_files
from etude.data.files import relative_name
from etude.data.incidents import incident_lines
from etude.data.items import Sample, noisy_labels
from etude.data.store import Incident, RaggedStore
from etude.data.unstored import Unstored
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.output import plain
from etude.regression import Numbers
from etude.types import Json

_TOO_MANY = 0.5
_LOST = 0.01
"""Of the deviation of numbers: a larger rounding error makes other numbers of them."""
_FEW = 3
"""Examples named in a line."""


@dataclass(frozen=True)
class PictureSet:
    """Stored pictures, split and labeled.

    Args:
        root: the folder of the data.
        description: a line that says what this is.
        store: the decoded pictures.
        train: rows of the store, and their targets: class numbers, one column per class for several labels, or numbers.
        valid: likewise.
        vocab: the classes; None where the targets are numbers.
        incidents: what was not taken as it was, file by file.
        notes: what is odd about the data, in words.
        num_files: how many were asked for.
    """

    root: Path
    description: str
    store: RaggedStore | Unstored
    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    vocab: Vocab | None
    incidents: tuple[Incident, ...]
    notes: tuple[str, ...]
    num_files: int

    @property
    def several_labels(self) -> bool:
        """Whether a picture may have several classes."""
        return self.vocab is not None and self.valid[1].ndim == 2

    @property
    def numbers(self) -> Numbers | None:
        """Of the training targets, where they are numbers."""
        return Numbers.of(self.train[1]) if self.vocab is None else None

    @property
    def skipped(self) -> list[Incident]:
        """The pictures that could not be read."""
        return [incident for incident in self.incidents if incident.outcome == "skipped"]

    def refuse_bad(self, *, stop: bool) -> None:
        """Raise `DataError` when pictures cannot be read and the user wants to stop, or when most cannot be read."""
        skipped = self.skipped
        named = "; ".join(f"{incident.name} {incident.reason}" for incident in skipped[:_FEW])
        more = f"; and {len(skipped) - _FEW} more" if len(skipped) > _FEW else ""
        if skipped and stop:
            raise DataError(
                f"{len(skipped)} of {self.num_files} pictures in {self.root} cannot be used: {named}{more}. Repair "
                "them, take them out, or go on without them: on_bad_data='skip'."
            )
        if len(skipped) > _TOO_MANY * self.num_files:
            raise DataError(
                f"{len(skipped)} of {self.num_files} pictures in {self.root} cannot be used: {named}{more}. That is "
                "more than half: something else must be wrong."
            )

    def summary(self) -> Iterator[str]:
        """What was taken, in lines for a terminal."""
        yield from map(plain, self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.description
        yield from incident_lines(self.incidents)
        for note in self.notes:
            yield f"  note: {note}"

    def identity(self) -> dict[str, Json]:
        """What tells this data from any other: its pixels, and which pictures have which labels on which side."""
        digest = hashlib.blake2b(digest_size=16)
        for rows, targets in (self.train, self.valid):
            digest.update(rows.numpy().tobytes() + targets.numpy().tobytes())
        return {
            "store": self.store.content,
            "labels": digest.hexdigest(),
            "train": len(self.train[0]),
            "valid": len(self.valid[0]),
            "classes": None if self.vocab is None else list(self.vocab),
        }


def picture_set(
    root: Path,
    block: DataBlock,
    samples: Samples,
    store: RaggedStore | Unstored,
    *,
    vocab: Vocab | None = None,
    label_noise: float = 0.0,
    seed: int = 42,
) -> PictureSet:
    """Find each sample's picture in the store, and number the labels.

    Samples whose picture could not be read are left out; their incidents stay.

    Args:
        root: what the store's names are relative to.
        block: what made the samples: its description, and whether their labels are numbers.
        samples: the files with their labels.
        store: the decoded pictures.
        vocab: the classes; None takes those of the training samples.
        label_noise: the share of training labels made wrong on purpose.
        seed: which ones.

    Raises:
        DataError: no picture is left, or a label is not among the classes.
    """
    row = {name: i for i, name in enumerate(store.names)}
    train, valid = ([sample for sample in part if relative_name(sample.path, root) in row] for part in samples[:2])
    if not train and vocab is None and not (block.numbers and valid):
        raise DataError(f"no training picture in {root} can be read; {len(store.incidents)} files are bad")
    if block.numbers:
        _refuse_lost_digits(train)
    else:
        vocab = vocab or Vocab.of(name for sample in train for name in _labels(sample))
    notes = list(samples.notes)
    if label_noise:
        train, changed = noisy_labels(train, label_noise, list(_classes(vocab)), root=root, seed=seed)
        notes.append(f"{len(changed)} of {len(train)} training labels were made wrong on purpose (label_noise)")
    several = vocab is not None and any(isinstance(sample.label, tuple) for sample in (*train, *valid))

    def placed(part: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor([row[relative_name(sample.path, root)] for sample in part], dtype=torch.long)
        return rows, _targets(part, vocab, store.incidents, several=several)

    sides, twins = (placed(train), placed(valid)), _twins(root, train, valid, store)
    of = _spread(sides[0 if train else 1][1]) if vocab is None else f"of {len(vocab)} classes"
    return PictureSet(
        root,
        f"{_counted(train, valid)} {of} ({block.description})",
        store,
        *sides,
        vocab,
        (*store.incidents, *(_incident(twin) for twin in twins)),
        (*notes, *_told(twins)),
        len(samples.train) + len(samples.valid),
    )


def _classes(vocab: Vocab | None) -> Vocab:
    if vocab is None:
        raise ConfigError("label_noise makes labels of other classes, and numbers have none; leave it out")
    return vocab


def _counted(train: Sequence[Sample], valid: Sequence[Sample]) -> str:
    return f"{len(train)} train and {len(valid)} valid pictures" if train else f"{len(valid)} pictures"


def _twins(
    root: Path, train: Sequence[Sample], valid: Sequence[Sample], store: RaggedStore | Unstored
) -> list[Duplicate]:
    names, others = ([relative_name(sample.path, root) for sample in part] for part in (train, valid))
    return shared_files(names, others, store.marks, root)


def _incident(twin: Duplicate) -> Incident:
    return Incident(twin.valid, "duplicate", f"also in training: as {twin.train}")


def _told(twins: Sequence[Duplicate]) -> Iterator[str]:
    if twins:
        named = ", ".join(f"{twin.valid} = {twin.train}" for twin in twins[:_FEW])
        yield (
            f"{len(twins)} validation pictures are training pictures too ({named}): the results will look better than "
            "they are. Remove one of each pair."
        )


def _labels(sample: Sample) -> tuple[str, ...]:
    return (sample.label,) if isinstance(sample.label, str) else sample.label


def _targets(samples: Sequence[Sample], vocab: Vocab | None, incidents: Sequence[Incident], *, several: bool) -> Tensor:
    """Class numbers, for several labels 0 and 1 for each class, or where there are no classes numbers."""
    if vocab is None:
        return _exact(samples).float()
    try:
        numbers = [[vocab.number(name, source=str(sample.path)) for name in _labels(sample)] for sample in samples]
    except DataError as error:
        bad = [f"{name} {reason}" for name, outcome, reason in incidents if outcome == "skipped"]
        more = f" {len(bad)} pictures cannot be used, so their classes may be missing: {'; '.join(bad[:_FEW])}."
        raise DataError(f"{error}{more if bad else ''}") from error
    if not several:
        return torch.tensor([number for (number,) in numbers], dtype=torch.long)
    targets = torch.zeros(len(samples), len(vocab))
    for i, present in enumerate(numbers):
        targets[i, present] = 1
    return targets


def _exact(samples: Sequence[Sample]) -> Tensor:
    """The labels as numbers (samples, numbers), in float64, so that each is rounded once to float32."""
    return torch.tensor([[float(part) for part in _labels(sample)] for sample in samples], dtype=torch.float64)


def _refuse_lost_digits(samples: Sequence[Sample]) -> None:
    """Refuse numbers that differ in digits that 32 bits do not hold; raises `DataError`."""
    for values in _exact(samples).T if samples else ():
        spread = values.std(correction=0)
        if spread > 0 and (values - values.float().double()).abs().max() > _LOST * spread:
            low, high = float(values.min()), float(values.max())
            raise DataError(
                f"the numbers from {low!r} to {high!r} differ in digits that are lost: they are held as float32, of "
                f"about 7 digits. Subtract an offset from all of them, such as {low!r}."
            )


def _spread(targets: Tensor) -> str:
    """What numbers the pictures have, in words."""
    num = targets.shape[1] if targets.ndim == 2 else 0
    low, high = f"{float(targets.min()):.4g}", f"{float(targets.max()):.4g}"
    return f"with {'a number' if num == 1 else f'{num} numbers'} each, from {low} to {high}"
