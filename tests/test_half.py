"""The half copies: shown while the model computes, float32 masters at rest, whoever writes to or breaks off what."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from etude import EMA, Debug, MixedPrecision, NonFiniteError, supervised_step
from etude.layers import BlurPool2d
from etude.testing import same
from etude.training.half import HalfWeights, flattened, half_weights
from halves import batches, fit, network, perceptron

LAYOUTS = pytest.mark.parametrize("flat", [False, True], ids=["lists", "flat"])


def _dtypes(model: nn.Module) -> set[torch.dtype]:
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


@LAYOUTS
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_layers_compute_in_half_and_norms_and_the_loss_in_float(dtype, flat):
    seen, losses = {}, []
    model = network()
    model.insert(1, BlurPool2d(8, stride=1))

    def look(module, inputs, output):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        seen[type(module).__name__] = {tensor.dtype for tensor in own if tensor.is_floating_point()} | {inputs[0].dtype}

    def loss_fn(preds, targets, reduction="mean"):
        losses.append(preds.dtype)
        return nn.functional.cross_entropy(preds, targets, reduction=reduction)

    for module in model:
        module.register_forward_hook(look)
    fit(model, MixedPrecision(dtype, flat=flat), batches(shape=(3, 6, 6)), loss_fn=loss_fn)

    half = {torch.float16 if dtype == "fp16" else torch.bfloat16}
    assert {seen[name] == half for name in ("Conv2d", "Linear", "ReLU")} == {True}, seen
    assert seen["GroupNorm"] == {torch.float32}
    # buffers stay as they are; this one casts its own
    assert seen["BlurPool2d"] == {torch.float32} | half
    # its kernel takes half inputs and computes in float32
    assert seen["BatchNorm2d"] == {torch.float32} | half
    assert set(losses) == {torch.float32}


@LAYOUTS
def test_at_rest_everything_is_float32(flat):
    """Wherever a callback looks, also between two batches of a window, and at the layout of each gradient."""
    seen = []

    def look(learner, *_):
        seen.append(_dtypes(learner.model))
        weights = list(learner.model.parameters())
        assert all(weight.grad.stride() == weight.stride() for weight in weights if weight.grad is not None)

    places = ["before_fit", "before_step", "transform_batch", "transform_grads", "after_step", "after_epoch"]
    callbacks = [Debug(place, call=look) for place in [*places, "after_eval_batch", "after_fit"]]
    data = batches(shape=(3, 6, 6))
    model = network(torch.channels_last)
    fit(model, MixedPrecision(flat=flat), (data, data[:1]), accumulate=2, callbacks=callbacks)

    assert {tuple(dtypes) for dtypes in seen} == {(torch.float32,)}
    assert len(seen) == 1 + 2 + 4 + 2 + 4 + 1 + 1 + 1
    assert _dtypes(model) == {torch.float32}


@LAYOUTS
def test_a_step_that_looks_at_the_model_after_its_update_leaves_float32(flat):
    def step(made, batch):
        output = supervised_step(made, batch)
        made.forward(batch)
        return output

    seen = []
    look = Debug("after_step", call=lambda made, *_: seen.append(_dtypes(made.model)))
    fit(perceptron(), MixedPrecision(flat=flat), callbacks=[look], step=step)

    assert seen == [{torch.float32}] * 4


def test_gradients_of_a_window_are_added_in_float32():
    """In float16, 1 + 1/4096 is 1: adding there would lose the small gradient."""
    model = nn.Linear(1, 1, bias=False)
    data = [(torch.tensor([[x]]), torch.zeros(1)) for x in (1.0, 2.0**-12)]
    grads = []
    look = Debug("transform_grads", call=lambda learner, _: grads.append(model.weight.grad.item()))
    fit(model, "fp16", data, accumulate=2, loss_fn=lambda p, t, reduction="mean": p.mean(), callbacks=[look])

    assert grads == [(1 + 2.0**-12) / 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_flattened_keeps_shapes_strides_and_values(dtype):
    """SPEC E4: 10 * 30 + 30 + 30 * 2 + 2 numbers, whatever lies between them."""
    lesson = [torch.randn(30, 10), torch.randn(30), torch.randn(2, 30), torch.randn(2)]
    others = [
        torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        torch.randn(5, 7).T,
        torch.randn(()),
        torch.randn(0, 3),
    ]
    whole, views = flattened(lesson + others, dtype)

    assert sum(view.numel() for view in views[:4]) == 392
    for tensor, view in zip(lesson + others, views, strict=True):
        assert view.shape == tensor.shape
        assert view.stride() == tensor.stride()
        assert torch.equal(view, tensor.to(dtype))
    whole.zero_()
    assert not any(view.any() for view in views)


def test_a_tensor_with_gaps_is_flattened_without_them():
    gaps = torch.randn(4, 6)[:, ::2]

    assert torch.equal(flattened([gaps], torch.float32)[1][0], gaps)
    assert flattened([], torch.float16)[1] == []


def test_tied_weights_have_one_copy():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight

    assert half_weights(model) == [model[0].weight]


def _set_data(weight):
    weight.data = weight.data * 2


@LAYOUTS
@pytest.mark.parametrize(
    "write",
    [lambda weight: weight.detach().mul_(2), lambda weight: weight.data.mul_(2), _set_data],
    ids=["a write", "a write through data", "other data"],
)
def test_what_is_written_to_a_weight_between_two_steps_is_computed_with(write, flat):
    """And is still there afterwards: the masters are the weights."""
    model, kept, seen = perceptron(), [], []

    def change(learner, *_):
        write(model[3].weight)
        kept.append(model[3].weight.detach().half())

    model[3].register_forward_hook(lambda module, *_: seen.append(module.weight.detach().clone()))
    fit(model, MixedPrecision(flat=flat), callbacks=[Debug("before_step", call=change)])

    assert len(seen) == 4
    assert all(map(torch.equal, kept, seen))
    assert model[3].weight.abs().max() > 1


class _Scale(nn.Module):
    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, x):
        return x * self.table.to(x.dtype)


def test_a_buffer_that_two_modules_share_is_as_it_was():
    table = torch.full((4,), 1.0001)
    model = nn.Sequential(_Scale(table), _Scale(table), perceptron())
    fit(model)

    assert model[0].table is model[1].table
    assert torch.equal(model[0].table, torch.full((4,), 1.0001))


class _Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return x * (1 + self.seen / 8)


@LAYOUTS
def test_a_buffer_that_the_model_writes_to_keeps_its_value_and_its_average(flat):
    model = nn.Sequential(_Counts(), perceptron())
    data = batches()
    trained = fit(model, MixedPrecision(flat=flat), (data, data), epochs=2, average=EMA(0.9, every=2))

    assert model[0].seen == 8
    assert model[0].seen.dtype == torch.float32
    assert trained.evaluate()["loss"] == trained.history["valid_loss"][-1]


@LAYOUTS
def test_a_buffer_is_as_it_was_when_a_bad_value_ends_the_fit(flat):
    """The model has just been run again, to find the place, when the running statistics are put back."""
    calls = []

    def loss_fn(preds, targets, reduction="mean"):
        calls.append(1)
        loss = nn.functional.cross_entropy(preds, targets, reduction=reduction)
        return loss if len(calls) < 3 else loss * torch.nan

    model = nn.Sequential(_Scale(torch.full((4,), 1.0001)), perceptron())
    with pytest.raises(NonFiniteError, match="step 3"):
        fit(model, MixedPrecision(flat=flat), loss_fn=loss_fn)

    assert torch.equal(model[0].table, torch.full((4,), 1.0001))
    assert _dtypes(model) == {torch.float32}


class _InterruptAt:
    """Raises KeyboardInterrupt at the n-th line that is executed in half.py, once."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.endswith("half.py"):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


@LAYOUTS
def test_an_interrupt_at_any_line_leaves_the_masters(flat):
    """Ctrl-C comes between two pointers as easily as anywhere."""
    model = nn.Sequential(_Scale(torch.full((4,), 1.0001)), nn.Linear(4, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, line, interrupted = torch.randn(2, 4).half(), 0, True
    while interrupted:
        line += 1
        half = HalfWeights(model, torch.float16, flat=flat)
        try:
            with half.opened():
                sys.settrace(_InterruptAt(line))
                try:
                    with half.computing():
                        model(x)
                finally:
                    sys.settrace(None)
            interrupted = False
        except KeyboardInterrupt:
            pass
        for name, value in model.state_dict().items():
            assert value.dtype == torch.float32, f"line {line}: {name}"
            assert torch.equal(value, before[name]), f"line {line}: {name}"
    assert line > 40
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_evaluation_in_the_middle_of_a_fit_shows_the_average_and_changes_no_training():
    def run(*looks):
        data, losses = batches(), []

        def evaluate(made, *_):
            losses.append(made.evaluate()["loss"])

        callbacks = [Debug(place, call=evaluate) for place in looks]
        made = fit(perceptron(), "fp16", (data, data), epochs=2, average=EMA(0.9, every=1), callbacks=callbacks)
        return made.model.state_dict(), losses

    plain, watched = run(), run("after_step", "transform_grads")
    assert same(dict(plain[0]), dict(watched[0]))
    # between one update and the next nothing moves the average; the first was there before any update
    assert watched[1][1:-1:2] == watched[1][2::2]
