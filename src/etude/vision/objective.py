"""What is minimized and what is measured, by the kind of targets: one class, several labels, or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from etude.data.loaders import ArrayLoader, DataLoaders
from etude.errors import ConfigError
from etude.losses import BinaryCrossEntropy, FocalLoss, LabelSmoothingCrossEntropy, LossFn
from etude.metrics import (
    R2,
    RMSE,
    BalancedAccuracy,
    MacroF1,
    Metric,
    accuracy,
    binary_cross_entropy,
    cross_entropy,
    exact_match,
    mae,
    multilabel_accuracy,
)
from etude.regression import NumberLoss, NumberLossName
from etude.vision.pictures import PictureLoader

ClassWeights: TypeAlias = Tensor | Sequence[float] | Sequence[Sequence[float]] | Literal["balanced"] | None

DEFAULT_SMOOTHING = 0.1


def loss_for(
    data: DataLoaders,
    loss_fn: LossFn | NumberLossName | None,
    label_smoothing: float,
    class_weights: ClassWeights,
    focal: float,
) -> LossFn:
    """The loss of a learner; see `vision.learner`.

    Raises:
        ConfigError: a setting that has no effect on such targets.
    """
    if isinstance(class_weights, str) and class_weights != "balanced":
        raise ConfigError(f"class_weights must be 'balanced', a tensor, a list or None, got {class_weights!r}")
    asked = [name for name, given in (("class_weights", class_weights is not None), ("focal", focal)) if given]
    if isinstance(loss_fn, str):
        if data.numbers is None:
            raise ConfigError(f"the loss {loss_fn!r} is one of numbers, and these targets are classes")
    elif loss_fn is not None:
        if asked:
            raise ConfigError(f"{' and '.join(asked)} would change the loss that you give; leave out one of the two")
        return loss_fn
    if data.numbers is not None:
        if asked or label_smoothing not in (0, DEFAULT_SMOOTHING):
            named = [*asked, *([f"label_smoothing={label_smoothing}"] if not asked else [])]
            belong, have = ("belong", "have") if len(named) > 1 or named == ["class_weights"] else ("belongs", "has")
            raise ConfigError(f"{' and '.join(named)} {belong} to classes and {have} no effect on numbers")
        return NumberLoss(loss_fn or "mse", data.numbers.std)
    weights = balanced_weights(data) if isinstance(class_weights, str) else _weights_of(data, class_weights)
    if focal:
        return FocalLoss(focal, weights, label_smoothing, binary=data.several_labels)
    if data.several_labels:
        return BinaryCrossEntropy(label_smoothing, weights)
    if weights is None:
        return LabelSmoothingCrossEntropy(label_smoothing)
    return nn.CrossEntropyLoss(weights, label_smoothing=label_smoothing)


def _weights_of(
    data: DataLoaders, weights: Tensor | Sequence[float] | Sequence[Sequence[float]] | None
) -> Tensor | None:
    """Weights that a user gives, as a tensor; raises `ConfigError` for another number of them than of classes."""
    if weights is None:
        return None
    try:
        given = weights if isinstance(weights, Tensor) else torch.tensor(weights, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"class_weights must be numbers, one for each class, got {weights!r}") from error
    num = data.num_classes
    shape, form = ((2, num), "(2, classes), of a no and of a yes") if data.several_labels else ((num,), "(classes,)")
    if given.shape != shape:
        names = "" if data.vocab is None else f" {list(data.vocab)[:5]}{' ...' if num > 5 else ''}"
        raise ConfigError(f"class_weights must be {form}, and there are {num} classes{names}, got {tuple(given.shape)}")
    return given


def metrics_for(data: DataLoaders, *, unequal: bool) -> Mapping[str, Metric]:
    """What is shown of such targets; with `unequal` classes, also what counts each of them alike."""
    if data.numbers is not None:
        return {"mae": mae, "rmse": RMSE(), "r2": R2()}
    if data.several_labels:
        return {
            "accuracy": multilabel_accuracy,
            "cross_entropy": binary_cross_entropy,
            "macro_f1": MacroF1(),
            "exact_match": exact_match,
        }
    plain: dict[str, Metric] = {"accuracy": accuracy, "cross_entropy": cross_entropy}
    return {**plain, "balanced_accuracy": BalancedAccuracy(), "macro_f1": MacroF1()} if unequal else plain


def draws_balanced(data: DataLoaders) -> bool:
    """Whether training pictures are drawn so that classes come equally often."""
    return isinstance(data.train, PictureLoader) and data.train.sampling.weights is not None


def balanced_weights(data: DataLoaders) -> Tensor:
    """Weights with which every class counts as much in the loss, however few its training pictures are.

    Returns:
        For one class each, (classes,): samples / (classes * samples of the class). For several labels (2, classes),
        where the yes and the no of a class count as much: samples / (2 * samples of that answer). The mean over all
        samples, or answers, is 1, so that a loss stays comparable.

    Raises:
        ConfigError: training pictures are drawn in balance already, or their targets are not known.
    """
    if draws_balanced(data):
        raise ConfigError(
            "sampling='balanced' shows every class equally often already, and class_weights='balanced' on top of it "
            "would make rare classes count more than common ones; leave one of them out"
        )
    if not isinstance(data.train, PictureLoader | ArrayLoader):
        raise ConfigError(f"class_weights='balanced' counts stored targets, and {type(data.train).__name__} has none")
    targets = data.train.targets.cpu()
    if data.several_labels:
        yes = (targets > 0.5).double().sum(0)
        counts = torch.stack([len(targets) - yes, yes])
        # an answer that never comes has nothing to be weighted
        return torch.where(counts > 0, len(targets) / (2 * counts), 1.0).float()
    counts = torch.bincount(targets, minlength=data.num_classes).double()
    return torch.where(counts > 0, len(targets) / ((counts > 0).sum() * counts), 1.0).float()
