"""What the callbacks that mix or erase share: keyed draws, partners, fillings, and checks of what they are given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from etude import random
from etude.errors import ConfigError
from etude.types import Batch, MixedTargets

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped

    from etude.training.learner import Learner

Fill: TypeAlias = float | Literal["mean"]


def keyed(learner: Learner, seed: int | None, purpose: str, *, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose in this batch; a seed of None is the learner's."""
    own = learner.seed if seed is None else seed
    return random.generator(own, purpose, learner.progress.batch, device=device)


def partners(learner: Learner, num: int, generator: torch.Generator) -> Int[Tensor, "num"]:
    """A sample of the batch for each of its `num` samples, every one once; on the learner's device."""
    return torch.randperm(num, generator=generator, device=generator.device).to(learner.device)


def beta_shares(alpha: float, num: int, generator: torch.Generator | None = None) -> Float[Tensor, "num"]:
    """`num` draws from Beta(alpha, alpha), on the generator's device.

    A Beta variable is the share of the first of two Gamma variables. Those of a small alpha underflow, so they are
    drawn as logarithms: Gamma(alpha) is Gamma(alpha + 1) times the alpha-th root of a uniform variable.
    (`torch.distributions.Beta` takes no generator, and underflows.)
    """
    device = generator.device if generator is not None else torch.device("cpu")
    gamma = torch._standard_gamma(torch.full((2, num), alpha + 1, device=device), generator=generator)
    root = torch.rand(2, num, generator=generator, device=device).neg_().log1p_() / alpha
    first, second = gamma.log_() + root
    return torch.sigmoid(first - second)


def mixable(targets: Any, name: str) -> Tensor | MixedTargets:
    """Targets that can be mixed, once more if they are already.

    Raises:
        ConfigError: they are not one tensor.
    """
    if not isinstance(targets, Tensor | MixedTargets):
        raise ConfigError(f"{name} needs targets in one tensor, got {type(targets).__name__}")
    return targets


def pictures(batch: Batch, name: str) -> Shaped[Tensor, "batch channel height width"]:
    """The pixels of a batch of pictures.

    Raises:
        ConfigError: the inputs are something else.
    """
    inputs = batch.inputs
    if isinstance(inputs, Tensor) and inputs.ndim == 4 and (inputs.is_floating_point() or inputs.dtype == torch.uint8):
        return inputs
    found = f"{inputs.dtype} {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
    raise ConfigError(
        f"{name} takes pictures (batch, channel, height, width) of uint8 or floating-point numbers, got {found}"
    )


def check_share(value: float, of: str) -> None:
    """Raises `ConfigError` for a number that is not above 0 and up to 1."""
    if not 0 < value <= 1:
        raise ConfigError(f"{of} in (0, 1], got {value}")


def check_fill(fill: Fill) -> None:
    """Raises `ConfigError` for a filling that is neither "mean" nor a finite number."""
    if fill != "mean" and (isinstance(fill, str) or not math.isfinite(fill)):
        raise ConfigError(f"fill is 'mean' or a number in the units of the pixels, got {fill!r}")


def erased(
    pixels: Shaped[Tensor, "batch channel height width"], where: Bool[Tensor, "batch height width"], fill: Fill
) -> Shaped[Tensor, "batch channel height width"]:
    """The pictures with all channels of some pixels replaced, in the type and layout that came in.

    Args:
        pixels: the pictures.
        where: the pixels to replace.
        fill: a number, or "mean" for the mean of each channel over the batch; rounded where pixels are uint8.

    Raises:
        ConfigError: the number is no uint8 and the pixels are.
    """
    whole = not pixels.is_floating_point()
    value: Tensor | float
    if isinstance(fill, str):
        mean = (pixels.float() if whole else pixels).mean((0, 2, 3), keepdim=True)
        value = mean.round().to(pixels.dtype) if whole else mean
    elif whole and not 0 <= fill <= 255:
        raise ConfigError(f"fill={fill} is outside of 0..255, and the pixels are uint8")
    else:
        value = round(fill) if whole else fill
    gone = where.unsqueeze(1).to(pixels.dtype)
    # exact for the factors 0 and 1, and on a CPU twice as fast as where with a mask to expand
    return pixels * (1 - gone) + value * gone
