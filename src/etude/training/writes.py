"""Who else wrote to the weights and to the optimizer's state since its last step, found without reading them.

torch counts the writes to every tensor in `_version`. Remembered after each step of the optimizer and compared before
the next, the counts name the few tensors that something else wrote to, and only those need reading. Writes that torch
does not see are not counted: through `tensor.data`, a NumPy array of the same memory, or DLPack.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, isnan
from operator import attrgetter, is_
from typing import Final, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

_version = attrgetter("_version")
_SCALES_THE_STEP: Final = ("lr", "momentum", "weight_decay", "dampening")
"""Settings that must be finite; others, a bound say, may be infinite, but never NaN."""
_MOST: Final = torch.finfo(torch.float32).max
_AT_FIRST: Final = ", which was not finite when this fit made its first update"
_LATER: Final = ", which something other than the optimizer's step wrote since the update before"
_LOST: Final = (
    ": the update overflowed, or something wrote through tensor.data. Those weights are lost, go back to saved ones"
)


class Suspects(NamedTuple):
    """What has to be finite before the optimizer may step, beside losses and gradients."""

    tensors: list[Tensor]
    origin: str
    """How a bad value can have come into them, in words."""
    setting: str = ""
    """A setting of the optimizer that is not finite, in words."""


@final
class Writes:
    """Watches the parameters of a model and the state of its optimizer for one fit.

    Args:
        model: its trained parameters are watched.
        optimizer: torch's or any other; tensors that its state gains or replaces on the way are watched from then on.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._values: list[object] = []
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        self._num_params = -1
        self._first, self._relisted, self._nested = True, False, False

    def suspects(self) -> Suspects | None:
        """What something other than the optimizer's step wrote since `remember`; everything, the first time."""
        setting, tensors = self._bad_setting(), self._written()
        if not tensors and not setting:
            return None
        return Suspects(tensors, _AT_FIRST if self._first else _LATER, setting)

    def remember(self) -> None:
        """Note what the optimizer's step has just written."""
        self._first = False
        if self._relisted:
            # the first step makes the state, and a few optimizers make it anew in every step
            self._list(self._state_values())
            self._relisted = False
        self._versions = list(map(_version, self._tensors))

    def place(self, suspects: Suspects) -> str:
        """The first suspect that is not finite, in words; empty if all are."""
        if suspects.setting:
            return suspects.setting
        bad = {id(tensor) for tensor in suspects.tensors if not all_finite(tensor)}
        for name, tensor in self._named():
            if id(tensor) in bad:
                return f"{name}{suspects.origin}"
        return f"the optimizer's state{suspects.origin}" if bad else ""

    def weights(self) -> list[Tensor]:
        """What is trained, each once; a frozen tensor may hold infinities on purpose, a mask say."""
        groups = [tensor for group in self._optimizer.param_groups for tensor in group["params"]]
        every = {id(tensor): tensor for tensor in [*self._model.parameters(), *groups]}
        return [tensor for tensor in every.values() if tensor.requires_grad]

    def bad_weight(self) -> str:
        """The first weight that is not finite, in words that say what is left; empty if there is none.

        Reads every weight: for the ends of epochs, where an update that overflowed would be seen by no later step.
        """
        bad = [tensor for tensor in self.weights() if not all_finite(tensor)]
        if not bad:
            return ""
        where = self.place(Suspects(bad, ""))
        if {id(tensor) for tensor in bad} <= {id(tensor) for tensor in self._written()}:
            return f"{where}{_LATER}; all other weights are those of that step"
        return f"{where}{_LOST}"

    def _written(self) -> list[Tensor]:
        values = self._state_values()
        num_params = sum([len(group["params"]) for group in self._optimizer.param_groups])
        same = len(values) == len(self._values) and num_params == self._num_params
        if same and all(map(is_, values, self._values)):
            versions = list(map(_version, self._tensors))
            if versions == self._versions:
                return []
            changed = zip(self._tensors, versions, self._versions, strict=True)
            return [tensor for tensor, now, then in changed if now != then]
        known = {id(tensor): then for tensor, then in zip(self._tensors, self._versions, strict=True)}
        # the old tensors live on until the new list is compared, so that no new tensor can have an old one's id
        old, self._num_params, self._relisted = self._tensors, num_params, True
        self._list(values)
        written = [tensor for tensor in self._tensors if known.get(id(tensor)) != tensor._version]
        del old
        return written

    def _list(self, values: list[object]) -> None:
        """Make the flat list of what is watched: weights, settings and state, numbers of the state as tensors."""
        leaves = tree_leaves(values)
        settings = [value for group in self._optimizer.param_groups for value in group.values()]
        self._nested = self._nested or len(leaves) != len(values) or not all(map(is_, leaves, values))
        self._values, self._tensors = leaves, self.weights()
        self._tensors += [value for value in settings if isinstance(value, Tensor)]
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                self._tensors.append(leaf)
            elif isinstance(leaf, float):
                self._tensors.append(torch.tensor(leaf))

    def _state_values(self) -> list[object]:
        """What the state holds, except plain ints: a count of steps, another one after every step and always finite."""
        states = self._optimizer.state.values()
        try:
            values = [value for state in states for value in state.values() if value.__class__ is not int]
        except AttributeError:  # a user's optimizer can keep other things than a dict for each tensor
            return tree_leaves(list(states))
        return tree_leaves(values) if self._nested else values

    def _bad_setting(self) -> str:
        for i, group in enumerate(self._optimizer.param_groups):
            for name, value in group.items():
                # what float32 cannot hold (1e300) is an infinity to the weights
                if isinstance(value, float) and not abs(value) < _MOST and (isnan(value) or name in _SCALES_THE_STEP):
                    return f"the {name} of the optimizer's group {i}, {value}"
            betas = group.get("betas", ())
            if isinstance(sum(betas), float) and not isfinite(sum(betas)):
                return f"the betas of the optimizer's group {i}, {betas}"
        return ""

    def _named(self) -> Iterator[tuple[str, object]]:
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        for name, parameter in self._model.named_parameters():
            yield f"the parameter {name}", parameter
        for i, group in enumerate(self._optimizer.param_groups):
            for key, value in group.items():
                yield f"the {key} of the optimizer's group {i}", value
        for owner, state in self._optimizer.state.items():
            of = names.get(id(owner), "a tensor that is not the model's")
            for key, value in state.items() if isinstance(state, dict) else [("state", state)]:
                for leaf in tree_leaves(value):
                    yield f"the optimizer's {key} of {of}", leaf


def all_finite(value: object) -> bool:
    """Whether nothing in a tensor is infinite or NaN; anything else is taken to be finite."""
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return True
    return bool(dense_values(value).isfinite().all())


def dense_values(tensor: Tensor) -> Tensor:
    """The numbers that a sparse tensor holds; any other tensor as it is."""
    return tensor.coalesce().values() if tensor.is_sparse else tensor
