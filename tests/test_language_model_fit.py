"""A learner trains a language model in every precision, resumes it exactly, and counts every token once."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import resuming
from etude import EMA, SAM, ClipGradNorm, Learner, find_lr, flat, optim
from etude.metrics import EpochMeter, OfLoss, ValidOnly, named, perplexity
from etude.testing import same
from etude.text.head import AdaptiveDecoder
from etude.text.language_model import LanguageModelLoss, accuracy
from etude.types import Batch, StepOutput
from language_models import EMBED, ROWS, WORDS, batches, learner, loss_of, model, output, streams


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-master", "fp16"])
def test_it_trains_in_every_precision(precision):
    trained = learner(precision=precision, average=EMA(), accumulate=2)
    before = copy.deepcopy(trained.model.state_dict())
    history = trained.fit(2, lr=1e-2)

    assert all(math.isfinite(value) for row in history for value in row.values())
    assert all(not torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())
    assert all(part.dtype == torch.float32 and (part != 0).any() for part in trained.model.buffers())


@pytest.mark.parametrize("head", ["fp32", "bf16", "adaptive"])
def test_with_every_head_it_learns_which_words_there_are(head):
    text = torch.arange(2, 2 + 4).repeat(ROWS, 4)
    batch = Batch({"tokens": text[:, :-1], "starts": torch.ones(ROWS, dtype=torch.bool)}, text[:, 1:])
    decoder = AdaptiveDecoder(WORDS, EMBED, (4,)) if head == "adaptive" else None
    loss_fn = LanguageModelLoss(0.0, 0.0, head="bf16" if head == "bf16" else "fp32")
    trained = Learner(
        model(decoder=decoder), ([batch] * 40, [batch]), loss_fn, optim.adamw(), metrics=[perplexity, accuracy],
        progress=False,
    )  # fmt: skip
    row = trained.fit(1, lr=3e-2, schedule=flat).rows[-1]

    assert 1 < row["valid_perplexity"] < 4.2  # of 20 words, 4 in turns
    assert row["valid_perplexity"] == pytest.approx(math.exp(row["valid_loss"]))


def test_perplexity_and_accuracy_are_of_validation_and_weigh_every_token():
    trained = learner(data=(batches(last=2), batches(3, last=1)))
    row = trained.fit(1, lr=1e-2).rows[-1]
    made, hits, total, count = trained.model.eval().requires_grad_(False), 0, 0.0, 0
    for batch in batches(3, last=1):
        logits = output(made, batch).logits()
        total += float(F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"))
        hits += int((logits.argmax(-1) == batch.targets).sum())
        count += batch.targets.numel()

    assert count == 3 * (5 + 5 + 1)
    assert row["valid_loss"] == pytest.approx(total / count, rel=1e-5)
    assert row["valid_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert row["valid_accuracy"] == pytest.approx(hits / count)
    assert {name for name in row if name.startswith("train_")} == {"train_loss"}


def test_a_window_weighs_every_token():
    """Two batches of unlike lengths, accumulated, have the gradient of all their tokens together."""
    stream = batches(2, last=1)
    trained = learner(data=stream, made=model(), optimizer=partial(torch.optim.SGD, lr=1.0), accumulate=2, metrics=())
    trained.loss_fn = LanguageModelLoss(0.0, 0.0)
    whole = copy.deepcopy(trained.model)
    losses = [loss_of(output(whole, batch), batch.targets, ar=0, tar=0) * batch.num_targets for batch in stream]
    (sum(losses) / sum(batch.num_targets for batch in stream)).backward()
    torch.optim.SGD(whole.parameters(), lr=1.0).step()
    trained.fit(1)

    for ours, expected in zip(trained.model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_finding_a_rate_and_planning_change_nothing():
    expected = learner()
    expected.fit(1, lr=1e-2)
    trained = learner()
    before = copy.deepcopy(dict(trained.model.named_buffers()))
    find_lr(trained, num_steps=20)
    trained.plan(1, lr=1e-2)

    assert same(dict(trained.model.named_buffers()), before)
    torch.manual_seed(0)
    model()  # the generator is then where the first fit began
    trained.fit(1, lr=1e-2)
    assert same(trained.model.state_dict(), expected.model.state_dict())


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16-master", marks=pytest.mark.slow)])
def test_a_resume_in_mid_stream_is_exact(precision, tmp_path, monkeypatch):
    """The state of the stream is in the checkpoint, so the next window goes on where the last one stopped."""
    assert len(streams().train) == resuming.BATCHES
    monkeypatch.setattr(
        resuming, "learner", lambda callbacks, **options: learner(callbacks, data=streams(), accumulate=2, **options)
    )
    monkeypatch.setattr(
        resuming, "outcome", lambda trained, whole=resuming.outcome: {
            **whole(trained), "state": dict(trained.model.named_buffers())
        },
    )  # fmt: skip
    places = ("mid-epoch", "inside a window", "in validation")
    resuming.check_places(lambda: [ClipGradNorm(0.1)], tmp_path, monkeypatch, places=places, precision=precision)


# -- metrics of validation --------------------------------------------------------------------------------------------


def _right(preds, targets):
    return (preds.argmax(1) == targets).double().mean()


def test_metrics_of_validation_cost_training_nothing():
    calls = []
    metrics = named([ValidOnly("right", lambda p, t: calls.append(1) or _right(p, t)), perplexity])
    batch = Batch(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1]))
    seen = StepOutput(torch.tensor(2.0), torch.eye(2)[[0, 1, 0, 1]], batch)
    for training, expected in ((True, {"loss"}), (False, {"loss", "right", "perplexity"})):
        meter = EpochMeter(metrics, training=training)
        meter.add(seen)
        found = meter.compute()
        assert set(found) == expected
        assert len(calls) == (0 if training else 1)
    assert found == {"loss": 2.0, "right": 0.75, "perplexity": math.exp(2.0)}


def test_a_hopeless_model_has_an_infinite_perplexity():
    assert OfLoss("perplexity", perplexity.value).value(1e4) == math.inf
    assert perplexity.value(0.0) == 1


@pytest.mark.parametrize(
    ("targets", "num"),
    [
        (torch.zeros(3, 5, dtype=torch.long), 15),
        (torch.zeros(3, dtype=torch.long), 3),
        (torch.zeros(3, 5), 3),
        ((torch.zeros(3, 5, dtype=torch.long),), 3),
    ],
)
def test_what_a_batch_counts(targets, num):
    assert Batch(torch.zeros(3, 2), targets).num_targets == num


def test_values_for_each_sample_are_means_over_all_tokens():
    """A metric may give one value per sample where each sample has many targets."""
    meter = EpochMeter(named({"each": lambda preds, targets: targets.double().mean(1)}))
    for width in (2, 6):
        targets = torch.full((2, width), width)
        meter.add(StepOutput(torch.zeros(()), torch.zeros(2, width), Batch(torch.zeros(2, 1), targets)))

    assert meter.compute()["each"] == pytest.approx((2 * 2 * 2 + 2 * 6 * 6) / (2 * 2 + 2 * 6))


def test_sam_reads_on_from_where_the_batch_begins_in_both_passes():
    """With no way to climb it is a plain step: from the state of before the batch, with that of after it kept."""
    ends = []
    for step in ({}, {"step": SAM(1e-12)}):
        trained = learner(made=model(), **step)
        trained.fit(1, lr=1e-2, schedule=flat)
        ends.append({**trained.model.state_dict(), **dict(trained.model.named_buffers())})

    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_finder_counts_tokens_in_a_window_with_a_short_chunk():
    """Two batches a window, the second of one token: the loss is that of all tokens."""
    trained = learner(data=(batches(2, last=1), None), made=model(), accumulate=2)
    losses, count = 0.0, 0
    made = copy.deepcopy(trained.model).train()
    for batch in batches(2, last=1):
        losses += loss_of(output(made, batch), batch.targets).item() * batch.targets.numel()
        count += batch.targets.numel()

    assert count == ROWS * (5 + 1)
    assert find_lr(trained).losses[0] == pytest.approx(losses / count, rel=1e-6)
