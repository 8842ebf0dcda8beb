"""What a classifier of texts minimizes and what is measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from etude.data.loaders import DataLoaders
from etude.errors import ConfigError
from etude.losses import LabelSmoothingCrossEntropy, LossFn
from etude.metrics import BalancedAccuracy, MacroF1, Metric, accuracy, cross_entropy
from etude.text.batching import BucketLoader

ClassWeights: TypeAlias = Tensor | Sequence[float] | Literal["balanced"] | None


def loss_for(data: DataLoaders, label_smoothing: float, class_weights: ClassWeights) -> LossFn:
    """Cross entropy of one class for each text; see `text.classifier`.

    Raises:
        ConfigError: weights that are not one for each class.
    """
    if class_weights is None:
        return LabelSmoothingCrossEntropy(label_smoothing)
    return nn.CrossEntropyLoss(_weights(data, class_weights), label_smoothing=label_smoothing)


def metrics_for(*, unequal: bool) -> Mapping[str, Metric]:
    """What is shown; with `unequal` classes, also what counts each of them alike."""
    plain: dict[str, Metric] = {"accuracy": accuracy, "cross_entropy": cross_entropy}
    return {**plain, "balanced_accuracy": BalancedAccuracy(), "macro_f1": MacroF1()} if unequal else plain


def _weights(data: DataLoaders, given: Tensor | Sequence[float] | Literal["balanced"]) -> Tensor:
    """One weight for each class; "balanced" makes each count as much, and the mean over all training texts 1."""
    num = data.num_classes
    if isinstance(given, str):
        if given != "balanced" or not isinstance(data.train, BucketLoader):
            raise ConfigError(f"class_weights must be 'balanced', a tensor, a list or None, got {given!r}")
        counts = torch.bincount(data.train.targets.cpu(), minlength=num).double()
        return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts), 1.0).float()
    try:
        weights = torch.as_tensor(given, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"class_weights must be numbers, one for each class, got {given!r}") from error
    if weights.shape != (num,):
        names = "" if data.vocab is None else f" {list(data.vocab)[:5]}{' ...' if num > 5 else ''}"
        raise ConfigError(f"class_weights must be (classes,), {num} of them{names}, got {tuple(weights.shape)}")
    return weights
