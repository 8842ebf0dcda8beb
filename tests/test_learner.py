"""The learner around the step: optimizers, data, devices, precision, and looking without touching."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import etude
from etude import ConfigError, Learner, MixUp, optim
from etude.recipes.demo import digits
from etude.training import snapshot
from etude.training.device import pick_device
from etude.vision import learner as vision_learner


def _batches(count=4, size=8):
    torch.manual_seed(1)
    return [(torch.randn(size, 4), torch.randint(3, (size,))) for _ in range(count)]


def _learner(model=None, optimizer=torch.optim.AdamW, data=None, **options) -> Learner:
    return Learner(
        model or nn.Linear(4, 3), data or _batches(), nn.CrossEntropyLoss(), optimizer, progress=False, **options
    )


def test_the_optimizer_is_kept_from_fit_to_fit():
    learner = _learner()
    learner.fit(1, lr=0.01)
    first = learner.optimizer
    learner.fit(1, lr=0.01)

    assert learner.optimizer is first
    assert all(int(state["step"]) == 8 for state in first.state.values())


def test_reset_optimizer_starts_anew():
    learner = _learner()
    learner.fit(1, lr=0.01)
    learner.fit(1, lr=0.01, reset_optimizer=True)

    assert all(int(state["step"]) == 4 for state in learner.optimizer.state.values())


def test_a_new_head_makes_a_new_optimizer_and_says_so(capsys):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    learner = _learner(model)
    learner.fit(1, lr=0.01)
    model[1] = nn.Linear(4, 3)
    learner.fit(1, lr=0.01)

    assert "state carried over for 2 tensors" in capsys.readouterr().out
    assert int(learner.optimizer.state[model[0].weight]["step"]) == 8
    assert int(learner.optimizer.state[model[1].weight]["step"]) == 4


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(ConfigError, match="not parameters of the model"):
        _learner(optimizer=torch.optim.SGD(nn.Linear(4, 3).parameters(), lr=0.1))


def test_every_group_of_a_given_optimizer_takes_its_own_rate():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD([{"params": layer.parameters()} for layer in model], lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    _learner(model, optimizer).fit(1, lr=[0.0, 0.5], schedule=etude.flat)

    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.5]


def test_an_optimizer_made_before_the_head_was_replaced_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    learner = _learner(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model[1] = nn.Linear(4, 3)
    with pytest.raises(ConfigError, match="not parameters of the model"):
        learner.fit(1)


def test_a_failing_factory_leaves_the_callbacks_alone():
    """Row A1: the notes added fit-time callbacks before the optimizer was made, and kept them when that failed."""

    def fail(groups):
        raise RuntimeError("no optimizer today")

    learner = _learner(optimizer=fail)
    before = learner.callbacks
    with pytest.raises(RuntimeError, match="no optimizer today"):
        learner.fit(1, lr=0.1, callbacks=[MixUp(0.4)])

    assert learner.callbacks == before


def test_frozen_parameters_are_bitwise_unchanged_and_unfreeze_at_any_fit():
    """Error 11 of the notes: a frozen parameter with a leftover gradient went on decaying."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    learner = _learner(model, optim.adamw(weight_decay=0.5))
    learner.fit(1, lr=0.01)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    learner.fit(2, lr=0.01)
    assert torch.equal(model[0].weight, before)

    model[0].requires_grad_(True)
    learner.fit(1, lr=0.01)
    assert not torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_epochs": 0, "lr": 0.1}, "num_epochs must be a whole number of at least 1"),
        ({"num_epochs": 1, "momentum": 0.9}, "without lr has no effect"),
        ({"num_epochs": 1, "lr": 0.1, "schedule": {"lr": etude.schedules.constant(0.1)}}, "put it into the dict"),
        ({"num_epochs": 1, "lr": 0.1, "momentum": 0.9}, "SGD has no 'momentum' to schedule"),
    ],
)
def test_settings_without_effect_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        _learner(optimizer=torch.optim.SGD).fit(**arguments)


def test_momentum_follows_the_one_cycle_where_there_is_momentum():
    record = etude.Record()
    _learner(optimizer=optim.sgd(momentum=0.9), callbacks=[record]).fit(5, lr=0.1)

    assert record.momenta[0] == pytest.approx(0.95)
    assert min(record.momenta) == pytest.approx(0.85, abs=1e-3)


def test_a_second_fit_has_new_orders_and_augmentations():
    seen = []
    look = etude.Debug("after_step", call=lambda _, batch, output: seen.append(batch.indices.tolist()))
    data = etude.DataLoaders(etude.ArrayLoader(torch.randn(16, 4), torch.randint(3, (16,)), shuffle=True))
    learner = _learner(data=data, callbacks=[look])
    learner.fit(1, lr=0.1)
    learner.fit(1, lr=0.1)

    assert seen[0] != seen[1]
    assert learner.progress.epoch == 2


def test_the_logged_loss_does_not_depend_on_the_order_of_callbacks():
    """Error 26 of the notes: what AvgStats logged depended on where in the list it stood."""
    rows = []
    for reverse in (False, True):
        callbacks = [etude.ClipGradNorm(0.1), etude.Record(), MixUp(0.4, seed=1)]
        learner = _learner(callbacks=callbacks[::-1] if reverse else callbacks, seed=3)
        torch.manual_seed(0)
        nn.init.ones_(learner.model.weight)
        nn.init.zeros_(learner.model.bias)
        learner.fit(2, lr=0.01)
        rows.append(learner.history["train_loss"])

    assert rows[0] == rows[1]


def test_one_batch_is_what_the_step_will_see_and_changes_nothing():
    """Row X9: the notes' get_batch printed a header, moved the model and started callbacks."""
    seen = []
    look = etude.Debug("after_step", call=lambda _, batch, output: seen.append(batch), times=1)
    learner = vision_learner("lesson_cnn", digits(), mixup=0.4, precision="fp32", callbacks=[look], progress=False)
    random = torch.get_rng_state()
    batch = learner.one_batch()
    assert torch.equal(torch.get_rng_state(), random)
    learner.fit(1, lr=0.01)

    assert torch.equal(batch.inputs, seen[0].inputs)
    assert torch.equal(batch.targets.weight, seen[0].targets.weight)


def test_summary_shows_shapes_and_touches_no_statistics():
    """Error 14 of the notes: the summary ran in training mode, on a global learner."""
    learner = vision_learner("xresnet18", digits(), progress=False, precision="fp32")
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.model.train()
    summary = learner.summary()

    assert [row.shape for row in summary.rows][-1] == (128, 10)
    assert summary.rows[3].kind == "MaxPool2d"
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert all(module.training for module in learner.model.modules())
    count = sum(parameter.numel() for parameter in learner.model.parameters())
    assert f"XResNet: {count:,} parameters, {count:,} trainable" in repr(summary)
    assert "<table>" in summary._repr_html_()


def test_evaluate_weights_unequal_batches_by_their_size():
    x, y = torch.randn(10, 4), torch.randint(3, (10,))
    learner = _learner(metrics=[etude.accuracy])
    whole = learner.evaluate([(x, y)])
    parts = learner.evaluate(list(zip(x.split(7), y.split(7), strict=True)))

    assert parts == pytest.approx(whole, abs=1e-6)


def test_plain_loaders_of_torch_work_and_others_are_explained():
    data = TensorDataset(torch.randn(12, 4), torch.randint(3, (12,)))
    assert len(_learner(data=(DataLoader(data, 5), DataLoader(data, 5))).fit(2, lr=0.1)) == 2
    assert len(_learner(data=(data, data)).fit(2, lr=0.1)) == 2
    with pytest.raises(ConfigError, match=r"has no len\(\)"):
        _learner(data=(iter([]), None))
    with pytest.raises(etude.DataError, match="batch 0 is a tuple of 3"):
        _learner(data=([(1, 2, 3)], None)).fit(1, lr=0.1)


def test_a_named_device_is_obeyed_or_refused():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ConfigError, match="device 'nonsense' cannot be used"):
        pick_device("nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda' cannot be used"):
            pick_device("cuda")


def test_a_snapshot_of_another_fit_is_refused():
    class Take(etude.Callback):
        def before_fit(self, learner):
            learner.running().at_rest.append(lambda after: setattr(self, "taken", snapshot.take(learner)))

    take = Take()
    _learner(callbacks=[take]).fit(2, lr=0.1)
    with pytest.raises(ConfigError, match="num_epochs=2, this one has num_epochs=3"):
        _learner(callbacks=[Take()]).fit(3, lr=0.1, resume=take.taken)
    with pytest.raises(ConfigError, match="has the callbacks"):
        _learner().fit(2, lr=0.1, resume=take.taken)


def test_representations():
    learner = _learner()
    history = learner.fit(1, lr=0.1)

    assert repr(learner).startswith("Learner(Linear, 15 parameters")
    assert "<table>" in learner._repr_html_()
    assert "train_loss" in repr(history)
    assert "train_loss" in history._repr_html_()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler imports deprecated parts of torch
def test_compile_gives_the_same_training():
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        losses.append(_learner(nn.Linear(4, 3), compile=compiled, seed=1).fit(2, lr=0.1)["train_loss"])

    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
