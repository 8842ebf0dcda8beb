"""Erased rectangles against a loop over pictures, their areas and shapes against what was asked; `compose`."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from etude import Batch, ConfigError, random
from etude.boxes import inside
from etude.vision.affine import affine
from etude.vision.augment import compose, flip_and_shift
from etude.vision.color import color_jitter
from etude.vision.erase import random_erasing, rectangles

LAW = settings(max_examples=30, deadline=None, derandomize=True)


def _pictures(num=12, channels=3, height=9, width=7):
    return torch.randint(1, 256, (num, channels, height, width), dtype=torch.uint8)


def _batch(pixels, indices=None):
    return Batch(pixels, torch.zeros(len(pixels)), indices=torch.arange(len(pixels)) if indices is None else indices)


def _rectangles(num, height, width, area=(0.02, 0.33), ratio=(0.3, 3.3)):
    return rectangles(random.uniform(0, "test", 0, torch.arange(num), 6), height, width, area, ratio)


# -- the rectangles ---------------------------------------------------------------------------------------------------


@LAW
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted).map(tuple),
)
def test_a_rectangle_is_whole_and_its_area_is_the_drawn_one(height, width, area, ratio):
    assume(ratio[1] >= area[1] * height / width and ratio[0] * area[1] <= height / width)
    draws = random.uniform(0, "test", 0, torch.arange(50), 6)
    top, left, tall, wide = rectangles(draws, height, width, area, ratio)
    mask = inside(top, left, tall, wide, height, width)
    asked = (area[0] + draws[:, 1] * (area[1] - area[0])) * height * width

    assert ((tall * wide - asked).abs() <= torch.maximum(tall, wide) / 2 + 0.01).logical_or(asked < 1).all()
    assert torch.equal(mask.any(2).sum(1), tall.long())
    assert torch.equal(mask.any(1).sum(1), wide.long())
    assert torch.equal(mask, mask.any(2).unsqueeze(2) & mask.any(1).unsqueeze(1))


@pytest.mark.parametrize(("height", "width"), [(160, 160), (100, 250), (250, 100)], ids=str)
def test_areas_are_uniform_over_the_asked_range(height, width):
    """Drawing again until a rectangle fits would make large areas rare, shrinking one that does not would make small
    ones frequent (SPEC A15)."""
    _, _, tall, wide = _rectangles(4000, height, width, area=(0.1, 0.9), ratio=(0.2, 5))
    share = tall * wide / (height * width)

    torch.testing.assert_close(share.sort().values, torch.linspace(0.1, 0.9, 4000), atol=0.025, rtol=0)


def test_shapes_fill_the_asked_range_and_tall_ones_are_as_frequent_as_wide_ones():
    _, _, tall, wide = _rectangles(4000, 300, 300, area=(0.1, 0.1), ratio=(0.25, 4))
    shape = (tall / wide).log() / math.log(4)

    torch.testing.assert_close(shape.sort().values, torch.linspace(-1, 1, 4000), atol=0.05, rtol=0)


def test_rectangles_lie_everywhere_in_the_picture():
    top, left, _, _ = _rectangles(5000, 6, 6, area=(0.25, 0.25), ratio=(1, 1))
    places = torch.bincount((top * 4 + left).long(), minlength=16) / 5000

    assert places.tolist() == pytest.approx([1 / 16] * 16, abs=0.015)


@pytest.mark.parametrize(
    ("height", "width", "area", "ratio"),
    [(20, 20, (0.1, 0.9), (3, 3.3)), (20, 20, (0.1, 0.9), (0.3, 0.4)), (40, 10, (0.1, 1), (0.3, 3.3))],
    ids=str,
)
def test_a_rectangle_that_never_fits_is_refused(height, width, area, ratio):
    with pytest.raises(ConfigError, match=rf"of a {height}x{width} picture .* does not fit"):
        random_erasing(area=area, ratio=ratio)(_batch(_pictures(2, 3, height, width)), 0, 0)


# -- the pictures -----------------------------------------------------------------------------------------------------


def _one_by_one(pixels, indices, seed, epoch, *, p, area, ratio, fill):
    """The paper's algorithm for each picture on its own, in plain numbers and slices."""
    erased = pixels.clone()
    height, width = pixels.shape[-2:]
    for picture, index in zip(erased, indices, strict=True):
        chosen, size, shape, down, across, _ = random.uniform(seed, "random_erasing", epoch, index[None], 6)[0].tolist()
        size = (area[0] + size * (area[1] - area[0])) * height * width
        low, high = math.log(max(ratio[0], size / width**2)), math.log(min(ratio[1], height**2 / size))
        tall = min(max(round(math.sqrt(size * math.exp(low + shape * (high - low)))), 1), height)
        wide = min(max(round(size / tall), 1), width)
        tall = min(max(round(size / wide), 1), height)
        top, left = int(down * (height - tall + 1)), int(across * (width - wide + 1))
        if chosen < p:
            picture[:, top : top + tall, left : left + wide] = fill
    return erased


@LAW
@given(
    height=st.integers(3, 30),
    width=st.integers(3, 30),
    channels=st.sampled_from([1, 3]),
    p=st.sampled_from([0.0, 0.5, 1.0]),
    fill=st.integers(0, 255),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
)
def test_erasing_equals_a_loop_over_pictures(height, width, channels, p, fill, dtype):
    pixels, indices = _pictures(8, channels, height, width).to(dtype), torch.randperm(100)[:8]
    options = {"p": p, "area": (0.05, 0.3), "ratio": (0.1, 10.0), "fill": fill}
    ours = random_erasing(**options)(_batch(pixels, indices), 7, 2).inputs

    assert ours.dtype == dtype
    assert torch.equal(ours, _one_by_one(pixels, indices, 7, 2, **options))


def test_noise_is_uniform_and_different_in_every_picture_pixel_and_epoch():
    augment = random_erasing(p=1, area=(1, 1), ratio=(1, 1))
    noise = augment(_batch(_pictures(40, 3, 32, 32)), 0, 0).inputs
    counts = torch.bincount(noise.flatten().long(), minlength=256) / noise.numel()
    rows = noise.flatten(1).float()

    assert counts.tolist() == pytest.approx([1 / 256] * 256, rel=0.2)
    # pictures, channels, rows and columns are not correlated
    assert (rows.corrcoef() - torch.eye(40)).abs().max().item() < 0.1
    assert (noise.transpose(0, 1).flatten(1).float().corrcoef() - torch.eye(3)).abs().max().item() < 0.03
    for axis in (2, 3):
        pair = torch.stack([noise.float().flatten(), noise.roll(1, axis).float().flatten()])
        assert abs(pair.corrcoef()[0, 1].item()) < 0.02
    later = augment(_batch(_pictures(40, 3, 32, 32)), 0, 1).inputs
    assert (later == noise).float().mean().item() == pytest.approx(1 / 256, abs=0.003)


def test_noise_is_the_same_for_both_types_of_pixels():
    pixels, augment = _pictures(), random_erasing(p=1)

    assert torch.equal(augment(_batch(pixels.float()), 0, 0).inputs, augment(_batch(pixels), 0, 0).inputs.float())


def test_a_broken_fill_is_exact_in_float_and_rounded_in_uint8():
    pixels, augment = _pictures(), random_erasing(p=1, area=(1, 1), ratio=(0.1, 10), fill=100.7)

    assert augment(_batch(pixels), 0, 0).inputs.unique().tolist() == [101]
    assert augment(_batch(pixels.float()), 0, 0).inputs.unique().tolist() == pytest.approx([100.7])


def test_the_asked_share_of_pictures_is_erased_and_nothing_else_changes():
    pixels = _pictures(2000, 1, 6, 6)
    erased = random_erasing(p=0.3, fill=0)(_batch(pixels), 0, 0).inputs
    gone = erased == 0

    assert gone.flatten(1).any(1).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(erased[~gone], pixels[~gone])
    assert random_erasing(p=0)(_batch(pixels), 0, 0).inputs is pixels


@LAW
@given(data=st.data(), batch_size=st.integers(1, 12))
def test_augmentation_does_not_depend_on_order_or_batches(data, batch_size):
    pixels, augment = _pictures(12), random_erasing()
    whole = augment(_batch(pixels), 1, 5).inputs
    order = torch.tensor(data.draw(st.permutations(range(12))))
    parts = [augment(_batch(pixels[rows], rows), 1, 5).inputs for rows in order.split(batch_size)]

    assert torch.equal(torch.cat(parts), whole[order])


def test_every_epoch_and_seed_changes_pictures_in_its_own_way():
    batch, augment = _batch(_pictures(16, 3, 40, 40)), random_erasing(p=1, fill=0)
    first = augment(batch, 1, 0).inputs

    assert torch.equal(augment(batch, 1, 0).inputs, first)
    assert not (augment(batch, 1, 1).inputs == first).flatten(1).all(1).any()
    assert not (augment(batch, 2, 0).inputs == first).flatten(1).all(1).any()


@pytest.mark.parametrize("fill", [7, "noise"])
def test_pixels_come_out_as_they_lie_in_memory(fill):
    pixels = _pictures(6).contiguous(memory_format=torch.channels_last)
    before, augment = pixels.clone(), random_erasing(fill=fill)
    changed = augment(_batch(pixels), 0, 0)

    assert changed.inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(changed.inputs, augment(_batch(before.contiguous()), 0, 0).inputs)
    assert torch.equal(pixels, before)
    assert changed.indices is not None


@pytest.mark.parametrize("fill", [7, "noise"])
def test_nothing_is_read_back_from_the_device(fill):
    """The meta device has no values to read, and refuses tensors of another device."""
    batch = _batch(_pictures(4).to("meta"), torch.arange(4, device="meta"))

    assert random_erasing(fill=fill)(batch, 0, 0).inputs.shape == (4, 3, 9, 7)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p": 1.5}, r"p is .* \[0, 1\], got 1\.5"),
        ({"area": (0, 0.3)}, r"area is .* \(0, 1\], got \(0, 0\.3\)"),
        ({"area": (0.4, 0.3)}, r"area is .* got \(0\.4, 0\.3\)"),
        ({"area": (0.4, 1.3)}, r"area is .* got \(0\.4, 1\.3\)"),
        ({"ratio": (0, 1)}, r"ratio is .* above 0, got \(0, 1\)"),
        ({"ratio": (2, 1)}, r"ratio is .* got \(2, 1\)"),
        ({"fill": 256}, r"fill is 'noise' or a number in \[0, 255\], got 256"),
        ({"fill": "black"}, r"fill is 'noise' or .* got 'black'"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        random_erasing(**options)


AUGMENTS = [random_erasing(), affine(rotate=10), color_jitter(contrast=0.1)]


@pytest.mark.parametrize("augment", AUGMENTS, ids=["erase", "affine", "color"])
def test_what_is_not_keyed_pixels_is_refused(augment):
    with pytest.raises(ConfigError, match=r"the loader must give batch\.indices"):
        augment(Batch(_pictures(), torch.zeros(12)), 0, 0)
    with pytest.raises(ConfigError, match=r"1 or 3 channels.* got \(12, 2, 9, 7\) in torch\.uint8"):
        augment(_batch(_pictures(12, 2)), 0, 0)
    with pytest.raises(ConfigError, match=r"got \(12, 3, 9, 7\) in torch\.float16"):
        augment(_batch(_pictures().half()), 0, 0)


def test_compose_applies_all_in_the_order_given():
    batch, parts = _batch(_pictures()), [flip_and_shift(shift=1), *AUGMENTS]
    one_by_one = batch
    for part in parts:
        one_by_one = part(one_by_one, 3, 4)

    assert torch.equal(compose(*parts)(batch, 3, 4).inputs, one_by_one.inputs)
    assert not torch.equal(compose(*reversed(parts))(batch, 3, 4).inputs, one_by_one.inputs)
    with pytest.raises(ConfigError, match="at least one augmentation"):
        compose()
