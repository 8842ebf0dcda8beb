"""One convolution whose gradient torch gets wrong in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from etude.errors import ConfigError


@contextmanager
def one_pixel_refused(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, training through a strided convolution of a 1x1 map raises instead of going wrong.

    On a CPU torch 2.13 computes the bf16 gradient of such a convolution from memory that was never written: wrong, and
    now and then not finite. Each convolution is looked at once, when it is first trained.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules() if device.type == "cpu" else ():
            if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
                stack.callback(_watch(name, module).remove)
        yield


def _watch(name: str, module: nn.Conv2d) -> RemovableHandle:
    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not torch.is_grad_enabled():
            return
        handle.remove()
        if inputs[0].shape[-2:].numel() == 1:
            raise ConfigError(
                f"the strided convolution {name} sees maps of one pixel, and torch's gradient for that is wrong in 16 "
                "bits on a CPU. Use precision='fp32', larger pictures, or a stem that does not halve (stem_stride=1)."
            )

    handle = module.register_forward_pre_hook(look)
    return handle
