"""Language models and classifiers of texts, as a user makes, trains, saves and asks them."""

from __future__ import annotations

import doctest
import json
import math
import shutil

import pytest
import torch

import etude
from etude import text
from etude.errors import ConfigError, DataError
from etude.text.dropout import Dropouts
from etude.training import tuning
from etude.training.optimizer import layer_groups
from etude.training.transfer import in_phase, run_phases
from etude.training.tuning import TuningPhase, corpus_phases, ulmfit_phases
from tiny_texts import GOOD, TEXTS, both_trained, classifier, corpus, labeled, language_model, reviews


@pytest.fixture(scope="module")
def trained() -> dict[str, etude.Learner]:
    return both_trained()


# -- training ---------------------------------------------------------------------------------------------------------


def test_a_language_model_learns(trained):
    rows = trained["lm"].history.rows

    assert list(rows[0]) == ["epoch", "train_loss", "valid_loss", "valid_accuracy", "valid_perplexity", "seconds"]
    # of 29 tokens; five nouns and four words for each opinion cannot be guessed, most of the rest can
    assert rows[-1]["valid_perplexity"] < 4 < 12 < math.exp(rows[0]["train_loss"])
    assert rows[-1]["valid_perplexity"] == pytest.approx(math.exp(rows[-1]["valid_loss"]))


def test_a_classifier_learns(trained):
    assert trained["classifier"].history.rows[-1]["valid_accuracy"] > 0.9


def test_defaults_are_those_of_the_notes():
    """SPEC R12, R17, R26: dropouts, clipping, Adam without weight decay."""
    lm, reader = language_model(drop_mult=0.5), classifier(drop_mult=0.5)
    lm.fit(1, lr=1e-3)

    assert lm.model.encoder.dropouts == Dropouts(output=0.05, hidden=0.075, input=0.125, embed=0.01, weight=0.1)
    assert reader.model.encoder.dropouts == Dropouts(output=0, hidden=0.15, input=0.2, embed=0.025, weight=0.25)
    assert reader.model.config()["output_p"] == 0.2
    assert [callback.config() for callback in lm.callbacks] == [{"max_norm": 0.1}]
    assert {(group["weight_decay"], group["eps"]) for group in lm.optimizer.param_groups} == {(0, 1e-5)}
    assert language_model(clip=None).callbacks == ()


def test_sizes_are_those_of_ulmfit_unless_said():
    model = text.language_model(corpus(), device="cpu", progress=False).model

    assert model.encoder.config() | {"dropouts": 0, "vocab_size": 0} == {
        "vocab_size": 0, "embed_dim": 400, "hidden_dim": 1152, "num_layers": 3, "pad": 1, "dropouts": 0,
    }  # fmt: skip


def test_new_weights_depend_on_the_seed_of_the_data_alone():
    first = classifier().model.state_dict()
    torch.manual_seed(99)
    second = classifier().model.state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_groups_and_discriminative_rates():
    """SPEC T-C2 and error 12 of its section 11: three groups, and a rate for each of them is used."""
    lm = language_model()
    lm.fit(1, lr=[1e-3, 1e-3, 2e-3], schedule=etude.flat)

    assert len(layer_groups(lm.model)) == 3
    assert [group["lr"] for group in lm.optimizer.param_groups if group["params"][0].ndim > 1] == [1e-3, 1e-3, 2e-3]
    with pytest.raises(ConfigError, match="2 schedules of lr for 3 layer groups"):
        lm.fit(1, lr=[1e-3, 2e-3])


def test_embeddings_can_be_mixed():
    """SPEC M10: MixUp behind the embedding, in every chunk of a text."""
    learner = classifier(callbacks=[etude.MixUp(0.4, at="encoder.embedding")], bptt=5)

    assert math.isfinite(learner.fit(1, lr=1e-3).rows[0]["train_loss"])


def test_rare_classes_can_count_as_much():
    learner = classifier(class_weights="balanced")
    weights, targets = learner.loss_fn.weight, learner.data.train.targets

    assert torch.allclose(weights[targets].mean(), torch.tensor(1.0))
    assert torch.allclose(weights * torch.bincount(targets), torch.tensor(len(targets) / 2))
    assert list(learner.metrics) == ["accuracy", "cross_entropy", "balanced_accuracy", "macro_f1"]
    assert torch.equal(classifier(class_weights=[1.0, 3.0]).loss_fn.weight, torch.tensor([1.0, 3.0]))


@pytest.mark.parametrize("weights", ["equal", [1.0], [1.0, 2.0, 3.0], ["a", "b"], 3])
def test_weights_that_are_none(weights):
    with pytest.raises(ConfigError, match="class_weights must be"):
        classifier(class_weights=weights)


def test_data_of_the_other_kind_are_refused():
    with pytest.raises(ConfigError, match=r"a classifier needs data of text.load\(...\) with labels"):
        classifier(data=corpus())
    with pytest.raises(ConfigError, match="without labels"):
        language_model(data=labeled())


# -- phases -----------------------------------------------------------------------------------------------------------


def test_examples():
    names = ("ulmfit_phases", "corpus_phases")
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for name in names:
        for example in finder.find(getattr(tuning, name), name, globs=vars(tuning)):
            runner.run(example)

    assert (runner.failures, runner.tries) == (0, 2)


def test_the_table_of_gradual_unfreezing():
    """SPEC R26, to the last figure, as what is really trained and at which rates."""
    learner = classifier()
    groups = [group["params"] for group in layer_groups(learner.model)]
    phases = ulmfit_phases(4)
    trained = []
    for phase in phases:
        with in_phase(learner, phase):
            trained.append([all(one.requires_grad for one in group) for group in groups])

    assert trained == [[False, False, False, True], [False, False, True, True], [True] * 4]
    assert [phase.lr for phase in phases] == [1e-2, (2.5e-3, 2.5e-3, 2.5e-3, 5e-3), (1.25e-4, 2.5e-4, 5e-4, 1e-3)]
    assert [(phase.epochs, phase.momentum, phase.pct_start) for phase in phases] == [
        (1, (0.8, 0.7), 0.3), (1, (0.8, 0.7), 0.3), (2, (0.8, 0.7), 0.3),
    ]  # fmt: skip
    # and with the three layers of the full size
    assert [phase.trained for phase in ulmfit_phases(5)] == [1, 2, None]
    assert ulmfit_phases(4, freeze_epochs=0) == phases[2:]
    with pytest.raises(ConfigError, match="at least 3 layer groups"):
        ulmfit_phases(2)


def test_a_language_model_trains_its_words_first():
    """SPEC R19: one epoch in which the layers stand still."""
    lm = language_model()
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    first, second = corpus_phases(3, num_epochs=1)
    run_phases(lm, [first])
    after = lm.model.state_dict()

    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"encoder.embedding.weight", "decoder.bias"}
    assert (first.lr, second.lr, first.pct_start) == (2e-2, (1e-3, 1e-3, 2e-3), 0.5)
    assert corpus_phases(3, freeze_epochs=0)[0].trained is None


def test_the_momentum_of_a_phase_is_used_and_recorded():
    seen = []

    class Watch(etude.Callback):
        def before_step(self, learner):
            seen.append(learner.optimizer.param_groups[0]["betas"][0])

    learner = classifier(callbacks=[Watch()])
    learner.fine_tune(1, lr=1e-3, momentum=(0.8, 0.7), gradual=True)

    assert max(seen) == 0.8
    assert 0.7 <= min(seen) < 0.72
    phase = TuningPhase(lr=(1e-3, 1e-2), momentum=(0.8, 0.7))
    assert TuningPhase.of(json.loads(json.dumps(vars(phase)))) == phase


class Stop(etude.Callback):
    decides_training = False

    def after_step(self, learner, batch, output):
        if learner.progress.phase == 1 and learner.progress.fit_step == 3:
            raise RuntimeError("the power is gone")


@pytest.mark.parametrize("kind", ["language model", "classifier"])
def test_a_training_in_phases_goes_on_where_it_was_stopped(kind, tmp_path):
    """In the middle of an epoch of the second phase, bit for bit: dropout, and the state that a stream carries."""

    def run(*callbacks, **more) -> etude.Learner:
        torch.manual_seed(7)
        data = corpus(reviews(20)[0]) if kind == "language model" else labeled(num=60)
        learner = (language_model if kind == "language model" else classifier)(data=data, drop_mult=0.5)
        learner.fine_tune(
            1, lr=1e-2, callbacks=[etude.Checkpoints(tmp_path / str(len(more)), every=2), *callbacks], **more
        )
        return learner

    whole = run()
    shutil.rmtree(tmp_path / "0")
    with pytest.raises(RuntimeError, match="the power"):
        run(Stop())
    resumed = run(resume=tmp_path / "0")

    assert resumed.history.rows[-1]["valid_loss"] == whole.history.rows[-1]["valid_loss"]
    for (name, one), (_, other) in zip(whole.model.named_buffers(), resumed.model.named_buffers(), strict=True):
        assert torch.equal(one, other), name
    for name, one in whole.model.state_dict().items():
        assert torch.equal(one, resumed.model.state_dict()[name]), name


# -- prediction -------------------------------------------------------------------------------------------------------


def test_texts_files_and_folders_are_predicted_in_their_order(trained, tmp_path):
    learner = trained["classifier"]
    for i, one in enumerate(TEXTS):
        (tmp_path / f"{i}.txt").write_text(one)
    together, one = learner.predict(TEXTS), learner.predict(TEXTS[1])

    assert [answer.label for answer in together] == ["pos", "neg", "neg", "pos"]
    assert (one.label, one.probability) == ("neg", pytest.approx(together[1].probability, abs=1e-6))
    assert learner.predict(tmp_path / "0.txt").label == "pos"
    found = learner.predict(tmp_path)
    torch.testing.assert_close(found.output, together.output)
    assert [name[-5:] for name in found.names] == ["0.txt", "1.txt", "2.txt", "3.txt"]
    # a text that names a file is a text
    assert learner.predict(str(tmp_path / "0.txt")).probability != learner.predict(tmp_path / "0.txt").probability


def test_validation_texts_are_predicted_in_the_order_of_the_data(trained):
    """SPEC B9: they are read longest first."""
    learner = trained["classifier"]
    valid = learner.data.valid
    predictions = learner.predict()
    some = learner.predict([valid.store[row] for row in valid.rows[:5].tolist()])

    assert torch.equal(predictions.targets, valid.targets)
    torch.testing.assert_close(predictions.output[:5], some.output)
    assert predictions.num_right / len(predictions) == pytest.approx(learner.evaluate()["accuracy"])


def test_long_texts_beside_short_ones(trained):
    learner = trained["classifier"]
    long = " ".join([GOOD] * 300)

    assert learner.predict([long, TEXTS[1]])[0].probability == pytest.approx(
        learner.predict(long).probability, abs=1e-5
    )


def test_a_language_model_does_not_predict(trained):
    for items in ("a text", ["a text"], None):
        with pytest.raises(ConfigError, match=r"etude.text.generate\(learner, prompt\).*learner.evaluate\(\)"):
            trained["lm"].predict(items)


@pytest.mark.parametrize("ids", [[], [-1], [2, 10**6]])
def test_ids_that_are_none_are_refused(trained, ids):
    with pytest.raises(DataError, match="ids of a text are from 0 to"):
        trained["classifier"].predict(torch.tensor(ids, dtype=torch.long))
