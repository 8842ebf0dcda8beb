"""The choice of a precision by timing each on a few samples of the first batch."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from etude import losses
from etude.hooks import forward_hooks
from etude.training.device import wait
from etude.training.precision import FullPrecision, MixedPrecision, Precision, make_precision

if TYPE_CHECKING:
    from etude.data.loaders import Loader
    from etude.training.learner import Learner

_FEW: Final = 8
"""Samples that a CPU times the precisions with."""
_WORTH_IT: Final = 1.15
"""A half precision must be this much faster than fp32 before `auto` gives up the bits."""
_WORTH_HALF_WEIGHTS: Final = 1.03
"""Half weights must be this much faster than autocast, which asks less of a model."""
_ROUNDS: Final = 5
_HOPELESS: Final = 10.0
"""A precision is not tried again when its first run, compilation of kernels included, took so many times as long."""


def choose_precision(learner: Learner, train: Loader) -> Precision:
    """What `precision="auto"` is for this learner, by a few samples of its first batch; torch's generators are kept."""
    with torch.random.fork_rng([learner.device] if learner.device.type == "cuda" else []):
        batch = next(train.batches(learner.progress.epoch, learner.device))
    if learner.device.type == "cpu":
        batch = batch.first(_FEW)

    def loss_of(model: nn.Module, precision: Precision) -> Tensor:
        preds = learner.run(model, batch, precision)
        return losses.apply(learner.loss_fn, preds, batch.targets, batch.weight)

    return measure(learner.model, loss_of, learner.device)


def measure(model: nn.Module, loss_of: Callable[[nn.Module, Precision], Tensor], device: torch.device) -> Precision:
    """Time forward and backward passes of fp32, bf16 and bf16-master, in turn, and choose.

    Works on a copy of the model and leaves the random generators as they were. A processor that would have to
    imitate bfloat16 is not timed: that can take a hundred times as long.

    Args:
        model: the model to be trained.
        loss_of: (model, precision) -> the scalar loss of a few typical samples.
        device: where the model computes.
    """
    if device.type == "cpu" and _imitates_bf16():
        return FullPrecision("fp32", device, "this processor has no bfloat16 instructions")
    candidates = [make_precision(name, device) for name in ("fp32", "bf16", "bf16-master")]
    trial = copy.deepcopy(model).train()
    if device.type == "cpu" and _strides_over_one_pixel(trial, lambda: loss_of(trial, candidates[0])):
        why = "a strided convolution of a 1x1 map, whose bf16 gradient torch gets wrong"
        return FullPrecision("fp32", device, why)
    best: dict[str, float] = {}
    given_up: dict[str, str] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for i in range(_ROUNDS + 1):
            for precision in candidates:
                # where autocast is hopeless, so are half weights
                if precision.name in given_up or (given_up and isinstance(precision, MixedPrecision)):
                    continue
                try:
                    seconds = _seconds(trial, loss_of, precision)
                except RuntimeError as error:
                    if not isinstance(precision, MixedPrecision):
                        raise
                    given_up[precision.name] = f"{precision.name} failed: {str(error).splitlines()[0]}"
                    continue
                if i == 0 and precision.name != "fp32" and seconds > _HOPELESS * best["fp32"]:
                    times = f"{seconds / best['fp32']:.1f} times"
                    given_up[precision.name] = f"{precision.name} took {times} as long in a first try"
                # the first round only warms up
                best[precision.name] = min(best.get(precision.name, seconds) if i > 1 else seconds, seconds)
    return _chosen({name: best[name] for name in best if name not in given_up}, given_up, device)


def _chosen(best: dict[str, float], given_up: dict[str, str], device: torch.device) -> Precision:
    """The precision for these fastest times, with the reason in words."""
    chosen = "fp32"
    if best["fp32"] / best.get("bf16", float("inf")) >= _WORTH_IT:
        chosen = "bf16"
    beaten = min(best["fp32"] / _WORTH_IT, best.get("bf16", float("inf")) / _WORTH_HALF_WEIGHTS)
    if best.get("bf16-master", float("inf")) <= beaten:
        chosen = "bf16-master"
    times = ", ".join(f"{seconds * 1e3:.1f} ms in {name}" for name, seconds in best.items())
    measured = f"measured: forward and backward take {times}"
    return make_precision(chosen, device, "; ".join([measured, *given_up.values()]))


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
    """One forward and backward pass, and what the precision does around them."""
    with precision.open(model):
        wait(precision.device)
        start = time.perf_counter()
        # half weights are rounded from the masters in every step
        precision.after_update(None)
        precision.backward(loss_of(model, precision))
        wait(precision.device)
        seconds = time.perf_counter() - start
        model.zero_grad(set_to_none=True)
    return seconds
