"""What a language model hands on: its words in another vocabulary, and its layers."""

from __future__ import annotations

import json

import pytest
import torch

import etude
from etude import text
from etude.data.vocab import Vocab
from etude.errors import ConfigError, LoadError
from etude.text.special import PAD, SPECIAL
from etude.text.transfer import match_words, pretrained
from tiny_texts import SMALL, WEAK, corpus, labeled, reviews

SIZED = {name: value for name, value in SMALL.items() if name not in ("embed_dim", "hidden_dim", "num_layers")}
VECTORS, BIAS = "encoder.embedding.weight", "decoder.bias"


def language_model(**settings) -> etude.Learner:
    settings = {"data": corpus(), **SMALL, **settings}
    return text.language_model(settings.pop("data"), **settings)


def weights_of(old: Vocab) -> dict[str, torch.Tensor]:
    return {
        VECTORS: torch.randn(len(old), 3),
        BIAS: torch.randn(len(old)),
        "encoder.rnns.0.weight_hh": torch.randn(len(old), len(old)),
    }


def test_words_are_matched_by_name_and_new_ones_are_the_mean():
    """SPEC R18: 'house' keeps its row and its bias wherever it stands; a word never seen gets the mean of all."""
    old, new = Vocab([*SPECIAL, "house", "tree", "sky"]), Vocab([*SPECIAL, "sea", "sky", "house"])
    weights = weights_of(old)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    matched, report = match_words(weights, old, new)

    for name in (VECTORS, BIAS):
        for word in (*SPECIAL, "sky", "house"):
            assert torch.equal(matched[name][new.number(word)], before[name][old.number(word)])
        torch.testing.assert_close(matched[name][new.number("sea")], before[name].mean(0))
    assert torch.equal(matched["encoder.rnns.0.weight_hh"], before["encoder.rnns.0.weight_hh"])
    # the state dict is not changed
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert (report.found, report.new, report.dropped) == (10, 1, 1)
    assert repr(report) == (
        "10 of 11 words found in the weights; 1 new ones begin as the mean, 1 of its own are not used"
    )


def test_the_same_vocabulary_changes_nothing():
    old = Vocab([*SPECIAL, "house", "tree"])
    weights = weights_of(old)

    matched, _ = match_words(weights, old, Vocab(list(old)))
    assert all(torch.equal(matched[name], weights[name]) for name in weights)


def test_a_vocabulary_with_no_word_in_common_is_refused():
    made = [{"tokenizer": {"name": "words"}}, {"tokenizer": {"name": "subwords"}}]
    old, new = Vocab([*SPECIAL, "a"], made_by=made[0]), Vocab([*SPECIAL, "b"], made_by=made[1])

    with pytest.raises(ConfigError, match=r"none of the 9 words .* These are by subwords, those by words"):
        match_words(weights_of(old), old, new)


@pytest.mark.parametrize("how", ["learner", "folder"])
def test_a_classifier_begins_with_the_encoder(how, tmp_path, capsys):
    lm = language_model()
    lm.save(tmp_path / "lm")
    vocab = Vocab([*reversed(list(lm.data.vocab)), "xxnew"], made_by=lm.data.vocab.made_by)
    learner = text.classifier(labeled(vocab), encoder=lm if how == "learner" else tmp_path / "lm", **SIZED)
    own, theirs = learner.model.state_dict(), lm.model.state_dict()

    assert torch.equal(own[VECTORS][vocab.number("film")], theirs[VECTORS][lm.data.vocab.number("film")])
    assert "1 new ones begin as the mean, 0 of its own are not used" in capsys.readouterr().out
    for name in theirs:
        if name.startswith("encoder.rnns."):
            assert torch.equal(own[name], theirs[name])
    # the language model is left alone: it shares no tensor
    own[VECTORS].zero_()
    own["encoder.rnns.0.weight_hh"].zero_()
    assert theirs[VECTORS].any()
    assert theirs["encoder.rnns.0.weight_hh"].any()
    assert learner.model.encoder.pad == vocab.number(PAD)


def test_a_language_model_goes_on_with_other_texts(tmp_path):
    lm = language_model()
    texts = [f"{one} A book." for one in reviews(60, 2)[0]]
    again = text.language_model(corpus(texts), pretrained=lm, **SIZED)
    old, new = lm.data.vocab, again.data.vocab
    own, theirs = again.model.state_dict(), lm.model.state_dict()

    assert torch.equal(own[BIAS][new.number("film")], theirs[BIAS][old.number("film")])
    torch.testing.assert_close(own[VECTORS][new.number("book")], theirs[VECTORS].mean(0))
    assert old.get("book") is None
    assert torch.equal(own["encoder.rnns.1.weight_ih"], theirs["encoder.rnns.1.weight_ih"])


def test_the_average_of_the_weights_is_taken_over():
    lm = language_model(average=etude.EMA(0.5))
    lm.fit(1, lr=1e-2)
    learner = text.classifier(labeled(lm.data.vocab), encoder=lm, **SIZED)
    with lm.averaged():
        expected = lm.model.encoder.rnns[0].weight_hh.clone()

    assert torch.equal(learner.model.encoder.rnns[0].weight_hh, expected)
    assert not torch.equal(lm.model.encoder.rnns[0].weight_hh, expected)


def test_another_direction_is_refused():
    lm = language_model(data=corpus(backward=True))

    with pytest.raises(ConfigError, match="reads texts backward, and these data are read forward"):
        text.classifier(labeled(lm.data.vocab), encoder=lm, **SIZED)
    text.classifier(labeled(lm.data.vocab, backward=True), encoder=lm, **SIZED)


def test_other_sizes_are_refused():
    lm = language_model()

    with pytest.raises(ConfigError, match=r"cannot be changed to .*'hidden_dim': 99"):
        text.classifier(labeled(lm.data.vocab), encoder=lm, hidden_dim=99, **SIZED)
    with pytest.raises(ConfigError, match="cannot be changed"):
        text.language_model(lm.data, pretrained=lm, num_layers=3, **SIZED)
    text.classifier(labeled(lm.data.vocab), encoder=lm, **SMALL)  # the same sizes may be said


def test_what_is_no_language_model_is_refused(tmp_path):
    classifier = text.classifier(labeled(), **SMALL)
    classifier.save(tmp_path / "classifier")

    with pytest.raises(ConfigError, match="no language model; only a classifier can begin from it"):
        text.language_model(corpus(), pretrained=classifier, **SIZED)
    text.classifier(labeled(), encoder=tmp_path / "classifier", **SIZED)
    plain = etude.Learner(
        torch.nn.Linear(2, 2), [(torch.zeros(2, 2), torch.zeros(2))], torch.nn.MSELoss(), torch.optim.SGD
    )
    with pytest.raises(ConfigError, match="this learner has a Linear"):
        pretrained(plain)
    with pytest.raises(LoadError, match="holds a run; name it"):
        text.classifier(labeled(), encoder=tmp_path, **SIZED)


def test_an_adaptive_softmax_is_for_its_own_vocabulary():
    lm = language_model(cutoffs=[12])
    lm.fit(1, lr=1e-3)

    text.classifier(labeled(Vocab([*lm.data.vocab, "xxnew"])), encoder=lm, **SIZED)
    assert text.language_model(lm.data, pretrained=lm, **SIZED).model.decoder.cutoffs == (12,)
    with pytest.raises(ConfigError, match="adaptive softmax"):
        text.language_model(corpus(reviews(9)[0]), pretrained=lm, **SIZED)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(model=None),
        lambda found: found.update(read=None),
        lambda found: found["read"].pop("tokens"),
        lambda found: found["read"].update(tokens=found["read"]["tokens"][:-1]),
        lambda found: found["model"]["encoder"].update(hidden_dim=10**9),
    ],
)
def test_a_damaged_folder_is_refused(change, tmp_path):
    lm = language_model()
    lm.save(tmp_path)
    found = json.loads((tmp_path / "model.json").read_text())
    change(found)
    (tmp_path / "model.json").write_text(json.dumps(found))

    with pytest.raises(LoadError, match=str(tmp_path)):
        text.classifier(labeled(lm.data.vocab), encoder=tmp_path, **SIZED)


@pytest.mark.slow
def test_pretraining_helps():
    """An encoder that has read such texts sees more in few labeled ones after the same training of a head."""
    sizes = {**SMALL, "embed_dim": 24, "hidden_dim": 32}
    lm = text.language_model(corpus(reviews(300)[0], batch_size=8), dropouts=WEAK, **sizes)
    lm.fit(4, lr=2e-2, momentum=(0.8, 0.7))
    results = []
    for encoder in (lm, None):
        learner = text.classifier(
            labeled(lm.data.vocab, num=100, batch_size=8), encoder=encoder, dropouts=WEAK, **sizes
        )
        learner.fine_tune(3, lr=2e-2)
        results.append(learner.evaluate()["cross_entropy"])

    assert results[0] < 0.7 * results[1]
