"""Use a trained run: what it says of new pictures, and how right it is on labeled ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from etude.recipes.options import OnBadData, OutputOptions
from etude.recipes.trained import Trained

if TYPE_CHECKING:
    from torch import Tensor

    from etude.data.vocab import Vocab
    from etude.training.learner import Learner
    from etude.training.predict import Predictions
    from etude.types import Json
    from etude.vision.samples import PictureSet
    from etude.vision.views import Views

Tta = Literal["no", "flip", "shift", "both"]

_BATCH = 64
_SHIFT = 16
"""What part of the side the shifted views are moved by."""


def predict(
    run: str,
    files: Sequence[str],
    *,
    top: int = 1,
    tta: Tta = "no",
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Json]:
    """Say what a trained run makes of pictures, in the order in which they were named.

    Args:
        run: the run's folder.
        files: pictures, folders of pictures, or "-" for names on standard input, one a line.
        top: how many classes to say for each picture.
        tta: test-time augmentation, the mean of the probabilities of several views of each picture: "flip" is 2 views,
            "shift" 5, "both" 10, and it takes so many times as long.
        on_bad_data: "skip" says which pictures cannot be read and goes on; "stop" raises.
        device: where the model runs.
        output: whether to print, and how.

    Returns:
        `{"tta", "predictions": [{"file", "label", "probability", "top"}, ...], "skipped": [{"file", "reason"}, ...]}`
    """
    import etude
    from etude.errors import ConfigError

    if top < 1:
        raise ConfigError(f"--top must be at least 1, got {top}")
    if not files:
        raise ConfigError("name pictures or folders of pictures, or - to read names from standard input")
    if flags := [name for name in files if name.startswith("-") and name != "-" and not Path(name).exists()]:
        # the command takes it for a file, because "-" is one
        raise ConfigError(f"unknown option {flags[0]}; see: etude predict --help")
    learner = etude.load(run, device=device)
    views = _views(learner, run, tta)
    rows: list[Json] = []
    skipped: list[Json] = []
    lines = _Lines()
    for found, bad in _in_batches(learner, views, _expanded(files), top, on_bad_data):
        rows += found
        skipped += bad
        for line in lines.of(found) if not output.quiet else ():
            print(line, flush=True)
        for row in bad:
            print(f"skipped: {row['reason']}", file=sys.stderr, flush=True)
    if not rows and not skipped:
        raise ConfigError("no picture was named on standard input; give one name a line")
    return {"run": run, "tta": tta, "predictions": rows, "skipped": skipped}


def _views(learner: Learner, run: str, tta: Tta) -> Views | None:
    """What of each picture is predicted, or None for the picture alone; a mirror image only if training saw some."""
    from etude import vision
    from etude.errors import ConfigError
    from etude.vision.preprocess import ImagePreprocess

    if tta == "no":
        return None
    preprocess = learner.data.preprocess
    if not isinstance(preprocess, ImagePreprocess):
        raise ConfigError(f"{run} was not trained on pictures, so there are no views of them; leave out --tta")
    flip, mirrored = tta in ("flip", "both"), Trained.of(run).mirrored()
    if flip and mirrored is None:
        print(f"note: {run} does not say whether mirrored pictures mean the same to it", file=sys.stderr)
    if flip and mirrored is False:
        raise ConfigError(
            f"--tta {tta} mirrors pictures, and the training of {run} mirrored none: a mirror image may be another "
            "thing to its model; take --tta shift"
        )
    return vision.Views(flip=flip, shift=0 if tta == "flip" else max(preprocess.size // _SHIFT, 1))


def _expanded(files: Sequence[str]) -> Iterator[Path | _Empty]:
    """The pictures that are meant: folders are looked through, "-" reads names from standard input."""
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
                print(f"note: {name} also holds pictures of kinds that are not read ({told})", file=sys.stderr)
        else:
            yield Path(name)


class _Empty(NamedTuple):
    """A folder in which there is nothing to predict."""

    file: str
    reason: str


def _in_batches(
    learner: Learner, views: Views | None, paths: Iterator[Path | _Empty], top: int, on_bad_data: OnBadData
) -> Iterator[tuple[list[dict[str, Json]], list[dict[str, Json]]]]:
    """Predictions and refusals, a batch at a time: a folder may be larger than memory."""
    from itertools import islice

    import torch

    from etude.errors import ConfigError, DataError

    read = learner.data.read
    if read is None:
        raise ConfigError("this run does not say how to read a picture; it was trained on other data")
    while batch := list(islice(paths, _BATCH)):
        pixels, good = [], []
        bad: list[dict[str, Json]] = []
        for path in batch:
            try:
                if isinstance(path, _Empty):
                    raise DataError(path.reason)
                pixels.append(read(path))
                good.append(path)
            except DataError as error:
                if on_bad_data == "stop":
                    raise
                bad.append({"file": path.file if isinstance(path, _Empty) else str(path), "reason": str(error)})
        yield (_rows(learner, views, torch.stack(pixels), good, top) if good else []), bad


def _predicted(learner: Learner, items: object, views: Views | None) -> Predictions:
    """Of many items."""
    from etude.training import predict as predicting

    predictions = predicting.predict(learner, items, views)
    assert isinstance(predictions, predicting.Predictions)
    return predictions


def _rows(
    learner: Learner, views: Views | None, pixels: Tensor, paths: Sequence[Path], top: int
) -> list[dict[str, Json]]:
    predictions = _predicted(learner, pixels, views)
    vocab = learner.data.vocab
    rows: list[dict[str, Json]] = []
    for path, prediction in zip(paths, predictions, strict=True):
        values, numbers = prediction.output.topk(min(top, len(prediction.output)))
        names = [vocab[number] if vocab is not None else str(number) for number in numbers.tolist()]
        best: list[Json] = [
            {"label": name, "probability": round(value, 6)} for name, value in zip(names, values.tolist(), strict=True)
        ]
        rows.append({"file": str(path), "label": names[0], "probability": round(float(values[0]), 6), "top": best})
    return rows


class _Lines:
    """Predictions as lines of aligned columns, which widen as longer names come."""

    def __init__(self) -> None:
        self._widths: list[int] = []

    def of(self, rows: Sequence[dict[str, Json]]) -> list[str]:
        """A batch of predictions."""
        table = []
        for row in rows:
            top = row["top"]
            assert isinstance(top, list)
            table.append([str(row["file"]), *(f"{one['probability']:6.1%} {one['label']}" for one in top)])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        self._widths = [max(pair) for pair in zip_longest(widths, self._widths, fillvalue=0)]
        return ["  ".join(map(str.ljust, cells, self._widths)).rstrip() for cells in table]


def evaluate(
    run: str,
    data: str,
    *,
    valid_pct: float | None = None,
    split_seed: int | None = None,
    label: str | None = None,
    tta: Tta = "no",
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Any]:
    """Measure a trained run on labeled pictures: those held out in a layout of its own, else all of them.

    On the data that the run was trained on, what is not given is as it was in that training.

    Args:
        run: the run's folder.
        data: a folder, an archive, or a known data set.
        valid_pct: only the share that training with this share and split seed holds out.
        split_seed: of that training.
        label: where labels come from; see `vision.load`.
        tta: as in `predict`.
        on_bad_data: "skip" leaves out pictures that cannot be read; "stop" raises.
        device: where the model runs.
        output: whether to print.

    Returns:
        `{"accuracy", "cross_entropy", "samples", "classes": {name: {"samples", "accuracy"}}, "tta", "trained_on",
        "skipped"}`. With several labels, accuracies are shares of right yes-or-no answers, and a class's samples those
        that have it. "trained_on" counts the pictures that the run was trained on, as far as they still lie where they
        lay; null where the folder of that training has no such layout any more.
    """
    import etude
    from etude import vision
    from etude.errors import ConfigError
    from etude.vision.preprocess import ImageReader

    learner = etude.load(run, device=device)
    if not isinstance(learner.data.read, ImageReader) or learner.data.vocab is None:
        raise ConfigError(f"{run} was not trained on pictures with classes, so it cannot be measured on a folder")
    views, record = _views(learner, run, tta), Trained.of(run)
    if record.is_on(data):
        valid_pct, split_seed, label = record.completed(valid_pct, split_seed, label, quiet=output.quiet)
    found, loader = vision.labeled(
        data,
        learner.data.read,
        learner.data.vocab,
        valid=valid_pct,
        seed=42 if split_seed is None else split_seed,
        label=label,
        on_bad_data=on_bad_data,
        progress=not output.quiet,
    )
    _refuse_other_kind(learner, found, run, data)
    result = {"run": run, "data": data, "tta": tta, **_measured(_predicted(learner, loader, views), learner.data.vocab)}
    result["trained_on"] = record.trained_on(found, data, quiet=output.quiet)
    result["skipped"] = [{"file": name, "reason": reason} for name, _, reason in found.skipped]
    if not output.quiet:
        _tell(result)
    return result


def _refuse_other_kind(learner: Learner, found: PictureSet, run: str, data: str) -> None:
    """Refuse labels that the model's outputs do not answer to."""
    from etude.errors import ConfigError
    from etude.training.predict import probabilities_of

    kind, several = probabilities_of(learner.loss_fn), found.valid[1].ndim == 2
    if kind != ("sigmoid" if several else "softmax"):
        model = {"softmax": "names one class for each picture", "sigmoid": "answers yes or no for each class"}
        labels = "several labels joined by ';'" if several else "one label each"
        says = model.get(str(kind), "gives no probabilities, as its loss is one of your own")
        raise ConfigError(f"the model of {run} {says}, but the pictures in {data} have {labels}; give data of its kind")


def _measured(predictions: Predictions, vocab: Vocab) -> dict[str, Any]:
    """Accuracy over all and of each class, and the cross entropy."""
    import torch

    assert predictions.targets is not None
    if predictions.targets.ndim == 2:
        return _measured_answers(predictions.output, predictions.targets, vocab)
    targets, guesses = predictions.targets, predictions.output.argmax(1)
    chosen = predictions.output.gather(1, targets.unsqueeze(1)).clamp(min=1e-12)
    right = (guesses == targets).double()
    classes = {
        name: {"samples": int((targets == i).sum()), "accuracy": float(right[targets == i].mean())}
        for i, name in enumerate(vocab)
        if (targets == i).any()
    }
    return {
        "samples": len(targets),
        "accuracy": float(right.mean()),
        "cross_entropy": float(-torch.log(chosen).mean()),
        "classes": classes,
    }


def _measured_answers(output: Tensor, targets: Tensor, vocab: Vocab) -> dict[str, Any]:
    """For several labels: right yes-or-no answers over all and of each class, and the binary cross entropy."""
    from torch.nn.functional import binary_cross_entropy

    right = ((output > 0.5) == (targets > 0.5)).double()
    classes = {
        name: {"samples": int(targets[:, i].sum()), "accuracy": float(right[:, i].mean())}
        for i, name in enumerate(vocab)
    }
    return {
        "samples": len(targets),
        "answers": targets.numel(),
        "accuracy": float(right.mean()),
        "cross_entropy": float(binary_cross_entropy(output.float(), targets.float())),
        "classes": classes,
    }


def _tell(result: dict[str, Any]) -> None:
    """The accuracy of each class, worst first, and over all."""
    width = max(map(len, result["classes"]))
    if "answers" in result:
        for name, row in sorted(result["classes"].items(), key=lambda item: item[1]["accuracy"]):
            right = f"{row['accuracy']:7.2%}  of {result['samples']} answers, of which {row['samples']} are yes"
            print(f"  {name.ljust(width)}  {right}")
        print(
            f"{result['accuracy']:.2%} of {result['answers']} yes-or-no answers right, "
            f"binary cross entropy {result['cross_entropy']:.4f}"
        )
        return
    for name, row in sorted(result["classes"].items(), key=lambda item: item[1]["accuracy"]):
        right = round(row["accuracy"] * row["samples"])
        print(f"  {name.ljust(width)}  {row['accuracy']:7.2%}  {right} of {row['samples']}")
    right = round(result["accuracy"] * result["samples"])
    print(
        f"{right} of {result['samples']} pictures right: {result['accuracy']:.2%}, "
        f"cross entropy {result['cross_entropy']:.4f}"
    )
