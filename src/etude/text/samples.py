"""A set of stored texts with their sides and classes, and what is odd about it, in words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from etude.data.block import Samples, check_samples
from etude.data.build import Report
from etude.data.incidents import incident_lines
from etude.data.items import Sample, fold_split, keep_every_class, random_split
from etude.data.store import Incident, RaggedStore
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.output import plain
from etude.text.corpus import Corpus
from etude.text.special import UNK
from etude.text.store import Numbering, digest_of, tokens_of
from etude.types import Json

_HELD_OUT: Final = 0.1
"""Of the texts of a language model, where neither the source nor the user says otherwise. Source: SPEC P1."""


@final
@dataclass(frozen=True)
class TextSet:
    """Stored texts, split and perhaps labeled.

    Args:
        description: a line that says what this is.
        store: the texts' tokens, as numbers.
        tokens: what the numbers mean.
        train: rows of the store.
        valid: likewise.
        targets: class numbers of both; None where labels were not asked for.
        vocab: the classes.
        incidents: what was not taken as it was, text by text.
        notes: what is odd about the data, in words.
    """

    description: str
    store: RaggedStore
    tokens: Vocab
    train: Tensor
    valid: Tensor
    targets: tuple[Tensor, Tensor] | None
    vocab: Vocab | None
    incidents: tuple[Incident, ...]
    notes: tuple[str, ...]

    def summary(self) -> Iterator[str]:
        """What was taken, in lines for a terminal."""
        yield from map(plain, (self.description, self._counted(), *incident_lines(self.incidents)))
        for note in self.notes:
            yield plain(f"  note: {note}")

    def _counted(self) -> str:
        """How many tokens there are, and how many of them the vocabulary does not hold."""
        values, starts = self.store.values.numpy(), self.store.starts.numpy()
        unknown = np.add.reduceat(values == self.tokens.number(UNK), starts, dtype=np.int64)
        told = []
        for side, rows in (("train", self.train), ("valid", self.valid)):
            if len(rows):
                num = int(self.store.shapes[rows].sum())
                told.append(f"{num:,} {side} tokens, {unknown[rows.numpy()].sum() / num:.2%} unknown")
        return f"  {'; '.join(told)}; a vocabulary of {len(self.tokens):,}"

    def identity(self) -> dict[str, Json]:
        """What tells this data from any other: its tokens, and which texts have which labels on which side."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.train, self.valid, *(self.targets or ())):
            digest.update(part.numpy().tobytes())
        return {
            "store": self.store.content,
            "tokens": digest_of(self.tokens),
            "labels": digest.hexdigest(),
            "train": len(self.train),
            "valid": len(self.valid),
            "classes": None if self.vocab is None else list(self.vocab),
        }


def sides_of(
    corpus: Corpus, *, valid: float | None, fold: tuple[int, int] | None, seed: int
) -> tuple[list[bool | None], str]:
    """Which texts are held out, and how that was said, in words.

    Args:
        corpus: the texts.
        valid: the share to hold out, drawn by a hash of (seed, name), of the texts that the source does not hold out;
            None takes the source's own, and for a language model without one a tenth.
        fold: (which, of how many), instead of a share.
        seed: decides which.

    Raises:
        ConfigError: there is nothing to validate on, or the settings exclude each other.
    """
    if valid is not None and fold is not None:
        raise ConfigError("valid and fold each say what is held out; give one of them")
    if valid is not None and not (isinstance(valid, float) and 0 < valid < 1):
        raise ConfigError(
            f"valid= is the share of texts to hold out, such as valid=0.1, between 0 and 1 (got {valid!r})"
        )
    if valid is None and fold is None:
        if corpus.sides is not None:
            return list(corpus.sides), ""
        if corpus.labels is not None:
            raise ConfigError(
                f"these texts ({corpus.description}) have no validation texts of their own; say which share to hold "
                "out, such as valid=0.2 (got None)"
            )
        valid = _HELD_OUT
    open_to_all = [i for i in range(len(corpus.names)) if corpus.sides is None or corpus.sides[i] is False]
    everywhere = corpus.paths
    paths = [everywhere[i] for i in open_to_all]
    labels = dict(zip(paths, (corpus.labels[i] for i in open_to_all), strict=True)) if corpus.labels else {}

    def label(path: Path, root: Path) -> str:
        return labels.get(path, "")

    if fold is not None:
        split, told = fold_split(*fold, seed, label=label), f", fold {fold[0] + 1} of {fold[1]} held out"
    else:
        split, told = random_split(valid or _HELD_OUT, seed), f", {valid:.0%} held out"
        split = keep_every_class(split, label) if labels else split
    sides: list[bool | None] = [None] * len(corpus.names)
    for i, side in zip(open_to_all, split(paths, corpus.root), strict=True):
        sides[i] = side
    return sides, told


def text_set(
    corpus: Corpus,
    sides: Sequence[bool | None],
    numbering: Numbering,
    *,
    vocab: Vocab | None = None,
    told: str = "",
    report: Report,
    say: Callable[[str], None],
) -> TextSet:
    """Cut the texts into tokens, and number the labels.

    Texts that cannot be used are left out; their incidents stay.

    Args:
        corpus: the texts.
        sides: of each: True for validation, False for training, None to leave it out.
        numbering: how they become numbers. A new vocabulary counts the training texts alone.
        vocab: the classes; None takes those of the training texts, and checks that they can be learned.
        told: how the sides were said, in words.
        report: told how far the work is.
        say: told what is about to happen.

    Raises:
        DataError: a side has no text, or a label is not among the classes.
    """
    notes = list(corpus.notes)
    if left_out := sum(side is None for side in sides):
        notes.append(f"{left_out} texts are left out of training and validation")
    if vocab is None:
        notes += _checked(corpus, sides)
    used = [i for i, side in enumerate(sides) if side is not None]
    store, tokens = tokens_of(corpus, used, [sides[i] is False for i in used], numbering, report=report, say=say)
    place = {name: row for row, name in enumerate(store.names)}
    parts = [[i for i in used if sides[i] is side and corpus.names[i] in place] for side in (False, True)]
    if not parts[1] or (vocab is None and not parts[0]):
        raise DataError(f"no {'validation' if parts[0] else 'training'} text ({corpus.description}) holds anything")
    train, valid = (torch.tensor([place[corpus.names[i]] for i in part], dtype=torch.long) for part in parts)
    targets = None
    if (labels := corpus.labels) is not None:
        classes = vocab or Vocab.of(labels[i] for i in parts[0])
        numbers = [[classes.number(labels[i], source=corpus.names[i]) for i in part] for part in parts]
        targets, vocab = (torch.tensor(numbers[0], dtype=torch.long), torch.tensor(numbers[1])), classes
    counted = f"{len(train)} train and {len(valid)} valid texts" if len(train) else f"{len(valid)} texts"
    of = "" if vocab is None else f" of {len(vocab)} classes"
    return TextSet(
        f"{counted}{of} ({corpus.description}{told})",
        store,
        tokens,
        train,
        valid,
        targets,
        vocab,
        store.incidents,
        tuple(notes),
    )


def _checked(corpus: Corpus, sides: Sequence[bool | None]) -> list[str]:
    """What is odd about the texts of both sides, in words; raises `DataError` where they cannot be trained on."""
    num_valid, num_train = sides.count(True), sides.count(False)
    if not num_train or not num_valid:
        side, other = ("validation", "training") if num_train else ("training", "validation")
        raise DataError(
            f"these texts ({corpus.description}) gave no {side} texts: {num_train or num_valid} went to {other} and "
            f"{sides.count(None)} were left out. Hold out another share, or take another seed."
        )
    if corpus.labels is None:
        return []
    labeled = zip(corpus.names, corpus.labels, sides, strict=True)
    samples = [(Sample(Path(name), label), side) for name, label, side in labeled]
    train, valid = ([sample for sample, at in samples if at is side] for side in (False, True))
    return check_samples(Samples(train, valid), where=f"{corpus.root} ({corpus.description})")
