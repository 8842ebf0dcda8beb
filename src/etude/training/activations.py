"""Activation statistics layer by layer: where a network's values fade, explode, or are nothing but zeros.

Source: SPEC X11; Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude.data.convert import to_device
from etude.errors import ConfigError
from etude.hooks import forward_hooks, mode
from etude.training.precision import FullPrecision
from etude.types import Batch

if TYPE_CHECKING:
    import os

    from etude.training.learner import Learner

NEAR_ZERO = 1e-3
"""Values of at most this size count as near zero; a ReLU's are exactly zero."""
_HEAD = ("layer", "kind", "output", "mean", "deviation", "near zero", "dead channels")


class LayerStatistics(NamedTuple):
    """The values that one layer gave for one batch."""

    name: str
    kind: str
    """Class of the module."""
    shape: tuple[int, ...]
    mean: float
    deviation: float
    """Standard deviation over all values."""
    near_zero: float
    """Share of the values that are near zero, in [0, 1]."""
    dead: float
    """Share of the channels (features, in a layer without maps) that are near zero everywhere in the batch."""


@final
@dataclass(frozen=True)
class ActivationStatistics:
    """One row for each layer, in the order in which they work; print it for a table."""

    rows: tuple[LayerStatistics, ...]
    training: bool
    """Whether norms took the batch's own mean and deviation, and dropout was on."""

    @override
    def __repr__(self) -> str:
        cells = [_HEAD, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        )

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in map(_cells, self.rows)
        )
        head = "".join(f"<th>{name}</th>" for name in _HEAD)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Write a PNG: mean and deviation, and the share near zero, from the first layer to the last."""
        from pathlib import Path

        from etude.plots import save_figure
        from etude.training.interpret_plots import activations_figure

        save_figure(activations_figure(self), Path(path))


def activation_statistics(
    learner: Learner, batch: Batch | None = None, *, training: bool = False, near_zero: float = NEAR_ZERO
) -> ActivationStatistics:
    """Mean, deviation and share near zero of what each layer gives for one batch; the model stays as it is.

    A layer is a module none of whose own parts was called: convolutions, norms, activations. What a `forward` computes
    without a module is not seen.

    Args:
        learner: whose model, in its precision and with averaged weights, if it has them.
        batch: what the model is shown, as the data yields it; None takes the first validation batch, or with
            `training` the next training batch.
        training: norms take the batch's own statistics, and dropout works; running statistics and torch's global
            generators are put back.
        near_zero: what counts as near zero.

    Raises:
        ConfigError: there is no data to take a batch from.
    """
    batch = to_device(batch if batch is not None else _batch_of(learner, training=training), learner.device)
    precision = learner.precision or FullPrecision("fp32", learner.device)
    seen: list[_Seen] = []
    called: set[nn.Module] = set()
    names = {module: name for name, module in learner.model.named_modules()}

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) and output else output
        # parts are done before the whole
        whole = any(part in called for part in module.modules() if part is not module)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() and not whole:
            seen.append(_Seen(module, tuple(value.shape), _measured(value.detach(), near_zero)))
        called.add(module)

    with (
        torch.no_grad(),
        learner.evaluating(),
        mode(learner.model, training=training),
        _put_back(learner) if training else nullcontext(),
        forward_hooks(names, look),
    ):
        learner.run(learner.model, batch, precision)
    if not seen:
        raise ConfigError(f"no layer of {type(learner.model).__name__} gave a tensor of numbers")
    return ActivationStatistics(tuple(_rows(names, seen)), training)


class _Seen(NamedTuple):
    """One call of a layer."""

    module: nn.Module
    shape: tuple[int, ...]
    numbers: Tensor
    """Mean, deviation, shares near zero and dead, on the device."""


def _measured(value: Tensor, near_zero: float) -> Tensor:
    value = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    deviation, mean = torch.std_mean(value, correction=0)
    small = value.abs() <= near_zero
    # channels come second in maps, features last in everything else
    others = [axis for axis in range(value.ndim) if axis != (1 if value.ndim > 3 else value.ndim - 1)]
    dead = small.all(0) if len(others) == 1 else small.amin(others)
    return torch.stack([mean, deviation, small.float().mean(), dead.float().mean()]).double()


def _rows(names: dict[nn.Module, str], seen: list[_Seen]) -> Iterator[LayerStatistics]:
    calls: dict[nn.Module, int] = {}
    for one in seen:
        calls[one.module] = calls.get(one.module, 0) + 1
        again = f" (call {calls[one.module]})" if calls[one.module] > 1 else ""
        mean, deviation, near_zero, dead = one.numbers.tolist()
        name = names[one.module] or "model"
        kind = type(one.module).__name__
        yield LayerStatistics(name + again, kind, one.shape, mean, deviation, near_zero, dead)


def _cells(row: LayerStatistics) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape))
    mean, deviation = (f"{value:.3g}" if math.isfinite(value) else str(value) for value in (row.mean, row.deviation))
    return row.name, row.kind, shape, mean, deviation, f"{row.near_zero:.1%}", f"{row.dead:.1%}"


def _batch_of(learner: Learner, *, training: bool) -> Batch:
    if training and learner.data.train is not None:
        return learner.one_batch()
    loader = learner.data.valid or learner.data.train
    if loader is None:
        raise ConfigError("statistics need one batch, and this learner has no data; pass batch=")
    with torch.random.fork_rng([learner.device] if learner.device.type == "cuda" else []):
        return next(iter(loader.batches(learner.progress.epoch, learner.device)))


@contextmanager
def _put_back(learner: Learner) -> Iterator[None]:
    """What a pass in training mode moves, put back: running statistics, and torch's global generators."""
    buffers = [(buffer, buffer.clone()) for buffer in learner.model.buffers()]
    with torch.random.fork_rng([learner.device] if learner.device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
