"""torch's fused CPU optimizers are right in every memory format here, and the ways in which they are not are known."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from etude import Learner, MixedPrecision, optim
from etude.training.fused import FusedStep, order_in_memory
from etude.training.optimizer import load_state

LAST = {"memory_format": torch.channels_last}
FUSED = {
    "adamw": partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1),
    "adam": partial(torch.optim.Adam, lr=0.1),
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1),
}


def _weight(**layout) -> nn.Parameter:
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    return nn.Parameter(weight.to(**layout) if layout else weight)


def _grads(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 4, 3, 3, generator=generator) for _ in range(number)]


def _trained(make, steps, *, fused: bool, layout=None, grad_layout=None, plain_step=False) -> nn.Parameter:
    weight = _weight(**(layout or {}))
    optimizer = make([weight], fused=fused)
    step = optimizer.step if plain_step else FusedStep(optimizer)
    for grad in _grads(steps):
        weight.grad = grad.to(**grad_layout) if grad_layout else grad
        step()
    return weight


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("layout", [None, LAST], ids=["plain", "channels last"])
@pytest.mark.parametrize("grad_layout", [None, LAST], ids=["plain gradient", "channels-last gradient"])
def test_every_memory_format_gives_the_textbook_result(name, layout, grad_layout):
    right = _trained(FUSED[name], 3, fused=False)
    here = _trained(FUSED[name], 3, fused=True, layout=layout, grad_layout=grad_layout)

    assert torch.allclose(right, here, atol=1e-6)
    assert here.stride() == _weight(**(layout or {})).stride()


@pytest.mark.parametrize("name", FUSED)
def test_the_trap_is_still_there_without_us(name):
    """If this fails, torch has mended its kernels, and half of fused.py can go."""
    right = _trained(FUSED[name], 3, fused=False)
    wrong = _trained(FUSED[name], 3, fused=True, layout=LAST, plain_step=True)

    assert (right - wrong).abs().max() > 0.1


@pytest.mark.parametrize("name", FUSED)
def test_state_in_another_memory_format_is_laid_out_anew(name):
    weight = _weight(**LAST)
    optimizer = FUSED[name]([weight], fused=True)
    first, second = _grads(2)
    weight.grad = first.to(**LAST)
    FusedStep(optimizer)()
    for key, value in optimizer.state[weight].items():
        if value.shape == weight.shape:
            # as torch's own load_state_dict leaves it, from a file that knows plain order only
            optimizer.state[weight][key] = value.contiguous()
    weight.grad = second.to(**LAST)
    FusedStep(optimizer)()

    assert torch.allclose(weight, _trained(FUSED[name], 2, fused=False), atol=1e-6)


def test_a_step_leaves_shapes_and_identities_as_they_were():
    weight = _weight(**LAST)
    optimizer = FUSED["adamw"]([weight], fused=True)
    step, seen = FusedStep(optimizer), []
    hook = optimizer.register_step_pre_hook(lambda *_: seen.append((weight.shape, weight.is_contiguous())))
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        grad = weight.grad
        step()

        state = optimizer.state[weight]
        assert weight.grad is grad
        assert [value.stride() for value in (weight, grad, state["exp_avg"])] == [_weight(**LAST).stride()] * 3
        assert state["exp_avg"].shape == weight.shape
    hook.remove()

    assert seen == [((8, 3, 3, 4), True)] * 2


def test_an_error_in_the_step_leaves_shapes_as_they_were():
    weight = _weight(**LAST)
    optimizer = FUSED["sgd"]([weight], fused=True)
    weight.grad = torch.ones_like(weight)

    def fail(*_) -> None:
        raise RuntimeError("planted")

    optimizer.register_step_pre_hook(fail)
    with pytest.raises(RuntimeError, match="planted"):
        FusedStep(optimizer)()

    assert weight.shape == weight.grad.shape == (8, 4, 3, 3)


def test_a_weight_without_a_gradient_stays():
    weight, other = _weight(**LAST), _weight(**LAST)
    optimizer = FUSED["adamw"]([weight, other], fused=True)
    before = other.detach().clone()
    weight.grad = torch.ones_like(weight)
    FusedStep(optimizer)()

    assert torch.equal(other, before)
    assert other not in optimizer.state


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (8, 4, 1, 1), (8, 1, 3, 3), (1, 4, 3, 3), (8, 4, 2, 3, 3)])
def test_the_order_in_memory_makes_a_tensor_plain(shape):
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    tensor = torch.randn(shape).to(memory_format=last)

    assert tensor.permute(order_in_memory(tensor)).is_contiguous()


PRECISIONS = ["fp32", "bf16", MixedPrecision("bf16"), MixedPrecision("bf16", flat=True)]


@pytest.mark.parametrize("precision", PRECISIONS, ids=["fp32", "bf16", "half", "flat"])
def test_a_channels_last_fit_equals_one_with_an_unfused_optimizer(precision):
    """State comes through torch's own load_state_dict, from plain order, as from a safetensors file."""
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2)).to(**LAST)
        data = [(torch.randn(4, 3, 8, 8).to(**LAST), torch.tensor([0, 1, 0, 1])) for _ in range(3)]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        learner = Learner(
            model, (data, None), nn.CrossEntropyLoss(), optimizer, precision=precision, device="cpu", progress=False
        )
        learner.fit(1)
        state = copy.deepcopy(optimizer.state_dict())
        for values in state["state"].values():
            values.update({name: value.contiguous() for name, value in values.items()})
        optimizer.load_state_dict(state)
        learner.fit(1)
        results.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))

    assert torch.allclose(*results, atol=1e-5 if precision == "fp32" else 1e-3)


def test_our_loading_lays_state_out_at_once():
    weight = _weight(**LAST)
    optimizer = optim.adamw()([{"params": [weight], "layer_group": 0}])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].contiguous()
    load_state(optimizer, state)

    assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
