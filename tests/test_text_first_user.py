"""What someone new meets first: nothing to read, hardly anything, or no texts at all; said in plain words."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

import etude as library
from coloring import etude
from etude import cli, text
from etude.errors import ConfigError, DataError
from etude.recipes import classify_text
from etude.recipes.text_options import ClassifierTrainOptions, LabeledTextOptions, TextModelOptions
from etude.runs.read import read_run
from etude.text.reading import clean, read_text
from etude.text.samples import unknown_share
from etude.text.sources import find
from etude.text.tokenizers import Spaces
from etude.training.optimizer import optimizer_of
from etude.training.transfer import describe_phase
from etude.training.tuning import TuningPhase
from text_runs import classifier, language_model, save_reviews, save_run
from tiny_texts import reviews


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Reviews in `reviews`, a run of a classifier of them in `run`, and of a language model in `lm`."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("texts")
    data = save_reviews(place / "reviews", 40)
    save_run(classifier(data, 1), place / "run", data, "text classifier")
    save_run(language_model(data), place / "lm", data, "language model")
    return place


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "home"))


# -- nothing, or hardly anything --------------------------------------------------------------------------------------


def test_an_empty_text_gets_no_answer(place, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "t.csv").write_text('text\ngreat\n" "\n')
    done = etude("predict", place / "run", tmp_path / "empty.txt", tmp_path / "t.csv", "--text", "", "--format", "json")
    rows = [json.loads(line) for line in done.out.splitlines()]

    assert done.code == 1
    assert f"skipped: {tmp_path}/empty.txt holds no text" in done.errors
    assert f"skipped: {tmp_path}/t.csv/2 holds no text" in done.errors
    assert ["error" in row for row in rows] == [True, False, True, True]
    with pytest.raises(DataError, match="empty text"):
        library.load(place / "run", device="cpu").predict("\0 ")


def test_a_bundle_gives_an_empty_text_no_answer(place, tmp_path):
    from etude.exports.read_text_bundle import Bundle

    assert etude("export", place / "run", "--out", tmp_path / "bundle", "--quiet").code == 0
    bundle = Bundle(tmp_path / "bundle")
    for empty in ("", " \0\n"):
        with pytest.raises(ValueError, match="holds no text"):
            bundle.predict(empty)


@pytest.mark.parametrize(("texts", "words"), [([], "texts= holds no text"), (["One."], "holds one text only")])
def test_too_few_texts_do_not_blame_the_split(texts, words):
    with pytest.raises(DataError, match=words):
        text.load(texts=texts, progress=False)


def test_an_empty_table_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"t\.csv holds no text"):
        text.load(tmp_path / "t.csv", labels="auto", valid=0.2, progress=False)


def test_a_vocabulary_without_words_is_refused():
    for settings in ({"max_vocab": 8}, {"min_freq": 1000}):
        with pytest.raises(ConfigError, match="no word comes into the vocabulary: max_vocab="):
            text.load(texts=reviews(40)[0], progress=False, **settings)


def test_many_unknown_words_are_told(capsys):
    few = text.load(texts=[f"good a{i}x b{i}y c{i}z" for i in range(40)], batch_size=2)
    share = unknown_share(few.train.store, few.train.rows, few.vocab)

    assert share > 0.3
    assert f"note: {share:.0%} of the tokens are unknown" in capsys.readouterr().out
    text.load(texts=reviews(60)[0], batch_size=2)
    assert "are unknown" not in capsys.readouterr().out


def test_the_last_line_of_a_training_says_how_many_words_are_unknown(place, tmp_path, monkeypatch):
    monkeypatch.setattr("etude.runs.record.draw_curves", lambda *_: None)
    small = ["--embed-dim", "8", "--hidden-dim", "8", "--num-layers", "1", "--batch-size", "4", "--bptt", "10"]
    done = etude("lm", place / "reviews", *small, "--max-vocab", "24", "--epochs", "1", "--run-dir", tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())

    assert done.code == 0, done.errors
    assert 0 < result["unknown"] < 1
    assert f"words guessed, {result['unknown']:.1%} of them unknown" in done.out


def test_an_epoch_of_few_steps_is_told(capsys):
    texts, labels = reviews(60)
    text.load(texts=texts, batch_size=8, valid=0.2)
    assert "of 8 rows of 70 tokens; a smaller batch size makes more of few texts" in capsys.readouterr().out
    text.load(texts=zip(texts, labels, strict=True), batch_size=16, valid=0.2)
    assert "an epoch is 4 steps of 16 texts" in capsys.readouterr().out
    text.load(texts=zip(texts, labels, strict=True), batch_size=64, valid=0.2)
    assert "the batch is the whole set" in capsys.readouterr().out
    text.load(texts=texts, batch_size=2, bptt=10, valid=0.2)
    assert "step" not in capsys.readouterr().out


# -- something else ---------------------------------------------------------------------------------------------------


def test_what_is_no_text_is_left_out_and_every_reason_told(tmp_path):
    save_reviews(tmp_path / "texts", 20)
    (tmp_path / "texts" / "pos" / "pic.txt").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "texts" / "pos" / "wide.txt").write_bytes("good film".encode("utf-16-le"))
    data = text.load(tmp_path / "texts", progress=False, batch_size=2)

    told = {name: (outcome, reason.split(":")[0]) for name, outcome, reason in data.incidents}
    assert told == dict.fromkeys(("pos/pic.txt", "pos/wide.txt"), ("skipped", "is no text"))
    assert clean("a\0b\ufffd\ufffd").told == "NULs were taken out, signs that could not be decoded: 1, 2"
    (tmp_path / "latin.txt").write_bytes("ein schönes Stück".encode("latin-1"))
    assert read_text(tmp_path / "latin.txt").told == "signs that could not be decoded: 2"


def test_one_class_of_a_table_names_its_column(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n" + "good,positive\n" * 10)
    with pytest.raises(DataError, match=r"the column 'label' of .*t\.csv holds one class only .*'positive'"):
        text.load(tmp_path / "t.csv", labels="auto", valid=0.2, progress=False)
    with pytest.raises(DataError, match="in memory holds one class only"):
        text.load(texts=[("good", "pos")] * 10, valid=0.2, progress=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [("nosuch", "nosuch does not exist"), ("a.xyz", "is no file of texts"), ("cifar10", "is a data set of pictures")],
)
def test_data_that_is_not_there_says_what_is_expected(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    Path("a.xyz").touch()
    with pytest.raises(DataError, match=words) as caught:
        text.load(name, progress=False)
    said = str(caught.value)
    assert ".csv" in said
    assert ".txt" in said
    assert "imdb" in said
    assert "cifar10" not in said.removeprefix("cifar10")


@pytest.mark.parametrize("command", ["evaluate", "predict", "generate"])
def test_a_run_that_is_not_there_is_said_not_to_exist(tmp_path, command):
    done = etude(command, tmp_path / "no", *(["x"] if command != "evaluate" else []))
    assert done.code == 1
    assert f"{tmp_path / 'no'} does not exist" in done.errors


# -- what is said of texts --------------------------------------------------------------------------------------------


def test_a_model_without_norms_has_none_that_train(place):
    said = describe_phase(library.load(place / "lm", device="cpu"), TuningPhase(epochs=1, lr=0.1, trained=1))
    assert said.startswith("the head trains (")
    classifies = describe_phase(library.load(place / "run", device="cpu"), TuningPhase(epochs=1, lr=0.1, trained=1))
    assert "the norms of the rest train" in classifies


def test_a_warning_of_ours_has_no_place_in_the_code(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(cli, "run_command", lambda arguments: 0)
    with pytest.raises(SystemExit):
        cli.main([])

    assert warnings.formatwarning("so it is", UserWarning, cli.__file__, 3) == "warning: so it is\n"
    assert "other.py:3: UserWarning" in warnings.formatwarning("so it is", UserWarning, "other.py", 3)


def test_a_classifier_is_no_run_to_generate_from(place):
    done = etude("generate", place / "run", "The")
    assert done.code == 2
    assert f"{place / 'run'} is a classifier of texts" in done.errors
    assert "name the run of a language model" in done.errors
    assert etude("generate", place / "lm", "The", "--temperature", "0").errors.count("must be") == 1


def test_only_the_wrong_setting_of_generate_is_named(place):
    with pytest.raises(ConfigError, match=r"^num_tokens must be a whole number from 0 on, got -1$"):
        text.generate(library.load(place / "lm", device="cpu"), "The", num_tokens=-1)


def test_texts_without_held_out_ones_ask_for_a_share():
    with pytest.raises(ConfigError, match=r"such as valid=0\.2$"):
        text.load(texts=[("a", "b"), ("c", "d")], progress=False)


def test_evaluate_speaks_of_texts(place, tmp_path):
    (tmp_path / "t.csv").write_text("text,label\nIt was great.,pos\n")
    done = etude("evaluate", place / "run", "--data", tmp_path / "t.csv", "--json")

    assert done.code == 0, done.errors
    assert "tta" not in done.json
    assert "1 text of" in done.out
    assert "valid tokens" not in done.out
    assert "1 texts (" not in done.out
    assert "left out of training" not in etude("evaluate", place / "run").out


# -- asked for, and taken as it was meant -----------------------------------------------------------------------------


def pairs(num: int) -> list[tuple[str, str]]:
    return list(zip(*reviews(num), strict=True))


@pytest.mark.parametrize(
    ("command", "flag", "times"), [("classify-text", "--drop-mult", "2.0"), ("ulmfit", "--lm-drop-mult", "4.0")]
)
def test_what_a_dropout_cannot_be_is_told_before_anything_is_trained(command, flag, times, place, tmp_path):
    done = etude(command, place / "reviews", flag, times, "--run-dir", tmp_path / "run", "--quiet")

    assert done.code == 2
    assert f"{flag} {times} is too much: the" in done.errors
    assert not (tmp_path / "run").exists()


def test_texts_train_without_weight_decay_unless_asked(place):
    train = ClassifierTrainOptions(device="cpu")
    data = LabeledTextOptions(data=str(place / "reviews"), valid_pct=0.25)
    learner = classify_text.training(data, str(place / "lm"), TextModelOptions(), train).learner(quiet=True)

    assert {group["weight_decay"] for group in optimizer_of(learner, reset=False).param_groups} == {0.0}


@pytest.mark.parametrize("run", ["run", "lm"])
def test_what_compares_runs_speaks_of_texts(place, run):
    assert read_run(place / run).noun == "text"


def test_one_rate_for_all_reaches_the_last_phase(place):
    train = ClassifierTrainOptions(all_lr=0.02, epochs=3)
    data = LabeledTextOptions(data=str(place / "reviews"))
    phases = classify_text.training(data, str(place / "lm"), TextModelOptions(), train).all_phases()

    assert (phases[-1].lr, phases[-1].epochs, phases[-1].trained) == (0.02, 3, None)
    assert phases[0].lr == train.lr


def test_a_rate_of_no_phase_is_refused(place):
    done = etude(
        *("classify-text", place / "reviews", "--lm", place / "lm", "--lr", 0.1, "--all-lr", 0.01),
        *("--freeze-epochs", 0, "--quiet"),
    )

    assert done.code == 2
    assert "--lr has no effect here" in done.errors


def test_columns_are_told_by_their_flags(tmp_path):
    (tmp_path / "a.csv").write_text("id,body\n1,a\n")

    assert "holds the texts: --text-column\n" in etude("lm", tmp_path / "a.csv", "--quiet").errors


def test_a_column_that_only_later_rows_have_counts(tmp_path):
    rows = [{"text": f"text {i}"} for i in range(3)] + [{"text": "held out", "is_valid": True}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))

    assert find(tmp_path / "a.jsonl", label=None).sides == (False, False, False, True)


def test_the_column_that_is_called_just_so_is_taken(tmp_path):
    (tmp_path / "a.csv").write_text("Text,text\nwrong,right\n")
    corpus = find(tmp_path / "a.csv", label=None, text_column="text")

    assert [found.text for found in corpus.stream([0])] == ["right"]


def test_a_tokenizer_that_no_saved_model_could_find_is_refused_at_once():
    class Own(Spaces.__base__):
        pass

    with pytest.raises(ConfigError, match=r"Own is not one of etude's"):
        text.load(texts=reviews(8)[0], tokenizer=Own())


def test_words_of_a_learner_and_a_tokenizer_beside_them(place):
    lm = library.load(place / "lm", device="cpu")
    data = text.load(texts=pairs(8), valid=0.5, vocab=lm, tokenizer="words", progress=False)

    assert data.read.vocab == lm.data.read.vocab
    with pytest.raises(ConfigError, match="by the tokenizer 'words', and tokenizer= is 'subwords'"):
        text.load(texts=pairs(8), valid=0.5, vocab=lm, tokenizer="subwords", progress=False)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_class_weights_of_other_types(dtype, place):
    lm = library.load(place / "lm", device="cpu")
    data = text.load(texts=pairs(16), valid=0.5, vocab=lm, batch_size=4, progress=False)
    learner = text.classifier(data, encoder=lm, class_weights=torch.tensor([1, 3], dtype=dtype), progress=False)

    learner.fit(1, 1e-3)
    assert torch.equal(learner.loss_fn.weight, torch.tensor([1.0, 3.0]))
