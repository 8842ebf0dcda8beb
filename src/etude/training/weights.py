"""Load weights with a report: what was taken over, what is missing, what was not used. Nothing is silent.

Source: SPEC T1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude.errors import LoadError
from etude.training.tensor_files import is_same_type

_FEW = 5
"""Names given of each kind."""


@final
@dataclass(frozen=True)
class LoadReport:
    """What became of the weights of a file. Print it."""

    source: str
    model: str
    loaded: list[str]
    missing: list[str]
    """Of the model, and not in the file: they stay as they were."""
    unexpected: list[str]
    """In the file, and not of the model: they are not used."""
    reshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    """Name, shape in the file, shape in the model: they are not used."""

    @property
    def whole(self) -> bool:
        """Whether every tensor of either side found its own."""
        return not (self.missing or self.unexpected or self.reshaped)

    @override
    def __repr__(self) -> str:
        return "\n".join([f"{len(self.loaded)} tensors of {self.source} loaded into {self.model}", *self.problems])

    @property
    def problems(self) -> list[str]:
        """What did not find its own, a line for each kind."""
        lines = []
        shapes = [f"{name} ({_shape(theirs)} in the file, {_shape(own)} here)" for name, theirs, own in self.reshaped]
        for title, names in (
            ("not in the file, left as they were", self.missing),
            ("in the file, not used", self.unexpected),
            ("of another shape, not used", shapes),
        ):
            if names:
                more = f", and {len(names) - _FEW} more" if len(names) > _FEW else ""
                lines.append(f"  {len(names)} {title}: {', '.join(names[:_FEW])}{more}")
        return lines


def load_exactly(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a model that has exactly these names, shapes and types; raises `LoadError` with a report."""
    check_weights(model, weights, source)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(weights[name])


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are not exactly those of a model, which may be one without memory, on the meta device.

    Raises:
        LoadError: naming what is missing, unexpected, or of another shape or type.
    """
    report = compare(model, weights, source)
    if not report.whole:
        raise LoadError(f"the weights of {source} do not fit {report.model}:\n" + "\n".join(report.problems))
    refuse_other_types(model.state_dict(), weights, report)


def compare(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> LoadReport:
    """What would become of weights, by names and shapes; nothing is loaded."""
    own = model.state_dict()
    both = [name for name in own if name in weights]
    shapes = [(name, tuple(weights[name].shape), tuple(own[name].shape)) for name in both]
    return LoadReport(
        source,
        type(model).__name__,
        loaded=[name for name, theirs, ours in shapes if theirs == ours],
        missing=[name for name in own if name not in weights],
        unexpected=[name for name in weights if name not in own],
        reshaped=[(name, theirs, ours) for name, theirs, ours in shapes if theirs != ours],
    )


def refuse_other_types(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], report: LoadReport) -> None:
    """Raise `LoadError` where a tensor that would be loaded holds numbers of another type than the model's."""
    if odd := [name for name in report.loaded if not is_same_type(own[name], weights[name])]:
        types = ", ".join(f"{name} {weights[name].dtype} instead of {own[name].dtype}" for name in odd[:_FEW])
        raise LoadError(f"the weights of {report.source} are of other types than those of the model: {types}")


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor] | str | os.PathLike[str],
    *,
    source: str = "",
    wanted: Callable[[str], bool] | None = None,
) -> LoadReport:
    """Copy what fits by name and shape into a model, and report the rest.

    Args:
        model: its other tensors stay as they are.
        weights: a state dict; or a `.safetensors` file, or the folder of a run or saved model.
        source: what the weights are called in the report; the path unless said otherwise.
        wanted: names that must be loaded, each of them; None loads what there is. With it, nothing is copied when one
            of them is missing or has another shape.

    Raises:
        LoadError: a wanted tensor cannot be loaded, no tensor fits at all, or the file is damaged.
    """
    if isinstance(weights, str | os.PathLike):
        from etude.training import saving

        return load_weights(model, saving.read_weights(weights), source=source or os.fspath(weights), wanted=wanted)
    own, report = model.state_dict(), compare(model, weights, source or "the weights")
    lacking = [name for name in own if wanted is not None and wanted(name) and name not in set(report.loaded)]
    if lacking or not report.loaded:
        what = f"{len(lacking)} tensors that are needed are not there" if lacking else "no tensor fits"
        raise LoadError(
            f"the weights of {report.source} are not those of this {report.model}: {what}. Is it another architecture, "
            "or one with other options?\n" + "\n".join(report.problems)
        )
    refuse_other_types(own, weights, report)
    with torch.no_grad():
        for name in report.loaded:
            own[name].copy_(weights[name])
    return report


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
