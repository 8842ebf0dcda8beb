"""Texts for a trained run: what `evaluate` measures on, and what `report` shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from etude.recipes.options import OnBadData
from etude.recipes.texts import place_of, usual_label
from etude.recipes.trained import Trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etude.data.store import Incident
    from etude.text.batching import BucketLoader, StreamLoader
    from etude.text.corpus import Corpus
    from etude.text.samples import TextSet
    from etude.training.learner import Learner

_BATCH_SIZE: Final = 64
_BPTT: Final = 70


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
        return self.label or usual_label(self.place(labeled=True))


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
    from etude.errors import ConfigError, DataError
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
    if on_bad_data == "stop" and (bad := skipped(found.incidents)):
        raise DataError(
            f"{len(bad)} texts cannot be used: {bad[0].name} {bad[0].reason}. Repair them or take them out."
        )
    return found, loader


def skipped(incidents: Sequence[Incident]) -> list[Incident]:
    """The texts that were left out."""
    return [incident for incident in incidents if incident.outcome == "skipped"]


def stream_of(learner: Learner, record: Trained, asked: AskedTexts) -> StreamLoader:
    """Texts for a language model: those that its training held out; of others those of their own split, or all.

    Args:
        learner: the run's model.
        record: what the run's folder says of its training.
        asked: which texts.

    Raises:
        DataError: naming the folder, file or column that cannot be used.
    """
    import torch

    from etude.text.batching import StreamLoader
    from etude.text.reader import TextReader
    from etude.text.store import Numbering, tokens_of
    from etude.training.display import progress_bar

    read = learner.data.read
    assert isinstance(read, TextReader)
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
    bptt = record.number("bptt", _BPTT)
    streams = max(int(store.shapes.sum()) // bptt, 1)
    return StreamLoader(
        store,
        torch.arange(len(store)),
        # as in the training's own validation, whose perplexity this is then
        batch_size=min(2 * record.number("batch_size", _BATCH_SIZE), streams),
        bptt=bptt,
        backward=read.backward,
        vocab=vocab,
    )


def trained_on(names: list[str], record: Trained, asked: AskedTexts, *, labeled: bool) -> int | None:
    """How many of some texts were trained on, which it says; None where the training's data gives other ones now.

    Args:
        names: of the texts, as their store has them.
        record: what the run's folder says of its training.
        asked: which texts they are.
        labeled: whether it was a training with labels.
    """
    from etude.errors import EtudeError

    if record.source is None:
        return 0
    quiet = replace(asked, quiet=True)
    place = _corpus(quiet.completed(record), labeled=labeled).root.resolve()
    own = Path(record.source).expanduser()
    known = place if record.is_on(asked.data) else own.resolve()
    if not (known.is_relative_to(place) or place.is_relative_to(known)):
        return 0
    try:
        full = AskedTexts(record.source, quiet=True).completed(record)
        corpus = _corpus(full, labeled=labeled)
        sides = _sides(corpus, record, full)
    except EtudeError:
        return None
    root = corpus.root.resolve()
    train = {root / name for name, side in zip(corpus.names, sides, strict=True) if side is False}
    both = sorted(name for name in names if place / name in train)
    if both and not asked.quiet:
        shown = ", ".join(both[:3]) + (", ..." if len(both) > 3 else "")
        print(f"  note: {len(both)} of these texts were trained on: {shown}; new ones will do worse", flush=True)
    return len(both)


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
