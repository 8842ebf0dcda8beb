"""Test-time augmentation: several views of each picture, whose mean is what a model says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Literal

from etude.recipes.trained import Trained

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.vision.views import Views

Tta = Literal["no", "flip", "shift", "both"]
NUM_VIEWS: Final[dict[Tta, int]] = {"no": 1, "flip": 2, "shift": 5, "both": 10}
"""Of each picture."""
_SHIFT = 16
"""What part of the side the shifted views are moved by."""


def views_of(learner: Learner, run: str, tta: Tta) -> Views | None:
    """What of each picture is predicted, or None for the picture alone; a mirror image only if training saw some."""
    from etude import vision
    from etude.errors import ConfigError
    from etude.vision.preprocess import ImagePreprocess

    if tta == "no":
        return None
    preprocess = learner.data.preprocess
    if not isinstance(preprocess, ImagePreprocess):
        raise ConfigError(f"{run} was not trained on pictures, so there are no views of them; leave out --tta")
    flip, mirrored = tta in ("flip", "both"), Trained.of(run).mirrored()
    if flip and mirrored is None:
        print(f"note: {run} does not say whether mirrored pictures mean the same to it", file=sys.stderr)
    if flip and mirrored is False:
        raise ConfigError(
            f"--tta {tta} mirrors pictures, and the training of {run} mirrored none: a mirror image may be another "
            "thing to its model; take --tta shift"
        )
    return vision.Views(flip=flip, shift=0 if tta == "flip" else max(preprocess.size // _SHIFT, 1))
