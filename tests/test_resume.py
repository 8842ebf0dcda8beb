"""A fit that was stopped and resumed ends with the bits of one that never stopped: weights, optimizer, table, all."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from typing_extensions import override

from etude import Callback, ClipGradNorm, Learner, MixUp, Record, SaveBest, flat
from etude.errors import ConfigError, LoadError
from etude.testing import same
from etude.training import checkpoint
from etude.training.callbacks.checkpoints import Checkpoints
from resuming import (
    ACCUMULATE,
    EPOCHS,
    PLACES,
    SHIPPED,
    STEPS,
    StopAt,
    check_places,
    learner,
    never_stopped,
    outcome,
    signaled_by,
    stopped_and_resumed,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
DATA = ("arrays", "0 workers", "2 workers", "4 workers")
PRECISIONS = ("fp32", "bf16", "bf16-master", "fp16")
ALONE = ("mixup in a hidden layer", "four corners")
"""Callbacks that others stand for in a fit with all: one of a kind, and one that cuts."""
HARDEST = ("inside a window",)


def _slow(*values):
    return [pytest.param(*(value if isinstance(value, tuple) else [value]), marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize(
    ("precision", "places"), [("fp32", PLACES), ("bf16", HARDEST), *_slow(*((p, PLACES) for p in PRECISIONS[1:]))]
)
def test_all_callbacks_at_every_place(precision, places, tmp_path, monkeypatch):
    made = [make for name, make in SHIPPED.items() if name not in ALONE]
    check_places(lambda: [make() for make in made], tmp_path, monkeypatch, places=places, precision=precision)


@pytest.mark.parametrize("name", [*ALONE, *_slow(*(name for name in SHIPPED if name not in ALONE))])
def test_every_callback_at_the_hardest_place(name, tmp_path, monkeypatch):
    check_places(lambda: [SHIPPED[name]()], tmp_path, monkeypatch, places=HARDEST)


@pytest.mark.parametrize("data", [*DATA[1:3], *_slow(DATA[3])])
def test_a_torch_data_set_with_any_number_of_workers(data, tmp_path, monkeypatch):
    def make():
        return [MixUp(0.4), ClipGradNorm(1.0), SaveBest()]

    check_places(make, tmp_path, monkeypatch, places=HARDEST, data=data, precision="bf16")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision", "data"), [*itertools.product(SHIPPED, PRECISIONS, DATA)])
def test_every_callback_at_every_place(name, precision, data, tmp_path, monkeypatch):
    check_places(lambda: [SHIPPED[name]()], tmp_path, monkeypatch, precision=precision, data=data)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9, nesterov=True),
        lambda groups: torch.optim.AdamW(groups, fused=True, amsgrad=True),
        *_slow(lambda groups: torch.optim.RMSprop(groups, centered=True, momentum=0.5), torch.optim.NAdam),
    ],
    ids=["SGD", "AdamW fused", "RMSprop", "NAdam"],
)
def test_every_optimizer(optimizer, tmp_path, monkeypatch):
    places = ("mid-epoch", "an epoch's end")
    check_places(list, tmp_path, monkeypatch, places=places, optimizer=optimizer)


def test_a_ready_made_loader_at_an_epochs_end(tmp_path, monkeypatch):
    check_places(list, tmp_path, monkeypatch, places=("an epoch's end", "in validation"), data="ready-made")


def test_a_ready_made_loader_stopped_in_mid_epoch_goes_on_from_the_epoch_before(tmp_path, monkeypatch):
    whole = never_stopped(list, tmp_path / "whole", data="ready-made")

    assert same(whole, stopped_and_resumed(list, tmp_path / "cut", "mid-epoch", monkeypatch, data="ready-made"))


def test_a_run_stopped_many_times(tmp_path, monkeypatch):
    whole = never_stopped(lambda: [MixUp(0.4)], tmp_path / "whole")
    resume = None
    for place in ("a step before", "an epoch's end", "in validation"):
        stop = StopAt(place)
        with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
            learner([MixUp(0.4), stop, Checkpoints(tmp_path / "cut")]).fit(EPOCHS, lr=0.05, resume=resume)
        resume = tmp_path / "cut"
    last = learner([MixUp(0.4), StopAt(None), Checkpoints(tmp_path / "cut")])
    last.fit(EPOCHS, lr=0.05, resume=resume)

    assert same(whole, outcome(last))


def test_a_fit_resumed_in_validation_hears_a_wish_to_stop_there(tmp_path, monkeypatch):
    resume = None
    for _ in range(2):
        stop = StopAt("in validation")
        with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
            learner([stop, Checkpoints(tmp_path)]).fit(EPOCHS, lr=0.05, resume=resume)
        resume = tmp_path
        assert checkpoint.read_newest(tmp_path).meter is not None


class _Arm(Callback):
    """Gives a `StopAt` its place when a phase begins."""

    def __init__(self, stop, phase, place):
        self.stop, self.phase, self.place = stop, phase, place

    @override
    def before_fit(self, learner):
        self.stop.place = self.place if learner.progress.phase == self.phase else None


@pytest.mark.parametrize("epoch", [2, 3, *_slow(1, 4)], ids=lambda epoch: f"after epoch {epoch}")
def test_a_fine_tuning_goes_on_in_the_right_phase(epoch, tmp_path, monkeypatch):
    """Two epochs with a frozen body, then three with everything."""

    def make(folder, place):
        def groups(model):
            return [nn.Sequential(*list(model)[:4]), nn.Sequential(*list(model)[4:])]

        stop = StopAt(None)
        stop.place = place
        made = learner([stop, Checkpoints(folder), MixUp(0.3)], groups=groups)
        return made, stop

    whole, stop = make(tmp_path / "whole", None)
    whole.fine_tune(3, 0.05, freeze_epochs=2, norm="frozen", callbacks=[_Arm(stop, 9, None)])
    stopped, stop = make(tmp_path / "cut", None)
    place = ("step", (epoch - 1) % 2, 2 * ACCUMULATE)
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
        # the same place is there in both phases
        stopped.fine_tune(3, 0.05, freeze_epochs=2, norm="frozen", callbacks=[_Arm(stop, int(epoch > 2), place)])
    resumed, stop = make(tmp_path / "cut", None)
    torch.manual_seed(1)
    arm = _Arm(stop, 9, None)
    resumed.fine_tune(3, 0.05, freeze_epochs=2, norm="frozen", callbacks=[arm], resume=tmp_path / "cut")

    assert same(outcome(whole), outcome(resumed))
    assert all(parameter.requires_grad for parameter in resumed.model.parameters())
    assert resumed.progress.phase == 0


def test_the_learners_second_fit_is_resumed_with_the_history_of_its_first(tmp_path, monkeypatch):
    def two(folder, place, resume=None):
        stop = StopAt(None)
        made = learner([stop, Checkpoints(folder)])
        if resume is None:
            made.fit(1, lr=0.05)
        stop.place = place
        with signaled_by(stop, monkeypatch):
            made.fit(2, lr=0.02, resume=resume)
        return made

    whole = two(tmp_path / "whole", None)
    with pytest.raises(SystemExit):
        two(tmp_path / "cut", PLACES["mid-epoch"])
    resumed = two(tmp_path / "cut", None, resume=tmp_path / "cut")

    assert same(outcome(whole), outcome(resumed))
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]
    assert resumed.progress.step == 3 * STEPS


@pytest.mark.parametrize("precision", ["fp32", "bf16-master", *_slow("bf16", "fp16")])
def test_two_successive_fits_equal_one_longer_fit(precision):
    """At a constant rate; the weights are float32 afterwards, whatever the model computed in."""
    one, two = (learner([MixUp(0.4), StopAt(None)], precision=precision) for _ in range(2))
    torch.manual_seed(5)
    one.fit(3, lr=0.05, schedule=flat)
    torch.manual_seed(5)
    two.fit(2, lr=0.05, schedule=flat)
    two.fit(1, lr=0.05, schedule=flat)

    assert same(outcome(one), outcome(two))
    assert {parameter.dtype for parameter in two.model.parameters()} == {torch.float32}


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path, monkeypatch) -> Path:
    """The checkpoints of a fit that was stopped in the middle of its second epoch."""
    stop = StopAt("mid-epoch")
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
        learner([MixUp(0.4), stop, Checkpoints(tmp_path / "cut")]).fit(EPOCHS, lr=0.05)
    return tmp_path / "cut"


def _resume(folder, *, epochs=EPOCHS, lr=0.05, alpha=0.4, change=(), **options) -> Learner:
    made = learner([MixUp(alpha), StopAt(None), Checkpoints(folder)], **options)
    made.fit(epochs, lr=lr, resume=folder, change=change)
    return made


@pytest.mark.parametrize(
    ("other", "words", "change"),
    [
        ({"epochs": 5}, f"has num_epochs={EPOCHS}, this one has num_epochs=5", "num_epochs"),
        ({"lr": 0.01}, "another schedule", "lr"),
        ({"alpha": 0.1}, "cannot go on with", "callbacks"),
        ({"precision": "bf16"}, "has precision=fp32, this one has precision=bf16", "precision"),
        ({"data": "0 workers"}, None, None),
        ({"accumulate": 3}, "has accumulate=2, this one has accumulate=3", None),
        ({"optimizer": torch.optim.SGD}, "has optimizer=AdamW, this one has optimizer=SGD", None),
    ],
    ids=lambda value: str(value),
)
def test_another_fit_is_refused_unless_it_is_asked_for(stopped, other, words, change):
    if words is None:
        # the same samples in the same order, however they are read
        _resume(stopped, **other)
        return
    with pytest.raises(ConfigError, match=words):
        _resume(stopped, **other)
    if change is not None:
        resumed = _resume(stopped, **other, change=[change])
        assert len(resumed.history) == other.get("epochs", EPOCHS)


def test_what_only_watches_may_come_and_go(stopped):
    """A bar, a record, another number of kept checkpoints: the weights are the same."""
    plain = _resume(stopped)
    made = learner([Record(), MixUp(0.4), StopAt(None), Checkpoints(stopped.parent / "other", keep=5)])
    made.show_progress = True
    made.fit(EPOCHS, lr=0.05, resume=stopped)

    assert same(plain.model.state_dict(), made.model.state_dict())


def test_other_data_is_refused_by_what_differs(stopped):
    made = learner([MixUp(0.4), StopAt(None), Checkpoints(stopped)])
    made.data.train.sampling = type(made.data.train.sampling)(num_samples=80, batch_size=16, shuffle=True, seed=4)

    with pytest.raises(ConfigError, match="num_samples: 92 then, 80 now; seed: 3 then, 4 now"):
        made.fit(EPOCHS, lr=0.05, resume=stopped)


def test_another_model_is_refused_before_it_is_touched(stopped):
    made = learner([MixUp(0.4), StopAt(None), Checkpoints(stopped)])
    made.model[5] = nn.Linear(128, 5)
    before = copy.deepcopy((made.model.state_dict(), made.progress, made.seed))

    with pytest.raises(
        ConfigError, match=r"does not fit this Sequential: 5.weight is \(4, 128\) of torch.float32 then"
    ):
        made.fit(EPOCHS, lr=0.05, resume=stopped)
    assert same(before[0], made.model.state_dict())
    assert before[1:] == (made.progress, made.seed)


def test_a_ready_made_loader_cannot_go_on_in_the_middle_of_an_epoch(stopped):
    with pytest.raises(ConfigError, match="DataLoader cannot begin in the middle of an epoch"):
        _resume(stopped, data="ready-made", change=["data"])


def test_an_unknown_change_is_refused(stopped):
    with pytest.raises(ConfigError, match="cannot be changed by a resume; it may change num_epochs"):
        _resume(stopped, change=["momentum"])


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(LoadError, match="holds no checkpoint"):
        _resume(tmp_path)


def test_the_seed_of_a_resumed_learner_is_that_of_the_fit(stopped):
    """MixUp's pairs hang on it, and a new process may begin with another."""
    made = learner([MixUp(0.4), StopAt(None), Checkpoints(stopped)], seed=99)
    made.fit(EPOCHS, lr=0.05, resume=stopped)

    assert made.seed == 3


def test_frozen_weights_stay_frozen_in_a_resumed_fit(tmp_path, monkeypatch):
    stop = StopAt("mid-epoch")
    frozen = learner([stop, Checkpoints(tmp_path)])
    frozen.model[0].requires_grad_(False)
    before = frozen.model[0].weight.clone()
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
        frozen.fit(EPOCHS, lr=0.05)
    resumed = learner([StopAt(None), Checkpoints(tmp_path)])
    resumed.fit(EPOCHS, lr=0.05, resume=tmp_path)

    assert torch.equal(resumed.model[0].weight, before)
    assert not resumed.model[0].weight.requires_grad


def test_a_buffer_outside_the_state_dict_is_kept(tmp_path, monkeypatch):
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()), persistent=False)

        def forward(self, x):
            if self.training:
                self.seen += 1
            return x * (1 + self.seen / 100)

    def make(name):
        made = learner([StopAt(None), Checkpoints(tmp_path / name)])
        made.model.append(Counts())
        return made

    whole = make("whole")
    whole.fit(EPOCHS, lr=0.05)
    stopped = make("cut")
    stopped.callbacks[0].place = PLACES["mid-epoch"]
    with signaled_by(stopped.callbacks[0], monkeypatch), pytest.raises(SystemExit):
        stopped.fit(EPOCHS, lr=0.05)
    resumed = make("cut")
    resumed.fit(EPOCHS, lr=0.05, resume=tmp_path / "cut")

    assert resumed.model[6].seen == whole.model[6].seen
    assert same(outcome(whole), outcome(resumed))


def test_state_is_laid_out_as_its_parameter(stopped):
    """Torch's fused kernels give silently wrong results when strides differ."""
    resumed = _resume(stopped)
    for parameter, state in resumed.optimizer.state.items():
        assert state["exp_avg"].stride() == parameter.stride()
    assert not resumed.model[0].weight.is_contiguous() or resumed.model[0].weight.shape[1] == 1
    snapshot = checkpoint.read_newest(stopped)
    warnings.simplefilter("error")
    assert snapshot.progress["num_epochs"] == EPOCHS
