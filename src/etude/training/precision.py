"""Where the model computes in fewer bits, and how the choice is made.

`fp32` computes in the weights' own type. `bf16` keeps float32 weights and runs the model inside autocast; the loss
stays outside it, in float32. `auto` times both on the first batch and keeps the faster one.
"""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from etude.errors import ConfigError
from etude.hooks import forward_hooks
from etude.training.device import wait

PRECISIONS: Final = ("fp32", "bf16", "auto")

_WORTH_IT = 1.15
"""bf16 must be this much faster before `auto` gives up the bits."""
_ROUNDS = 5
_HOPELESS = 10.0
"""bf16 is not tried again when its first run, compilation of kernels included, took so many times as long."""

_NOTHING: Final = nullcontext()
_HALF: Final = (torch.bfloat16, torch.float16)


@final
class Precision:
    """The chosen precision on a device.

    Args:
        name: "fp32" or "bf16".
        device: where the model computes.
        reason: why it was chosen, for the run's record.
    """

    def __init__(self, name: str, device: torch.device, reason: str = "as asked") -> None:
        if name not in ("fp32", "bf16"):
            raise ConfigError(f"precision must be one of {PRECISIONS}, got {name!r}")
        self.name, self.device, self.reason = name, device, reason

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that the model runs in."""
        return _NOTHING if self.name == "fp32" else torch.autocast(self.device.type, dtype=torch.bfloat16)

    def widen(self, preds: Any) -> Any:
        """Predictions in float32 (or wider, if they are): what the loss is computed from."""
        if isinstance(preds, Tensor):
            return preds.float() if preds.dtype in _HALF else preds
        return tree_map_only(Tensor, self.widen, preds)


def measure(model: nn.Module, loss_of: Callable[[nn.Module, Precision], Tensor], device: torch.device) -> Precision:
    """Time a forward and backward of both precisions, in turn, and choose.

    Works on a copy of the model and leaves the random generators as they were. A processor that would have to
    imitate bfloat16 is not timed: that can take a hundred times as long.

    Args:
        model: the model to be trained.
        loss_of: (model, precision) -> the scalar loss of a few typical samples.
        device: where the model computes.
    """
    if device.type == "cpu" and _imitates_bf16():
        return Precision("fp32", device, "this processor has no bfloat16 instructions")
    candidates = [Precision("fp32", device), Precision("bf16", device)]
    trial = copy.deepcopy(model).train()
    if device.type == "cpu" and _strides_over_one_pixel(trial, lambda: loss_of(trial, candidates[0])):
        return Precision("fp32", device, "a strided convolution of a 1x1 map, whose bf16 gradient torch gets wrong")
    best = {precision.name: float("inf") for precision in candidates}
    first: dict[str, float] = {}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for i in range(_ROUNDS + 1):
            for precision in candidates:
                seconds = _seconds(trial, loss_of, precision)
                # the first round only warms up
                best[precision.name] = min(best[precision.name], seconds if i else float("inf"))
                first.setdefault(precision.name, seconds)
            if first["bf16"] > _HOPELESS * first["fp32"]:
                reason = f"bf16 took {first['bf16'] / first['fp32']:.1f} times as long in a first try"
                return Precision("fp32", device, reason)
    faster = best["fp32"] / best["bf16"]
    chosen = "bf16" if faster >= _WORTH_IT else "fp32"
    reason = (
        f"measured: forward and backward take {best['fp32'] * 1e3:.1f} ms in fp32, {best['bf16'] * 1e3:.1f} ms in bf16 "
        f"({faster:.2f}x; bf16 is taken from {_WORTH_IT}x)"
    )
    return Precision(chosen, device, reason)


def _strides_over_one_pixel(model: nn.Module, run: Callable[[], object]) -> bool:
    """Whether a strided convolution sees a map of a single pixel.

    Its backward pass in bf16 reads memory that was never written (torch 2.13 on a CPU): gradients that are wrong, and
    now and then not finite.
    """
    found = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and inputs[0].shape[-2:].numel() == 1:
            found.append(module)

    with forward_hooks(model.modules(), look), torch.no_grad(), torch.random.fork_rng([]):
        run()
    return bool(found)


def _imitates_bf16() -> bool:
    """Whether this is an x86 processor without 512-bit vectors, and so without bfloat16 instructions."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and torch.backends.cpu.get_cpu_capability() not in ("AVX512", "AMX")


def _seconds(model: nn.Module, loss_of: Callable[[nn.Module, Precision], Tensor], precision: Precision) -> float:
    wait(precision.device)
    start = time.perf_counter()
    loss_of(model, precision).backward()
    wait(precision.device)
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds
