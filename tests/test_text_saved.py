"""Saved text models: built again they say the same, and what a stranger's file asks for is refused."""

from __future__ import annotations

import json

import pytest
import torch

import etude
from etude import text
from etude.errors import ConfigError, LoadError
from hostile_values import _SHARES, _SIZES
from tiny_texts import BAD, GOOD, TEXTS, both_trained, classifier, labeled, language_model


@pytest.fixture(scope="module")
def trained() -> dict[str, etude.Learner]:
    return both_trained()


def test_a_saved_classifier_says_the_same(trained, tmp_path):
    trained["classifier"].save(tmp_path)
    loaded = etude.load(tmp_path, device="cpu")

    assert torch.equal(loaded.predict(TEXTS).output, trained["classifier"].predict(TEXTS).output)
    assert list(loaded.data.vocab) == ["neg", "pos"]
    assert loaded.evaluate(trained["classifier"].data.valid)["loss"] == trained["classifier"].evaluate()["loss"]


@pytest.mark.parametrize("cutoffs", [None, [12]])
def test_a_saved_language_model_says_the_same(cutoffs, trained, tmp_path):
    lm = trained["lm"] if cutoffs is None else language_model(cutoffs=cutoffs)
    lm.save(tmp_path)
    loaded = etude.load(tmp_path, device="cpu")

    assert text.generate(loaded, "The film") == text.generate(lm, "The film")
    assert loaded.evaluate(lm.data.valid)["loss"] == lm.evaluate()["loss"]
    # its words know how they were made: other texts can be cut the same way
    assert loaded.data.vocab == lm.data.vocab
    assert loaded.data.vocab.made_by == lm.data.vocab.made_by
    assert "probabilities" in json.loads((tmp_path / "model.json").read_text())


def test_subwords_are_learned_from_the_training_texts_and_saved(tmp_path):
    pytest.importorskip("tokenizers")
    for side, words in (("train", "The film was lovely, a lovely film"), ("valid", "zyxwvu zyxwvu")):
        (tmp_path / side).mkdir()
        for i in range(8):
            (tmp_path / side / f"{i}.txt").write_text(words)
    data, again = (
        text.load(tmp_path, tokenizer="subwords", max_vocab=64, batch_size=1, bptt=10, progress=False) for _ in "12"
    )

    assert data.vocab == again.vocab
    assert data.vocab.made_by == again.vocab.made_by
    assert {"▁film", "▁lovely"} <= set(data.vocab)
    assert "zy" not in json.dumps(data.vocab.made_by)
    lm = text.language_model(data, embed_dim=4, hidden_dim=4, num_layers=1, progress=False)
    lm.save(tmp_path / "lm")
    read = etude.load(tmp_path / "lm", device="cpu").data.read
    assert torch.equal(read("A lovely film"), data.read("A lovely film"))


_TOKENS = (3, None, "abc", [1, 2], ["a", "a"], ["xxunk", "xxpad"], {})
PLACES = {
    **{("model", "encoder", name): _SIZES for name in ("vocab_size", "embed_dim", "hidden_dim", "num_layers")},
    ("model", "encoder", "pad"): (-1, 10**9, 1.5, "1", None, True),
    ("model", "encoder", "dropouts"): (None, 3, {}, {"evil": 1}, [0.1] * 5),
    ("model", "encoder", "dropouts", "weight"): (-1, 1, 2, "a", None, 10**400),
    ("model", "encoder", "more"): (1,),
    ("model", "encoder"): (None, 3, [], "x", {}),
    **{("model", name): _SIZES for name in ("num_classes", "hidden", "bptt")},
    ("model", "output_p"): tuple(share for share in _SHARES if share != 0),
    ("model", "arch"): ("os.system", 3, None, [], "language_model", "xresnet18"),
    ("model", "more"): (1,),
    ("model",): (3, [], None, {}, {"arch": "text_classifier"}),
    ("read", "tokens"): _TOKENS,
    ("read", "made_by"): (3, [], "os", {"tokenizer": "os.system"}, {"tokenizer": {"name": "x"}}, {"tokenizer": 3}),
    ("read", "backward"): (0, None, "no", 2),
    ("read", "max_length"): (0, -1, 1.5, "8", []),
    ("read",): (3, [], {}, {"tokens": []}),
    ("vocab",): (["a"], ["a", "a"], [1, 2], 3, "ab"),
    ("probabilities",): ("exec", 3),
}


@pytest.mark.usefixtures("without_type_checks")
def test_a_description_from_a_stranger_is_refused(trained, tmp_path):
    trained["classifier"].save(tmp_path)
    path = tmp_path / "model.json"
    good = path.read_text()
    wrong = []
    for place, values in PLACES.items():
        for value in values:
            found = json.loads(good)
            inner = found
            for name in place[:-1]:
                inner = inner[name]
            # the same value is no lie
            if inner.get(place[-1]) == value and type(inner.get(place[-1])) is type(value):
                continue
            inner[place[-1]] = value
            path.write_text(json.dumps(found))
            try:
                etude.load(tmp_path)
            except LoadError as error:
                if str(tmp_path) not in str(error):
                    wrong.append(f"{place} = {str(value)[:40]}: does not name it: {error}")
            except Exception as error:
                wrong.append(f"{place} = {str(value)[:40]}: {type(error).__name__}: {error}")
            else:
                wrong.append(f"{place} = {str(value)[:40]}: not refused")

    assert not wrong, "\n".join(wrong)


# -- two together -----------------------------------------------------------------------------------------------------


def test_a_pair_answers_with_the_mean_of_its_probabilities(trained):
    forward, vocab = trained["classifier"], trained["lm"].data.vocab
    backward = classifier(data=labeled(vocab, backward=True, num=150))
    both = text.pair(forward, backward)
    one, other = forward.predict(TEXTS), backward.predict(TEXTS)

    torch.testing.assert_close(both.predict(TEXTS).output, (one.output + other.output) / 2)
    torch.testing.assert_close(both.predict(iter(TEXTS)).output, (one.output + other.output) / 2)
    assert both.predict(TEXTS[0]).label in ("neg", "pos")
    assert both.predict(TEXTS[0]).probability == pytest.approx(both.predict(TEXTS)[0].probability, abs=1e-6)
    given, predictions = both.evaluate(), both.predict()
    expected = torch.nn.functional.nll_loss(predictions.output.log(), predictions.targets)
    assert given == {"loss": pytest.approx(expected.item()), "accuracy": predictions.num_right / len(predictions)}


def test_what_makes_no_pair(trained):
    forward, vocab = trained["classifier"], trained["lm"].data.vocab
    with pytest.raises(ConfigError, match="backward=True"):
        text.pair(forward, forward)
    data = labeled(vocab, backward=True, num=150)
    other = classifier(data=data)
    other.data.vocab = etude.Vocab(["pos", "neg"])
    with pytest.raises(ConfigError, match=r"same order, got \['neg', 'pos'\] and \['pos', 'neg'\]"):
        text.pair(forward, other)
    fewer = classifier(data=labeled(vocab, backward=True, num=140))
    with pytest.raises(ConfigError, match="other validation texts"):
        text.pair(forward, fewer).evaluate()


def test_a_pair_sees_the_same_texts_and_not_only_the_same_classes(trained):
    said, vocab = [(GOOD, "pos"), (BAD, "neg")] * 8, trained["lm"].data.vocab
    forward = classifier(data=text.load(texts=said, valid=0.5, vocab=vocab, progress=False))
    others = [(one.replace("film", "cast").replace("end", "plot"), label) for one, label in said]
    both = text.pair(
        forward, classifier(data=text.load(texts=others, valid=0.5, vocab=vocab, progress=False, backward=True))
    )

    assert torch.equal(both.backward.data.valid.targets, forward.data.valid.targets)
    for ask in (both.predict, both.evaluate):
        with pytest.raises(ConfigError, match="other validation texts"):
            ask()


def test_the_loss_of_a_sure_pair_is_finite(trained):
    """Probabilities that float32 rounds to 0 have a logarithm."""
    vocab = trained["lm"].data.vocab
    both = text.pair(*(classifier(data=labeled(vocab, backward=ends)) for ends in (False, True)))
    for learner in (both.forward, both.backward):
        with torch.no_grad():
            learner.model.head[6].weight.zero_()
            learner.model.head[6].bias.copy_(torch.tensor([0.0, 1000.0]))
    share = float((both.forward.data.valid.targets == 0).double().mean())

    assert both.evaluate() == {"loss": pytest.approx(1000 * share), "accuracy": pytest.approx(1 - share)}
