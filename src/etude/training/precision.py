"""Where the model computes in fewer bits.

`fp32` computes in the weights' own type. `bf16` keeps float32 weights and runs the model inside autocast. `fp16` and
`bf16-master` are mixed precision from scratch: half weights with float32 masters (half.py) and, for float16, a loss
scale (scaler.py). `auto` times them and takes the fastest (auto_precision.py). The loss is always computed outside, in
float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Literal, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from typing_extensions import override

from etude.errors import ConfigError
from etude.training.half import HalfWeights, cast
from etude.training.scaler import LossScaler
from etude.training.small_maps import one_pixel_refused
from etude.types import Json

PRECISIONS: Final = ("fp32", "bf16", "bf16-master", "fp16", "auto")

_NOTHING: Final = nullcontext()
_TYPES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}
_NAMES: Final = {"fp16": "fp16", "bf16": "bf16-master"}
"""Of a `MixedPrecision` of each type without any other setting."""
_OWN_FLOATS: Final = (
    "if the model has float32 buffers outside of norms, or makes tensors, give them the type of its inputs, or use "
    "precision='bf16', which casts them"
)
_PENALTY: Final = (
    "if the loss holds a penalty on the weights, compute it from weight.clone(): during a backward pass the weights "
    "themselves are half"
)


class Precision:
    """How a model computes, and what a training step does about it.

    Args:
        name: for the run's record, and to compare two fits.
        device: where the model computes.
        reason: why it was chosen, for the run's record.
    """

    def __init__(self, name: str, device: torch.device, reason: str = "as asked") -> None:
        self.name, self.device, self.reason = name, device, reason

    # -- around the model -----------------------------------------------------------------------------------------

    def open(self, model: nn.Module) -> AbstractContextManager[Any]:
        """What is open for the length of a fit."""
        return _NOTHING

    def evaluating(self, model: nn.Module) -> AbstractContextManager[Any]:
        """What is open while a model evaluates or predicts, in a fit or without one."""
        return _NOTHING

    def running(self) -> AbstractContextManager[Any]:
        """What is open while the model is called."""
        return _NOTHING

    def narrow(self, inputs: Any) -> Any:
        """Inputs as the model takes them."""
        return inputs

    @final
    def widen(self, preds: Any) -> Any:
        """Predictions in float32 (or wider, if they are): what the loss is computed from."""
        if isinstance(preds, Tensor):
            return preds.float() if preds.dtype in _TYPES.values() else preds
        return tree_map_only(Tensor, self.widen, preds)

    # -- in the step ----------------------------------------------------------------------------------------------

    def hint(self) -> str:
        """What may be amiss with the precision where a value is not finite."""
        return ""

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients. Afterwards the parameters are at rest: float32, and so are their gradients."""
        loss.backward()

    def grad(self, loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The gradients of a loss in float32, unscaled; none is stored in a parameter."""
        return torch.autograd.grad(loss, weights, materialize_grads=True)

    def unscale(self, grads: list[Tensor]) -> Tensor | None:
        """Make gradients what they would be without scaling. 1 if the step is to be skipped, None if that cannot be."""
        return None

    def after_update(self, overflow: Tensor | None) -> None:
        """The optimizer has stepped, unless a gradient overflowed."""

    # -- keep -----------------------------------------------------------------------------------------------------

    def report(self) -> dict[str, float]:
        """What the row of an epoch says of it."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


@final
class FullPrecision(Precision):
    """The weights' own type."""


@final
class Autocast(Precision):
    """bfloat16 by autocast over float32 weights: torch casts weights and inputs of each operation that gains by it."""

    @override
    def open(self, model: nn.Module) -> AbstractContextManager[Any]:
        return one_pixel_refused(model, self.device)

    @override
    def running(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@final
class MixedPrecision(Precision):
    """Half weights with float32 masters, and a loss scale: mixed precision from scratch.

    The forward and backward pass run in 16 bits, norms and loss in float32. Gradients become float32 at once, also when
    they are accumulated over several batches; they are unscaled before clipping or anything else sees them. A step in
    which one overflows changes nothing: no weight, momentum, decay, step count or average; the schedule goes on. Before
    each forward pass the copies are rounded from the masters, which are the model's parameters whenever it does not
    compute: callbacks, checkpoints and the optimizer see float32.

    Args:
        dtype: "fp16" (11 bits of precision, a range from 6e-8 to 65504) or "bf16" (8 bits, the range of float32).
        loss_scale: None is 2^16 for float16, where a dynamic one begins, and 1 for bfloat16, which needs none. The
            lesson's fixed scale is 512.
        dynamic: let it follow the gradients. None does for float16.
        master_weights: False rounds the masters themselves after every update: what training without masters does. To
            see what they are for; it saves no memory.
        flat: keep masters and copies each in one tensor, so that rounding is a single operation.
        growth_interval: good steps before a dynamic scale is doubled; the lesson's `scale_wait`.
        min_loss_scale: an infinite gradient at this scale ends the fit.
        max_loss_scale: the scale never grows beyond.

    Raises:
        ConfigError: naming the setting and its range.

    Source: Micikevicius et al. 2017, "Mixed precision training"; SPEC E1-E12.
    """

    def __init__(
        self,
        dtype: Literal["fp16", "bf16"] = "fp16",
        *,
        loss_scale: float | None = None,
        dynamic: bool | None = None,
        master_weights: bool = True,
        flat: bool = False,
        growth_interval: int = 500,
        min_loss_scale: float = 1.0,
        max_loss_scale: float = 2.0**24,
    ) -> None:
        if dtype not in _TYPES:
            raise ConfigError(f"dtype must be one of {sorted(_TYPES)}, got {dtype!r}")
        super().__init__("", torch.device("cpu"))
        is_fp16 = dtype == "fp16"
        self.dtype, self.master_weights, self.flat = _TYPES[dtype], master_weights, flat
        self.scaler = LossScaler(
            (2.0**16 if is_fp16 else 1.0) if loss_scale is None else loss_scale,
            dynamic=is_fp16 and loss_scale is None if dynamic is None else dynamic,
            growth_interval=growth_interval,
            lowest=min_loss_scale,
            highest=max_loss_scale,
        )
        self._config: dict[str, Json] = {
            "dtype": dtype,
            "loss_scale": loss_scale,
            "dynamic": self.scaler.dynamic,
            "master_weights": master_weights,
            "flat": flat,
            "growth_interval": growth_interval,
            "min_loss_scale": min_loss_scale,
            "max_loss_scale": max_loss_scale,
        }
        others = (loss_scale, master_weights, flat, growth_interval, min_loss_scale, max_loss_scale)
        plain = others == (None, True, False, 500, 1.0, 2.0**24)
        settings = ", ".join(f"{name}={value!r}" for name, value in self._config.items())
        self.name = _NAMES[dtype] if plain and self.scaler.dynamic == is_fp16 else f"MixedPrecision({settings})"
        self._half: HalfWeights | None = None

    def on(self, device: torch.device) -> MixedPrecision:
        """One of its own for a learner."""
        own = copy.copy(self)
        own.device, own.scaler = device, copy.deepcopy(self.scaler)
        own.scaler.to(device)
        return own

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied by now; the host waits for the device."""
        return float(self.scaler.scale)

    @override
    @contextmanager
    def open(self, model: nn.Module) -> Iterator[None]:
        self.scaler.begin()
        with self._holding(HalfWeights(model, self.dtype, flat=self.flat)), one_pixel_refused(model, self.device):
            yield

    @override
    def evaluating(self, model: nn.Module) -> AbstractContextManager[Any]:
        return _NOTHING if self._half is not None else self._holding(HalfWeights(model, self.dtype))

    @contextmanager
    def _holding(self, half: HalfWeights) -> Iterator[None]:
        try:
            with half.opened():
                self._half = half
                yield
        finally:
            self._half = None

    @override
    @contextmanager
    def running(self) -> Iterator[None]:
        if self._half is None:
            # a forward pass outside of a fit may leave a graph behind, which needs the weights that it has seen
            with torch.autocast(self.device.type, dtype=self.dtype):
                yield
            return
        with self._half.computing(), _noted(_OWN_FLOATS):
            yield

    @override
    def narrow(self, inputs: Any) -> Any:
        return inputs if self._half is None else cast(inputs, self.dtype)

    @override
    def hint(self) -> str:
        if self.scaler.dynamic or self.loss_scale == 1:
            return ""
        return f" The loss scale is fixed at {self.loss_scale:g}: a smaller one, or dynamic=True, may help."

    @override
    def backward(self, loss: Tensor) -> None:
        assert self._half is not None
        with self._half.shown(), _noted(_PENALTY):
            self.scaler.scaled(loss).backward()

    @override
    def grad(self, loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if self._half is None:
            return super().grad(loss, weights)
        # torch.autograd.grad would not know the weights again: their types have changed since the forward pass
        kept = {weight: weight.grad for weight in (*weights, *self._half.model.parameters())}
        for weight in kept:
            weight.grad = None
        try:
            self.backward(loss)
            found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        finally:
            for weight, grad in kept.items():
                weight.grad = grad
        return tuple(grad / self.scaler.scale for grad in found)

    @override
    def unscale(self, grads: list[Tensor]) -> Tensor | None:
        return self.scaler.unscale(grads)

    @override
    def after_update(self, overflow: Tensor | None) -> None:
        assert self._half is not None
        if overflow is not None:
            self.scaler.update(overflow)
        if not self.master_weights:
            self._half.forget()

    @override
    def report(self) -> dict[str, float]:
        return self.scaler.report()

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scaler.load_state_dict(state)


def make_precision(given: str | Precision, device: torch.device, reason: str = "as asked") -> Precision:
    """What a name or a `MixedPrecision` stands for, on a device; never one that another learner has.

    Raises:
        ConfigError: an unknown name, with the known ones.
    """
    if isinstance(given, MixedPrecision):
        made: Precision = given.on(device)
    elif isinstance(given, Precision):
        made = type(given)(given.name, device)
    elif given == "fp16":
        made = MixedPrecision("fp16").on(device)
    elif given == "bf16-master":
        made = MixedPrecision("bf16").on(device)
    elif given == "bf16":
        made = Autocast(given, device)
    elif given == "fp32":
        made = FullPrecision(given, device)
    else:
        raise ConfigError(f"precision must be one of {PRECISIONS} or a MixedPrecision, got {given!r}")
    made.reason = reason
    return made


@contextmanager
def _noted(note: str) -> Iterator[None]:
    """Add a note to an error about types that do not fit."""
    try:
        yield
    except RuntimeError as error:
        if "type" in str(error):
            error.add_note(note)
        raise
