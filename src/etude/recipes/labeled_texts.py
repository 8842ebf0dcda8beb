"""Texts for a trained run: what `evaluate` measures on, and what `report` shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.recipes.options import OnBadData
from etude.recipes.texts import place_of
from etude.recipes.trained import Trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etude.data.loaders import DataLoaders
    from etude.data.store import Incident
    from etude.text.batching import BucketLoader, StreamLoader
    from etude.text.corpus import Corpus
    from etude.text.samples import TextSet
    from etude.training.learner import Learner


@dataclass(frozen=True)
class AskedTexts:
    """Which texts were asked for, as in `evaluate`; on the run's own data, what is not given as in its training.

    Args:
        data: a folder, file, archive or known data set.
        valid_pct: only the share that training with this share and split seed holds out.
        split_seed: of that training.
        label: where labels come from; see `text.load`.
        text_column: of a table.
        quiet: print nothing.
    """

    data: str
    valid_pct: float | None = None
    split_seed: int | None = None
    label: str | None = None
    text_column: str | None = None
    quiet: bool = False

    def completed(self, record: Trained) -> AskedTexts:
        """What was asked for, and on the data of a training what that had."""
        if not record.is_on(self.data):
            return self
        rest = record.completed(self.valid_pct, self.split_seed, self.label, quiet=self.quiet)
        return AskedTexts(self.data, *rest, self.text_column or record.text_column, self.quiet)

    def place(self, *, labeled: bool) -> str:
        """Where the texts are."""
        return place_of(self.data, labeled=labeled)

    @property
    def labels(self) -> str:
        """Where labels come from, also where that was not said."""
        return self.label or "auto"


def refuse_unused(reads_texts: bool, *, several: bool, text_column: str | None) -> None:
    """Refuse flags that say nothing of what a run reads; raises `ConfigError`."""
    from etude.errors import ConfigError

    if reads_texts and several:
        raise ConfigError("--several is of pictures, and this run reads texts; leave it out")
    if not reads_texts and text_column is not None:
        raise ConfigError("--text-column is of tables of texts, and this run looks at pictures; leave it out")


def labeled_texts(
    learner: Learner, record: Trained, run: str, asked: AskedTexts, on_bad_data: OnBadData = "skip"
) -> tuple[TextSet, BucketLoader]:
    """Labeled texts, read as the run's own validation texts were.

    Args:
        learner: the run's model.
        record: what the run's folder says of its training.
        run: what the run is called.
        asked: which texts.
        on_bad_data: "skip" leaves out texts that cannot be read or are empty; "stop" raises.

    Raises:
        ConfigError: the run is no classifier of texts.
        DataError: naming the folder, file, column or label that cannot be used.
    """
    from etude.errors import ConfigError
    from etude.text.data import labeled
    from etude.text.reader import TextReader

    read, vocab = learner.data.read, learner.data.vocab
    if not isinstance(read, TextReader) or vocab is None:
        raise ConfigError(f"{run} was not trained on labeled texts, so it cannot be measured on some")
    fold = record.fold if record.is_on(asked.data) and asked.valid_pct is None else None
    full = asked.completed(record)
    found, loader = labeled(
        full.place(labeled=True),
        read,
        vocab,
        labels=full.labels,
        text_column=full.text_column,
        valid=None if fold is not None else full.valid_pct,
        seed=42 if full.split_seed is None else full.split_seed,
        fold=fold,
        progress=not full.quiet,
    )
    _refuse_bad(found.incidents, on_bad_data)
    return found, loader


def _refuse_bad(incidents: Sequence[Incident], on_bad_data: OnBadData) -> None:
    """Raise where a text was left out and that was not to be."""
    from etude.errors import DataError

    if on_bad_data == "stop" and (bad := skipped(incidents)):
        raise DataError(
            f"{len(bad)} texts cannot be used: {bad[0].name} {bad[0].reason}. Repair them or take them out."
        )


def skipped(incidents: Sequence[Incident]) -> list[Incident]:
    """The texts that were left out."""
    return [incident for incident in incidents if incident.outcome == "skipped"]


def stream_of(learner: Learner, record: Trained, asked: AskedTexts, on_bad_data: OnBadData = "skip") -> StreamLoader:
    """Texts for a language model: those that its training held out; of others those of their own split, or all.

    Args:
        learner: the run's model.
        record: what the run's folder says of its training.
        asked: which texts.
        on_bad_data: "skip" leaves out texts that cannot be read or are empty; "stop" raises.

    Raises:
        ConfigError: labels were asked for.
        DataError: naming the folder, file or column that cannot be used.
    """
    import torch

    from etude.errors import ConfigError
    from etude.text.batching import stream_to_measure
    from etude.text.reader import TextReader
    from etude.text.store import Numbering, tokens_of
    from etude.training.display import progress_bar

    read = learner.data.read
    assert isinstance(read, TextReader)
    if asked.label is not None:
        raise ConfigError("--label has no effect here: a language model asks for no labels; leave it out")
    own, full = record.is_on(asked.data), asked.completed(record)
    corpus = _corpus(full, labeled=False)
    if own or full.valid_pct is not None:
        sides = _sides(corpus, record, full)
    else:
        sides = [True] * len(corpus.names) if corpus.sides is None else list(corpus.sides)
    rows = [i for i, side in enumerate(sides) if side]
    numbering = Numbering(tokenizer=read.tokenizer, vocab=read.vocab)
    with progress_bar(enabled=not full.quiet) as bar:
        say = print if not full.quiet else (lambda line: None)
        store, vocab = tokens_of(corpus, rows, [False] * len(rows), numbering, report=bar, say=say)
    _refuse_bad(store.incidents, on_bad_data)
    return stream_to_measure(store, torch.arange(len(store)), backward=read.backward, vocab=vocab)


def trained_on(names: list[str], record: Trained, asked: AskedTexts, *, labeled: bool) -> int | None:
    """How many of some texts were trained on, which it says; None where the training's data gives other ones now.

    By the run, or by the language model that it began from.

    Args:
        names: of the texts, as their store has them.
        record: what the run's folder says of its training.
        asked: which texts they are.
        labeled: whether it was a training with labels.
    """
    own = _among(names, record, asked, labeled=labeled)
    if own is None:
        return None
    both = sorted({*own, *_seen_by(record.body, names, asked)})
    if both and not asked.quiet:
        print(f"  note: {len(both)} of these texts were trained on: {_named(both)}; new ones will do worse", flush=True)
    return len(both)


def with_leaks_told(loaders: DataLoaders, source: str, asked: AskedTexts) -> DataLoaders:
    """The same texts, with an incident where the language model was trained on some that are held out here."""
    from etude.data.store import Incident
    from etude.text.batching import BucketLoader

    if not isinstance(loaders.valid, BucketLoader):
        return loaders
    names = loaders.valid.names
    seen = _seen_by(source, names, asked)
    if not seen:
        return loaders
    told = (
        f"{len(seen)} of the {len(names)} held-out texts were trained on by the language model ({_named(seen)}), so "
        "the accuracy may look better than it is; hold out what its training held out: the same --valid-pct and "
        "--split-seed"
    )
    if not asked.quiet:
        print(f"  note: {told}", flush=True)
    return replace(loaders, incidents=(*loaders.incidents, Incident(source, "leak", told)))


def _seen_by(run: str | None, names: Sequence[str], asked: AskedTexts) -> list[str]:
    """Which texts a run was trained on, or the one that it began from, as far back as the runs are there."""
    seen: set[str] = set()
    known: set[Path] = set()
    while run is not None and Path(run).exists() and Path(run).resolve() not in known:
        known.add(Path(run).resolve())
        record = Trained.of(run)
        seen.update(_among(names, record, asked, labeled=record.kind == "text classifier") or ())
        run = record.body
    return sorted(seen)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _among(names: Sequence[str], record: Trained, asked: AskedTexts, *, labeled: bool) -> list[str] | None:
    """Which texts a run itself was trained on; see `trained_on`."""
    from etude.errors import EtudeError

    if record.source is None:
        return []
    quiet = replace(asked, quiet=True)
    place = _corpus(quiet.completed(record), labeled=labeled).root.resolve()
    own = Path(record.source).expanduser()
    known = place if record.is_on(asked.data) else own.resolve()
    if not (known.is_relative_to(place) or place.is_relative_to(known)):
        return []
    try:
        full = AskedTexts(record.source, quiet=True).completed(record)
        corpus = _corpus(full, labeled=labeled)
        sides = _sides(corpus, record, full)
    except EtudeError:
        return None
    root = corpus.root.resolve()
    train = {root / name for name, side in zip(corpus.names, sides, strict=True) if side is False}
    return sorted(name for name in names if place / name in train)


def _corpus(asked: AskedTexts, *, labeled: bool) -> Corpus:
    from etude.text.sources import find

    label = asked.labels if labeled else None
    return find(asked.place(labeled=labeled), label=label, text_column=asked.text_column, progress=False)


def _sides(corpus: Corpus, record: Trained, asked: AskedTexts) -> list[bool | None]:
    """Which texts a training held out."""
    from etude.text.samples import sides_of

    fold: Any = record.fold
    seed = 42 if asked.split_seed is None else asked.split_seed
    return sides_of(corpus, valid=None if fold is not None else asked.valid_pct, fold=fold, seed=seed)[0]
