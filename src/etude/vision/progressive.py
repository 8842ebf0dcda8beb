"""Training pictures that grow: small ones in the first epochs of a fit, the full size in the last."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, final

from typing_extensions import override

from etude.data.loaders import DataLoaders
from etude.errors import ConfigError
from etude.training.callback import Callback
from etude.training.phases import Phase
from etude.types import Json
from etude.vision.pictures import PictureLoader
from etude.vision.preprocess import ImagePreprocess

if TYPE_CHECKING:
    from etude.training.learner import Learner

_FEW_PIXELS = 16
"""Between two sides: few sides, so that kernels chosen and memory taken for one are used again."""


@final
class ProgressiveResizing(Callback):
    """Train on small pictures first, which cost less, and on full-size ones at the end of each fit.

    The loader of `vision.load` cuts the same windows as without this, and reduces them to fewer pixels. A whole epoch
    has one side, which follows from the epoch's place in the fit, so a resumed fit has those of one never stopped. The
    last epoch is at full size; so are validation, prediction, the range test and `one_batch`.

    Args:
        start: the first side, as a share of the full one. Half of it has a quarter of the pixels.
        delay: the share of the fit that stays there, before the side grows evenly.
        finetune: the share at the end that is at full size: the norms' statistics and the head get used to it there.
        step: every side but the full one is a multiple of so many pixels; None is a quarter of the full side, at
            most 16.

    Raises:
        ConfigError: a share is out of its range, the sides would not differ, or the pictures are none of
            `vision.load`, as arrays are.

    **Source**: Howard 2018, "Training Imagenet in 3 hours for $25"; Tan and Le 2021, "EfficientNetV2: smaller models
    and faster training", section 4.
    """

    def __init__(
        self, start: float = 0.5, *, delay: float = 0.4, finetune: float = 0.2, step: int | None = None
    ) -> None:
        if not 0 < start < 1:
            raise ConfigError(f"start is a share of the full side, above 0 and below 1, such as 0.5; got {start}")
        if not (delay >= 0 and finetune >= 0 and delay + finetune <= 1):
            raise ConfigError(
                f"delay and finetune are shares of the fit, at most 1 together, got {delay} and {finetune}"
            )
        if step is not None and step < 1:
            raise ConfigError(f"step must be at least 1 pixel, got {step}")
        self.start, self.delay, self.finetune, self.step = start, delay, finetune, step

    def sides(self, size: int, num_epochs: int) -> list[int]:
        """The side of training pictures in each epoch of a fit, in pixels.

        >>> ProgressiveResizing().sides(64, 5)
        [32, 32, 48, 64, 64]

        Args:
            size: the full side.
            num_epochs: of the fit.
        """
        growing = 1 - self.delay - self.finetune
        sides = []
        for epoch in range(num_epochs - 1):
            # the middle of the epoch; the small number is against what rounding leaves of a difference of zero
            past = (epoch + 0.5) / num_epochs - self.delay
            grown = min(max((past + 1e-9) / growing, 0.0), 1.0) if growing > 1e-9 else float(past >= 0)
            sides.append(self._side(size, self.start + (1 - self.start) * grown))
        return [*sides, size]

    def check(self, size: int) -> None:
        """Refuse what would leave pictures of a full side as they are; raises `ConfigError`."""
        if self._side(size, self.start) == size:
            raise ConfigError(
                f"training that starts at a share of {self.start} has no effect on pictures of {size} pixels: the next "
                f"multiple of {self._step(size)} is {size} again; start smaller, or with a smaller step"
            )

    def _step(self, size: int) -> int:
        return self.step or max(min(size // 4, _FEW_PIXELS), 1)

    def _side(self, size: int, share: float) -> int:
        """The nearest multiple of the step to a share of the full side."""
        step = self._step(size)
        return min(max(math.floor(share * size / step + 0.5 + 1e-6), 1) * step, size)

    def phases(self, data: DataLoaders, num_epochs: int) -> list[Phase]:
        """The epochs of each side, for a plan.

        Raises:
            ConfigError: these pictures cannot be resized.
        """
        loader, preprocess = self._parts(data)
        numbered = enumerate(self.sides(loader.size, num_epochs), 1)
        found = []
        for side, group in groupby(numbered, key=lambda pair: pair[1]):
            epochs = [epoch for epoch, _ in group]
            found.append(Phase(epochs[0], epochs[-1], f"{side} px", partial(_held, loader, preprocess, side)))
        return found

    @override
    @contextmanager
    def during_fit(self, learner: Learner) -> Iterator[None]:
        """Have smaller pictures taken, and put the loader back to the full side however the fit ends."""
        loader, preprocess = self._parts(learner.data)
        with _resized(loader, preprocess, self.sides(loader.size, learner.progress.num_epochs)):
            yield

    @override
    def before_epoch(self, learner: Learner) -> None:
        """Set this epoch's side; a resume in the middle of an epoch comes by here too."""
        loader, _ = self._parts(learner.data)
        loader.side = self.sides(loader.size, learner.progress.num_epochs)[learner.progress.fit_epoch]

    def _parts(self, data: DataLoaders) -> tuple[PictureLoader, ImagePreprocess]:
        loader, preprocess = data.train, data.preprocess
        if not isinstance(loader, PictureLoader) or not isinstance(preprocess, ImagePreprocess):
            raise ConfigError(
                f"ProgressiveResizing resizes the pictures of vision.load, and cannot those of a "
                f"{type(loader).__name__}; leave it out"
            )
        self.check(loader.size)
        return loader, preprocess

    @override
    def config(self) -> dict[str, Json]:
        """The settings that a run's record must hold."""
        return {"start": self.start, "delay": self.delay, "finetune": self.finetune, "step": self.step}


@contextmanager
def _resized(loader: PictureLoader, preprocess: ImagePreprocess, sides: Sequence[int]) -> Iterator[None]:
    """Where the loader's side may be any of these."""
    before = loader.side
    with preprocess.taking(sides):
        try:
            yield
        finally:
            loader.side = before


@contextmanager
def _held(loader: PictureLoader, preprocess: ImagePreprocess, side: int) -> Iterator[None]:
    """Where every epoch has one side."""
    with _resized(loader, preprocess, [side]):
        loader.side = side
        yield
