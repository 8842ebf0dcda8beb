"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.plots import new_figure, save_figure

if TYPE_CHECKING:
    from etude.runs.series import Series
    from etude.training.callbacks.record import Record
    from etude.training.history import History
    from etude.training.predictions import Predictions

_MOST_PANELS = 4
TRAIN, VALID, QUIET = "#4c72b0", "#dd8452", "#9a9a9a"


def draw_curves(history: History, record: Record, path: Path) -> None:
    """Loss per step with its running mean and the validation loss, accuracy per epoch, learning rate per step.

    Where numbers are learned, their error (RMSE) instead of an accuracy.
    """
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
    metric = "rmse" if history["train_rmse"] else "accuracy"
    for side, color in (("train", TRAIN), ("valid", VALID)):
        if values := history[f"{side}_{metric}"]:
            label = f"{side}, {values[-1]:{'.4g' if metric == 'rmse' else '.2%'}} at the end"
            axes[1].plot(range(1, len(values) + 1), values, color=color, marker="o", ms=3, label=label)
    axes[1].set(title="RMSE" if metric == "rmse" else metric, xlabel="epoch")
    axes[2].plot(range(1, len(losses) + 1), record.lrs, color=TRAIN)
    axes[2].set(title="learning rate", xlabel="step")
    for axis in axes:
        axis.locator_params(axis="x", integer=True)
    for axis in axes[:2]:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    save_figure(figure, path)


def draw_numbers(predictions: Predictions, path: Path) -> None:
    """What a model says of held-out samples over what is true, a panel for each number.

    Args:
        predictions: of numbers, with their targets.
        path: the PNG to write.
    """
    targets = predictions.targets
    assert targets is not None
    names = predictions.numbers[:_MOST_PANELS]
    figure, _ = new_figure(1, len(names), width=4.6 * len(names), height=4.4)
    for i, (name, axis) in enumerate(zip(names, figure.axes, strict=True)):
        true, said = targets[:, i], predictions.output[:, i]
        ends = [float(true.min()), float(true.max())]
        axis.plot(ends, ends, color=QUIET, linewidth=1, label="all right")
        axis.scatter(true.tolist(), said.tolist(), s=14, color=TRAIN, alpha=0.6, linewidths=0)
        axis.set(title=f"{name}, {len(true)} held-out pictures", xlabel="true", ylabel="predicted")
        axis.legend(frameon=False)
    save_figure(figure, path)


def history_figure(series: Series) -> Any:
    """Loss and accuracy of a run's folder, below each other, that a phone can show them."""
    accuracy = any(f"{side}_accuracy" in series.columns for side in ("train", "valid"))
    figure, axes = new_figure(1 + accuracy, 1, width=5.8, height=2.9 * (1 + accuracy))
    axes = figure.axes
    epochs = [row["epoch"] for row in series.epochs]
    steps = [step.step for step in series.steps]
    scale = len(epochs) / steps[-1] if steps and epochs else 1.0
    axes[0].plot(
        [step * scale for step in steps], smoothed([step.loss for step in series.steps]), color=TRAIN, alpha=0.8
    )
    for name, axis in (("loss", axes[0]), *([("accuracy", axes[1])] if accuracy else [])):
        for side, color in (("train", TRAIN), ("valid", VALID)):
            if (column := f"{side}_{name}") in series.columns:
                axis.plot(epochs, series.column(column), color=color, marker="o", ms=3, label=side)
        axis.set(title=name, xlabel="epoch" if epochs else "step")
        axis.locator_params(axis="x", integer=True)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    return figure


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
