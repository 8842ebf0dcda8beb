"""Erase pixels: single pixels of every picture are blanked."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from etude.training.callback import Callback
from etude.training.callbacks.choose import refuse_conflicts
from etude.training.callbacks.mixing import Fill, check_fill, check_share, erased, keyed, pictures
from etude.types import Batch, Json

if TYPE_CHECKING:
    from etude.training.learner import Learner


@final
class ErasePixels(Callback):
    """Blank single pixels of each picture, all channels of a pixel at once; the label stays.

    Each pixel is blanked or not by its own draw, which is a function of (seed, batch number).

    Args:
        share: how likely a pixel is blanked. 0.1 leaves each blank pixel neighbors to guess it from; no paper says
            what is best, so try some.
        fill: "mean", the mean of each channel over the batch, or a number; see `Cutout` for the reason.
        seed: None takes the learner's.

    Source: the lesson's remark on Cutout, "or random pixels"; SPEC M11.
    """

    def __init__(self, share: float = 0.1, *, fill: Fill = "mean", seed: int | None = None) -> None:
        check_share(share, "share is the share of the pixels that are erased")
        check_fill(fill)
        self.share, self.fill, self.seed = share, fill, seed

    @override
    def before_fit(self, learner: Learner) -> None:
        """Refuse what would go wrong beside it in one list."""
        refuse_conflicts(self, learner)

    @override
    def transform_batch(self, batch: Batch, learner: Learner) -> Batch:
        """Blank the pixels."""
        pixels = pictures(batch, "ErasePixels")
        generator = keyed(learner, self.seed, "erase pixels", device=pixels.device)
        shape = (batch.size, *pixels.shape[-2:])
        draws = torch.rand(shape, generator=generator, device=pixels.device)
        return batch._replace(inputs=erased(pixels, draws < self.share, self.fill))

    @override
    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"share": self.share, "fill": self.fill, "seed": self.seed}
