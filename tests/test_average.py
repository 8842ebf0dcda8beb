"""The average of the weights: its numbers, where it is used, and that training does not notice it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import etude
import resuming
from etude import EMA, ConfigError, Debug, SaveBest
from etude.testing import same
from etude.training import checkpoint
from etude.training.callbacks.checkpoints import Checkpoints
from resuming import StopAt, learner, outcome, signaled_by


def _weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


def _averaged(trained) -> torch.Tensor:
    with trained.averaged():
        return _weights(trained.model)


def test_the_average_is_the_textbook_one():
    model = nn.Linear(3, 2)
    average, decay = EMA(0.9, every=2).of(model), 0.9
    expected = model.weight.detach().double()
    generator = torch.Generator().manual_seed(0)
    with average.fitting(model):
        for t in range(1, 22):
            with torch.no_grad():
                model.weight += torch.randn(2, 3, generator=generator)
            average.update(updated=True)
            if t <= 2 or t % 2 == 0 or t == 21:
                # the first two and what is left over at the end one by one, else two together
                kept = min(decay, (1 + t) / (10 + t)) ** (1 if t <= 2 or t == 21 else 2)
                expected = kept * expected + (1 - kept) * model.weight.detach().double()
    with average.shown():
        found = model.weight.detach().clone()

    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert not torch.allclose(model.weight.double(), expected, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-master", "fp16"])
def test_training_does_not_notice_and_evaluation_uses_it(precision):
    plain = learner([], precision=precision)
    plain.fit(3, lr=0.01)
    trained = learner([], precision=precision, average=EMA(0.8, every=2))
    history = trained.fit(3, lr=0.01)

    assert torch.equal(_weights(plain.model), _weights(trained.model))
    assert not torch.equal(_weights(trained.model), _averaged(trained))
    assert history["train_loss"] == plain.history["train_loss"]
    assert history["valid_loss"] != plain.history["valid_loss"]
    assert trained.evaluate()["loss"] == history["valid_loss"][-1]
    with trained.averaged():
        by_hand = learner([], precision=precision)
        by_hand.model.load_state_dict(trained.model.state_dict())
    assert by_hand.evaluate() == trained.evaluate()
    inputs = torch.randn(5, 1, 6, 6)
    assert torch.equal(by_hand.predict(inputs).output, trained.predict(inputs).output)


def test_it_saves_the_average(tmp_path):
    trained = resuming.learner([], average=EMA(0.8, every=1))
    trained.fit(2, lr=0.01)
    trained.save(tmp_path / "saved")
    saved = etude.training.saving.read(tmp_path / "saved").weights

    with trained.averaged():
        assert all(torch.equal(saved[name], value) for name, value in trained.model.state_dict().items())
    assert not torch.equal(saved["0.weight"], trained.model[0].weight)


def test_statistics_of_norms_are_those_of_the_average():
    """Near what the averaged weights' own pass over the training data gives; those of the last weights are not."""
    errors = {"average": [], "last": []}
    for seed in range(3):
        trained = resuming.learner([], average=EMA(0.9, every=1), optimizer=etude.optim.sgd(), seed=seed)
        # a rate that keeps the weights moving, so that the two differ
        trained.fit(8, lr=0.3, schedule=etude.flat)
        norm = trained.model[1]
        last = norm.running_mean.clone()
        with trained.averaged(), torch.no_grad():
            own = norm.running_mean.clone()
            batches = trained.data.train.batches(0, trained.device)
            true = torch.stack([trained.model[0](batch.inputs).mean((0, 2, 3)) for batch in batches]).mean(0)
        errors["average"].append((own - true).norm())
        errors["last"].append((last - true).norm())

    assert sum(errors["average"]) < 0.7 * sum(errors["last"])


def test_a_skipped_step_changes_nothing():
    model = nn.Linear(3, 2)
    average = EMA(0.5, every=1).of(model)
    before = model.weight.detach().clone()
    with average.fitting(model):
        with torch.no_grad():
            model.weight += 1
        for not_updated in (False, torch.tensor(False)):
            average.update(not_updated)
            with average.shown():
                assert torch.equal(model.weight, before)
        average.update(torch.tensor(True))
        with average.shown():
            assert not torch.equal(model.weight, before)


def test_one_that_knows_only_on_the_device_averages_alike():
    averages = []
    for updated in (True, torch.tensor(True)):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        average = EMA(0.9, every=1).of(model)
        with average.fitting(model):
            for _ in range(5):
                with torch.no_grad():
                    model.weight += 1
                average.update(updated)
        with average.shown():
            averages.append(model.weight.detach().clone())

    assert torch.allclose(*averages, atol=1e-6)


@pytest.mark.parametrize(
    ("place", "precision"),
    [
        ("mid-epoch", "fp32"),
        ("in validation", "bf16-master"),
        *(pytest.param(place, "fp16", marks=pytest.mark.slow) for place in resuming.PLACES),
        *(pytest.param(place, "bf16-master", marks=pytest.mark.slow) for place in resuming.PLACES),
    ],
)
def test_a_resumed_average_is_the_same_to_the_bit(place, precision, tmp_path, monkeypatch):
    def make(folder, stop):
        callbacks = [stop, Checkpoints(folder, every=1)]
        return learner(callbacks, precision=precision, average=EMA(0.8, every=2))

    whole = make(tmp_path / "whole", StopAt(None))
    whole.fit(resuming.EPOCHS, lr=0.01)
    stop = StopAt(place)
    stopped = make(tmp_path / "run", stop)
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
        stopped.fit(resuming.EPOCHS, lr=0.01)
    resumed = make(tmp_path / "run", StopAt(None))
    resumed.fit(resuming.EPOCHS, lr=0.01, resume=tmp_path / "run")

    assert same(outcome(whole), outcome(resumed))
    assert torch.equal(_averaged(whole), _averaged(resumed))


def test_both_weights_stand_in_a_checkpoint(tmp_path):
    trained = learner([Checkpoints(tmp_path)], average=EMA(0.8, every=1))
    trained.fit(1, lr=0.01)
    newest = checkpoint.checkpoints(tmp_path)[0]
    snapshot = checkpoint.read(newest)
    predicting = checkpoint.safetensors.torch.load_file(newest / "model.safetensors")

    assert torch.equal(snapshot.model["0.weight"], trained.model[0].weight)
    with trained.averaged():
        assert torch.equal(snapshot.average["weights"]["0.weight"], trained.model[0].weight)
        assert torch.equal(predicting["0.weight"], trained.model[0].weight)


def test_a_fit_with_another_average_is_refused(tmp_path):
    learner([Checkpoints(tmp_path)], average=EMA(0.8)).fit(1, lr=0.01)
    with pytest.raises(ConfigError, match="average"):
        learner([Checkpoints(tmp_path / "b")], average=EMA(0.9)).fit(1, lr=0.01, resume=tmp_path)


def test_the_best_epoch_is_the_averages_and_stays_put():
    trained = learner([SaveBest("valid_loss")], average=EMA(0.8, every=1))
    history = trained.fit(3, lr=0.01)

    assert trained.evaluate()["loss"] == min(history["valid_loss"])
    assert torch.equal(_weights(trained.model), _averaged(trained))


def test_an_error_in_evaluation_leaves_the_trained_weights():
    trained = learner([Debug("after_eval_batch", call=lambda *_: 1 / 0)], average=EMA(0.8, every=1))
    with pytest.raises(ZeroDivisionError):
        trained.fit(1, lr=0.01)
    plain = learner([])
    plain.fit(1, lr=0.01)

    assert torch.equal(_weights(trained.model)[:8], _weights(plain.model)[:8])


def test_two_learners_do_not_share_one():
    average, model = EMA(0.8, every=1), nn.Linear(2, 2)
    first, second, before = average.of(model), average.of(model), model.weight.detach().clone()
    with first.fitting(model), second.fitting(model):
        with torch.no_grad():
            model.weight += 1
        first.update(updated=True)
        with second.shown():
            assert torch.equal(model.weight, before)
        with first.shown():
            assert not torch.equal(model.weight, before)


@pytest.mark.parametrize("settings", [{"decay": 1.0}, {"decay": 0.0}, {"every": 0}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(ConfigError, match="decay must be between 0 and 1"):
        EMA(**settings)


@pytest.mark.parametrize("steps", [1, 3, 13])
def test_a_short_fit_is_averaged_too(steps):
    """Whatever `every` is: the average of a fit of a few steps is not the model before it."""
    trained = learner([], average=EMA(0.5, every=10), accumulate=1)
    before = _weights(trained.model)

    class Stop(etude.Callback):
        def after_step(self, learner, batch, output):
            if learner.progress.fit_step == steps - 1:
                raise etude.StopFit("enough")

    trained.fit(3, lr=0.01, callbacks=[Stop()], schedule=etude.flat)

    assert (_averaged(trained) - before).norm() > 0.3 * (_weights(trained.model) - before).norm()


def test_weights_that_somebody_loads_are_what_is_averaged():
    good = learner([])
    good.fit(1, lr=0.01)
    trained = learner([], average=EMA(0.9))
    trained.model.load_state_dict(good.model.state_dict())
    assert trained.evaluate() == good.evaluate()

    trained.fit(1, lr=0.01)
    trained.model.load_state_dict(good.model.state_dict())
    assert trained.evaluate() == good.evaluate()


def test_a_new_head_begins_anew_and_the_body_goes_on():
    trained = learner([], average=EMA(0.9, every=1))
    trained.fit(1, lr=0.01)
    trained.model[5] = nn.Linear(128, 4)
    head = trained.model[5].weight.detach().clone()
    with trained.averaged():
        assert torch.equal(trained.model[5].weight, head)


def test_a_buffer_that_the_model_makes_anew_is_averaged():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x):
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * x.detach().float().mean(0)
            return x

    averages = []
    for precision in ("fp32", "bf16-master"):
        trained = learner([], average=EMA(0.5, every=1), precision=precision)
        trained.model.append(Counts())
        trained.average = EMA(0.5, every=1).of(trained.model)
        trained.fit(2, lr=0.01)
        trained.fit(1, lr=0.01)
        with trained.averaged():
            averages.append(trained.model[-1].mean.clone())
            assert not torch.equal(trained.model[-1].mean, torch.zeros(4))

    assert torch.allclose(*averages, atol=0.1)


def test_a_fit_of_the_average_itself_is_refused():
    trained = learner([], average=EMA(0.9))
    with trained.averaged(), pytest.raises(ConfigError, match="holds the average"):
        trained.fit(1, lr=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16-master", "fp16"])
def test_a_step_may_ask_the_average(precision):
    """As a mean teacher does: the weights that are trained are not touched."""

    def step(learner, batch):
        batch = learner.transform(batch)
        with learner.averaged(), torch.no_grad(), torch.random.fork_rng([]):
            learner.forward(batch)
        output = etude.supervised_step(learner, batch)
        with learner.averaged(), torch.no_grad(), torch.random.fork_rng([]):
            learner.forward(batch)
        return output

    plain = learner([], precision=precision, average=EMA(0.9, every=1))
    plain.fit(1, lr=0.01)
    asked = learner([], precision=precision, average=EMA(0.9, every=1), step=step)
    asked.fit(1, lr=0.01)

    assert torch.equal(plain.model[0].weight, asked.model[0].weight)
