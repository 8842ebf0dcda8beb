"""SAM follows the gradient of the worst place nearby, and leaves no other trace than that gradient."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from etude import SAM, ArrayLoader, Batch, ConfigError, DataLoaders, Debug, Learner, MixUp, NonFiniteError, flat
from etude.hooks import forward_hooks
from etude.optim import sgd
from etude.recipes.demo import digits
from etude.training.callbacks.checkpoints import Checkpoints
from etude.training.settings import told
from etude.vision import LessonCNN
from reference import textbook
from resuming import StopAt, check_places, learner, signaled_by


def _net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.4), nn.Linear(12, 3))


def _batches(count=1, size=16) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(count, size, 6, generator=generator)
    return [Batch(x, x[:, :3].argmax(1)) for x in inputs]


def _fitted(model: nn.Module, batches, step=None, *, lr=0.1, epochs=1, **options) -> Learner:
    options |= {"step": step} if step is not None else {}
    made = Learner(
        model,
        batches,
        options.pop("loss_fn", nn.CrossEntropyLoss()),
        sgd(momentum=0.0),
        device="cpu",
        progress=False,
        **options,
    )
    torch.manual_seed(5)
    made.fit(epochs, lr=lr, schedule=flat)
    return made


# -- the gradient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_the_step_equals_the_textbook(rho):
    inputs, targets = torch.randn(8, 4).double(), torch.randn(8, 1).double()
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Tanh()).double()
    start = model[0].weight.detach().clone()

    def gradient(w):
        w = w.clone().requires_grad_()
        loss = F.mse_loss(torch.tanh(inputs @ w.T), targets)
        return torch.autograd.grad(loss, w)[0]

    _fitted(model, [(inputs, targets)], SAM(rho), loss_fn=nn.MSELoss())

    expected = start - 0.1 * textbook.sam_gradient(gradient, start, rho)
    torch.testing.assert_close(model[0].weight.detach(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-master", "fp16"])
def test_the_second_pass_is_as_far_away_as_asked(precision):
    """Over all weights together, and in every precision: those with half weights round them anew."""
    model, seen = _net(), []

    def note(module, inputs, output):
        seen.append(torch.cat([weight.detach().float().flatten() for weight in model.parameters()]))

    with forward_hooks([model], note):
        _fitted(model, _batches(), SAM(0.3), precision=precision)

    assert len(seen) == 2
    assert float((seen[1] - seen[0]).norm()) == pytest.approx(0.3, rel=1e-5 if precision == "fp32" else 3e-2)


def test_a_window_gets_the_mean_of_its_batches_gradients():
    """The first pass leaves no trace in what the window has gathered."""
    batches = _batches(2, size=8)
    start, grads = nn.Linear(6, 3).double(), []
    for inputs, targets, *_ in batches:

        def gradient(w, inputs=inputs, targets=targets):
            w = w.clone().requires_grad_()
            return torch.autograd.grad(F.cross_entropy(inputs.double() @ w.T, targets), w)[0]

        grads.append(textbook.sam_gradient(gradient, start.weight.detach(), 0.05))
    model = nn.Linear(6, 3, bias=False).double()
    model.weight.data.copy_(start.weight)
    _fitted(model, [Batch(b.inputs.double(), b.targets) for b in batches], SAM(), accumulate=2)

    torch.testing.assert_close(model.weight, start.weight - 0.1 * (grads[0] + grads[1]) / 2, rtol=0, atol=1e-8)


# -- what it leaves alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-master", "fp16"])
def test_weights_come_back_bit_for_bit(precision):
    """Weights of very different size: what is added to the small ones is lost when it is subtracted again."""
    model = _net()
    with torch.no_grad():
        model[4].weight *= 10.0 ** torch.randint(-6, 1, model[4].weight.shape)
    before = copy.deepcopy(dict(model.named_parameters()))
    _fitted(model, _batches(3), SAM(0.7), lr=0.0, precision=precision)

    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_statistics_of_norms_follow_the_first_pass_alone():
    plain, climbing = _net(), _net()
    _fitted(plain, _batches(3), lr=0.0)
    _fitted(climbing, _batches(3), SAM(0.7), lr=0.0)

    assert int(climbing[1].num_batches_tracked) == 3
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), climbing.buffers(), strict=True))


def test_both_passes_drop_the_same_units_and_draw_no_more_than_one():
    states, dropped = [], []
    for step in (None, SAM(0.01)):
        model = _net()
        with forward_hooks([model[3]], lambda module, inputs, output: dropped.append((output == 0) & (inputs[0] != 0))):
            _fitted(model, _batches(), step)
        states.append(torch.get_rng_state())

    plain, first, second = dropped
    assert plain.any()
    assert torch.equal(plain, first)
    assert torch.equal(first, second)
    assert torch.equal(*states)


def test_an_error_above_puts_everything_back():
    model, calls = _net(), []

    def fail_above(module, inputs, output):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    once = copy.deepcopy(model)
    once(_batches()[0].inputs)
    before = copy.deepcopy(dict(model.named_parameters()))
    with forward_hooks([model], fail_above), pytest.raises(KeyboardInterrupt):
        _fitted(model, _batches(), SAM(0.5))

    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert torch.equal(model[1].running_mean, once[1].running_mean)


def test_frozen_weights_do_not_climb():
    model, seen = _net(), []
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    with forward_hooks([model], lambda *_: seen.append(model[0].weight.clone())):
        _fitted(model, _batches(), SAM(0.5))

    assert len(seen) == 2
    assert all(torch.equal(weight, before) for weight in seen)


# -- values that are not finite ---------------------------------------------------------------------------------------


def test_a_bad_batch_is_found_and_the_weights_are_those_before_it():
    inputs = torch.randn(48, 4)
    inputs[40] = float("nan")
    data = DataLoaders(ArrayLoader(inputs, torch.zeros(48, 1), batch_size=16))
    model = nn.Linear(4, 1)
    with pytest.raises(NonFiniteError, match=r"step 3 .* the inputs of the batch"):
        _fitted(model, data, SAM(), loss_fn=nn.MSELoss())

    assert all(weight.isfinite().all() for weight in model.parameters())


class _Root(nn.Module):
    """Its gradient at zero is not finite, its value is; one step to the side both are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * (self.weight.abs().sqrt() + self.other)


def test_a_gradient_that_is_not_finite_is_no_way_up_but_a_bad_step():
    """A climb by NaN would be worse than useless; a climb left out must not hide what is wrong."""
    model, seen = _Root(), []
    with (
        forward_hooks([model], lambda *_: seen.append(float(model.other.detach()))),
        pytest.raises(NonFiniteError, match="the gradient of weight"),
    ):
        _fitted(model, [(torch.ones(2, 1), torch.zeros(2, 1))], SAM(), loss_fn=nn.MSELoss())

    assert seen[:2] == [1.0, 1.0], "the second pass is where the weights are"
    assert (float(model.weight.detach()), float(model.other.detach())) == (0.0, 1.0)


def test_a_gradient_of_zero_climbs_nowhere():
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    _fitted(model, [(torch.zeros(4, 2), torch.zeros(4, 1))], SAM(), loss_fn=nn.MSELoss())

    assert torch.equal(model.weight, before)


# -- every n-th step, resuming, learning ------------------------------------------------------------------------------


def test_it_climbs_in_every_nth_step_and_in_all_batches_of_its_window():
    model, passes = _net(), [0]

    def count(*_):
        passes[-1] += 1

    look = Debug("after_step", call=lambda *_: passes.append(0))
    with forward_hooks([model], count):
        _fitted(model, _batches(10), SAM(every=2), accumulate=2, callbacks=[look])

    assert passes == [2, 2, 1, 1, 2, 2, 1, 1, 2, 2, 0]


def _mixed():
    return [MixUp(0.4, at="2")]


def test_a_stopped_fit_goes_on_exactly(tmp_path, monkeypatch):
    """In windows of two batches, with dropout and a norm, climbing in every other step, MixUp in a hidden layer."""
    check_places(_mixed, tmp_path, monkeypatch, ("mid-epoch", "an epoch's end"), step=SAM(0.1, every=2))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-master", "fp16"])
def test_a_stopped_fit_goes_on_exactly_everywhere(precision, tmp_path, monkeypatch):
    check_places(_mixed, tmp_path, monkeypatch, precision=precision, step=SAM(0.1, every=2))


def test_a_resume_with_another_radius_is_refused(tmp_path, monkeypatch):
    stop = StopAt("an epoch's end")
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
        learner([stop, Checkpoints(tmp_path)], step=SAM(0.1)).fit(3, lr=0.05)
    with pytest.raises(
        ConfigError, match=r"has step=SAM\(rho=0.1, every=1\), this one has step=SAM\(rho=0.2, every=1\)"
    ):
        learner([StopAt(None), Checkpoints(tmp_path)], step=SAM(0.2)).fit(3, lr=0.05, resume=tmp_path)


def test_what_a_resume_compares():
    assert told(SAM(0.05, every=5)) == "SAM(rho=0.05, every=5)"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rho": 0.0}, "rho must be positive, got 0.0"),
        ({"rho": float("inf")}, "rho must be positive, got inf"),
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        SAM(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"accumulate": 2}, {"callbacks": [MixUp(0.2, at="1")]}], ids=["window", "mixup"])
def test_it_learns_digits(options):
    torch.manual_seed(0)
    model = LessonCNN(10, channels=1, widths=[16, 32, 64], stem_stride=1)
    made = Learner(model, digits(), nn.CrossEntropyLoss(), sgd(), step=SAM(), progress=False, **options)
    made.fit(5, lr=0.2)

    assert made.predict().num_right / 360 > 0.85
