"""Say what a trained run makes of new pictures or texts, as many as there are, in order and in little memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etude.output import plain
from etude.recipes.items import Item, Noun, items_of, noun_of
from etude.recipes.options import OnBadData, OutputOptions
from etude.recipes.predicted import Format, Row, counting, format_of, lines_in, opened
from etude.recipes.trained import Trained
from etude.recipes.tta import Tta as Tta
from etude.recipes.tta import views_of

if TYPE_CHECKING:
    from torch import Tensor

    from etude.errors import DataError
    from etude.training.learner import Learner
    from etude.training.predictions import Predictions
    from etude.types import Batch, Json
    from etude.vision.views import Views

_BATCH = 64
_POOL = 4
"""Batches of texts whose texts are sorted by length together."""
_TOKENS = 90_000
"""Of a batch of texts, padding included, unless it is a single text: 64 texts of 1,400 tokens."""
_MOST_SKIPPED = 1000
"""Refusals that the result names; each is told when it is met."""


def predict(
    run: str,
    files: Sequence[str] = (),
    *,
    text: Sequence[str] = (),
    text_column: str | None = None,
    format: Format | None = None,
    out: str | None = None,
    top: int | None = None,
    threshold: float | None = None,
    tta: Tta = "no",
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Json]:
    """Say what a trained run makes of pictures or texts, in the order in which they were named.

    They are read ahead of the model, pictures in threads, and forgotten after it, so that memory does not depend on
    their number, unless `output.json` asks for all predictions in one object.

    Args:
        run: the run's folder.
        files: pictures, folders of pictures, or "-" for names on standard input, one a line. For a model of texts: .txt
            files, folders of them, and tables (.csv, .tsv, .jsonl), of which each row is a text.
        text: texts themselves, for a model of texts; they come after the files.
        text_column: the column of a table that holds the texts; None is that of the training, or found by its name.
        format: "table", "csv", or "json": one object a line. In csv and json a picture that cannot be read has its row
            too, with an `error`. None is what the name of `out` says, else a table.
        out: a file for the rows instead of standard output; it is OUT.part until it is whole.
        top: how many classes to say of each.
        threshold: where a picture may have several labels, the probability from which one is said; 0.5 unless given.
        tta: test-time augmentation, the mean of the probabilities of several views of each picture: "flip" is 2 views,
            "shift" 5, "both" 10, and it takes so many times as long.
        on_bad_data: "skip" says which pictures cannot be read and goes on; "stop" raises at the first.
        device: where the model runs.
        output: whether to print, and how.

    Returns:
        `{"run", "tta", "format", "out", "predicted": how many, "num_skipped", "skipped": [{"file", "reason"}, ...]}`,
        of which the last names the first thousand; with `output.json` and a table all of them, and "predictions", all
        rows as `Predictions.to_rows` makes them.

    Raises:
        ConfigError: a setting that has no effect on this run's predictions, flags that contradict each other, or a
            language model, which `etude generate` is for.
        DataError: a picture or text cannot be read, and `on_bad_data` is "stop".
    """
    import etude
    from etude.errors import ConfigError

    form = format_of(format, out, as_json=output.json, quiet=output.quiet)
    _refuse(files, text, text_column, top, threshold)
    learner = etude.load(run, device=device)
    noun, views = noun_of(learner, run), views_of(learner, run, tta)
    kind = _kind(learner, noun, run, top, threshold)
    seen = _Seen(keep=output.json and form == "table")
    items, total = items_of(noun, files, text, text_column or Trained.of(run).text_column)
    lines, shown = lines_in(form, kind, top), not output.quiet
    with opened(out, shown=shown) as write, counting(total, enabled=shown and out is not None) as count:
        for rows in _rows(learner, views, items, on_bad_data, (top, threshold)):
            seen.add(rows)
            write(lines(rows))
            count(seen.predicted + seen.num_skipped)
        if not seen.predicted + seen.num_skipped:
            raise ConfigError(f"no {noun} was named; give one name a line on standard input")
    if out is not None and shown:
        print(f"{seen.predicted} predictions in {plain(out)}")
    return {"run": run, "tta": tta, "format": form, "out": out, **seen.result()}


class _Seen:
    """What is remembered of the rows that went by.

    Args:
        keep: all predictions.
    """

    def __init__(self, *, keep: bool) -> None:
        self._rows: list[Json] | None = [] if keep else None
        self._skipped: list[Json] = []
        self.predicted = self.num_skipped = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Count rows, and say which pictures or texts could not be read."""
        for row in rows:
            if "error" not in row:
                self.predicted += 1
                if self._rows is not None:
                    self._rows.append(row)
                continue
            print(f"skipped: {plain(row['error'])}", file=sys.stderr, flush=True)
            self.num_skipped += 1
            if self._rows is not None or self.num_skipped <= _MOST_SKIPPED:
                self._skipped.append({"file": row["file"], "reason": row["error"]})

    def result(self) -> dict[str, Json]:
        """Of the command."""
        rows: dict[str, Json] = {} if self._rows is None else {"predictions": self._rows}
        return {**rows, "predicted": self.predicted, "num_skipped": self.num_skipped, "skipped": self._skipped}


def _refuse(
    files: Sequence[str], text: Sequence[str], text_column: str | None, top: int | None, threshold: float | None
) -> None:
    """Refuse values that no prediction takes, before the model is loaded."""
    from etude.errors import ConfigError
    from etude.text.tables import is_table

    if "" in files:
        raise ConfigError("a file or folder has an empty name; say . for the current folder")
    if text_column is not None and not any(name == "-" or is_table(Path(name)) for name in files):
        raise ConfigError("--text-column is a column of a table (.csv, .tsv, .jsonl), and none is named; leave it out")
    if top is not None and top < 1:
        raise ConfigError(f"--top must be at least 1, got {top}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold must be a probability from 0 to 1, such as 0.5, got {threshold}")
    if top is not None and threshold is not None:
        raise ConfigError("--top says how many labels, --threshold how likely ones; name one of the two")
    if not files and not text:
        raise ConfigError(
            "name pictures or folders of pictures, or - to read names from standard input; for a model of texts, "
            'files, folders or tables of texts, or --text "a text"'
        )
    if flags := [name for name in files if name.startswith("-") and name != "-" and not Path(name).exists()]:
        # the command takes it for a file, because "-" is one
        raise ConfigError(f"unknown option {flags[0]}; see: etude predict --help")


def _kind(learner: Learner, noun: Noun, run: str, top: int | None, threshold: float | None) -> Predictions:
    """The kind of the run's predictions, from that of a black picture or a short text; refuses what has no effect."""
    from etude.errors import ConfigError

    kind = _made_of(learner, [_nothing(learner, noun)], None)
    if threshold is not None and not kind.several:
        raise ConfigError(f"--threshold is for several labels, and {run} predicts something else; leave it out")
    if top is not None and (kind.numbers or not kind.probable):
        raise ConfigError(f"--top is for classes, and {run} predicts numbers; leave it out")
    return kind


def _nothing(learner: Learner, noun: Noun) -> Tensor:
    """A black picture, or a text of hardly anything."""
    import torch

    from etude.vision.preprocess import ImageReader

    read = learner.data.read
    assert read is not None
    if noun == "text":
        return read(".")
    assert isinstance(read, ImageReader)
    return torch.zeros(read.codec.channels, read.size, read.size, dtype=torch.uint8)


def _rows(
    learner: Learner,
    views: Views | None,
    items: Iterable[Item],
    on_bad_data: OnBadData,
    said: tuple[int | None, float | None],
) -> Iterator[list[Row]]:
    """Rows in the order of the items, some batches at a time; the next pictures are read meanwhile."""
    from etude.data.ahead import read_ahead, reading
    from etude.errors import DataError

    assert learner.data.read is not None
    at_once = _BATCH if learner.data.collate is None else _POOL * _BATCH
    with reading(learner.data.read) as (read, threads):

        def read_one(item: Item) -> Tensor:
            if isinstance(item.given, DataError):
                raise item.given
            return read(item.given)

        batch: list[tuple[str, Tensor | DataError]] = []
        for item, found in read_ahead(read_one, items, threads=threads, ahead=2 * _BATCH):
            if isinstance(found, DataError) and on_bad_data == "stop":
                yield _of_batch(learner, views, batch, said)
                raise found
            batch.append((item.name, found))
            if len(batch) == at_once:
                yield _of_batch(learner, views, batch, said)
                batch = []
        yield _of_batch(learner, views, batch, said)


def _of_batch(
    learner: Learner,
    views: Views | None,
    batch: Sequence[tuple[str, Tensor | DataError]],
    said: tuple[int | None, float | None],
) -> list[Row]:
    """A row for each item of some batches."""
    from etude.errors import DataError
    from etude.training.predictions import THRESHOLD

    top, threshold = said
    good = [(name, read) for name, read in batch if not isinstance(read, DataError)]
    rows: Iterator[Row] = iter(())
    if good:
        predictions = _made_of(learner, [read for _, read in good], views)
        named = replace(predictions, names=tuple(name for name, _ in good))
        rows = iter(named.to_rows(top, THRESHOLD if threshold is None else threshold))
    return [{"file": name, "error": str(one)} if isinstance(one, DataError) else next(rows) for name, one in batch]


def _made_of(learner: Learner, read: Sequence[Tensor], views: Views | None) -> Predictions:
    """Of items that were read, in their order."""
    import torch

    if learner.data.collate is None:
        return predicted(learner, torch.stack(list(read)), views)
    return predicted(learner, list(_of_like_length(learner, read)), views)


def _of_like_length(learner: Learner, texts: Sequence[Tensor]) -> Iterator[Batch]:
    """Texts in batches, the longest first, with their positions; a very long one does not widen many."""
    import torch

    from etude.types import Batch

    assert learner.data.collate is not None
    waiting = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    while waiting:
        num = min(max(_TOKENS // max(len(texts[waiting[0]]), 1), 1), _BATCH)
        part, waiting = waiting[:num], waiting[num:]
        yield Batch(learner.data.collate([texts[i] for i in part]), None, indices=torch.tensor(part))


def predicted(learner: Learner, items: object, views: Views | None) -> Predictions:
    """Of many items."""
    from etude.training import predict as predicting

    predictions = predicting.predict(learner, items, views)
    assert isinstance(predictions, predicting.Predictions)
    return predictions
