"""Pictures of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from etude.data.loaders import ArrayLoader
from etude.errors import ConfigError
from etude.plots import new_figure, save_figure

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.training.predict import Predictions

RIGHT, WRONG = "#3a7d44", "#c1121f"


def draw_predictions(
    learner: Learner, predictions: Predictions, path: Path, *, rows: int = 4, columns: int = 9
) -> None:
    """A grid of validation pictures with what the model says: its mistakes first, then its least sure right answers.

    Args:
        learner: its validation data must be in memory.
        predictions: of that data, in its order.
        path: the PNG to write.
        rows: of the grid.
        columns: of the grid.
    """
    valid = learner.data.valid
    if not isinstance(valid, ArrayLoader) or predictions.targets is None:
        raise ConfigError("drawing predictions needs validation pictures in memory and their targets")
    probability, guess = predictions.output.max(1)
    # mistakes have rank 0, right answers 1; within each the doubtful ones come first
    rank = (guess == predictions.targets).float() + probability * 0.5
    figure, _ = new_figure(rows, columns, width=1.3 * columns, height=1.55 * rows)
    for axis, i in zip(figure.axes, rank.argsort().tolist(), strict=False):
        right = int(guess[i]) == int(predictions.targets[i])
        axis.imshow(_as_image(valid.inputs[i]), cmap="gray_r")
        said = predictions[i].label
        truth = "" if right else f", is {_name(predictions, int(predictions.targets[i]))}"
        axis.set_title(f"{said}{truth}\n{float(probability[i]):.0%}", fontsize=9, color=RIGHT if right else WRONG)
    for axis in figure.axes:
        axis.set_axis_off()
    figure.suptitle("mistakes first, then the least certain right answers", fontsize=10)
    save_figure(figure, path)


def _as_image(pixels: Tensor) -> object:
    image = pixels.cpu().permute(1, 2, 0)
    return image.squeeze(2).numpy() if image.shape[2] == 1 else image.numpy()


def _name(predictions: Predictions, number: int) -> str:
    return predictions.vocab[number] if predictions.vocab is not None else str(number)
