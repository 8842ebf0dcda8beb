"""Make the pictures of docs/looking-inside.md: `python docs/figures/looking_inside.py`, from the demo's digits.

report.png is made by hand, for it takes a browser; the page says how.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from etude import Interpretation, activation_statistics, vision
from etude.recipes.demo import DemoOptions, digits_learner

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"


def main(folder: Path = IMAGES, epochs: int = 5) -> None:
    """Write inside-*.png into a folder."""
    torch.manual_seed(42)
    learner = digits_learner(DemoOptions(), quiet=True)
    learner.fit(epochs, lr=1e-2)
    found = Interpretation.of(learner)
    print(found)
    found.draw_confusion(folder / "inside-confusion.png")
    found.draw_calibration(folder / "inside-calibration.png")
    vision.draw_confused(learner, found, folder / "inside-confused.png", pairs=3, examples=4)
    vision.draw_top_losses(learner, found, folder / "inside-losses.png")
    activation_statistics(learner).draw(folder / "inside-layers.png")


if __name__ == "__main__":
    main()
