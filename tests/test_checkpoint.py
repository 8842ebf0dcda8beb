"""Which checkpoints stay, and when they are written."""

from __future__ import annotations

import math
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from typing_extensions import override

import etude
from checkpointing import FILES, fitted, names
from etude import Callback
from etude.errors import ConfigError, LoadError, NonFiniteError
from etude.testing import same
from etude.training import checkpoint, snapshot, writer
from etude.training.callbacks.checkpoints import Checkpoints
from etude.training.loop import Loop
from resuming import StopAt, learner, outcome, signaled_by

# -- retention --------------------------------------------------------------------------------------------------------


class Rising(Callback):
    """Makes the first epoch the best."""

    @override
    def after_epoch(self, learner, results):
        results["valid_loss"] = float(results["epoch"])


@pytest.mark.parametrize(("keep", "best"), [(1, "valid_loss"), (3, "valid_loss"), (2, None)])
def test_the_newest_and_the_best_stay(keep, best, tmp_path):
    fitted(tmp_path, keep=keep, best=best, every=1, callbacks=[Rising()])
    last = ["step-00000008", "step-00000009", "step-00000009-epoch-0003"][-keep:]

    assert names(tmp_path) == (["step-00000003-epoch-0001"] if best else []) + last
    for name in last:
        checkpoint.verify(tmp_path / name)


@pytest.mark.parametrize("keep", [1, 2])
def test_the_best_stays_after_a_resume(keep, tmp_path, monkeypatch):
    def make(stop):
        return learner([Rising(), stop, Checkpoints(tmp_path, keep=keep)])

    stop = StopAt("mid-epoch")
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
        make(stop).fit(3, lr=0.05)
    make(StopAt(None)).fit(3, lr=0.05, resume=tmp_path)

    assert names(tmp_path)[0] == "step-00000003-epoch-0001"
    assert len(names(tmp_path)) == keep + 1


def test_a_best_one_that_could_not_be_written_does_not_cost_the_one_before_it(tmp_path, monkeypatch):
    real = checkpoint.write

    def write(taken, folder, description):
        if taken.progress["epoch"] == 2 and taken.meter is None:
            raise OSError(28, "No space left on device")
        return real(taken, folder, description)

    monkeypatch.setattr(checkpoint, "write", write)

    class Falling(Callback):
        @override
        def after_epoch(self, learner, results):
            results["valid_loss"] = {1: 2.0, 2: 1.0, 3: 3.0}[int(results["epoch"])]

    fitted(tmp_path, keep=1, callbacks=[Falling()])

    assert names(tmp_path) == ["step-00000003-epoch-0001", "step-00000009-epoch-0003"]


def test_every_so_many_steps_and_minutes(tmp_path, monkeypatch):
    fitted(tmp_path / "steps", keep=20, every=2)
    assert [checkpoint.position_of(path)[0] for path in checkpoint.checkpoints(tmp_path / "steps")] == [
        *(9, 8, 6, 6, 4, 3, 2)
    ]
    clock = iter(range(0, 100_000, 61))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    fitted(tmp_path / "minutes", keep=20, minutes=1.0)
    assert len(checkpoint.checkpoints(tmp_path / "minutes")) == 12
    fitted(tmp_path / "never", keep=20, minutes=1e9)
    assert len(checkpoint.checkpoints(tmp_path / "never")) == 3


def test_weights_that_are_not_finite_are_never_kept(tmp_path):
    class Poison(Callback):
        @override
        def after_step(self, learner, batch, output):
            if learner.progress.step == 5:
                with torch.no_grad():
                    learner.model[5].weight[0, 0] = math.nan

    with pytest.raises(NonFiniteError):
        fitted(tmp_path, keep=1, every=1, callbacks=[Poison()])

    assert names(tmp_path)[-1] == "step-00000004"
    assert all(value.isfinite().all() for value in checkpoint.read_newest(tmp_path).model.values())


def test_whatever_ends_a_fit_waits_for_the_checkpoint_under_way(tmp_path, monkeypatch):
    real = checkpoint.write

    def write(*given):
        time.sleep(0.3)
        return real(*given)

    class Leaves(Callback):
        @override
        def after_step(self, learner, batch, output):
            if learner.progress.step == 2:
                sys.exit(7)

    monkeypatch.setattr(checkpoint, "write", write)
    with pytest.raises(SystemExit, match="7"):
        fitted(tmp_path, every=1, callbacks=[Leaves()])

    assert names(tmp_path) == ["step-00000001"]


def test_weights_are_looked_at_before_they_are_copied(tmp_path, monkeypatch):
    done = []
    for owner, name in ((Loop, "check_finite"), (snapshot, "take")):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, _real=real, _name=name: (done.append(_name), _real(*given))[1])
    fitted(tmp_path, every=1, epochs=1)

    # first what is tried before the first step; an epoch's training ends with a look of its own
    assert done == ["take", *["check_finite", "take"] * 3, "check_finite", "check_finite", "take"]


def test_what_cannot_be_kept_is_refused_before_the_first_step(tmp_path):
    class Holds(Callback):
        def __init__(self, value):
            self.value = value

        @override
        def state_dict(self):
            return {"seen": self.value}

    tensor = torch.zeros(1, dtype=torch.complex128)
    for value, words in (({1}, "Holds/seen is a set"), (tensor, r"Holds/seen is a tensor of torch\.complex128")):
        with pytest.raises(ConfigError, match=f"{words}, .*which a checkpoint cannot keep"):
            fitted(tmp_path, callbacks=[Holds(value)])
    made = learner([Checkpoints(tmp_path)])
    made.model.register_buffer("turns", tensor)
    with pytest.raises(ConfigError, match="model/turns is a tensor"):
        made.fit(1, lr=0.05)
    assert made.progress.step == 0
    assert names(tmp_path) == []


def test_a_folder_that_another_fit_fills_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_SECONDS_OF_ORPHANS", 0)

    class Nested(Callback):
        @override
        def after_epoch(self, learner, results):
            with pytest.raises(ConfigError, match="another fit is writing its checkpoints into"):
                fitted(tmp_path)
            results["refused"] = 1.0

    made = fitted(tmp_path, keep=1, best=None, callbacks=[Nested()])

    assert [row["refused"] for row in made.history] == [1.0] * 3
    assert names(tmp_path) == ["step-00000009-epoch-0003"]


def test_a_folder_of_a_fit_that_is_further_on_is_refused(tmp_path):
    fitted(tmp_path)
    before = names(tmp_path)

    with pytest.raises(ConfigError, match=r"further on than step 0.*resume="):
        fitted(tmp_path)
    with pytest.raises(ConfigError, match=r"further on than step 6.*move the checkpoints after that step away"):
        fitted(tmp_path, resume=tmp_path / "step-00000006-epoch-0002")
    assert names(tmp_path) == before


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_later_ones_give_way_to_what_is_trained_again(keep, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "remove", lambda path: None)
        whole = outcome(fitted(tmp_path, keep=keep, every=1))
    for path in checkpoint.checkpoints(tmp_path):
        if checkpoint.position_of(path)[0] > 5:
            (path / "state.json").write_text("{}")
    real, said, good = checkpoint.write, [], []

    def write(*given):
        good.append(sum(map(checkpoint.is_whole, checkpoint.checkpoints(tmp_path))))
        return real(*given)

    monkeypatch.setattr(checkpoint, "write", write)
    newest = checkpoint.read_newest(tmp_path, say=said.append)
    resumed = fitted(tmp_path, keep=keep, every=1, resume=newest)

    assert len(said) == 6
    assert newest.progress["step"] == 5
    assert min(good) >= keep
    assert same(whole, outcome(resumed))
    assert all(map(checkpoint.is_whole, checkpoint.checkpoints(tmp_path)))


def test_one_takes_the_place_of_another_without_a_moment_of_neither(tmp_path, monkeypatch):
    fitted(tmp_path, keep=1, best=None)
    newest = checkpoint.read_newest(tmp_path)
    always = []
    for name in ("rename", "unlink", "rmdir", "mkdir"):
        real = getattr(checkpoint.os, name)

        def watched(*args, _real=real, **kwargs):
            result = _real(*args, **kwargs)
            for path in checkpoint.checkpoints(tmp_path):
                checkpoint.verify(path)
            always.append(len(checkpoint.checkpoints(tmp_path)))
            return result

        monkeypatch.setattr(checkpoint.os, name, watched)
    checkpoint.write(newest, tmp_path, None)

    assert len(always) >= 9
    assert min(always) >= 1
    assert names(tmp_path) == ["step-00000009-epoch-0003"]


@pytest.mark.parametrize("old_is_there", [True, False])
def test_a_replacement_that_was_cut_short_is_finished(old_is_there, tmp_path):
    fitted(tmp_path, keep=1, best=None)
    place = tmp_path / "step-00000009-epoch-0003"
    shutil.copytree(place, tmp_path / "step-00000009-epoch-0003+new")
    (tmp_path / ".writing-step-00000009").mkdir()
    (tmp_path / ".removed-step-00000003").mkdir()
    (tmp_path / ".removed-step-00000006").write_text("a file")
    if not old_is_there:
        shutil.rmtree(place)
    assert checkpoint.checkpoints(tmp_path)[0].name.endswith("+new")
    checkpoint.remove_leftovers(tmp_path)

    assert names(tmp_path) == [place.name]
    checkpoint.verify(place)


def test_only_names_of_checkpoints_are_touched(tmp_path):
    for name in ("step-by-step", "step-00000002 (copy)", "notes"):
        (tmp_path / name).mkdir()
    fitted(tmp_path, keep=1, best=None)

    assert set(names(tmp_path)) == {"step-by-step", "step-00000002 (copy)", "notes", "step-00000009-epoch-0003"}
    assert checkpoint.position_of(Path("step-100000000")) > checkpoint.position_of(Path("step-99999999"))


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path):
    fitted(tmp_path, keep=1, best=None)
    (tmp_path / "usual").touch()
    modes = {(tmp_path / "step-00000009-epoch-0003" / name).stat().st_mode for name in FILES}

    assert modes == {(tmp_path / "usual").stat().st_mode}


def test_a_wish_to_stop_while_a_callback_evaluates_on_its_own_waits(tmp_path, monkeypatch):
    stop = StopAt("an epoch's end")

    class Looks(Callback):
        @override
        def after_epoch(self, learner, results):
            learner.evaluate(learner.data.valid)

    def make(stop, name):
        return learner([stop, Looks(), Checkpoints(tmp_path / name)])

    whole = make(StopAt(None), "whole")
    whole.fit(3, lr=0.05)
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
        make(stop, "cut").fit(3, lr=0.05)
    assert names(tmp_path / "cut")[-1] == "step-00000003-epoch-0001"
    resumed = make(StopAt(None), "cut")
    resumed.fit(3, lr=0.05, resume=tmp_path / "cut")

    assert same(outcome(whole), outcome(resumed))


# -- the model in it --------------------------------------------------------------------------------------------------


def test_a_checkpoint_can_be_loaded_as_a_model(tmp_path):
    trained = fitted(tmp_path, keep=1, best=None)
    place = tmp_path / "step-00000009-epoch-0003"
    model = etude.load(place, model=learner([]).model).model
    kept = checkpoint.read(place).model

    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert trained.progress.step == 9
    (place / "state.json").write_text("{}")
    with pytest.raises(LoadError, match=r"state\.json is not what was written"):
        etude.load(place, model=learner([]).model)


def test_a_damaged_replacement_does_not_cost_the_one_it_was_to_replace(tmp_path):
    fitted(tmp_path, keep=1, best=None)
    place = tmp_path / "step-00000009-epoch-0003"
    shutil.copytree(place, tmp_path / f"{place.name}+new")
    (tmp_path / f"{place.name}+new" / "state.json").write_text("{}")
    checkpoint.remove_leftovers(tmp_path)

    assert names(tmp_path) == [place.name]
    checkpoint.verify(place)
