"""Cutout and erased pixels: what is blanked, with what, and that nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import Batch, ConfigError, Cutout, ErasePixels
from mixers import known, learner, through

LAW = settings(max_examples=25, deadline=None, derandomize=True)
BOTH = pytest.mark.parametrize(
    "make", [lambda **o: Cutout(0.5, **o), lambda **o: ErasePixels(0.3, **o)], ids=["Cutout", "ErasePixels"]
)


def _blanked(callback, shape=(16, 2, 9, 9), *, at_batch=0):
    """Which pixels are blanked: (batch, height, width)."""
    gone = through(Batch(torch.zeros(shape), torch.arange(shape[0])), callback, at_batch=at_batch).inputs
    assert torch.equal(gone[:, :1].expand_as(gone), gone), "all channels of a pixel"
    return gone[:, 0] == 1


@LAW
@given(size=st.floats(0.05, 1), height=st.integers(1, 12), width=st.integers(1, 12), at_batch=st.integers(0, 99))
def test_a_square_around_some_pixel_is_blanked_as_far_as_it_lies_inside(size, height, width, at_batch):
    side = max(1, round(size * min(height, width)))
    for gone in _blanked(Cutout(size, fill=1), (6, 1, height, width), at_batch=at_batch):
        rows, columns = gone.any(1).nonzero()[:, 0], gone.any(0).nonzero()[:, 0]
        for places, num in ((rows, height), (columns, width)):
            first, last = int(places[0]), int(places[-1]) + 1
            # whole, or cut off where it meets the border
            assert last - first == side or (last - first < side and (first == 0 or last == num))
        assert gone.sum() == len(rows) * len(columns) == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)


def test_squares_are_around_any_pixel_equally_often():
    """A side of 3 in 9 pixels: two of nine rows lose a row over the border."""
    gone = _blanked(Cutout(1 / 3, fill=1), (3000, 1, 9, 9))
    mean_side = (7 * 3 + 2 * 2) / 9

    assert gone.sum((1, 2)).float().mean() == pytest.approx(mean_side**2, rel=0.02)
    assert set(gone.sum((1, 2)).tolist()) == {4, 6, 9}
    torch.testing.assert_close(gone.float().mean(0)[4, 4], torch.tensor(9 / 81), atol=0.015, rtol=0)


def test_each_pixel_is_blanked_by_its_own_draw():
    gone = _blanked(ErasePixels(0.3, fill=1), (400, 2, 9, 9)).float()

    assert gone.mean() == pytest.approx(0.3, abs=0.01)
    assert (gone.mean(0) - 0.3).abs().max() < 0.1
    pairs = gone.flatten(1)
    assert (pairs[:, :-1] * pairs[:, 1:]).mean() == pytest.approx(0.09, abs=0.01)


def test_a_share_of_one_blanks_all():
    assert _blanked(ErasePixels(1.0, fill=1)).all()


# -- with what --------------------------------------------------------------------------------------------------------


@BOTH
def test_the_filling_is_each_channels_mean_over_the_batch(make):
    pixels = torch.randn(8, 3, 6, 6) * 3 + torch.tensor([100.0, -4.0, 7.0]).view(3, 1, 1)
    blank = through(Batch(pixels, torch.arange(8)), make()).inputs
    changed = blank != pixels
    mean = pixels.mean((0, 2, 3)).view(1, 3, 1, 1).expand_as(pixels)

    assert changed.any()
    torch.testing.assert_close(blank[changed], mean[changed])


@BOTH
def test_whole_pixels_get_the_rounded_mean(make):
    pixels = torch.randint(256, (8, 3, 6, 6), dtype=torch.uint8)
    blank = through(Batch(pixels, torch.arange(8)), make()).inputs
    mean = pixels.double().mean((0, 2, 3)).round().to(torch.uint8).view(1, 3, 1, 1).expand_as(pixels)

    assert blank.dtype == torch.uint8
    assert torch.equal(blank[blank != pixels], mean[blank != pixels])


def test_a_number_is_taken_as_it_is():
    pixels = torch.randint(1, 100, (8, 3, 6, 6), dtype=torch.uint8)

    for batch, fill, expected in ((pixels, 200.4, 200), (pixels.float(), -1.5, -1.5)):
        blank = through(Batch(batch, torch.arange(8)), Cutout(0.5, fill=fill)).inputs
        assert set(blank[blank != batch].tolist()) == {expected}
    with pytest.raises(ConfigError, match=r"fill=-1 is outside of 0..255, and the pixels are uint8"):
        through(Batch(pixels, torch.arange(8)), Cutout(0.5, fill=-1))


# -- what else must hold ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_type_and_layout_stay_and_the_loaders_pixels_too(make, dtype, layout):
    pixels = torch.randint(256, (4, 3, 6, 6)).to(dtype).contiguous(memory_format=layout)
    before = pixels.clone()
    batch = Batch(pixels, torch.arange(4), torch.rand(4), torch.arange(4))
    blank = through(batch, make())

    assert (blank.inputs.dtype, blank.inputs.is_contiguous(memory_format=layout)) == (dtype, True)
    assert torch.equal(pixels, before)
    assert not torch.equal(blank.inputs, before)
    assert blank[1:] == batch[1:]  # the very same targets, weights and indices


@BOTH
def test_squares_are_a_function_of_seed_and_batch_number(make):
    state = torch.get_rng_state()
    made = learner(batches=1)
    torch.set_rng_state(state)
    first = make().transform_batch(known(8), made).inputs

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, through(known(8), make(seed=3)).inputs)  # the learner's seed is 3
    assert not torch.equal(first, through(known(8), make(seed=4)).inputs)
    assert not torch.equal(first, through(known(8), make(), at_batch=1).inputs)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cutout(0.0), r"side of the square as a share of the picture's shorter side in \(0, 1\], got 0.0"),
        (lambda: Cutout(16), "got 16"),
        (lambda: ErasePixels(0.0), r"share of the pixels that are erased in \(0, 1\], got 0.0"),
        (lambda: Cutout(0.5, fill=float("nan")), "fill is 'mean' or a number in the units of the pixels, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@BOTH
def test_what_is_no_picture_is_refused(make):
    with pytest.raises(ConfigError, match=r"takes pictures .*, got torch.int64 \(2, 3, 4, 4\)"):
        through(Batch(torch.zeros(2, 3, 4, 4, dtype=torch.long), torch.arange(2)), make())


def test_settings_are_recorded():
    assert Cutout(0.25, fill=0, seed=7).config() == {"size": 0.25, "fill": 0, "seed": 7}
    assert ErasePixels(0.25).config() == {"share": 0.25, "fill": "mean", "seed": None}
