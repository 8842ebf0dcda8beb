"""A classifier reads long texts in chunks: what comes out is what each text alone, read at once, would give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from etude.errors import ConfigError
from etude.text.awd_lstm import AWDLSTM
from etude.text.classifier import HeadNorm, TextClassifier, end_together, pool
from etude.text.dropout import Dropouts
from etude.training.optimizer import layer_groups

PAD = 1
WORDS = 20
QUIET = Dropouts(0, 0, 0, 0, 0)


def encoder(dropouts: Dropouts = QUIET) -> AWDLSTM:
    torch.manual_seed(1)
    return AWDLSTM(WORDS, 4, 6, 2, pad=PAD, dropouts=dropouts)


def classifier(bptt: int = 5, max_backprop: int = 1000, dropouts: Dropouts = QUIET, p: float = 0.0) -> TextClassifier:
    model = TextClassifier(encoder(dropouts), 3, hidden=7, output_p=p, hidden_p=p, bptt=bptt, max_backprop=max_backprop)
    # statistics that are not those of the beginning
    for norm in (model.head[0], model.head[4]):
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.5, 2)
    return model


def texts(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    tokens = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(2, WORDS, (length,))
    return tokens, torch.tensor(lengths)


def textbook(model: TextClassifier, text: torch.Tensor) -> torch.Tensor:
    """The features of one text, read at once by torch's own LSTM: last, max, mean. Source: SPEC R22."""
    outputs = model.encoder.embedding.weight[text].unsqueeze(0)
    for rnn in model.encoder.rnns:
        lstm = nn.LSTM(rnn.weight_ih.shape[1], rnn.hidden_dim, batch_first=True)
        lstm.load_state_dict({f"{name}_l0": tensor for name, tensor in rnn.state_dict().items()})
        outputs, _ = lstm(outputs)
    outputs = outputs[0]
    return torch.cat([outputs[-1], outputs.max(0).values, outputs.mean(0)])


@pytest.mark.parametrize("bptt", [1, 3, 5, 100])
def test_a_text_is_read_as_torch_would(bptt):
    model = classifier(bptt).eval()
    tokens, lengths = texts(13, 2, 7)
    seen = []
    model.head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(tokens, lengths)
        expected = torch.stack([textbook(model, row[:length]) for row, length in zip(tokens, lengths, strict=True)])

    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("order", ["longest first", "shortest first", "mixed"])
def test_a_padded_batch_equals_each_text_alone(order):
    """SPEC R27, and error 24 of its section 11: rows need not be sorted."""
    lengths = {"longest first": [23, 11, 10, 5, 1], "shortest first": [1, 5, 10, 11, 23], "mixed": [10, 1, 23, 5, 11]}
    model = classifier().eval()
    tokens, counts = texts(*lengths[order])
    with torch.no_grad():
        together = model(tokens, counts)
        alone = [model(tokens[i : i + 1, :length], counts[i : i + 1]) for i, length in enumerate(counts.tolist())]

    torch.testing.assert_close(together, torch.cat(alone))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 17), min_size=1, max_size=6), st.integers(1, 9), st.integers(0, 4))
def test_of_any_lengths_and_with_more_padding_than_needed(lengths, bptt, more):
    model = classifier(bptt).eval()
    tokens, counts = texts(*lengths)
    wide = nn.functional.pad(tokens, (0, more), value=PAD)
    with torch.no_grad():
        alone = [model(tokens[i : i + 1, :length], counts[i : i + 1]) for i, length in enumerate(lengths)]

        torch.testing.assert_close(model(wide, counts), torch.cat(alone))


def test_what_stands_in_padding_changes_nothing():
    model = classifier().eval()
    tokens, lengths = texts(12, 3)
    other = tokens.clone()
    other[1, 3:] = torch.randint(2, WORDS, (9,))

    assert torch.equal(model(tokens, lengths), model(other, lengths))


def test_an_empty_text_is_one_of_padding():
    model = classifier().eval()
    tokens, _ = texts(4, 1)
    tokens[1] = PAD
    given = model(tokens, torch.tensor([4, 0]))

    assert given.isfinite().all()
    assert torch.equal(given, model(tokens, torch.tensor([4, 1])))


def test_texts_end_in_the_same_chunk():
    tokens = torch.tensor([[5, 6, 7, 8, 9], [3, 4, 1, 1, 1], [2, 3, 4, 1, 1]])
    moved, real = end_together(tokens, torch.tensor([5, 2, 3]), 2, PAD)

    assert moved.tolist() == [[5, 6, 7, 8, 9, 1], [1, 1, 1, 1, 3, 4], [1, 1, 2, 3, 4, 1]]
    assert torch.equal(real, moved != PAD)


def test_pooling_is_what_a_loop_over_rows_gives():
    outputs = torch.randn(3, 8, 4, dtype=torch.double) - 3  # below zero, so that a zero would be seen
    real = torch.tensor([[0, 0, 0, 0, 1, 1, 0, 0], [1] * 8, [0, 0, 1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    pooled = pool(outputs[:, 4:], real[:, 4:], pool(outputs[:, :4], real[:, :4], None))

    torch.testing.assert_close(
        pooled.largest, torch.stack([row[mask].amax(0) for row, mask in zip(outputs, real, strict=True)])
    )
    torch.testing.assert_close(
        pooled.total, torch.stack([row[mask].sum(0) for row, mask in zip(outputs, real, strict=True)])
    )


def test_half_precision_leaves_the_mean_alone():
    """Under autocast a product is bfloat16, with a rounding larger than what tells one text from another."""
    outputs, real = torch.randn(2, 500, 4).bfloat16().float() + 100, torch.ones(2, 500, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        total = pool(outputs, real, None).total

    assert total.dtype == torch.float32
    torch.testing.assert_close(total, outputs.sum(1))
    assert pool(outputs.bfloat16(), real, None).total.dtype == torch.float32


def test_statistics_of_the_head_are_those_of_the_training_from_its_first_batch_on():
    """Features of a millionth in variance are nothing beside the 1 that torch's begin with."""
    norm, theirs = HeadNorm(3), nn.BatchNorm1d(3)
    batches = 1e-3 * torch.randn(40, 16, 3) + 0.01
    mean = variance = torch.zeros(3)
    for i, batch in enumerate(batches):
        torch.testing.assert_close(norm(batch), theirs(batch))
        share = max(3 / (i + 3), 0.1)
        mean, variance = mean.lerp(batch.mean(0), share), variance.lerp(batch.var(0), share)
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-12)
    norm.eval()

    assert int(norm.num_batches_tracked) == 40
    assert norm.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(
        norm(batches[0]).std(0), batches[0].std(0) / (variance + norm.eps).sqrt(), rtol=1e-3, atol=0
    )


# -- gradients --------------------------------------------------------------------------------------------------------


def embedding_grads(model: TextClassifier, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Of each place of the batch: a model in which every place has a word of its own."""
    num = tokens.numel()
    own = torch.arange(num).view_as(tokens) + 2
    torch.manual_seed(3)
    model.encoder.embedding.weight = nn.Parameter(torch.randn(num + 2, 4))
    model(own, lengths).square().sum().backward()
    return model.encoder.embedding.weight.grad[2:].view(*tokens.shape, 4).abs().sum(2)


def test_the_end_of_every_text_is_trained_on_short_or_long():
    """A short text in a batch of long ones would else train nothing."""
    model = classifier(bptt=5, max_backprop=10)
    tokens, lengths = texts(30, 6, 10, 17)
    grads = embedding_grads(model, tokens, lengths)
    trained = [row.nonzero().flatten().tolist() for row in grads]

    # whole chunks of five, two of them: the last chunk of a text may be a shorter one
    assert trained == [list(range(20, 30)), list(range(6)), list(range(10)), list(range(10, 17))]


def test_a_text_no_longer_than_max_backprop_is_trained_on_whole():
    for length in (9, 10, 11, 14, 15, 19, 20):
        tokens, lengths = texts(length, 3)
        grads = embedding_grads(classifier(bptt=5, max_backprop=20), tokens, lengths)

        assert (grads[0] > 0).all()


def test_no_gradient_passes_to_the_chunk_before():
    """SPEC R23: the state is handed on, its gradient is not; only maximum and mean reach earlier chunks."""
    model = classifier(bptt=5)
    tokens, lengths = texts(10, 10)
    with torch.no_grad():
        model.head[2].weight[:, 4:] = 0  # the head sees the last output only
    grads = embedding_grads(model, tokens, lengths)

    assert (grads[:, :5] == 0).all()
    assert (grads[:, 5:] > 0).all()


def test_gradients_are_those_of_the_plain_computation():
    """In float64, of a text within one chunk, and of the pooled mean and maximum over several."""
    model = classifier(bptt=50).double().eval()
    tokens, lengths = texts(12, 3)
    model(tokens, lengths).square().sum().backward()
    given = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    rows = []
    for row, length in zip(tokens, lengths, strict=True):
        outputs = model.encoder.embedding.weight[row[:length]].unsqueeze(0)
        for rnn in model.encoder.rnns:
            outputs, _ = rnn(outputs, tuple(torch.zeros(1, 1, rnn.hidden_dim, dtype=torch.double) for _ in "hc"))
        rows.append(torch.cat([outputs[0, -1], outputs[0].amax(0), outputs[0].mean(0)]))
    model.head(torch.stack(rows)).square().sum().backward()

    for name, parameter in model.named_parameters():
        torch.testing.assert_close(given[name], parameter.grad, msg=name)


def saved_bytes(model: TextClassifier, length: int) -> int:
    """What a forward pass keeps for its gradients."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    alive = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: alive.append(tensor) or keep(tensor), lambda x: x):
        model(*texts(length, length))
    return sum(kept.values())


def test_memory_does_not_grow_with_the_length_of_a_text():
    """PERF 4.2 row 9: only the last chunks keep what a gradient needs."""
    model = classifier(bptt=10, max_backprop=40)
    short, long, longer = (saved_bytes(model, length) for length in (40, 400, 2000))

    # of its own a longer text has its tokens and its mask, as integers
    assert long < 1.15 * short + 400 * 40
    assert longer - long < 1600 * 40
    assert saved_bytes(classifier(bptt=10, max_backprop=4000), 400) > 4 * long


# -- the module -------------------------------------------------------------------------------------------------------


def test_layer_groups_and_config():
    model = classifier()
    groups = layer_groups(model)

    assert len(groups) == 4  # the embedding, two layers, the head: SPEC R25
    assert groups[0]["params"] == [model.encoder.embedding.weight]
    assert groups[-1]["params"] == list(model.head.parameters())
    again = TextClassifier(
        AWDLSTM.from_config(model.config()["encoder"]),
        **{name: value for name, value in model.config().items() if name not in ("arch", "encoder")},
    )
    again.load_state_dict(model.state_dict())
    assert again.config() == model.config()
    assert torch.equal(again.eval()(*texts(9, 4)), model.eval()(*texts(9, 4)))


def test_the_head_is_that_of_the_notes():
    """SPEC R24: BatchNorm, dropout, linear; ReLU; the same again."""
    head = TextClassifier(encoder(), 2).head

    assert [type(part).__name__ for part in head] == [
        "HeadNorm", "Dropout", "Linear", "ReLU", "HeadNorm", "Dropout", "Linear",
    ]  # fmt: skip
    assert (head[0].num_features, head[2].out_features, head[6].out_features) == (12, 50, 2)
    assert (head[1].p, head[5].p) == (0.4, 0.1)


def test_one_text_cannot_train():
    model = classifier()

    with pytest.raises(ConfigError, match="a batch of one text has no spread"):
        model(*texts(5))
    assert model.eval()(*texts(5)).shape == (1, 3)


@pytest.mark.parametrize("setting", [{"bptt": 0}, {"max_backprop": 0}, {"max_backprop": 10**9}, {"output_p": 1.0}])
def test_refused(setting):
    with pytest.raises(ConfigError, match=r"tokens|dropout"):
        TextClassifier(encoder(), 2, **setting)


def test_dropout_works_in_training_only_and_also_where_no_gradient_is_kept():
    model = classifier(bptt=5, max_backprop=5, dropouts=Dropouts(0, 0.3, 0.3, 0.1, 0.5), p=0.3)
    batch = texts(12, 9, 3)
    model.train()

    assert not torch.equal(model(*batch), model(*batch))
    model.eval()
    assert torch.equal(model(*batch), model(*batch))
