"""Random flips and windows against a loop over pictures, and what the model sees of stored pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import Batch, ConfigError, EtudeError, random
from etude.vision import ImagePreprocess, flip_and_shift

LAW = settings(max_examples=30, deadline=None, derandomize=True)


def _pictures(num=12, channels=3, height=9, width=7):
    return torch.randint(1, 256, (num, channels, height, width), dtype=torch.uint8)


def _batch(pixels, indices=None):
    return Batch(pixels, torch.zeros(len(pixels)), indices=torch.arange(len(pixels)) if indices is None else indices)


def _one_by_one(pixels, indices, seed, epoch, *, flip, shift=0, size=None):
    """The same for each picture on its own, in plain slices."""
    changed = []
    for picture, index in zip(pixels, indices, strict=True):
        across, down, mirror = random.uniform(seed, "augment", epoch, index[None], 3)[0].tolist()
        canvas = torch.nn.functional.pad(picture, (shift,) * 4)
        height, width = (size, size) if size else picture.shape[-2:]
        top = int(across * (canvas.shape[-2] - height + 1))
        left = int(down * (canvas.shape[-1] - width + 1))
        window = canvas[:, top : top + height, left : left + width]
        changed.append(window.flip(-1) if mirror < flip else window)
    return torch.stack(changed)


@LAW
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 3),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    shift=st.integers(0, 4),
    epoch=st.integers(0, 3),
)
def test_flips_and_shifts_equal_a_loop_over_pictures(height, width, channels, flip, shift, epoch):
    pixels, indices = _pictures(8, channels, height, width), torch.randperm(100)[:8]
    ours = flip_and_shift(flip=flip, shift=shift)(_batch(pixels, indices), 7, epoch).inputs

    assert torch.equal(ours, _one_by_one(pixels, indices, 7, epoch, flip=flip, shift=shift))


@LAW
@given(height=st.integers(5, 9), width=st.integers(5, 9), size=st.integers(1, 5))
def test_random_windows_equal_a_loop_over_pictures(height, width, size):
    pixels, indices = _pictures(8, 2, height, width), torch.randperm(100)[:8]
    ours = flip_and_shift(size=size)(_batch(pixels, indices), 7, 0).inputs

    assert ours.shape == (8, 2, size, size)
    assert torch.equal(ours, _one_by_one(pixels, indices, 7, 0, flip=0.5, size=size))


@LAW
@given(data=st.data(), batch_size=st.integers(1, 12))
def test_augmentation_does_not_depend_on_order_or_batches(data, batch_size):
    pixels, augment = _pictures(12), flip_and_shift(shift=2)
    whole = augment(_batch(pixels), 1, 5).inputs
    order = torch.tensor(data.draw(st.permutations(range(12))))
    parts = [augment(_batch(pixels[rows], rows), 1, 5).inputs for rows in order.split(batch_size)]

    assert torch.equal(torch.cat(parts), whole[order])


def test_every_epoch_and_seed_changes_pictures_in_its_own_way():
    batch, augment = _batch(_pictures(32)), flip_and_shift(shift=2)
    first = augment(batch, 1, 0).inputs

    assert torch.equal(augment(batch, 1, 0).inputs, first)
    assert not torch.equal(augment(batch, 1, 1).inputs, first)
    assert not torch.equal(augment(batch, 2, 0).inputs, first)


def test_half_of_the_pictures_are_mirrored_and_every_shift_comes_up():
    dot, ramp = torch.zeros(5000, 1, 5, 5), torch.arange(5.0).view(1, 1, 1, 5).expand(5000, 1, 1, 5)
    dot[:, :, 2, 2] = 1
    places = flip_and_shift(flip=0.0, shift=2)(_batch(dot), 0, 0).inputs.flatten(1)
    mirrored = flip_and_shift(flip=0.5)(_batch(ramp), 0, 0).inputs[:, 0, 0, 0] == 4

    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert places.mean(0).tolist() == pytest.approx([1 / 25] * 25, abs=0.015)


def test_what_comes_in_from_outside_is_black():
    shifted = flip_and_shift(flip=0.0, shift=3)(_batch(torch.full((200, 1, 4, 4), 9, dtype=torch.uint8)), 0, 0).inputs

    assert set(shifted.unique().tolist()) == {0, 9}


def test_pictures_in_floating_point_are_augmented_too():
    pixels = _pictures()
    augment = flip_and_shift(shift=2)

    assert torch.equal(augment(_batch(pixels.float()), 0, 0).inputs, augment(_batch(pixels), 0, 0).inputs.float())


def test_targets_and_indices_stay_as_they_are():
    batch = _batch(_pictures())
    changed = flip_and_shift(shift=1)(batch, 0, 0)

    assert changed.targets is batch.targets
    assert changed.indices is batch.indices


@pytest.mark.parametrize("options", [{"flip": 1.5}, {"flip": -0.1}, {"shift": -1}, {"shift": 2, "size": 4}], ids=str)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError, match=r"flip is a share|shift .* or size"):
        flip_and_shift(**options)


def test_a_batch_without_indices_is_refused():
    batch = Batch(_pictures(), torch.zeros(12))

    with pytest.raises(ConfigError, match=r"the loader must give batch\.indices"):
        flip_and_shift()(batch, 0, 0)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (20, 6), (6, 20)], ids=["both", "width", "height"])
def test_a_window_larger_than_the_pictures_is_refused(height, width):
    """Not cut across the end of a row into the next one."""
    batch = _batch(_pictures(4, 1, height, width))

    with pytest.raises(EtudeError):
        flip_and_shift(size=8)(batch, 0, 0)


# -- what the model sees ----------------------------------------------------------------------------------------------

MEAN, STD = [0.47, 0.48, 0.45], [0.29, 0.28, 0.30]


def _explicit(pixels, size):
    """(x / 255 - mean) / std of the middle window, in float64."""
    top, left = (pixels.shape[-2] - size) // 2, (pixels.shape[-1] - size) // 2
    x = pixels[..., top : top + size, left : left + size].double() / 255
    return (x - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).double().view(3, 1, 1)


@pytest.mark.parametrize(("height", "width", "size"), [(6, 6, 6), (9, 7, 6), (7, 7, 4)], ids=str)
def test_preprocessing_is_the_middle_window_scaled_and_normalized(height, width, size):
    pixels = _pictures(4, 3, height, width)
    ours = ImagePreprocess(size, MEAN, STD)(pixels)

    torch.testing.assert_close(ours.double(), _explicit(pixels, size), atol=1e-5, rtol=1e-5)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_mixed_pixels_are_scaled_like_stored_ones():
    pixels = _pictures(4, 3, 8, 8)
    preprocess = ImagePreprocess(6, MEAN, STD)

    assert torch.equal(preprocess(pixels.float()), preprocess(pixels))


def test_preprocessing_is_built_again_from_its_config_and_saves_no_tensors():
    preprocess = ImagePreprocess(6, MEAN, STD)
    pixels = _pictures(4, 3, 8, 8)

    assert torch.equal(ImagePreprocess(**preprocess.config())(pixels), preprocess(pixels))
    assert preprocess.state_dict() == {}


@pytest.mark.parametrize(("height", "width"), [(6, 6), (20, 7)], ids=["both", "width"])
def test_pictures_smaller_than_the_window_are_refused(height, width):
    """Not cut to a few pixels by a negative index."""
    with pytest.raises(EtudeError):
        ImagePreprocess(8, MEAN, STD)(_pictures(2, 3, height, width))
