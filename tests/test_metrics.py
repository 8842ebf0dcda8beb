"""Metrics by value, and the meter that averages them over an epoch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from etude import Batch, ConfigError, MixedTargets, StepOutput, metrics
from etude.metrics import EpochMeter, accuracy, cross_entropy, named, top_k_accuracy

LAW = settings(max_examples=50, deadline=None, derandomize=True)


# -- the metrics ------------------------------------------------------------------------------------------------------


def test_accuracy_is_the_share_of_hits():
    preds = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])

    assert accuracy(preds, torch.tensor([1, 0, 0, 0])).item() == 0.75


def test_accuracy_takes_a_class_for_every_token():
    preds = F.one_hot(torch.tensor([[0, 1, 2], [2, 1, 0]]), 3).float()

    assert accuracy(preds, torch.tensor([[0, 1, 2], [2, 0, 1]])).item() == pytest.approx(4 / 6)


@LAW
@given(batch=st.integers(1, 9), classes=st.integers(1, 8), k=st.integers(1, 8), seed=st.integers(0, 100))
def test_top_k_accuracy_equals_a_loop(batch, classes, k, seed):
    generator = torch.Generator().manual_seed(seed)
    preds = torch.randn(batch, classes, generator=generator)
    targets = torch.randint(classes, (batch,), generator=generator)
    k = min(k, classes)
    ranks = [sorted(range(classes), key=row.__getitem__, reverse=True) for row in preds.tolist()]

    hits = [target in rank[:k] for rank, target in zip(ranks, targets.tolist(), strict=True)]
    assert top_k_accuracy(preds, targets, k).item() == pytest.approx(sum(hits) / batch)


def test_top_1_is_accuracy_and_top_all_is_1():
    preds, targets = torch.randn(20, 4), torch.randint(4, (20,))

    assert top_k_accuracy(preds, targets, 1) == accuracy(preds, targets)
    assert top_k_accuracy(preds, targets, 4) == 1


def test_top_k_of_too_few_classes_is_refused():
    with pytest.raises(ConfigError, match="k=5 needs at least 5 classes, the model has 3"):
        top_k_accuracy(torch.randn(2, 3), torch.zeros(2, dtype=torch.long))


# -- names ------------------------------------------------------------------------------------------------------------


class _Custom:
    def __call__(self, preds, targets):
        return accuracy(preds, targets)


def test_metrics_go_by_their_functions_names():
    assert list(named([accuracy, partial(top_k_accuracy, k=3), _Custom()])) == [
        "accuracy",
        "top_k_accuracy_k3",
        "_Custom",
    ]
    assert list(named({"hits": accuracy})) == ["hits"]


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"same name: \['accuracy', 'accuracy'\]. Pass a dict"):
        named([accuracy, accuracy])


# -- the meter --------------------------------------------------------------------------------------------------------


def _output(preds, targets, loss=None):
    hard = targets.dominant if isinstance(targets, MixedTargets) else targets
    loss = F.cross_entropy(preds, hard) if loss is None else loss
    return StepOutput(loss, preds, Batch(torch.zeros(len(preds), 1), targets))


def _outputs(sizes, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    preds = [torch.randn(size, classes, generator=generator) for size in sizes]
    targets = [torch.randint(classes, (size,), generator=generator) for size in sizes]
    return [_output(*pair) for pair in zip(preds, targets, strict=True)]


def _measure(outputs, metrics=None, **options):
    meter = EpochMeter({"accuracy": accuracy} if metrics is None else metrics, **options)
    for output in outputs:
        meter.add(output)
    return meter.compute()


@LAW
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=8), seed=st.integers(0, 100))
def test_a_meter_over_batches_equals_one_pass_over_all_samples(sizes, seed):
    """Batches of unequal size: each counts by its number of samples."""
    outputs = _outputs(sizes, seed=seed)
    preds = torch.cat([output.preds for output in outputs])
    targets = torch.cat([output.batch.targets for output in outputs])

    assert _measure(outputs) == pytest.approx(
        {"loss": F.cross_entropy(preds, targets).item(), "accuracy": accuracy(preds, targets).item()}, abs=1e-6
    )


def test_a_short_last_batch_does_not_count_like_a_whole_one():
    right, wrong = torch.tensor([[0.0, 9.0]]), torch.tensor([[9.0, 0.0]])
    outputs = [_output(right.expand(9, 2), torch.ones(9, dtype=torch.long)), _output(wrong, torch.tensor([1]))]

    assert _measure(outputs)["accuracy"] == pytest.approx(0.9)


def test_an_epoch_of_many_blocks_computes_each_metric_once_per_block():
    calls = []

    def counted(preds, targets):
        calls.append(len(preds))
        return accuracy(preds, targets)

    outputs = _outputs([2] * 130)
    found = _measure(outputs, {"counted": counted})
    hits = torch.cat([output.preds.argmax(1) == output.batch.targets for output in outputs])

    assert calls == [100, 100, 60]
    assert found["counted"] == pytest.approx(hits.float().mean().item())


def test_a_block_of_large_predictions_is_reduced_early(monkeypatch):
    """What the meter keeps is bounded in bytes, too."""
    monkeypatch.setattr(metrics, "_BLOCK_BYTES", 100)
    calls = []
    _measure(_outputs([4] * 6), {"counted": lambda preds, targets: calls.append(len(preds)) or torch.tensor(0.0)})

    assert calls == [12, 12]


def test_batches_of_different_trailing_shapes_are_measured_one_by_one():
    outputs = [
        _output(F.one_hot(torch.zeros(size, length, dtype=torch.long), 3).float(), targets, torch.tensor(0.0))
        for size, length, targets in [
            (2, 4, torch.zeros(2, 4, dtype=torch.long)),
            (6, 3, torch.ones(6, 3, dtype=torch.long)),
        ]
    ]

    # every target counts, of the two samples with four each and of the six with three
    assert _measure(outputs)["accuracy"] == pytest.approx(2 * 4 / (2 * 4 + 6 * 3))


def test_a_loss_that_sums_is_averaged_over_samples():
    outputs = [output._replace(loss=output.loss * output.batch.size) for output in _outputs([2, 5])]

    assert _measure(outputs, loss_is_sum=True) == pytest.approx(_measure(_outputs([2, 5])))


def test_mixed_targets_count_by_their_dominant_label():
    preds = torch.eye(3)
    first, second = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 2])
    mixed = MixedTargets(first, second, torch.tensor([0.9, 0.5, 0.2]))

    assert _measure([_output(preds, mixed)])["accuracy"] == 1


def test_a_metric_may_give_one_value_per_sample():
    outputs = _outputs([2, 5])
    per_sample = {"accuracy": lambda preds, targets: (preds.argmax(1) == targets).float()}

    assert _measure(outputs, per_sample) == pytest.approx(_measure(outputs))


def test_a_batch_that_was_skipped_is_left_out():
    skipped = _output(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))._replace(
        preds=None, loss=torch.tensor(torch.nan)
    )
    outputs = _outputs([2, 5])

    assert _measure([outputs[0], skipped, outputs[1]]) == _measure(outputs)


def test_an_empty_pass_has_no_results():
    assert _measure([]) == {}
    assert _measure([_outputs([2])[0]._replace(preds=None)]) == {}


def test_a_loss_alone_is_measured_without_looking_at_the_predictions():
    output = _outputs([3])[0]._replace(preds={"any": "thing"})

    assert _measure([output], {}) == pytest.approx({"loss": output.loss.item()})


def test_plain_cross_entropy_is_comparable_between_smoothed_and_plain_runs():
    outputs = [output._replace(loss=torch.tensor(99.0)) for output in _outputs([4, 4])]
    found = _measure(outputs, named([cross_entropy]))

    assert found == pytest.approx({"loss": 99.0, "cross_entropy": _measure(_outputs([4, 4]))["loss"]})


# -- no waiting for the device ----------------------------------------------------------------------------------------


class _Reads(TorchDispatchMode):
    """Counts how often the host asks for a value."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def _reads_while_adding(metric):
    meter, outputs = EpochMeter({"metric": metric}), _outputs([2] * 120)
    with _Reads() as reads:
        for output in outputs:
            meter.add(output)
    return reads.count


@pytest.mark.parametrize("metric", [accuracy, partial(top_k_accuracy, k=2), cross_entropy], ids=["1", "2", "3"])
def test_adding_batches_never_reads_a_value(metric):
    """120 batches: two whole blocks are reduced on the way."""
    assert _reads_while_adding(metric) == 0


def test_a_metric_that_reads_a_value_would_be_seen():
    assert _reads_while_adding(lambda preds, targets: torch.tensor(preds.mean().item())) == 2
