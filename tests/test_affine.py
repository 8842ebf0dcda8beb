"""Moved pixels against PIL, a float64 loop and torch.rot90; each picture moves by its own draw and by nothing else."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from etude import Batch, ConfigError
from etude.vision.affine import PADDINGS, affine, matrices, warp_pixels
from reference import pil_affine

LAW = settings(max_examples=30, deadline=None, derandomize=True)
EVERYTHING = {"rotate": 30, "zoom": (0.7, 1.4), "shear": 15, "warp": 0.1, "shift": 0.2}


def _noise(num=12, channels=3, height=9, width=7):
    return torch.randint(0, 256, (num, channels, height, width), dtype=torch.uint8)


def _smooth(num, channels, height, width):
    """Noise as smooth as pictures are: what differs by 255 is at least some 4 pixels apart."""
    coarse = torch.rand(num, channels, height // 4 + 2, width // 4 + 2) * 255
    return F.interpolate(coarse, (height, width), mode="bilinear").round().to(torch.uint8)


def _batch(pixels, indices=None):
    return Batch(pixels, torch.zeros(len(pixels)), indices=torch.arange(len(pixels)) if indices is None else indices)


def _matrices(height, width, *, zoom=1.0, angle=0.0, shear=0.0, shift=(0.0, 0.0), corners=((0.0, 0.0),) * 4):
    """One matrix from plain numbers."""
    numbers = {"zoom": zoom, "angle": angle, "shear": shear, "shift": shift, "corners": corners}
    return matrices(height, width, **{name: torch.tensor([value]) for name, value in numbers.items()})


SIDES = st.integers(8, 40)
CORNERS = st.tuples(*[st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))] * 4)
MOVES = st.fixed_dictionaries(
    {
        "zoom": st.floats(0.5, 2),
        "angle": st.floats(-180, 180),
        "shear": st.floats(-30, 30),
        "shift": st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
    }
)


# -- the matrices -----------------------------------------------------------------------------------------------------


@LAW
@given(height=SIDES, width=SIDES, moves=MOVES)
def test_the_matrix_is_the_inverse_of_the_textbooks(height, width, moves):
    ours = _matrices(height, width, **moves)[0].double()
    expected = pil_affine.forward_matrix(height, width, **moves).inverse()

    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)


@LAW
@given(height=SIDES, width=SIDES, corners=CORNERS)
def test_perspective_takes_each_corner_to_its_place(height, width, corners):
    matrix = _matrices(height, width, corners=corners)[0].double()
    signs = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]).double()
    sides = torch.tensor([width, height]).double()
    points = torch.cat([signs / 2 * sides, torch.ones(4, 1).double()], dim=1) @ matrix.T

    expected = (signs / 2 + torch.tensor(corners).double()) * sides
    torch.testing.assert_close(points[:, :2] / points[:, 2:], expected, atol=1e-3, rtol=0)


def test_matrices_leave_their_arguments_alone():
    """The notes' rotation multiplied its angles in place, so a second call turned by other angles (SPEC M12)."""
    given = {"zoom": torch.rand(5) + 0.5, "angle": torch.rand(5) * 90, "shear": torch.rand(5) * 9}
    given |= {"shift": torch.rand(5, 2), "corners": torch.rand(5, 4, 2) * 0.1}
    before = {name: value.clone() for name, value in given.items()}
    first, second = matrices(9, 7, **given), matrices(9, 7, **given)

    assert torch.equal(first, second)
    for name, value in given.items():
        assert torch.equal(value, before[name]), name


# -- the pixels -------------------------------------------------------------------------------------------------------


@LAW
@given(height=SIDES, width=SIDES, channels=st.sampled_from([1, 3]), moves=MOVES, corners=CORNERS)
def test_pixels_equal_pils_inside_the_picture(height, width, channels, moves, corners):
    """PIL cuts off what is behind the point, so it is up to 1 of 255 darker."""
    pixels, matrix = _smooth(1, channels, height, width), _matrices(height, width, **moves, corners=corners)
    ours = warp_pixels(pixels, matrix, antialias=False)[0]
    x, y = pil_affine.sources(matrix[0], height, width)
    inside = (x > 0.51) & (x < width - 0.51) & (y > 0.51) & (y < height - 0.51)
    above = torch.where(inside, ours - pil_affine.transform(pixels[0], matrix[0]), 0.0)

    assert above.min().item() > -0.02
    assert above.max().item() < 1.02


@pytest.mark.parametrize("padding", PADDINGS)
def test_pixels_equal_a_float64_loop_with_every_padding(padding):
    pixels = _noise(1, 2, 13, 10)
    for corners in (((0.0, 0.0),) * 4, ((0.1, 0.05), (-0.2, 0.1), (0.0, -0.1), (0.15, 0.2))):
        matrix = _matrices(13, 10, zoom=0.6, angle=40.0, shear=10.0, shift=(0.4, -0.7), corners=corners)
        ours = warp_pixels(pixels, matrix, padding, antialias=False)[0].double()

        torch.testing.assert_close(ours, pil_affine.bilinear(pixels[0], matrix[0], padding), atol=0.02, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(9, 7), (37, 101), (64, 64)], ids=str)
def test_the_identity_gives_the_same_pixels(height, width):
    pixels = _noise(2, 3, height, width)

    for padding in PADDINGS:
        ours = warp_pixels(pixels, _matrices(height, width).expand(2, 3, 3), padding)
        torch.testing.assert_close(ours, pixels.float(), atol=0.01, rtol=0)
    assert affine()(_batch(pixels), 0, 0).inputs is pixels


@pytest.mark.parametrize("turns", [-1, 1, 2])
@pytest.mark.parametrize(("height", "width"), [(15, 15), (16, 16), (20, 32), (32, 20)], ids=str)
def test_right_angles_equal_rot90(turns, height, width):
    """Also in the middle square of a picture that is not square, which shares of the sides would shear."""
    pixels, side = _noise(1, 3, height, width), min(height, width)
    square = (..., *(slice((n - side) // 2, (n + side) // 2 + (n - side) % 2) for n in (height, width)))
    ours = warp_pixels(pixels, _matrices(height, width, angle=90.0 * turns), antialias=False)

    torch.testing.assert_close(ours[square], pixels[square].rot90(turns, (2, 3)).float(), atol=0.02, rtol=0)


# -- reducing ---------------------------------------------------------------------------------------------------------


def _reduced(pixels, side, *, antialias=True):
    """The difference of the reduced picture from PIL's, away from the edge."""
    whole = pixels.shape[-1]
    corner = (whole - side) // 2
    ours = warp_pixels(pixels, _matrices(whole, whole, zoom=side / whole), antialias=antialias)[0]
    image = pil_affine.to_image(pixels[0]).resize((side, side), Image.Resampling.BILINEAR)
    inside = (..., slice(corner, corner + side), slice(corner, corner + side))
    return (ours[inside] - pil_affine.from_image(image))[:, 3:-3, 3:-3]


def test_a_picture_reduced_by_half_equals_pils_resize():
    assert _reduced(_noise(1, 3, 80, 80), 40).abs().max().item() <= 1.01


@pytest.mark.parametrize("side", [48, 56, 64, 72])
def test_reduced_pictures_are_close_to_pils_resize(side):
    """The tolerance in the docstring; without the blur they are not within it."""
    noise, smooth = _noise(1, 3, 80, 80), _smooth(1, 3, 80, 80)

    assert _reduced(smooth, side).square().mean().sqrt().item() < 2
    assert _reduced(noise, side).square().mean().sqrt().item() < 12.5
    assert _reduced(noise, side).std() < 0.8 * _reduced(noise, side, antialias=False).std()


def test_enlarged_pictures_are_not_blurred():
    pixels, matrix = _noise(1, 3, 20, 20), _matrices(20, 20, zoom=1.2, shift=(0.1, 0.0))

    assert torch.equal(warp_pixels(pixels, matrix), warp_pixels(pixels, matrix, antialias=False))


# -- the draws --------------------------------------------------------------------------------------------------------


def _travel(**options):
    """Where a spot above the middle goes in each of 400 pictures: (x, y) from the middle, y up, of 64 x 64 pixels."""
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    spot = 255 * torch.exp(-(x.square() + (y + 12).square()) / 8)
    moved = affine(**options)(_batch(spot.expand(400, 1, 64, 64)), 3, 0).inputs[:, 0]
    weight = moved / moved.sum((1, 2), keepdim=True)
    return (weight * x).sum((1, 2)), -(weight * y).sum((1, 2))


def _assert_fills(values, low, high):
    """Uniform over [low, high]: no value outside, the quarters where they belong."""
    quarters = torch.tensor([0.25, 0.5, 0.75])
    assert low - 0.02 * (high - low) <= values.min().item() <= low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) <= values.max().item() <= high + 0.02 * (high - low)
    torch.testing.assert_close((values.quantile(quarters) - low) / (high - low), quarters, atol=0.08, rtol=0)


def test_each_setting_is_drawn_from_its_whole_range():
    x, y = _travel(rotate=30)
    _assert_fills(torch.atan2(-x, y).rad2deg(), -30, 30)
    x, y = _travel(zoom=(0.8, 1.5))
    _assert_fills(y / 12, 0.8, 1.5)
    x, y = _travel(shear=40)
    _assert_fills(torch.atan2(x, y).rad2deg(), -40, 40)
    x, y = _travel(shift=0.2)
    _assert_fills(x / 64, -0.2, 0.2)
    _assert_fills((y - 12) / 64, -0.2, 0.2)
    x, y = _travel(warp=0.1)
    # inside, a picture can move further than its corners do
    assert 5 < x.abs().max().item() < 10
    assert 5 < (y - 12).abs().max().item() < 10


def test_draws_of_one_picture_do_not_go_together():
    x, y = _travel(shift=0.2)

    assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1].item()) < 0.15


@LAW
@given(data=st.data(), batch_size=st.integers(1, 12))
def test_augmentation_does_not_depend_on_order_or_batches(data, batch_size):
    pixels, augment = _noise(12), affine(**EVERYTHING, p=0.7, padding="reflection")
    whole = augment(_batch(pixels), 1, 5).inputs
    order = torch.tensor(data.draw(st.permutations(range(12))))
    parts = [augment(_batch(pixels[rows], rows), 1, 5).inputs for rows in order.split(batch_size)]

    # the same draws; only vector instructions may round the last bits in another way
    torch.testing.assert_close(torch.cat(parts), whole[order], atol=1e-2, rtol=0)


def test_every_epoch_and_seed_changes_pictures_in_its_own_way():
    batch, augment = _batch(_noise(16)), affine(**EVERYTHING)
    first = augment(batch, 1, 0).inputs

    assert torch.equal(augment(batch, 1, 0).inputs, first)
    assert not torch.isclose(augment(batch, 1, 1).inputs, first).flatten(1).all(1).any()
    assert not torch.isclose(augment(batch, 2, 0).inputs, first).flatten(1).all(1).any()


def test_the_asked_share_of_pictures_is_changed_and_the_others_are_untouched():
    pixels = _noise(2000, 1, 7, 6)
    changed = affine(**EVERYTHING, p=0.3)(_batch(pixels), 0, 0).inputs
    same = (changed == pixels).flatten(1).all(1)

    assert 1 - same.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert (changed - pixels)[~same].abs().flatten(1).amax(1).min().item() > 1
    assert affine(**EVERYTHING, p=0)(_batch(pixels), 0, 0).inputs is pixels


# -- the batch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_pixels_come_out_in_float32_as_they_lie_in_memory(layout, dtype, p):
    pixels = _noise(6).to(dtype).contiguous(memory_format=layout)
    before, augment = pixels.clone(), affine(**EVERYTHING, p=p)
    changed = augment(_batch(pixels), 0, 0)

    assert changed.inputs.dtype == torch.float32
    assert changed.inputs.is_contiguous(memory_format=layout)
    assert changed.inputs.min() >= 0
    assert changed.inputs.max() <= 255
    assert torch.equal(pixels, before)
    torch.testing.assert_close(
        changed.inputs, augment(_batch(before.contiguous().float()), 0, 0).inputs, atol=1e-2, rtol=0
    )


def test_nothing_is_read_back_from_the_device():
    """The meta device has no values to read, and refuses tensors of another device."""
    batch = _batch(_noise(4).to("meta"), torch.arange(4, device="meta"))

    assert affine(**EVERYTHING, p=0.5)(batch, 0, 0).inputs.shape == (4, 3, 9, 7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rotate": -1}, r"rotate is in \[0, 180\], got -1"),
        ({"rotate": math.nan}, r"rotate is in \[0, 180\], got nan"),
        ({"shear": 61}, r"shear is in \[0, 60\], got 61"),
        ({"shift": 1.1}, r"shift is in \[0, 1\], got 1\.1"),
        ({"p": 2}, r"p is in \[0, 1\], got 2"),
        ({"warp": 0.25}, r"warp .* \[0, 0\.25\), got 0\.25"),
        ({"zoom": (0.4, 1.0)}, r"zoom .* at least 0\.5; got \(0\.4, 1\.0\)"),
        ({"zoom": (1.5, 1.0)}, r"zoom .* got \(1\.5, 1\.0\)"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        affine(**options)


@pytest.mark.usefixtures("without_type_checks")
def test_an_unknown_padding_is_refused():
    with pytest.raises(ConfigError, match="zeros, border, reflection; got 'mirror'"):
        affine(padding="mirror")
