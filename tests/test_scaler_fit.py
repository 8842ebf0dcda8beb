"""Scaling is seen by nobody: not by clipping, not by what is recorded, not by a fit that is resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from etude import Checkpoints, ClipGradNorm, Debug, MixedPrecision, Record, StopFit
from etude.errors import ConfigError
from etude.testing import same
from etude.training import checkpoint
from halves import Overflow, batches, fit, learner, perceptron, state_of
from resuming import EPOCHS, StopAt, outcome, signaled_by
from resuming import learner as small_learner

SCALES = (1.0, 2.0**16)
"""In bfloat16, whose range is that of float32, a power of two changes no bit."""


@pytest.mark.parametrize("flat", [False, True], ids=["lists", "flat"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_unscaled_before_they_are_clipped_or_looked_at(accumulate, flat):
    """Error 6 of the notes: clipping at 1 under a scale of 2^16 left gradients of 2^-16."""
    runs = []
    for scale in SCALES:
        grads = []

        def look(made, model, grads=grads):
            grads.append([weight.grad.clone() for weight in model.parameters()])

        around = [Debug("transform_grads", call=look), ClipGradNorm(0.5), Debug("transform_grads", call=look)]
        precision = MixedPrecision("bf16", loss_scale=scale, flat=flat)
        sgd = partial(torch.optim.SGD, momentum=0.9)
        made = fit(perceptron(), precision, callbacks=around, optimizer=sgd, accumulate=accumulate)
        lengths = [torch.stack([grad.norm() for grad in some]).norm().item() for some in grads]
        runs.append((grads, state_of(made)))
        assert min(lengths[::2]) > 0.55
        assert lengths[1::2] == pytest.approx([0.5] * len(lengths[1::2]), abs=1e-4)

    assert same(runs[0], runs[1])


def test_losses_are_recorded_without_the_scale_and_validation_has_none():
    """Error 6 of the notes: the recorder saw losses times 512, in validation too."""
    seen = []
    for scale in SCALES:
        record, losses = Record(), []
        look = [
            Debug(place, call=lambda _, batch, output, losses=losses: losses.append(output.loss.item()))
            for place in ("after_step", "after_eval_batch")
        ]
        data = batches()
        made = fit(perceptron(), MixedPrecision("bf16", loss_scale=scale), (data, data), callbacks=[record, *look])
        history = made.history
        seen.append((record.losses, losses, history["train_loss"], history["valid_loss"], made.evaluate()["loss"]))

    assert seen[0] == seen[1]
    assert max(seen[0][1]) < 5


@pytest.mark.parametrize(
    ("precision", "columns"),
    [
        ("fp32", set()),
        ("bf16", set()),
        ("bf16-master", set()),
        (MixedPrecision(loss_scale=512.0), {"loss_scale"}),
        ("fp16", {"loss_scale", "overflows"}),
    ],
    ids=["fp32", "bf16", "bf16-master", "static", "dynamic"],
)
def test_the_table_tells_of_a_scale_where_there_is_one(precision, columns):
    history = fit(perceptron(), precision).history

    assert history.rows[0].keys() - {"epoch", "train_loss", "seconds"} == columns


def test_overflows_of_a_fit_that_was_stopped_are_not_told_in_the_next():
    def stop(made, *_):
        if made.progress.step == 3:
            raise StopFit("enough")

    precision = MixedPrecision(loss_scale=256.0, dynamic=True)
    made = learner(perceptron(), precision, step=Overflow([1, 2, 4]), callbacks=[Debug("after_step", call=stop)])
    made.fit(1, lr=0.01)
    made.fit(1, lr=0.01)

    assert made.history["overflows"] == [1]
    assert made.history["loss_scale"] == [32]


def test_true_overflows_find_the_edge():
    """Gradients of about 1,000 fit into float16 times 32 or 64, and no more."""

    def loss_fn(preds, targets, reduction="mean"):
        return nn.functional.cross_entropy(preds, targets, reduction=reduction) * 4000

    made = learner(perceptron(), "fp16", batches(16), loss_fn=loss_fn, optimizer=partial(torch.optim.SGD, lr=1e-6))
    made.fit(2)

    assert made.history["overflows"][0] >= 5
    assert made.history["overflows"][1] == 0
    assert 8 <= made.precision.loss_scale <= 256


# -- resuming ---------------------------------------------------------------------------------------------------------


def _made(folder: Path, stop: StopAt, precision=None):
    """Overflows in steps 2, 5 and 8 of 9; the fit is stopped after the fifth."""
    precision = precision or MixedPrecision(loss_scale=2.0**10, dynamic=True, growth_interval=2)
    return small_learner([stop, Checkpoints(folder)], precision=precision, step=Overflow([1, 4, 7]))


@pytest.fixture
def stopped(tmp_path, monkeypatch) -> Path:
    stop = StopAt("mid-epoch")
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit, match="143"):
        _made(tmp_path / "cut", stop).fit(EPOCHS, lr=0.05)
    return tmp_path / "cut"


def test_a_fit_resumed_after_two_overflows_goes_on_bit_for_bit(stopped, tmp_path):
    """Scale, good steps and the epoch's overflows are in the checkpoint, like everything else."""
    whole = _made(tmp_path / "whole", StopAt(None))
    whole.fit(EPOCHS, lr=0.05)
    state = checkpoint.read_newest(stopped).precision
    resumed = _made(stopped, StopAt(None))
    torch.manual_seed(12345)
    resumed.fit(EPOCHS, lr=0.05, resume=stopped)

    assert state == {"loss_scale": 2.0**9, "good_steps": 0, "overflows": 1.0}
    assert same(outcome(whole), outcome(resumed))
    assert whole.precision.state_dict() == resumed.precision.state_dict()
    assert whole.history["overflows"] == resumed.history["overflows"] == [1, 1, 1]


def test_another_precision_is_refused_unless_it_is_asked_for(stopped):
    with pytest.raises(ConfigError, match=r"has precision=MixedPrecision\(dtype='fp16'.*this one has precision=fp32"):
        _made(stopped, StopAt(None), "fp32").fit(EPOCHS, lr=0.05, resume=stopped)
    made = _made(stopped, StopAt(None), "fp32")
    made.step = Overflow([])
    made.fit(EPOCHS, lr=0.05, resume=stopped, change=["precision"])

    assert len(made.history) == EPOCHS
    assert "loss_scale" not in made.history.rows[-1]


def test_other_settings_of_the_scale_are_another_precision(stopped):
    other = MixedPrecision(loss_scale=2.0**10, dynamic=True, growth_interval=3)
    with pytest.raises(ConfigError, match=r"growth_interval=2.*growth_interval=3"):
        _made(stopped, StopAt(None), other).fit(EPOCHS, lr=0.05, resume=stopped)


def test_a_fit_in_float32_goes_on_in_float16(tmp_path, monkeypatch):
    stop = StopAt("mid-epoch")
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
        small_learner([stop, Checkpoints(tmp_path)]).fit(EPOCHS, lr=0.05)
    made = small_learner([StopAt(None), Checkpoints(tmp_path)], precision="fp16")
    made.fit(EPOCHS, lr=0.05, resume=tmp_path, change=["precision"])

    assert len(made.history) == EPOCHS
    assert made.history.rows[-1]["loss_scale"] > 0
