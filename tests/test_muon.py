"""Muon: orthogonal steps for hidden matrices and filters, AdamW for the rest, in one optimizer that a learner takes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from etude import ConfigError, Learner
from etude.muon import Muon, divided, muon, newton_schulz, orthogonalized
from etude.optim import adamw, check_groups, has_hyper, set_hyper, sgd
from etude.recipes.demo import digits
from etude.training.optimizer import load_state
from etude.vision import LessonCNN
from reference import textbook
from resuming import check_places

SETTINGS = {"lr": 0.02, "momentum": 0.9, "nesterov": True, "num_iterations": 5, "weight_decay": 0.1}


def _net(form=torch.contiguous_format) -> nn.Module:
    """Three convolutions with norms, and a head."""
    torch.manual_seed(0)
    layers = [[nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()] for a, b in ((3, 8), (8, 8))]
    layers.append([nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 5)])
    return nn.Sequential(*[layer for block in layers for layer in block]).to(memory_format=form)


def _groups(model: nn.Module) -> list:
    return [{"params": [*model.parameters()], "layer_group": 0}]


def _train(optimizer, parameters, grads) -> None:
    for step in zip(*grads, strict=True):
        for parameter, grad in zip(parameters, step, strict=True):
            parameter.grad = grad.clone()
        optimizer.step()


def _steps(model: nn.Module, optimizer, num=5) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(num):
        x, y = torch.randn(4, 3, 6, 6, generator=generator), torch.randint(5, (4,), generator=generator)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


# -- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (6, 2, 3, 3), (20, 2, 3)], ids=str)
@pytest.mark.parametrize("nesterov", [True, False])
def test_a_step_equals_the_textbook(shape, nesterov):
    x, settings = torch.randn(shape), SETTINGS | {"nesterov": nesterov}
    parameter, grads = nn.Parameter(x.clone()), [torch.randn(shape) for _ in range(8)]
    _train(Muon([{"params": [parameter], "orthogonal": True}], **settings), [parameter], [grads])

    flattened = [grad.flatten(1) for grad in grads]
    expected = textbook.muon(x.flatten(1), flattened, **settings)
    torch.testing.assert_close(parameter.detach().flatten(1).double(), expected, atol=1e-5, rtol=1e-5)


def test_torch_own_muon_is_the_same_but_for_bfloat16():
    x, grads = torch.randn(6, 9), [torch.randn(6, 9) for _ in range(4)]
    ours, theirs = nn.Parameter(x.clone()), nn.Parameter(x.clone())
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    _train(Muon([{"params": [ours], "orthogonal": True}], **settings), [ours], [grads])
    _train(torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings), [theirs], [grads])

    assert float(((ours - theirs).norm() / (theirs - x).norm()).detach()) < 0.02


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 2, 3, 3)], ids=str)
def test_a_step_is_orthogonal(shape):
    """It keeps the singular vectors of the gradient's matrix and makes the singular values alike."""
    rows, columns = shape[0], math.prod(shape[1:])
    u, _, vh = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    values = torch.logspace(0, -2, len(u.T))
    grad = (u * values @ vh).view(shape)
    parameter = nn.Parameter(torch.zeros(shape))
    optimizer = Muon([{"params": [parameter], "orthogonal": True}], lr=1.0)
    _train(optimizer, [parameter], [[grad]])

    step = -parameter.detach().flatten(1) / (0.2 * max(rows, columns) ** 0.5)
    found = u.T @ step @ vh.T
    assert 0.6 < float(found.diag().min()) <= float(found.diag().max()) < 1.3
    assert float((found - found.diag().diag()).abs().max()) < 1e-3


def test_an_entry_moves_as_far_as_with_adamw():
    """So that one learning rate serves both: the root mean square of a step is about 0.2 whatever the shape."""
    for shape in ((64, 64), (16, 32, 3, 3), (128, 16)):
        made = orthogonalized([torch.randn(shape)], 5)[0]
        assert 0.12 < float(made.square().mean().sqrt()) < 0.25


def test_matrices_of_one_shape_do_not_mix():
    tensors = [torch.randn(4, 6), torch.randn(4, 2, 3), torch.randn(3, 3)]
    together = orthogonalized(tensors, 5)

    for tensor, made in zip(tensors, together, strict=True):
        assert made.shape == tensor.shape
        torch.testing.assert_close(made, orthogonalized([tensor], 5)[0], atol=1e-6, rtol=1e-5)


def test_zeros_stay_zeros():
    assert torch.equal(newton_schulz(torch.zeros(1, 3, 4), 5), torch.zeros(1, 3, 4))


def test_channels_last_filters_get_the_same_bits():
    plain, last = _net(), _net(torch.channels_last)
    x = [parameter.detach().clone() for parameter in plain.parameters()]
    grads = [[torch.randn_like(parameter) for _ in range(6)] for parameter in x]
    for model in (plain, last):
        placed = [
            [torch.empty_like(parameter).copy_(grad) for grad in given]
            for parameter, given in zip(model.parameters(), grads, strict=True)
        ]
        _train(muon(lr=0.02)(_groups(model)), list(model.parameters()), placed)

    assert not last[3].weight.is_contiguous()
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        assert b.stride() == torch.empty_like(b).stride()
        assert torch.equal(a, b)


# -- which tensors ----------------------------------------------------------------------------------------------------


def test_hidden_filters_are_muons_and_the_rest_is_adamws():
    model = _net()
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [([names[p] for p in group["params"]], group["orthogonal"]) for group in divided(_groups(model))[:1]]

    assert found == [(["3.weight", "6.weight"], True)]
    first, second, third = muon()(_groups(model)).param_groups
    assert [names[p] for p in second["params"]] == ["0.weight", "9.weight"]
    assert all(names[p].endswith("bias") or p.ndim == 1 for p in third["params"])
    assert (first["weight_decay"], second["weight_decay"], third["weight_decay"]) == (0.01, 0.01, 0.0)


def test_the_rest_moves_as_with_adamw_alone():
    ours, theirs = _net(), _net()
    one = muon(lr=0.02, weight_decay=0.1)(_groups(ours))
    # the hidden filters stand still in both, so that the others see the same gradients
    for model in (ours, theirs):
        model[3].weight.requires_grad_(False)
        model[6].weight.requires_grad_(False)
    _steps(ours, one)
    _steps(theirs, adamw(lr=0.02, weight_decay=0.1)(_groups(theirs)))

    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_model_without_hidden_matrix_is_refused():
    with pytest.raises(ConfigError, match="of 2 matrices none is between"):
        muon()(_groups(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"momentum": 1.0}, "momentum and betas must be in"),
        ({"betas": (0.9, 1.0)}, "momentum and betas must be in"),
        ({"num_iterations": 0}, "num_iterations must be at least 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        muon(**settings)(_groups(_net()))


def test_a_vector_cannot_be_made_orthogonal():
    with pytest.raises(ConfigError, match=r"a tensor of shape \(3,\) is no matrix"):
        Muon([{"params": [nn.Parameter(torch.ones(3))], "orthogonal": True}])


# -- one optimizer for a learner --------------------------------------------------------------------------------------


def test_rates_and_momentum_reach_both_parts_of_every_layer_group():
    model = _net()
    layers = list(model.parameters())
    optimizer = muon()([{"params": layers[:4], "layer_group": 0}, {"params": layers[4:], "layer_group": 1}])
    check_groups(optimizer)
    set_hyper(optimizer, "lr", [0.1, 0.2])
    set_hyper(optimizer, "momentum", [0.7])

    assert {(group["layer_group"], group["lr"]) for group in optimizer.param_groups} == {(0, 0.1), (1, 0.2)}
    assert has_hyper(optimizer, "momentum")
    for group in optimizer.param_groups:
        assert (group["momentum"] if group["orthogonal"] else group["betas"][0]) == 0.7
        assert ("betas" in group) != group["orthogonal"]


def test_it_goes_on_from_a_loaded_state():
    whole, halves = _net(torch.channels_last), _net(torch.channels_last)
    _steps(whole, muon(lr=0.02)(_groups(whole)), 6)
    first = muon(lr=0.02)(_groups(halves))
    _steps(halves, first, 3)
    state = copy.deepcopy(first.state_dict())
    second = muon(lr=0.5)(_groups(halves))
    load_state(second, state)
    generator = torch.Generator().manual_seed(3)
    for i in range(6):
        x, y = torch.randn(4, 3, 6, 6, generator=generator), torch.randint(5, (4,), generator=generator)
        if i >= 3:
            nn.functional.cross_entropy(halves(x), y).backward()
            second.step()
            second.zero_grad()

    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_a_flag_on_the_device_leaves_everything_as_it_was():
    """What lets a GPU go on without waiting for the guard: weights, momentum and step count keep their values."""
    model = _net()
    optimizer = muon(lr=0.02)(_groups(model))
    _steps(model, optimizer, 2)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), None
    optimizer.step()
    del optimizer.found_inf, optimizer.grad_scale

    assert all(torch.equal(tensor, before[0][name]) for name, tensor in model.state_dict().items())
    for i, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(tensor, before[1][i][name]) for name, tensor in state.items())


def test_a_flag_that_is_down_changes_nothing_and_a_scale_is_taken_out():
    plain, flagged, states = _net(), _net(), []
    for model, scale in ((plain, None), (flagged, 8.0)):
        optimizer = muon(lr=0.02)(_groups(model))
        torch.manual_seed(4)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape) * (scale or 1.0)
        if scale:
            optimizer.found_inf, optimizer.grad_scale = torch.zeros(()), torch.tensor(scale)
        optimizer.step()
        states.append(optimizer.state_dict()["state"])

    for a, b in zip(plain.parameters(), flagged.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(states[0], states[1], atol=1e-7, rtol=1e-6)


def test_a_stopped_fit_goes_on_exactly(tmp_path, monkeypatch):
    def three(groups):
        # the small network of these tests has two matrices only, so its first is declared hidden
        weights = [weight for group in groups for weight in group["params"]]
        rest = {"params": weights[1:], "layer_group": 0}
        return Muon([{"params": weights[:1], "orthogonal": True, "layer_group": 0}, rest])

    check_places(list, tmp_path, monkeypatch, ("mid-epoch", "an epoch's end"), optimizer=three)


def _loss_after_two_epochs(optimizer, lr: float, seed: int) -> float:
    torch.manual_seed(seed)
    model = LessonCNN(10, channels=1, widths=[16, 32, 64], stem_stride=1)
    made = Learner(model, digits(seed), nn.CrossEntropyLoss(), optimizer, device="cpu", progress=False)
    return made.fit(2, lr=lr)["valid_loss"][-1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_digits_at_least_as_fast_as_sgd_each_at_the_best_of_its_rates(seed):
    ours = min(_loss_after_two_epochs(muon(), lr, seed) for lr in (0.04, 0.08))

    assert ours < min(_loss_after_two_epochs(sgd(), lr, seed) for lr in (0.4, 0.8))
