"""The guard that keeps infinite and NaN values away from the weights, without waiting for the device.

Before each update one fused operation looks at the loss and every gradient and raises a flag on the device. So does
whatever something else than the optimizer wrote to the weights or the optimizer's state (writes.py). While the flag is
up, no update is made. The host reads it without waiting: on a CPU in the same step, on a GPU whenever a copy of it has
arrived. Running statistics of norms are kept from before the step, because a forward pass has already spoilt them when
a bad value is found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final, NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from etude.hooks import forward_hooks
from etude.training.fused import FusedStep
from etude.training.scaler import check_and_multiply, device_and_type
from etude.training.writes import Suspects, Writes, all_finite, dense_values
from etude.types import Batch

_LOOK_EVERY: Final = 10
"""Steps between two copies of the flag to the host, on a device that runs ahead of it."""
_MOST_UNREAD: Final = 4
"""Copies under way before the host waits for the oldest one: 50 steps in all."""


Gradients: TypeAlias = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor]]


class BadStep(NamedTuple):
    """The first step with a value that is not finite."""

    step: int
    batches: list[Batch]
    """What the model saw: one batch, or a window of accumulated ones."""
    suspects: Suspects | None = None
    seen: str = ""
    """Which loss or gradient was bad, where the host looked in the same step."""


class _Look(NamedTuple):
    """A copy of the flag on its way to the host, and the steps it speaks for."""

    state: Tensor
    arrived: torch.cuda.Event | None
    steps: list[BadStep]


@final
class FiniteGuard:
    """Watches the losses, gradients, weights and optimizer state of one fit.

    Args:
        model: its buffers (running statistics) can be put back to where they were before the bad step.
        optimizer: torch's fused ones skip on the device; for others the host asks the device before each step.
        device: where the model computes.
        deferred: read the flag later instead of in the same step; the default wherever the device runs ahead.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, device: torch.device, *, deferred: bool | None = None
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._deferred = device.type != "cpu" if deferred is None else deferred
        self._state = torch.zeros(2, device=device)
        self._flag, self._good_steps = self._state[0], self._state[1]
        self._one = torch.ones((), device=device)
        self._peek = None if self._deferred else self._flag.numpy()
        self._one_kind = False
        self._writes = Writes(model, optimizer)
        self._suspects: Suspects | None = None
        self._seen = ""
        self._step = FusedStep(optimizer)
        self._skips_itself = bool(vars(optimizer).get("_step_supports_amp_scaling"))
        self._buffers = sorted((buffer for buffer in model.buffers() if buffer.numel()), key=lambda b: str(b.dtype))
        self._kept = self._flat_buffers()
        self._host_knows = False
        self._looks: deque[_Look] = deque()
        self._since_look: list[BadStep] = []

    def before_step(self) -> None:
        """Keep the running statistics as they are before a step's first forward pass, unless the flag is up."""
        if not self._buffers:
            return
        for kept, now in zip(self._kept, self._flat_buffers(), strict=True):
            torch.where(self._flag > 0, kept, now, out=kept)

    def step(self, losses: list[Tensor], grads: list[Tensor], overflow: Tensor | None = None) -> bool | Tensor:
        """Look at losses, gradients and foreign writes, and let the optimizer step if all are finite.

        Args:
            losses: of the batches of this step.
            grads: what the optimizer will use.
            overflow: 1 where scaling made a gradient overflow, so that the step is to be skipped without being bad.

        Returns:
            Whether the weights were updated; a tensor where only the device knows.
        """
        self._suspects = self._writes.suspects()
        if self._suspects is not None:
            self._look_at(self._suspects)
        grads = list(map(dense_values, grads))
        if overflow is None:
            self._look_for_bad(losses + grads, self._flag)
        else:
            self._look_beside(losses, grads, overflow)
        if self._peek is not None:
            return self._step_on_host(losses, overflow)
        self._good_steps += 1 - self._flag
        skip = self._flag if overflow is None else torch.maximum(self._flag, overflow)
        if not self._skips_itself:
            bad, skipped = torch.stack([self._flag, skip]).tolist()
            self._host_knows, updated = bool(bad), not skipped
            if updated:
                self._step()
            if not self._host_knows:
                self._writes.remember()
            return updated
        self._optimizer.found_inf = skip  # type: ignore[attr-defined]  # read by torch's fused kernels
        self._optimizer.grad_scale = None  # type: ignore[attr-defined]
        try:
            self._step()
        finally:
            del self._optimizer.found_inf, self._optimizer.grad_scale  # type: ignore[attr-defined]
        self._writes.remember()
        return skip == 0

    def _step_on_host(self, losses: list[Tensor], overflow: Tensor | None) -> bool:
        """On a CPU everything is known at once; the flag is read through NumPy, which is no operation of torch's."""
        if self._peek:
            self._seen = self._bad_loss_or_gradient(losses)
            return False
        if overflow is not None and overflow.numpy():
            self._writes.remember()
            return False
        self._step()
        self._writes.remember()
        return True

    def _look_for_bad(self, values: list[Tensor], flag: Tensor) -> None:
        simple = self._one_kind and len(values) > 0 and values[0].dtype == torch.float32
        # torch's one fused check: it multiplies by one, which changes nothing, and raises the flag
        if simple:
            torch._amp_foreach_non_finite_check_and_unscale_(values, flag, self._one)
        else:
            check_and_multiply(values, flag, self._one)

    def _look_beside(self, losses: list[Tensor], grads: list[Tensor], overflow: Tensor) -> None:
        """A bad loss is bad; a bad gradient only if it was not scaling that made it so."""
        self._look_for_bad(losses, self._flag)
        made_bad = torch.zeros_like(self._flag)
        self._look_for_bad(grads, made_bad)
        torch.maximum(self._flag, made_bad * (1 - overflow), out=self._flag)

    def find_bad(self, step: int, batches: list[Batch]) -> BadStep | None:
        """The first bad step, as soon as the host can know of it without waiting.

        Args:
            step: the step just attempted, counted within this fit from 0. Steps that a callback skipped are not told.
            batches: what the model saw in it; on a device that runs ahead, those of up to 50 steps are kept until they
                are known good.
        """
        this = BadStep(step, batches, self._suspects, self._seen)
        if self._peek is not None:
            return this if self._peek else None
        if not self._skips_itself:
            # the host has asked before the step
            return this if self._host_knows else None
        self._since_look.append(this)
        if len(self._since_look) < _LOOK_EVERY:
            return None
        self._send()
        return self._read(wait=len(self._looks) > _MOST_UNREAD)

    def last_word(self) -> BadStep | None:
        """As `find_bad`, at the end of an epoch, where the host waits for the device anyway."""
        if self._since_look:
            self._send()
        bad = None
        while self._looks and bad is None:
            bad = self._read(wait=True)
        return bad

    def explain(self, bad: BadStep, last_good: int, loss_of: Callable[[Batch], Tensor], grad: Gradients) -> str:
        """Where a bad step's value came from, what is left of the weights, and what to do, in words.

        Args:
            bad: as found.
            last_good: the number of the step before it, as the user counts.
            loss_of: batch -> loss, through the model in the mode it was trained in.
            grad: (loss, weights) -> gradients, in the precision it was trained in.
        """
        place = self._writes.place(bad.suspects) if bad.suspects is not None else ""
        cure = "Find what wrote it; fit(reset_optimizer=True) starts with new optimizer state." if place else ""
        if not place:
            self.restore_buffers()
            try:
                place = self._replay(bad, loss_of, grad)
            except Exception as error:
                place = f"a place that could not be found ({type(error).__name__}: {error})"
            cure = "A lower learning rate, gradient clipping or cleaner inputs are the usual cures."
        self.restore_buffers()
        written = {id(tensor) for tensor in bad.suspects.tensors} if bad.suspects is not None else set()
        lost = {id(weight) for weight in self._writes.weights() if not all_finite(weight)}
        weights = f"{'All other weights' if lost else 'The weights'} are those of step {last_good}."
        if not lost <= written:
            weights = (
                f"The update of step {last_good} had overflowed, or something wrote through tensor.data: the weights "
                "are lost, go back to saved ones."
            )
        return f"{place}. {weights} {cure}"

    def bad_weight(self) -> str:
        """The first weight that is not finite, in words; reads them all, for the ends of epochs."""
        return self._writes.bad_weight()

    def _replay(self, bad: BadStep, loss_of: Callable[[Batch], Tensor], grad: Gradients) -> str:
        for batch in bad.batches:
            if place := first_bad_place(self._model, batch, loss_of, grad):
                return place
        return (
            f"{bad.seen or 'a place'} that did not show again when the batch was run once more (dropout, or a "
            "change to the gradients)"
        )

    def _look_at(self, suspects: Suspects) -> None:
        """Raise the flag if a suspect is not finite; on the device, where it lies there."""
        device = self._flag.device
        self._one_kind = {device_and_type(tensor) for tensor in self._writes.weights()} == {(device, torch.float32)}
        if suspects.setting or not all(all_finite(tensor) for tensor in suspects.tensors if tensor.device != device):
            self._flag.fill_(1)
        here = [dense_values(tensor.detach()) for tensor in suspects.tensors if tensor.device == device]
        real = sorted((value for value in here if value.is_floating_point()), key=lambda value: str(value.dtype))
        check_and_multiply(real, self._flag, self._one)
        for value in here:
            if value.is_complex():
                torch.maximum(self._flag, (~value.isfinite().all()).to(self._flag.dtype), out=self._flag)

    def _bad_loss_or_gradient(self, losses: list[Tensor]) -> str:
        """The first bad one, in words; asked only once something is bad."""
        if not all(map(all_finite, losses)):
            return "a loss"
        bad = (name for name, tensor in self._model.named_parameters() if not all_finite(tensor.grad))
        name = next(bad, None)
        return f"the gradient of {name}" if name is not None else ""

    def restore_buffers(self) -> None:
        """Put the running statistics back to what they were before the first bad step."""
        with torch.no_grad():
            for dtype_buffers, kept in zip(self._by_dtype(), self._kept, strict=True):
                parts = kept.split([buffer.numel() for buffer in dtype_buffers])
                for buffer, part in zip(dtype_buffers, parts, strict=True):
                    buffer.copy_(part.view_as(buffer))

    def _by_dtype(self) -> list[list[Tensor]]:
        return [list(group) for _, group in groupby(self._buffers, key=device_and_type)]

    def _flat_buffers(self) -> list[Tensor]:
        """One tensor per type with all buffers behind one another: two operations instead of two for each."""
        return [torch.cat([buffer.reshape(-1) for buffer in group]) for group in self._by_dtype()]

    def _send(self) -> None:
        if self._state.is_cuda:
            copy = torch.empty(2, pin_memory=True).copy_(self._state, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(self._state.device))
        else:
            copy, arrived = self._state.to("cpu", copy=True), None
        # the copy counts the good steps of its own stretch, so the next stretch starts from zero
        self._good_steps.zero_()
        self._looks.append(_Look(copy, arrived, self._since_look))
        self._since_look = []

    def _read(self, *, wait: bool) -> BadStep | None:
        """Read the oldest copy if it has arrived."""
        look = self._looks[0]
        if look.arrived is not None:
            if wait:
                look.arrived.synchronize()
            elif not look.arrived.query():
                return None
        self._looks.popleft()
        flag, good_steps = look.state.tolist()
        return look.steps[int(good_steps)] if flag else None


def first_bad_place(model: nn.Module, batch: Batch, loss_of: Callable[[Batch], Tensor], grad: Gradients) -> str:
    """Where a value first stops being finite when a batch is run again, in words; empty if everything is finite.

    Looks along the data's own way: inputs, weights, each module's output, the loss, then the gradients backwards.

    Args:
        model: in the mode it was trained in.
        batch: what the model saw.
        loss_of: batch -> loss, through `model`.
        grad: (loss, weights) -> gradients.
    """
    if not all(map(all_finite, tree_leaves(batch.inputs))):
        return "the inputs of the batch"
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    # a frozen tensor may hold infinities on purpose, a mask say
    frozen = [(name, parameter.isnan()) for name, parameter in model.named_parameters() if not parameter.requires_grad]
    bad = [name for name, parameter in trained if not all_finite(parameter)] + [n for n, nan in frozen if nan.any()]
    if bad:
        return f"the parameter {bad[0]}"
    names = {module: f"{name or 'the model'} ({type(module).__name__})" for name, module in model.named_modules()}
    places: list[str] = []

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if not all(map(all_finite, tree_leaves(output))):
            places.append(f"the output of {names[module]}")

    with torch.enable_grad(), forward_hooks(names, look):
        loss = loss_of(batch)
    if places:
        return places[0]
    if not all_finite(loss):
        return "the loss: every module's output is finite"
    grads = grad(loss, [parameter for _, parameter in trained])
    for (name, _), found in reversed(list(zip(trained, grads, strict=True))):
        if not all_finite(found):
            return f"the gradient of {name}"
    return ""
