"""Layer groups, and the optimizer that a learner keeps from one fit to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.errors import ConfigError
from etude.optim import LAYER_GROUP, LayerGroup, OptimizerFactory, check_groups

Groups: TypeAlias = Callable[[nn.Module], Sequence[Iterable[nn.Parameter] | nn.Module]]
"""From a model to its layer groups, first layers first; a module stands for all its parameters."""


@runtime_checkable
class HasLayerGroups(Protocol):
    """A model that knows its own layer groups."""

    def layer_groups(self) -> Sequence[Iterable[nn.Parameter] | nn.Module]:
        """First layers first."""
        ...


def layer_groups(model: nn.Module, groups: Groups | None = None) -> list[LayerGroup]:
    """The model's parameters in layer groups; every parameter is in exactly one.

    Args:
        model: what to divide.
        groups: how; None takes the model's own `layer_groups()`, else a single group.

    Raises:
        ConfigError: naming the parameters that are missing, come twice, or are not the model's. Source: SPEC T9.
    """
    if groups is not None:
        parts = groups(model)
    elif isinstance(model, HasLayerGroups):
        parts = model.layer_groups()
    else:
        parts = [model.parameters()]
    lists = [list(part.parameters() if isinstance(part, nn.Module) else part) for part in parts]
    names = {parameter: name for name, parameter in model.named_parameters()}
    seen = [parameter for part in lists for parameter in part]
    if foreign := [tuple(parameter.shape) for parameter in seen if parameter not in names]:
        raise ConfigError(f"layer groups hold tensors of shapes {foreign[:5]} that are not parameters of the model")
    times = Counter(seen)
    if missing := [name for parameter, name in names.items() if parameter not in times]:
        raise ConfigError(
            f"layer groups leave out {missing[:5]} ({len(missing)} in all); every parameter needs a group"
        )
    if twice := sorted(names[parameter] for parameter, count in times.items() if count > 1):
        raise ConfigError(f"{twice[:5]} are in more than one layer group")
    return [{"params": part, "layer_group": i} for i, part in enumerate(lists)]


def make_optimizer(
    factory: OptimizerFactory, groups: list[LayerGroup], before: Optimizer | None
) -> tuple[Optimizer, str]:
    """The optimizer for these groups: the one from before if nothing changed, else a new one.

    A new one takes over the state (momentum, step counts) of every tensor that is still there.

    Returns:
        The optimizer, and a line that says what happened when that is worth saying.
    """
    if before is not None and _tensors(before.param_groups) == _tensors(groups):
        return before, ""
    optimizer = factory([{**group, "params": list(group["params"])} for group in groups])
    check_groups(optimizer)
    if before is None:
        return optimizer, ""
    kept = {parameter for group in groups for parameter in group["params"] if parameter in before.state}
    for parameter in kept:
        optimizer.state[parameter] = {
            name: _laid_out_as(parameter, value) for name, value in before.state[parameter].items()
        }
    return optimizer, f"new optimizer: the parameter groups changed; state carried over for {len(kept)} tensors"


def check_instance(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer whose tensors are not the model's.

    Raises:
        ConfigError: it was made for another model, or before a part of this one was replaced.
    """
    check_groups(optimizer)
    own, given = set(model.parameters()), {p for group in optimizer.param_groups for p in group["params"]}
    if given - own:
        raise ConfigError(
            f"the optimizer holds {len(given - own)} tensors that are not parameters of the model, so it would train "
            "something else. Make it after the model is complete, or pass the class: optimizer=torch.optim.AdamW."
        )
    if missing := [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter not in given
    ]:
        raise ConfigError(
            f"the optimizer does not hold {missing[:5]} ({len(missing)} trainable tensors in all); freeze or add them"
        )


def _tensors(groups: Iterable[Mapping[str, Any]]) -> dict[int, set[nn.Parameter]]:
    """The tensors by layer group; groups without any are left out."""
    found: dict[int, set[nn.Parameter]] = {}
    for group in groups:
        if group["params"]:
            found.setdefault(group.get(LAYER_GROUP, 0), set()).update(group["params"])
    return found


def _laid_out_as(parameter: nn.Parameter, value: Any) -> Any:
    """State in the parameter's memory format: torch's fused CPU kernels give wrong results when the two differ."""
    if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value
