"""The loss scale: the exact sequence that it follows, and what an overflow leaves untouched."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from etude import EMA, ConfigError, Debug, MixedPrecision, NonFiniteError, optim
from etude.schedules import linear
from etude.testing import same
from etude.training.scaler import LossScaler, check_and_multiply
from halves import Overflow, batches, defer, fit, learner, perceptron, state_of

GUARDS = pytest.mark.parametrize("deferred", [False, True], ids=["in the step", "later"])
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    "fused sgd": optim.sgd(weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, weight_decay=0.1),
    "fused adamw": partial(torch.optim.AdamW, weight_decay=0.1, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, weight_decay=0.1, momentum=0.5, centered=True),
    "lamb": optim.lamb(weight_decay=0.1),
}


def _followed(pattern: str, scale: float, interval: int, lowest: float, highest: float) -> list[float]:
    """The scale after each attempted step, in plain words; "x" is an overflow."""
    found, good_steps = [], 0
    for step in pattern:
        if step == "x":
            scale, good_steps = max(scale / 2, lowest), 0
        else:
            good_steps += 1
            if good_steps == interval:
                scale, good_steps = min(scale * 2, highest), 0
        found.append(scale)
    return found


# -- alone ------------------------------------------------------------------------------------------------------------


def test_the_scale_follows_a_scripted_pattern():
    """Error 4 of the notes: the count was not reset on overflow, and there was no cap and no floor."""
    pattern = "....x.x..xxx.."
    scaler = LossScaler(8.0, growth_interval=2, lowest=2.0, highest=16.0)
    seen = []
    for step in pattern:
        scaler.update(torch.tensor(float(step == "x")))
        seen.append(scaler.scale.item())

    assert seen == [8, 16, 16, 16, 8, 8, 4, 4, 8, 4, 2, 2, 2, 4]
    assert seen == _followed(pattern, 8.0, 2, 2.0, 16.0)
    assert scaler.report() == {"loss_scale": 4, "overflows": 5}
    assert scaler.report() == {"loss_scale": 4, "overflows": 0}, "counted per epoch"


def test_good_steps_before_an_overflow_do_not_count_afterwards():
    scaler = LossScaler(8.0, growth_interval=3)
    for overflow in (0.0, 0.0, 1.0, 0.0, 0.0):
        scaler.update(torch.tensor(overflow))

    assert scaler.scale == 4
    scaler.update(torch.tensor(0.0))
    assert scaler.scale == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_gradients_are_divided_and_checked_at_once(bad, dtype):
    grads = [torch.randn(3, 2, dtype=dtype), torch.randn(5), torch.randn(0)]
    expected = [grad / 2**16 for grad in grads]
    scaler = LossScaler()

    assert scaler.unscale(grads) == 0
    assert all(map(torch.equal, grads, expected))
    grads[1][2] = bad
    assert scaler.unscale(grads) == 1
    assert scaler.unscale([torch.ones(2)]) == 0, "the flag is of this step only"


def test_an_overflow_at_the_lowest_scale_is_not_the_scales_fault():
    scaler = LossScaler(2.0)
    assert scaler.unscale([torch.tensor([torch.inf])]) == 1
    scaler.update(torch.tensor(1.0))

    assert scaler.unscale([torch.tensor([torch.inf])]) == 0
    assert LossScaler(512.0, dynamic=False).unscale([torch.tensor([torch.inf])]) is None


def test_a_fixed_scale_of_one_does_nothing():
    scaler, grad, loss = LossScaler(1.0, dynamic=False), torch.tensor([2.0, torch.inf]), torch.tensor(3.0)

    assert scaler.unscale([grad]) is None
    assert scaler.scaled(loss) is loss
    assert scaler.report() == {}


def test_a_raised_flag_stays_up():
    flag = torch.zeros(())
    check_and_multiply([torch.tensor([torch.nan])], flag, torch.ones(()))
    check_and_multiply([torch.ones(2)], flag, torch.ones(()))

    assert flag == 1


def test_state_comes_back():
    one, two = LossScaler(8.0, growth_interval=3), LossScaler(8.0, growth_interval=3)
    for overflow in (1.0, 0.0, 0.0):
        one.update(torch.tensor(overflow))
    two.load_state_dict(one.state_dict())
    one.update(torch.tensor(0.0))
    two.update(torch.tensor(0.0))

    assert one.state_dict() == two.state_dict() == {"loss_scale": 8.0, "good_steps": 0, "overflows": 1.0}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss_scale": 0.0}, "loss_scale must be above 0"),
        ({"loss_scale": torch.nan}, "loss_scale must be above 0"),
        ({"loss_scale": 2.0**127}, r"at most 2\^126"),
        ({"loss_scale": 0.5, "dynamic": True}, "must lie between min_loss_scale=1.0 and max_loss_scale"),
        ({"max_loss_scale": 512.0}, "max_loss_scale=512.0, got 65536"),
        ({"min_loss_scale": 0.0}, "between min_loss_scale=0.0"),
        ({"growth_interval": 0}, "growth_interval must be a whole number of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        MixedPrecision(**settings)


@pytest.mark.usefixtures("without_type_checks")
def test_a_type_without_a_remedy_is_refused():
    with pytest.raises(ConfigError, match=r"one of \['bf16', 'fp16'\], got 'fp8'"):
        MixedPrecision("fp8")


# -- in a fit ---------------------------------------------------------------------------------------------------------


def _dynamic(scale: float, interval: int = 2, **settings) -> MixedPrecision:
    return MixedPrecision(loss_scale=scale, dynamic=True, growth_interval=interval, **settings)


def _overflows(pattern: str) -> Overflow:
    return Overflow([i for i, step in enumerate(pattern) if step == "x"])


@GUARDS
@pytest.mark.parametrize("pattern", ["..x..x", "xx....", ".xxx.."])
def test_a_fit_follows_the_pattern_too_and_tells_it(pattern, deferred, monkeypatch):
    if deferred:
        defer(monkeypatch)
    seen = []
    look = Debug("after_step", call=lambda made, *_: seen.append((made.precision.loss_scale, made.progress.step)))
    precision = _dynamic(64.0, min_loss_scale=2.0, max_loss_scale=128.0)
    made = fit(perceptron(), precision, batches(3), epochs=2, callbacks=[look], step=_overflows(pattern))

    expected = _followed(pattern, 64.0, 2, 2.0, 128.0)
    assert seen == list(zip(expected, range(1, 7), strict=True))
    assert made.history["loss_scale"] == [expected[2], expected[5]]
    assert made.history["overflows"] == [pattern[:3].count("x"), pattern[3:].count("x")]


def _same_state(before, after) -> bool:
    """Whether an optimizer's state is what it was; a fused kernel may have made it, of zeros, and then skipped."""
    made = [value for number in after.keys() - before.keys() for value in after[number].values()]
    return not any(torch.as_tensor(value).any() for value in made) and same(
        before, {number: after[number] for number in before}
    )


@pytest.mark.parametrize("deferred", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["in the step", "later"])
@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_overflow_changes_nothing_but_the_schedule_goes_on(name, at, deferred, monkeypatch):
    """Error 3 of the notes: momentum, decay and step count advanced in a "skipped" step."""
    if deferred:
        defer(monkeypatch)
    before, after, rates = [], [], []

    def keep(made, *_):
        before.append(state_of(made))
        rates.append(made.optimizer.param_groups[0]["lr"])

    callbacks = [
        Debug("before_step", call=keep),
        Debug("after_step", call=lambda made, *_: after.append(state_of(made))),
    ]
    options = {"optimizer": OPTIMIZERS[name], "callbacks": callbacks, "average": EMA(0.9, every=1)}
    made = learner(perceptron(), _dynamic(256.0, flat=at > 0), batches(6), step=Overflow([at]), **options)
    made.fit(1, schedule={"lr": linear(0.01, 0.02)})

    names = [name for name, _ in made.model.named_parameters()]
    for i in range(6):
        # running statistics of norms have seen the batch
        same_weights = all(torch.equal(before[i]["model"][n], after[i]["model"][n]) for n in names)
        assert same_weights == (i == at)
        assert same(before[i]["average"], after[i]["average"]) == (i == at)
        assert _same_state(before[i]["optimizer"], after[i]["optimizer"]) == (i == at)
    assert made.progress.step == 6
    assert rates == sorted(set(rates))


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fit_with_an_overflow_equals_one_that_never_saw_the_batch(name, at):
    data = batches(5)
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    options = {"optimizer": OPTIMIZERS[name]}
    with_it = fit(models[0], _dynamic(256.0, 500), data, step=Overflow([at]), **options)
    without = fit(models[1], _dynamic(128.0, 500), data[:at] + data[at + 1 :], **options)

    assert same(state_of(with_it), state_of(without))


def _until_it_fails(precision, step=None, loss_fn=None, words=""):
    """The state before every step of a fit that ends with an error, and the learner."""
    seen, given = [], {"step": step} if step else {"loss_fn": loss_fn}
    look = Debug("before_step", call=lambda made, *_: seen.append(copy.deepcopy(dict(made.model.state_dict()))))
    made = learner(perceptron(), precision, batches(8), callbacks=[look], **given)
    with pytest.raises(NonFiniteError, match=words):
        made.fit(1, lr=0.01)
    return seen, made


@GUARDS
def test_an_overflow_at_the_lowest_scale_ends_the_fit(deferred, monkeypatch):
    if deferred:
        defer(monkeypatch)
    seen, made = _until_it_fails(_dynamic(4.0, 500), Overflow([2, 3, 4]), words=r"step 5 .*those of step 4")

    assert made.precision.loss_scale == 1
    assert same(seen[4], dict(made.model.state_dict()))


@GUARDS
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_a_loss_that_is_not_a_number_ends_the_fit_whatever_the_scale(dynamic, deferred, monkeypatch):
    if deferred:
        defer(monkeypatch)
    calls = []

    def loss_fn(preds, targets, reduction="mean"):
        calls.append(1)
        loss = torch.nn.functional.cross_entropy(preds, targets, reduction=reduction)
        return loss * torch.nan if len(calls) >= 4 else loss

    precision = MixedPrecision(loss_scale=256.0, dynamic=dynamic)
    seen, made = _until_it_fails(precision, loss_fn=loss_fn, words=r"step 4 .*those of step 3")

    assert same(seen[3], dict(made.model.state_dict()))


@GUARDS
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_an_overflow_of_a_static_scale_ends_the_fit(dtype, deferred, monkeypatch):
    if deferred:
        defer(monkeypatch)
    precision = MixedPrecision(dtype, loss_scale=512.0)
    seen, made = _until_it_fails(precision, Overflow([2]), words=r"step 3 .*those of step 2")

    assert same(seen[2], dict(made.model.state_dict()))


@pytest.mark.parametrize("name", ["fused sgd", "fused adamw"])
def test_the_guard_that_looks_later_ends_with_the_same_bits(name, monkeypatch):
    made = []
    for deferred in (False, True):
        if deferred:
            defer(monkeypatch)
        options = {"optimizer": OPTIMIZERS[name], "average": EMA(0.9, every=2), "epochs": 3}
        made.append(fit(perceptron(), _dynamic(256.0), batches(6), step=_overflows("x..xx...x.....xx.x"), **options))

    states = [state_of(each) for each in made]
    averages = [state.pop("average") for state in states]
    assert same(states[0], states[1])
    # the device multiplies by whether there was an update, so its average is rounded once more
    assert all(torch.allclose(averages[0][key], averages[1][key], atol=1e-6) for key in averages[0])
    assert made[0].history["loss_scale"] == made[1].history["loss_scale"]
    assert made[0].history["train_loss"] == made[1].history["train_loss"]
