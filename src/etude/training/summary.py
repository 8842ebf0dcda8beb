"""A model's layers with output shapes and parameters, seen without touching the model."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError
from etude.hooks import forward_hooks

if TYPE_CHECKING:
    from etude.training.learner import Learner


class LayerRow(NamedTuple):
    """One child of the model."""

    name: str
    kind: str
    shape: tuple[int, ...] | None
    """Of the output; None when it is not one tensor, or the layer was not reached."""
    parameters: int
    trainable: int


@dataclass(frozen=True)
class Summary:
    """The model's direct children in order; iterate over `rows`, or print it."""

    model: str
    rows: list[LayerRow]

    @override
    def __repr__(self) -> str:
        cells = [("layer", "kind", "output", "parameters", "trainable"), *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        total, trainable = sum(row.parameters for row in self.rows), sum(row.trainable for row in self.rows)
        return "\n".join([*lines, f"{self.model}: {total:,} parameters, {trainable:,} trainable"])

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        return _html_table(["layer", "kind", "output", "parameters", "trainable"], [_cells(row) for row in self.rows])


def summarize(learner: Learner) -> Summary:
    """The summary of a learner's model from one batch of its data.

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

    with forward_hooks(learner.model.children(), look):
        learner.preds(batch)
    return Summary(type(learner.model).__name__, _rows(learner.model, shapes))


def layer_table(model: nn.Module) -> str:
    """The model's children and their parameters as HTML, without running it."""
    return _html_table(
        ["layer", "kind", "output", "parameters", "trainable"], [_cells(row) for row in _rows(model, {})]
    )


def _rows(model: nn.Module, shapes: dict[nn.Module, tuple[int, ...] | None]) -> list[LayerRow]:
    children = list(model.named_children()) or [("", model)]
    return [
        LayerRow(
            name,
            type(child).__name__,
            shapes.get(child),
            sum(parameter.numel() for parameter in child.parameters()),
            sum(parameter.numel() for parameter in child.parameters() if parameter.requires_grad),
        )
        for name, child in children
    ]


def _cells(row: LayerRow) -> tuple[str, str, str, str, str]:
    shape = "" if row.shape is None else "x".join(map(str, row.shape))
    return row.name, row.kind, shape, f"{row.parameters:,}", f"{row.trainable:,}"


def _html_table(head: list[str], rows: list[tuple[str, ...]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<table><thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead><tbody>{cells}</tbody></table>"
    )
