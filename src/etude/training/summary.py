"""A model's layers with output shapes and parameters, seen without touching the model."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError
from etude.hooks import forward_hooks
from etude.training.transfer import HoldNorms, norm_state

if TYPE_CHECKING:
    from etude.training.learner import Learner

_HEAD = ("layer", "kind", "output", "parameters", "trainable", "norms")


class LayerRow(NamedTuple):
    """One child of the model."""

    name: str
    kind: str
    shape: tuple[int, ...] | None
    """Of the output; None when it is not one tensor, or the layer was not reached."""
    parameters: int
    trainable: int
    norms: str = ""
    """How many norms it holds and what they do in a training step; see `etude.training.transfer`."""


@dataclass(frozen=True)
class Summary:
    """The model's layers in order; iterate over `rows`, or print it."""

    model: str
    rows: list[LayerRow]

    @override
    def __repr__(self) -> str:
        cells = [_HEAD, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(w) if i in (3, 4) else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        total, trainable = sum(row.parameters for row in self.rows), sum(row.trainable for row in self.rows)
        return "\n".join([*map(str.rstrip, lines), f"{self.model}: {total:,} parameters, {trainable:,} trainable"])

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        return _html_table([_cells(row) for row in self.rows])


def summarize(learner: Learner, *, all_layers: bool = False) -> Summary:
    """The summary of a learner's model from one batch of its data: its children or, if asked, the layers in them.

    Runs in evaluation mode without gradients, so running statistics stay as they are.

    Raises:
        ConfigError: the learner has no data to take a batch from.

    Source: SPEC X10.
    """
    loader = learner.data.valid or learner.data.train
    if loader is None:
        raise ConfigError("a summary needs one batch, and this learner has no data; use `layer_table(model)`")
    with torch.random.fork_rng([learner.device] if learner.device.type == "cuda" else []):
        batch = next(loader.batches(learner.progress.epoch, learner.device))
    shapes: dict[nn.Module, tuple[int, ...] | None] = {}

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        shapes[module] = tuple(output.shape) if isinstance(output, Tensor) else None

    layers = _layers(learner.model, all_layers)
    with forward_hooks(dict(layers).values(), look):
        learner.preds(batch)
    held = [name for one in learner.callbacks if isinstance(one, HoldNorms) for name in one.names]
    return Summary(type(learner.model).__name__, _rows(learner.model, layers, shapes, held))


def layer_table(model: nn.Module) -> str:
    """The model's children and their parameters as HTML, without running it."""
    return _html_table([_cells(row) for row in _rows(model, _layers(model, False), {})])


def _layers(model: nn.Module, whole: bool) -> list[tuple[str, nn.Module]]:
    """The model's children or, if the whole is asked for, the layers without children in it, with their names."""
    if whole:
        return [(name, module) for name, module in model.named_modules() if not list(module.children())]
    return list(model.named_children()) or [("", model)]


def _rows(
    model: nn.Module,
    layers: Sequence[tuple[str, nn.Module]],
    shapes: dict[nn.Module, tuple[int, ...] | None],
    held: Sequence[str] = (),
) -> list[LayerRow]:
    states = norm_state(model, held)
    return [
        LayerRow(
            name,
            type(child).__name__,
            shapes.get(child),
            sum(parameter.numel() for parameter in child.parameters()),
            sum(parameter.numel() for parameter in child.parameters() if parameter.requires_grad),
            _counted([state for norm, state in states.items() if f"{norm}.".startswith(f"{name}." if name else "")]),
        )
        for name, child in layers
    ]


def _counted(states: list[str]) -> str:
    """Norms in words, such as "5 train"; of one, its state alone."""
    counts = Counter(states)
    return ", ".join(f"{num} {state}" if len(states) > 1 else state for state, num in counts.items())


def _cells(row: LayerRow) -> tuple[str, ...]:
    shape = "" if row.shape is None else "x".join(map(str, row.shape))
    return row.name, row.kind, shape, f"{row.parameters:,}", f"{row.trainable:,}", row.norms


def _html_table(rows: list[tuple[str, ...]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<table><thead><tr>{''.join(f'<th>{name}</th>' for name in _HEAD)}</tr></thead><tbody>{cells}</tbody></table>"
    )
