"""State that goes back bit for bit to where it belongs: nested, on another device, in generators of another kind."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
from torch import nn

from etude import random
from etude.training.optimizer import load_state


def test_torchs_lbfgs_goes_on_exactly():
    """It keeps lists of tensors under its first parameter."""

    def steps(weight, optimizer, count):
        def closure():
            optimizer.zero_grad()
            loss = ((weight - torch.arange(4.0)) ** 4).sum()
            loss.backward()
            return loss

        for _ in range(count):
            optimizer.step(closure)

    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.LBFGS([weight], max_iter=2)
    steps(weight, optimizer, 3)
    again = nn.Parameter(weight.detach().clone())
    other = torch.optim.LBFGS([again], max_iter=2)
    load_state(other, copy.deepcopy(optimizer.state_dict()))
    steps(weight, optimizer, 2)
    steps(again, other, 2)

    assert torch.equal(weight, again)


def test_nested_state_goes_to_its_parameters_device_in_its_layout():
    there = nn.Parameter(torch.empty(2, 3, 2, 2, device="meta").to(memory_format=torch.channels_last))
    state = {"deep": [{"like": torch.ones(2, 3, 2, 2)}, (torch.ones(5),)], "step": torch.tensor(3.0)}
    optimizer = torch.optim.SGD([there], 0.1)
    groups = optimizer.state_dict()["param_groups"]
    load_state(optimizer, {"state": {0: state, "global": {"all": torch.ones(2)}}, "param_groups": groups})
    (like, (flat,)), step = optimizer.state[there]["deep"], optimizer.state[there]["step"]

    assert like["like"].stride() == there.stride()
    assert {like["like"].device.type, flat.device.type, optimizer.state["global"]["all"].device.type} == {"meta"}
    assert step.device.type == "cpu"


def test_apples_generator_is_kept_where_it_is(monkeypatch):
    absent = random.global_state()
    assert absent["mps"] == []
    now = [torch.tensor([1, 2])]
    mps = SimpleNamespace(get_rng_state=lambda: now[0].clone(), set_rng_state=lambda state: now.__setitem__(0, state))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "mps", mps)
    state = random.global_state()
    now[0] = torch.tensor([3])
    random.set_global_state(absent)
    assert now[0].tolist() == [3]
    random.set_global_state(state)
    assert now[0].tolist() == [1, 2]
