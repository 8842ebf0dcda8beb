"""Every shipped callback holds the promises of `etude.testing.check_callback`, and does its own work."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from typing_extensions import override

import etude
from etude import Callback, ClipGradNorm, Debug, EarlyStopping, Learner, MixUp, Record, SaveBest, StopFit
from etude.runs.record import KeepRun, new_run_folder
from etude.schedules import linear, one_cycle
from etude.testing import check_callback
from etude.training.callback import describe
from etude.training.callbacks.checkpoints import Checkpoints
from etude.vision import ProgressiveResizing
from resuming import SHIPPED


@pytest.mark.parametrize("make", SHIPPED.values(), ids=SHIPPED)
def test_shipped_callback_holds_its_promises(make):
    check_callback(make)


def test_run_keeper_holds_its_promises(tmp_path):
    folders = iter(range(100))
    check_callback(lambda: KeepRun(new_run_folder("check", tmp_path / str(next(folders))), {}))


def test_checkpoints_hold_their_promises(tmp_path):
    folders = iter(range(100))
    check_callback(lambda: Checkpoints(tmp_path / str(next(folders))))


def test_every_shipped_callback_is_checked():
    checked = {type(make()) for make in SHIPPED.values()} | {KeepRun, Checkpoints}
    checked |= {ProgressiveResizing}  # in test_progressive.py, for it needs pictures
    subclasses = [cls for cls in Callback.__subclasses__() if cls.__module__.startswith("etude.")]
    shipped = {cls for cls in subclasses if not cls.__name__.startswith("_")}

    assert shipped == checked


class _Forgetful(Callback):
    """Draws from a state of its own and does not save it."""

    def __init__(self) -> None:
        self.count = 0

    @override
    def transform_grads(self, model, learner):
        self.count += 1
        for parameter in model.parameters():
            parameter.grad.mul_(1 / self.count)


class _Leaky(Callback):
    @override
    def before_fit(self, learner):
        learner.model.register_forward_hook(lambda *_: None)


class _Unkeepable(Callback):
    @override
    def state_dict(self):
        return {"what": object()}


@pytest.mark.parametrize(
    ("make", "broken"),
    [(_Forgetful, "resumed run differs"), (_Unkeepable, "cannot keep")],
    ids=["forgets", "unkeepable"],
)
def test_check_callback_finds_broken_ones(make, broken):
    with pytest.raises(AssertionError, match=broken):
        check_callback(make)


def test_check_callback_finds_a_hook_left_behind():
    with pytest.raises(AssertionError, match="left forward hooks behind"):
        check_callback(_Leaky)


def test_a_misspelt_event_is_refused():
    with pytest.raises(TypeError, match="did you mean after_epoch"):
        type("Mine", (Callback,), {"after_epohc": lambda self, learner, results: None})


def test_a_callback_is_final():
    with pytest.raises(TypeError, match="MixUp is final"):
        type("Mine", (MixUp,), {})


def test_describe_names_class_and_settings():
    assert describe(ClipGradNorm(0.1)) == "ClipGradNorm(max_norm=0.1)"


def _learner(**options) -> Learner:
    inputs = torch.randn(64, 4)
    batches = [(x, x[:, :3].argmax(1)) for x in inputs.split(16)]
    return Learner(
        nn.Linear(4, 3),
        (batches, batches),
        nn.CrossEntropyLoss(),
        torch.optim.SGD,
        progress=False,
        device="cpu",
        **options,
    )


def test_scheduler_writes_the_first_and_last_position_of_each_step():
    record = Record()
    _learner(callbacks=[record]).fit(2, lr=0.8, schedule=one_cycle)
    schedule = one_cycle(0.8)["lr"]

    assert record.lrs == pytest.approx([schedule(i / 8) for i in range(8)])
    assert record.lrs[0] == pytest.approx(0.08)


def test_a_schedule_for_every_layer_group_reaches_its_own_group():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    batches = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))]
    seen = []
    look = Debug("after_step", call=lambda learner, *_: seen.append([g["lr"] for g in learner.optimizer.param_groups]))
    learner = Learner(
        model,
        batches,
        nn.CrossEntropyLoss(),
        torch.optim.SGD,
        groups=list,
        callbacks=[look],
        progress=False,
        device="cpu",
    )
    before = model[0].weight.clone()
    learner.fit(1, lr=[0.0, 0.03], schedule=etude.flat)

    assert seen == [[0.0, 0.03]]
    assert torch.equal(model[0].weight, before)


def test_a_list_of_another_length_is_refused():
    """Error 12 of the notes: zip cut the list and the whole model trained at the first learning rate."""
    learner = _learner(groups=lambda model: [[model.weight], [model.bias]])

    with pytest.raises(etude.ConfigError, match="3 schedules of lr for 2 layer groups"):
        learner.fit(1, lr=[1e-3, 1e-3, 2e-3])


def test_a_schedule_that_the_optimizer_does_not_read_is_refused():
    with pytest.raises(etude.ConfigError, match="SGD has no 'mom_sqr'"):
        _learner().fit(1, schedule={"mom_sqr": lambda position: 0.99})


def test_early_stopping_stops_and_every_watcher_sees_the_last_epoch():
    rows = []
    late = Debug("after_epoch", call=lambda learner, results: rows.append(results))
    learner = _learner(callbacks=[EarlyStopping("valid_loss", patience=2, min_delta=100), late])
    history = learner.fit(10, lr=0.1)

    assert len(history) == len(rows) == 3
    assert "valid_loss has not improved" in history.stopped


def test_early_stopping_refuses_a_column_that_is_not_there():
    with pytest.raises(etude.ConfigError, match="no 'valid_acuracy' to watch"):
        _learner(callbacks=[EarlyStopping("valid_acuracy")]).fit(1, lr=0.1)


def test_save_best_puts_the_best_weights_back():
    best = SaveBest("valid_loss")
    learner = _learner(callbacks=[best])
    history = learner.fit(6, schedule={"lr": linear(0.5, 100.0)})
    losses = history["valid_loss"]

    assert losses[-1] > min(losses), "the fit must get worse for this test to mean something"
    assert best.epoch == 1 + losses.index(min(losses))
    assert learner.evaluate()["loss"] == pytest.approx(min(losses))


def test_clip_limits_the_joint_norm():
    norms = []
    look = Debug("transform_grads", call=lambda _, model: norms.append(_norm(model)))
    _learner(callbacks=[ClipGradNorm(0.01), look]).fit(1, lr=0.1)

    assert norms == pytest.approx([0.01] * 4, rel=1e-3)


def _norm(model: nn.Module) -> float:
    return float(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm())


def test_debug_can_stop_the_fit_as_in_the_notes():
    details = []

    def print_details(learner, *_):
        details.append((len(learner.optimizer.param_groups), learner.optimizer.param_groups[0]["lr"]))
        raise StopFit("seen enough")

    history = _learner(callbacks=[Debug("after_step", call=print_details)]).fit(1, lr=0.3)

    assert details == [(1, pytest.approx(0.03))]
    assert history.stopped == "seen enough"


def test_debug_opens_the_debugger(monkeypatch):
    opened = []
    monkeypatch.setattr("builtins.breakpoint", lambda: opened.append(True))
    _learner(callbacks=[Debug("before_step", times=2)]).fit(1, lr=0.1)

    assert opened == [True, True]


@pytest.mark.usefixtures("without_type_checks")
def test_debug_refuses_an_unknown_event():
    with pytest.raises(etude.ConfigError, match="unknown event"):
        Debug("after_batch")


def test_half_a_window_does_not_reach_the_next_epoch():
    def stop(learner, *_):
        if learner.progress.batch == 1:
            raise etude.StopEpoch("enough")

    left_over = []
    look = etude.Debug("before_step", call=lambda learner: left_over.append(learner.model.weight.grad is not None))
    batches = [(torch.randn(4, 8), torch.zeros(4, dtype=torch.long))] * 4
    callbacks = [etude.Debug("after_step", call=stop), look]
    Learner(
        nn.Linear(8, 4),
        batches,
        nn.CrossEntropyLoss(),
        torch.optim.SGD,
        callbacks=callbacks,
        accumulate=2,
        progress=False,
    ).fit(2, lr=0.1)

    assert left_over == [False] * 3
