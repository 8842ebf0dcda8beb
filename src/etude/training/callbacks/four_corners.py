"""Four corners (RICAP): train on pictures patched together from four, and on their four labels by area."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from typing_extensions import override

from etude.boxes import Box
from etude.errors import ConfigError
from etude.training.callback import Callback
from etude.training.callbacks.choose import refuse_conflicts
from etude.training.callbacks.mixing import beta_shares, keyed, mixable, partners, pictures
from etude.types import Batch, Json, MixedTargets, select

if TYPE_CHECKING:
    from jaxtyping import Shaped

    from etude.training.learner import Learner


@final
class FourCorners(Callback):
    """Patch every picture together from random windows of four pictures of the batch, its own in the first corner.

    Rows and columns are divided at shares from Beta(beta, beta). Each corner shows as large a window of its picture,
    from anywhere in it; no pixel is scaled. Targets become `MixedTargets` of two `MixedTargets`, every label with the
    exact share of its pixels. Point, windows and pictures are a function of (seed, batch number); point and windows
    are the same for a whole batch, as in the paper, so that four slices are copied and nothing else.

    Args:
        beta: 0.3 is what the paper found best: the point is mostly near a border, and one or two pictures are large.
        seed: None takes the learner's.

    Source: Takahashi, Matsubara and Uehara 2018, "RICAP: Random image cropping and patching data augmentation for deep
    CNNs", section 3; SPEC M11.
    """

    def __init__(self, beta: float = 0.3, *, seed: int | None = None) -> None:
        if not beta > 0:
            raise ConfigError(f"beta must be positive, got {beta}; leave FourCorners out to train without it")
        self.beta, self.seed = beta, seed

    @override
    def before_fit(self, learner: Learner) -> None:
        """Refuse what would go wrong beside it in one list."""
        refuse_conflicts(self, learner)

    @override
    def transform_batch(self, batch: Batch, learner: Learner) -> Batch:
        """Patch the pictures and mix the targets by area."""
        pixels, targets = pictures(batch, "FourCorners"), mixable(batch.targets, "FourCorners")
        height, width = pixels.shape[-2:]
        generator = keyed(learner, self.seed, "four corners")
        row, column = (
            round(share * num)
            for share, num in zip(beta_shares(self.beta, 2, generator).tolist(), (height, width), strict=True)
        )
        pairs = keyed(learner, self.seed, "four corners partners", device=pixels.device)
        order = [None, *(partners(learner, batch.size, pairs) for _ in range(3))]
        inputs = torch.empty_like(pixels)
        for corner, samples in zip(_corners(row, column, height, width), order, strict=True):
            inputs[corner.pixels] = _window(pixels, corner, samples, generator)
        labels = [targets if samples is None else select(targets, samples) for samples in order]
        across = torch.full((batch.size,), column / width, device=pixels.device)
        upper, lower = MixedTargets(labels[0], labels[1], across), MixedTargets(labels[2], labels[3], across)
        return batch._replace(inputs=inputs, targets=MixedTargets(upper, lower, torch.full_like(across, row / height)))

    @override
    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"beta": self.beta, "seed": self.seed}


def _corners(row: int, column: int, height: int, width: int) -> list[Box]:
    """The four parts of a picture that is divided in front of a row and a column, row by row."""
    return [
        Box(top, left, bottom, right)
        for top, bottom in ((0, row), (row, height))
        for left, right in ((0, column), (column, width))
    ]


def _window(
    pixels: Shaped[Tensor, "batch channel height width"], like: Box, samples: Tensor | None, generator: torch.Generator
) -> Shaped[Tensor, "batch channel tall wide"]:
    """As large a window as a box from anywhere in the pictures of some samples, None being all in their order."""
    tall, wide = like.bottom - like.top, like.right - like.left
    down, along = torch.rand(2, generator=generator).tolist()
    top, left = int(down * (pixels.shape[-2] - tall + 1)), int(along * (pixels.shape[-1] - wide + 1))
    window = pixels[Box(top, left, top + tall, left + wide).pixels]
    return window if samples is None else window.index_select(0, samples)
