"""The loss scale: what keeps small gradients of float16 from becoming zero.

The smallest number above zero in float16 is 6e-8, and many gradients are smaller. They are linear in the loss: so the
loss is multiplied by a large number before the backward pass, and the gradients are divided by it afterwards, in
float32. A scale that is too large makes them infinite. A dynamic scale looks for the edge itself: it is halved
whenever a gradient overflows, in which case the step is skipped, and doubled after a while without an overflow.

All of it stays on the device: nobody waits for a gradient to know whether it was finite.

Source: Micikevicius et al. 2017, "Mixed precision training", section 3.2; SPEC E8-E10.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final, final

import torch
from torch import Tensor

from etude.errors import ConfigError

_LARGEST: Final = 2.0**126


@final
class LossScaler:
    """A loss scale and how it changes.

    Args:
        scale: to begin with.
        dynamic: let it follow the gradients; otherwise it stays, and an overflow is an error.
        growth_interval: good steps in a row before it is multiplied by `factor`. 500 is the lesson's.
        factor: 2 changes only the exponent, so scaling is exact.
        lowest: an overflow at this scale does not come from scaling, so it is an error.
        highest: it never grows beyond.

    Raises:
        ConfigError: naming the setting and its range.
    """

    def __init__(
        self,
        scale: float = 2.0**16,
        *,
        dynamic: bool = True,
        growth_interval: int = 500,
        factor: float = 2.0,
        lowest: float = 1.0,
        highest: float = 2.0**24,
    ) -> None:
        if not 0 < scale <= _LARGEST:
            raise ConfigError(f"loss_scale must be above 0 and at most 2^126, got {scale}")
        if dynamic and not 0 < lowest <= scale <= highest <= _LARGEST:
            raise ConfigError(
                f"a dynamic loss_scale must lie between min_loss_scale={lowest} and max_loss_scale={highest}, "
                f"got {scale}"
            )
        if not isinstance(growth_interval, int) or growth_interval < 1 or not factor > 1:
            raise ConfigError(
                f"growth_interval must be a whole number of at least 1 and the factor above 1, got {growth_interval} "
                f"and {factor}"
            )
        self.dynamic, self._interval, self._factor = dynamic, growth_interval, factor
        self._lowest, self._highest = lowest, highest
        self.scale = torch.tensor(float(scale))
        self._good_steps = torch.zeros((), dtype=torch.int32)
        """Since the last overflow or change of the scale."""
        self._overflows = torch.zeros(())
        """In the epoch under way."""
        self._found = torch.zeros(())
        self._is_one = scale == 1 and not dynamic

    def to(self, device: torch.device) -> None:
        """Move to where the gradients are."""
        self.scale, self._good_steps = self.scale.to(device), self._good_steps.to(device)
        self._overflows, self._found = self._overflows.to(device), self._found.to(device)

    def begin(self) -> None:
        """Count the overflows of an epoch from zero, also after one that was broken off."""
        self._overflows.zero_()

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss that the backward pass begins from."""
        return loss if self._is_one else loss * self.scale

    def unscale(self, grads: list[Tensor]) -> Tensor | None:
        """Divide gradients by the scale, in place, and look whether any is infinite or NaN: one fused operation.

        Args:
            grads: in float32 or wider; a sparse one must be coalesced.

        Returns:
            1 where one is and the step is to be skipped, else 0; None if the scale is fixed.
        """
        if self._is_one:
            return None
        found = self._found.zero_()
        check_and_multiply(grads, found, self.scale.double().reciprocal().float())
        # at the lowest scale it is not scaling that makes a gradient infinite
        return found.mul_(self.scale > self._lowest) if self.dynamic else None

    def update(self, overflow: Tensor) -> None:
        """Follow the gradients of an attempted step.

        Halved after an overflow, which also begins the count of good steps anew; doubled after `growth_interval` good
        steps; never below the lowest scale or above the highest.
        """
        torch._amp_update_scale_(self.scale, self._good_steps, overflow, self._factor, 1 / self._factor, self._interval)
        self.scale.clamp_(self._lowest, self._highest)
        self._overflows += overflow

    def report(self) -> dict[str, float]:
        """The scale, and how many steps overflowed since the last report; the host waits for the device here."""
        if self._is_one:
            return {}
        scale, overflows = float(self.scale), int(self._overflows)
        self.begin()
        shown = int(scale) if scale.is_integer() else scale
        return {"loss_scale": shown, **({"overflows": overflows} if self.dynamic else {})}

    def state_dict(self) -> dict[str, Any]:
        """Scale, good steps, and this epoch's overflows."""
        return {
            "loss_scale": float(self.scale),
            "good_steps": int(self._good_steps),
            "overflows": float(self._overflows),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.scale.fill_(state["loss_scale"])
        self._good_steps.fill_(state["good_steps"])
        self._overflows.fill_(state["overflows"])


def check_and_multiply(tensors: list[Tensor], flag: Tensor, factor: Tensor) -> None:
    """Multiply tensors in place, and raise a flag to 1 if one of them holds an infinity or NaN.

    One fused operation of torch's for each device and type, however many tensors there are. The notes asked the device
    for one number per tensor, which doubled the time of an epoch. Source: SPEC E9.

    Args:
        tensors: floating point, not sparse.
        flag: one number in float32 on the same device; what is 1 stays 1.
        factor: one number in float32.
    """
    for _, group in groupby(tensors, key=device_and_type):
        torch._amp_foreach_non_finite_check_and_unscale_(list(group), flag, factor)


def device_and_type(tensor: Tensor) -> tuple[torch.device, torch.dtype]:
    """What tensors of one fused operation must have in common."""
    return tensor.device, tensor.dtype
