"""Which words moved a prediction, exactly; and a report of texts that no text can break."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import etude as library
from coloring import etude
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.runs import findings as parts
from etude.runs import page
from etude.runs.shown import Texts, strongest
from etude.text import TextReader
from etude.text.interpret import log_odds, units, word_importance
from etude.text.special import SPECIAL
from reading_reports import Page, read
from text_runs import classifier, language_model, save_reviews, save_run

HOSTILE = (
    "<script>alert(1)</script>",
    "</blockquote><img src=x onerror=alert(2)>",
    "\u202eright to left\u202c \u2066never closed",
    'nul\0 "quotes" & &lt;escaped&gt;',
    "\ud800 half \x1b[31mred",
)


class LinearWords(nn.Module):
    """Scores that are sums of the words' own weights."""

    def __init__(self, num_words: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_words, num_classes, generator=torch.Generator().manual_seed(1)))

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        real = torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)
        return (self.weight[tokens] * real.unsqueeze(2)).sum(1)


def linear(num_classes: int = 2, loss: nn.Module | None = None, *, backward: bool = False) -> library.Learner:
    vocab = Vocab([*SPECIAL, *["a", "b", "c", "d", "e", "4", "!"]], made_by={"tokenizer": {"name": "words"}})
    read_text = TextReader(vocab, backward=backward)
    labels = Vocab([f"class {i}" for i in range(num_classes)])
    data = library.DataLoaders(None, vocab=labels, read=read_text, collate=read_text.collate)
    model = LinearWords(len(vocab), num_classes)
    return library.Learner(
        model, data, loss or nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu", progress=False, precision="fp32"
    )


# -- which words moved it ---------------------------------------------------------------------------------------------


def weights_of(learner: library.Learner, tokens: list[str]) -> torch.Tensor:
    """What the tokens add to the scores."""
    numbers = [learner.data.read.vocab.number(token) for token in tokens]
    return learner.model.weight.detach().double()[numbers].sum(0)


@pytest.mark.parametrize("backward", [False, True])
def test_of_a_linear_model_a_score_is_the_weight_of_its_word(backward):
    learner = linear(backward=backward)
    found = word_importance(learner, "a b Ab!!!! c zebra a", label="class 1")

    expected = [["a"], ["b"], ["xxmaj", "xxunk"], ["xxrep", "4", "!"], ["c"], ["xxunk"], ["a"]]
    assert [one.words for one in found] == [" ".join(tokens) for tokens in expected]
    for one, tokens in zip(found, expected, strict=True):
        zero, first = weights_of(learner, tokens).tolist()
        assert one.score == pytest.approx(first - zero, abs=2e-6)


def test_of_several_classes_a_score_is_the_difference_of_the_log_odds():
    learner = linear(3)
    whole = weights_of(learner, ["xxbos", "a", "b", "c", "xxeos"])
    for number in range(3):
        for one, token in zip(word_importance(learner, "a b c", label=number), "abc", strict=True):
            less = whole - weights_of(learner, [token])
            odds = [scores.softmax(0)[number].logit() for scores in (whole, less)]
            assert one.score == pytest.approx(float(odds[0] - odds[1]), abs=1e-5)
    # of what it says, unless a class is named
    said = int(whole.argmax())
    assert word_importance(learner, "a b c") == word_importance(learner, "a b c", label=said)


def test_yes_or_no_and_plain_numbers_have_scores_of_their_own():
    for loss in (nn.BCEWithLogitsLoss(), nn.MSELoss()):
        learner = linear(3, loss)
        found = word_importance(learner, "a b", label=2)
        assert [one.score for one in found] == pytest.approx(
            [float(weights_of(learner, [w])[2]) for w in "ab"], abs=2e-6
        )


def test_sure_answers_have_finite_scores():
    assert float(log_odds(torch.tensor([900.0, -900.0]), 0, "softmax")) == 1800


def test_in_a_long_text_neighbors_are_left_out_together():
    learner = linear()
    text = "a b c d e a b c d e"
    found = word_importance(learner, text, most=4, label=1)
    assert [one.words for one in found] == ["a b c", "d e a", "b c d", "e"]
    for one in found:
        zero, first = weights_of(learner, one.words.split()).tolist()
        assert one.score == pytest.approx(first - zero, abs=2e-6)
    many = word_importance(learner, "a b " * 100, most=1000)
    assert len(many) == 200
    with pytest.raises(DataError, match="empty"):
        word_importance(learner, "")


def test_marks_belong_to_their_words():
    tokens = ["xxbos", "xxwrep", "5", "xxmaj", "so", "it", "xxup", "was", "xxeos", "xxmaj"]
    assert [" ".join(tokens[part]) for part in units(tokens)] == [
        "xxbos",
        "xxwrep 5 xxmaj so",
        "it",
        "xxup was",
        "xxeos",
        "xxmaj",
    ]


def test_words_of_other_data_are_refused():
    with pytest.raises(ConfigError, match="no class 'x'; it has"):
        word_importance(linear(), "a", label="x")
    with pytest.raises(ConfigError, match="most must be at least 1"):
        word_importance(linear(), "a", most=0)
    learner = linear()
    learner.data = library.DataLoaders(None)
    with pytest.raises(ConfigError, match="learners of texts"):
        word_importance(learner, "a")


# -- on the page ------------------------------------------------------------------------------------------------------


def quoted(words: list[tuple[str, float]]) -> Page:
    return Page(page.page("title", [("part", page.quote(words, [("line", "")]))], head=page.Markup("")))


def test_words_are_marked_so_that_no_color_is_needed():
    found = quoted([("good", 2.0), ("and", 0.01), ("dull", -1.0)])
    marks = [attributes for tag, attributes in found.tags if tag == "bdi"]

    assert [mark.get("class") for mark in marks] == ["for", None, "against"]
    assert [mark.get("style") for mark in marks] == ["--much: 1.00", None, "--much: 0.50"]
    assert [mark.get("title") for mark in marks] == ["+2.00", None, "-1.00"]
    assert "text-decoration: underline" in page._STYLE
    assert "text-decoration-style: dotted" in page._STYLE
    assert strongest([("good", 2.0), ("and", 0.0), ("dull", -1.0)]) == "for it: good +2.00; against it: dull -1.00"
    assert strongest([("and", 0.0)]) == "no word alone moved it"
    assert quoted([]).text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_the_page(text):
    found = quoted([(word, 1.0) for word in text.split(" ")])
    tags = [tag for tag, _ in found.tags]

    assert not {"script", "img"} & set(tags)
    assert tags.count("blockquote") == 1
    assert all(set(attributes) <= {"class", "style", "title"} for tag, attributes in found.tags if tag == "bdi")
    shown = page.quote([(text, 0.0)], [])
    assert shown.isprintable()
    shown.encode("utf-8")


def test_long_texts_are_cut():
    texts = Texts(lambda position: ["word"] * 200_000, lambda position: None, "", str)
    shown = texts.shown([(0, [])], explained=True)
    assert len(shown) < 10_000
    assert "and 199,850 more words" in shown
    one = Texts(lambda position: ["a" * 1_000_000], lambda position: [("b" * 1_000_000, 1.0)], "", str)
    for explained in (False, True):
        assert len(one.shown([(0, [])], explained=explained)) < 1_000


# -- reports ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _without_charts():
    """They take longer to draw than all the rest, and test_report.py looks at them."""
    chart = io.BytesIO()
    Image.new("RGB", (4, 4)).save(chart, format="PNG")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts, "png_bytes", lambda *_: chart.getvalue())
        patched.setattr(parts, "drawn", lambda figure, what: page.chart(*[chart.getvalue()] * 2, 9, what))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, _without_charts):
    """Reviews of which some are hostile and one has a wrong label, run, and what the command left."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("report")
    data = save_reviews(place / "reviews")
    learner = classifier(data)
    run = save_run(learner, place / "run", data, "text classifier")
    other = save_reviews(place / "other", 16, seed=4)
    (other / "neg" / "<b>planted & 'odd'.txt").write_text("The film was lovely, I liked it. The cast was great.")
    for i, text in enumerate(HOSTILE):
        (other / "pos" / f"hostile {i}.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
    (other / "pos" / "long.txt").write_text("The plot was superb. " * 2_000)
    done = etude("report", run, "--data", other, "--out", place / "report.html", "--json", "--quiet")
    assert done.code == 0, done.errors
    return place, done.json


def test_a_report_tells_numbers_words_and_mistakes(made):
    place, result = made
    found = read(place / "report.html")
    measured = etude("evaluate", place / "run", "--data", place / "other", "--json", "--quiet").json

    assert result["accuracy"] == pytest.approx(measured["accuracy"])
    assert result["samples"] == 23
    assert result["data"] == str(place / "other")
    assert result["calibration_error"] == pytest.approx(measured["calibration_error"])
    for part in ("Confusion matrix", "Class by class", "Can its probabilities be believed?", "Largest losses"):
        assert part in found.text
    assert "picture" not in found.text
    assert "no text was left out" in found.text
    tiles = [tile for tile in found.tiles if tile["part"] == "Largest losses"]
    planted = next(tile for tile in tiles if "planted" in tile["name"])
    assert (planted["is"], planted["says"]) == ("neg", "pos")
    assert planted["name"] == "neg/<b>planted & 'odd'.txt"


def test_nothing_is_loaded_or_run_whatever_a_text_says(made):
    found = read(made[0] / "report.html")
    assert not {tag for tag, _ in found.tags} & {"script", "iframe", "object", "embed", "link", "form", "b"}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "srcset", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#" if tag == "a" else "data:image/"), tag
    size = len(re.sub('base64,[^"]*', "", (made[0] / "report.html").read_text(encoding="utf-8")))
    assert size < 150_000


def test_the_words_that_moved_a_prediction_are_those_that_were_measured(made):
    place, _ = made
    learner = library.load(place / "run", device="cpu")
    found = word_importance(learner, place / "other" / "neg" / "<b>planted & 'odd'.txt")
    top = max(found, key=lambda one: one.score)
    text = read(place / "report.html").text
    assert f"{top.words.removeprefix('xxmaj ')} {top.score:+.2f}" in text


def test_a_report_of_its_own_held_out_texts_and_one_of_texts_that_are_gone(made, tmp_path):
    place, _ = made
    done = etude("report", place / "run", "--json", "--quiet")
    assert done.code == 0, done.errors
    assert done.json["missing"] == []
    assert "31 texts" in read(place / "run" / "report.html").text
    moved = Path(shutil.copytree(place / "run", tmp_path / "run"))
    config = json.loads((moved / "config.json").read_text())
    config["options"]["data"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    done = etude("report", moved, "--json")
    assert done.code == 0
    assert len(done.json["missing"]) == 1
    assert "What the model makes of texts is missing here" in read(moved / "report.html").text


def test_a_report_of_a_language_model(made, tmp_path):
    run = save_run(language_model(made[0] / "reviews"), tmp_path / "lm", made[0] / "reviews", "language model")
    done = etude("report", run, "--json")
    assert done.code == 0, done.errors
    found = read(run / "report.html")

    assert done.json["perplexity"] > 1
    assert done.json["data"] == str(made[0] / "reviews")
    assert done.json["accuracy"] is None
    assert f"perplexity {done.json['perplexity']:.2f}" in found.text
    assert "What it writes" in found.text
    assert "How it went" in found.text
