"""The token store: every text cut into tokens once, as numbers in one flat file, kept for later runs.

Its name is a key of the files, the tokenizer, the rules and the vocabulary, or what a new vocabulary is made by. Texts
are read one after the other, and of each only its numbers stay in memory. What is interrupted leaves nothing behind and
begins anew: cutting 100,000 reviews takes less than a minute.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np
import torch

from etude.data import cache
from etude.data.build import BadFile, Report, kept, write_description
from etude.data.store import Incident, RaggedStore, checksum, mark_files, open_store, store_key
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError, LoadError
from etude.text.corpus import Corpus
from etude.text.numericalize import Numericalizer
from etude.text.special import SPECIAL
from etude.text.tokenize import before_cutting, made_by
from etude.text.tokenizers import Subwords, Tokenizer, versions_of
from etude.types import Json

_VOCAB: Final = "vocab.json"
_BYTES: Final = 4
"""Of the number of a token."""
_READING: Final = 2
"""Another number when files are read or cut into texts in another way: their old stores are of no use then."""


@final
@dataclass(frozen=True, kw_only=True)
class Numbering:
    """How texts become numbers.

    Args:
        tokenizer: what cuts them into tokens.
        vocab: the numbers of the tokens; None makes a new vocabulary.
        max_vocab: the largest size of a new vocabulary.
        min_freq: how often a token of a new vocabulary must come.
        multiple_of: of which a new vocabulary's size is a multiple, for the matrix units of GPUs.
    """

    tokenizer: Tokenizer
    vocab: Vocab | None = None
    max_vocab: int = 60_000
    min_freq: int = 2
    multiple_of: int = 8

    def config(self) -> dict[str, Json]:
        """All that the numbers depend on, besides the texts."""
        made = {**made_by(self.tokenizer), "versions": versions_of(self.tokenizer)}
        if self.vocab is not None:
            return {**made, "vocab": digest_of(self.vocab)}
        return {**made, "max_vocab": self.max_vocab, "min_freq": self.min_freq, "multiple_of": self.multiple_of}

    def vocab_of(self, numbers: Numericalizer) -> Vocab:
        """The vocabulary, made where there is none; raises `ConfigError` where no word would come into it."""
        if self.vocab is not None:
            return self.vocab
        settings = {"max_vocab": self.max_vocab, "min_freq": self.min_freq, "multiple_of": self.multiple_of}
        vocab = numbers.vocab(**settings)
        words = list(vocab)[len(SPECIAL) :]
        if not words or words[0].startswith("xxfill"):
            raise ConfigError(
                f"no word comes into the vocabulary: max_vocab={self.max_vocab} holds {len(SPECIAL)} special tokens "
                f"first, and a word must come min_freq={self.min_freq} times in the training texts. Take a larger "
                "max_vocab, a smaller min_freq, or more text."
            )
        return vocab


class Tokens(NamedTuple):
    """Texts as numbers, and what the numbers mean."""

    store: RaggedStore
    vocab: Vocab


def learn_subwords(corpus: Corpus, sides: Sequence[bool | None], size: int) -> Subwords:
    """Frequent pieces of words, at most so many, from the texts whose side is False, those of training."""
    found = corpus.stream([i for i, side in enumerate(sides) if side is False])
    return Subwords.train((before_cutting(one.text) for one in found if not isinstance(one, BadFile)), size)


def digest_of(vocab: Vocab) -> str:
    """What tells a vocabulary from any other: a hash of its names, in order."""
    return hashlib.blake2b(json.dumps(list(vocab)).encode(), digest_size=16).hexdigest()


def tokens_of(
    corpus: Corpus,
    rows: Sequence[int],
    counted: Sequence[bool],
    numbering: Numbering,
    *,
    report: Report,
    say: Callable[[str], None] = print,
) -> Tokens:
    """Some texts of a corpus as numbers: found in the cache, or made; those in memory are not kept on disk.

    Args:
        corpus: the texts.
        rows: which of them, ascending.
        counted: for each of these, whether a new vocabulary counts it: training texts only.
        numbering: how they become numbers.
        report: told how far the work is.
        say: told what is about to happen.

    Raises:
        DataError: no text can be used, or the disk has no room.
    """
    if not corpus.files:
        return _in_memory(_Work(corpus, rows, counted, numbering, report))
    marks = mark_files(corpus.files, corpus.root)
    chosen = hashlib.blake2b(np.array(rows, np.int64).tobytes() + bytes(counted), digest_size=16).hexdigest()
    source: list[Json] = ["texts", _READING, *corpus.config]
    config = {"source": source, "chosen": chosen, **numbering.config()}

    def make(part: Path) -> None:
        work = _Work(corpus, rows, counted, numbering, report)
        cache.check_space(part.parent, _BYTES * work.num_tokens, "the tokens")
        with (part / "values.bin").open("wb") as file:
            for values in work.values():
                file.write(values.data)
            file.flush()
            os.fsync(file.fileno())
        _write_vocab(work.vocab, part / _VOCAB)
        write_description(
            part,
            names=work.names,
            starts=work.starts,
            shapes=work.shapes,
            checks=torch.tensor(work.checks),
            incidents=work.incidents,
            marks=marks,
            codec=config,
            dtype="int32",
        )

    return kept(store_key(marks, config), partial(_open, vocab=numbering.vocab), make, say)


def _in_memory(work: _Work) -> Tokens:
    values = torch.from_numpy(np.concatenate(list(work.values())))
    store = RaggedStore(
        values, work.starts, work.shapes, tuple(work.names), tuple(work.incidents), checks=torch.tensor(work.checks)
    )
    return Tokens(store, work.vocab)


@final
class _Work:
    """Read texts, cut them into tokens, and give their numbers."""

    def __init__(
        self, corpus: Corpus, rows: Sequence[int], counted: Sequence[bool], numbering: Numbering, report: Report
    ) -> None:
        self.names: list[str] = []
        self.incidents: list[Incident] = []
        self.lengths: list[int] = []
        self.checks: list[int] = []
        self._numbers = Numericalizer(numbering.tokenizer)
        for done, (row, found) in enumerate(zip(rows, corpus.stream(rows), strict=True), 1):
            name = corpus.names[row]
            if isinstance(found, BadFile) or not found.text.strip():
                why = str(found) if isinstance(found, BadFile) else "holds no text"
                self.incidents.append(Incident(name, "skipped", why))
            else:
                self.names.append(name)
                self._numbers.add(found.text, counted[done - 1])
                if found.told:
                    self.incidents.append(Incident(name, "converted", found.told))
            report("cutting texts into tokens", done, len(rows))
        if not self.names:
            first = f": {self.incidents[0].name} {self.incidents[0].reason}" if rows else ""
            raise DataError(f"none of the {len(rows)} texts ({corpus.description}) can be used{first}")
        self.vocab = numbering.vocab_of(self._numbers)

    def values(self) -> Iterator[np.ndarray[Any, np.dtype[np.int32]]]:
        """The numbers of all texts, some texts at a time; lengths and checksums are known when it has ended."""
        for values, lengths in self._numbers.blocks(self.vocab):
            self.lengths += lengths.tolist()
            self.checks += [checksum(text) for text in np.split(values, np.cumsum(lengths)[:-1])]
            yield values

    @property
    def num_tokens(self) -> int:
        """Of all texts."""
        return self._numbers.num_tokens

    @property
    def shapes(self) -> torch.Tensor:
        """Each text's number of tokens, (texts, 1)."""
        return torch.tensor(self.lengths).unsqueeze(1)

    @property
    def starts(self) -> torch.Tensor:
        """Where each text begins, (texts,)."""
        lengths = torch.tensor(self.lengths)
        return lengths.cumsum(0) - lengths


def _write_vocab(vocab: Vocab, path: Path) -> None:
    told = {"digest": digest_of(vocab), "made_by": dict(vocab.made_by or {}), "tokens": list(vocab)}
    path.write_text(json.dumps(told), encoding="utf-8")


def _open(folder: Path, vocab: Vocab | None) -> Tokens:
    """A store with its vocabulary, or the one that its key names; raises `LoadError`."""
    store = open_store(folder)
    if vocab is not None:
        return Tokens(store, vocab)
    try:
        told = json.loads((folder / _VOCAB).read_text(encoding="utf-8"))
        vocab = Vocab(told["tokens"], made_by=told["made_by"])
        if told["digest"] != digest_of(vocab):
            raise ValueError("it was changed after it was written")
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise LoadError(f"the vocabulary in {folder} is damaged ({error}).") from error
    return Tokens(store, vocab)
