"""Layer groups, and the optimizer that a learner keeps from one fit to the next."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map, tree_map_only

from etude.errors import ConfigError
from etude.optim import LAYER_GROUP, LayerGroup, OptimizerFactory, check_groups

if TYPE_CHECKING:
    from etude.training.learner import Learner

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
        optimizer.state[parameter] = tree_map_only(Tensor, partial(_laid_out_as, parameter), before.state[parameter])
    return optimizer, f"new optimizer: the parameter groups changed; state carried over for {len(kept)} tensors"


def optimizer_of(learner: Learner, *, reset: bool) -> Optimizer:
    """The optimizer for a learner's model as it is now; kept from the last fit where that is possible.

    Raises:
        ConfigError: the learner was given an optimizer itself, and it is not of this model or to be made anew.
    """
    learner.model.zero_grad(set_to_none=True)
    if learner.factory is None:
        assert learner.optimizer is not None
        if reset:
            raise ConfigError("reset_optimizer needs a factory: pass optimizer=torch.optim.AdamW, not an instance")
        check_instance(learner.optimizer, learner.model)
        return learner.optimizer
    groups = layer_groups(learner.model, learner.groups)
    optimizer, message = make_optimizer(learner.factory, groups, None if reset else learner.optimizer)
    if message:
        learner.history.notes.append(message)
        print(message)
    return optimizer


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


def load_state(optimizer: Optimizer, state: Mapping[str, Any], *, settings: bool = True) -> None:
    """Put a state dict's tensors, and its hyper-parameters, into an optimizer of the same groups, bit for bit.

    Unlike torch's own loading it keeps each tensor's type, and lays each out as its parameter: fused CPU kernels give
    silently wrong results when the two differ.

    Args:
        optimizer: one of the class that the state is of.
        state: its state dict; each value may be of any form, and need not belong to a parameter.
        settings: take over the hyper-parameters too; otherwise the optimizer keeps its own.

    Raises:
        ConfigError: the groups hold other numbers of tensors.
    """
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    if type(optimizer).load_state_dict is Optimizer.load_state_dict:
        _load(optimizer, state)
    else:
        optimizer.load_state_dict(copy.deepcopy(dict(state)))
    for group, kept in zip(optimizer.param_groups, own, strict=True):
        group.update({} if settings else kept)


def _load(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    now, then = (
        [len(group["params"]) for group in groups] for groups in (optimizer.param_groups, state["param_groups"])
    )
    if now != then:
        raise ConfigError(f"the state is of an optimizer whose groups hold {then} tensors, this one's hold {now}")
    owners: dict[Any, tuple[nn.Parameter, bool]] = {}
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group.update(copy.deepcopy({name: value for name, value in saved.items() if name != "params"}))
        counts_on_device = bool(group.get("fused") or group.get("capturable"))
        pairs = zip(saved["params"], group["params"], strict=True)
        owners |= {number: (parameter, counts_on_device) for number, parameter in pairs}
    first = next(iter(owners.values()))
    optimizer.state.clear()
    for key, value in state["state"].items():
        parameter, counts_on_device = owners.get(key, first)
        place = partial(_placed, parameter, counts_on_device)
        optimizer.state[parameter if key in owners else key] = tree_map(place, value)


def _placed(parameter: nn.Parameter, counts_on_device: bool, value: Any) -> Any:
    """A copy of one value of the state, where the optimizer expects it."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if value.shape == parameter.shape and parameter.ndim:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    # torch keeps a count of steps on the host unless its kernel reads it on the device
    return value.detach().clone().to(parameter.device if value.ndim or counts_on_device else value.device)


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
