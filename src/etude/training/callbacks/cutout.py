"""Cutout: a square of every picture is blanked."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from etude.boxes import inside
from etude.training.callback import Callback
from etude.training.callbacks.choose import refuse_conflicts
from etude.training.callbacks.mixing import Fill, check_fill, check_share, erased, keyed, pictures
from etude.types import Batch, Json

if TYPE_CHECKING:
    from etude.training.learner import Learner


@final
class Cutout(Callback):
    """Blank a square of each picture, around any of its pixels; the label stays.

    What of the square lies over the border is cut off. The paper found that this matters: parts of the pictures then
    stay almost whole. Squares are a function of (seed, batch number).

    Args:
        size: the square's side as a share of the picture's shorter one, so that it fits any resolution. The paper's
            best are 1/2 for CIFAR-10 and 1/4 for CIFAR-100: the more classes, the smaller.
        fill: "mean", the mean of each channel over the batch, or a number. The paper blanks with 0 after its
            normalization, which is the mean of the data; pixels here are not normalized yet, and a black square would
            be a thing to be seen. The batch's own mean needs no statistics and is right in any units.
        seed: None takes the learner's.

    Source: DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with Cutout", section 3;
    SPEC M11.
    """

    def __init__(self, size: float, *, fill: Fill = "mean", seed: int | None = None) -> None:
        check_share(size, "size is the side of the square as a share of the picture's shorter side")
        check_fill(fill)
        self.size, self.fill, self.seed = size, fill, seed

    @override
    def before_fit(self, learner: Learner) -> None:
        """Refuse what would go wrong beside it in one list."""
        refuse_conflicts(self, learner)

    @override
    def transform_batch(self, batch: Batch, learner: Learner) -> Batch:
        """Blank the squares."""
        pixels = pictures(batch, "Cutout")
        height, width = pixels.shape[-2:]
        side = max(1, round(self.size * min(height, width)))
        generator = keyed(learner, self.seed, "cutout", device=pixels.device)
        down, along = torch.rand(2, batch.size, generator=generator, device=pixels.device)
        top, left = (down * height).floor() - side // 2, (along * width).floor() - side // 2
        sides = torch.full_like(top, side)
        return batch._replace(inputs=erased(pixels, inside(top, left, sides, sides, height, width), self.fill))

    @override
    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"size": self.size, "fill": self.fill, "seed": self.seed}
