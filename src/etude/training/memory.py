"""How much memory training takes: what lies there all the time, and what one step adds at its peak.

On a CPU, where torch keeps no account, every operation of one step is watched and the bytes of each tensor it makes
are counted from its making to its end. On a CUDA GPU torch's own account of the device is read.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from etude.types import Batch, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.training.step import Step

COUNTED = "tensors of one step, counted operation by operation; what kernels and libraries take is not in it"
ALLOCATED = "torch.cuda.max_memory_allocated over one step; the CUDA context is not in it"
COMPILED = "the step's peak is not known: a compiled model's operations cannot be watched on this device"


@dataclass(frozen=True)
class Memory:
    """Bytes of one training process that belong to the model; what the data takes is not in it."""

    parameters: int
    """Weights, and buffers such as running statistics."""
    gradients: int
    """Of all trainable parameters."""
    optimizer: int
    """Momentum and the like."""
    activations: int | None
    """The most that one step makes beside gradients: what the backward pass needs, and what operations make on the
    way. None where it cannot be counted."""
    peak: int | None
    """The most of all that at one moment of a step; gradients and activations have their peaks at different ones."""
    how: str
    """How activations and peak were found."""


class StepMemory:
    """A step function that finds how many bytes the tensors it makes take at their peak.

    Args:
        step: the learner's own.
        known: tensors that are there before the step.
        counted: False when the model's operations cannot be watched.
    """

    def __init__(self, step: Step, known: Iterable[Tensor], *, counted: bool) -> None:
        self.step, self.counted = step, counted
        self._tensors = _LiveTensors(known)
        self._allocated = 0

    def __call__(self, learner: Learner, batch: Batch) -> StepOutput:
        """One step, counted."""
        if learner.device.type == "cuda":
            return self._on_cuda(learner, batch)
        if not self.counted:
            return self.step(learner, batch)
        for tensor in _tensors_in(batch):
            self._tensors.add(tensor)
        with self._tensors.gradients_of(learner.model), self._tensors:
            return self.step(learner, batch)

    def _on_cuda(self, learner: Learner, batch: Batch) -> StepOutput:
        torch.cuda.synchronize(learner.device)
        before = torch.cuda.memory_allocated(learner.device)
        torch.cuda.reset_peak_memory_stats(learner.device)
        output = self.step(learner, batch)
        torch.cuda.synchronize(learner.device)
        self._allocated = max(self._allocated, torch.cuda.max_memory_allocated(learner.device) - before)
        return output

    def result(self, learner: Learner) -> Memory:
        """What one step of this learner has taken, and what lies there all the time."""
        model, optimizer = learner.model, learner.optimizer
        assert optimizer is not None
        fixed = _bytes([*model.parameters(), *model.buffers()])
        gradients = _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
        state = _bytes(_tensors_in(list(optimizer.state.values())))
        if learner.device.type == "cuda":
            activations, added, how = max(self._allocated - gradients, 0), self._allocated, ALLOCATED
        elif self.counted:
            activations, added, how = self._tensors.most_beside, self._tensors.most, COUNTED
        else:
            return Memory(fixed, gradients, state, None, None, COMPILED)
        return Memory(fixed, gradients, state, activations, fixed + state + added, how)


class _LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors from when an operation makes them until the last of them is gone."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own gap
        self._live = self._grads = 0
        self.most = 0
        """The most bytes at one moment."""
        self.most_beside = 0
        """The same beside gradients that are complete."""
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    @override
    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors_in(result):
            self.add(tensor)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's memory, unless it is that of another one."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._live += size
        self.most, self.most_beside = max(self.most, self._live), max(self.most_beside, self._live - self._grads)
        # another tensor may get the same address afterwards
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size

    @contextmanager
    def gradients_of(self, model: nn.Module) -> Iterator[None]:
        """Know gradients as such from when they are complete."""
        had = {parameter for parameter in model.parameters() if parameter.grad is not None}

        def complete(parameter: Tensor) -> None:
            if parameter not in had and parameter.grad is not None:
                had.add(parameter)  # type: ignore[arg-type]  # it is one
                self._grads += parameter.grad.nbytes

        with ExitStack() as stack:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    stack.callback(parameter.register_post_accumulate_grad_hook(complete).remove)
            yield


def _tensors_in(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of the memory behind tensors, each piece once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())
