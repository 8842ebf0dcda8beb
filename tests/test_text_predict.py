"""`etude predict` and `etude evaluate` of text models: every way to name texts, in order, and honest numbers."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import etude as library
from coloring import etude
from etude.data.store import RaggedStore
from etude.errors import ConfigError
from etude.recipes import predict as recipe
from etude.recipes.items import items_of
from etude.recipes.labeled_texts import refuse_unused
from etude.recipes.text_options import (
    ClassifierTrainOptions,
    LabeledTextOptions,
    LanguageModelTrainOptions,
    TextOptions,
)
from etude.recipes.text_training import TextTraining
from etude.recipes.texts import told
from etude.text.batching import stream_to_measure
from etude.text.data import load
from run_folders import make_run
from text_runs import HELD_OUT, classifier, language_model, save_reviews, save_run
from tiny_texts import reviews

GOOD, BAD = "The film was lovely, I liked it.", "The film was awful, I hated it."


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Reviews in `reviews`, a run of a classifier of them in `run`, and of a language model in `lm`."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("texts")
    data = save_reviews(place / "reviews")
    save_run(classifier(data), place / "run", data, "text classifier")
    save_run(language_model(data), place / "lm", data, "language model")
    return place


def rows(*arguments: object) -> list[dict]:
    done = etude("predict", *map(str, arguments), "--format", "json")
    assert done.code == 0, done.errors
    return [json.loads(line) for line in done.out.splitlines()]


# -- predict ----------------------------------------------------------------------------------------------------------


def test_files_folders_tables_and_texts_come_in_the_order_in_which_they_are_named(place, tmp_path):
    learner = library.load(place / "run", device="cpu")
    (tmp_path / "one.txt").write_text("The film was great, I liked it.")
    (tmp_path / "table.csv").write_text('id,text\n1,"The plot was ""dull"",\nI hated it."\n2,lovely\n')
    (tmp_path / "lines.jsonl").write_text('{"text": "awful"}\n\n{"text": "Superb \\ud83d\\ude00"}\n')
    names = [tmp_path / "lines.jsonl", tmp_path / "one.txt", place / "reviews" / "neg", tmp_path / "table.csv"]
    found = rows(place / "run", *names, "--text", "bad", "--text", "The cast was fine.")
    folder = sorted((place / "reviews" / "neg").glob("*.txt"))

    said = ["awful", "Superb 😀", (tmp_path / "one.txt").read_text(), *(path.read_text() for path in folder)]
    said += ['The plot was "dull",\nI hated it.', "lovely", "bad", "The cast was fine."]
    called = [f"{tmp_path}/lines.jsonl/1", f"{tmp_path}/lines.jsonl/2", f"{tmp_path}/one.txt", *map(str, folder)]
    called += [f"{tmp_path}/table.csv/1", f"{tmp_path}/table.csv/2", "bad", "The cast was fine."]
    assert [row["file"] for row in found] == called
    for row, one in zip(found, said, strict=True):
        alone = learner.predict(one)
        assert (row["label"], row["probability"]) == (alone.label, pytest.approx(alone.probability, abs=2e-6))
    assert {row["label"] for row in found} == {"neg", "pos"}


def test_texts_of_all_lengths_keep_their_order_and_give_what_each_gives_alone(place):
    """More than are sorted together at a time. Source: SPEC R27."""
    learner = library.load(place / "run", device="cpu")
    texts = reviews(300, seed=5, longest=12)[0]
    found = recipe.predict(str(place / "run"), (), text=texts, out=str(place / "many.csv"), device="cpu")
    with (place / "many.csv").open(newline="", encoding="utf-8") as file:
        given = list(csv.DictReader(file))

    assert found["predicted"] == len(given) == 300
    for i in range(0, 300, 7):
        alone = learner.predict(texts[i])
        assert given[i]["label"] == alone.label
        assert float(given[i]["probability"]) == pytest.approx(alone.probability, abs=2e-6)


def test_a_very_long_text_is_not_put_with_short_ones(place):
    learner = library.load(place / "run", device="cpu")
    texts = [torch.zeros(length, dtype=torch.long) for length in (3, 50_000, 40_000, 2, 30_000)]
    batches = list(recipe._of_like_length(learner, texts))

    assert [batch.indices.tolist() for batch in batches] == [[1], [2, 4], [0, 3]]
    assert [tuple(batch.inputs["tokens"].shape) for batch in batches] == [(1, 50_000), (2, 40_000), (2, 3)]


def test_names_on_standard_input_may_be_tables(place, tmp_path, monkeypatch):
    (tmp_path / "t.tsv").write_text(f"review\tstars\n{GOOD}\t5\n{BAD}\t1\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{tmp_path}/t.tsv\n{place}/reviews/pos/none.txt\n"))
    done = etude("predict", place / "run", "-", "--format", "csv")

    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == "file,label,probability,error"
    assert [line.split(",")[1] for line in lines[1:]] == ["pos", "neg", ""]
    assert "none.txt" in lines[3]
    assert "skipped: " in done.errors


def test_what_cannot_be_read_has_a_row_with_its_reason(place, tmp_path):
    (tmp_path / "bad.csv").write_text(f'text,label\n"{GOOD}",1\nawful,1,2\nfine,3\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00bad \x80\x00")
    (tmp_path / "nothing.txt").write_bytes(b"")
    done = etude("predict", place / "run", *sorted(tmp_path.iterdir()), "--format", "json", "--text", "")
    found = {Path(row["file"]).name: row for row in map(json.loads, done.out.splitlines())}

    assert done.code == 1
    assert "3 columns, but the first line has 2" in found["bad.csv"]["error"]
    assert found["1"]["label"] == "pos"
    assert "holds no texts" in found["empty"]["error"]
    assert {"label", "probability"} <= found["bytes.txt"].keys()
    assert found["nothing.txt"]["error"].endswith("nothing.txt holds no text")
    assert "empty text" in found[""]["error"]
    assert etude("predict", place / "run", tmp_path / "bad.csv", "--on-bad-data", "stop").code == 1


def test_the_column_of_the_training_is_taken(place, tmp_path):
    (tmp_path / "t.csv").write_text(f'text,body\n"{GOOD}","{BAD}"\n')
    assert rows(place / "run", tmp_path / "t.csv")[0]["label"] == "pos"
    assert rows(place / "run", tmp_path / "t.csv", "--text-column", "body")[0]["label"] == "neg"
    told = save_run(library.load(place / "run"), tmp_path / "run", place, "text classifier", text_column="body")
    assert rows(told, tmp_path / "t.csv")[0]["label"] == "neg"


def test_what_has_no_effect_is_refused(place):
    lm = etude("predict", place / "lm", "--text", "The film")
    assert lm.code == 2
    assert f"etude generate {place / 'lm'} PROMPT" in lm.errors
    assert "--tta" in etude("predict", place / "run", "--text", "a", "--tta", "flip").errors
    assert "--threshold" in etude("predict", place / "run", "--text", "a", "--threshold", "0.4").errors
    nothing = etude("predict", place / "run")
    assert (nothing.code, '--text "a text"' in nothing.errors) == (2, True)
    with pytest.raises(ConfigError, match="models of texts"):
        items_of("picture", ["a.png"], ["a text"], None)


def test_an_empty_name_is_not_the_current_folder_and_an_empty_table_is_named(place, tmp_path):
    empty = etude("predict", place / "run", "")
    assert (empty.code, "empty name" in empty.errors) == (2, True)
    (tmp_path / "head.csv").write_text("text,label\n")
    head = etude("predict", place / "run", tmp_path / "head.csv")
    assert head.code == 1
    assert f"{tmp_path / 'head.csv'} holds no texts" in head.errors


def test_flags_without_effect_are_refused(place, tmp_path):
    (tmp_path / "a.txt").write_text("fine")
    flags = [
        (["predict", place / "run", tmp_path / "a.txt", "--text-column", "foo"], "--text-column"),
        (["evaluate", place / "run", "--several"], "--several"),
        (["evaluate", place / "lm", "--several"], "--several"),
        (["evaluate", place / "lm", "--label", "parent"], "--label"),
        (["report", place / "run", "--several", "--out", tmp_path / "r.html"], "--several"),
    ]
    for command, flag in flags:
        done = etude(*command)
        assert done.code == 2, command
        assert flag in done.errors
        assert "leave it out" in done.errors
    for noun in (True, False):
        with pytest.raises(ConfigError, match="leave it out"):
            refuse_unused(noun, several=noun, text_column=None if noun else "text")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_texts(place, tmp_path):
    """Peak memory for a table of 1,000 and of 50,000 rows, each in a process of its own."""
    code = (
        "import resource, sys; from etude.cli import run_command\n"
        "code = run_command(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    peaks, said = {}, reviews(100, seed=3)[0]
    for num in (1_000, 50_000):
        with (tmp_path / f"{num}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text"], *([said[i % 100]] for i in range(num))])
        out = tmp_path / f"{num}.jsonl"
        command = [sys.executable, "-c", code, "predict", place / "run", tmp_path / f"{num}.csv", "--out", out]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks[num] = int(done.stderr.split()[-1]) / 1024
        with out.open() as file:
            assert [json.loads(line)["file"] for line in file] == [
                f"{tmp_path}/{num}.csv/{i}" for i in range(1, num + 1)
            ]
    assert peaks[50_000] < peaks[1_000] + 40, peaks


# -- evaluate ---------------------------------------------------------------------------------------------------------


def test_the_held_out_texts_are_measured_unless_others_are_named(place):
    learner = library.load(place / "run", device="cpu")
    done = etude("evaluate", place / "run", "--json")
    found = done.json
    held = load(place / "reviews", labels="parent", valid=HELD_OUT, vocab=learner.data.read.vocab, progress=False)
    predictions = learner.predict(held.valid)
    chosen = predictions.output.gather(1, predictions.targets.unsqueeze(1)).double()

    assert found["samples"] == len(predictions) == held.valid.num_samples
    assert found["accuracy"] == predictions.num_right / len(predictions) > 0.8
    assert found["cross_entropy"] == pytest.approx(float(-chosen.log().mean()), rel=1e-6)
    assert found["trained_on"] == 0
    assert set(found["classes"]) == {"neg", "pos"}
    assert 0 <= found["calibration_error"] <= 1
    assert found["data"] == str(place / "reviews")
    assert "texts right" in done.out
    assert "pictures" not in done.out


def test_texts_that_were_trained_on_are_counted(place, tmp_path):
    half = etude("evaluate", place / "run", "--data", place / "reviews", "--valid-pct", "0.5", "--json").json
    assert 0 < half["trained_on"] < half["samples"]
    others = save_reviews(tmp_path / "others", 20, seed=9)
    (others / "pos" / "nothing.txt").write_text(" \n")
    done = etude("evaluate", place / "run", "--data", others, "--json")
    assert (done.json["samples"], done.json["trained_on"]) == (20, 0)
    assert [one["file"] for one in done.json["skipped"]] == ["pos/nothing.txt"]
    assert etude("evaluate", place / "run", "--data", others, "--on-bad-data", "stop").code == 1


def test_a_table_of_labeled_texts_is_measured(place, tmp_path):
    (tmp_path / "t.csv").write_text(f'review,label\n"{GOOD}",pos\n"{BAD}",neg\n"{BAD}",pos\n')
    found = etude("evaluate", place / "run", "--data", tmp_path / "t.csv", "--json").json
    assert (found["samples"], found["accuracy"]) == (3, pytest.approx(2 / 3))
    missing = etude("evaluate", place / "run", "--data", tmp_path / "t.csv", "--label", "stars")
    assert missing.code == 1
    assert "stars" in missing.errors


def test_a_language_model_has_a_perplexity(place, tmp_path):
    learner = library.load(place / "lm", device="cpu")
    done = etude("evaluate", place / "lm", "--json")
    held = load(place / "reviews", valid=HELD_OUT, batch_size=8, bptt=10, vocab=learner.data.read.vocab, progress=False)
    loss = learner.evaluate(held.valid)["loss"]
    targets = torch.cat([batch.targets.flatten() for batch in held.valid.batches(0, torch.device("cpu"))])

    assert done.json["tokens"] == len(targets) < held.valid.store.shapes[held.valid.rows].sum()
    assert done.json["cross_entropy"] == pytest.approx(loss, rel=1e-6)
    assert done.json["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert done.json["trained_on"] == 0
    assert 0 < done.json["accuracy"] < 1
    assert done.json["unknown"] == 0
    assert "perplexity" in done.out
    (tmp_path / "other.txt").write_text("The film was great, I liked it.\n" * 50 + "zebra " * 20)
    other = etude("evaluate", place / "lm", "--data", tmp_path / "other.txt", "--json").json
    assert other["unknown"] > 0
    assert f"over {other['tokens']:,} tokens" in etude("evaluate", place / "lm", "--data", tmp_path / "other.txt").out
    assert other["perplexity"] > 1


@pytest.mark.parametrize("form", ["whole", "bad"])
def test_a_language_model_is_not_measured_without_its_bad_texts_where_that_is_asked(place, tmp_path, form):
    data = save_reviews(tmp_path / "data", 8, seed=3)
    if form == "bad":
        (data / "pos" / "nothing.txt").write_text(" ")
    done = etude("evaluate", place / "lm", "--data", data, "--on-bad-data", "stop")
    assert done.code == (form == "bad"), done.errors
    assert ("pos/nothing.txt" in done.errors) is (form == "bad")


@pytest.mark.parametrize("settings", [{"batch_size": 2, "bptt": 40}, {"batch_size": 16, "bptt": 5}], ids=str)
def test_every_training_measures_a_language_model_on_the_same_stream(place, settings):
    """The study of batches and windows compares perplexities of one text, cut alike. Source: SPEC Q5."""
    vocab = library.load(place / "lm", device="cpu").data.read.vocab
    shared = {"valid": HELD_OUT, "vocab": vocab, "progress": False}
    first = load(place / "reviews", batch_size=8, bptt=10, **shared).valid
    other = load(place / "reviews", **settings, **shared).valid

    assert other.sampling.config() == first.sampling.config()
    assert 1 < first.sampling.batch_size <= 64


def test_the_stream_to_measure_has_as_many_rows_as_the_tokens_fill():
    store = RaggedStore(torch.arange(9_000), torch.tensor([0]), torch.tensor([[9_000]]), ("all",))
    for rows, world, num in ((torch.tensor([0]), 1, 64), (torch.tensor([0]), 3, 21)):
        assert stream_to_measure(store, rows, backward=False, world_size=world).sampling.batch_size == num
    short = RaggedStore(torch.arange(150), torch.tensor([0]), torch.tensor([[150]]), ("short",))
    loader = stream_to_measure(short, torch.tensor([0]), backward=False)
    assert (loader.sampling.batch_size, loader.num_targets) == (2, 148)


# -- generate ---------------------------------------------------------------------------------------------------------


def test_what_is_written_sends_the_terminal_nothing_and_json_keeps_it(place, monkeypatch):
    said = "a film\nthat \x1b[31mruns\u202e on\x07"
    monkeypatch.setattr("etude.text.generate", lambda *_, **__: said)
    done = etude("generate", place / "lm", "a", "--json")

    assert done.json["text"] == said
    assert done.out.splitlines()[:2] == ["a film", r"that \x1b[31mruns\u202e on\x07"]
    numbers = {"valid_loss": 1.0, "valid_accuracy": 0.5, "perplexity": 2.7, "sample": said}
    assert told(numbers, classifies=False).splitlines()[:2] == ["it writes: a film", r"that \x1b[31mruns\u202e on\x07"]


# -- show -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["language model", "text classifier"])
def test_a_run_with_the_defaults_of_its_recipe_has_no_changed_options(tmp_path, kind):
    classifies = kind == "text classifier"
    training = TextTraining(
        name="text",
        kind=kind,
        data=(LabeledTextOptions if classifies else TextOptions)(data="reviews"),
        train=(ClassifierTrainOptions if classifies else LanguageModelTrainOptions)(),
    )
    config = {"training": training.record(), "options": training.flags()}
    done = etude("show", make_run(tmp_path / "run", config=config, data={"description": ""}), "--json")
    assert done.json["changed_options"] == {"data": "reviews"}
