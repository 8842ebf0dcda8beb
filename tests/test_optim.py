"""Optimizers against their textbook form, and weight decay where it belongs."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from etude import ConfigError, Learner, optim
from etude.optim import Lamb, adamw, check_groups, decayed, has_hyper, lamb, set_hyper, sgd
from reference import textbook

SETTINGS = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1}


def _group(*parameters, number=0):
    return {"params": [nn.Parameter(p.clone()) for p in parameters], "layer_group": number}


def _train(optimizer, parameters, grads):
    """One step for each gradient in the list of every parameter."""
    for step in zip(*grads, strict=True):
        for parameter, grad in zip(parameters, step, strict=True):
            parameter.grad = grad.clone()
        optimizer.step()


def _grads(*tensors, steps=20):
    return [[torch.randn_like(tensor) for _ in range(steps)] for tensor in tensors]


# -- LAMB -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_ratio", [math.inf, 10.0, 0.5])
def test_lamb_equals_the_textbook(max_ratio):
    x = torch.randn(4, 3)
    parameter, grads = nn.Parameter(x.clone()), _grads(x)
    _train(Lamb([parameter], **SETTINGS, max_ratio=max_ratio), [parameter], grads)

    expected = textbook.lamb(x, grads[0], **SETTINGS, max_ratio=max_ratio)
    torch.testing.assert_close(parameter.detach().double(), expected, atol=1e-5, rtol=1e-5)


def test_lamb_gives_every_tensor_a_step_of_its_own_length():
    small, large = nn.Parameter(torch.randn(4, 3)), nn.Parameter(100 * torch.randn(5, 2))
    before = [small.detach().clone(), large.detach().clone()]
    optimizer = Lamb([small, large], lr=0.01, weight_decay=1e-8, max_ratio=math.inf)
    _train(optimizer, [small, large], _grads(small, large, steps=1))

    for parameter, old in zip((small, large), before, strict=True):
        assert ((parameter - old).norm() / old.norm()).item() == pytest.approx(0.01, rel=1e-4)


def test_lamb_without_decay_is_adam():
    """Norms and biases are not rescaled: a bias starts at length zero."""
    x = torch.randn(6)
    parameter, grads = nn.Parameter(x.clone()), _grads(x)
    settings = SETTINGS | {"weight_decay": 0.0}
    _train(Lamb([parameter], **settings), [parameter], grads)

    expected = textbook.adamw(x, grads[0], **settings)
    torch.testing.assert_close(parameter.detach().double(), expected, atol=1e-5, rtol=1e-5)


def test_lamb_moves_a_tensor_of_zeros():
    x = torch.zeros(3, 2)
    parameter, grads = nn.Parameter(x.clone()), _grads(x, steps=5)
    _train(Lamb([parameter], **SETTINGS), [parameter], grads)

    expected = textbook.lamb(x, grads[0], **SETTINGS, max_ratio=10.0)
    torch.testing.assert_close(parameter.detach().double(), expected, atol=1e-5, rtol=1e-5)


def test_lamb_leaves_tensors_without_gradient_alone():
    trained, idle = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lamb([trained, idle], **SETTINGS)
    _train(optimizer, [trained], _grads(trained, steps=2))

    assert torch.equal(idle, torch.ones(2, 2))
    assert idle not in optimizer.state


def test_lamb_continues_from_its_state_dict():
    x = torch.randn(3, 3)
    grads, whole = _grads(x), nn.Parameter(x.clone())
    _train(Lamb([whole], **SETTINGS), [whole], grads)
    parameter = nn.Parameter(x.clone())
    first = Lamb([parameter], **SETTINGS)
    _train(first, [parameter], [grads[0][:7]])
    second = Lamb([parameter], **SETTINGS)
    second.load_state_dict(first.state_dict())
    _train(second, [parameter], [grads[0][7:]])

    assert torch.equal(parameter, whole)


def test_lamb_calls_a_closure_with_gradients_on():
    parameter = nn.Parameter(torch.ones(2, 2))

    def closure():
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert Lamb([parameter], **SETTINGS).step(closure) == 4


@pytest.mark.parametrize("betas", [(1.0, 0.99), (0.9, -0.1)], ids=str)
def test_lamb_refuses_betas_outside_their_range(betas):
    with pytest.raises(ConfigError, match=r"betas must be in \[0, 1\)"):
        Lamb([nn.Parameter(torch.ones(1))], betas=betas)


# -- the factories ----------------------------------------------------------------------------------------------------


def _plain_adamw(matrix, vector):
    groups = [{"params": [matrix]}, {"params": [vector], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, **SETTINGS, foreach=False)


def _plain_sgd(matrix, vector):
    groups = [{"params": [matrix]}, {"params": [vector], "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True, foreach=False)


@pytest.mark.parametrize(
    ("factory", "plain"),
    [
        (adamw(**SETTINGS), _plain_adamw),
        (sgd(lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True), _plain_sgd),
    ],
    ids=["adamw", "sgd"],
)
def test_a_fused_factory_equals_plain_torch(factory, plain):
    matrix, vector = torch.randn(5, 4), torch.randn(5)
    group, grads = _group(matrix, vector), _grads(matrix, vector)
    _train(factory([group]), group["params"], grads)
    expected = [nn.Parameter(matrix.clone()), nn.Parameter(vector.clone())]
    _train(plain(*expected), expected, grads)

    for ours, theirs in zip(group["params"], expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_adamw_equals_the_textbook():
    x = torch.randn(4, 3)
    group, grads = _group(x), _grads(x)
    _train(adamw(**SETTINGS)([group]), group["params"], grads)

    expected = textbook.adamw(x, grads[0], **SETTINGS)
    torch.testing.assert_close(group["params"][0].detach().double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [adamw, sgd, lamb])
def test_decay_reaches_matrices_and_spares_norms_and_biases(make):
    matrix, norm = torch.full((2, 3), 2.0), torch.full((3,), 2.0)
    group = _group(matrix, norm)
    _train(make(lr=0.1, weight_decay=0.5)([group]), group["params"], [[torch.zeros_like(p)] for p in (matrix, norm)])

    assert (group["params"][0] < 2).all()
    assert torch.equal(group["params"][1], norm)


def test_decay_splits_every_layer_group_and_keeps_its_number():
    groups = [_group(torch.ones(2, 2), torch.ones(2), number=0), _group(torch.ones(3), number=1)]
    split = decayed(groups)

    assert [(len(g["params"]), g["layer_group"], g.get("weight_decay")) for g in split] == [
        (1, 0, None),
        (1, 0, 0.0),
        (1, 1, 0.0),
    ]


# -- hyper-parameters -------------------------------------------------------------------------------------------------


def test_a_hyper_that_nothing_reads_is_refused():
    """Error 11: the notes trained with `mom_sqr`, a name that no line of the optimizer used."""
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([{"params": [parameter], "mom_sqr": 0.99}])

    with pytest.raises(ConfigError, match=r"Adam does not read \['mom_sqr'\]; it knows .*'betas'"):
        check_groups(optimizer)


@pytest.mark.parametrize("factory", [lambda: adamw(mom_sqr=0.99), lambda: lamb(mom_sqr=0.99)], ids=["adamw", "lamb"])
def test_a_factory_refuses_a_hyper_that_nothing_reads(factory):
    with pytest.raises(TypeError, match="mom_sqr"):
        factory()


def test_a_learner_refuses_a_hyper_that_nothing_reads():
    def factory(groups):
        return torch.optim.Adam([{**group, "mom_sqr": 0.99} for group in groups])

    batches = [(torch.randn(2, 3), torch.zeros(2, dtype=torch.long))]
    learner = Learner(nn.Linear(3, 2), batches, nn.CrossEntropyLoss(), factory, progress=False, device="cpu")
    with pytest.raises(ConfigError, match="mom_sqr"):
        learner.fit(1)


def test_the_shipped_factories_pass_their_own_check():
    for make in (adamw, sgd, lamb):
        check_groups(make()([_group(torch.ones(2, 2), torch.ones(2))]))


def _optimizer(make):
    return make([_group(torch.ones(2, 2), torch.ones(2), number=0), _group(torch.ones(3, 3), number=1)])


def test_set_hyper_gives_every_layer_group_its_own_value():
    optimizer = _optimizer(adamw())
    set_hyper(optimizer, "lr", [0.1, 0.2])

    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 0.2]


def test_set_hyper_gives_one_value_to_all():
    optimizer = _optimizer(adamw())
    set_hyper(optimizer, "weight_decay", [0.3])

    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.3]


def test_momentum_is_the_momentum_of_sgd_and_the_first_beta_of_adam():
    by_sgd, by_adam = _optimizer(sgd()), _optimizer(adamw(betas=(0.9, 0.98)))
    set_hyper(by_sgd, "momentum", [0.7])
    set_hyper(by_adam, "momentum", [0.7])

    assert {group["momentum"] for group in by_sgd.param_groups} == {0.7}
    assert {group["betas"] for group in by_adam.param_groups} == {(0.7, 0.98)}
    assert "momentum" not in by_adam.param_groups[0]


def test_a_learning_rate_kept_in_a_tensor_is_written_in_place():
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=rate, capturable=False, foreach=False)
    set_hyper(optimizer, "lr", [0.5])

    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.5


@pytest.mark.parametrize(
    ("make", "name", "expected"),
    [
        (adamw(), "momentum", True),
        (sgd(), "momentum", True),
        (sgd(momentum=0.0), "momentum", False),
        (lambda groups: torch.optim.Adagrad([p for g in groups for p in g["params"]]), "momentum", False),
        (adamw(), "weight_decay", True),
        (adamw(), "mom_sqr", False),
    ],
    ids=["adam", "sgd", "plain sgd", "adagrad", "decay", "dead name"],
)
def test_has_hyper_knows_what_the_optimizer_reads(make, name, expected):
    assert has_hyper(_optimizer(make), name) is expected


# -- frozen parameters ------------------------------------------------------------------------------------------------


OPTIMIZERS = {
    "adamw": adamw(weight_decay=0.1),
    "sgd": sgd(weight_decay=0.1),
    "lamb": lamb(weight_decay=0.1),
    "torch's own": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("factory", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_frozen_parameter_stays_bit_for_bit_in_spite_of_momentum_and_decay(factory):
    """Error 11: in the notes a parameter frozen after a first fit still got its momentum and weight decay."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(5)]
    learner = Learner(model, batches, nn.CrossEntropyLoss(), factory, progress=False, device="cpu")
    learner.fit(1, lr=0.1)
    assert learner.optimizer.state[model[0].weight]
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    model[0].requires_grad_(False)
    frozen, free = model[0].weight.clone(), model[2].weight.clone()
    learner.fit(2, lr=0.1)

    assert torch.equal(model[0].weight, frozen)
    assert not torch.equal(model[2].weight, free)


def test_a_zero_gradient_would_still_move_a_parameter():
    """What the notes did when freezing; shows that the test above can fail."""
    x = torch.ones(2, 2)
    group = _group(x)
    _train(optim.adamw(lr=0.1)([group]), group["params"], [[torch.ones(2, 2), torch.zeros(2, 2)]])
    first_step = textbook.adamw(x, [torch.ones(2, 2)], **SETTINGS | {"lr": 0.1, "weight_decay": 1e-2})

    assert (group["params"][0] - first_step).abs().min() > 0.05
