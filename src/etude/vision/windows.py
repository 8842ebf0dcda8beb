"""Which part of each picture a batch sees: random windows for training, the middle for everything else.

Windows are drawn for a whole batch at once, on the device of the indices, as a function of (seed, epoch, index).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from etude import random
from etude.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

_TRIES = 10


class Windows(NamedTuple):
    """A rectangle of each picture, in whole pixels, and whether it is mirrored."""

    top: Int[Tensor, "batch"]
    left: Int[Tensor, "batch"]
    height: Int[Tensor, "batch"]
    width: Int[Tensor, "batch"]
    mirror: Bool[Tensor, "batch"]


@dataclass(frozen=True)
class RandomResizedCrop:
    """Windows of a random area, aspect ratio and place, mirrored half of the time.

    Ten times an area and a ratio are drawn, each time from the whole picture, and the first window that fits is taken;
    when none fits, the largest window in the middle whose ratio is allowed.

    Args:
        scale: the window's share of the picture's area, uniform between these two. The lesson found 0.35 to 1 to work
            well; the paper has 0.08 to 1.
        ratio: width over height, its logarithm uniform between these two.
        flip: the share of windows that are mirrored left to right; 0 for digits and text.

    Source: Szegedy et al. 2014, "Going deeper with convolutions"; SPEC A15, whose sources shrank a window that had not
    fitted (so that areas below the limit were drawn) and failed when none fitted.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"scale must be two shares 0 < low <= high <= 1 of the area, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ConfigError(f"ratio must be two numbers 0 < low <= high, got {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip is a share in [0, 1], got {self.flip}")

    def __call__(
        self,
        seed: int,
        epoch: int,
        indices: Int[Tensor, "batch"],
        height: Int[Tensor, "batch"],
        width: Int[Tensor, "batch"],
    ) -> Windows:
        """A window of each picture, keyed by (seed, epoch, index)."""
        draws = random.uniform(seed, "window", epoch, indices, 2 * _TRIES + 3)
        low, high = self.scale
        area = (height * width).unsqueeze(1) * (low + (high - low) * draws[:, :_TRIES])
        low, high = (math.log(bound) for bound in self.ratio)
        ratio = (low + (high - low) * draws[:, _TRIES : 2 * _TRIES]).exp()
        widths, heights = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (widths >= 1) & (widths <= width.unsqueeze(1)) & (heights >= 1) & (heights <= height.unsqueeze(1))
        # argmax of equal values is not promised to be the first, so earlier tries weigh more
        first = (fits * torch.arange(_TRIES, 0, -1, device=fits.device)).argmax(1, keepdim=True)
        some = fits.any(1)
        whole_height, whole_width = self._largest(height, width)
        h = torch.where(some, heights.gather(1, first).squeeze(1), whole_height)
        w = torch.where(some, widths.gather(1, first).squeeze(1), whole_width)
        place = draws[:, 2 * _TRIES :]
        top = torch.where(some, (place[:, 0] * (height - h + 1)).long(), (height - h) // 2)
        left = torch.where(some, (place[:, 1] * (width - w + 1)).long(), (width - w) // 2)
        return Windows(top, left, h, w, place[:, 2] < self.flip)

    def _largest(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """The largest window whose ratio is allowed."""
        low, high = self.ratio
        ratio = width / height
        w = torch.where(ratio > high, (height * high).round().long(), width).clamp(min=1)
        h = torch.where(ratio < low, (width / low).round().long(), height).clamp(min=1)
        return torch.minimum(h, height), torch.minimum(w, width)


@dataclass(frozen=True)
class MiddleCrop:
    """The middle of each picture: what validation and prediction see.

    Args:
        share: how much of the shorter side is kept; the lesson keeps 1 / 1.14.
        squash: keep this share of both sides and squash it to a square, as the lesson does, instead of cutting a
            true square: the whole picture is seen, with its aspect ratio lost.
    """

    share: float = 0.875
    squash: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"the share of the middle that is kept must be in (0, 1], got {self.share}")

    def __call__(
        self,
        seed: int,
        epoch: int,
        indices: Int[Tensor, "batch"],
        height: Int[Tensor, "batch"],
        width: Int[Tensor, "batch"],
    ) -> Windows:
        """The middle window of each picture, whatever seed, epoch and indices."""
        short = torch.minimum(height, width)
        h, w = (height, width) if self.squash else (short, short)
        h, w = ((side * self.share).round().long().clamp(min=1) for side in (h, w))
        return Windows((height - h) // 2, (width - w) // 2, h, w, torch.zeros_like(h, dtype=torch.bool))
