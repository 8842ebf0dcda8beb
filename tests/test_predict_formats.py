"""`etude predict` as a table, csv and JSON lines, printed or into a file; `learner.predict` on folders and streams."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch

import etude as library
from coloring import COLORS, FAST, etude, picture, save_colors, save_odd
from etude import ConfigError, DataError
from etude.training.predictions import Predictions


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training on three colors."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("formats")
    save_colors(folder / "colors")
    short = ["--valid-pct", "0.25", "--epochs", "3", "--precision", "fp32", "--quiet", "--run-dir", folder / "run"]
    assert etude("train", folder / "colors", *FAST, *short).code == 0
    return folder / "run"


@pytest.fixture(scope="module")
def new(run):
    """Five pictures in no order, the third of which is no picture."""
    paths = [run.parent / f"{name}.png" for name in "edcba"]
    for i, path in enumerate(paths):
        picture(list(COLORS)[i % 3], 500 + i).save(path)
    paths[2].write_text("no picture")
    return paths


def table_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_json_lines_have_a_row_for_each_picture_in_order(run, new):
    done = etude("predict", run, *new, "--format", "json", "--top", "2")
    rows = [json.loads(line) for line in done.out.splitlines()]

    assert done.code == 1
    assert [row["file"] for row in rows] == [str(path) for path in new]
    assert [sorted(row) for row in rows] == [["file", "label", "probability", "top"]] * 2 + [["error", "file"]] + [
        ["file", "label", "probability", "top"]
    ] * 2
    assert "is not a picture" in rows[2]["error"]
    assert f"skipped: {new[2]} is not a picture" in done.errors
    assert all(len(row["top"]) == 2 for row in rows if "top" in row)


def test_csv_has_a_row_for_each_picture_in_order(run, new):
    rows = table_of(etude("predict", run, *new, "--format", "csv", "--top", "2").out)
    objects = [
        json.loads(line) for line in etude("predict", run, *new, "--format", "json", "--top", "2").out.splitlines()
    ]

    assert list(rows[0]) == ["file", "label", "probability", "label_2", "probability_2", "error"]
    assert [row["file"] for row in rows] == [str(path) for path in new]
    for row, one in zip(rows, objects, strict=True):
        assert row["error"] == one.get("error", "")
        assert row["label"] == one.get("label", "")
        if "top" in one:
            assert [row["label_2"], float(row["probability_2"])] == list(one["top"][1].values())


def test_the_formats_and_the_library_say_the_same(run, new):
    good = [path for path in new if path != new[2]]
    lines = etude("predict", run, *good, "--format", "json").out.splitlines()
    whole = etude("predict", run, *good, "--json").json["predictions"]
    ours = library.load(run).predict(good)

    assert [json.loads(line) for line in lines] == whole == ours.to_rows()
    assert ours.names == tuple(map(str, good))


def test_rows_go_into_a_file_whose_name_says_the_format(run, new, tmp_path):
    for name, rows in (("rows.csv", table_of), ("rows.jsonl", lambda text: list(map(json.loads, text.splitlines())))):
        done = etude("predict", run, *new, "--out", tmp_path / name)

        assert [row["file"] for row in rows((tmp_path / name).read_text())] == [str(path) for path in new]
        assert done.out == f"4 predictions in {tmp_path / name}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "rows.jsonl"]


def test_a_table_goes_into_a_file_too(run, new, tmp_path):
    etude("predict", run, *new, "--out", tmp_path / "rows.txt")

    assert (tmp_path / "rows.txt").read_text() == etude("predict", run, *new).out


def test_with_a_file_json_prints_the_counts_alone(run, new, tmp_path):
    done = etude("predict", run, *new, "--out", tmp_path / "rows.csv", "--json", "--quiet")
    (line,) = done.out.splitlines()
    result = json.loads(line)

    assert (result["predicted"], result["num_skipped"], result["format"]) == (4, 1, "csv")
    assert [row["file"] for row in result["skipped"]] == [str(new[2])]
    assert "predictions" not in result


def test_what_was_written_of_a_stopped_prediction_stays_as_a_part(run, new, tmp_path):
    out = tmp_path / "rows.csv"
    done = etude("predict", run, *new, "--out", out, "--on-bad-data", "stop")
    rows = table_of((tmp_path / "rows.csv.part").read_text())

    assert (done.code, out.exists()) == (1, False)
    assert [row["file"] for row in rows] == [str(path) for path in new[:2]]
    assert f"stopped: 3 lines are in {out}.part" in done.errors


def test_an_older_file_stays_until_a_whole_one_replaces_it(run, new, tmp_path):
    out = tmp_path / "rows.csv"
    out.write_text("older")
    etude("predict", run, *new, "--out", out, "--on-bad-data", "stop")
    assert out.read_text() == "older"
    etude("predict", run, *new, "--out", out)
    assert len(table_of(out.read_text())) == 5


def test_a_name_with_commas_quotes_and_line_breaks_is_one_cell(run, tmp_path):
    odd = tmp_path / 'a,"b"\nc.png'
    picture("red", 1).save(odd)
    (row,) = table_of(etude("predict", run, odd, "--format", "csv").out)

    assert row["file"] == str(odd)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--format", "json", "--json"], "--format json prints a row for each picture, and --json one object"),
        (["--format", "csv", "--quiet"], "the rows of --format csv would go nowhere"),
        (["--out", "/nowhere/rows.csv"], "--out must be a file in a folder that exists"),
        (["--threshold", "0.3"], "--threshold is for several labels"),
        (["--threshold", "3"], "--threshold must be a probability from 0 to 1"),
        (["--top", "2", "--threshold", "0.3"], "name one of the two"),
        (["--format", "xml"], "xml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("without_type_checks")
def test_flags_that_cannot_take_effect_are_refused(run, new, flags, words):
    done = etude("predict", run, new[0], *flags)

    assert done.code == 2
    assert words in " ".join(done.errors.replace("│", " ").split())


# -- learner.predict --------------------------------------------------------------------------------------------------


def test_a_folder_is_its_pictures_in_order_with_their_names(run):
    learner, folder = library.load(run), run.parent / "colors"
    found = learner.predict(folder)
    paths = sorted(folder.rglob("*.png"))

    assert isinstance(found, Predictions)
    assert found.names == tuple(map(str, paths))
    assert torch.equal(found.output, learner.predict(paths).output)
    assert torch.equal(learner.predict(str(folder)).output, found.output)


def test_a_generator_is_read_a_batch_at_a_time(run):
    learner, paths = library.load(run), sorted((run.parent / "colors").rglob("*.png"))
    taken = []

    def names():
        for i in range(400):
            taken.append(i)
            yield paths[i % len(paths)]

    read, ahead = learner.data.read, []

    def counted(item):
        ahead.append(len(taken) - len(ahead))
        return read(item)

    learner.data.read = counted
    found = learner.predict(names())

    assert len(found) == len(ahead) == 400
    assert max(ahead) <= 1
    assert torch.allclose(found.output[: len(paths)], learner.predict(paths).output, atol=1e-6)


def test_validation_pictures_have_their_names_and_targets(tmp_path):
    from etude import vision

    save_colors(tmp_path, per_class=8)
    data = vision.load(tmp_path, size=16, valid=0.25, progress=False)
    found = vision.learner("lesson_cnn", data, progress=False, precision="fp32", widths=[8]).predict()

    for name, target in zip(found.names, found.targets, strict=True):
        assert name.startswith(data.vocab[int(target)])


def test_a_bad_picture_among_many_is_named(run, new):
    with pytest.raises(DataError, match=r"c\.png is not a picture"):
        library.load(run).predict(new)


def test_many_pictures_are_written_as_csv(run, new, tmp_path):
    library.load(run).predict(new[:2]).to_csv(tmp_path / "rows.csv", top=3)
    rows = table_of((tmp_path / "rows.csv").read_text())

    assert [row["file"] for row in rows] == [str(path) for path in new[:2]]
    assert {rows[0][name] for name in ("label", "label_2", "label_3")} == set(COLORS)


def test_a_folder_of_odd_pictures_is_read_in_threads_as_one_by_one(run, tmp_path):
    save_odd(tmp_path)
    learner = library.load(run)
    rows = [json.loads(line) for line in etude("predict", run, tmp_path, "--format", "json").out.splitlines()]

    for row in rows:
        if "error" in row:
            with pytest.raises(DataError):
                learner.predict(row["file"])
        else:
            assert row["probability"] == pytest.approx(learner.predict(row["file"]).probability, abs=1e-5)
    assert len({Path(row["file"]).name for row in rows}) == 9


def test_data_that_cannot_be_read_is_explained():
    learner = library.Learner(
        torch.nn.Linear(4, 3), [(torch.ones(1, 4), torch.zeros(1))], torch.nn.CrossEntropyLoss(), torch.optim.SGD
    )
    with pytest.raises(ConfigError, match="does not say how to read a str"):
        learner.predict(["picture.jpg"])
    with pytest.raises(DataError, match="no items"):
        learner.predict(iter(()))
    assert len(learner.predict(torch.randn(4) for _ in range(130))) == 130
