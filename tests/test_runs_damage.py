"""Run folders that are damaged, foreign or hostile: each is told as what it is, and no command fails over it."""

from __future__ import annotations

import json
import time

import pytest

from coloring import etude
from etude.runs.files import last_epoch
from etude.runs.read import read_run
from etude.runs.series import read_series
from run_folders import listed, make_run, step, write, write_lines

ODD_NAMES = ["two words", "größe-花", "new\nline", "\x1b[31mred", "-dash", "$x$"]


@pytest.fixture
def _undrawn(monkeypatch):
    """Comparisons are drawn by tests/test_runs_compare.py."""
    monkeypatch.setattr("etude.runs.overlay.draw_comparison", lambda *_: None)


DAMAGED = {
    "half": '{"options": {"lr": 0.01',
    "list": "[1, 2]",
    "deep": "[" * 100_000,
    "nothing": "",
    "binary": "\udcff\udc80",
    "several": '{"several": 3}',
}


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_config_is_told_and_nothing_else_suffers(tmp_path, kind):
    make_run(tmp_path / "good")
    folder = make_run(tmp_path / "bad")
    (folder / "config.json").write_text(DAMAGED[kind], encoding="utf-8", errors="surrogateescape")
    rows, _ = listed(tmp_path)

    assert rows["bad"]["state"] == "damaged"
    assert rows["good"]["state"] == "finished"
    assert "config.json" in rows["bad"]["why"]
    assert "DAMAGED: config.json" in etude("show", folder).out
    assert etude("compare", folder, tmp_path / "good", "--out", tmp_path / "c.png").code == 0


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("value", ["text", True, None, [1], {"a": 1}, 1e999, -5, 10**400], ids=repr)
@pytest.mark.parametrize("name", ["config.json", "environment.json", "result.json"])
def test_values_of_other_types_never_crash(tmp_path, name, value):
    folder = make_run(tmp_path / "odd")
    path = folder / name
    keys = json.loads(path.read_text())
    write(path, dict.fromkeys(keys, value) | ({"options": {}, "data": {}, "model": {}} if value is None else {}))
    other = make_run(tmp_path / "other")

    for command in (["runs", tmp_path], ["show", folder], ["compare", other, folder, "--out", tmp_path / "c.png"]):
        done = etude(*command, "--json")
        assert done.code == 0, done.errors
        assert "Infinity" not in done.out.splitlines()[-1]
        assert "NaN" not in done.out.splitlines()[-1]


def test_numbers_that_are_too_large_are_no_json_of_ours(tmp_path):
    folder = make_run(tmp_path / "run", lr=123.5)
    for name in ("config.json", "result.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("123.5", "1e999").replace("0.75", "-1e999"))

    done = etude("show", folder, "--json")
    assert "Infinity" not in done.out.splitlines()[-1]
    assert done.json["changed_options"]["lr"] is done.json["valid_accuracy"] is None


def test_a_half_written_history_is_survived(tmp_path):
    folder = make_run(tmp_path / "run", accuracy=None)
    with (folder / "history.jsonl").open("a") as file:
        file.write('[1]\n{"kind": "step", "step": "x"}\n{"kind": "epoch", "epoch": 2, "train_l')
    series = read_series(folder)

    assert [one.loss for one in series.steps] == [2.0, 1.0]
    assert (len(series.epochs), series.unreadable) == (1, 3)
    assert read_run(folder).epochs_done == 1
    assert "3 lines of history.jsonl cannot be read" in etude("show", folder).out


def test_the_last_epoch_is_found_behind_many_steps(tmp_path):
    path = tmp_path / "history.jsonl"
    epochs = [{"kind": "epoch", "epoch": 1}, {"kind": "epoch", "epoch": 2, "valid_loss": 0.5}]
    write_lines(path, [*epochs, *(step(i, 0.25) for i in range(5000))])

    assert path.stat().st_size > 4 * 65536
    assert last_epoch(path) == epochs[1]
    assert last_epoch(tmp_path / "none") == {}
    line = json.dumps(epochs[1]).encode()
    for cut in (0, 1, 10, len(line), len(line) + 1):
        path.write_bytes(line + b"\n" + b" " * (65536 - cut))
        assert last_epoch(path) == epochs[1], "also where a chunk begins in its middle"


def test_steps_that_were_trained_again_count_once(tmp_path):
    folder = make_run(tmp_path / "run", losses=[4.0, 3.0, 2.5])
    epoch = {"kind": "epoch", "epoch": 1, "valid_loss": 9.0}
    with (folder / "history.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in (step(2, 7.0), step(2, 6.0), step(3, 5.0), epoch))
    series = read_series(folder)

    assert [(one.step, one.loss) for one in series.steps] == [(1, 4.0), (2, 7.0), (2, 6.0), (3, 5.0)]
    assert series.column("valid_loss") == [9.0]


def test_foreign_folders_and_files_are_no_runs(tmp_path):
    make_run(tmp_path / "mine")
    for name in ("empty", "foreign", "model"):
        (tmp_path / name).mkdir()
    write(tmp_path / "foreign" / "result.json", {"valid_accuracy": 1})
    write(tmp_path / "model" / "config.json", {"architectures": ["Bert"], "model_type": "bert"})
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file.txt").write_text("")
    rows, done = listed(tmp_path)

    assert list(rows) == ["mine"]
    assert done.json["others"] == ["empty", "foreign", "model"]
    assert "3 other folders are no runs: empty, foreign, model" in done.out
    for name, words in {"model": "is no run's folder", "file.txt": "is a file", "nothing": "does not exist"}.items():
        done = etude("show", tmp_path / name)
        assert done.code == 1
        assert words in done.errors
        assert "etude runs" in done.errors


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_stay_on_one_line(tmp_path, name):
    make_run(tmp_path / name, data={"description": name})
    rows, done = listed(tmp_path)

    assert list(rows) == [name]
    assert len(done.out.splitlines()) == 3, "header, row, JSON"
    assert "\x1b" not in done.out
    make_run(tmp_path / "other")
    done = etude("compare", tmp_path / name, tmp_path / "other", "--out", tmp_path / "c.png")
    assert done.code == 0, done.errors
    assert "\x1b" not in done.out + etude("show", tmp_path / name).out


def test_no_runs_yet_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = etude("runs", "--json")
    assert done.code == 0
    assert done.json == {"folder": "runs", "total": 0, "runs": [], "others": []}
    assert "there is no folder runs yet" in done.out
    assert "etude demo" in done.out
    done = etude("runs", tmp_path)
    assert (done.code, done.out.splitlines()[0]) == (0, f"{tmp_path} holds no runs yet")
    assert "there is no folder" in etude("runs", "misspelt").errors
    assert etude("runs", "misspelt").code == 1
    assert etude("runs", tmp_path, "--limit", "-1").code == 2


def test_a_name_in_runs_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "mine")

    assert etude("show", "mine", "--json").json["folder"] == "runs/mine"


def test_many_runs_are_listed_in_a_moment(tmp_path):
    for i in range(200):
        make_run(tmp_path / f"run-{i}", losses=[1.0] * 200, accuracy=0.5 if i % 2 else None)
    started = time.process_time()
    rows, _ = listed(tmp_path, "--limit", "0")

    assert len(rows) == 200
    assert time.process_time() - started < 2, "a tenth of that here"
