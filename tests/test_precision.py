"""The precision that a learner computes in: what each does, how `auto` chooses, and why in words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import etude
from etude import ConfigError, Learner, MixedPrecision
from etude.training import auto_precision
from etude.training.checks import check_parts
from etude.training.precision import make_precision

CPU = torch.device("cpu")


def _learner(model=None, *, data=None, **options) -> Learner:
    torch.manual_seed(1)
    data = data or [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(4)]
    return Learner(
        model or nn.Linear(4, 3),
        data,
        nn.CrossEntropyLoss(),
        torch.optim.AdamW,
        progress=False,
        device="cpu",
        **options,
    )


def _times(monkeypatch, **seconds) -> list[str]:
    """Pretend that a forward and backward pass takes so long; an error is raised. What is timed, in order."""
    timed = []

    def take(model, loss_of, precision):
        timed.append(precision.name)
        given = seconds[precision.name.replace("-", "_")]
        if isinstance(given, Exception):
            raise given
        return given

    monkeypatch.setattr(auto_precision, "_seconds", take)
    monkeypatch.setattr(auto_precision, "_imitates_bf16", lambda: False)
    return timed


def _chosen(model=None):
    learner = _learner(model, precision="auto")
    learner.fit(1, lr=0.1)
    return learner.precision


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match=r"precision must be one of .*'bf16-master', 'fp16', 'auto'.* got 'fp8'"):
        _learner(precision="fp8")


def test_a_precision_given_to_two_learners_is_one_of_its_own_in_each():
    """Its scale follows the gradients of one training."""
    given = MixedPrecision(loss_scale=64.0, dynamic=True, growth_interval=1)
    first, second = _learner(precision=given), _learner(precision=given)
    first.fit(1, lr=0.1)

    assert first.precision.loss_scale == 2.0**10
    assert second.precision.loss_scale == given.loss_scale == 64


@pytest.mark.parametrize("name", ["fp32", "bf16", "bf16-master", "fp16"])
def test_names_stand_for_themselves(name):
    made = make_precision(name, CPU)

    assert made.name == name
    assert make_precision(made, CPU).name == name


def test_bf16_computes_in_bf16_and_keeps_weights_and_loss_in_float32():
    seen = []
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    model[1].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    learner = _learner(model, precision="bf16")
    losses = []
    learner.fit(1, lr=0.1, callbacks=[etude.Debug("after_step", call=lambda _, b, out: losses.append(out.loss.dtype))])

    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}
    assert set(losses) == {torch.float32}
    assert model[0].weight.dtype == torch.float32


# -- auto -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.95, "fp32")])
def test_auto_takes_the_faster_precision_and_records_why(monkeypatch, bf16, chosen):
    _times(monkeypatch, fp32=1.0, bf16=bf16, bf16_master=bf16)
    precision = _chosen()

    assert precision.name == chosen
    assert "measured" in precision.reason


def test_a_hopeless_bf16_is_tried_once(monkeypatch):
    timed = _times(monkeypatch, fp32=1.0, bf16=15.0, bf16_master=0.1)
    precision = _chosen()

    assert timed[:3] == ["fp32", "bf16", "fp32"]
    assert timed.count("bf16") == 1
    assert "bf16-master" not in timed, "which needs the same instructions"
    assert "15.0 times as long" in precision.reason


def test_a_processor_without_bf16_is_not_timed(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(auto_precision.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(auto_precision, "_seconds", lambda *_: pytest.fail("timed"))

    assert _chosen().name == "fp32"


@pytest.mark.parametrize("chosen", [None, "bf16-master"])
def test_measuring_the_precision_changes_nothing(monkeypatch, chosen):
    monkeypatch.setattr(auto_precision, "_imitates_bf16", lambda: False)
    if chosen:
        monkeypatch.setattr(auto_precision, "_WORTH_IT", 1e-9)
        monkeypatch.setattr(auto_precision, "_WORTH_HALF_WEIGHTS", 1e-9)
        monkeypatch.setattr(auto_precision, "_HOPELESS", 1e9)
    weights = []
    for precision in ("auto", None):
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        learner = _learner(model, precision=precision or learner.precision.name)
        learner.fit(2, lr=0.1)
        weights.append(torch.cat([value.flatten().double() for value in model.state_dict().values()]))

    assert torch.equal(*weights)
    assert chosen in (None, learner.precision.name)


@pytest.mark.parametrize(
    ("bf16", "master", "chosen"),
    [
        (0.5, 0.45, "bf16-master"),
        (0.5, 0.49, "bf16"),
        (0.95, 0.8, "bf16-master"),
        (0.95, 0.9, "fp32"),
        (1.5, 0.86, "bf16-master"),
        (1.5, 1.5, "fp32"),
    ],
)
def test_auto_takes_half_weights_where_they_are_clearly_faster(monkeypatch, bf16, master, chosen):
    _times(monkeypatch, fp32=1.0, bf16=bf16, bf16_master=master)
    precision = _chosen()

    assert precision.name == chosen
    assert f"{bf16 * 1e3:.1f} ms in bf16, {master * 1e3:.1f} ms in bf16-master" in precision.reason


def test_a_model_that_half_weights_fail_for_is_trained_in_bf16_and_the_reason_says_so(monkeypatch):
    timed = _times(monkeypatch, fp32=1.0, bf16=0.5, bf16_master=RuntimeError("expected Half\nbut got Float"))
    precision = _chosen()

    assert precision.name == "bf16"
    assert precision.reason.endswith("1000.0 ms in fp32, 500.0 ms in bf16; bf16-master failed: expected Half")
    assert timed.count("bf16-master") == 1


def test_a_model_that_fails_in_float32_is_not_hidden(monkeypatch):
    _times(monkeypatch, fp32=RuntimeError("shapes differ"), bf16=0.5, bf16_master=0.5)
    with pytest.raises(RuntimeError, match="shapes differ"):
        _chosen()


class _OwnFloats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(torch.cat([x, torch.zeros(len(x), 4)], dim=1))


def test_a_model_with_float32_tensors_of_its_own_is_measured_all_the_same(monkeypatch):
    monkeypatch.setattr(auto_precision, "_imitates_bf16", lambda: False)
    precision = _chosen(_OwnFloats())

    assert precision.name in ("fp32", "bf16")
    assert "bf16-master failed: mat1 and mat2 must have the same dtype" in precision.reason


def test_a_strided_convolution_of_one_pixel_is_not_measured():
    """Torch's backward pass of it in bf16 reads memory that nobody wrote."""
    model = nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Flatten())
    precision = _chosen(model.append(nn.Linear(8, 3)))

    assert precision.name == "fp32"
    if "instructions" not in precision.reason:
        assert "a strided convolution of a 1x1 map" in precision.reason


@pytest.mark.parametrize("precision", ["bf16", "bf16-master", "fp16"])
def test_a_convolution_that_torch_gets_wrong_is_refused(precision):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Flatten()
    )
    data = [(torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 3]))]
    made = etude.Learner(
        model, data, nn.CrossEntropyLoss(), torch.optim.SGD, precision=precision, device="cpu", progress=False
    )
    with pytest.raises(etude.ConfigError, match="the strided convolution 1 sees maps of one pixel"):
        made.fit(1, lr=0.1)

    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("average", "step", "match"),
    [(0.9, etude.supervised_step, "average must be an EMA"), (None, etude.SAM, "step must be a function")],
)
def test_parts_of_another_kind_are_refused(average, step, match):
    with pytest.raises(ConfigError, match=match):
        check_parts(nn.CrossEntropyLoss(), torch.optim.SGD, 1, average, step)
