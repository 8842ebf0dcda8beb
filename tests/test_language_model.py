"""A language model carries its state from batch to batch, and is penalized in training only."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from etude.errors import ConfigError
from etude.text.dropout import Dropouts, dropout_mask
from etude.text.language_model import LanguageModelLoss, LMOutput
from language_models import EMBED, HIDDEN, ROWS, TIME, WORDS, batches, loss_of, model, output
from reference.lstm import Masks, awd_lstm_loss

# -- the mathematics --------------------------------------------------------------------------------------------------


def masks_of(made, seed):
    """The masks that a forward pass draws after this seed, in the order in which it does."""
    torch.manual_seed(seed)
    drops, like = made.encoder.dropouts, made.encoder.embedding.weight
    embed = dropout_mask(like, (WORDS,), drops.embed)
    first = dropout_mask(like, (ROWS, 1, EMBED), drops.input)
    weights, hidden = [], []
    for i, rnn in enumerate(made.encoder.rnns):
        weights.append(dropout_mask(like, rnn.weight_hh.shape, drops.weight))
        if i == 0:
            hidden.append(dropout_mask(like, (ROWS, 1, HIDDEN), drops.hidden))
    return Masks(embed, first, weights, hidden, dropout_mask(like, (ROWS, 1, EMBED), drops.output))


def test_loss_and_every_gradient_are_those_of_the_textbook():
    """All five dropouts, AR, TAR, tied weights and a carried state, against a per-step form in float64."""
    made = model(Dropouts(0.4, 0.2, 0.6, 0.1, 0.5)).double()
    state = [(torch.randn(ROWS, width).double(), torch.randn(ROWS, width).double()) for width in (HIDDEN, EMBED)]
    for own, (hidden, cell) in zip(made._carried(), state, strict=True):
        own[0].copy_(hidden)
        own[1].copy_(cell)
    batch = batches(2)[1]
    masks = masks_of(made, 7)
    torch.manual_seed(7)
    loss = loss_of(output(made, batch), batch.targets)
    loss.backward()
    weights = {name: part.detach().clone().requires_grad_() for name, part in made.named_parameters()}
    expected = awd_lstm_loss(weights, masks, batch.inputs["tokens"], batch.targets, state, 2.0, 1.0)
    expected.backward()

    torch.testing.assert_close(loss, expected)
    for name, part in made.named_parameters():
        torch.testing.assert_close(part.grad, weights[name].grad, msg=lambda text, name=name: f"{name}: {text}")


def test_ar_sees_the_dropped_output_and_tar_the_raw_one_along_time():
    """SPEC 11, error 23, and R13: the paper penalizes what dropout has left."""
    preds = LMOutput(*torch.randn(2, ROWS, TIME, EMBED), torch.randn(WORDS, EMBED), torch.zeros(WORDS))
    targets = batches()[0].targets
    plain = F.cross_entropy(preds.logits().flatten(0, 1), targets.flatten())
    along = (preds.raw[:, 1:] - preds.raw[:, :-1]).square().mean()

    torch.testing.assert_close(loss_of(preds, targets, ar=0, tar=0), plain)
    torch.testing.assert_close(loss_of(preds, targets, ar=3, tar=0), plain + 3 * preds.dropped.square().mean())
    torch.testing.assert_close(loss_of(preds, targets, ar=0, tar=3), plain + 3 * along)


def test_in_evaluation_there_is_no_penalty():
    """SPEC 11, error 23: the lesson's validation loss holds both."""
    made, batch = model().eval(), batches()[0]
    preds = output(made, batch)
    plain = F.cross_entropy(preds.logits().flatten(0, 1), batch.targets.flatten())

    torch.testing.assert_close(loss_of(preds, batch.targets, training=False), plain)


def test_a_chunk_of_one_token_has_no_change_along_time():
    preds = LMOutput(*torch.randn(2, ROWS, 1, EMBED), torch.randn(WORDS, EMBED), torch.zeros(WORDS))
    targets = torch.zeros(ROWS, 1, dtype=torch.long)

    torch.testing.assert_close(loss_of(preds, targets, tar=5.0), loss_of(preds, targets, tar=0.0))


@pytest.mark.parametrize("options", [{"ar": -1}, {"tar": -0.1}, {"head": "fp16"}])
def test_the_losss_settings_are_checked(options):
    with pytest.raises(ConfigError):
        LanguageModelLoss(**options)


# -- the carried state ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [1, ROWS])
def test_a_batch_goes_on_where_the_last_one_stopped(training, rows):
    """Also with a single row (SPEC 11, error 22)."""
    made, stream = model().train(training), batches(3, rows=rows)
    parts = [output(made, batch).raw.detach() for batch in stream]
    whole, _, state = made.encoder.encode(torch.cat([batch.inputs["tokens"] for batch in stream], 1))

    torch.testing.assert_close(torch.cat(parts, 1), whole)
    if training:
        torch.testing.assert_close(made._carried(), state)


def test_rows_begin_anew_where_the_batch_says_so():
    """SPEC 11, error 22: the lesson's goes on from the last epoch, and from training into validation."""
    made, (first, second, *_) = model(), batches()
    output(made, first)
    starts = torch.tensor([False, True, False])
    mixed = made(second.inputs["tokens"], starts).raw
    output(model(), first)
    fresh = made.encoder.encode(second.inputs["tokens"])[0]
    made = model()
    output(made, first)
    going_on = output(made, second).raw

    torch.testing.assert_close(mixed[1], fresh[1])
    torch.testing.assert_close(mixed[[0, 2]], going_on[[0, 2]])
    assert not torch.allclose(going_on[1], fresh[1])


def test_not_even_nan_outlives_a_beginning():
    made, batch = model(), batches()[0]
    for part in made.buffers():
        part.fill_(torch.nan)

    assert output(made, batch).raw.isfinite().all()


def test_validation_leaves_the_state_of_training_alone():
    made, (first, second, *_) = model(), batches()
    output(made, first)
    before = [part.clone() for part in made.buffers()]
    made.eval()
    output(made, first)
    made(torch.full((5, 2), 3), torch.ones(5, dtype=torch.bool))
    made.train()

    assert all(torch.equal(part, kept) for part, kept in zip(made.buffers(), before, strict=True))
    again = model()
    output(again, first)
    assert torch.equal(output(made, second).raw, output(again, second).raw)


def test_no_gradient_goes_back_over_the_edge_of_a_batch():
    made, (first, second, *_) = model(), batches()
    for batch in (first, second):
        loss_of(output(made, batch), batch.targets).backward()

    assert all(not part.requires_grad for part in made.buffers())


def test_another_number_of_rows_begins_anew():
    made = model()
    output(made, batches(rows=ROWS)[0])
    raw = output(made, batches(2, rows=5)[1]).raw

    torch.testing.assert_close(raw, made.encoder.encode(batches(2, rows=5)[1].inputs["tokens"])[0])
    assert {part.shape[1] for part in made.buffers()} == {5}


def test_the_state_dict_holds_every_weight_once_and_no_state():
    made = model()
    output(made, batches()[0])

    assert list(made.state_dict()) == [name for name, _ in made.named_parameters()]
    assert sum("embedding" in name or "decoder" in name for name in made.state_dict()) == 2
    assert [name for name, _ in made.named_buffers()] == ["state_0_h", "state_0_c", "state_1_h", "state_1_c"]


def test_a_copy_goes_on_by_itself():
    made, (first, second, *_) = model(), batches()
    for training in (True, False):
        made.train(training)
        loss_of(output(made, first), first.targets)
    copied = copy.deepcopy(made.train())
    expected = output(made, second).raw

    assert torch.equal(output(copied, second).raw, expected)


def test_layer_groups_are_the_lessons():
    """SPEC T-C2: each LSTM layer, then the word vectors and the decoder that shares them."""
    made = model()
    groups = [[id(part) for part in group] for group in made.layer_groups()]
    rnns = [[id(part) for part in rnn.parameters()] for rnn in made.encoder.rnns]

    assert groups == [*rnns, [id(made.encoder.embedding.weight), id(made.decoder.bias)]]


def test_a_step_is_a_function_of_tokens_and_state():
    made = model(Dropouts()).eval()
    tokens = batches()[0].inputs["tokens"]
    before = {name: part.clone() for name, part in made.named_buffers()}
    whole, _ = made.step(tokens)
    _, state = made.step(tokens[:, :3])
    for i in (3, 4):
        logits, state = made.step(tokens[:, i : i + 1], state)

    torch.testing.assert_close(logits, whole)
    assert all(torch.equal(part, before[name]) for name, part in made.named_buffers())
    assert logits.shape == (ROWS, WORDS)


def test_it_needs_no_loss_of_ours():
    made, batch = model(), batches()[0]
    nn.CrossEntropyLoss()(output(made, batch).logits().transpose(1, 2), batch.targets).backward()

    assert made.encoder.embedding.weight.grad is not None
