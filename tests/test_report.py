"""`etude report`: right rows beside right pictures, one file that stands alone, and a report of whatever is left."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import etude as library
from coloring import FAST, etude
from etude.runs import findings as parts
from etude.runs.findings import findings
from etude.runs.shown import Pictures
from reading_reports import picture, read
from run_folders import make_run, make_seeds

CLASSES = {"<script>alert(1)": 0, "b & 'c'": 1, 'say "d"': 2}
PLANTED = 3
"""Pictures of each class that lie in the folder of another."""


def solid(kind: int, number: int) -> tuple[int, int, int]:
    """A color of its own for each picture, near that of its class."""
    color = [40, 40, 40]
    color[kind] = 190 + number
    color[(kind + 1) % 3] = 40 + 3 * number % 50
    return tuple(color)


def file_name(color: tuple[int, int, int], number: int) -> str:
    """It tells the color, and is as odd as a file system allows."""
    odd = ["plain", "ü", "&amp;", "\"><img src=x onerror='alert(2)'>", "<b>", "two\nlines"][number % 6]
    return f"{odd} {color[0]:03}-{color[1]:03}-{color[2]:03}.png"


def save_planted(folder: Path) -> set[str]:
    """Pictures whose color is their class, some under another label; returns these, relative to the folder."""
    planted = set()
    names = list(CLASSES)
    for name, kind in CLASSES.items():
        for number in range(24):
            side = "valid" if number >= 12 else "train"
            wrong = number >= 24 - PLANTED
            place = Path(side) / (names[(kind + 1) % 3] if wrong else name)
            (folder / place).mkdir(parents=True, exist_ok=True)
            color = solid(kind, number)
            path = place / file_name(color, number)
            Image.fromarray(np.full((20, 20, 3), color, dtype=np.uint8)).save(folder / path)
            planted |= {path.as_posix()} if wrong else set()
    return planted


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data, run and report: (folder of the data, planted names, folder of the run, what the command left)."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("report")
    planted = save_planted(folder / "data")
    settings = ["--epochs", "8", "--precision", "fp32", "--label-smoothing", "0", "--quiet"]
    done = etude("train", folder / "data", *FAST, *settings, "--min-scale", "1", "--run-dir", folder / "run")
    assert done.code == 0, done.errors
    report = etude("report", folder / "run", "--json")
    assert report.code == 0, report.errors
    return folder / "data", planted, folder / "run", report


# -- right rows beside right pictures ---------------------------------------------------------------------------------


def test_each_picture_is_that_of_the_name_and_labels_beside_it(made):
    data, _, run, _ = made
    learner = library.load(run)
    files = {path.relative_to(data).as_posix().replace("\n", "\\n"): path for path in data.rglob("*.png")}
    tiles = read(run / "report.html").tiles

    assert {tile["part"] for tile in tiles} == {"Most often confused", "Largest losses"}
    assert len(tiles) >= 12
    for tile in tiles:
        path = files[tile["name"]]
        color = tuple(map(int, path.stem[-11:].split("-")))
        shown = np.asarray(picture(tile["images"][0]["src"]).convert("RGB")).reshape(-1, 3)

        assert (np.abs(shown.astype(int) - color) <= 2).all(), tile["name"]
        assert tile["is"] == path.parent.name
        assert tile["says"] == learner.predict(path).label


def test_planted_labels_are_the_largest_losses_each_with_its_map(made):
    _, planted, run, _ = made
    tiles = [tile for tile in read(run / "report.html").tiles if tile["part"] == "Largest losses"]
    first = {tile["name"].replace("\\n", "\n") for tile in tiles[: len(planted)]}

    assert first == planted
    for tile in tiles:
        plain, explained = (np.asarray(picture(image["src"]).convert("RGB")).astype(int) for image in tile["images"])
        gray = plain.mean(2, keepdims=True)
        # gray where nothing spoke for it, never darker than yellow or red laid over it make it, and of the same size
        assert plain.shape == explained.shape
        assert (explained - gray).max() > 20 or np.abs(explained - gray).max() <= 1


def test_numbers_are_those_of_evaluate(made):
    data, _, run, done = made
    measured = etude("evaluate", run, "--data", data, "--json", "--quiet").json
    page = read(run / "report.html")

    assert done.json["accuracy"] == pytest.approx(measured["accuracy"])
    assert done.json["samples"] == measured["samples"] == 36
    right = round(36 * measured["accuracy"])
    assert f"{right} of 36 right: {100 * measured['accuracy']:.2f} %" in page.text
    assert done.json["missing"] == []
    for name in CLASSES:
        assert name in page.text


@pytest.fixture
def _without_charts(monkeypatch):
    """They take longer to draw than all the rest of a report, and are looked at in that of the whole run."""
    monkeypatch.setattr(parts, "png_bytes", lambda *_: b"")


@pytest.mark.usefixtures("_without_charts")
def test_a_temperature_that_is_none_is_null(made, tmp_path):
    """Where all answers are wrong, the hotter the better, without end."""
    data, planted, run, _ = made
    for name in (name for name in planted if name.startswith("valid")):
        place = tmp_path / "data" / Path(name).parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / name, place)
    done = etude("report", run, "--data", tmp_path / "data", "--out", tmp_path / "r.html", "--json", "--quiet")

    assert done.code == 0, done.errors
    assert (done.json["samples"], done.json["accuracy"]) == (9, 0)
    assert done.json["temperature"] is None
    assert made[3].json["temperature"] > 0


@pytest.mark.usefixtures("_without_charts")
def test_errors_of_several_numbers_are_shown_in_deviations():
    true = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    said = true.clone()
    said[4, 1] += 3 * float(true[:, 1].std(correction=0))
    found = library.Interpretation("numbers", said, true, ("weight", "width"))
    shown = Pictures(lambda positions: [b""] * len(positions), None, "", str, 64)
    text = str(dict(findings(found, shown))["Largest errors"])

    assert "off by 2.12 deviations" in text  # 3 in one of two numbers: sqrt(9 / 2)
    assert "squared error" not in text


# -- one file that stands alone ---------------------------------------------------------------------------------------


def test_nothing_is_loaded_or_run_whatever_a_name_says(made):
    page = read(made[2] / "report.html")
    tags = {tag for tag, _ in page.tags}

    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form", "video", "audio", "b"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "srcset", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#" if tag == "a" else "data:image/"), tag
    assert "url(" not in "".join(page.words)
    assert "onerror" in page.text, "the odd name is there, as text"


def test_every_picture_has_words_and_every_chart_a_dark_twin(made):
    page = read(made[2] / "report.html")
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    charts = sum(tag == "picture" for tag, _ in page.tags)
    dark = [attributes for tag, attributes in page.tags if tag == "source"]

    assert all(image["alt"] for image in images)
    assert charts == len(dark) == 5
    assert all("dark" in source["media"] for source in dark)
    for tag, attributes in page.tags:
        if tag in ("img", "source"):
            picture(attributes.get("src") or attributes["srcset"]).load()


def test_what_the_run_was_is_told_and_how_to_make_it_again(made):
    data, _, run, _ = made
    page = read(run / "report.html")
    environment = json.loads((run / "environment.json").read_text())

    assert "lesson_cnn" in page.text
    assert "8 of 8" in page.text
    assert f"torch {environment['packages']['torch']}" in page.text
    assert str(data) in page.text
    assert "etude report" in page.text
    assert {attributes["href"] for tag, attributes in page.tags if tag == "a"} == {
        f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section"
    }


# -- what is left when something is missing ---------------------------------------------------------------------------


@pytest.fixture
def copied(made, tmp_path):
    """The run's folder, to be changed."""
    shutil.copytree(made[2], tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    return tmp_path / "run"


@pytest.mark.usefixtures("_without_charts")
def test_a_run_whose_pictures_are_gone_still_gets_a_report(copied):
    config = json.loads((copied / "config.json").read_text())
    config["options"]["data"] = str(copied / "<gone>")
    (copied / "config.json").write_text(json.dumps(config))
    done = etude("report", copied, "--json")
    page = read(copied / "report.html")

    assert done.code == 0, done.errors
    assert done.json["accuracy"] is None
    assert "<gone>" in done.json["missing"][0]
    assert "The run is finished after 8 of 8 epochs" in page.text
    assert "is missing here" in page.text
    assert "<gone>" in page.text
    assert not page.tiles


@pytest.mark.slow
def test_a_folder_without_a_model_and_one_of_a_running_fit(made, copied):
    (copied / "model.safetensors").unlink()
    (copied / "result.json").unlink()
    done = etude("report", copied, "--json", "--quiet")
    assert done.json["accuracy"] == pytest.approx(made[3].json["accuracy"])
    assert "this is its newest checkpoint" in read(copied / "report.html").text

    shutil.rmtree(copied / "checkpoints")
    done = etude("report", copied, "--json", "--quiet")
    assert done.code == 0
    assert "holds no model.safetensors" in done.json["missing"][0]


def test_a_record_alone_with_anything_in_it(tmp_path):
    run = make_run(tmp_path / "<i>run", losses=[1.0, None, 3.0], config={"model": "<script>", "loss": 5})
    (run / "incidents.jsonl").write_text(
        '{"what": "data: skipped", "why": "<img src=x>: is empty"}\n{"what": 3}\nbroken'
    )
    (run / "environment.json").write_text("[]")
    done = etude("report", run, "--json", "--quiet")
    page = read(run / "report.html")

    assert done.code == 0, done.errors
    assert "<img src=x>: is empty" in page.text
    assert not [tag for tag, _ in page.tags if tag in ("script", "i")]
    assert done.json["missing"]


@pytest.mark.slow
def test_the_data_of_a_run_is_found_from_any_folder(made, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(made[2], run)
    for name, key, value in (("config.json", "options", "data"), ("environment.json", None, str(made[0].parent))):
        record = json.loads((run / name).read_text())
        if key is None:
            record["cwd"] = value
        else:
            record[key]["data"] = value
        (run / name).write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)

    assert etude("report", "run", "--json", "--quiet").json["accuracy"] == made[3].json["accuracy"]


@pytest.mark.slow
def test_other_data_is_looked_at_and_what_was_trained_on_is_said(made, tmp_path):
    data, _, run, _ = made
    out = tmp_path / "other.html"
    done = etude("report", run, "--data", data / "train", "--out", out, "--json", "--quiet")

    assert done.json["samples"] == 36
    assert "36 of these pictures were trained on" in read(out).text
    assert [path.name for path in tmp_path.iterdir()] == ["other.html"]


@pytest.mark.usefixtures("_without_charts")
def test_other_data_takes_no_place_from_the_runs_own(made, copied):
    (copied / "report.html").write_text("own")
    done = etude("report", copied, "--data", made[0] / "valid")

    assert done.code == 0, done.errors
    assert f"the report goes to {copied / 'report-valid.html'}" in done.out
    assert "36 pictures of" in read(copied / "report-valid.html").text
    assert (copied / "report.html").read_text() == "own"


def test_one_is_not_several(made):
    page = read(made[2] / "report.html").text

    assert "1 thread of" in page
    assert "1 threads" not in page
    assert "1 batch of samples" in made[3].out


@pytest.mark.slow
def test_a_fold_is_measured_on_what_it_held_out(made, tmp_path):
    data = made[0] / "train"
    done = etude("train", data, *FAST, "--folds", "3", "--epochs", "1", "--quiet", "--run-dir", tmp_path / "folds")
    assert done.code == 0, done.errors
    parts = [etude("report", tmp_path / "folds" / f"fold-{i}", "--json", "--quiet").json for i in (1, 2, 3)]
    results = [json.loads((tmp_path / "folds" / f"fold-{i}" / "result.json").read_text()) for i in (1, 2, 3)]

    assert [part["samples"] for part in parts] == [result["valid_samples"] for result in results]
    assert sum(part["samples"] for part in parts) == 36


@pytest.mark.slow
def test_the_demo_is_measured_on_its_digits(tmp_path):
    assert etude("demo", "--epochs", "1", "--quiet", "--run-dir", tmp_path / "demo").code == 0
    done = etude("report", tmp_path / "demo", "--json")
    result = json.loads((tmp_path / "demo" / "result.json").read_text())

    assert done.json["accuracy"] == pytest.approx(result["valid_accuracy"])
    assert "held-out digit" in read(tmp_path / "demo" / "report.html").text
    assert "drawing" in done.out


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_done_is_refused_in_one_line(made, tmp_path):
    run = made[2]
    os.mkfifo(tmp_path / "pipe.html")
    seeds = make_seeds(tmp_path / "seeds", {0: 0.5, 1: 0.6})
    for arguments, code, words in (
        ([tmp_path / "nothing"], 1, "does not exist"),
        ([seeds], 2, "holds several runs; make a report of one of them"),
        ([run, "--out", tmp_path / "page.pdf"], 2, "--out must be a .html file in a folder that exists"),
        ([run, "--out", tmp_path / "no" / "page.html"], 2, "--out must be a .html file in a folder that exists"),
        ([run, "--out", tmp_path / "pipe.html"], 2, "is a pipe"),
        ([run, "--data", tmp_path / "gone"], 1, "gone"),
        ([run, "--device", "warp"], 2, "device 'warp' cannot be used"),
    ):
        done = etude("report", *arguments)

        assert done.code == code, (arguments, done.errors)
        assert words in done.errors
        assert len(done.errors.strip().splitlines()) == 1
