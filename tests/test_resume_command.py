"""`etude resume`: a run that was stopped ends as if it never had been."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from coloring import etude, save_colors
from etude import Learner
from etude.runs.record import running
from stopped_commands import TRAIN, digest, read, steps, stopped_after


@pytest.fixture(scope="module")
def colors(tmp_path_factory) -> Path:
    """Three classes of 16 pictures."""
    return save_colors(tmp_path_factory.mktemp("resume") / "colors")


@pytest.fixture(scope="module")
def whole(colors, tmp_path_factory) -> Path:
    """A run that was never stopped."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert etude("train", colors, *TRAIN, "--run-dir", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def cut(colors, tmp_path_factory) -> Path:
    """A run that was stopped in its second epoch."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cut") / "run"
    with pytest.MonkeyPatch.context() as patch, stopped_after(4, patch):
        etude("train", colors, *TRAIN, "--run-dir", folder)
    return folder


@pytest.fixture
def stopped(cut, tmp_path) -> Path:
    """A copy of its folder, to be changed."""
    return shutil.copytree(cut, tmp_path / "run")


@pytest.mark.parametrize("after", [0, pytest.param(3, marks=pytest.mark.slow), 8])
def test_weights_and_history_are_those_of_a_run_never_stopped(whole, colors, tmp_path, monkeypatch, after):
    folder = tmp_path / "run"
    with stopped_after(after, monkeypatch):
        etude("train", colors, *TRAIN, "--run-dir", folder)
    assert not (folder / "result.json").exists()
    done = etude("resume", folder, "--json")

    assert done.code == 0, done.errors
    assert digest(folder) == digest(whole)
    assert steps(folder) == steps(whole)
    varying = {"run", "train_seconds", "ended"}
    assert {k: v for k, v in done.json.items() if k not in varying} == {
        k: v for k, v in read(whole / "result.json").items() if k not in varying
    }
    incidents = (folder / "incidents.jsonl").read_text()
    assert '"resumed", "why": "from the checkpoint of step' in incidents


def test_a_run_killed_before_its_first_checkpoint_begins_again(whole, stopped):
    shutil.rmtree(stopped / "checkpoints")
    done = etude("resume", stopped)

    assert done.code == 0, done.errors
    assert "was stopped before its first checkpoint; it begins again" in done.out
    assert digest(stopped) == digest(whole)
    assert steps(stopped) == steps(whole)


def test_a_finished_run_is_left_alone(whole):
    before = digest(whole), (whole / "model.safetensors").stat().st_mtime_ns
    done = etude("resume", whole, "--json")

    assert done.code == 0
    assert "is finished" in done.out
    assert done.json == read(whole / "result.json")
    assert (digest(whole), (whole / "model.safetensors").stat().st_mtime_ns) == before


def test_a_running_one_is_refused(stopped, monkeypatch):
    monkeypatch.setattr("etude.runs.record._PATIENCE", 0.1)
    with running(stopped):
        done = etude("resume", stopped)

    assert done.code == 2
    assert "is being trained by another process" in done.errors


def test_a_damaged_checkpoint_is_passed_over_and_said(whole, colors, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with stopped_after(6, monkeypatch):
        etude("train", colors, *TRAIN, "--save-every", "1", "--run-dir", folder)
    newest = max((folder / "checkpoints").iterdir())
    state = newest / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-7])
    done = etude("resume", folder)

    assert done.code == 0, done.errors
    assert f"{newest} is damaged: state.safetensors is not what was written (SHA-256); trying the one" in done.out
    assert digest(folder) == digest(whole)


def test_nothing_but_damaged_checkpoints_is_an_error(stopped):
    for path in (stopped / "checkpoints").glob("*/manifest.json"):
        path.unlink()
    done = etude("resume", stopped)

    assert done.code == 1
    assert "checkpoints in" in done.errors
    assert "is whole" in done.errors


def test_what_cannot_be_changed_is_refused_before_anything_is_read(stopped):
    known = "a resumed run can change epochs=..., lr=..., pct-start=..., precision=..., device=..., data=..."
    for change, words in {
        "batch-size=32": known,
        "epochs": known,
        "epochs=many": "'many' is no int",
        "epochs=0": "--epochs must be a number of at least 1",
        "lr=-1": "--lr must be a finite number",
    }.items():
        done = etude("resume", stopped, "--change", change)

        assert done.code == 2, change
        assert words in done.errors


def test_epochs_and_rate_can_be_changed_by_name(stopped):
    done = etude("resume", stopped, "--change", "epochs=4", "--change", "lr=0.001", "--json")

    assert done.code == 0, done.errors
    assert done.json["epochs"] == 4
    assert max(row["lr"] for row in steps(stopped)[-3:] if row["kind"] == "step") <= 1e-3
    assert "--change epochs=4; --change lr=0.001" in (stopped / "incidents.jsonl").read_text()
    assert read(stopped / "config.json")["options"]["epochs"] == 4


def test_a_finished_run_goes_on_with_more_epochs(whole, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(whole, folder)
    done = etude("resume", folder, "--change", "epochs=4", "--json")

    assert done.code == 0, done.errors
    assert (done.json["epochs"], done.json["run"]) == (4, str(folder))
    assert steps(folder)[: len(steps(whole))] == steps(whole)


def test_a_finished_run_that_goes_on_is_unfinished_until_its_new_end(whole, tmp_path, monkeypatch):
    """Stopped again, it must not be taken for the run that it was; and what was changed need not be said twice."""
    folder = tmp_path / "longer"
    shutil.copytree(whole, folder)
    with stopped_after(1, monkeypatch):
        etude("resume", folder, "--change", "epochs=5")
    assert not (folder / "result.json").exists()
    done = etude("resume", folder, "--json")

    assert (done.code, done.json["epochs"]) == (0, 5)


def test_a_change_holds_though_no_checkpoint_was_written_since(stopped, monkeypatch):
    def killed(self, *values):
        raise RuntimeError("as if killed")

    with monkeypatch.context() as patch:
        patch.setattr("etude.runs.record.KeepRun.after_step", killed)
        with pytest.raises(RuntimeError, match="as if killed"):
            etude("resume", stopped, "--change", "epochs=4")
    done = etude("resume", stopped, "--json")

    assert (done.code, done.json["epochs"]) == (0, 4)


def test_a_change_with_nothing_left_to_train_is_refused(whole):
    before = (whole / "result.json").read_bytes()
    done = etude("resume", whole, "--change", "lr=0.5")

    assert done.code == 2
    assert "nothing left for the change to act on" in done.errors
    assert (whole / "result.json").read_bytes() == before


def test_a_refused_resume_touches_nothing(stopped):
    config = read(stopped / "config.json")
    config["training"]["train"]["batch_size"] = 16
    (stopped / "config.json").write_text(json.dumps(config))
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    done = etude("resume", stopped)

    assert done.code == 2
    assert "was trained on other data" in done.errors
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before


def test_seconds_are_those_of_all_its_parts(stopped):
    done = etude("resume", stopped, "--json")
    epochs = [json.loads(line) for line in (stopped / "history.jsonl").read_text().splitlines()]

    assert done.json["train_seconds"] >= sum(row["seconds"] for row in epochs if row["kind"] == "epoch") - 0.01


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_result_is_an_error_that_says_what_to_do(stopped, content):
    (stopped / "result.json").write_text(content)
    done = etude("resume", stopped)

    assert done.code == 2
    assert "remove it, and the run goes on from its checkpoints" in done.errors


def test_the_data_is_found_from_another_folder(whole, colors, tmp_path, monkeypatch):
    monkeypatch.chdir(colors.parent)
    with stopped_after(4, monkeypatch):
        etude("train", "colors", *TRAIN, "--run-dir", tmp_path / "run")
    monkeypatch.chdir(tmp_path)

    assert etude("resume", "run").code == 0
    assert digest(tmp_path / "run") == digest(whole)


def test_the_same_pictures_in_another_place_will_do(whole, stopped, colors, tmp_path):
    """Copied, with other times: what counts is what they hold."""
    shutil.copytree(colors, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    done = etude("resume", stopped, "--change", f"data={tmp_path / 'elsewhere'}")

    assert done.code == 0, done.errors
    assert digest(stopped) == digest(whole)


def test_other_pictures_are_refused(stopped, colors, tmp_path):
    copy = tmp_path / "colors"
    shutil.copytree(colors, copy)
    config = read(stopped / "config.json")
    config["training"]["data"]["data"] = str(copy)
    (stopped / "config.json").write_text(json.dumps(config))
    (copy / "red" / "00.png").unlink()
    done = etude("resume", stopped)

    assert done.code == 2
    assert "was trained on other data" in done.errors


def test_what_differs_from_the_machine_of_the_run_is_said_or_refused(stopped):
    environment = read(stopped / "environment.json")
    environment["cpu"], environment["threads"] = "another processor", 2
    (stopped / "environment.json").write_text(json.dumps(environment))
    refused = etude("resume", stopped, "--exact")
    torch.set_num_threads(1)
    done = etude("resume", stopped)

    assert refused.code == 2
    assert "cpu was another processor" in refused.errors
    assert "note: cpu was another processor, now " in done.out
    assert "2 threads, as before" in done.out
    assert torch.get_num_threads() == 2
    assert done.code == 0
    assert "another processor" in (stopped / "incidents.jsonl").read_text()


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (None, "holds no config.json, so it is not the folder of a run"),
        ("{", "config.json is damaged"),
        ("[]", "was not made by a recipe"),
        ('{"training": {"name": "x"}}', "does not say how the run was made: 'fold'"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, write, words):
    if write is not None:
        (tmp_path / "config.json").write_text(write)
    done = etude("resume", tmp_path)

    assert done.code == 2
    assert words in done.errors


def test_a_run_of_ones_own_resumes_in_python(tmp_path, monkeypatch):
    """A run folder filled without a recipe says how to go on."""
    (tmp_path / "config.json").write_text('{"options": {}, "training": null}')
    done = etude("resume", tmp_path)

    assert done.code == 2
    assert "learner.fit(..., resume=" in done.errors
    assert "resume" in Learner.fit.__doc__
