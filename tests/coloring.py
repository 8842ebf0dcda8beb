"""Pictures that a small model learns in seconds, odd files among them, and a command run in this process."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from etude import cli
from etude.runs.draw import draw_curves
from etude.vision.cnn import LessonCNN
from etude.vision.show import draw_predictions

COLORS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}
FAST = ["--size", "16", "--arch", "lesson_cnn", "--batch-size", "8", "--lr", "0.004"]
NARROW = (16, 32, 48, 64, 64)
"""Channels of the lesson's network in a command: what is tested is what lies around its training."""


def picture(color: str, number: int) -> Image.Image:
    """Noise around a color; no two are the same."""
    noise = np.random.default_rng([number, *color.encode()]).normal(0, 40, (24, 32, 3))
    return Image.fromarray((np.array(COLORS[color]) + noise).clip(0, 255).astype(np.uint8))


def save_colors(folder: Path, per_class: int = 16) -> Path:
    """One folder per color."""
    for color in COLORS:
        (folder / color).mkdir(parents=True)
        for number in range(per_class):
            picture(color, number).save(folder / color / f"{number:02}.png")
    return folder


def save_odd(folder: Path) -> dict[str, str]:
    """One odd file of each kind; returns a word of the reason that each must be noted with."""
    image = picture("red", 900)
    image.save(folder / "whole.jpg", quality=95)
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "nothing.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    image.save(folder / "really-png.jpg", format="PNG")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    image.save(folder / "moving.gif", save_all=True, append_images=[image.rotate(180)])
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "turned.jpg", exif=turned)
    return {
        "truncated.jpg": "cannot be decoded",
        "nothing.jpg": "is empty",
        "text.jpg": "is not a picture",
        "dangling.jpg": "does not exist",
        "really-png.jpg": "PNG named .jpg",
        "cmyk.jpg": "CMYK",
        "deep.png": "16 bits",
        "moving.gif": "animated",
        "turned.jpg": "turned by the camera",
    }


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    errors: str

    @property
    def json(self) -> Any:
        """The object that --json printed last."""
        return json.loads(self.out.splitlines()[-1])


@contextlib.contextmanager
def with_pictures() -> Iterator[None]:
    """Runs draw their curves and predictions, which conftest.py keeps those of other tests from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etude.runs.record.draw_curves", draw_curves)
        patch.setattr("etude.vision.show.draw_predictions", draw_predictions)
        yield


def etude(*arguments: str | Path) -> Done:
    """Run `etude ARGUMENTS` in this process, with a narrow network of the lesson."""
    out, errors = io.StringIO(), io.StringIO()
    narrow = mock.patch.dict(LessonCNN.__init__.__kwdefaults__, widths=NARROW)
    with narrow, contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = cli.run_command([str(argument) for argument in arguments])
    return Done(code, out.getvalue(), errors.getvalue())
