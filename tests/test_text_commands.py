"""Trainings on texts from the command line: language models, classifiers, all of ULMFiT, stopped and resumed."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

import etude as library
from coloring import etude
from etude.recipes import lm as language_model
from etude.recipes.asked import training_of
from etude.recipes.lr_find import command_of
from etude.recipes.text_options import LanguageModelTrainOptions, TextModelOptions, TextOptions
from stopped_commands import digest, read, stopped_after
from writing import SMALL, save_texts

LABELED = ["--valid-pct", "0.25", "--batch-size", "4", "--bptt", "8"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Two topics of 24 texts."""
    return save_texts(tmp_path_factory.mktemp("texts") / "texts")


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    """Curves take longer to draw than so short a training."""
    monkeypatch.setattr("etude.runs.record.draw_curves", lambda *_: None)


@pytest.fixture(scope="module")
def lm(texts, tmp_path_factory) -> Path:
    """The run of a language model."""
    folder = tmp_path_factory.mktemp("lm") / "run"
    assert etude("lm", texts, *SMALL, "--epochs", "2", "--run-dir", folder, "--quiet").code == 0
    return folder


def test_a_language_model_says_its_perplexity_and_writes(texts, lm):
    result = read(lm / "result.json")

    assert result["perplexity"] == pytest.approx(math.exp(result["valid_loss"]))
    assert isinstance(result["sample"], str)
    assert read(lm / "config.json")["training"]["kind"] == "language model"


def test_a_record_makes_the_same_training_again(lm):
    recorded = read(lm / "config.json")["training"]

    assert json.loads(json.dumps(training_of(recorded).record())) == recorded
    with pytest.raises(KeyError, match="warmth"):
        training_of({**recorded, "train": {**recorded["train"], "warmth": 3}})


def test_generate_goes_on_from_a_prompt(lm):
    one, again = (etude("generate", lm, "the dog", "--num-tokens", "8", "--json") for _ in range(2))

    assert one.json["text"].lower().startswith("the dog")
    assert one.out == again.out
    assert one.out.splitlines()[0] == one.json["text"].splitlines()[0]
    assert etude("generate", lm, "the dog", "--temperature", "0").code == 2


def test_a_classifier_is_unfrozen_from_its_head_on(texts, lm, tmp_path):
    done = etude("classify-text", texts, "--lm", lm, *LABELED, "--epochs", "2", "--run-dir", tmp_path / "run", "--json")

    assert done.code == 0, done.errors
    config = read(tmp_path / "run" / "config.json")
    trained = [phase["trainable"] for phase in config["phases"]]
    assert done.json["epochs"] == config["epochs"] == 4
    assert trained == sorted(trained)
    assert trained[0] < trained[1] < trained[2] == config["phases"][2]["parameters"]
    assert config["body"]["from"] == str(lm.absolute())
    assert done.json["valid_right"] == round(done.json["valid_accuracy"] * done.json["valid_samples"])


def test_a_language_model_goes_on_from_another_one(texts, lm, tmp_path):
    other = save_texts(tmp_path / "other", per_topic=12)
    (other / "animals" / "99.txt").write_text("Zebras graze. Zebras graze again.\n")
    flags = ["--batch-size", "4", "--bptt", "8", "--min-freq", "1", "--valid-pct", "0.25", "--epochs", "1"]
    done = etude("lm", other, "--from", lm, *flags, "--run-dir", tmp_path / "run", "--json")

    assert done.code == 0, done.errors
    assert "words found in" in done.out
    phases = read(tmp_path / "run" / "config.json")["phases"]
    assert len(phases) == 2
    assert phases[0]["trainable"] < phases[1]["trainable"] == phases[1]["parameters"]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (
            ["lm", "--from", "{lm}", "--embed-dim", "20"],
            2,
            "--embed-dim has no effect here: the language model of --from",
        ),
        (
            ["classify-text", "--lm", "{lm}", "--max-vocab", "9"],
            2,
            "--max-vocab has no effect here: the language model",
        ),
        (["classify-text", "--lm", "{lm}", "--backward"], 2, "reads forward, and this training backward; leave out"),
        (["lm", "--from", "{texts}"], 1, "holds no model.safetensors"),
        (["lm", "--device", "warp"], 2, "device 'warp' cannot be used"),
        (["classify-text"], 2, "--valid-pct"),
        (["classify-text", "--label", "(nothing)", "--valid-pct", "0.2"], 1, "(nothing)"),
        (["ulmfit"], 2, "--valid-pct"),
        (["ulmfit", "--label", "(nothing)", "--valid-pct", "0.2"], 1, "(nothing)"),
        (["generate", "{texts}"], 1, "holds no model.safetensors"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line_before_anything_is_made(texts, lm, tmp_path, command, code, words):
    name, *rest = (part.format(lm=lm, texts=texts) for part in command)
    place = [] if name == "generate" else [texts]
    folder = [] if name == "generate" else ["--run-dir", tmp_path / "run"]
    done = etude(name, *place, *rest, *folder)

    assert done.code == code
    assert words in done.errors
    assert not (tmp_path / "run").exists()


# -- stopped and resumed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 9, 16])
def test_a_stopped_language_model_goes_on_to_the_same_bits(texts, lm, tmp_path, monkeypatch, steps):
    with stopped_after(steps, monkeypatch):
        etude("lm", texts, *SMALL, "--epochs", "2", "--run-dir", tmp_path / "cut")
    done = etude("resume", tmp_path / "cut", "--json")

    assert done.code == 0, done.errors
    assert digest(tmp_path / "cut") == digest(lm)
    assert done.json["perplexity"] == read(lm / "result.json")["perplexity"]


def test_a_stopped_classifier_goes_on_in_its_phase(texts, lm, tmp_path, monkeypatch):
    shutil.copytree(lm, tmp_path / "lm")
    command = ["classify-text", texts, "--lm", tmp_path / "lm", *LABELED, "--epochs", "1"]
    assert etude(*command, "--run-dir", tmp_path / "whole").code == 0
    with stopped_after(13, monkeypatch):
        etude(*command, "--run-dir", tmp_path / "cut")
    # its checkpoints have all that it needs of the language model
    shutil.rmtree(tmp_path / "lm")
    assert etude("resume", tmp_path / "cut").code == 0

    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_seeds_are_summed_up(texts, tmp_path):
    done = etude("lm", texts, *SMALL, "--epochs", "1", "--seeds", "2", "--run-dir", tmp_path / "runs", "--json")

    assert done.code == 0, done.errors
    parts = [read(tmp_path / "runs" / f"seed-{seed}" / "result.json") for seed in (42, 43)]
    assert done.json["valid_perplexities"] == [part["perplexity"] for part in parts]
    assert done.json["valid_perplexity"] == pytest.approx(sum(done.json["valid_perplexities"]) / 2)
    assert parts[0]["perplexity"] != parts[1]["perplexity"]


# -- all of ULMFiT ----------------------------------------------------------------------------------------------------

ULMFIT = [*SMALL, "--epochs", "1", "--lm-epochs", "1"]


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory) -> Path:
    """Both ways of reading."""
    folder = tmp_path_factory.mktemp("ulmfit") / "run"
    done = etude("ulmfit", texts, *ULMFIT, "--both", "--run-dir", folder, "--json")
    assert done.code == 0, done.errors
    assert "both ways, averaged" in done.out
    return folder


def test_every_stage_is_a_run_of_its_own(whole):
    result = read(whole / "result.json")
    stages = ["lm", "classifier", "backward-lm", "backward-classifier"]

    assert [stage["stage"] for stage in result["stages"]] == stages
    for stage in stages:
        assert len(library.load(whole / stage).data.vocab) >= 2
        config = read(whole / stage / "config.json")
        assert config["training"]["data"]["backward"] is stage.startswith("backward")
    assert result["perplexity"] == read(whole / "lm" / "result.json")["perplexity"]
    assert result["valid_accuracy"] == read(whole / "classifier" / "result.json")["valid_accuracy"]
    assert result["backward_accuracy"] == read(whole / "backward-classifier" / "result.json")["valid_accuracy"]


def test_the_pair_is_the_mean_of_both(whole):
    """Of the held-out texts, which both trainings hold out alike."""
    parts = [
        training_of(read(whole / name / "config.json")["training"]) for name in ("classifier", "backward-classifier")
    ]
    valid = [part.learner(quiet=True).data.valid for part in parts]
    files = [Path(parts[0].data.data) / name for name in valid[0].names]
    models = [library.load(whole / name) for name in ("classifier", "backward-classifier")]
    mean = sum(model.predict(files).output for model in models) / 2
    right = mean.argmax(1).eq(valid[0].targets).double().mean()

    assert valid[0].names == valid[1].names
    assert float(right) == pytest.approx(read(whole / "result.json")["pair_accuracy"])


@pytest.mark.parametrize("steps", [pytest.param(3, marks=pytest.mark.slow), 12])
def test_a_stopped_ulmfit_goes_on_with_its_stage_and_the_rest(texts, whole, tmp_path, monkeypatch, steps):
    with stopped_after(steps, monkeypatch):
        monkeypatch.chdir(texts.parent)
        etude("ulmfit", texts.name, *ULMFIT, "--both", "--run-dir", tmp_path / "before")
    # and is moved, and resumed from elsewhere
    monkeypatch.chdir(tmp_path)
    shutil.move(tmp_path / "before", tmp_path / "cut")
    done = etude("resume", tmp_path / "cut", "--json")

    assert done.code == 0, done.errors
    for stage in ("lm", "classifier", "backward-lm", "backward-classifier"):
        assert digest(tmp_path / "cut" / stage) == digest(whole / stage)
    assert done.json["pair_accuracy"] == read(whole / "result.json")["pair_accuracy"]


def test_ulmfit_begins_from_a_language_model(texts, lm, tmp_path):
    flags = ["--batch-size", "4", "--bptt", "8", "--valid-pct", "0.25", "--epochs", "1", "--lm-epochs", "1"]
    done = etude("ulmfit", texts, "--lm", lm, *flags, "--run-dir", tmp_path / "run", "--json")

    assert done.code == 0, done.errors
    assert [stage["stage"] for stage in done.json["stages"]] == ["tuned", "classifier"]
    assert read(tmp_path / "run" / "tuned" / "config.json")["body"]["from"] == str(lm.absolute())


# -- before a training, and after it ----------------------------------------------------------------------------------


def test_a_plan_tells_each_phase(texts, lm):
    plan = etude("plan", "classify-text", texts, "--lm", lm, *LABELED, "--json")

    assert plan.code == 0, plan.errors
    assert [phase["num_epochs"] for phase in plan.json["phases"]] == [1, 1, 2]
    assert max(plan.json["phases"][0]["rates"]["momentum"]) == pytest.approx(0.8)
    model = etude("plan", "lm", texts, *SMALL, "--epochs", "3", "--json")
    assert model.code == 0, model.errors
    assert model.json["num_epochs"] == 3
    assert model.json["data"]["classes"] is None  # its vocabulary holds tokens
    assert model.json["rates"]["momentum"][0] == pytest.approx(0.8)


def test_the_finder_gives_the_command(texts, lm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--batch-size", "4", "--bptt", "8", "--valid-pct", "0.25", "--min-freq", "1"]
    done = etude("lr-find", "lm", texts, "--from", lm, *flags, "--num-steps", "20", "--json")

    assert done.errors == ""
    assert done.code == (done.json["suggestion"] is None)
    assert len(done.json["lrs"]) > 1
    # the embedding alone trains at four times --lr
    data = TextOptions(data=str(texts), valid_pct=0.25, min_freq=1)
    train = LanguageModelTrainOptions(batch_size=4, bptt=8)
    training = language_model.training(data, str(lm), TextModelOptions(), train)
    flags = "--valid-pct 0.25 --min-freq 1 --batch-size 4 --bptt 8 --lr 2.0e-03"
    assert command_of(training, 8e-3) == f"etude lm {texts} --from {lm} {flags}"


def test_runs_show_and_compare_know_runs_of_texts(texts, lm, tmp_path):
    listed = etude("runs", lm.parent, "--json")
    shown = etude("show", lm, "--json")

    assert listed.code == shown.code == 0, listed.errors + shown.errors
    [row] = listed.json["runs"]
    assert (row["recipe"], row["epochs"]) == ("lm", 2)
    assert shown.json["options"]["bptt"] == 8


@pytest.mark.slow
def test_the_study_holds_the_product_of_batch_and_window(texts, tmp_path):
    command = ["bptt-study", texts, *SMALL, "--halvings", "1", "--seeds", "2", "--run-dir", tmp_path / "study"]
    done = etude(*command, "--json")

    assert done.code == 0, done.errors
    assert [row["variant"] for row in done.json["rows"]] == [
        "batch 4, window 8",
        "batch 8, window 4",
        "batch 2, window 16",
    ]
    assert [row["against"] for row in done.json["rows"]] == [None, "batch 4, window 8", "batch 4, window 8"]
    assert (tmp_path / "study" / "study.png").exists()
