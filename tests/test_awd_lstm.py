"""The layers of the AWD-LSTM: masks that cost little, an LSTM that drops weights, an encoder that keeps nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from etude import Learner, MixUp, optim
from etude.errors import ConfigError
from etude.text import dropout as dropout_module
from etude.text.awd_lstm import AWDLSTM
from etude.text.dropout import Dropouts, VariationalDropout, WordEmbedding, dropout_mask
from etude.text.lstm import WeightDropLSTM
from etude.types import Batch
from reference.lstm import LSTMLayer

WORDS, EMBED, HIDDEN, PAD = 20, 6, 10, 1
NONE = Dropouts(0, 0, 0, 0, 0)
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def encoder(dropouts=NONE, layers=3):
    return AWDLSTM(WORDS, EMBED, HIDDEN, layers, pad=PAD, dropouts=dropouts)


def texts(batch=3, time=7, seed=0):
    return torch.randint(2, WORDS, (batch, time), generator=torch.Generator().manual_seed(seed))


def random_state(batch, hidden=HIDDEN):
    return torch.randn(1, batch, hidden), torch.randn(1, batch, hidden)


# -- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.6])
def test_a_mask_drops_the_share_that_is_asked_for_and_scales_the_rest_exactly(p):
    mask = dropout_mask(torch.empty(()), (501, 999), p)

    deviation = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs(float((mask == 0).double().mean()) - p) < 4.5 * deviation
    assert mask[mask != 0].unique().tolist() == [float(torch.tensor(1 / (1 - p)))]


def test_decisions_of_one_draw_are_independent():
    mask = (dropout_mask(torch.empty(()), (100_000, 4), 0.5) > 0).double()

    assert (torch.corrcoef(mask.T) - torch.eye(4)).abs().max() < 0.02


def test_a_mask_has_any_size_and_type():
    for shape in ((1,), (3, 1, 5), (7,)):
        mask = dropout_mask(torch.empty((), dtype=torch.bfloat16), shape, 0.5)
        assert mask.shape == shape
        assert mask.dtype == torch.bfloat16


def test_variational_dropout_takes_the_same_features_at_all_times_and_others_in_each_row():
    x = torch.ones(50, 9, 40)
    dropped = VariationalDropout(0.5)(x)

    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert len(dropped[:, 0].unique(dim=0)) == 50


@pytest.mark.parametrize("layer", [VariationalDropout(0.5).eval(), VariationalDropout(0.0)])
def test_no_dropout_is_no_work(layer):
    x = torch.ones(2, 3, 4)

    assert layer(x) is x


@pytest.mark.parametrize("p", [-0.1, 1, 1.5, "0.5", True, float("nan")])
def test_probabilities_are_checked(p):
    with pytest.raises(ConfigError, match=r"probability in \[0, 1\)"):
        Dropouts(hidden=p)


# -- words ------------------------------------------------------------------------------------------------------------


def test_whole_words_are_dropped_for_the_batch_and_the_others_scaled():
    torch.manual_seed(1)
    layer = WordEmbedding(WORDS, EMBED, pad=PAD, dropout=0.4)
    tokens = torch.arange(WORDS).repeat(3, 2)
    dropped, plain = layer(tokens), nn.functional.embedding(tokens, layer.weight)
    kept = [bool((dropped[tokens == word] != 0).any()) for word in range(2, WORDS)]

    assert True in kept
    assert False in kept
    for word, stays in zip(range(2, WORDS), kept, strict=True):
        torch.testing.assert_close(dropped[tokens == word], plain[tokens == word] / 0.6 * stays)


def test_embedding_dropout_never_changes_the_weights():
    """SPEC 11, error 22: the lesson's scales them in place, in evaluation too."""
    layer = WordEmbedding(WORDS, EMBED, pad=PAD, dropout=0.5)
    before = layer.weight.detach().clone()
    layer(texts()).sum().backward()
    layer.eval()

    assert torch.equal(layer(texts()), before[texts()])
    assert torch.equal(layer.weight, before)


def test_no_mask_is_as_large_as_the_embedding(monkeypatch):
    seen = []
    whole = dropout_mask
    monkeypatch.setattr(dropout_module, "dropout_mask", lambda x, shape, p: seen.append(shape) or whole(x, shape, p))
    WordEmbedding(WORDS, EMBED, pad=PAD, dropout=0.5)(texts())

    assert seen == [(WORDS,)]


def test_padding_begins_at_zero_and_gets_no_gradient():
    layer = WordEmbedding(WORDS, EMBED, pad=PAD)
    layer(torch.tensor([[PAD, 2]])).sum().backward()

    assert (layer.weight[PAD] == 0).all()
    assert (layer.weight.grad[PAD] == 0).all()
    assert 0.09 < layer.weight.detach().abs().max() <= 0.1
    with pytest.raises(ConfigError, match="not the number of a word"):
        WordEmbedding(WORDS, EMBED, pad=WORDS)


# -- one layer --------------------------------------------------------------------------------------------------------


def test_the_readable_layer_is_torchs_lstm():
    torch_lstm = nn.LSTM(EMBED, HIDDEN, batch_first=True).double()
    layer = LSTMLayer(EMBED, HIDDEN).double().load(*torch_lstm.parameters())
    x, state = torch.randn(3, 7, EMBED).double(), tuple(part.double() for part in random_state(3))
    outputs, (hidden, cell) = layer(x, (state[0][0], state[1][0]))
    expected, after = torch_lstm(x, state)

    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close((hidden[None], cell[None]), after)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_in_evaluation_it_is_nn_lstm_to_the_last_bit(dropout):
    layer = WeightDropLSTM(EMBED, HIDDEN, weight_dropout=dropout).eval()
    plain = nn.LSTM(EMBED, HIDDEN, batch_first=True)
    plain.load_state_dict({f"{name}_l0": layer.get_parameter(name) for name in WEIGHTS})
    x, state = torch.randn(3, 7, EMBED), random_state(3)

    for ours, theirs in zip(layer(x, state)[1], plain(x, state)[1], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(layer(x, state)[0], plain(x, state)[0])


def test_it_drops_hidden_to_hidden_weights_with_one_mask_for_all_steps():
    layer = WeightDropLSTM(EMBED, HIDDEN, weight_dropout=0.5)
    x, state = torch.randn(3, 7, EMBED), random_state(3)
    torch.manual_seed(5)
    outputs, _ = layer(x, state)
    torch.manual_seed(5)
    mask = dropout_mask(layer.weight_hh, layer.weight_hh.shape, 0.5)
    reference = LSTMLayer(EMBED, HIDDEN)
    reference.load(layer.weight_ih, layer.weight_hh * mask, layer.bias_ih, layer.bias_hh)

    torch.testing.assert_close(outputs, reference(x, (state[0][0], state[1][0]))[0])
    assert not torch.equal(outputs, layer(x, state)[0])


def test_gradients_reach_the_weight_itself():
    """SPEC 11, error 21: some versions of the lesson's lost them."""
    layer = WeightDropLSTM(EMBED, HIDDEN, weight_dropout=0.5)
    x, state = torch.randn(3, 7, EMBED), random_state(3)
    torch.manual_seed(5)
    layer(x, state)[0].sum().backward()
    torch.manual_seed(5)
    mask = dropout_mask(layer.weight_hh, layer.weight_hh.shape, 0.5)

    assert ((layer.weight_hh.grad != 0) == (mask != 0)).all()


def test_a_training_step_leaves_nothing_special_behind():
    """SPEC 11, error 21: the lesson's holds a tensor with a graph then, cannot be frozen, counts a weight twice."""
    layer = WeightDropLSTM(EMBED, HIDDEN)
    layer(torch.randn(3, 7, EMBED), random_state(3))[0].sum().backward()

    assert list(layer.state_dict()) == [name for name, _ in layer.named_parameters()] == list(WEIGHTS)
    assert all(parameter.is_leaf for parameter in layer.parameters())
    copied = copy.deepcopy(layer)
    layer.requires_grad_(False)
    layer(torch.randn(3, 7, EMBED), random_state(3))
    assert copied.weight_hh.requires_grad
    assert copied.weight_hh.data_ptr() != layer.weight_hh.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_type_of_weights(dtype):
    layer = WeightDropLSTM(EMBED, HIDDEN).to(dtype)
    outputs, state = layer(torch.randn(3, 7, EMBED, dtype=dtype), random_state(3))
    outputs.float().sum().backward()

    assert outputs.dtype == layer.weight_hh.grad.dtype == dtype
    assert state[0].dtype == torch.promote_types(dtype, torch.float32)


# -- the encoder ------------------------------------------------------------------------------------------------------


def test_the_last_layer_is_as_wide_as_the_word_vectors():
    sizes = [(rnn.weight_ih.shape[1], rnn.hidden_dim) for rnn in encoder().rnns]

    assert sizes == [(EMBED, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, EMBED)]


def test_two_chunks_are_one_text():
    model, tokens = encoder().eval(), texts()
    whole, _, end = model.encode(tokens)
    first, _, state = model.encode(tokens[:, :3])
    second, _, after = model.encode(tokens[:, 3:], state)

    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(after, end)


def test_encoding_is_a_function():
    model, tokens = encoder(Dropouts()), texts()
    before = copy.deepcopy(model.state_dict())
    state = model.zero_state(3)
    model.encode(tokens, state)

    assert all((part == 0).all() for layer in state for part in layer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(dict(model.named_buffers())) == []


def test_a_batch_of_one_and_a_single_token():
    """SPEC 11, error 22: the lesson's has no state for a first batch of one row."""
    outputs, dropped, state = encoder().encode(torch.tensor([[3]]))

    assert outputs.shape == dropped.shape == (1, 1, EMBED)
    assert [part.shape for layer in state for part in layer] == [(1, 1, w) for w in (10, 10, 10, 10, EMBED, EMBED)]


def test_dropouts_stand_where_the_paper_has_them():
    tokens = texts(time=30)
    for name in ("output", "hidden", "input", "embed", "weight"):
        model = encoder(Dropouts(**{**vars(NONE), name: 0.5}))
        raw, dropped, _ = model.encode(tokens)
        assert torch.equal(raw, model.encode(tokens)[0]) == (name == "output"), name
        assert torch.equal(raw, dropped) == (name != "output"), name
        model.eval()
        assert torch.equal(model.encode(tokens)[1], model.encode(tokens)[0])


def test_its_config_builds_it_again():
    model = encoder(Dropouts(0.1, 0.2, 0.3, 0.05, 0.4), layers=2)
    again = AWDLSTM.from_config(model.config())

    assert again.config() == model.config()
    again.load_state_dict(model.state_dict())
    assert again.dropouts == model.dropouts
    with pytest.raises(ConfigError, match="hidden_dim=0"):
        AWDLSTM(WORDS, hidden_dim=0, pad=PAD)


# -- MixUp of word vectors --------------------------------------------------------------------------------------------


class Pooled(nn.Module):
    """The mean output over a text, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.encoder = encoder(layers=1)
        self.head = nn.Linear(EMBED, 2)
        self.seen = []

    def forward(self, tokens):
        self.seen.append(tokens)
        return self.head(self.encoder.encode(tokens)[0].mean(1))


def test_mixup_mixes_word_vectors_and_leaves_tokens_alone():
    """SPEC M10."""
    tokens = texts(4, 6)
    data = [Batch({"tokens": tokens}, torch.tensor([0, 1, 0, 1]))]
    model = Pooled()
    learner = Learner(
        model, (data, data), nn.CrossEntropyLoss(), optim.adamw(), callbacks=[MixUp(at="encoder.embedding")],
        progress=False,
    )  # fmt: skip
    vectors = []
    model.encoder.input_dropout.register_forward_hook(lambda module, inputs, output: vectors.append(output.detach()))
    before = nn.functional.embedding(tokens, model.encoder.embedding.weight.detach().clone())
    learner.fit(1, lr=1e-2)

    assert all(torch.equal(seen, tokens) for seen in model.seen)
    mixed, in_validation = vectors
    away = (mixed - before).flatten(1).norm(dim=1)
    assert (away > 0).any()
    for i in range(4):
        # each is on the way to one of the others, half of it at most
        ways = torch.stack([((mixed[i] - before[i]) * (other - before[i])).sum() for other in before])
        other = before[int(ways.argmax())] - before[i]
        share = float(ways.max() / other.square().sum().clamp(min=1e-9))
        torch.testing.assert_close(mixed[i], before[i] + share * other, rtol=1e-4, atol=1e-5)
        assert share <= 0.5 + 1e-5
    assert torch.equal(in_validation, nn.functional.embedding(tokens, model.encoder.embedding.weight))
