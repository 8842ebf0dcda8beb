"""Colors against PIL's enhancements and the standard library's HSV; each picture changes by its own draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import Batch, ConfigError, random
from etude.vision.color import brighten, color_jitter, saturate, stretch_contrast, turn_hue
from reference import pil_color

LAW = settings(max_examples=30, deadline=None, derandomize=True)
EVERYTHING = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
OURS = {"brightness": brighten, "contrast": stretch_contrast, "saturation": saturate}


def _pictures(num=12, channels=3, height=9, width=7):
    """Noise around a color of each picture, so that the means of pictures and channels differ."""
    middle = torch.rand(num, channels, 1, 1) * 255
    noise = torch.randn(num, channels, height, width) * 60
    return (middle + noise).clamp(0, 255).to(torch.uint8)


def _batch(pixels, indices=None):
    return Batch(pixels, torch.zeros(len(pixels)), indices=torch.arange(len(pixels)) if indices is None else indices)


def _apply(function, picture, number):
    """A function of planes applied to one picture."""
    planes = list(picture.unsqueeze(0).float().unbind(1))
    return torch.stack(function(planes, torch.tensor([float(number)])), dim=1)[0]


# -- each change ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
@LAW
@given(factor=st.floats(0, 3), seed=st.integers(0, 99))
def test_one_change_equals_pils(name, factor, seed):
    torch.manual_seed(seed)
    picture = _pictures(1, 3, 16, 12)[0]
    ours = _apply(OURS[name], picture, factor)

    # PIL cuts to whole numbers at the end, and takes a pixel's gray as a whole number
    atol = 1.01 + (0.5 * abs(1 - factor) if name == "saturation" else 0)
    torch.testing.assert_close(ours, pil_color.enhance(name, picture, factor), atol=atol, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
@LAW
@given(factor=st.floats(0, 3))
def test_pictures_with_one_channel_equal_pils(name, factor):
    picture = _pictures(1, 1, 16, 12)[0]

    torch.testing.assert_close(
        _apply(OURS[name], picture, factor), pil_color.enhance(name, picture, factor), atol=1.01, rtol=0
    )


def test_contrast_keeps_the_mean_gray_rounded_as_pil_does():
    """A factor of 0 leaves nothing else."""
    for picture in _pictures(20):
        gray = _apply(stretch_contrast, picture, 0)

        assert torch.equal(gray, gray[:1, :1, :1].expand(3, 9, 7).round())
        torch.testing.assert_close(gray, pil_color.enhance("contrast", picture, 0.0), atol=1, rtol=0)


@LAW
@given(turn=st.floats(-0.5, 0.5), seed=st.integers(0, 99))
def test_hue_equals_the_standard_librarys_in_float64(turn, seed):
    torch.manual_seed(seed)
    picture = _pictures(1)[0]
    picture[:, 0, :3] = torch.tensor([[0, 255, 90], [0, 255, 90], [0, 255, 90]], dtype=torch.uint8)
    picture[:, 1, :3] = torch.tensor([[255, 0, 0], [255, 255, 0], [0, 255, 7]], dtype=torch.uint8)

    torch.testing.assert_close(
        _apply(turn_hue, picture, turn).double(), pil_color.hue(picture, turn), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("steps", [-100, -3, 0, 7, 64, 128])
def test_hue_is_near_pils_which_has_256_of_them(steps):
    picture = _pictures(1, 3, 40, 40)[0]
    difference = _apply(turn_hue, picture, steps / 256) - pil_color.pil_hue(picture, steps / 256)

    # one step of hue is 6 of 255 in a fully saturated color
    assert difference.abs().max().item() < 8
    assert difference.abs().mean().item() < 2


def test_a_full_turn_of_hue_changes_nothing_and_half_a_turn_swaps_extremes():
    picture = _pictures(1)[0].float()
    half = _apply(turn_hue, picture, 0.5)

    torch.testing.assert_close(_apply(turn_hue, picture, 1.0), picture, atol=1e-2, rtol=0)
    torch.testing.assert_close(half, picture.amax(0) + picture.amin(0) - picture, atol=1e-2, rtol=0)


# -- the augmentation -------------------------------------------------------------------------------------------------


def test_all_changes_equal_pil_one_after_the_other_for_the_same_draws():
    """In the documented order; each of PIL's steps rounds, and the next one enlarges that."""
    pixels, indices = _pictures(30), torch.randperm(1000)[:30]
    ours = color_jitter(**EVERYTHING)(_batch(pixels, indices), 7, 3).inputs
    draws = random.uniform(7, "color_jitter", 3, indices, 4).tolist()
    for i, row in enumerate(draws):
        picture = pixels[i]
        for name, draw in zip(OURS, row, strict=False):
            picture = pil_color.enhance(name, picture, 0.6 + draw * 0.8).to(torch.uint8)
        expected = pil_color.hue(picture, (row[3] * 2 - 1) * 0.1)

        torch.testing.assert_close(ours[i].double(), expected, atol=5, rtol=0)
        assert (ours[i] - expected).abs().mean().item() < 2


@pytest.mark.parametrize("most", [0.4, 1.5])
def test_factors_fill_their_range_and_are_not_negative(most):
    dim = torch.full((2000, 1, 1, 1), 20, dtype=torch.uint8)
    factors = (color_jitter(brightness=most)(_batch(dim), 0, 0).inputs / 20).flatten()
    lowest = max(0.0, 1 - most)
    share = (factors.sort().values - lowest) / (1 + most - lowest)

    torch.testing.assert_close(share, torch.linspace(0, 1, 2000), atol=0.04, rtol=0)


def test_hues_turn_both_ways_by_the_most_asked():
    red = torch.tensor([200, 50, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(2000, 3, 1, 1)
    changed = color_jitter(hue=0.1)(_batch(red), 0, 0).inputs[:, :, 0, 0]
    # red turned towards green rises in green, towards blue in blue; a sixth of the circle is the whole way
    turned = (changed[:, 1] - changed[:, 2]) / 150 / 6

    torch.testing.assert_close(turned.sort().values, torch.linspace(-0.1, 0.1, 2000), atol=0.006, rtol=0)


@pytest.mark.parametrize("name", EVERYTHING)
def test_each_setting_acts_alone_and_none_changes_nothing(name):
    batch = _batch(_pictures())
    alone = color_jitter(**{name: EVERYTHING[name]})(batch, 0, 0).inputs

    assert not torch.isclose(alone, batch.inputs.float()).flatten(1).all(1).any()
    assert color_jitter()(batch, 0, 0) is batch


@LAW
@given(data=st.data(), batch_size=st.integers(1, 12))
def test_augmentation_does_not_depend_on_order_or_batches(data, batch_size):
    pixels, augment = _pictures(12), color_jitter(**EVERYTHING)
    whole = augment(_batch(pixels), 1, 5).inputs
    order = torch.tensor(data.draw(st.permutations(range(12))))
    parts = [augment(_batch(pixels[rows], rows), 1, 5).inputs for rows in order.split(batch_size)]

    torch.testing.assert_close(torch.cat(parts), whole[order], atol=1e-3, rtol=0)


def test_every_epoch_and_seed_changes_pictures_in_its_own_way():
    batch, augment = _batch(_pictures(16)), color_jitter(**EVERYTHING)
    first = augment(batch, 1, 0).inputs

    assert torch.equal(augment(batch, 1, 0).inputs, first)
    assert not torch.isclose(augment(batch, 1, 1).inputs, first).flatten(1).all(1).any()
    assert not torch.isclose(augment(batch, 2, 0).inputs, first).flatten(1).all(1).any()


@pytest.mark.parametrize("name", [*EVERYTHING, None])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_pixels_come_out_in_float32_as_they_lie_in_memory(name, layout, dtype):
    """And what came in is as it was: no setting may write into the planes of a float picture."""
    pixels = _pictures(6).to(dtype).contiguous(memory_format=layout)
    before, augment = pixels.clone(), color_jitter(**({name: EVERYTHING[name]} if name else EVERYTHING))
    changed = augment(_batch(pixels), 0, 0).inputs

    assert changed.dtype == torch.float32
    assert changed.is_contiguous(memory_format=layout)
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert torch.equal(pixels, before)
    torch.testing.assert_close(changed, augment(_batch(before.contiguous().float()), 0, 0).inputs, atol=1e-3, rtol=0)


def test_nothing_is_read_back_from_the_device():
    """The meta device has no values to read, and refuses tensors of another device."""
    batch = _batch(_pictures(4).to("meta"), torch.arange(4, device="meta"))

    assert color_jitter(**EVERYTHING)(batch, 0, 0).inputs.shape == (4, 3, 9, 7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"brightness": -0.1}, r"brightness .* at least 0; got -0\.1"),
        ({"contrast": math.inf}, r"contrast .* at least 0; got inf"),
        ({"saturation": math.nan}, r"saturation .* at least 0; got nan"),
        ({"hue": 0.6}, r"hue .* \[0, 0\.5\], got 0\.6"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        color_jitter(**options)


@pytest.mark.parametrize("options", [{"saturation": 0.1}, {"hue": 0.1}], ids=str)
def test_colors_of_pictures_with_one_channel_are_refused(options):
    with pytest.raises(ConfigError, match="cannot change pictures with one channel"):
        color_jitter(**options)(_batch(_pictures(4, 1)), 0, 0)
