"""`etude runs` and `etude show`: what folders say, whole ones and damaged ones."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime

import pytest
import torch
from filelock import FileLock

from coloring import etude
from etude.recipes.options import DataOptions, OutputOptions, RunOptions
from etude.runs.chart import chart
from etude.runs.differences import DATA_OPTIONS
from etude.runs.environment import environment, git_state
from etude.runs.read import read_run
from etude.runs.series import read_series
from etude.runs.show import PRINTED, changed_lines
from etude.runs.text import columns, plain
from run_folders import listed, make_run, make_seeds, write, write_lines


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Two seeds of a real run, made by the command, and one of them beside them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("real") / "runs"
    flags = ["--epochs", "1", "--lr", "0.02", "--seeds", "2", "--quiet"]
    done = etude("demo", *flags, "--run-dir", folder / "both")
    assert done.code == 0, done.errors
    shutil.copytree(folder / "both" / "seed-42", folder / "one")
    return folder


# -- real runs --------------------------------------------------------------------------------------------------------


def test_real_runs_are_listed_as_they_are(real):
    rows, done = listed(real)
    result = json.loads((real / "one" / "result.json").read_text())
    both = json.loads((real / "both" / "result.json").read_text())

    assert set(rows) == {"both", "one"}
    one = rows["one"]
    assert (one["state"], one["recipe"], one["data"], one["model"]) == ("finished", "demo", "digits", "lesson_cnn")
    assert (one["epochs"], one["epochs_asked"], one["runs"]) == (1, 1, None)
    assert one["valid_accuracy"] == result["valid_accuracy"]
    assert one["seconds"] == result["train_seconds"]
    assert abs(datetime.fromisoformat(one["started"]).timestamp() - time.time()) < 600
    assert rows["both"]["runs"] == 2
    assert rows["both"]["valid_accuracy_sd"] == both["valid_accuracy_sd"]
    assert rows["both"]["seconds"] == pytest.approx(sum(both["train_seconds"]))
    assert f"{100 * result['valid_accuracy']:.2f} %" in done.out


def test_a_folder_of_seeds_lists_them(real):
    rows, _ = listed(real / "both", "--sort", "name")

    assert list(rows) == ["seed-42", "seed-43"]


def test_a_real_run_is_shown_whole(real):
    done = etude("show", real / "one", "--json")
    shown = done.json

    assert shown["changed_options"] == {"epochs": 1, "lr": 0.02}
    assert "options    epochs 1, lr 0.02\n" in done.out
    assert len(shown["history"]) == 1
    assert shown["steps"] == len(read_series(real / "one").steps) == 22
    assert shown["environment"]["threads"] == 1
    assert shown["files"]["result.json"] == (real / "one" / "result.json").stat().st_size
    assert "loss of training (line, smoothed) and validation (●)" in done.out
    assert f"torch {torch.__version__}" in done.out


def test_several_seeds_are_shown_with_mean_and_spread(real):
    done = etude("show", real / "both", "--json")
    accuracies = [part["valid_accuracy"] for part in done.json["parts"]]
    mean = sum(accuracies) / 2

    assert f"mean of 2 runs: accuracy {100 * mean:.2f} %" in done.out
    assert [part["name"] for part in done.json["parts"]] == ["seed-42", "seed-43"]


def test_listing_imports_neither_torch_nor_numpy(real, etude_command):
    code = (
        "import sys; from etude.cli import run_command\n"
        f"assert run_command(['runs', {str(real)!r}]) == run_command(['show', {str(real / 'one')!r}]) == 0\n"
        "print({'torch', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([etude_command[0], "-c", code], capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_the_record_holds_what_a_journal_needs():
    found = environment()

    assert datetime.fromisoformat(found["started"]).tzinfo is not None
    assert found["threads"] == torch.get_num_threads()
    assert found["torch_build"].startswith("PyTorch built with")
    assert {"cwd", "cpu", "cpus_allowed", "numerics", "variables", "git", "source", "command"} <= set(found)


def test_relevant_variables_are_recorded_and_no_others(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_HOME", "/somewhere")
    monkeypatch.setenv("MY_PASSWORD", "secret")

    assert environment()["variables"]["OMP_NUM_THREADS"] == "1"
    assert "secret" not in json.dumps(environment())
    assert "CUDA_HOME" not in environment()["variables"]


def test_the_uncommitted_difference_can_be_applied(tmp_path):
    def git(*words, **more):
        done = subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True, text=True, **more)
        return done.stdout

    git("init", "-q")
    for name, value in {"user.email": "a@b", "user.name": "a", "color.ui": "always", "diff.noprefix": "true"}.items():
        git("config", name, value)
    (tmp_path / "a.txt").write_text("one\ntwo  \n")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "a.txt").write_text("one\nchanged  \n")
    (tmp_path / "new.txt").write_text("new")
    (tmp_path / "below").mkdir()
    state = git_state(tmp_path / "below")
    git("checkout", "-q", "a.txt")
    git("-c", "diff.noprefix=false", "apply", "-", input=state["changes"])

    assert (tmp_path / "a.txt").read_text() == "one\nchanged  \n"
    assert state["untracked"] == 1
    assert changed_lines(state["changes"]) == 2
    assert git_state(tmp_path.parent) is None or state["commit"] == git("rev-parse", "HEAD").strip()


# -- states -----------------------------------------------------------------------------------------------------------


def test_states_come_from_result_lock_and_incidents(tmp_path):
    ended = {"what": "fit ended", "step": 2}
    make_run(tmp_path / "finished")
    make_run(tmp_path / "early", result={"stopped": "no better for 3 epochs"})
    for name in ("running", "killed", "failed", "ctrl-c", "sigterm", "again", "unknown", "resumed"):
        make_run(tmp_path / name, accuracy=None)
    write_lines(tmp_path / "failed" / "incidents.jsonl", [ended | {"why": "RuntimeError: out of memory"}])
    write_lines(tmp_path / "ctrl-c" / "incidents.jsonl", [ended | {"why": "KeyboardInterrupt: "}])
    write_lines(tmp_path / "sigterm" / "incidents.jsonl", [ended | {"why": "SystemExit: 143"}])
    again = [ended | {"why": "KeyboardInterrupt: "}, {"what": "resumed", "why": "going on from step 2"}]
    write_lines(tmp_path / "again" / "incidents.jsonl", again)
    (tmp_path / "again" / "run.lock").touch()
    write_lines(tmp_path / "resumed" / "incidents.jsonl", [ended | {"why": "KeyboardInterrupt: "}])
    (tmp_path / "killed" / "run.lock").touch()
    with FileLock(tmp_path / "running" / "run.lock"), FileLock(tmp_path / "resumed" / "run.lock"):
        rows, done = listed(tmp_path)

    assert {name: row["state"] for name, row in rows.items()} == {
        "finished": "finished",
        "early": "stopped",
        "running": "running",
        "killed": "failed",
        "failed": "failed",
        "ctrl-c": "stopped",
        "sigterm": "stopped",
        "again": "failed",
        "unknown": "unfinished",
        "resumed": "running",
    }
    assert "  failed failed: RuntimeError: out of memory" in done.out
    assert "  early stopped: no better for 3 epochs" in done.out
    assert "it was killed" in rows["killed"]["why"]
    assert (rows["running"]["epochs"], rows["running"]["epochs_asked"]) == (1, 2)
    assert listed(tmp_path)[0]["running"]["state"] == "failed", "looking changes nothing, and the lock is free"
    assert not (tmp_path / "unknown" / "run.lock").exists()


def test_a_finished_run_that_is_trained_further_is_running(tmp_path):
    folder = make_run(tmp_path / "on")
    later = time.time() + 60
    os.utime(folder / "history.jsonl", (later, later))
    with FileLock(folder / "run.lock"):
        assert read_run(folder).state.word == "running"
    assert read_run(folder).state.word == "finished"


def test_several_say_how_far_they_are(tmp_path):
    folder = make_seeds(tmp_path / "seeds", {1: 0.5, 2: None})
    config = json.loads((folder / "config.json").read_text())
    config["several"]["parts"] |= {"seed-3": {}, "../../outside": {}}
    write(folder / "config.json", config)
    make_run(tmp_path / "outside")
    done = etude("show", folder, "--json")

    assert done.json["state"] == "unfinished"
    assert done.json["why"] == "1 of 3 runs finished"
    assert done.json["planned"] == ["seed-1", "seed-2", "seed-3"], "a name that leads out is no part"
    assert "not begun: seed-3" in done.out
    with FileLock(folder / "seed-2" / "run.lock"):
        assert read_run(folder).state.word == "running"


def test_the_best_comes_first(tmp_path):
    for name, accuracy, day in (("a", 0.5, 3), ("b", 0.9, 1), ("c", None, 2)):
        started = datetime(2026, 1, day, tzinfo=UTC).isoformat()
        make_run(tmp_path / name, accuracy=accuracy, environment={"started": started})

    assert list(listed(tmp_path)[0]) == ["a", "c", "b"]
    assert list(listed(tmp_path, "--sort", "accuracy")[0]) == ["b", "a", "c"]
    rows, done = listed(tmp_path, "--sort", "name", "--limit", "2")
    assert list(rows) == ["a", "b"]
    assert done.json["total"] == 3
    assert "and 1 more; --limit 0 lists all" in done.out


# -- words ------------------------------------------------------------------------------------------------------------


def test_options_that_print_are_those_of_the_recipes():
    assert {one.name for one in dataclasses.fields(RunOptions)} == PRINTED
    assert {one.name for one in dataclasses.fields(OutputOptions)} < PRINTED
    assert {one.name for one in dataclasses.fields(DataOptions)} == DATA_OPTIONS


def test_columns_are_as_wide_as_what_is_seen():
    assert columns([["花花", "x"], ["abcd", "y"]]) == ["花花  x", "abcd  y"]
    assert plain("a\ud800b\x00") == "a\\ud800b\\x00"


def test_a_chart_has_its_ends_where_they_are():
    lines = chart([3.0, 1.0], [(0.0, float("nan"))], width=8, height=3)

    assert lines[0].startswith("3 ┤⠑"), "it begins on top"
    assert lines[-1].startswith("1 ┤")
    assert lines[-1][-1] == "⢄", "and ends below"
    assert chart([float("nan")]) == []
    assert len(chart([1.0, 1.0])) == 9
