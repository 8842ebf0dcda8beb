"""Choose: one callback per batch as if it were alone, and what may not stand in one list."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from typing_extensions import override

from etude import (
    Batch,
    Callback,
    Choose,
    ClipGradNorm,
    ConfigError,
    CutMix,
    Cutout,
    Debug,
    ErasePixels,
    FourCorners,
    MixedTargets,
    MixUp,
    Scheduler,
    SkipStep,
)
from etude.recipes.options import TrainOptions, check
from etude.recipes.pictures import mixing
from etude.testing import same
from etude.training.callback import describe
from mixers import known, learner, shares_of_labels, shares_of_pixels, through


class Counting(Callback):
    """Counts its batches and its steps; gives every batch the label `label`."""

    def __init__(self, label: int = 0) -> None:
        self.label, self.batches, self.steps, self.fits = label, 0, 0, 0

    @override
    def before_fit(self, learner):
        self.fits += 1

    @override
    def transform_batch(self, batch, learner):
        self.batches += 1
        return batch._replace(targets=torch.full_like(batch.targets, self.label))

    @override
    def after_step(self, learner, batch, output):
        self.steps += 1
        assert output.preds is None or (batch.targets == self.label).all()

    @override
    def state_dict(self):
        return {"batches": self.batches}

    @override
    def load_state_dict(self, state):
        self.batches = state["batches"]


def _choices(choose, num=300):
    """The label that each batch got, from callbacks that set one; -1 where none was chosen."""
    drawing, batch = learner(batches=1), Batch(torch.zeros(1, 3, 6, 6), torch.tensor([-1]))
    labels = []
    for drawing.progress.batch in range(num):
        labels.append(choose.transform_batch(batch, drawing).targets.item())
    return labels


# -- one of them, as if alone -----------------------------------------------------------------------------------------


def test_each_batch_is_transformed_by_one_of_them_as_it_would_be_alone():
    alone = [MixUp(0.4), CutMix(), FourCorners()]
    found = Counter()
    for at_batch in range(30):
        batch = through(known(6), Choose(*alone), at_batch=at_batch)
        expected = [through(known(6), mixer, at_batch=at_batch) for mixer in alone]
        found[[same(batch, one) for one in expected].index(True)] += 1

    assert sorted(found) == [0, 1, 2]


def test_weights_and_p_say_how_often():
    found = Counter(_choices(Choose(Counting(0), Counting(1), weights=[1, 3], p=0.8)))

    assert found[-1] / 300 == pytest.approx(0.2, abs=0.06)
    assert found[1] / (found[0] + found[1]) == pytest.approx(0.75, abs=0.08)
    assert sorted(Counter(_choices(Choose(Counting(0), Counting(1))))) == [0, 1]


def test_choices_are_a_function_of_seed_and_batch_number():
    first = _choices(Choose(Counting(0), Counting(1)), 40)
    torch.manual_seed(5)

    assert _choices(Choose(Counting(0), Counting(1), seed=3), 40) == first  # the learner's seed is 3
    assert _choices(Choose(Counting(0), Counting(1), seed=4), 40) != first
    assert _choices(Choose(Counting(0), Counting(1), p=0.5), 40) != first


def test_a_hidden_layer_mixes_only_when_chosen():
    """Behind an identity it is the same as at the input: bit for bit the same training, with and without."""

    def trained(at, p=1.0):
        made = learner(Choose(MixUp(0.4, at=at), Cutout(0.5), p=p), batches=6)
        made.fit(2, lr=0.1)
        return made.model.state_dict()

    assert same(trained("0"), trained("input"))
    assert same(trained("0", 0.5), trained("input", 0.5))
    assert not same(trained("0"), trained("0", 0.5))


def test_a_hidden_layer_is_left_without_a_hook_after_an_error():
    made = learner(Choose(MixUp(at="0"), MixUp(at="2")))
    made.loss_fn.forward = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        made.fit(1, lr=0.1)

    assert not any(module._forward_hooks for module in made.model.modules())
    bad = learner(Choose(MixUp(at="0"), MixUp(at="nowhere")))
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        bad.fit(1, lr=0.1)
    assert not any(module._forward_hooks for module in bad.model.modules())


def test_only_the_chosen_one_hears_of_the_step():
    one, two = Counting(1), Counting(2)
    learner(Choose(one, two, p=0.7), batches=12).fit(1, lr=0.1)

    assert one.batches == one.steps > 0
    assert two.batches == two.steps > 0
    assert one.batches + two.batches < 12
    assert one.fits == two.fits == 1


def test_nobody_hears_of_a_step_that_was_skipped_before_the_choice():
    class Skip(Callback):
        @override
        def transform_batch(self, batch, learner):
            if learner.progress.batch == 1:
                raise SkipStep("odd")
            return batch

    one = Counting(1)
    learner(Skip(), Choose(one), batches=3).fit(1, lr=0.1)

    assert one.batches == one.steps == 2


def test_state_is_that_of_all():
    one, two = Counting(1), Counting(2)
    _choices(choose := Choose(one, two), 20)
    other = Choose(again := Counting(1), Counting(2))
    other.load_state_dict(choose.state_dict())

    assert again.batches == one.batches > 0
    assert other.state_dict() == {"mixers": [{"batches": one.batches}, {"batches": two.batches}]}


def test_its_settings_are_those_of_all():
    text = describe(Choose(MixUp(0.2), CutMix(), weights=[1, 2], p=0.5, seed=7))

    for part in ("MixUp(alpha=0.2, at='input', seed=None)", "CutMix(alpha=1.0", "weights=[1, 2], p=0.5, seed=7"):
        assert part in text


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, []),
        ({"mixup": 0.2}, [MixUp(0.2)]),
        ({"cutmix": 0.5, "cutout": 0.3}, [Cutout(0.3), CutMix(0.5)]),
        ({"mixup": 0.2, "cutmix": 0.5}, [Choose(MixUp(0.2), CutMix(0.5))]),
    ],
)
def test_flags_of_a_recipe_become_callbacks(given, made):
    """Pictures are blanked before they are mixed, and each batch is mixed in one way."""
    options = TrainOptions(**given)
    check(options)

    assert list(map(describe, mixing(options))) == list(map(describe, made))


def test_flags_out_of_range_are_refused():
    for given, words in (({"cutmix": -1.0}, "--cutmix must be a finite number"), ({"cutout": 1.5}, "--cutout must be")):
        with pytest.raises(ConfigError, match=words):
            check(TrainOptions(**given))


# -- what cannot be chosen --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Choose(), "needs callbacks to choose from"),
        (lambda: Choose(MixUp), "make one: MixUp"),
        (lambda: Choose([MixUp(), CutMix()]), "found \\["),
        (lambda: Choose(MixUp(), ClipGradNorm(1.0)), "callbacks that transform batches, and ClipGradNorm does not"),
        (lambda: Choose(Debug("after_step")), "cannot take Debug, which also works in after_epoch, after_eval_batch"),
        (lambda: Choose(Scheduler({"lr": lambda position: 0.1})), "and Scheduler does not"),
        (lambda: Choose(Choose(MixUp()), CutMix()), "put all callbacks into one"),
        (lambda: Choose(mixer := MixUp(), mixer), "same callback twice"),
        (lambda: Choose(MixUp(), CutMix(), weights=[1.0]), r"for each of the 2 callbacks, got \[1.0\]"),
        (lambda: Choose(MixUp(), CutMix(), weights=[1.0, 0.0]), "positive number"),
        (lambda: Choose(MixUp(), p=0.0), r"p is a share of the batches in \(0, 1\], got 0.0"),
    ],
)
def test_what_cannot_be_chosen_is_explained(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


# -- what may not stand in one list -----------------------------------------------------------------------------------

TWINS = {
    "MixUp": [MixUp(), MixUp(0.2)],
    "in a layer": [MixUp(), MixUp(at="0")],
    "CutMix": [CutMix(), CutMix(p=0.5)],
    "Cutout": [Cutout(0.5), MixUp(), Cutout(0.25)],
    "ErasePixels": [ErasePixels(), ErasePixels(seed=3)],  # the learner's seed
    "FourCorners": [FourCorners(), FourCorners()],
    "Choose": [Choose(MixUp(), CutMix()), Choose(Cutout(0.5), ErasePixels())],
    "in a Choose": [Cutout(0.5), Choose(MixUp(), Cutout(0.5))],
    "in two": [Choose(MixUp(), Cutout(0.5)), Choose(Cutout(0.5), ErasePixels(), seed=5)],
    "the very same": [shared := Cutout(0.5), shared],
}


@pytest.mark.parametrize("callbacks", TWINS.values(), ids=TWINS)
def test_two_of_a_kind_with_one_seed_are_refused(callbacks):
    with pytest.raises(ConfigError, match=r"two \w+ in the list of callbacks have the same seed .* \w+\(..., seed=4\)"):
        learner(*callbacks).fit(1, lr=0.1)


def test_other_seeds_and_those_of_one_choose_are_welcome():
    learner(MixUp(), MixUp(seed=4), Cutout(0.5), Cutout(0.5, seed=4)).fit(1, lr=0.1)
    learner(Choose(CutMix(), CutMix(0.2), FourCorners(), MixUp(), MixUp(0.1))).fit(1, lr=0.1)


CUTS = {
    "both": [CutMix(), FourCorners()],
    "with a mean between": [CutMix(), MixUp(), CutMix(seed=5)],
    "one in a Choose": [Choose(MixUp(), FourCorners()), CutMix()],
    "each in a Choose": [Choose(MixUp(), FourCorners()), Choose(CutMix(), seed=8)],
}


@pytest.mark.parametrize("callbacks", CUTS.values(), ids=CUTS)
def test_a_picture_is_cut_once(callbacks):
    with pytest.raises(ConfigError, match=r"would cut pictures that are cut already.*Choose\(CutMix\(\), FourCorners"):
        learner(*callbacks).fit(1, lr=0.1)


def test_why_a_picture_is_cut_once():
    """The labels of a picture that is cut twice are not those of its pixels."""
    drawing, wrong = learner(batches=1), 0.0
    for drawing.progress.batch in range(10):
        batch = CutMix(seed=5).transform_batch(CutMix().transform_batch(known(6), drawing), drawing)
        assert isinstance(batch.targets, MixedTargets)
        wrong = max(wrong, (shares_of_labels(batch.targets, 6) - shares_of_pixels(batch.inputs)).abs().max().item())

    assert wrong > 0.1
