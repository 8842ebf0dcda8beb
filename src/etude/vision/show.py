"""Pictures of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from etude.data.convert import to_device
from etude.data.loaders import ArrayLoader, DataLoaders
from etude.errors import ConfigError
from etude.plots import cut, new_figure, save_figure
from etude.types import Batch
from etude.vision.pictures import PictureLoader

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.training.predict import Predictions

RIGHT, WRONG = "#3a7d44", "#c1121f"
_CHARACTER = 0.62
"""Width of a character as a share of the font's size."""


def draw_predictions(
    learner: Learner, predictions: Predictions, path: Path, *, rows: int = 4, columns: int = 9
) -> None:
    """A grid of validation pictures with what the model says: its surest mistakes first, then its least sure hits.

    Args:
        learner: its validation data must be a store or arrays.
        predictions: of that data, in its order.
        path: the PNG to write.
        rows: of the grid.
        columns: of the grid.
    """
    valid = learner.data.valid
    if not isinstance(valid, ArrayLoader | PictureLoader) or predictions.targets is None:
        raise ConfigError("drawing predictions needs stored validation pictures and their targets")
    targets = predictions.targets.cpu()
    probability, guess = predictions.output.cpu().max(1)
    right = guess == targets
    chosen = torch.where(right, probability, probability - 2).argsort()
    # a mistake's rank is from -2 (unsure) to -1 (sure): turned round, the surest comes first
    num_wrong = int((~right).sum())
    chosen = torch.cat([chosen[:num_wrong].flip(0), chosen[num_wrong:]])[: rows * columns]
    pixels = valid.take(chosen.to(valid.targets.device)).inputs
    assert isinstance(pixels, Tensor)
    pixels = pixels.cpu()
    rows = -(-len(chosen) // columns)
    figure, _ = new_figure(rows, columns, width=1.4 * columns, height=0.5 + 1.8 * rows)
    titles = []
    for i in chosen.tolist():
        truth = "" if right[i] else f"\nis {_name(predictions, int(targets[i]))}"
        titles.append(f"{predictions[i].label}{truth}\n{float(probability[i]):.0%} sure")
    set_titles(figure.axes, titles, 1.4, [RIGHT if right[i] else WRONG for i in chosen.tolist()])
    for axis, image in zip(figure.axes, pixels, strict=False):
        axis.imshow(as_image(image), cmap="gray_r")
    for axis in figure.axes:
        axis.set_axis_off()
    figure.suptitle(
        f"{len(right) - num_wrong} of {len(right)} held-out pictures right; "
        "the surest mistakes first (red: what the model says, and what it is), then the least sure right answers",
        fontsize=10,
    )
    save_figure(figure, path)


def set_titles(axes: Sequence[Any], titles: Sequence[str], width: float, colors: Sequence[str]) -> None:
    """Titles over pictures of a width in inches, all of one size and cut so that none runs into the next."""
    room = 72 * width / _CHARACTER
    longest = max((len(line) for title in titles for line in title.split("\n")), default=1)
    size = max(min(room / max(longest, 1), 9), 6.5)
    for axis, title, color in zip(axes, titles, colors, strict=False):
        lines = [cut(line, int(room / size)) for line in title.split("\n")]
        axis.set_title("\n".join(lines), fontsize=size, color=color)


def draw_batch(data: DataLoaders, path: Path, *, columns: int = 8, epochs: int = 3) -> None:
    """What the model will see: training pictures as they are in three epochs, and validation pictures.

    Args:
        data: from `vision.load`.
        path: the PNG to write.
        columns: pictures beside each other.
        epochs: how often each training picture is drawn, each time with new windows and augmentation.
    """
    train, valid = data.train, data.valid
    if not isinstance(train, ArrayLoader | PictureLoader):
        raise ConfigError("drawing a batch needs stored pictures")
    rows = [(f"train, epoch {epoch + 1}", _seen(data, train, epoch, columns, augment=True)) for epoch in range(epochs)]
    if isinstance(valid, ArrayLoader | PictureLoader):
        rows.append(("valid", _seen(data, valid, 0, columns, augment=False)))
    figure, _ = new_figure(len(rows), columns, width=1.5 * columns, height=1.75 * len(rows))
    for i, (title, batch) in enumerate(rows):
        assert isinstance(batch.inputs, Tensor)
        axes = figure.axes[i * columns : (i + 1) * columns]
        set_titles(axes, [_label(data, target) for target in batch.targets], 1.5, ["black"] * columns)
        for axis, image in zip(axes, batch.inputs, strict=False):
            axis.imshow(as_image(image.clamp(0, 255).to(torch.uint8)), cmap="gray_r")
        figure.axes[i * columns].text(
            -0.08, 0.5, title, rotation=90, ha="right", va="center", transform=figure.axes[i * columns].transAxes
        )
    for axis in figure.axes:
        axis.set_axis_off()
    save_figure(figure, path)


def _seen(data: DataLoaders, loader: ArrayLoader | PictureLoader, epoch: int, num: int, *, augment: bool) -> Batch:
    """Some pictures spread over a data set, as the model sees them before they are normalized."""
    num = min(num, loader.num_samples)
    rows = torch.arange(num) * loader.num_samples // num
    # after a fit the samples may lie on a GPU
    batch = loader.take(rows.to(loader.targets.device), epoch)
    batch = data.augment(batch, data.seed or 0, epoch) if augment and data.augment is not None else batch
    return to_device(batch, torch.device("cpu"))


def _label(data: DataLoaders, target: Tensor) -> str:
    if data.numbers is not None:
        return ", ".join(f"{value:.4g}" for value in target.tolist())
    if data.vocab is None:
        return ""
    if target.ndim:
        return ", ".join(data.vocab[i] for i in target.nonzero().flatten().tolist())
    return data.vocab[int(target)]


def as_image(pixels: Tensor) -> object:
    """Pixels as matplotlib draws them: channels last, or none."""
    image = pixels.permute(1, 2, 0)
    return image.squeeze(2).numpy() if image.shape[2] == 1 else image.numpy()


def _name(predictions: Predictions, number: int) -> str:
    return predictions.vocab[number] if predictions.vocab is not None else str(number)
