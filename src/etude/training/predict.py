"""Predictions for new items, with their labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from etude.data.ahead import read_ahead, reading
from etude.data.files import find_images
from etude.data.loaders import Loader, as_loader
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.losses import BinaryCrossEntropy, FocalLoss, LabelSmoothingCrossEntropy, LossFn
from etude.training.predictions import Prediction as Prediction
from etude.training.predictions import Predictions as Predictions
from etude.types import Batch

if TYPE_CHECKING:
    from etude.training.learner import Learner

Views: TypeAlias = Callable[[Tensor], Iterable[Tensor]]
"""A batch of inputs -> the same samples, each time seen in another way, such as `vision.Views()`."""

BATCH_SIZE = 64


@runtime_checkable
class _Named(Protocol):
    """A loader that knows what its samples are called."""

    @property
    def names(self) -> list[str]:
        """One for each sample."""
        ...


@runtime_checkable
class ReadsTexts(Protocol):
    """A reader for which a `str` is the text itself; only a `Path` names a file."""

    vocab: Vocab
    """The tokens that texts are made of."""

    def files_in(self, folder: Path) -> list[Path]:
        """The files of texts below a folder, sorted."""
        ...


def predict(learner: Learner, items: Any = None, views: Views | None = None) -> Prediction | Predictions:
    """A `Prediction` of one item, or `Predictions` of many; see `Learner.predict`.

    Args:
        learner: who predicts.
        items: what; see there. A folder means all pictures below it, sorted; an iterator, such as a generator of paths,
            is read a batch at a time. Items are read in threads where the data's reader allows it. Where the model
            reads texts, a `str` is a text, and a folder (a `Path`) means all text files below it.
        views: predict several views of each item and take the mean of their probabilities, not of the scores in front
            of the softmax: so each view has one vote, where a large score would outvote the others. A loss that
            defines no probabilities gives the mean of the outputs.

    Raises:
        ConfigError: the learner's model is a language model.
    """
    read = learner.data.read
    if isinstance(read, ReadsTexts) and learner.data.vocab == read.vocab:
        raise ConfigError(
            "a language model says the next word, not what a text is: etude.text.generate(learner, prompt) lets it "
            "write, and learner.evaluate() tells its perplexity"
        )
    loader = _loader_of(learner, items)
    if loader is not None:
        names = tuple(loader.names) if isinstance(loader, _Named) else ()
        return _of_batches(learner, loader.batches(0, learner.device), views, names)
    if isinstance(items, Tensor) and learner.data.collate is None:
        if read is not None and items.dtype != torch.uint8:
            raise DataError(f"expected a batch of uint8 pixels, 0 to 255, got {items.dtype}; preprocessing scales them")
        return _of_batches(learner, (Batch(part, None) for part in items.split(BATCH_SIZE)), views)
    if read is not None and _is_path(items, read) and Path(items).is_dir():
        items = read.files_in(items) if isinstance(read, ReadsTexts) else find_images(Path(items))
    if isinstance(items, list | tuple | Iterator):
        names_of: list[str] = []
        return _of_batches(learner, _read_in_batches(learner, items, names_of), views, names_of)
    return _of_batches(learner, _read_in_batches(learner, [items], []), views)[0]


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


def _read_in_batches(learner: Learner, items: Iterable[Any], names: list[str]) -> Iterator[Batch]:
    """Batches of items, read ahead in threads; appends the name of each that is a path."""
    read, collate = learner.data.read or _as_tensor, learner.data.collate or torch.stack
    inputs: list[Tensor] = []
    with reading(read) as (threaded, threads):
        for item, found in read_ahead(threaded, items, threads=threads, ahead=2 * BATCH_SIZE):
            if isinstance(found, DataError):
                raise found
            inputs.append(found)
            if _is_path(item, read):
                names.append(os.fspath(item))
            if len(inputs) == BATCH_SIZE:
                yield Batch(collate(inputs), None)
                inputs = []
    if inputs:
        yield Batch(collate(inputs), None)


def _is_path(item: Any, read: Any) -> bool:
    return isinstance(item, os.PathLike) or (isinstance(item, str) and not isinstance(read, ReadsTexts))


def _as_tensor(item: Any) -> Tensor:
    if not isinstance(item, Tensor):
        raise ConfigError(
            f"this learner's data does not say how to read a {type(item).__name__}; pass tensors of inputs, "
            "or data=DataLoaders(..., read=function)"
        )
    return item


def _of_batches(
    learner: Learner, batches: Iterable[Batch], views: Views | None, names: Sequence[str] = ()
) -> Predictions:
    outputs, targets, indices = [], [], []
    with learner.evaluating():
        for batch in batches:
            outputs.append(_output(learner, batch) if views is None else _mean_output(learner, batch, views))
            if isinstance(batch.targets, Tensor):
                targets.append(batch.targets.cpu())
            if batch.indices is not None:
                indices.append(batch.indices.cpu())
    if not outputs:
        raise DataError("there are no items to predict")
    output, answers = torch.cat(outputs), torch.cat(targets) if targets else None
    if len(indices) == len(outputs):
        # back into the order of the data set: texts come sorted by length
        found, order = torch.cat(indices).sort(stable=True)
        output, answers = output[order], None if answers is None else answers[order]
        names = [names[i % len(names)] for i in found.tolist()] if names else ()
    kind, vocab, numbers = probabilities_of(learner.loss_fn), learner.data.vocab, learner.data.numbers
    return Predictions(
        output,
        answers,
        vocab,
        kind is not None,
        # one output is the probability of the second of two classes, unless there is but one
        several=kind == "sigmoid" and output.ndim == 2 and (output.shape[1] > 1 or len(vocab or ()) == 1),
        numbers=() if numbers is None else numbers.names,
        names=tuple(names) if len(names) == len(output) else None,
    )


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

    Training on soft labels (MixUp, smoothing) or with a focal loss changes nothing here. Source: SPEC M9.
    """
    if isinstance(loss_fn, FocalLoss):
        return "sigmoid" if loss_fn.binary else "softmax"
    if isinstance(loss_fn, nn.CrossEntropyLoss | LabelSmoothingCrossEntropy) or loss_fn is F.cross_entropy:
        return "softmax"
    return "sigmoid" if isinstance(loss_fn, nn.BCEWithLogitsLoss | BinaryCrossEntropy) else None
