"""A set of stored texts with their sides and classes, and what is odd about it, in words."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from etude import random
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

_VERY_LONG: Final = 50
"""Times the median; the longest of IMDB's reviews has 15 times as many tokens."""
_MANY_UNKNOWN: Final = 0.3
"""Of the tokens. Of ordinary texts a few in a hundred are unknown."""
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
        told = []
        for side, rows in (("train ", self.train), ("valid ", self.valid)):
            if len(rows):
                num, unknown = int(self.store.shapes[rows].sum()), unknown_share(self.store, rows, self.tokens)
                told.append(f"{num:,} {side if len(self.train) else ''}tokens, {unknown:.2%} unknown")
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
        valid: the share to hold out, drawn by a hash of (seed, name), of the texts that the source does not hold out,
            or of all where they are files without labels; None takes the source's own, and for a language model without
            one a tenth.
        fold: (which, of how many), instead of a share.
        seed: decides which.

    Raises:
        ConfigError: there is nothing to validate on, or the settings exclude each other.
        DataError: there is one text only.
    """
    _refuse(corpus, valid, fold)
    if valid is None and fold is None:
        if corpus.sides is not None:
            return list(corpus.sides), ""
        if corpus.labels is not None:
            raise ConfigError(
                f"these texts ({corpus.description}) have no validation texts of their own; say which share to hold "
                "out, such as valid=0.2"
            )
        valid = _HELD_OUT
    open_to_all, of = _open_to_all(corpus, valid)
    everywhere = corpus.paths
    paths = [everywhere[i] for i in open_to_all]
    labels = dict(zip(paths, (corpus.labels[i] for i in open_to_all), strict=True)) if corpus.labels else {}

    def label(path: Path, root: Path) -> str:
        return labels.get(path, "")

    if fold is not None:
        split, told = fold_split(*fold, seed, label=label), f", fold {fold[0] + 1} of {fold[1]} held out"
    else:
        split, told = random_split(valid or _HELD_OUT, seed), f", {valid:.0%}{of} held out"
        split = keep_every_class(split, label) if labels else split
    sides: list[bool | None] = [None] * len(corpus.names)
    for i, side in zip(open_to_all, split(paths, corpus.root), strict=True):
        sides[i] = side
    if corpus.labels is None and True not in sides and len(open_to_all) > 1:
        sides[_first_held_out(corpus, open_to_all, seed)] = True
    return sides, told


def _open_to_all(corpus: Corpus, valid: float | None) -> tuple[list[int], str]:
    """The texts of which a share may be held out, and what they are, in words, where that is not said already."""
    everything = list(range(len(corpus.names)))
    if corpus.sides is None:
        return everything, ""
    if valid is not None and corpus.labels is None and corpus.in_files:
        # as in the notes: a language model that is given a share holds out some of all
        return everything, " of all texts"
    return [i for i in everything if corpus.sides[i] is False], ""


def _refuse(corpus: Corpus, valid: float | None, fold: tuple[int, int] | None) -> None:
    """Refuse what cannot be split, and settings that do not say how."""
    if len(corpus.names) == 1:
        raise DataError(
            f"{corpus.place} holds one text only; at least two are needed, one to train on and one to hold out"
        )
    if valid is not None and fold is not None:
        raise ConfigError("valid and fold each say what is held out; give one of them")
    if valid is not None and not (isinstance(valid, float) and 0 < valid < 1):
        raise ConfigError(
            f"valid= is the share of texts to hold out, such as valid=0.1, between 0 and 1 (got {valid!r})"
        )


def _first_held_out(corpus: Corpus, rows: Sequence[int], seed: int) -> int:
    """Of few texts, of which a share held out none: the one that a larger share would hold out first."""
    return min(rows, key=lambda i: random.key(seed, f"valid:{corpus.names[i]}"))


def text_set(
    corpus: Corpus,
    sides: Sequence[bool | None],
    numbering: Numbering,
    *,
    vocab: Vocab | None = None,
    told: str = "",
    max_length: int | None = None,
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
        max_length: after how many tokens longer texts are cut in batches.
        report: told how far the work is.
        say: told what is about to happen.

    Raises:
        DataError: a side has no text, or a label is not among the classes.
    """
    notes = [*corpus.notes, *(checked(corpus, sides) if vocab is None else ())]
    # beside classes that are given already, they are those that a model is not measured on
    if vocab is None and (left_out := sum(side is None for side in sides)):
        notes.append(f"{left_out} texts are left out of training and validation")
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
    counted = f"{len(train)} train and {len(valid)} valid texts" if len(train) else _texts(len(valid))
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
        (*notes, *_of_texts(store, tokens, train, valid), *_very_long(store, targets, max_length)),
    )


def _of_texts(store: RaggedStore, tokens: Vocab, train: Tensor, valid: Tensor) -> list[str]:
    """What is odd about the stored texts, in words."""
    return [*_many_unknown(store, tokens, train if len(train) else valid), *_on_both_sides(store, train, valid)]


def _many_unknown(store: RaggedStore, tokens: Vocab, rows: Tensor) -> list[str]:
    """A note where most of what a model reads says nothing, which makes good numbers easy."""
    share = unknown_share(store, rows, tokens)
    if share <= _MANY_UNKNOWN:
        return []
    return [
        f"{share:.0%} of the tokens are unknown: a model of them learns little, however good its perplexity looks; "
        "more text, a larger max_vocab or a smaller min_freq makes more words known"
    ]


def unknown_share(store: RaggedStore, rows: Tensor, tokens: Vocab) -> float:
    """The share of some texts' tokens that the vocabulary does not hold."""
    unknown = np.add.reduceat(store.values.numpy() == tokens.number(UNK), store.starts.numpy(), dtype=np.int64)
    return float(unknown[rows.numpy()].sum() / int(store.shapes[rows].sum()))


def _texts(num: int) -> str:
    return "1 text" if num == 1 else f"{num} texts"


def _very_long(store: RaggedStore, targets: object, max_length: int | None) -> list[str]:
    """A note where the longest text makes a batch of a classifier mostly padding."""
    longest, median = min(int(store.shapes.max()), max_length or sys.maxsize), int(store.shapes.median())
    if targets is None or longest <= _VERY_LONG * median:
        return []
    return [
        f"the longest text has {longest:,} tokens, and half of the texts have {median:,} at most: a batch is as long "
        "as its longest text, and the rest of it is padding; max_length= cuts texts"
    ]


def _on_both_sides(store: RaggedStore, train: Tensor, valid: Tensor) -> list[str]:
    """A note where training sees what is validated on."""
    if store.checks is None:
        return []
    marks = list(zip(store.shapes[:, 0].tolist(), store.checks.tolist(), strict=True))
    trained = {marks[row]: row for row in train.tolist()}
    pairs = ((row, trained[marks[row]]) for row in valid.tolist() if marks[row] in trained)
    num = sum(torch.equal(store[row], store[other]) for row, other in pairs)
    return [f"{num} of {len(valid)} validation texts are training texts too, token by token"] if num else []


def checked(corpus: Corpus, sides: Sequence[bool | None]) -> list[str]:
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
    classes = {label for label, side in zip(corpus.labels, sides, strict=True) if side is False}
    if not corpus.in_files and len(classes) < 2:
        column = f"the column {corpus.config[1]!r} of {corpus.place}" if corpus.files else "texts= in memory"
        raise DataError(
            f"{column} holds one class only for training, {classes.pop()!r}; expected two or more, such as pos and neg"
        )
    labeled = zip(corpus.names, corpus.labels, sides, strict=True)
    samples = [(Sample(Path(name), label), side) for name, label, side in labeled]
    train, valid = ([sample for sample, at in samples if at is side] for side in (False, True))
    return check_samples(Samples(train, valid), where=f"{corpus.root} ({corpus.description})")
