"""Losses for unequal classes and for several labels: the focal loss, the binary cross entropy, weights of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


class BinaryCrossEntropy(nn.Module):
    """For each class a yes or no, from one score each: the loss of several labels.

    Args:
        smoothing: the share of every answer that is "cannot say": a yes becomes 1 - smoothing / 2, a no smoothing / 2.
        class_weight: (2, classes): what a no and what a yes of each class counts.
        reduction: "mean", "sum" or "none".
    """

    def __init__(self, smoothing: float = 0.0, class_weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.smoothing, self.reduction = checked_share(smoothing), checked_reduction(reduction)
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", _checked_weight(class_weight, binary=True), persistent=False)

    @override
    def forward(self, preds: Float[Tensor, "batch class"], targets: Float[Tensor, "batch class"]) -> Tensor:
        return reduce(_binary_losses(preds, targets, 0.0, self.smoothing, self.class_weight), self.reduction)

    @override
    def extra_repr(self) -> str:
        weighted = "" if self.class_weight is None else ", weighted"
        return f"smoothing={self.smoothing}{weighted}, reduction={self.reduction!r}"


class FocalLoss(nn.Module):
    """Cross entropy that looks less at what is right already: the loss of each class times (1 - probability)^gamma.

        loss = -weight[class] * (1 - p[class])^gamma * log p[class]

    Made for classes so unequal that the many easy samples would drown the few that matter. A gamma of 0 is the plain
    cross entropy, weighted and reduced as torch's. With smoothing, each class's loss counts by its share of the target.

    Args:
        gamma: the paper's best is 2; at 0.9 a right answer then counts 100 times less than in cross entropy.
        class_weight: the paper's alpha. (classes,), where a mean is divided by the weights as in torch; for `binary`
            (2, classes): of a no and of a yes.
        label_smoothing: as in `LabelSmoothingCrossEntropy`, for `binary` as in `BinaryCrossEntropy`.
        binary: a yes or no for each class, targets 0 and 1, instead of one class number for each sample.
        reduction: "mean", "sum" or "none".

    Source: Lin et al. 2017, "Focal loss for dense object detection", equation 5.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        class_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        *,
        binary: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if not 0 <= gamma < float("inf"):
            raise ConfigError(f"gamma must be a finite number of at least 0, such as 2, got {gamma}")
        self.gamma, self.binary = float(gamma), binary
        self.label_smoothing, self.reduction = checked_share(label_smoothing), checked_reduction(reduction)
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", _checked_weight(class_weight, binary=binary), persistent=False)

    @override
    def forward(self, preds: Float[Tensor, "batch class *rest"], targets: Shaped[Tensor, "batch ..."]) -> Tensor:
        if self.binary != targets.is_floating_point():
            kind = "0 and 1 for each class" if self.binary else "class numbers"
            raise ConfigError(f"FocalLoss(binary={self.binary}) takes {kind}, got targets of {targets.dtype}")
        weight = self.class_weight
        if self.binary:
            return reduce(_binary_losses(preds, targets, self.gamma, self.label_smoothing, weight), self.reduction)
        losses = _focal_losses(preds.log_softmax(1), targets, self.gamma, self.label_smoothing, weight)
        if weight is None or self.reduction != "mean":
            return reduce(losses, self.reduction)
        return losses.sum() / weight[targets].sum()

    @override
    def extra_repr(self) -> str:
        weighted = "" if self.class_weight is None else ", weighted"
        kind = ", binary=True" if self.binary else ""
        return (
            f"gamma={self.gamma}, label_smoothing={self.label_smoothing}{weighted}{kind}, reduction={self.reduction!r}"
        )


def _focal_losses(log_probs: Tensor, targets: Tensor, gamma: float, smoothing: float, weight: Tensor | None) -> Tensor:
    """The focal loss of each sample from log probabilities (batch, classes, ...)."""
    true = log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
    losses = -true * _difficulty(true, gamma)
    if weight is not None:
        losses = losses * weight[targets]
    if not smoothing:
        return losses
    every = -log_probs * _difficulty(log_probs, gamma)
    if weight is not None:
        every = every * weight.view(-1, *[1] * (log_probs.ndim - 2))
    return (1 - smoothing) * losses + smoothing * every.mean(1)


def _difficulty(log_probs: Tensor, gamma: float) -> Tensor | float:
    """(1 - p)^gamma; never from exactly 0, where the slope of a small gamma is infinite."""
    if gamma == 0:
        return 1.0
    return (-torch.expm1(log_probs)).clamp(min=torch.finfo(log_probs.dtype).tiny) ** gamma


def _binary_losses(preds: Tensor, targets: Tensor, gamma: float, smoothing: float, weight: Tensor | None) -> Tensor:
    """The loss of each answer: of the yes and of the no, by their shares of the target."""
    share = targets * (1 - smoothing) + smoothing / 2
    log_yes, log_no = F.logsigmoid(preds), F.logsigmoid(-preds)
    # 1 - p of the one is p of the other, which keeps every digit
    yes = -log_yes * (log_no * gamma).exp() if gamma else -log_yes
    no = -log_no * (log_yes * gamma).exp() if gamma else -log_no
    if weight is not None:
        no, yes = no * weight[0], yes * weight[1]
    return share * yes + (1 - share) * no


def reduce(losses: Float[Tensor, "..."], reduction: str) -> Float[Tensor, "..."]:
    """Reduce by "mean" or "sum", or not at all by "none"; anything else raises `ConfigError`."""
    if checked_reduction(reduction) == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def checked_reduction(reduction: str) -> str:
    """A reduction that torch knows; raises `ConfigError` for another."""
    if reduction not in ("mean", "sum", "none"):
        raise ConfigError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return reduction


def checked_share(smoothing: float) -> float:
    """A share of smoothing in [0, 1); raises `ConfigError` for another."""
    if not 0 <= smoothing < 1:
        raise ConfigError(f"smoothing must be in [0, 1), got {smoothing}")
    return smoothing


def _checked_weight(weight: Tensor | None, *, binary: bool) -> Tensor | None:
    if weight is None:
        return None
    if weight.ndim != (2 if binary else 1) or (binary and len(weight) != 2) or not (weight >= 0).all():
        shape = "(2, classes), of a no and of a yes" if binary else "(classes,)"
        raise ConfigError(f"class_weight must be {shape}, none below 0, got {tuple(weight.shape)}: {weight}")
    return weight.float()
