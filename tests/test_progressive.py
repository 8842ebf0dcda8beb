"""Pictures that grow over a fit: the side of each epoch, the same after a resume, and nothing else that changes."""

from __future__ import annotations

import json

import pytest
import torch

import etude as library
from coloring import FAST, etude, save_colors
from drawing import every_picture
from etude import Callback, ConfigError, DataError, vision
from etude.recipes.options import DataOptions, TrainOptions
from etude.recipes.training import Training
from etude.training import snapshot
from etude.training.finder import find_lr
from etude.training.step import supervised_step
from etude.vision import ProgressiveResizing
from planning import little_time
from stopped_commands import TRAIN, digest, steps, stopped_after

__all__ = ["little_time"]

GROWING = [8, 8, 12, 16, 16]
"""Of five epochs at 16 pixels."""


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    """Three classes of 8 pictures."""
    torch.set_num_threads(1)
    return save_colors(tmp_path_factory.mktemp("progressive") / "colors", per_class=8)


def load(colors, **options):
    return vision.load(colors, **{"size": 16, "valid": 0.25, "batch_size": 8, "progress": False, **options})


class Seen(list):
    """The side of each batch that a step saw."""

    def step(self, learner, batch):
        self.append(batch.inputs.shape[-1])
        return supervised_step(learner, batch)

    def by_epoch(self, num_epochs):
        return self[:: len(self) // num_epochs]


def growing_learner(data, *callbacks, step=supervised_step, grow=True):
    callbacks = (ProgressiveResizing(), *callbacks) if grow else callbacks
    options = {"widths": [8, 16], "precision": "fp32", "device": "cpu", "progress": False}
    return vision.learner("lesson_cnn", data, mixup=0.4, callbacks=callbacks, step=step, **options)


def same_weights(one, other):
    weights = (learner.model.state_dict().values() for learner in (one, other))
    return all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


# -- the sides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "size", "num_epochs", "sides"),
    [
        ({}, 64, 5, [32, 32, 48, 64, 64]),
        ({}, 128, 10, [64, 64, 64, 64, 80, 96, 112, 128, 128, 128]),
        ({}, 16, 5, GROWING),
        ({}, 64, 1, [64]),
        ({}, 64, 2, [32, 64]),
        ({}, 100, 4, [48, 48, 80, 100]),
        ({"step": 8}, 64, 5, [32, 32, 40, 56, 64]),
        ({"delay": 0.0, "finetune": 0.0, "step": 1}, 100, 5, [55, 65, 75, 85, 100]),
        ({"delay": 0.5, "finetune": 0.5}, 64, 4, [32, 32, 64, 64]),
        ({"delay": 0.4, "finetune": 0.6}, 64, 5, [32, 32, 64, 64, 64]),
        ({"delay": 1.0, "finetune": 0.0, "start": 0.25}, 64, 3, [16, 16, 64]),
    ],
)
def test_the_side_of_each_epoch(options, size, num_epochs, sides):
    assert ProgressiveResizing(**options).sides(size, num_epochs) == sides


@pytest.mark.parametrize("start", [0.2, 0.5, 0.9])
def test_sides_never_shrink_and_are_few_multiples_of_the_step(start):
    for size in (96, 128, 200):
        for num_epochs in range(1, 40):
            sides = ProgressiveResizing(start).sides(size, num_epochs)

            assert sides == sorted(sides)
            assert sides[-1] == size
            assert all(side % 16 == 0 for side in sides if side != size)
            assert min(sides) >= size * start - 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.0}, r"above 0 and below 1, such as 0\.5; got 0\.0"),
        ({"start": 1.0}, "start is a share"),
        ({"delay": -0.1}, "at most 1 together, got -0.1 and 0.2"),
        ({"delay": 0.6, "finetune": 0.5}, "shares of the fit"),
        ({"finetune": float("nan")}, "shares of the fit"),
        ({"step": 0}, "at least 1 pixel, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ProgressiveResizing(**options)


# -- the pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["disk", "none"])
def test_small_pictures_are_those_of_a_loader_of_that_size(colors, store):
    full, small = (load(colors, size=size, stored_size=20, store=store).train for size in (16, 12))
    rows = torch.arange(full.num_samples)

    for epoch in (0, 3):
        assert torch.equal(full.take(rows, epoch, 12).inputs, every_picture(small, epoch).inputs)
    full.side = 12
    batches = [next(loader.batches(3, torch.device("cpu"))) for loader in (full, small)]
    assert torch.equal(batches[0].inputs, batches[1].inputs)
    assert every_picture(full).inputs.shape[-1] == 16, "who asks for pictures gets the full side"


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_small_pictures_are_normalized_and_others_refused(kind):
    preprocess = vision.ImagePreprocess(16, [0.4, 0.5, 0.6], [0.2, 0.3, 0.1])
    pixels = torch.randint(0, 256, (3, 3, 12, 12)).to(kind)
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (preprocess.mean, preprocess.std))

    with preprocess.taking([8, 12, 16]):
        torch.testing.assert_close(preprocess(pixels), (pixels / 255 - mean) / std)
        assert preprocess(torch.zeros(1, 3, 20, 18).to(kind)).shape == (1, 3, 16, 16)
        for shape in ((10, 10), (12, 16), (12, 20)):
            with pytest.raises(DataError, match="are smaller than the 16"):
                preprocess(torch.zeros(1, 3, *shape))
    with pytest.raises(DataError, match="pictures of 12x12 pixels are smaller than the 16"):
        preprocess(pixels)


# -- a fit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["windows", "unstored", "whole", "augmented"])
def test_training_sees_growing_pictures_and_all_else_the_full_ones(colors, how):
    data = DataOptions(data=str(colors), size=16, valid_pct=0.25, store="none" if how == "unstored" else "disk")
    if how == "augmented":
        data = DataOptions(data=str(colors), size=16, valid_pct=0.25, rotate=10, color=0.2, erase=1.0)
    kind = "whole pictures" if how == "whole" else "pictures"
    loaders = Training(name="t", kind=kind, data=data, train=TrainOptions(batch_size=8)).loaders(quiet=True)
    evaluated, seen = [], Seen()

    class Watch(Callback):
        def after_eval_batch(self, learner, batch, output):
            evaluated.append(batch.inputs.shape[-1])

    learner = growing_learner(loaders, Watch(), step=seen.step)
    history = learner.fit(5, lr=1e-3)

    assert seen.by_epoch(5) == GROWING
    assert set(evaluated) == {16}
    assert learner.evaluate()["loss"] == history["valid_loss"][-1]
    assert learner.one_batch().inputs.shape[-1] == 16
    assert "16" in repr(learner.summary())
    with pytest.raises(DataError, match="8x8 pixels are smaller"):
        learner.predict(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_each_fit_grows_anew_and_goes_on_with_new_windows(colors):
    seen = Seen()
    learner = growing_learner(load(colors), step=seen.step)
    learner.fit(2, lr=1e-3)
    learner.fit(2, lr=1e-3)

    assert seen.by_epoch(4) == [8, 16, 8, 16]
    assert learner.progress.epoch == 4


def test_an_error_leaves_the_full_side_and_other_fits_have_the_same_bits(colors):
    class Fail(Callback):
        def after_step(self, learner, batch, output):
            raise RuntimeError("planted")

    used, fresh = load(colors), load(colors)
    with pytest.raises(RuntimeError, match="planted"):
        growing_learner(used, Fail()).fit(2, lr=1e-3)
    assert used.train.side == 16
    learners = [growing_learner(data, grow=False) for data in (used, fresh)]
    for learner in learners:
        learner.fit(2, lr=1e-3)

    assert same_weights(*learners)


class Take(Callback):
    """Takes a snapshot at one point of rest."""

    decides_training = False

    def __init__(self, epoch, batch):
        self.place, self.taken = (epoch, batch), None

    def before_fit(self, learner):
        learner.running().at_rest.append(lambda after: self._take(learner))

    def _take(self, learner):
        if (learner.progress.fit_epoch, learner.progress.epoch_batch) == self.place and self.taken is None:
            self.taken = snapshot.take(learner)


class Sides(Callback):
    """Which side each epoch's batches have."""

    decides_training = False

    def __init__(self):
        self.seen = []

    def after_step(self, learner, batch, output):
        self.seen.append((learner.progress.fit_epoch, batch.inputs.shape[-1]))


BATCHES = [(epoch, batch) for epoch in range(5) for batch in range(2)]
"""Of a fit."""


@pytest.mark.parametrize("place", [(0, 1), (2, 1), (2, 0)], ids=["small", "growing", "between"])
def test_a_resume_has_the_same_sides_and_ends_with_the_same_bits(colors, place):
    take, sides = Take(*place), Sides()
    whole = growing_learner(load(colors))
    whole.fit(1, lr=1e-3)  # the fit's epochs count, not the learner's
    whole.fit(5, lr=1e-3, callbacks=[take])
    resumed = growing_learner(load(colors))
    resumed.fit(5, lr=1e-3, resume=take.taken, callbacks=[sides])

    assert sides.seen == [(epoch, GROWING[epoch]) for epoch, batch in BATCHES if (epoch, batch) >= place]
    assert same_weights(whole, resumed)


def test_a_resume_without_it_or_with_other_settings_is_refused(colors):
    take = Take(1, 1)
    growing_learner(load(colors), take).fit(5, lr=1e-3)
    for callbacks in ([], [ProgressiveResizing(delay=0.2)]):
        with pytest.raises(ConfigError, match=r"ProgressiveResizing\(start=0.5, delay=0.4, finetune=0.2, step=None\)"):
            growing_learner(load(colors), *callbacks, grow=False).fit(5, lr=1e-3, resume=take.taken)


def test_what_cannot_grow_is_refused(colors):
    arrays = vision.from_arrays(
        (torch.zeros(16, 3, 16, 16, dtype=torch.uint8), torch.arange(16) % 2), None, vocab=["a", "b"], batch_size=8
    )
    with pytest.raises(ConfigError, match="cannot those of a ArrayLoader; leave it out"):
        growing_learner(arrays).fit(2, lr=1e-3)
    with pytest.raises(ConfigError, match=r"starts at a share of 0.95 has no effect on pictures of 16 pixels"):
        growing_learner(load(colors), ProgressiveResizing(0.95), grow=False).fit(2, lr=1e-3)


# -- before training --------------------------------------------------------------------------------------------------


def test_a_plan_times_every_side_and_the_range_test_is_at_full_size(colors):
    seen = Seen()
    planned, plain = growing_learner(load(colors), step=seen.step), growing_learner(load(colors))
    plan = planned.plan(5, lr=1e-3)

    assert sorted(set(seen)) == [8, 12, 16]
    assert [(phase.first, phase.last, phase.what) for phase in plan.phases] == [
        (1, 2, "8 px"),
        (3, 3, "12 px"),
        (4, 5, "16 px"),
    ]
    epochs = [phase.epoch for phase in plan.phases]
    assert plan.forecast.epoch == epochs[-1]
    assert plan.forecast.total == pytest.approx(plan.forecast.start + 2 * epochs[0] + epochs[1] + 2 * epochs[2])
    assert "training size 8 px in epochs 1-2, 12 px in epoch 3, 16 px in epochs 4-5" in repr(plan)
    assert plan.data.train.inputs == "3x16x16 uint8"
    seen.clear()
    find_lr(planned, num_steps=10)
    assert set(seen) == {16}
    planned.step = supervised_step
    for learner in (planned, plain):
        learner.fit(2, lr=1e-3)
    assert same_weights(planned, plain)


def test_a_plan_without_it_has_no_phases(colors):
    plan = growing_learner(load(colors), grow=False).plan(2, lr=1e-3)

    assert plan.phases == []
    assert "px" not in repr(plan)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_records_it_and_a_stopped_run_ends_with_the_same_bits(colors, tmp_path, monkeypatch):
    train = ["train", colors, *TRAIN, "--progressive", "0.5"]
    assert etude(*train, "--run-dir", tmp_path / "whole").code == 0
    with stopped_after(3, monkeypatch):
        etude(*train, "--run-dir", tmp_path / "stopped")
    assert etude("resume", tmp_path / "stopped").code == 0

    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["options"]["progressive"] == config["training"]["train"]["progressive"] == 0.5
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")
    assert steps(tmp_path / "stopped") == steps(tmp_path / "whole")
    assert library.load(tmp_path / "whole").data.preprocess.size == 16


def test_etude_plan_says_the_sides(colors):
    two = ["--valid-pct", "0.25", *FAST, "--epochs", "2", "--precision", "fp32"]
    done = etude("plan", "train", colors, *two, "--progressive", "0.5", "--json")

    assert done.code == 0, done.errors
    assert "training size 8 px in epoch 1, 16 px in epoch 2" in done.out
    assert [phase["what"] for phase in done.json["phases"]] == ["8 px", "16 px"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "here", "--progressive", "1"], "--progressive must be a share from 0, for none, to below 1"),
        (["train", "here", "--progressive", "0.5", "--epochs", "1"], "--progressive has no effect on one epoch"),
        (["train", "here", "--progressive", "0.95"], "has no effect on pictures of 128 pixels"),
        (["demo", "--progressive", "0.5"], "--progressive has no effect here: the digits are 8 pixels small"),
    ],
)
def test_what_has_no_effect_is_refused_before_pictures_are_read(arguments, message):
    done = etude(*arguments)

    assert done.code == 2
    assert message in done.errors
