"""Interpretation with pictures: those that are drawn are those that are meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import etude
from etude import vision
from etude.errors import ConfigError
from etude.training.interpret import Interpretation
from etude.training.predict import Predictions
from etude.vision.interpret import encoded, pictures_at


@pytest.fixture
def painted():
    """A learner on pictures of one color each, an interpretation made by hand, and the colors."""
    colors = torch.tensor([[30 * i % 256, 255 - 20 * i, 70 * i % 256] for i in range(12)], dtype=torch.uint8)
    pixels = colors.view(12, 3, 1, 1).expand(12, 3, 16, 16).contiguous()
    targets = torch.arange(12) % 3
    data = vision.from_arrays((pixels, targets), (pixels, targets), vocab=["cat", "dog", "cow"])
    torch.manual_seed(0)
    learner = vision.learner("lesson_cnn", data, widths=[8, 8], stem_stride=1, precision="fp32", progress=False)
    output = torch.full((12, 3), 0.1).scatter(1, targets.unsqueeze(1), 0.8)
    # 7 is a dog that is surely said to be a cow, 4 one that is perhaps
    output[7], output[4] = torch.tensor([0.0, 0.02, 0.98]), torch.tensor([0.1, 0.4, 0.5])
    found = Interpretation.of_predictions(Predictions(output, targets, data.vocab, probable=True))
    return learner, found, colors


def drawn_colors(path, colors) -> list[int]:
    """Which of the colors cover much of a picture, from left to right."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    places = {}
    for i, color in enumerate(colors.tolist()):
        same = (np.abs(pixels - color).max(2) <= 1).nonzero()
        if len(same[0]) > 2000:
            places[i] = same[1].mean()
    return sorted(places, key=places.__getitem__)


def test_the_largest_losses_are_drawn_from_left_to_right(painted, tmp_path):
    learner, found, colors = painted
    vision.draw_top_losses(learner, found, tmp_path / "one.png", num=1)
    vision.draw_top_losses(learner, found, tmp_path / "two.png", num=2)

    assert drawn_colors(tmp_path / "one.png", colors) == [7]
    assert drawn_colors(tmp_path / "two.png", colors) == [7, 4]


def test_the_confused_are_drawn_the_surest_first(painted, tmp_path):
    learner, found, colors = painted
    vision.draw_confused(learner, found, tmp_path / "pairs.png")

    assert drawn_colors(tmp_path / "pairs.png", colors) == [7, 4]


def test_data_of_ones_own_is_drawn_from(painted, tmp_path):
    learner, found, colors = painted
    other = etude.ArrayLoader(learner.data.valid.inputs.flip(0), learner.data.valid.targets.flip(0))
    vision.draw_top_losses(learner, found, tmp_path / "one.png", data=other, num=1)

    assert drawn_colors(tmp_path / "one.png", colors) == [4]


def test_what_the_model_sees_is_shown():
    pixels = torch.randint(256, (2, 3, 12, 12), dtype=torch.uint8)
    data = vision.from_arrays((pixels, torch.arange(2)), (pixels, torch.arange(2)), vocab="ab", size=8)
    learner = vision.learner("lesson_cnn", data, widths=[4], precision="fp32", progress=False)

    assert torch.equal(pictures_at(learner, [1]), pixels[1:, :, 2:10, 2:10])


def test_nothing_to_draw_is_said(painted, tmp_path):
    learner, _, _ = painted
    targets = torch.arange(12) % 3
    right = Interpretation.of_predictions(
        Predictions(torch.eye(3)[targets], targets, learner.data.vocab, probable=True)
    )
    with pytest.raises(ConfigError, match="no class was taken for another"):
        vision.draw_confused(learner, right, tmp_path / "no.png")
    with pytest.raises(ConfigError, match=r"needs the loaders of vision\.load"):
        pictures_at(learner, [0], etude.training.learner.as_loader([(torch.zeros(1, 3, 8, 8), torch.zeros(1))]))


@pytest.mark.parametrize(("side", "kind"), [(16, "PNG"), (64, "JPEG")])
def test_pictures_are_written_small_and_true(side, kind, tmp_path):
    color = torch.randint(256, (3, 1, 1), dtype=torch.uint8).expand(3, side, side)
    (tmp_path / "picture").write_bytes(encoded(color))
    (tmp_path / "gray").write_bytes(encoded(torch.full((1, side, side), 55, dtype=torch.uint8)))
    with Image.open(tmp_path / "picture") as picture, Image.open(tmp_path / "gray") as gray:
        assert picture.format == gray.format == kind
        assert np.abs(np.asarray(picture).astype(int) - color.permute(1, 2, 0).numpy()).max() <= 2
        # ink on paper
        assert gray.getpixel((3, 3)) == 200
