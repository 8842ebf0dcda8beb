"""`etude predict` as a table, csv and JSON lines, printed or into a file; `learner.predict` on folders and streams."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import etude as library
from coloring import COLORS, FAST, etude, picture, save_colors, save_odd
from etude import ConfigError, DataError
from etude.output import file_to_write
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
        (["--quiet"], "the rows of --format table would go nowhere; name --out FILE or take --json"),
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


@pytest.mark.parametrize("sign", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("to_file", [True, False])
def test_a_line_break_alone_is_quoted(run, tmp_path, sign, to_file):
    paths = [tmp_path / f"a{sign}b.png", tmp_path / "c.png"]
    for i, path in enumerate(paths):
        picture("red", i).save(path)
    done = etude("predict", run, *paths, "--format", "csv", *(["--out", tmp_path / "rows"] if to_file else []))
    text = (tmp_path / "rows").read_bytes().decode() if to_file else done.out

    assert [row["file"] for row in csv.DictReader(io.StringIO(text, newline=""))] == list(map(str, paths))


def test_a_device_is_refused():
    # by what decides it alone: a test that fails as root must not replace a device
    with pytest.raises(ConfigError, match="--out must be a file in a folder that exists, and /dev/full is a device"):
        file_to_write("/dev/full", "--out")


def test_a_link_stays_one_and_a_pipe_is_refused(run, new, tmp_path):
    place, link, pipe = tmp_path / "real.csv", tmp_path / "link.csv", tmp_path / "pipe.csv"
    place.write_text("old")
    link.symlink_to(place)
    os.mkfifo(pipe)
    found = library.load(run).predict(new[:2])
    etude("predict", run, new[0], "--out", link)
    by_command = place.read_text()
    found.to_csv(link)

    assert link.is_symlink()
    assert by_command.startswith("file,label")
    assert len(place.read_text().splitlines()) == 3
    assert f"{pipe} is a pipe" in etude("predict", run, new[0], "--out", pipe).errors
    with pytest.raises(ConfigError, match=r"pipe\.csv is a pipe; name another"):
        found.to_csv(pipe)
    assert pipe.is_fifo()
    with pytest.raises(ConfigError, match=f"there is no folder {tmp_path / 'no'}; make it first"):
        found.to_csv(tmp_path / "no" / "rows.csv")


def test_control_signs_of_names_do_not_reach_the_terminal(run, tmp_path):
    good, bad = tmp_path / "a\x1b[31m\n.png", tmp_path / "b\x1b[31m\n.png"
    picture("red", 1).save(good)
    bad.write_text("no picture")
    done = etude("predict", run, good, bad)
    stopped = etude("predict", run, bad, "--on-bad-data", "stop")

    for text in (done.out, done.errors, stopped.errors):
        assert "\\x1b[31m\\n.png" in text
        assert len(text.splitlines()) == 1


def test_a_picture_that_is_not_there_is_not_to_be_repaired(run, monkeypatch):
    done = etude("predict", run, "nothere.jpg")
    monkeypatch.setattr("sys.stdin", io.StringIO("a.png\0b.png\0"))
    joined = etude("predict", run, "-")

    told = f"there is no file nothere.jpg; check its name, and the folder that it counts from: {Path.cwd()}"
    assert told in done.errors
    assert "Repair" not in done.errors
    assert "names go one a line" in joined.errors


def test_what_holds_runs_or_is_a_file_of_one_is_told(run, new, tmp_path):
    shutil.copytree(run, tmp_path / "seed-1")
    alone = etude("predict", tmp_path, new[0])
    shutil.copytree(run, tmp_path / "seed-2")
    several = etude("evaluate", tmp_path, "--data", run.parent / "colors")

    assert f"{tmp_path} holds a run; name it: {tmp_path / 'seed-1'}" in alone.errors
    assert f"holds several runs; name one: {tmp_path / 'seed-1'}, {tmp_path / 'seed-2'}" in several.errors
    file = etude("predict", run / "model.safetensors", new[0])
    assert f"model.safetensors is a file; name the folder that it lies in: {run}" in file.errors


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


def test_a_slice_is_predictions(run):
    found = library.load(run).predict(run.parent / "colors")
    part, back = found[2:4], found[::-1]

    assert isinstance(part, Predictions)
    assert part.names == found.names[2:4]
    assert part.to_rows() == found.to_rows()[2:4]
    assert back.to_rows() == found.to_rows()[::-1]
    assert found[2:2].to_rows() == []
