"""Layer groups that hold every parameter once, and the optimizer kept from one fit to the next."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from etude import ConfigError, Learner
from etude.optim import adamw, lamb, sgd
from etude.training.optimizer import check_instance, layer_groups, make_optimizer
from etude.vision import LessonCNN


def _model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


# -- groups -----------------------------------------------------------------------------------------------------------


def test_a_model_is_one_group_unless_it_says_otherwise():
    model = _model()
    (group,) = layer_groups(model)

    assert group["params"] == list(model.parameters())
    assert group["layer_group"] == 0


def test_a_model_may_know_its_own_groups():
    model = LessonCNN(10, widths=(8, 8))
    body, head = layer_groups(model)

    assert [tuple(parameter.shape) for parameter in head["params"]] == [(10, 8), (10,)]
    assert len(body["params"]) + 2 == len(list(model.parameters()))


def test_groups_may_name_modules_or_parameters():
    model = _model()
    found = layer_groups(model, lambda m: [m[0], m[2].parameters()])

    assert [len(group["params"]) for group in found] == [2, 2]
    assert [group["layer_group"] for group in found] == [0, 1]


def test_groups_that_leave_a_parameter_out_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"leave out \['2.weight', '2.bias'\] \(2 in all\)"):
        layer_groups(_model(), lambda model: [model[0]])


def test_groups_that_hold_a_parameter_twice_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"\['0.bias', '0.weight'\] are in more than one layer group"):
        layer_groups(_model(), lambda model: [model[0], model])


def test_groups_with_a_foreign_parameter_are_refused_by_shape():
    with pytest.raises(ConfigError, match=r"shapes \[\(7, 4\), \(7,\)\] that are not parameters of the model"):
        layer_groups(_model(), lambda model: [model, nn.Linear(4, 7)])


def test_a_tied_weight_needs_one_group_only():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    found = layer_groups(model, lambda m: [[m[0].weight, m[0].bias], [m[1].bias]])

    assert [len(group["params"]) for group in found] == [2, 1]


# -- one optimizer from fit to fit ------------------------------------------------------------------------------------


def _same(state, before):
    """Equal bit for bit; a step count may be a tensor or a number."""
    return state.keys() == before.keys() and all(
        torch.equal(torch.as_tensor(state[name]), torch.as_tensor(before[name])) for name in state
    )


def _step(model, optimizer):
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()


def test_the_same_groups_keep_the_same_optimizer():
    model = _model()
    first, _ = make_optimizer(adamw(), layer_groups(model), None)
    second, message = make_optimizer(adamw(), layer_groups(model), first)

    assert second is first
    assert message == ""


def test_other_groups_of_the_same_parameters_are_a_change():
    model = _model()
    first, _ = make_optimizer(adamw(), layer_groups(model), None)
    second, message = make_optimizer(adamw(), layer_groups(model, lambda m: [m[0], m[2]]), first)

    assert second is not first
    assert "new optimizer" in message


FACTORIES = {"adamw": adamw(), "sgd": sgd(), "lamb": lamb(), "torch's own": torch.optim.Adam}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_a_new_head_keeps_the_state_of_the_body(factory):
    model = _model()
    first, _ = make_optimizer(factory, layer_groups(model), None)
    _step(model, first)
    before = copy.deepcopy(first.state[model[0].weight])
    model[2] = nn.Linear(8, 5)
    second, message = make_optimizer(factory, layer_groups(model), first)

    assert message == "new optimizer: the parameter groups changed; state carried over for 2 tensors"
    assert {model[0].weight, model[0].bias} <= set(second.state)
    assert _same(second.state[model[0].weight], before)
    _step(model, second)


def test_state_is_carried_over_in_the_layout_of_its_parameter():
    """Fused kernels on the CPU give wrong results when a tensor and its state differ in memory format."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2))
    first, _ = make_optimizer(adamw(), layer_groups(model), None)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    first.step()
    before = first.state[model[0].weight]["exp_avg"].clone()
    model[0].to(memory_format=torch.channels_last)
    model[1] = nn.Linear(4, 5)
    second, _ = make_optimizer(adamw(), layer_groups(model), first)
    state = second.state[model[0].weight]["exp_avg"]

    assert state.stride() == model[0].weight.stride()
    assert torch.equal(state, before)


def _learner(model, optimizer, **options):
    batches = [(torch.randn(6, 4), torch.randint(3, (6,))) for _ in range(3)]
    return Learner(model, batches, nn.CrossEntropyLoss(), optimizer, progress=False, device="cpu", **options)


@pytest.mark.parametrize("rates", [[0.1, 0.2], [0.1, 0.2, 0.3, 0.4]], ids=["too few", "too many"])
def test_a_list_of_rates_needs_one_for_every_layer_group(rates):
    """Error 12: cut to the shorter list, groups train at a rate that nobody chose."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    learner = _learner(model, adamw(), groups=list)

    with pytest.raises(ConfigError, match=f"{len(rates)} schedules of lr for 3 layer groups"):
        learner.fit(1, lr=rates)


def test_a_learner_keeps_its_optimizer_and_its_step_count():
    learner = _learner(_model(), adamw())
    learner.fit(1, lr=0.01)
    optimizer = learner.optimizer
    learner.fit(1, lr=0.01)

    assert learner.optimizer is optimizer
    assert optimizer.state[learner.model[0].weight]["step"].item() == 6


def test_a_learner_whose_head_was_replaced_trains_the_new_one(capsys):
    learner = _learner(_model(), adamw())
    learner.fit(1, lr=0.01)
    learner.model[2] = nn.Linear(8, 3)
    before = learner.model[2].weight.clone()
    learner.fit(1, lr=0.01)

    assert "state carried over for 2 tensors" in capsys.readouterr().out
    assert not torch.equal(learner.model[2].weight, before)
    assert learner.optimizer.state[learner.model[0].weight]["step"].item() == 6
    assert learner.optimizer.state[learner.model[2].weight]["step"].item() == 3


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_parameters_that_were_frozen_at_first_train_after_unfreezing(factory):
    """Some tensors of a group then have momentum and others do not."""
    model = _model()
    learner = _learner(model, factory)
    model[0].requires_grad_(False)
    learner.fit(1, lr=0.01)
    before = model[0].weight.clone()
    model[0].requires_grad_(True)
    learner.fit(1, lr=0.01)

    assert not torch.equal(model[0].weight, before)


def test_reset_optimizer_starts_anew():
    learner = _learner(_model(), adamw())
    learner.fit(1, lr=0.01)
    optimizer = learner.optimizer
    learner.fit(1, lr=0.01, reset_optimizer=True)

    assert learner.optimizer is not optimizer
    assert learner.optimizer.state[learner.model[0].weight]["step"].item() == 3


# -- a ready-made optimizer -------------------------------------------------------------------------------------------


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(ConfigError, match="holds 4 tensors that are not parameters of the model"):
        _learner(_model(), torch.optim.SGD(_model().parameters(), lr=0.1))


def test_an_optimizer_made_before_the_head_was_replaced_is_refused_at_the_next_fit():
    model = _model()
    learner = _learner(model, torch.optim.SGD(model.parameters(), lr=0.1))
    learner.fit(1)
    model[2] = nn.Linear(8, 3)

    with pytest.raises(ConfigError, match="holds 2 tensors that are not parameters of the model"):
        learner.fit(1)


def test_an_optimizer_of_a_part_needs_the_rest_frozen():
    model = _model()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"does not hold \['0.weight', '0.bias'\] \(2 trainable"):
        check_instance(optimizer, model)
    model[0].requires_grad_(False)

    check_instance(optimizer, model)
