"""Activation statistics: every layer's own numbers, and a model that is left as it was."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

import etude
from etude import activation_statistics, vision
from etude.errors import ConfigError
from etude.types import Batch


def learner_of(model: nn.Module, **options) -> etude.Learner:
    torch.manual_seed(1)
    batches = [(torch.randn(32, 3, 8, 8), torch.randint(4, (32,)))]
    return etude.Learner(
        model, (batches, batches), nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu", progress=False, **options
    )


def small() -> nn.Sequential:
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
    return nn.Sequential(convolution, nn.Dropout(0.5), nn.Flatten(), nn.Linear(6 * 36, 4))


def test_numbers_are_those_of_each_layers_own_output_even_where_the_next_works_in_place():
    model = small()
    learner = learner_of(model)
    inputs = learner.data.valid.iterable[0][0]
    stats = activation_statistics(learner, near_zero=0.01)
    model.eval()
    with torch.no_grad():
        convolved = model[0][0](inputs)
        normed = model[0][1](convolved)
        rectified = normed.relu()
    expected = {"0.0": convolved, "0.1": normed, "0.2": rectified, "1": rectified, "3": model(inputs).detach()}

    assert [row.name for row in stats.rows] == ["0.0", "0.1", "0.2", "1", "2", "3"]
    for row in stats.rows:
        if (value := expected.get(row.name)) is not None:
            value = value.double()
            assert row.shape == tuple(value.shape)
            assert row.mean == pytest.approx(float(value.mean()), abs=1e-6)
            assert row.deviation == pytest.approx(float(value.std(correction=0)), rel=1e-5)
            assert row.near_zero == pytest.approx(float((value.abs() <= 0.01).double().mean()))


def test_a_planted_dead_channel_is_found():
    model = small()
    model[0][1].bias.data[2] = -100
    rows = {row.name: row for row in activation_statistics(learner_of(model)).rows}

    assert rows["0.2"].dead == pytest.approx(1 / 6)
    assert rows["0.1"].dead == 0
    assert rows["3"].dead == 0


def test_training_mode_takes_the_batchs_own_statistics_and_moves_nothing():
    model = small()
    model[0][1].running_mean.fill_(5)
    learner = learner_of(model)
    model[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    still, moving = (
        {row.name: row for row in activation_statistics(learner, training=training).rows} for training in (False, True)
    )

    assert moving["0.1"].mean == pytest.approx(0, abs=1e-5)
    assert still["0.1"].mean < -3
    assert moving["1"].near_zero == pytest.approx(0.75, abs=0.03)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_layer_that_is_called_twice_has_two_rows():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.activation = nn.Linear(5, 5), nn.ReLU()

        def forward(self, x):
            return self.linear(self.activation(self.linear(x)))

    batches = [(torch.randn(4, 5), torch.zeros(4).long())]
    learner = etude.Learner(Twice(), (batches, batches), nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu")

    assert [row.name for row in activation_statistics(learner).rows] == ["linear", "activation", "linear (call 2)"]


def test_a_whole_whose_parts_are_never_called_is_a_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3))
    batches = [(torch.randn(4, 3, 8), torch.zeros(4).long())]
    learner = etude.Learner(model, (batches, batches), nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu")
    names = [row.name for row in activation_statistics(learner, training=True).rows]

    assert "0.self_attn" in names
    assert "0" not in names
    assert "0.linear1" in names


def test_a_network_of_pictures_as_table_and_picture(tmp_path):
    torch.manual_seed(0)
    pixels = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    data = vision.from_arrays((pixels, torch.arange(8) % 2), (pixels, torch.arange(8) % 2), vocab="ab", batch_size=8)
    learner = vision.learner("xresnet18", data, precision="bf16", progress=False)
    learner.precision = None
    stats = activation_statistics(learner)
    stats.draw(tmp_path / "layers.png")
    lines = repr(stats).splitlines()

    assert len(lines) == len(stats.rows) + 1
    assert len(stats.rows) > 50
    assert {row.kind for row in stats.rows} >= {"Conv2d", "BatchNorm2d", "ReLU", "Linear"}
    assert len({line.rindex("%") for line in lines[1:]}) == 1
    with Image.open(tmp_path / "layers.png") as picture:
        assert picture.convert("L").entropy() > 0.3
    # the branch of a new residual block ends in a norm of scale 0
    assert any(row.kind == "BatchNorm2d" and row.near_zero == 1 for row in stats.rows)


def test_numbers_that_are_not_finite_are_shown_as_they_are(tmp_path):
    model = small()
    model[0][0].weight.data[0] = float("inf")
    stats = activation_statistics(learner_of(model))
    stats.draw(tmp_path / "layers.png")

    assert "nan" in repr(stats)


def test_a_batch_of_ones_own_and_none_at_all():
    learner = etude.Learner(small(), etude.DataLoaders(None), nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu")
    with pytest.raises(ConfigError, match="statistics need one batch"):
        activation_statistics(learner)

    assert activation_statistics(learner, Batch(torch.zeros(2, 3, 8, 8), None)).rows[0].shape == (2, 6, 6, 6)
