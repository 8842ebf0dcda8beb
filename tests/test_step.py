"""The step equals the loop you would have written, whatever accumulates, skips, stops or fails in it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

import etude
from etude import Batch, Callback, ClipGradNorm, Learner, MixUp, Record, SkipStep, StopEpoch, StopFit
from etude.recipes.demo import digits
from etude.schedules import one_cycle
from etude.vision import learner as vision_learner
from reference import bare_loop


def _model(dtype=torch.float32) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)).to(dtype)


def _loaders(count=70, batch_size=16):
    torch.manual_seed(2)
    inputs = torch.randn(count, 8)
    data = TensorDataset(inputs, inputs[:, :4].argmax(1))
    return DataLoader(data, batch_size, shuffle=True), DataLoader(data, batch_size)


def _same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("scheduled", [False, True], ids=["flat", "one-cycle"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_learner_is_bit_equal_to_the_bare_loop(optimizer, scheduled):
    by_hand, ours = _model(), _model()
    schedule = one_cycle(0.01)["lr"] if scheduled else None
    torch.manual_seed(3)
    losses = bare_loop.train(
        by_hand, *_loaders(), nn.CrossEntropyLoss(), optimizer(by_hand.parameters(), lr=0.01), 3, schedule
    )
    torch.manual_seed(3)
    learner = Learner(
        ours, _loaders(), nn.CrossEntropyLoss(), lambda groups: optimizer(groups, lr=0.01), progress=False, device="cpu"
    )
    history = learner.fit(3, **({"lr": 0.01, "momentum": None} if scheduled else {}))

    assert _same_weights(by_hand, ours)
    assert history["valid_loss"] == losses


@pytest.mark.parametrize("count", [64, 56, 49], ids=["whole windows", "short last window", "short last batch"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulation_equals_the_big_batch(count, reduction):
    torch.manual_seed(0)
    inputs, targets = torch.randn(count, 6, dtype=torch.float64), torch.randint(3, (count,))
    models = [nn.Linear(6, 3, dtype=torch.float64) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, batch_size, accumulate in zip(models, (24, 8), (1, 3), strict=True):
        batches = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
        learner = Learner(
            model,
            batches,
            nn.CrossEntropyLoss(reduction=reduction),
            torch.optim.AdamW,
            accumulate=accumulate,
            progress=False,
            device="cpu",
        )
        history = learner.fit(4, lr=0.01)
        assert learner.progress.step == 4 * -(-count // 24)

    assert torch.allclose(models[0].weight, models[1].weight, rtol=0, atol=1e-6)
    assert history["train_loss"]


def test_callbacks_run_once_per_update_or_once_per_batch():
    counts = {"before_step": 0, "transform_batch": 0, "transform_grads": 0, "after_step": 0}
    callbacks = [etude.Debug(at, call=lambda *_, at=at: counts.update({at: counts[at] + 1})) for at in counts]
    batches = [(torch.randn(4, 8), torch.zeros(4, dtype=torch.long))] * 7
    Learner(
        _model(), batches, nn.CrossEntropyLoss(), torch.optim.SGD, callbacks=callbacks, accumulate=3, progress=False
    ).fit(1, lr=0.1)

    assert counts == {"before_step": 3, "transform_batch": 7, "transform_grads": 3, "after_step": 7}


class _Skip(Callback):
    def __init__(self, at: str, when) -> None:
        self.at, self.when = at, when

    @override
    def transform_batch(self, batch, learner):
        if self.at == "batch" and self.when(learner.progress):
            raise SkipStep("not this one")
        return batch

    @override
    def transform_grads(self, model, learner):
        if self.at == "grads" and self.when(learner.progress):
            raise SkipStep("not this one")


@pytest.mark.parametrize("at", ["batch", "grads"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_leaves_weights_momentum_and_step_count_untouched(at, accumulate):
    """Error 3 of the notes: their "skip" zeroed the gradients and stepped all the same."""
    seen = []

    def look(learner, batch, output):
        state = copy.deepcopy(learner.optimizer.state_dict()["state"])
        seen.append((copy.deepcopy(learner.model.state_dict()), state, output.updated))

    model = nn.Linear(8, 4)
    batches = [(torch.randn(4, 8), torch.zeros(4, dtype=torch.long)) for _ in range(6)]
    skip = _Skip(at, lambda progress: progress.step == 1)
    learner = Learner(
        model,
        batches,
        nn.CrossEntropyLoss(),
        torch.optim.AdamW,
        callbacks=[skip, etude.Debug("after_step", call=look)],
        accumulate=accumulate,
        progress=False,
        device="cpu",
    )
    history = learner.fit(1, lr=0.1)

    before, after = seen[accumulate - 1], seen[2 * accumulate - 1]
    assert before[2]
    assert not after[2]
    assert torch.equal(before[0]["weight"], after[0]["weight"])
    assert all(torch.equal(before[1][i][name], after[1][i][name]) for i in before[1] for name in before[1][i])
    assert history.notes == ["step 2 skipped: not this one"]
    assert not torch.equal(seen[-1][0]["weight"], after[0]["weight"]), "training goes on afterwards"


def test_an_adam_step_with_zero_gradients_would_move_the_weights():
    """Why skipping must be real: what the notes' callback did instead."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.ones(1)
    optimizer.step()
    before = weight.item()
    weight.grad = torch.zeros(1)
    optimizer.step()

    assert weight.item() < before - 0.05


@pytest.mark.parametrize(("signal", "rows", "steps"), [(StopFit, 0, 2), (StopEpoch, 3, 6)])
def test_stopping_from_a_watcher(signal, rows, steps):
    def stop(learner, *_):
        if learner.progress.step % 10 % 2 == 0:
            raise signal("enough")

    batches = [(torch.randn(4, 8), torch.zeros(4, dtype=torch.long))] * 5
    learner = Learner(
        nn.Linear(8, 4),
        (batches, batches),
        nn.CrossEntropyLoss(),
        torch.optim.SGD,
        callbacks=[etude.Debug("after_step", call=stop)],
        progress=False,
    )
    history = learner.fit(3, lr=0.1)

    assert (len(history), learner.progress.step) == (rows, steps)
    assert "enough" in (history.stopped or history.notes[0])


class _Planted(Exception):
    pass


@pytest.mark.parametrize("error", [_Planted, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["model", "loss", "transform_batch", "transform_grads", "before_step", "after_epoch"])
def test_an_error_anywhere_leaves_everything_as_it_was(place, error):
    """Autocast off, hooks removed, loss and model as they were, and the next fit works."""
    armed = [True]

    def fail(*_):
        if armed[0]:
            raise error("planted")

    model, loss_fn = _model(), nn.CrossEntropyLoss(reduction="mean")
    if place == "model":
        model[2].register_forward_pre_hook(fail)
    if place == "loss":
        loss_fn.register_forward_pre_hook(fail)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    watched = [etude.Debug(place, call=fail)] if place not in ("model", "loss") else []
    learner = Learner(
        model,
        _loaders(),
        loss_fn,
        torch.optim.AdamW,
        callbacks=[MixUp(0.4, at="1"), *watched],
        precision="bf16",
        progress=False,
        device="cpu",
    )
    with pytest.raises(error):
        learner.fit(1, lr=0.01)

    assert not torch.is_autocast_enabled("cpu")
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert loss_fn.reduction == "mean"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert learner.history.stopped.startswith(error.__name__)
    armed[0] = False
    assert len(learner.fit(1, lr=0.01)) == 1


class _CountSyncs(TorchDispatchMode):
    """Counts the operations in which a host waits for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @override
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "item"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_no_host_sync_in_a_step():
    """A step of the recipes' default set reads nothing back; the epoch's end reads once."""
    found: list[int] = []
    mode = _CountSyncs()
    look = etude.Debug("after_step", call=lambda *_: found.append(len(mode.found)))
    learner = vision_learner(
        "lesson_cnn",
        digits(batch_size=64),
        mixup=0.4,
        callbacks=[ClipGradNorm(1.0), Record(), look],
        precision="fp32",
        progress=False,
        device="cpu",
        widths=[8, 8],
    )
    with mode:
        learner.fit(1, lr=0.01)

    assert found[0] == found[-1], f"{found[-1] - found[0]} waits in {len(found) - 1} steps"


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("no backward", "did not call learner.backward"),
        ("no update", "did not call learner.update"),
        ("two updates", r"called learner.update\(\) twice"),
        ("no output", "returned NoneType; it must return a StepOutput"),
    ],
)
def test_a_step_that_breaks_the_rules_is_refused(wrong, words):
    def step(learner, batch):
        loss, preds = learner.forward(batch)
        if wrong != "no backward":
            learner.backward(loss)
        updated = learner.update() if wrong != "no update" else False
        if wrong == "two updates":
            learner.update()
        output = etude.StepOutput(loss.detach(), preds.detach(), batch, updated)
        return None if wrong == "no output" else output

    learner = Learner(
        _model(), _loaders(), nn.CrossEntropyLoss(), torch.optim.SGD, step=step, progress=False, device="cpu"
    )
    with pytest.raises(etude.ConfigError, match=words):
        learner.fit(1, lr=0.1)


@pytest.mark.usefixtures("without_type_checks")
def test_a_transform_without_return_is_named():
    class Forgetful(Callback):
        @override
        def transform_batch(self, batch, learner):
            batch._replace(inputs=batch.inputs * 2)

    learner = Learner(
        _model(), _loaders(), nn.CrossEntropyLoss(), torch.optim.SGD, callbacks=[Forgetful()], progress=False
    )
    with pytest.raises(etude.ConfigError, match=r"Forgetful.transform_batch .* returned NoneType"):
        learner.fit(1, lr=0.1)


def test_sample_weights_reach_the_gradient():
    x, y = torch.randn(6, 8), torch.randint(4, (6,))
    weight = torch.tensor([0.0, 1, 2, 0, 1, 1])
    models = [nn.Linear(8, 4) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    repeated = torch.tensor([1, 2, 2, 4, 5])
    for model, batch in zip(models, (Batch(x, y, weight), Batch(x[repeated], y[repeated])), strict=True):
        Learner(model, [batch], nn.CrossEntropyLoss(), torch.optim.SGD, progress=False).fit(1, lr=0.5)

    assert torch.allclose(models[0].weight, models[1].weight, atol=1e-6)


def test_accumulated_sample_weights_equal_the_big_batch():
    x, y, weight = torch.randn(9, 8).double(), torch.randint(4, (9,)), torch.rand(9).double()
    models = [nn.Linear(8, 4).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    small = [Batch(x[i : i + 3], y[i : i + 3], weight[i : i + 3]) for i in (0, 3, 6)]
    for model, batches in zip(models, ([Batch(x, y, weight)], small), strict=True):
        Learner(
            model,
            batches,
            nn.CrossEntropyLoss(),
            torch.optim.SGD,
            accumulate=len(batches),
            progress=False,
            device="cpu",
        ).fit(1, lr=0.5)

    assert torch.allclose(models[0].weight, models[1].weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_a_model_of_several_inputs(form):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, left, right):
            return self.linear(left + right)

    pair = (torch.randn(4, 3), torch.randn(4, 3))
    inputs = pair if form == "tuple" else dict(zip(("left", "right"), pair, strict=True))
    learner = Learner(
        Sum(), [Batch(inputs, torch.tensor([0, 1, 0, 1]))], nn.CrossEntropyLoss(), torch.optim.SGD, progress=False
    )

    assert learner.fit(20, lr=1.0, schedule=etude.flat)["train_loss"][-1] < 0.5
