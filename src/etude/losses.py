"""Losses, and the one place that knows what mixed targets and sample weights do to them.

`apply` computes the loss of a batch whatever its targets are; `per_sample` is the same loss before the
reduction. Cross entropy and label smoothing share one log-softmax for all labels of a mixed batch; any other
loss, a module or a plain function, is computed once per label with its reduction switched off. Targets may be
mixed several times: a loss of a mix of mixes is the mean of means.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError
from etude.focal import BinaryCrossEntropy as BinaryCrossEntropy
from etude.focal import FocalLoss as FocalLoss
from etude.focal import checked_reduction, checked_share
from etude.focal import reduce as reduce
from etude.types import MixedTargets

if TYPE_CHECKING:
    from jaxtyping import Float, Int

LossFn: TypeAlias = Callable[..., Tensor]


class LabelSmoothingCrossEntropy(nn.Module):
    """Cross entropy against targets softened by `smoothing`.

    The true class gets 1 - smoothing + smoothing / num_classes, every other class smoothing / num_classes:
    equal to `torch.nn.functional.cross_entropy(label_smoothing=smoothing)`. The same formula is used in training
    and validation, so a smoothed loss is comparable between the two and not with a plain cross entropy.

    Args:
        smoothing: the share of the target spread over the classes, in [0, 1). 0.1 is what the paper found good on
            ImageNet, and what every later recipe copied.
        reduction: "mean", "sum" or "none".
        exclude_true: spread `smoothing` over the *other* classes only (the form printed in the lesson's text, with
            smoothing / (num_classes - 1) each). Equal to the default with smoothing * k / (k - 1).

    Source: Szegedy et al. 2015, "Rethinking the Inception architecture", section 7; SPEC L1.
    """

    def __init__(self, smoothing: float = 0.1, reduction: str = "mean", *, exclude_true: bool = False) -> None:
        super().__init__()
        self.smoothing, self.reduction = checked_share(smoothing), checked_reduction(reduction)
        self.exclude_true = exclude_true

    @override
    def forward(self, preds: Float[Tensor, "batch class *rest"], targets: Int[Tensor, "batch *rest"]) -> Tensor:
        smoothing = _spread(self.smoothing, preds.shape[1], self.exclude_true)
        return F.cross_entropy(preds, targets, label_smoothing=smoothing, reduction=self.reduction)

    @override
    def extra_repr(self) -> str:
        return f"smoothing={self.smoothing}, reduction={self.reduction!r}"


def smoothed_losses(
    log_probs: Float[Tensor, "batch class"],
    targets: Int[Tensor, "batch"] | MixedTargets,
    smoothing: float = 0.0,
    exclude_true: bool = False,
) -> Float[Tensor, "batch"]:
    """The smoothed cross entropy of each sample; for mixed targets the weighted mean of all labels' losses."""
    true = _log_prob_of(log_probs, targets)
    if not smoothing:
        # nothing times the infinity of a ruled-out class would be NaN
        return -true
    smoothing = _spread(smoothing, log_probs.shape[-1], exclude_true)
    return -((1 - smoothing) * true + smoothing * log_probs.mean(-1))


def _spread(smoothing: float, num_classes: int, exclude_true: bool) -> float:
    """The share spread over all classes that leaves the true one as much as `smoothing` over the others does."""
    return smoothing * num_classes / (num_classes - 1) if exclude_true else smoothing


def apply(loss_fn: LossFn, preds: Any, targets: Any, weight: Float[Tensor, "batch"] | None = None) -> Tensor:
    """The loss of a batch, reduced as `loss_fn` says.

    Args:
        loss_fn: a loss module, or a function (preds, targets) -> loss.
        preds: what the model returned.
        targets: anything `loss_fn` takes, or `MixedTargets` of it.
        weight: how much each sample counts; the mean is then the weighted mean, and ones change nothing.

    Where a mean is divided by the weights of the classes, as torch's cross entropy does, it still is for mixed targets:
    by the weights of both labels, each by its share, so that a share of 1 is the loss without mixing.

        sum(s * w[a] * loss[a] + (1 - s) * w[b] * loss[b]) / sum(s * w[a] + (1 - s) * w[b])

    Raises:
        ConfigError: targets are mixed or weighted and the reduction of `loss_fn` cannot be switched off.

    Source: SPEC M4-M8.
    """
    if weight is None and not isinstance(targets, MixedTargets):
        return loss_fn(preds, targets)
    losses = per_sample(loss_fn, preds, targets)
    if reduction_of(loss_fn) == "mean":
        counts = _counts(loss_fn, targets, losses)
        if weight is None:
            return losses.sum() / counts.sum()
        return (losses * weight).sum() / (weight * counts).sum()
    return reduce(losses if weight is None else losses * weight, reduction_of(loss_fn))


def per_sample(loss_fn: LossFn, preds: Any, targets: Any) -> Float[Tensor, "batch"]:
    """The loss of each sample; what a loss gives per pixel or per token is reduced over the sample as it says."""
    if isinstance(targets, MixedTargets):
        smoothing = _smoothing_of(loss_fn, preds, targets)
        if smoothing is not None:
            return smoothed_losses(preds.log_softmax(-1), targets, *smoothing)
        first, second = per_sample(loss_fn, preds, targets.first), per_sample(loss_fn, preds, targets.second)
        return second.lerp(first, targets.weight.to(first.dtype))
    with unreduced(loss_fn) as elementwise:
        losses = elementwise(preds, targets)
    if losses.ndim == 0:
        raise ConfigError(f"{_name(loss_fn)} returned one number with reduction='none'; expected one per sample")
    if losses.ndim == 1:
        return losses
    return losses.flatten(1).sum(1) if reduction_of(loss_fn) == "sum" else losses.flatten(1).mean(1)


@contextmanager
def unreduced(loss_fn: LossFn) -> Iterator[LossFn]:
    """The loss with its reduction switched off; the module's own reduction is put back, also after an error.

    Raises:
        ConfigError: `loss_fn` has no `reduction` attribute and takes no `reduction` argument.
    """
    if isinstance(loss_fn, nn.Module):
        if "reduction" not in vars(loss_fn):
            raise ConfigError(
                f"the loss {_name(loss_fn)} has no `reduction` attribute, so it cannot be computed per sample, which "
                "MixUp and sample weights need. Give it `self.reduction` and honour the value 'none'."
            )
        before = loss_fn.reduction
        loss_fn.reduction = "none"  # type: ignore[assignment]  # a plain str attribute of the user's module
        try:
            yield loss_fn
        finally:
            loss_fn.reduction = before
    elif "reduction" in _parameters(loss_fn):
        yield partial(loss_fn, reduction="none")
    else:
        raise ConfigError(
            f"the loss {_name(loss_fn)} takes no `reduction` argument, so it cannot be computed per sample, which "
            "MixUp and sample weights need. Add `reduction='mean'` to its arguments and honour 'none'."
        )


def reduction_of(loss_fn: LossFn) -> str:
    """How a loss reduces a batch: its `reduction` attribute or argument default, else "mean"."""
    if isinstance(loss_fn, nn.Module):
        return str(vars(loss_fn).get("reduction", "mean"))
    if isinstance(loss_fn, partial) and "reduction" in loss_fn.keywords:
        return str(loss_fn.keywords["reduction"])
    argument = _parameters(loss_fn).get("reduction")
    return "mean" if argument is None or argument.default is argument.empty else str(argument.default)


def _smoothing_of(loss_fn: LossFn, preds: Any, targets: MixedTargets) -> tuple[float, bool] | None:
    """The arguments of `smoothed_losses` when the loss is a smoothed or plain cross entropy of class numbers."""
    if not isinstance(preds, Tensor) or preds.ndim != 2 or any(map(torch.is_floating_point, targets.labels())):
        return None
    if isinstance(loss_fn, LabelSmoothingCrossEntropy):
        return loss_fn.smoothing, loss_fn.exclude_true
    if loss_fn is F.cross_entropy:
        return 0.0, False
    # torch's smoothed one also knows ignored targets; it takes the general way
    if type(loss_fn) is not nn.CrossEntropyLoss or loss_fn.label_smoothing or loss_fn.weight is not None:
        return None
    return (0.0, False) if loss_fn.ignore_index == -100 else None


def _counts(loss_fn: LossFn, targets: Any, losses: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """What each sample counts in torch's own mean: 1, but class weights and ignored targets count in cross entropy."""
    if isinstance(targets, MixedTargets):
        first, second = _counts(loss_fn, targets.first, losses), _counts(loss_fn, targets.second, losses)
        return second.lerp(first, targets.weight.to(first.dtype))
    known = _class_weights(loss_fn)
    if known is None or not isinstance(targets, Tensor) or targets.is_floating_point():
        return torch.ones_like(losses)
    ignored, classes = known
    kept = targets != ignored
    each = kept.to(losses.dtype) if classes is None else classes[targets.where(kept, 0)] * kept
    return each if each.ndim == 1 else each.flatten(1).mean(1)


def _class_weights(loss_fn: LossFn) -> tuple[int, Tensor | None] | None:
    """The ignored target and the weights of classes by which a loss divides its mean; None where it does not."""
    if isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss):
        return loss_fn.ignore_index, loss_fn.weight
    if isinstance(loss_fn, FocalLoss):
        return -100, loss_fn.class_weight
    function, given = (loss_fn.func, loss_fn.keywords) if isinstance(loss_fn, partial) else (loss_fn, {})
    if function is F.cross_entropy or function is F.nll_loss:
        return given.get("ignore_index", -100), given.get("weight")
    return (-100, None) if isinstance(loss_fn, LabelSmoothingCrossEntropy) else None


def _log_prob_of(
    log_probs: Float[Tensor, "batch class"], targets: Int[Tensor, "batch"] | MixedTargets
) -> Float[Tensor, "batch"]:
    if not isinstance(targets, MixedTargets):
        return -F.nll_loss(log_probs, targets, reduction="none")
    first, second = _log_prob_of(log_probs, targets.first), _log_prob_of(log_probs, targets.second)
    return second.lerp(first, targets.weight.to(first.dtype))


def _parameters(function: LossFn) -> dict[str, inspect.Parameter]:
    """A callable's arguments by name."""
    return _of_function(function) if isinstance(function, FunctionType) else _read_parameters(function)


@lru_cache(maxsize=32)
def _of_function(function: FunctionType) -> dict[str, inspect.Parameter]:
    """Kept, because reading a signature takes longer than most losses."""
    return _read_parameters(function)


def _read_parameters(function: LossFn) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except ValueError:
        # torch's compiled functions have no signature
        return {}


def _name(loss_fn: LossFn) -> str:
    return (
        type(loss_fn).__name__
        if isinstance(loss_fn, nn.Module | partial)
        else getattr(loss_fn, "__name__", repr(loss_fn))
    )
