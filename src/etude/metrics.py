"""Metrics, and the meter that averages them over an epoch without waiting for the device.

A metric is a function (preds, targets) -> the mean over the samples given, or one value per sample. What is no mean
over samples, such as F1, is a `SetMetric`: sums that are added up, and a value made of them at the end. The meter
keeps the predictions of a block of batches and computes each metric once per block: on a small model the
metrics of every single step would cost more than the rest of the training loop. Predictions that are more than one
tensor cannot be joined, so those are computed at once. Everything stays on the device until `compute`, which reads it
once.

What costs much, or means nothing where a training objective holds penalties, is left out of training: `ValidOnly`, and
`OfLoss` for what follows from the mean loss alone and so costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypedDict, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from etude.errors import ConfigError
from etude.set_metrics import R2 as R2
from etude.set_metrics import RMSE as RMSE
from etude.set_metrics import BalancedAccuracy as BalancedAccuracy
from etude.set_metrics import MacroF1 as MacroF1
from etude.set_metrics import MergedMetric as MergedMetric
from etude.set_metrics import SetMetric as SetMetric
from etude.set_metrics import average_precisions as average_precisions
from etude.set_metrics import wide
from etude.types import MixedTargets, StepOutput, count_targets

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@final
@dataclass(frozen=True)
class ValidOnly:
    """A metric that is computed in validation, and not in training, where it would cost too much."""

    name: str
    """What its column is called."""
    metric: Callable[..., Tensor] | SetMetric


@final
@dataclass(frozen=True)
class OfLoss:
    """A number made of the mean validation loss. Training has none: its loss may hold penalties."""

    name: str
    """What its column is called."""
    value: Callable[[float], float]


Metric: TypeAlias = Callable[..., Tensor] | SetMetric | ValidOnly | OfLoss


def _exponential(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


perplexity = OfLoss("perplexity", _exponential)
"""Of a language model whose loss is the cross entropy per token: between how many words it seems to waver. SPEC R14."""

_BLOCK_BATCHES = 50
_BLOCK_BYTES = 64 << 20


def accuracy(preds: Float[Tensor, "*batch class"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """The share of samples whose highest score is the target's.

    Raises:
        ConfigError: there are no scores of several classes, or the targets are not class numbers.

    Source: SPEC A17.
    """
    if preds.ndim != targets.ndim + 1 or preds.shape[-1] < 2 or targets.is_floating_point():
        raise ConfigError(
            f"accuracy compares scores (batch, classes) with class numbers (batch), got {tuple(preds.shape)} and "
            f"{targets.dtype} {tuple(targets.shape)}; for other outputs pass a metric of your own"
        )
    return _share(preds.argmax(-1) == targets)


def top_k_accuracy(
    preds: Float[Tensor, "*batch class"], targets: Int[Tensor, "*batch"], k: int = 5
) -> Float[Tensor, ""]:
    """The share of samples whose target is among the `k` highest scores. Use `partial(top_k_accuracy, k=3)`."""
    if k > preds.shape[-1]:
        raise ConfigError(f"top_k_accuracy with k={k} needs at least {k} classes, the model has {preds.shape[-1]}")
    return _share((preds.topk(k, dim=-1).indices == targets.unsqueeze(-1)).any(-1))


def multilabel_accuracy(
    preds: Float[Tensor, "batch class"], targets: Float[Tensor, "batch class"]
) -> Float[Tensor, ""]:
    """The share of right answers to "is this class there?", over all samples and classes; a score above 0 says yes."""
    return _share((preds > 0) == (targets > 0.5))


def cross_entropy(preds: Float[Tensor, "batch class"], targets: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Plain cross entropy: comparable between runs with and without label smoothing."""
    return F.cross_entropy(preds, targets)


def exact_match(preds: Float[Tensor, "batch class"], targets: Float[Tensor, "batch class"]) -> Float[Tensor, ""]:
    """The share of samples of which every answer is right: all of its labels, and no other."""
    return _share(((preds > 0) == (targets > 0.5)).all(1))


def mae(preds: Float[Tensor, "batch number"], targets: Float[Tensor, "batch number"]) -> Float[Tensor, ""]:
    """The mean absolute error, in the units of the targets; over several numbers their mean."""
    return (wide(preds) - wide(targets)).abs().mean()


def binary_cross_entropy(
    preds: Float[Tensor, "batch class"], targets: Float[Tensor, "batch class"]
) -> Float[Tensor, ""]:
    """Plain binary cross entropy: comparable between runs with and without label smoothing or weights."""
    return F.binary_cross_entropy_with_logits(preds, targets.to(preds.dtype))


def _share(hits: Bool[Tensor, "..."]) -> Float[Tensor, ""]:
    """The mean of yes and no, in float64 where the device has it, so that 308 of 360 is 0.8556 to the last digit."""
    return wide(hits).mean()


class _Seen(NamedTuple):
    """What a metric needs of one batch."""

    loss: Tensor
    preds: Any
    targets: Any
    size: int

    @property
    def num_targets(self) -> int:
        """What the batch counts in a mean: its samples, or their tokens."""
        return count_targets(self.targets, self.size)


class MeterState(TypedDict):
    """What a meter has added up."""

    block: list[list[Any]]
    bytes: int
    count: int
    sums: dict[str, Tensor]


class EpochMeter:
    """The mean loss and metrics of one pass over the data, each batch weighted by its number of samples or tokens.

    Args:
        metrics: name to metric; see `named`.
        loss_is_sum: the loss function sums over the batch instead of averaging.
        training: leave out what is for validation only.
    """

    def __init__(self, metrics: Mapping[str, Metric], *, loss_is_sum: bool = False, training: bool = False) -> None:
        self._metrics, self._of_loss = _for_pass(metrics, training)
        self._loss_is_sum = loss_is_sum
        self._block: list[_Seen] = []
        self._bytes = 0
        self._count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, output: StepOutput) -> None:
        """Count one batch. Batches that were skipped before the model ran carry no loss and are left out."""
        if output.preds is None:
            return
        # what is needed later and no more: the inputs of fifty batches would fill a GPU
        self._block.append(_Seen(output.loss, output.preds, output.batch.targets, output.batch.size))
        # decided by types alone, so that sums do not depend on what else is done with the state
        waits = type(output.preds) is Tensor and type(output.batch.targets) in (Tensor, MixedTargets)
        self._bytes += output.preds.nbytes if waits else 0
        if not waits or len(self._block) >= _BLOCK_BATCHES or self._bytes > _BLOCK_BYTES:
            self._reduce_block()

    def compute(self) -> dict[str, float]:
        """The means so far: the one place where the host waits for the device. Empty when nothing was added."""
        self._reduce_block()
        if not self._count:
            return {}
        flat = torch.cat([value.flatten() for value in self._sums.values()]).cpu()
        parts = flat.split([value.numel() for value in self._sums.values()])
        values = {
            name: self._value(name, part.view_as(value))
            for (name, value), part in zip(self._sums.items(), parts, strict=True)
        }
        return values | {name: metric.value(values["loss"]) for name, metric in self._of_loss.items()}

    def _value(self, name: str, sums: Tensor) -> float:
        metric = self._metrics.get(name)
        return metric.value(sums) if isinstance(metric, SetMetric) else float(sums / self._count)

    def state_dict(self) -> MeterState:
        """What was added so far: batches that are not summed yet stay so, since sums depend on their order."""
        block = [[seen.loss, seen.preds, _hard(seen.targets), seen.size] for seen in self._block]
        return {"block": block, "bytes": self._bytes, "count": self._count, "sums": dict(self._sums)}

    def load_state_dict(self, state: MeterState, device: torch.device) -> None:
        """Go on from there, on a device."""
        state = tree_map_only(Tensor, lambda tensor: tensor.to(device), state)
        self._block = [_Seen(*seen) for seen in state["block"]]
        self._bytes, self._count, self._sums = state["bytes"], state["count"], dict(state["sums"])

    def _reduce_block(self) -> None:
        block, self._block, self._bytes = self._block, [], 0
        if not block:
            return
        # numbers of the host times numbers of the device: a tensor of sizes would have to be copied there
        losses = torch.stack([seen.loss for seen in block])
        form = losses.dtype if losses.device.type == "mps" else torch.float64
        amounts = [self._amount(seen) for seen in block]
        self._add("loss", torch.stack(torch._foreach_mul(list(losses.to(form).unbind()), amounts)).sum())
        self._count += sum(seen.num_targets for seen in block)
        if not self._metrics:
            return
        for preds, targets, size in _joined(block):
            # targets are one tensor here, so each sample has as many of them as any other
            count = count_targets(targets, size)
            for name, metric in self._metrics.items():
                if isinstance(metric, SetMetric):
                    self._add(name, metric.sums(preds, targets).to(form))
                    continue
                value = torch.as_tensor(metric(preds, targets), device=losses.device).to(form)
                if value.ndim and len(value) != size:
                    raise ConfigError(
                        f"the metric {name} gave {tuple(value.shape)} for {size} samples; expected their mean, or one "
                        "value for each; what is neither is a SetMetric"
                    )
                self._add(name, value * count if value.ndim == 0 else value.sum() * (count // size))

    def _amount(self, seen: _Seen) -> float:
        return 1.0 if self._loss_is_sum else float(seen.num_targets)

    def _add(self, name: str, value: Tensor) -> None:
        metric = self._metrics.get(name)
        if name not in self._sums:
            self._sums[name] = value
        elif isinstance(metric, MergedMetric):
            self._sums[name] = metric.merge(self._sums[name], value)
        else:
            self._sums[name] = self._sums[name] + value


def named(metrics: Sequence[Metric] | Mapping[str, Metric]) -> dict[str, Metric]:
    """The metrics under their functions' names.

    Raises:
        ConfigError: two have the same name; pass a dict then.
    """
    if isinstance(metrics, Mapping):
        return dict(metrics)
    if not isinstance(metrics, Sequence) or not all(map(_is_metric, metrics)):
        raise ConfigError(f"metrics must be a list of functions (preds, targets), such as [accuracy], got {metrics!r}")
    names = [_name(metric) for metric in metrics]
    if len(set(names)) < len(names):
        raise ConfigError(f"two metrics have the same name: {names}. Pass a dict of name to metric.")
    return dict(zip(names, metrics, strict=True))


def _is_metric(given: Any) -> bool:
    return callable(given) or isinstance(given, SetMetric | ValidOnly | OfLoss)


def _for_pass(
    metrics: Mapping[str, Metric], training: bool
) -> tuple[dict[str, Callable[..., Tensor] | SetMetric], dict[str, OfLoss]]:
    """What is computed from predictions in a pass over the data, and what follows from its mean loss."""
    computed: dict[str, Callable[..., Tensor] | SetMetric] = {}
    for name, metric in metrics.items():
        if isinstance(metric, ValidOnly):
            computed |= {} if training else {name: metric.metric}
        elif not isinstance(metric, OfLoss):
            computed[name] = metric
    of_loss = {name: metric for name, metric in metrics.items() if isinstance(metric, OfLoss) and not training}
    return computed, of_loss


def _name(metric: Metric) -> str:
    if isinstance(metric, SetMetric | ValidOnly | OfLoss):
        return metric.name
    if isinstance(metric, partial):
        arguments = "_".join(f"{name}{value}" for name, value in metric.keywords.items())
        return "_".join(filter(None, (_name(metric.func), arguments)))
    name = getattr(metric, "__name__", type(metric).__name__)
    return str(name)


def _hard(targets: Any) -> Any:
    return targets.dominant if isinstance(targets, MixedTargets) else targets


def _joined(block: list[_Seen]) -> list[tuple[Any, Any, int]]:
    """Predictions, hard targets and count: the whole block at once, or batch by batch where it cannot be joined."""
    parts = [(seen.preds, _hard(seen.targets), seen.size) for seen in block]
    tensors = all(isinstance(preds, Tensor) and isinstance(targets, Tensor) for preds, targets, _ in parts)
    if not tensors or len({(preds.shape[1:], targets.shape[1:]) for preds, targets, _ in parts}) > 1:
        return parts
    preds, targets, counts = zip(*parts, strict=True)
    return [(torch.cat(preds), torch.cat(targets), sum(counts))]
