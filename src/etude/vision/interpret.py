"""Interpretation with pictures: those of the largest losses, and those of the classes that are confused."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from etude.data.loaders import ArrayLoader, Loader
from etude.errors import ConfigError
from etude.plots import new_figure, save_figure
from etude.training.interpret import Interpretation
from etude.vision.gradcam import grad_cam
from etude.vision.pictures import PictureLoader
from etude.vision.preprocess import ImagePreprocess
from etude.vision.show import as_image, set_titles

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped, UInt8

    from etude.training.learner import Learner

_WIDTH = 1.5
"""Inches of a picture."""
_COOL, _HOT = (1.0, 0.85, 0.1), (0.86, 0.08, 0.24)
"""Colors of what spoke for a class a little, and most."""
_COVER = 0.65
"""How much of the picture the strongest color covers."""
_BATCH = 16
_JPEG_FROM = 48


def draw_top_losses(
    learner: Learner,
    interpretation: Interpretation,
    path: str | os.PathLike[str],
    *,
    data: Loader | None = None,
    num: int = 12,
    columns: int = 4,
) -> None:
    """Write a PNG of the pictures with the largest losses, beside each where the network saw what it says.

    Args:
        learner: whose data are pictures.
        interpretation: of it and the same data, in its order.
        path: the PNG to write.
        data: the loader that was interpreted; None is the validation data.
        num: pictures.
        columns: pictures beside each other, each with its Grad-CAM.
    """
    top = interpretation.top_losses(num)
    pixels = pictures_at(learner, [one.position for one in top], data)
    heated = overlays(learner, pixels)
    columns = min(columns, len(top))
    rows = -(-len(top) // columns)
    figure, _ = new_figure(rows, 2 * columns, width=2 * _WIDTH * columns, height=(_WIDTH + 0.65) * rows)
    titles = []
    for one in top:
        sure = "" if interpretation.kind == "numbers" else f" (p {one.probability:.1%})"
        titles += [f"is {one.true}\nsays {one.predicted}\nloss {one.loss:.3g}{sure}", f"why\n{one.predicted}\n"]
    set_titles(figure.axes, titles, _WIDTH, ["black", "dimgray"] * len(top))
    for axis, image in zip(figure.axes, _in_turn(pixels, heated), strict=False):
        axis.imshow(as_image(image), cmap="gray_r")
    _hide(figure)
    save_figure(figure, Path(path))


def draw_confused(
    learner: Learner,
    interpretation: Interpretation,
    path: str | os.PathLike[str],
    *,
    data: Loader | None = None,
    pairs: int = 6,
    examples: int = 6,
) -> None:
    """Write a PNG of the classes that are most often confused, a row of pictures each, the surest mistakes first.

    Args:
        learner: whose data are pictures.
        interpretation: of it and the same data, in its order.
        path: the PNG to write.
        data: the loader that was interpreted; None is the validation data.
        pairs: rows.
        examples: pictures in a row.
    """
    confused = interpretation.most_confused(pairs)
    if not confused:
        raise ConfigError("no class was taken for another, so there is nothing to draw")
    # room for a title, and no column without a picture
    examples = max(min(examples, confused[0].num), 3)
    figure, _ = new_figure(len(confused), examples, width=_WIDTH * examples, height=(_WIDTH + 0.3) * len(confused))
    for i, pair in enumerate(confused):
        axes = figure.axes[i * examples : (i + 1) * examples]
        for axis, image in zip(axes, pictures_at(learner, pair.positions[:examples], data), strict=False):
            axis.imshow(as_image(image), cmap="gray_r")
        for axis in axes:
            axis.set_title(" ", fontsize=9)
        words = f"{pair.num} x {pair.true}, taken for {pair.predicted}"
        title = axes[0].text(0, 1.05, words, fontsize=9, transform=axes[0].transAxes)
        # it may be wider than its picture
        title.set_in_layout(False)
    _hide(figure)
    save_figure(figure, Path(path))


def pictures_at(
    learner: Learner, positions: Sequence[int], data: Loader | None = None
) -> UInt8[Tensor, "picture channel height width"]:
    """Pictures of a loader by their positions, as the model sees them before they are normalized.

    Raises:
        ConfigError: the loader cannot be asked for single pictures.
    """
    loader = learner.data.valid if data is None else data
    if not isinstance(loader, ArrayLoader | PictureLoader):
        raise ConfigError("showing pictures by their positions needs the loaders of vision.load or vision.from_arrays")
    rows = torch.tensor(list(positions), dtype=torch.long)
    pixels = loader.take(rows.to(loader.targets.device)).inputs
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.dtype != torch.uint8:
        raise ConfigError("expected pictures (batch, channel, height, width) of uint8 pixels in this data")
    side = learner.data.preprocess.size if isinstance(learner.data.preprocess, ImagePreprocess) else None
    if side is not None:
        top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
        pixels = pixels[..., top : top + side, left : left + side]
    return pixels.cpu()


def overlays(
    learner: Learner,
    pixels: UInt8[Tensor, "picture channel height width"],
    classes: Sequence[int] | None = None,
) -> UInt8[Tensor, "picture 3 height width"]:
    """Pictures with what spoke for a class laid over them: yellow a little, red most. None is what the model says."""
    parts = []
    for start in range(0, len(pixels), _BATCH):
        some = pixels[start : start + _BATCH]
        cam = grad_cam(learner, some, classes=None if classes is None else classes[start : start + _BATCH])
        parts.append(heated(some, cam.enlarged(some.shape[-1])))
    return torch.cat(parts)


def heated(
    pixels: UInt8[Tensor, "picture channel height width"], strength: Float[Tensor, "picture height width"]
) -> UInt8[Tensor, "picture 3 height width"]:
    """Pictures in gray with colors over them, as strong as the numbers from 0 to 1 are large."""
    gray = pixels.float().mean(1, keepdim=True) / 255
    # one channel is drawn as ink on paper
    gray = 1 - gray if pixels.shape[1] == 1 else gray
    strength = strength.unsqueeze(1)
    cool, hot = (torch.tensor(color).view(1, 3, 1, 1) for color in (_COOL, _HOT))
    color = cool + (hot - cool) * strength
    cover = _COVER * strength
    return ((gray * (1 - cover) + color * cover) * 255).round().clamp(0, 255).to(torch.uint8)


def encoded(pixels: UInt8[Tensor, "channel height width"]) -> bytes:
    """A picture as a file: JPEG, or PNG for one so small that every pixel counts; one channel is ink on paper."""
    file = io.BytesIO()
    image = pixels.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(255 - image[..., 0] if image.shape[2] == 1 else image)
    if min(picture.size) < _JPEG_FROM:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def _in_turn(first: Shaped[Tensor, "..."], second: Shaped[Tensor, "..."]) -> list[Tensor]:
    return [image for pair in zip(first, second, strict=True) for image in pair]


def _hide(figure: Any) -> None:
    for axis in figure.axes:
        axis.set_axis_off()
