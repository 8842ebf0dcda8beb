"""CutMix and four corners: labels count by the very pixels that are seen, and nothing else is changed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import Batch, ConfigError, CutMix, FourCorners, MixedTargets
from etude.boxes import Box, around
from etude.training.callbacks import cutmix
from mixers import known, learner, shares_of_labels, shares_of_pixels, through

LAW = settings(max_examples=25, deadline=None, derandomize=True)
BOTH = pytest.mark.parametrize("mixer", [CutMix(), FourCorners()], ids=["CutMix", "FourCorners"])


# -- labels by area ---------------------------------------------------------------------------------------------------


@BOTH
@LAW
@given(num=st.integers(1, 6), height=st.integers(1, 12), width=st.integers(1, 12), at_batch=st.integers(0, 1000))
def test_every_label_counts_by_its_pixels(mixer, num, height, width, at_batch):
    """For every shape, and batches of one; boxes over the border are among them."""
    batch = through(known(num, height, width), mixer, at_batch=at_batch)

    assert batch.inputs.sum(1).eq(1).all()  # each pixel is of one picture
    assert (shares_of_labels(batch.targets, num) - shares_of_pixels(batch.inputs)).abs().max() < 1e-6


def test_a_box_over_the_border_counts_as_what_is_left_of_it():
    """The drawn share is another number for these."""
    cut, drawn = [], []
    for at_batch in range(40):
        batch = through(known(4, 20, 20), CutMix(1e6), at_batch=at_batch)  # every box has half of the area
        cut.append(1 - batch.targets.weight[0].item())
        drawn.append(round(20 * 0.5**0.5) ** 2 / 400)

    assert max(cut) == pytest.approx(drawn[0])
    assert min(cut) < drawn[0] / 2


def test_a_box_is_what_lies_in_the_picture():
    for row, column, tall, wide in [(0, 0, 3, 4), (4, 6, 5, 2), (2, 3, 0, 3), (3, 3, 20, 20), (1, 5, 1, 1)]:
        box = around(row, column, tall, wide, 5, 7)
        pixels = {
            (r, c)
            for r in range(row - tall // 2, row - tall // 2 + tall)
            for c in range(column - wide // 2, column - wide // 2 + wide)
            if 0 <= r < 5 and 0 <= c < 7
        }
        found = torch.zeros(2, 5, 7)
        found[box.pixels] = 1

        assert {tuple(place) for place in found[0].nonzero().tolist()} == pixels
        assert box.area == len(pixels)


def test_boxes_have_the_drawn_area_and_are_anywhere():
    generator = torch.Generator().manual_seed(0)
    boxes = [cutmix._draw(0.25, 8, 16, generator) for _ in range(400)]

    assert max(box.area for box in boxes) == 4 * 8
    covered = torch.zeros(8, 16)
    for box in boxes:
        covered[box.pixels] += 1
    assert covered.min() > 0


def test_areas_of_boxes_are_uniform_for_an_alpha_of_one():
    shares = torch.tensor([_area(CutMix(), at_batch) for at_batch in range(100)])
    few = torch.tensor([_area(CutMix(0.05), at_batch) for at_batch in range(100)])

    assert 0.2 < shares.mean() < 0.45  # half, less what lies over the border
    assert (shares.sub(0.3).abs() < 0.2).float().mean() > 0.4
    assert (few < 0.1).float().mean() > 0.35


def _area(mixer, at_batch):
    drawing = learner(batches=1)
    drawing.progress.batch = at_batch
    return 1 - mixer.transform_batch(Batch(torch.zeros(1, 1, 30, 30), torch.zeros(1)), drawing).targets.weight.item()


def test_all_four_corners_show_windows_of_their_pictures():
    """Each part is a piece of one picture, unscaled, and the first is the sample's own."""
    pixels, places = torch.arange(5 * 8 * 8).view(5, 1, 8, 8).float(), set()
    for at_batch in range(20):
        batch = through(Batch(pixels, torch.arange(5)), FourCorners(1.0), at_batch=at_batch)
        upper, lower = batch.targets.first, batch.targets.second
        row, column = round(8 * batch.targets.weight[0].item()), round(8 * upper.weight[0].item())
        corners = [Box(0, 0, row, column), Box(0, column, row, 8), Box(row, 0, 8, column), Box(row, column, 8, 8)]

        assert upper.first.tolist() == [0, 1, 2, 3, 4]
        for labels, corner in zip((upper.first, upper.second, lower.first, lower.second), corners, strict=True):
            for label, part in zip(labels.tolist(), batch.inputs[corner.pixels], strict=True):
                if part.numel():
                    window = part - part[0, 0, 0]
                    assert (part // 64 == label).all()
                    assert torch.equal(window, pixels[0, :, : window.shape[1], : window.shape[2]])
                    places.add(part[0, 0, 0].item() % 64)
    assert len(places) > 20, "windows are anywhere in their pictures"


def test_corners_are_as_uneven_as_beta_says():
    def largest(beta):
        made = [through(known(2, 20, 20), FourCorners(beta), at_batch=i).targets for i in range(40)]
        return sum(torch.stack(targets.shares()).amax(0)[0].item() for targets in made) / len(made)

    assert largest(0.3) > 0.6 > largest(10.0)


# -- what else must hold ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_type_and_layout_stay_and_the_loaders_pixels_too(mixer, dtype, layout):
    pixels = torch.randint(256, (4, 3, 6, 6)).to(dtype).contiguous(memory_format=layout)
    before = pixels.clone()
    mixed = through(Batch(pixels, torch.arange(4)), mixer).inputs

    assert (mixed.dtype, mixed.is_contiguous(memory_format=layout)) == (dtype, True)
    assert torch.equal(pixels, before)
    assert not torch.equal(mixed, before)


@BOTH
def test_boxes_and_pairs_are_a_function_of_seed_and_batch_number(mixer):
    kind = type(mixer)
    torch.manual_seed(1)
    first = through(known(8), mixer, at_batch=5)
    torch.manual_seed(2)
    again = through(known(8), kind(seed=3), at_batch=5)  # the learner's seed is 3
    state = torch.get_rng_state()
    made = learner(batches=1)
    torch.set_rng_state(state)
    mixer.transform_batch(known(8), made)

    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(torch.get_rng_state(), state)
    for other in (through(known(8), mixer, at_batch=6), through(known(8), kind(seed=9), at_batch=5)):
        assert not torch.equal(first.inputs, other.inputs)


@BOTH
def test_weight_and_index_of_each_sample_stay_with_it(mixer):
    batch = known(4)._replace(weight=torch.rand(4), indices=torch.tensor([7, 5, 3, 1]))
    mixed = through(batch, mixer)

    assert mixed.weight is batch.weight
    assert mixed.indices is batch.indices


def test_a_share_of_the_batches_is_cut_and_the_others_are_left_alone():
    drawing, batch, cut = learner(batches=1), known(2), 0
    for at_batch in range(200):
        drawing.progress.batch = at_batch
        mixed = CutMix(p=0.3).transform_batch(batch, drawing)
        cut += isinstance(mixed.targets, MixedTargets)
        assert mixed is batch or torch.equal(mixed.inputs, CutMix().transform_batch(batch, drawing).inputs)

    assert 40 <= cut <= 80


@BOTH
def test_what_is_no_picture_is_refused(mixer):
    name = type(mixer).__name__
    for inputs, found in ((torch.zeros(4, 3), r"torch.float32 \(4, 3\)"), ((torch.zeros(4, 3),), "tuple")):
        with pytest.raises(ConfigError, match=rf"{name} takes pictures .*, got {found}"):
            through(Batch(inputs, torch.arange(4)), mixer)
    with pytest.raises(ConfigError, match=rf"{name} needs targets in one tensor, got dict"):
        through(known(4)._replace(targets={"a": torch.arange(4)}), mixer)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CutMix(0.0), "alpha must be positive, got 0.0; leave CutMix out"),
        (lambda: CutMix(float("nan")), "alpha must be positive"),
        (lambda: CutMix(p=0.0), r"p is a share of the batches in \(0, 1\], got 0.0"),
        (lambda: CutMix(p=1.5), "got 1.5"),
        (lambda: FourCorners(-1.0), "beta must be positive, got -1.0; leave FourCorners out"),
    ],
)
def test_settings_out_of_range_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_settings_are_recorded():
    assert CutMix(0.5, p=0.2, seed=7).config() == {"alpha": 0.5, "p": 0.2, "seed": 7}
    assert FourCorners(0.5, seed=7).config() == {"beta": 0.5, "seed": 7}
