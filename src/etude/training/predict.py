"""Predictions for new items, with their labels."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from etude.data.loaders import Loader, as_loader
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.losses import LabelSmoothingCrossEntropy, LossFn
from etude.types import Batch

if TYPE_CHECKING:
    from etude.training.learner import Learner

Views: TypeAlias = Callable[[Tensor], Iterable[Tensor]]
"""A batch of inputs -> the same samples, each time seen in another way, such as `vision.Views()`."""

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Prediction:
    """What the model says of one item."""

    label: str
    """The most likely class; empty when the data has no classes."""
    probability: float
    """Of that class, in [0, 1]; NaN when the loss defines no probabilities."""
    output: Tensor
    """Every class's probability, or the model's plain output."""

    @override
    def __repr__(self) -> str:
        return (
            f"Prediction(label={self.label!r}, probability={self.probability:.4f})"
            if self.label
            else f"Prediction({self.output})"
        )

    def _repr_html_(self) -> str:
        """Label and probability in a notebook."""
        return f"<b>{html.escape(self.label)}</b> {self.probability:.1%}" if self.label else f"<pre>{self.output}</pre>"


@dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """What the model says of many items, in the order in which they came."""

    output: Tensor
    """Probabilities (items, classes), or the model's plain output."""
    targets: Tensor | None
    """The true classes, where they are known."""
    vocab: Vocab | None
    probable: bool
    """Whether `output` holds probabilities."""

    @override
    def __getitem__(self, i: int) -> Prediction:  # type: ignore[override]  # one item; slices are not needed
        row = self.output[i]
        if not self.probable or row.ndim != 1:
            return Prediction("", float("nan"), row)
        if len(row) == 1:
            # one output is the probability of the second of two classes
            row = torch.cat([1 - row, row])
        best = int(row.argmax())
        return Prediction(self.vocab[best] if self.vocab else str(best), float(row[best]), self.output[i])

    @property
    def num_right(self) -> int:
        """How many have their true class as the most likely one; raises `ConfigError` where classes are not known."""
        if self.targets is None or self.targets.ndim != 1 or self.output.ndim != 2:
            raise ConfigError("there are no true classes to compare with")
        return int((self.output.argmax(1) == self.targets).sum())

    @override
    def __len__(self) -> int:
        return len(self.output)

    @override
    def __repr__(self) -> str:
        shown = ", ".join(map(repr, list(self)[:3]))
        return f"Predictions({len(self)} items: {shown}{', ...' if len(self) > 3 else ''})"

    def _repr_html_(self) -> str:
        """The first twenty as a table in a notebook."""
        rows = "".join(
            f"<tr><td>{i}</td><td>{html.escape(p.label)}</td><td>{p.probability:.1%}</td></tr>"
            for i, p in zip(range(20), self, strict=False)
        )
        head = "<tr><th>item</th><th>label</th><th>probability</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def predict(learner: Learner, items: Any = None, views: Views | None = None) -> Prediction | Predictions:
    """A `Prediction` of one item, or `Predictions` of many; see `Learner.predict`.

    Args:
        learner: who predicts.
        items: what; see there.
        views: predict several views of each item and take the mean of their probabilities, not of the scores in front
            of the softmax: so each view has one vote, where a large score would outvote the others. A loss that
            defines no probabilities gives the mean of the outputs.
    """
    loader = _loader_of(learner, items)
    if loader is not None:
        return _of_batches(learner, loader.batches(0, learner.device), views)
    if isinstance(items, Tensor):
        if learner.data.read is not None and items.dtype != torch.uint8:
            raise DataError(f"expected a batch of uint8 pixels, 0 to 255, got {items.dtype}; preprocessing scales them")
        return _of_batches(learner, (Batch(part, None) for part in items.split(_BATCH_SIZE)), views)
    if isinstance(items, list | tuple):
        return _of_batches(learner, _read_in_batches(learner, items), views)
    return _of_batches(learner, _read_in_batches(learner, [items]), views)[0]


def _loader_of(learner: Learner, items: Any) -> Loader | None:
    """The loader that is meant, or None when `items` are items."""
    if items is None:
        if learner.data.valid is None:
            raise ConfigError("there is no validation data to predict; pass items or a loader")
        return learner.data.valid
    if isinstance(items, Loader | DataLoader):
        return as_loader(items)
    is_batches = isinstance(items, list) and bool(items) and isinstance(items[0], tuple | Batch)
    return as_loader(items) if is_batches else None


def _read_in_batches(learner: Learner, items: Sequence[Any]) -> Iterator[Batch]:
    if not items:
        raise DataError("there are no items to predict")
    read = learner.data.read
    if read is None:
        if not all(isinstance(item, Tensor) for item in items):
            raise ConfigError(
                f"this learner's data does not say how to read a {type(items[0]).__name__}; pass tensors of inputs, "
                "or data=DataLoaders(..., read=function)"
            )
        read = torch.as_tensor
    for start in range(0, len(items), _BATCH_SIZE):
        yield Batch(torch.stack([read(item) for item in items[start : start + _BATCH_SIZE]]), None)


def _of_batches(learner: Learner, batches: Iterable[Batch], views: Views | None) -> Predictions:
    outputs, targets = [], []
    with learner.evaluating():
        for batch in batches:
            outputs.append(_output(learner, batch) if views is None else _mean_output(learner, batch, views))
            if isinstance(batch.targets, Tensor):
                targets.append(batch.targets.cpu())
    is_probable = probabilities_of(learner.loss_fn) is not None
    return Predictions(torch.cat(outputs), torch.cat(targets) if targets else None, learner.data.vocab, is_probable)


def _output(learner: Learner, batch: Batch) -> Tensor:
    """A batch's probabilities, or the model's plain output, on the CPU."""
    preds = learner.preds(batch)
    if not isinstance(preds, Tensor):
        raise ConfigError(
            f"predict needs a model that returns one tensor, got {type(preds).__name__}; use learner.preds"
        )
    output, kind = preds.cpu(), probabilities_of(learner.loss_fn)
    return output.softmax(1) if kind == "softmax" else output.sigmoid() if kind == "sigmoid" else output


def _mean_output(learner: Learner, batch: Batch, views: Views) -> Tensor:
    """The mean over views of a batch, summed as they come, so that only one of them is in memory."""
    if not isinstance(batch.inputs, Tensor):
        raise ConfigError(f"views are made of inputs that are one tensor, got {type(batch.inputs).__name__}")
    total, count = None, 0
    for inputs in views(batch.inputs):
        output = _output(learner, batch._replace(inputs=inputs))
        total = output if total is None else total + output
        count += 1
    if total is None:
        raise ConfigError(f"{views} gave no view of a batch")
    return total / count


def probabilities_of(loss_fn: LossFn) -> str | None:
    """How outputs become probabilities: "softmax" after a cross entropy, "sigmoid" after a binary one, else None.

    Training on soft labels (MixUp, smoothing) changes nothing here. Source: SPEC M9.
    """
    if isinstance(loss_fn, nn.CrossEntropyLoss | LabelSmoothingCrossEntropy) or loss_fn is F.cross_entropy:
        return "softmax"
    return "sigmoid" if isinstance(loss_fn, nn.BCEWithLogitsLoss) else None
