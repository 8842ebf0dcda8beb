"""The last layer with its loss: the fused form is plain cross entropy, in any chunks, on either library."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from etude.errors import ConfigError
from etude.text import gemm, head
from etude.text.head import AdaptiveDecoder, TiedDecoder, adaptive_cross_entropy, adaptive_log_probs
from etude.text.head import linear_cross_entropy as fused

TOKENS, WORDS, EMBED = 13, 50, 16


def parts(dtype=torch.float32, tokens=TOKENS):
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens, EMBED), (WORDS, EMBED), (WORDS,))
    made = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return made, torch.randint(WORDS, (tokens,), generator=generator)


def plain(hidden, weight, bias, targets):
    return F.cross_entropy(F.linear(hidden, weight, bias), targets)


def loss_and_grads(function, made, targets, factor=1.0):
    loss = function(*made, targets)
    return loss, *torch.autograd.grad(loss * factor, [part for part in made if part.requires_grad])


@pytest.mark.parametrize("most", [2**24, WORDS * 5, 1], ids=["one chunk", "chunks of 5", "single tokens"])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_loss_and_gradients_are_those_of_cross_entropy(most, factor, monkeypatch):
    monkeypatch.setattr(head, "_MOST_SCORES", most)
    made, targets = parts(torch.float64)

    torch.testing.assert_close(
        loss_and_grads(fused, made, targets, factor), loss_and_grads(plain, made, targets, factor)
    )


@pytest.mark.parametrize("most", [2**24, WORDS * 5])
def test_onednn_gives_the_same(most, monkeypatch):
    if not gemm._has_onednn():
        pytest.skip("this build of torch has no oneDNN linear")
    monkeypatch.setattr(head, "_MOST_SCORES", most)
    made, targets = parts()
    by_mkl = loss_and_grads(fused, made, targets)
    calls = []
    whole = gemm.onednn_linear
    monkeypatch.setattr(gemm, "onednn_linear", lambda *given: calls.append(1) or whole(*given))
    monkeypatch.setattr(gemm, "_is_faster", lambda: True)

    torch.testing.assert_close(loss_and_grads(fused, made, targets), by_mkl)
    assert calls


def test_without_onednn_torch_makes_the_products(monkeypatch):
    def missing(*given):
        raise AttributeError("no such operator")

    monkeypatch.setattr(gemm, "onednn_linear", missing)
    monkeypatch.setattr(gemm, "_is_faster", lambda: True)
    gemm._has_onednn.cache_clear()
    try:
        assert not gemm._has_onednn()
        made, targets = parts()
        torch.testing.assert_close(loss_and_grads(fused, made, targets), loss_and_grads(plain, made, targets))
    finally:
        gemm._has_onednn.cache_clear()


def test_huge_scores_and_hopeless_words():
    made, targets = parts(torch.float64)
    with torch.no_grad():
        made[0] *= 1000

    found, expected = loss_and_grads(fused, made, targets), loss_and_grads(plain, made, targets)
    assert expected[0] > 500
    torch.testing.assert_close(found, expected)


def test_an_infinite_value_is_not_hidden():
    made, targets = parts()
    with torch.no_grad():
        made[0][2, 1] = torch.inf

    assert not fused(*made, targets).isfinite()


@pytest.mark.parametrize("frozen", [[0], [1], [2], [0, 1], [1, 2]])
def test_what_is_frozen_gets_no_gradient(frozen):
    made, targets = parts()
    for i in frozen:
        made[i].requires_grad_(False)

    torch.testing.assert_close(loss_and_grads(fused, made, targets), loss_and_grads(plain, made, targets))


def test_in_evaluation_no_gradient_is_formed(monkeypatch):
    made, targets = parts()
    monkeypatch.setattr(head._LinearCrossEntropy, "apply", None)
    for most in (2**24, WORDS * 5):
        monkeypatch.setattr(head, "_MOST_SCORES", most)
        with torch.no_grad():
            torch.testing.assert_close(fused(*made, targets), plain(*made, targets))


def test_gradients_are_handed_out_once():
    made, targets = parts()
    loss = fused(*made, targets)
    loss.backward(retain_graph=True)

    with pytest.raises(RuntimeError, match="compute it again"):
        loss.backward()


def test_gradients_add_up_over_batches():
    made, targets = parts()
    for _ in range(2):
        fused(*made, targets).backward()

    torch.testing.assert_close([part.grad / 2 for part in made], list(loss_and_grads(plain, made, targets)[1:]))


def test_in_bfloat16_it_is_nearly_the_same(monkeypatch):
    for most in (2**24, WORDS * 5):
        monkeypatch.setattr(head, "_MOST_SCORES", most)
        made, targets = parts()
        low = loss_and_grads(lambda *given: fused(*given, "bf16"), made, targets)
        for found, expected in zip(low, loss_and_grads(plain, made, targets), strict=True):
            assert found.dtype == torch.float32
            assert (found - expected).norm() < 0.01 * expected.norm()


def test_no_more_scores_than_a_chunk_are_ever_held(monkeypatch):
    sizes = []
    whole = head.linear
    monkeypatch.setattr(head, "linear", lambda x, w, b, out: sizes.append(out.shape) or whole(x, w, b, out))
    monkeypatch.setattr(head, "_MOST_SCORES", WORDS * 5)
    made, targets = parts()
    fused(*made, targets)

    assert [rows for rows, _ in sizes] == [5, 5, 3]


def test_a_tied_decoder_begins_without_bias():
    assert [(name, part.abs().sum().item()) for name, part in TiedDecoder(WORDS).named_parameters()] == [("bias", 0)]


def adaptive(dtype=torch.float64):
    torch.manual_seed(0)
    decoder = AdaptiveDecoder(WORDS, EMBED, (10, 30)).to(dtype)
    hidden = torch.randn(TOKENS, EMBED, dtype=dtype, requires_grad=True)
    return decoder, hidden, decoder.parts(torch.empty(0, EMBED))


@pytest.mark.parametrize("targets", [torch.arange(13) * 4 % 50, torch.zeros(13, dtype=torch.long)], ids=["all", "one"])
def test_the_adaptive_softmax_is_torchs(targets):
    decoder, hidden, (weight, bias, tails) = adaptive()
    loss = adaptive_cross_entropy(hidden, weight, bias, tails, targets)
    expected = decoder.softmax(hidden, targets).loss

    torch.testing.assert_close(loss, expected)
    weights = [hidden, *decoder.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(loss, weights, materialize_grads=True),
        torch.autograd.grad(expected, weights, materialize_grads=True),
    )


def test_its_log_probabilities_are_torchs():
    decoder, hidden, (weight, bias, tails) = adaptive()

    torch.testing.assert_close(adaptive_log_probs(hidden, weight, bias, tails), decoder.softmax.log_prob(hidden))


@pytest.mark.parametrize("cutoffs", [(), (5, 5), (9, 3), (0, 10), (10, 50)])
def test_cutoffs_are_checked(cutoffs):
    with pytest.raises(ConfigError, match="cutoffs must be growing"):
        AdaptiveDecoder(WORDS, EMBED, cutoffs)


def test_clusters_need_features():
    with pytest.raises(ConfigError, match="need 16 features"):
        AdaptiveDecoder(WORDS, 15, (10, 30))
