"""Models of all kinds in mixed precision: they train, and what is not in half precision keeps its type."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from typing_extensions import override

from etude import MixedPrecision
from halves import CLASSES, batches, fit, learner

BOTH = pytest.mark.parametrize("precision", ["fp16", "bf16-master"])


class _Tied(nn.Module):
    """An embedding that is also the last layer, as language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, 8)
        self.head = nn.Linear(8, CLASSES, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("order", torch.tensor([2, 0, 1, 1]))

    @override
    def forward(self, x):
        ids = x.argmax(1).clamp(max=CLASSES - 1)
        return self.head(self.embedding(self.order[ids]) + self.embedding.weight.mean())


class _Wide(nn.Module):
    """A part in float64 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)).double()
        self.head = nn.Linear(8, CLASSES)

    @override
    def forward(self, x):
        return self.head(self.wide(x.double()).to(x.dtype))


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, 8, batch_first=True), nn.Linear(8, CLASSES)

    @override
    def forward(self, x):
        return self.head(self.rnn(x[..., None])[0][:, -1])


SGD = partial(torch.optim.SGD, momentum=0.9)
MODELS = {
    "LayerNorm": lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, CLASSES)),
    "RMSNorm": lambda: nn.Sequential(nn.Linear(4, 8), nn.RMSNorm(8), nn.Linear(8, CLASSES)),
    "GroupNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 8, 1), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8, CLASSES)
    ),
    "InstanceNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 4, 1), nn.InstanceNorm1d(4, affine=True), nn.Flatten(), nn.Linear(16, 3)
    ),
    "transformer": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4)),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    ),
    "tied weights, integers": _Tied,
    "a part in float64": _Wide,
    "recurrent": _Recurrent,
}


@BOTH
@pytest.mark.parametrize("name", MODELS)
def test_trains_as_in_float32(name, precision):
    losses = {}
    # a scale at which nothing overflows, so that no step is skipped
    half = MixedPrecision(loss_scale=256.0) if precision == "fp16" else precision
    for which in ("fp32", half):
        torch.manual_seed(0)
        model = MODELS[name]()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        data = batches()
        trained = fit(model, which, (data, data), epochs=2, optimizer=SGD)
        after = model.state_dict()
        losses[trained.precision.name == "fp32"] = trained.history["train_loss"] + trained.history["valid_loss"]
        assert [key for key in after if after[key].dtype != before[key].dtype] == []
        still = {key for key in after if torch.equal(after[key], before[key])}
        assert still <= {"order"}, "every weight was trained"

    assert losses[False] == pytest.approx(losses[True], abs=0.03)


@BOTH
def test_a_transformer_is_evaluated_with_its_trained_weights(precision):
    """Its fast path for evaluation reads the weights past the modules."""
    torch.manual_seed(0)
    model, data = MODELS["transformer"](), batches()
    trained = fit(model, precision, (data, data), epochs=2)

    assert trained.evaluate()["loss"] == trained.history["valid_loss"][-1]


@BOTH
@pytest.mark.parametrize("accumulate", [1, 2])
def test_sparse_gradients_are_unscaled_like_dense_ones(accumulate, precision):
    weights = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 4, sparse=sparse), nn.Flatten(), nn.Linear(8, CLASSES))
        data = [(torch.randint(5, (8, 2)), torch.randint(CLASSES, (8,))) for _ in range(4)]
        fit(model, precision, data, optimizer=lambda groups: torch.optim.SGD(groups, 0.05), accumulate=accumulate)
        weights.append(model[0].weight.detach())

    assert torch.allclose(*weights, atol=1e-3)


class _OwnFloats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, CLASSES)

    @override
    def forward(self, x):
        return self.head(torch.cat([x, torch.zeros(len(x), 4)], dim=1))


@BOTH
def test_a_model_that_makes_float32_tensors_of_its_own_is_told_what_to_do(precision):
    with pytest.raises(RuntimeError, match="dtype") as caught:
        fit(_OwnFloats(), precision)

    assert "give them the type of its inputs, or use precision='bf16'" in caught.value.__notes__[0]
    fit(_OwnFloats(), "bf16")


class _Dict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, CLASSES)

    @override
    def forward(self, values, mask, which):
        assert (values.dtype, mask.dtype, which.dtype) == (torch.float16, torch.bool, torch.int64)
        return {"scores": self.linear(values) + mask[:, None], "which": which}


def test_inputs_and_outputs_may_be_trees():
    """Floats become half and the outputs float32 again; integers and masks stay."""
    seen = []

    def loss_fn(preds, targets, reduction="mean"):
        seen.append((preds["scores"].dtype, preds["which"].dtype))
        return nn.functional.cross_entropy(preds["scores"], targets, reduction=reduction)

    data = [({"values": x, "mask": y > 0, "which": y}, y) for x, y in batches()]
    fit(_Dict(), "fp16", data, loss_fn=loss_fn)

    assert set(seen) == {(torch.float32, torch.int64)}


@pytest.mark.parametrize("flat", [False, True], ids=["lists", "flat"])
def test_a_model_without_any_half_weight(flat):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, CLASSES).requires_grad_(False))
    del model[1]
    made = learner(model, MixedPrecision(flat=flat), [(x, x) for x, _ in batches()], loss_fn=nn.MSELoss())

    assert len(made.fit(1, lr=0.1)) == 1
