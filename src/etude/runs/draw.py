"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from etude.plots import new_figure, save_figure

if TYPE_CHECKING:
    from etude.training.callbacks.record import Record
    from etude.training.history import History

TRAIN, VALID, QUIET = "#4c72b0", "#dd8452", "#9a9a9a"


def draw_curves(history: History, record: Record, path: Path) -> None:
    """Loss per step with its running mean and the validation loss, accuracy per epoch, learning rate per step."""
    figure, axes = new_figure(1, 3, width=13, height=3.6)
    losses = record.losses
    steps_per_epoch = len(losses) / max(len(history), 1)
    axes[0].plot(range(1, len(losses) + 1), losses, color=TRAIN, alpha=0.25, linewidth=0.8)
    axes[0].plot(range(1, len(losses) + 1), smoothed(losses), color=TRAIN, label="train")
    valid = history["valid_loss"]
    axes[0].plot(
        [(i + 1) * steps_per_epoch for i in range(len(valid))], valid, color=VALID, marker="o", ms=3, label="valid"
    )
    axes[0].set(title="loss", xlabel="step")
    for name, color in (("train_accuracy", TRAIN), ("valid_accuracy", VALID)):
        if values := history[name]:
            label = f"{name.split('_')[0]}, {values[-1]:.2%} at the end"
            axes[1].plot(range(1, len(values) + 1), values, color=color, marker="o", ms=3, label=label)
    axes[1].set(title="accuracy", xlabel="epoch")
    axes[2].plot(range(1, len(losses) + 1), record.lrs, color=TRAIN)
    axes[2].set(title="learning rate", xlabel="step")
    for axis in axes:
        axis.locator_params(axis="x", integer=True)
    for axis in axes[:2]:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    save_figure(figure, path)


def smoothed(values: list[float], keep: float = 0.98) -> list[float]:
    """A running mean in which each value weighs `keep` times as much as the next one, corrected for its start.

    >>> [round(value, 3) for value in smoothed([1.0, 1.0, 4.0], keep=0.5)]
    [1.0, 1.0, 2.714]
    """
    mean, weight, means = 0.0, 0.0, []
    for value in values:
        if value == value:
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + 1 - keep
        means.append(mean / weight if weight else value)
    return means
