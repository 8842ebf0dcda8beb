"""From texts to batches: for a language model, or with labels for a classifier.

Every text is cut into tokens once into a store of their numbers (see `etude.text.store`), kept for later runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from etude.data.items import Label
from etude.data.loaders import DataLoaders
from etude.data.vocab import Vocab
from etude.errors import ConfigError, LoadError
from etude.text.batching import BucketLoader, StreamLoader, stream_to_measure
from etude.text.corpus import Corpus
from etude.text.dealing import refuse_fractions
from etude.text.reader import TextReader, tokenizer_of
from etude.text.samples import TextSet, sides_of, text_set
from etude.text.sources import Folder, find, of_memory
from etude.text.special import PAD, UNK
from etude.text.store import Numbering, learn_subwords
from etude.text.tokenize import made_by
from etude.text.tokenizers import Tokenizer, make_tokenizer
from etude.training import saving
from etude.training.display import progress_bar
from etude.training.learner import Learner
from etude.types import Json

Tokens: TypeAlias = Vocab | DataLoaders | Learner | str | os.PathLike[str]
"""A vocabulary of tokens, the data or learner that has one, or the folder of a run or saved model of texts."""
_MAX_VOCAB, _MIN_FREQ, _BPTT = 60_000, 2, 70
_FEW_STEPS = 5


def load(
    path: Folder | None = None,
    *,
    texts: Iterable[Any] | None = None,
    labels: str | Label | None = None,
    text_column: str | None = None,
    valid: float | None = None,
    seed: int = 42,
    split_seed: int | None = None,
    fold: tuple[int, int] | None = None,
    vocab: Tokens | None = None,
    tokenizer: str | Mapping[str, Json] | Tokenizer | None = None,
    max_vocab: int = _MAX_VOCAB,
    min_freq: int = _MIN_FREQ,
    batch_size: int = 64,
    bptt: int = _BPTT,
    variable_bptt: bool = False,
    max_length: int | None = None,
    backward: bool = False,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
) -> DataLoaders:
    """Texts from a folder, a file, an archive, a known data set or memory.

    Without labels for a language model: `data.vocab` are the tokens. With labels for a classifier: `data.vocab` are the
    classes, and `data.read.vocab` the tokens. A new vocabulary is counted on the training texts alone.

    Guesses what the path holds and says what it took: text files at any depth; WikiText files such as wiki.train.tokens
    or train.txt beside valid.txt, cut into articles; a table (csv, tsv, jsonl) with a column of texts; one long file,
    cut into parts. Bytes that are no text become U+FFFD, NULs are taken out, and empty texts are left out; it is told.

    Args:
        path: where the texts are.
        texts: instead of a path: strings, or pairs (text, label).
        labels: where labels come from: "parent" (the folder that a text lies in), "top" (the first folder), a regular
            expression with one group for the file's name, a function of (file, folder); of a table the column. "auto"
            is the column "label" of a table, else "parent".
        text_column: of a table, the column of texts; None finds it.
        valid: the share of texts held out, drawn by a hash of (split seed, name); None takes those that the layout
            holds out, and for a language model 0.1 where it holds out none.
        seed: decides orders.
        split_seed: decides which texts are held out; None takes `seed`. Runs that are compared should share it.
        fold: (which, of how many), counted from 0: hold out one of several equal parts, for cross-validation.
        vocab: tokens to use instead of new ones, of a language model, say; with them comes their tokenizer.
        tokenizer: "words", "spacy", "subwords" (learned from the training texts), or one that was made; None takes that
            of `vocab`, else "words".
        max_vocab: the largest vocabulary, special tokens included.
        min_freq: how often a token of the vocabulary must come; those that come once say little, and xxunk needs some.
        batch_size: rows of a language model's stream, or texts of a classifier's step, of which validation takes twice
            as many; a language model is measured on one stream whatever they are, see `stream_to_measure`.
        bptt: tokens of a language model's window.
        variable_bptt: vary the window; see `etude.text.dealing.Stream`.
        max_length: of a classifier, cut longer texts after so many tokens; None keeps all.
        backward: read each text from its last token to its first.
        rank: which part of each step this process takes.
        world_size: the number of processes.
        progress: print what was found, and show bars.

    Raises:
        DataError: naming the folder, file, column or line that cannot be used.

    Source: SPEC P1, P7, B1-B9.
    """
    refuse_fractions(batch_size=batch_size, bptt=bptt, max_length=max_length, max_vocab=max_vocab, min_freq=min_freq)
    learns = tokenizer == "subwords" and vocab is None
    numbering = _numbering(vocab, "words" if learns else tokenizer, max_vocab, min_freq)
    dealing = _Dealing(batch_size, bptt, variable_bptt, max_length, backward, seed, rank, world_size)
    corpus = _corpus(path, texts, labels, text_column, progress=progress)
    dealing.refuse(labeled=corpus.labels is not None)
    sides, told = sides_of(corpus, valid=valid, fold=fold, seed=seed if split_seed is None else split_seed)
    if learns:
        if progress:
            print("learning which pieces of words are frequent", flush=True)
        numbering = replace(numbering, tokenizer=learn_subwords(corpus, sides, max_vocab))
    found = _set(corpus, sides, numbering, told=told, max_length=max_length, progress=progress)
    data = _bundle(found, dealing)
    if progress and (few := _few_steps(data, found, dealing)):
        print(few, flush=True)
    return data


def labeled(
    path: Folder,
    read: TextReader,
    vocab: Vocab,
    *,
    labels: str | Label = "parent",
    text_column: str | None = None,
    valid: float | None = None,
    seed: int = 42,
    fold: tuple[int, int] | None = None,
    batch_size: int = 128,
    progress: bool = True,
) -> tuple[TextSet, BucketLoader]:
    """Labeled texts for a classifier that is trained already, read just as its own validation texts were.

    Args:
        path: a folder, file, archive or known data set. The held-out texts of its layout are taken, or all of them
            where it has none.
        read: how the model's data read texts.
        vocab: the model's classes.
        labels: where labels come from; see `load`.
        text_column: of a table, the column of texts; None finds it.
        valid: take only the share that `load` holds out with this share and seed.
        seed: of that share.
        fold: take only the part that `load` holds out with this fold and seed.
        batch_size: texts per batch.
        progress: print what was found, and show bars.

    Raises:
        DataError: naming the folder, file, column, line or label that cannot be used.
    """
    numbering = Numbering(tokenizer=read.tokenizer, vocab=read.vocab)
    corpus = _corpus(path, None, labels, text_column, progress=progress)
    told = ""
    if corpus.sides is None and valid is None and fold is None:
        sides: list[bool | None] = [True] * len(corpus.names)
    else:
        sides, told = sides_of(corpus, valid=valid, fold=fold, seed=seed)
    only = [True if side else None for side in sides]
    found = _set(corpus, only, numbering, classes=vocab, told=told, max_length=read.max_length, progress=progress)
    assert found.targets is not None
    return found, BucketLoader(
        found.store,
        found.valid,
        found.targets[1],
        pad=read.vocab.number(PAD),
        batch_size=batch_size,
        max_length=read.max_length,
        backward=read.backward,
        vocab=vocab,
    )


class _Dealing(NamedTuple):
    """How texts are dealt into batches; see `load`."""

    batch_size: int
    bptt: int
    variable_bptt: bool
    max_length: int | None
    backward: bool
    seed: int
    rank: int
    world_size: int

    def refuse(self, *, labeled: bool) -> None:
        """Refuse settings that have no effect; raises `ConfigError`."""
        if labeled and (self.variable_bptt or self.bptt != _BPTT):
            raise ConfigError("bptt and variable_bptt cut the stream of a language model; with labels, leave them out")
        if not labeled and self.max_length is not None:
            raise ConfigError("max_length cuts the texts of a classifier, and a language model reads all: leave it out")


def _bundle(found: TextSet, dealing: _Dealing) -> DataLoaders:
    """Loaders of the texts, and what learners need to know of them."""
    train, valid = (_streams if found.targets is None else _buckets)(found, dealing)
    read = TextReader(found.tokens, backward=dealing.backward, max_length=dealing.max_length)
    return DataLoaders(
        train,
        valid,
        vocab=found.vocab or found.tokens,
        read=read,
        collate=read.collate,
        seed=dealing.seed,
        description=found.description,
        incidents=found.incidents,
        identity={**found.identity(), "backward": dealing.backward, "max_length": dealing.max_length},
    )


def _few_steps(data: DataLoaders, found: TextSet, dealing: _Dealing) -> str:
    """What to do about an epoch of hardly any steps, in words; empty where it has more."""
    assert data.train is not None
    steps, size = len(data.train), dealing.batch_size
    if steps >= _FEW_STEPS or size == 1:
        return ""
    if found.targets is not None and size > len(found.train):
        return f"the batch is the whole set: {len(found.train)} training texts, fewer than a batch size of {size}"
    of = f"{size} rows of {dealing.bptt} tokens" if found.targets is None else f"{size} texts"
    said = "1 step" if steps == 1 else f"{steps} steps"
    return f"an epoch is {said} of {of}; a smaller batch size makes more of few texts"


def _streams(found: TextSet, dealing: _Dealing) -> tuple[StreamLoader, StreamLoader]:
    ways: dict[str, Any] = {
        "backward": dealing.backward,
        "rank": dealing.rank,
        "world_size": dealing.world_size,
        "vocab": found.tokens,
    }
    train = StreamLoader(
        found.store,
        found.train,
        batch_size=dealing.batch_size,
        bptt=dealing.bptt,
        shuffle=True,
        variable=dealing.variable_bptt,
        seed=dealing.seed,
        **ways,
    )
    return train, stream_to_measure(found.store, found.valid, **ways)


def _buckets(found: TextSet, dealing: _Dealing) -> tuple[BucketLoader, BucketLoader]:
    assert found.targets is not None
    texts = partial(
        BucketLoader,
        found.store,
        pad=found.tokens.number(PAD),
        max_length=dealing.max_length,
        backward=dealing.backward,
        seed=dealing.seed,
        rank=dealing.rank,
        world_size=dealing.world_size,
        vocab=found.vocab,
    )
    train = texts(found.train, found.targets[0], batch_size=dealing.batch_size, shuffle=True)
    return train, texts(found.valid, found.targets[1], batch_size=2 * dealing.batch_size)


def _set(
    corpus: Corpus,
    sides: Sequence[bool | None],
    numbering: Numbering,
    *,
    classes: Vocab | None = None,
    told: str,
    max_length: int | None,
    progress: bool,
) -> TextSet:
    """The texts as numbers, and told of."""
    if progress and corpus.files:
        number = "1 text" if len(corpus.names) == 1 else f"{len(corpus.names):,} texts"
        print(f"{number} ({corpus.description}) in {corpus.root}", flush=True)
    with progress_bar(enabled=progress) as bar:
        say = print if progress else (lambda line: None)
        found = text_set(corpus, sides, numbering, vocab=classes, told=told, max_length=max_length, report=bar, say=say)
    if progress:
        for line in found.summary():
            print(line, flush=True)
    return found


def _corpus(
    path: Folder | None,
    texts: Iterable[Any] | None,
    labels: str | Label | None,
    text_column: str | None,
    *,
    progress: bool,
) -> Corpus:
    """The texts that were asked for."""
    if (path is None) == (texts is None):
        raise ConfigError("give a path (a folder, file, archive or known data set), or texts=")
    if path is not None:
        corpus = find(path, label=labels, text_column=text_column, progress=progress)
    elif labels is not None or text_column is not None:
        raise ConfigError("labels and text_column are of files; texts= holds pairs (text, label) where it has labels")
    else:
        corpus = of_memory(texts or ())
    return corpus


def tokens_in(source: Tokens) -> Vocab:
    """The vocabulary of tokens that is meant.

    Raises:
        ConfigError: there is none.
        LoadError: the folder holds no saved model of texts.
    """
    source = source.data if isinstance(source, Learner) else source
    if isinstance(source, Vocab):
        vocab = source
    elif isinstance(source, DataLoaders):
        if not isinstance(source.read, TextReader):
            raise ConfigError("vocab= is data that is not of texts; give the data of a language model")
        vocab = source.read.vocab
    else:
        described = saving.read_description(Path(source) / saving.DESCRIPTION)["read"]
        try:
            vocab = TextReader.from_config(described or {}).vocab
        except ConfigError as error:
            raise LoadError(f"{Path(source) / saving.DESCRIPTION} is of no model of texts: {error}") from error
    if vocab.get(UNK) is None:
        raise ConfigError(f"vocab= is no vocabulary of tokens, for it lacks {UNK}; it holds {list(vocab)[:5]}")
    return vocab


def _numbering(
    given: Tokens | None, tokenizer: str | Mapping[str, Json] | Tokenizer | None, max_vocab: int, min_freq: int
) -> Numbering:
    """How texts become numbers; refuses settings that exclude each other."""
    if given is None:
        return Numbering(tokenizer=make_tokenizer(tokenizer or "words"), max_vocab=max_vocab, min_freq=min_freq)
    if (max_vocab, min_freq) != (_MAX_VOCAB, _MIN_FREQ):
        raise ConfigError("max_vocab and min_freq are of a new vocabulary, and vocab= gives one: leave them out")
    vocab = tokens_in(given)
    if not vocab.made_by:
        made = make_tokenizer(tokenizer or "words")
        return Numbering(tokenizer=made, vocab=Vocab(list(vocab), made_by=made_by(made)))
    made = tokenizer_of(vocab)
    name, asked = made.config()["name"], tokenizer
    if asked not in (None, name) and (isinstance(asked, str) or make_tokenizer(asked).config() != made.config()):
        raise ConfigError(
            f"the vocabulary was made by the tokenizer {name!r}, and tokenizer= is {asked!r:.60}: its tokens would not "
            "be found. Leave tokenizer= out."
        )
    return Numbering(tokenizer=made, vocab=vocab)
