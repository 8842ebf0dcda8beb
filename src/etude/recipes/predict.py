"""Say what a trained run makes of new pictures, as many as there are, in order and in little memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from etude.output import plain
from etude.recipes.options import OnBadData, OutputOptions
from etude.recipes.predicted import Format, Row, counting, format_of, lines_in, opened
from etude.recipes.tta import Tta as Tta
from etude.recipes.tta import views_of

if TYPE_CHECKING:
    from torch import Tensor

    from etude.errors import DataError
    from etude.training.learner import Learner
    from etude.training.predictions import Predictions
    from etude.types import Json
    from etude.vision.views import Views

_BATCH = 64
_MOST_SKIPPED = 1000
"""Refusals that the result names; each is told when it is met."""


def predict(
    run: str,
    files: Sequence[str],
    *,
    format: Format | None = None,
    out: str | None = None,
    top: int | None = None,
    threshold: float | None = None,
    tta: Tta = "no",
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Json]:
    """Say what a trained run makes of pictures, in the order in which they were named.

    Pictures are read in threads ahead of the model and forgotten after it, so that memory does not depend on their
    number, unless `output.json` asks for all predictions in one object.

    Args:
        run: the run's folder.
        files: pictures, folders of pictures, or "-" for names on standard input, one a line.
        format: "table", "csv", or "json": one object a line. In csv and json a picture that cannot be read has its row
            too, with an `error`. None is what the name of `out` says, else a table.
        out: a file for the rows instead of standard output; it is OUT.part until it is whole.
        top: how many classes to say of each picture.
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
        ConfigError: a setting that has no effect on this run's predictions, or flags that contradict each other.
        DataError: a picture cannot be read, and `on_bad_data` is "stop".
    """
    import etude
    from etude.errors import ConfigError

    form = format_of(format, out, as_json=output.json, quiet=output.quiet)
    _refuse(files, top, threshold)
    learner = etude.load(run, device=device)
    views = views_of(learner, run, tta)
    kind = _kind(learner, run, top, threshold)
    seen = _Seen(keep=output.json and form == "table")
    paths, total = _expanded(files)
    lines, shown = lines_in(form, kind, top), not output.quiet
    with opened(out, shown=shown) as write, counting(total, enabled=shown and out is not None) as count:
        for rows in _rows(learner, views, paths, on_bad_data, (top, threshold)):
            seen.add(rows)
            write(lines(rows))
            count(seen.predicted + seen.num_skipped)
        if not seen.predicted + seen.num_skipped:
            raise ConfigError("no picture was named on standard input; give one name a line")
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
        """Count rows, and say which pictures could not be read."""
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


def _refuse(files: Sequence[str], top: int | None, threshold: float | None) -> None:
    """Refuse values that no prediction takes, before the model is loaded."""
    from etude.errors import ConfigError

    if top is not None and top < 1:
        raise ConfigError(f"--top must be at least 1, got {top}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold must be a probability from 0 to 1, such as 0.5, got {threshold}")
    if top is not None and threshold is not None:
        raise ConfigError("--top says how many labels, --threshold how likely ones; name one of the two")
    if not files:
        raise ConfigError("name pictures or folders of pictures, or - to read names from standard input")
    if flags := [name for name in files if name.startswith("-") and name != "-" and not Path(name).exists()]:
        # the command takes it for a file, because "-" is one
        raise ConfigError(f"unknown option {flags[0]}; see: etude predict --help")


def _kind(learner: Learner, run: str, top: int | None, threshold: float | None) -> Predictions:
    """The kind of the run's predictions, from that of a black picture; refuses what has no effect on it."""
    import torch

    from etude.errors import ConfigError
    from etude.vision.preprocess import ImageReader

    read = learner.data.read
    if not isinstance(read, ImageReader):
        raise ConfigError(f"{run} does not say how to read a picture; it was trained on other data")
    kind = predicted(learner, torch.zeros(1, read.codec.channels, read.size, read.size, dtype=torch.uint8), None)
    if threshold is not None and not kind.several:
        raise ConfigError(f"--threshold is for several labels, and {run} predicts something else; leave it out")
    if top is not None and (kind.numbers or not kind.probable):
        raise ConfigError(f"--top is for classes, and {run} predicts numbers; leave it out")
    return kind


class _Empty(NamedTuple):
    """A folder in which there is nothing to predict."""

    file: str
    reason: str


def _expanded(files: Sequence[str]) -> tuple[Iterable[Path | _Empty], int | None]:
    """The pictures that are meant, and how many: known unless names come on standard input."""
    if "-" in files:
        return _each(files), None
    paths = list(_each(files))
    return paths, len(paths)


def _each(files: Sequence[str]) -> Iterator[Path | _Empty]:
    """Folders are looked through, "-" reads names from standard input."""
    from etude.data.files import UNREAD_SUFFIXES, find_images, other_files
    from etude.errors import DataError

    for name in files:
        if name == "-":
            yield from (Path(line) for line in map(str.strip, sys.stdin) if line)
        elif Path(name).is_dir():
            try:
                yield from find_images(Path(name))
            except DataError as error:
                yield _Empty(name, str(error))
            passed = {suffix: num for suffix, num in other_files(Path(name)).items() if suffix in UNREAD_SUFFIXES}
            if passed:
                told = ", ".join(f"{num} {suffix}" for suffix, num in sorted(passed.items()))
                print(f"note: {plain(name)} also holds pictures of kinds that are not read ({told})", file=sys.stderr)
        else:
            yield Path(name)


def _rows(
    learner: Learner,
    views: Views | None,
    paths: Iterable[Path | _Empty],
    on_bad_data: OnBadData,
    said: tuple[int | None, float | None],
) -> Iterator[list[Row]]:
    """Rows in the order of the paths, a batch at a time; the next pictures are read meanwhile."""
    from etude.data.ahead import read_ahead, reading
    from etude.errors import DataError

    assert learner.data.read is not None
    with reading(learner.data.read) as (read, threads):

        def read_one(path: Path | _Empty) -> Tensor:
            if isinstance(path, _Empty):
                raise DataError(path.reason)
            return read(path)

        batch: list[tuple[str, Tensor | DataError]] = []
        for path, found in read_ahead(read_one, paths, threads=threads, ahead=2 * _BATCH):
            if isinstance(found, DataError) and on_bad_data == "stop":
                yield _of_batch(learner, views, batch, said)
                raise found
            batch.append((path.file if isinstance(path, _Empty) else str(path), found))
            if len(batch) == _BATCH:
                yield _of_batch(learner, views, batch, said)
                batch = []
        yield _of_batch(learner, views, batch, said)


def _of_batch(
    learner: Learner,
    views: Views | None,
    batch: Sequence[tuple[str, Tensor | DataError]],
    said: tuple[int | None, float | None],
) -> list[Row]:
    """A row for each picture of a batch."""
    import torch

    from etude.errors import DataError
    from etude.training.predictions import THRESHOLD

    top, threshold = said
    good = [(name, pixels) for name, pixels in batch if not isinstance(pixels, DataError)]
    rows: Iterator[Row] = iter(())
    if good:
        predictions = predicted(learner, torch.stack([pixels for _, pixels in good]), views)
        named = replace(predictions, names=tuple(name for name, _ in good))
        rows = iter(named.to_rows(top, THRESHOLD if threshold is None else threshold))
    return [{"file": name, "error": str(one)} if isinstance(one, DataError) else next(rows) for name, one in batch]


def predicted(learner: Learner, items: object, views: Views | None) -> Predictions:
    """Of many items."""
    from etude.training import predict as predicting

    predictions = predicting.predict(learner, items, views)
    assert isinstance(predictions, predicting.Predictions)
    return predictions
