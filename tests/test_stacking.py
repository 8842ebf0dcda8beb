"""Mixing what is mixed: targets in targets, and every pair of the batch transforms in both orders."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from etude import (
    Choose,
    ConfigError,
    CutMix,
    Cutout,
    ErasePixels,
    FourCorners,
    LabelSmoothingCrossEntropy,
    MixedTargets,
    MixUp,
    accuracy,
    losses,
    metrics,
)
from etude.testing import same
from etude.types import StepOutput, select
from mixers import known, learner, shares_of_labels, shares_of_pixels, through
from planning import little_time
from reference import textbook

__all__ = ["little_time"]

LAW = settings(max_examples=30, deadline=None, derandomize=True)
NEAR = {"atol": 1e-6, "rtol": 1e-6}


def _tree(depth, batch, classes, generator):
    """Random targets, mixed `depth` times on each side."""
    if not depth:
        return torch.randint(classes, (batch,), generator=generator)
    first, second = (_tree(depth - 1, batch, classes, generator) for _ in range(2))
    return MixedTargets(first, second, torch.rand(batch, generator=generator))


# -- targets in targets -----------------------------------------------------------------------------------------------


@LAW
@given(depth=st.integers(1, 3), batch=st.integers(1, 6), classes=st.integers(2, 5), seed=st.integers(0, 999))
def test_labels_and_shares_of_a_tree(depth, batch, classes, seed):
    targets = _tree(depth, batch, classes, torch.Generator().manual_seed(seed))
    distribution = shares_of_labels(targets, classes)

    assert len(targets.labels()) == len(targets.shares()) == 2**depth
    torch.testing.assert_close(sum(targets.shares()), torch.ones(batch))
    best = distribution.gather(1, targets.dominant[:, None])[:, 0]
    torch.testing.assert_close(best, distribution.amax(1), **NEAR)
    if depth == 1:
        assert torch.equal(targets.dominant, targets.first.where(targets.weight >= 0.5, targets.second))


def test_equal_labels_add_up():
    """No label alone has more than class 7, and class 2 has more in sum."""
    seven, two, three = (torch.full((2,), label) for label in (7, 2, 3))
    half = torch.tensor([0.5, 0.5])
    targets = MixedTargets(MixedTargets(seven, three, torch.tensor([0.8, 0.9])), MixedTargets(two, two, half), half)

    assert targets.dominant.tolist() == [2, 2]
    assert MixedTargets(seven, MixedTargets(two, three, half), half).dominant.tolist() == [7, 7]
    pixels = torch.tensor([[1, 2], [3, 4]])
    whole = MixedTargets(MixedTargets(pixels, pixels + 1, half), MixedTargets(pixels, pixels + 2, half), half)
    assert torch.equal(whole.dominant, pixels)


def test_samples_are_picked_from_the_whole_tree():
    targets = _tree(2, 5, 9, torch.Generator().manual_seed(0))
    samples = torch.tensor([3, 3, 0])
    picked = select(targets, samples)

    assert torch.equal(shares_of_labels(picked, 9), shares_of_labels(targets, 9)[samples])
    assert [len(part) for part in (*picked.labels(), *picked.shares())] == [3] * 8


LOSSES = {
    "torch module": (nn.CrossEntropyLoss(), 0.0),
    "torch module, smoothed": (nn.CrossEntropyLoss(label_smoothing=0.1), 0.1),
    "torch function": (torch.nn.functional.cross_entropy, 0.0),
    "ours": (LabelSmoothingCrossEntropy(0.1), 0.1),
    "ours, other classes only": (LabelSmoothingCrossEntropy(0.08, exclude_true=True), 0.1),
    "class weights of one": (nn.CrossEntropyLoss(torch.ones(5, dtype=torch.float64)), 0.0),
}


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(("loss_fn", "smoothing"), LOSSES.values(), ids=LOSSES)
def test_the_loss_of_a_mix_of_mixes_equals_its_one_hot_form(loss_fn, smoothing, depth):
    generator = torch.Generator().manual_seed(depth)
    preds, targets = torch.randn(6, 5, generator=generator).double(), _tree(depth, 6, 5, generator)
    weight = torch.rand(6, generator=generator)
    soft = shares_of_labels(targets, 5) * (1 - smoothing) + smoothing / 5
    expected = textbook.soft_cross_entropy(preds, soft)

    torch.testing.assert_close(losses.apply(loss_fn, preds, targets), expected.mean(), **NEAR)
    weighted = (expected * weight).sum() / weight.sum()
    torch.testing.assert_close(losses.apply(loss_fn, preds, targets, weight), weighted, **NEAR)


def test_real_targets_in_a_tree_mix_their_losses():
    labels = [torch.rand(4, 3) for _ in range(3)]
    half, preds = torch.full((4,), 0.5), torch.randn(4, 3)
    targets = MixedTargets(MixedTargets(labels[0], labels[1], half), labels[2], torch.full((4,), 0.6))
    parts = [nn.functional.mse_loss(preds, label, reduction="none").mean(1) for label in labels]

    ours = losses.apply(nn.MSELoss(), preds, targets)
    torch.testing.assert_close(ours, (0.3 * parts[0] + 0.3 * parts[1] + 0.4 * parts[2]).mean())


def test_metrics_count_the_dominant_label_of_a_tree():
    """Also when a checkpoint takes the block before it is summed."""
    batch = known(8)
    targets = through(batch, CutMix(), MixUp(0.4)).targets
    output = StepOutput(torch.zeros(()), torch.eye(8)[targets.dominant], batch._replace(targets=targets))
    meter, other = (metrics.EpochMeter({"accuracy": accuracy}) for _ in range(2))
    meter.add(output)
    other.load_state_dict(meter.state_dict(), torch.device("cpu"))

    assert meter.compute()["accuracy"] == other.compute()["accuracy"] == 1


# -- right labels after several mixers --------------------------------------------------------------------------------

STACKS = {
    "a mean of cut ones": [CutMix(), MixUp(0.4)],
    "a cut of means": [MixUp(0.4), CutMix()],
    "two means": [MixUp(0.4), MixUp(1.0, seed=1)],
    "corners of means": [MixUp(0.4), FourCorners(1.0)],
    "a mean of corners": [FourCorners(1.0), MixUp(0.4)],
    "three": [MixUp(0.4), CutMix(), MixUp(0.4, seed=1)],
    "three, four corners": [MixUp(1.0), MixUp(1.0, seed=1), FourCorners(1.0)],
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
def test_labels_of_a_stack_are_the_shares_of_its_pixels(stack, smoothing):
    """And the loss is the cross entropy with them."""
    for at_batch in range(5):
        batch = through(known(7), *stack, at_batch=at_batch)
        pixels, preds = shares_of_pixels(batch.inputs), torch.randn(7, 7).double()
        ours = losses.apply(LabelSmoothingCrossEntropy(smoothing), preds, batch.targets)

        torch.testing.assert_close(shares_of_labels(batch.targets, 7), pixels, **NEAR)
        soft = pixels * (1 - smoothing) + smoothing / 7
        torch.testing.assert_close(ours, textbook.soft_cross_entropy(preds, soft).mean(), **NEAR)


def test_a_hidden_layer_mixes_cut_pictures_as_the_input_would():
    """Behind an identity: bit for bit the same training."""
    trained = []
    for at in ("0", "input"):
        made = learner(CutMix(), MixUp(0.4, at=at))
        made.fit(1, lr=0.1)
        trained.append(made.model.state_dict())

    assert same(*trained)


# -- every pair, in both orders ---------------------------------------------------------------------------------------

KINDS = {
    "MixUp": lambda seed: MixUp(0.4, seed=seed),
    "MixUp(at=...)": lambda seed: MixUp(0.4, at="1", seed=seed),
    "CutMix": lambda seed: CutMix(seed=seed),
    "Cutout": lambda seed: Cutout(0.5, seed=seed),
    "ErasePixels": lambda seed: ErasePixels(0.3, seed=seed),
    "FourCorners": lambda seed: FourCorners(seed=seed),
    "Choose": lambda seed: Choose(MixUp(0.4, seed=seed + 10), Cutout(0.5, seed=seed + 10), seed=seed),
}
SAME, DIFFERS, REFUSED = "same", "differs", "refused"
CUT_TWICE = "would cut pictures that are cut already"
AFTER_A_LAYER = "targets were mixed again after MixUp"
_MIXERS, _ERASERS = ("MixUp", "CutMix", "FourCorners", "Choose"), ("Cutout", "ErasePixels")


def _expected(first, second):
    """What the documentation says of a list [first, second], and the words of a refusal."""
    if {first, second} <= {"CutMix", "FourCorners"}:
        return REFUSED, CUT_TWICE
    if first == "MixUp(at=...)" and second in (*_MIXERS, "MixUp(at=...)"):
        return REFUSED, AFTER_A_LAYER
    if "MixUp(at=...)" in (first, second) and {first, second} & set(_ERASERS):
        return SAME, "one changes the pictures, the other what the model makes of them"
    # two mixers: other labels of the second one's partners; an eraser: a hole in the mixture, or a mixture of holes
    # two erasers: the mean is taken of what the first has left
    return DIFFERS, ""


def _made(first, second):
    """The two callbacks, each with a seed of its own."""
    return [KINDS[name](seed) for seed, name in enumerate(sorted((first, second)))][:: 1 if first <= second else -1]


def _trained(callbacks):
    """The weights after a short fit."""
    made = learner(*callbacks, batches=4)
    made.fit(1, lr=0.1)
    return made.model.state_dict()


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations_with_replacement(KINDS, 2)])
def test_each_pair_is_the_same_differs_or_is_refused(first, second):
    weights, verdicts = [], set()
    for names, callbacks in (((first, second), _made(first, second)), ((second, first), _made(first, second)[::-1])):
        verdict, words = _expected(*names)
        if verdict == REFUSED:
            with pytest.raises(ConfigError, match=words):
                _trained(callbacks)
        else:
            verdicts.add(verdict)
            weights.append(_trained(callbacks))
    if len(weights) == 2:
        assert verdicts == {SAME if same(*weights) else DIFFERS}


@pytest.mark.parametrize(("eraser", "mixer"), [*itertools.product(_ERASERS, ("MixUp", "CutMix", "FourCorners"))])
def test_erasing_changes_no_label_before_or_after_mixing(eraser, mixer):
    alone = through(known(6), KINDS[mixer](2)).targets
    for order in ((eraser, mixer), (mixer, eraser)):
        made = {eraser: KINDS[eraser](1), mixer: KINDS[mixer](2)}
        assert same(through(known(6), *(made[name] for name in order)).targets, alone)


def test_erasers_with_a_number_can_be_in_any_order():
    one, two = Cutout(0.5, fill=7), ErasePixels(0.3, fill=7)

    assert same(through(known(6), one, two), through(known(6), two, one))


def test_the_page_says_what_each_pair_does():
    """The table of docs/mixup.md: rows come first in the list."""
    page = (Path(__file__).parents[1] / "docs" / "mixup.md").read_text(encoding="utf-8")
    start = page.index("| first |")
    header, _, *rows = [line.split("|")[1:-1] for line in page[start : page.index("\n\n", start)].splitlines()]
    table = {}
    for first, *cells in rows:
        for second, cell in zip(header[1:], cells, strict=True):
            table[first.strip(" `"), second.strip(" `")] = cell.strip()

    assert table == {pair: _expected(*pair)[0] for pair in itertools.product(KINDS, KINDS)}


@pytest.mark.parametrize("order", [1, -1])
def test_a_plan_shows_the_order(order):
    names = ["Cutout", "CutMix", "ErasePixels", "MixUp"][::order]
    made = learner(*(KINDS[name](i) for i, name in enumerate(names)))
    plan = made.plan(1, lr=0.1)

    assert [callback.name for callback in plan.callbacks][1:5] == names
    shown = re.findall(r"^ *(?:callbacks)? *\d (\w+)\(.*transforms batch", repr(plan), flags=re.MULTILINE)
    assert shown == names
