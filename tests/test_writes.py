"""The watch over foreign writes to weights and optimizer state: what it sees, what it costs, and what escapes it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from etude import Debug, Learner, NonFiniteError, SaveBest, optim
from etude.training import loop
from etude.training.finite import FiniteGuard
from etude.training.writes import Writes


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def _batches(count=6):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 4, generator=generator), torch.randint(2, (8,), generator=generator)) for _ in range(count)]


def _learner(call, optimizer=torch.optim.AdamW, at="transform_grads", step=3, model=None, batches=None, callbacks=()):
    """A learner in whose step `step` (counted from 1) `call(learner)` happens."""

    def now(learner, *_):
        if learner.progress.step == step - 1:
            call(learner)

    return Learner(
        model or _model(),
        batches or _batches(),
        nn.functional.cross_entropy,
        optimizer,
        callbacks=[Debug(at, call=now), *callbacks],
        progress=False,
        device="cpu",
    )


def _state(learner, key="exp_avg"):
    return learner.optimizer.state[learner.model[2].weight][key]


@torch.no_grad()
def _spoil(tensor):
    tensor.view(-1)[0] = torch.nan


def test_after_its_first_step_a_fit_reads_no_state(monkeypatch):
    """Only what something else wrote to is read, and a finite write stops nothing."""
    read = []
    monkeypatch.setattr(FiniteGuard, "_look_at", lambda self, suspects: read.append(len(suspects.tensors)))
    for optimizer in (torch.optim.AdamW, optim.adamw(), optim.sgd(), torch.optim.SGD, optim.lamb(), torch.optim.Rprop):
        read.clear()
        learner = _learner(lambda learner: learner.model[0].bias.detach().mul_(0.5), optimizer, step=4)
        learner.fit(1)
        assert len(read) == 2
        assert read[0] >= 4
        assert read[1] == 1


def test_replaced_state_is_read():
    def replace(learner):
        learner.optimizer.state[learner.model[2].weight]["exp_avg"] = torch.full((2, 8), torch.nan)

    with pytest.raises(NonFiniteError, match=r"step 3 .*the optimizer's exp_avg of 2\.weight, .* those of step 2"):
        _learner(replace).fit(1)


def test_a_bad_count_of_steps_is_found():
    for optimizer, write in (
        (torch.optim.AdamW, lambda learner: _state(learner, "step").fill_(torch.nan)),
        (optim.lamb(), lambda learner: learner.optimizer.state[learner.model[2].weight].update(step=math.nan)),
    ):
        with pytest.raises(NonFiniteError, match=r"step 3 .*the optimizer's (step of 2\.weight|state)"):
            _learner(write, optimizer).fit(1)


def test_a_row_that_no_batch_uses_is_found():
    """A NaN there reaches neither the loss nor a gradient, and weight decay would spread it."""
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(8, 2))
    batches = [(torch.randint(5, (6, 2)), torch.randint(2, (6,))) for _ in range(6)]
    learner = _learner(lambda learner: _spoil(learner.model[0].weight[9]), model=model, batches=batches)
    with pytest.raises(NonFiniteError, match=r"step 3 .*the parameter 0\.weight, which something other"):
        learner.fit(1)


@pytest.mark.parametrize("place", ["gradient", "state"])
def test_sparse_gradients(place):
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Flatten())
    batches = [(torch.randint(5, (6, 2)), torch.randint(2, (6,))) for _ in range(6)]

    def write(learner):
        weight = learner.model[0].weight
        if place == "state":
            _spoil(learner.optimizer.state[weight]["exp_avg"])
        else:
            weight.grad = weight.grad * torch.nan

    where = "exp_avg of 0.weight" if place == "state" else "the gradient of 0.weight"
    learner = _learner(write, torch.optim.SparseAdam, model=model, batches=batches)
    with pytest.raises(NonFiniteError, match=f"step 3 .*{where}"):
        learner.fit(1)
    assert model[0].weight.isfinite().all()


def test_state_that_an_earlier_fit_left_bad_is_found_before_the_first_update():
    learner = _learner(lambda learner: None, optim.adamw())
    learner.fit(1)
    before = [parameter.clone() for parameter in learner.model.parameters()]
    _state(learner).data[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"step 7 .*exp_avg of 2\.weight, which was not finite when this fit"):
        learner.fit(1)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))

    learner.fit(1, reset_optimizer=True)


class _Nested(Optimizer):
    """Keeps lists, floats, None and something that belongs to no tensor, and makes its state anew in every step."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.01, "bound": math.inf})

    @torch.no_grad()
    def step(self, closure=None):
        self.state["calls"] = self.state.get("calls", 0) + 1
        for group in self.param_groups:
            for tensor in group["params"]:
                state = self.state[tensor]
                past = state["past"][-1:] if "past" in state else []
                state |= {"past": [*past, tensor.grad.clone()], "scale": 1.0 / self.state["calls"], "none": None}
                tensor.sub_(sum(state["past"]), alpha=group["lr"])


def test_an_optimizer_with_state_of_any_form():
    learner = _learner(lambda learner: None, _Nested)
    learner.fit(2)
    assert len(learner.history) == 2

    with pytest.raises(NonFiniteError, match=r"step 3 .*the optimizer's past of 2\.weight"):
        _learner(lambda learner: _spoil(_state(learner, "past")[0]), _Nested).fit(1)


def test_tensors_added_in_the_middle_of_a_fit_are_watched_and_their_gradients_too():
    for place in ("parameter", "gradient"):
        model = _model()
        optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
        model[0].requires_grad_(False)

        def unfreeze(learner):
            learner.model[0].requires_grad_(True)
            learner.optimizer.add_param_group({"params": list(learner.model[0].parameters())})

        def write(learner, *_, place=place):
            if learner.progress.step == 4:
                weight = learner.model[0].weight
                _spoil(weight if place == "parameter" else weight.grad)

        callbacks = [Debug("transform_grads", call=write)]
        learner = _learner(unfreeze, optimizer, "before_step", 3, model, callbacks=callbacks)
        with pytest.raises(NonFiniteError, match=rf"step 5 .*the {place} (of )?0\.weight"):
            learner.fit(1)
        assert int(model[0].weight.isnan().sum()) == (place == "parameter")


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize(
    ("name", "value"), [("lr", math.inf), ("lr", 1e300), ("lr", math.nan), ("weight_decay", math.nan)]
)
def test_a_setting_that_is_not_finite_makes_no_update(name, value, deferred, monkeypatch):
    monkeypatch.setattr(loop, "FiniteGuard", lambda *args: FiniteGuard(*args, deferred=deferred))
    reference = _learner(lambda learner: None, optim.adamw(), batches=_batches(2))
    reference.fit(1)
    learner = _learner(lambda learner: learner.optimizer.param_groups[1].update({name: value}), optim.adamw())
    with pytest.raises(
        NonFiniteError,
        match=rf"step 3 .*the {name} of the optimizer's group 1, {value}. The weights".replace("+", r"\+"),
    ):
        learner.fit(1)
    for a, b in zip(learner.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_momentum_and_a_learning_rate_in_a_tensor_count_too():
    for write, where in (
        (lambda group: group.update(betas=(math.nan, 0.99)), r"the betas of the optimizer's group 0, \(nan, 0.99\)"),
        (lambda group: group["lr"].fill_(math.inf), "the lr of the optimizer's group 0, which something other"),
    ):
        learner = _learner(
            lambda learner, write=write: write(learner.optimizer.param_groups[0]),
            lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.01)),
        )
        with pytest.raises(NonFiniteError, match=f"step 3 .*{where}"):
            learner.fit(1)
        assert all(parameter.isfinite().all() for parameter in learner.model.parameters())


def _overflow(learner):
    for group in learner.optimizer.param_groups:
        group["lr"] = 1e38 if learner.progress.step == 2 else 0.0


def test_an_update_that_overflows_is_found_in_the_next_step():
    learner = _learner(_overflow, torch.optim.SGD)
    for parameter in learner.model.parameters():
        parameter.register_hook(lambda grad: grad.sign() * 1e3)
    with pytest.raises(NonFiniteError, match=r"step 4 .*step 3 had overflowed.*weights are lost"):
        learner.fit(1)


def test_an_update_that_overflows_at_the_end_of_an_epoch_is_found_there():
    """No later step would see it, and SaveBest would keep it: the training loss is still fine."""
    best = SaveBest("train_loss")
    learner = _learner(_overflow, torch.optim.SGD, batches=_batches(3), callbacks=[best])
    for parameter in learner.model.parameters():
        parameter.register_hook(lambda grad: grad.sign() * 1e3)
    with pytest.raises(NonFiniteError, match=r"after step 3 .*the parameter 0\.weight: the update overflowed"):
        learner.fit(1)
    assert best.weights == {}
    assert not learner.history.rows


def test_a_parameter_written_after_the_last_step_of_an_epoch_is_found_there():
    learner = _learner(lambda learner: _spoil(learner.model[0].weight), at="after_step", step=7)
    with pytest.raises(NonFiniteError, match=r"after step 6 .*0\.weight, which something other .*; all other weights"):
        learner.fit(1)
    assert not learner.history.rows


def test_what_torch_does_not_count_is_found_a_step_later_and_said_to_be_lost():
    learner = _learner(lambda learner: _spoil(_state(learner).data))
    with pytest.raises(NonFiniteError, match=r"step 4 .*through tensor\.data: the weights are lost"):
        learner.fit(1)


def test_a_frozen_mask_of_infinities_is_no_fault():
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(4, 2)
            self.mask = nn.Parameter(torch.tensor([-torch.inf, 0.0]), requires_grad=False)

        def forward(self, x):
            return super().forward(x) + 1 / self.mask.exp().add(1)

    learner = _learner(lambda learner: None, model=nn.Sequential(Masked()))
    learner.fit(1)
    assert len(learner.history) == 1


def test_the_watch_sees_writes_through_views_and_foreach_but_not_reads():
    weight = nn.Parameter(torch.ones(4, 2))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(4, 2)
    writes = Writes(nn.ParameterList([weight]), optimizer)
    assert writes.suspects() is not None
    optimizer.step()
    writes.remember()
    state = optimizer.state[weight]
    assert writes.suspects() is None
    assert state["exp_avg"].sum() + weight.sum() > 0
    assert writes.suspects() is None
    for write, tensor in (
        (lambda: state["exp_avg"][1:2].view(-1).fill_(1.0), state["exp_avg"]),
        (lambda: torch._foreach_mul_([state["exp_avg_sq"]], 2.0), state["exp_avg_sq"]),
        (lambda: weight.detach().zero_(), weight),
    ):
        write()
        suspects = writes.suspects()
        assert suspects is not None
        assert [id(suspect) for suspect in suspects.tensors] == [id(tensor)]
        writes.remember()
