"""`etude finetune`, its plan and its resume, and the study of what freezing does."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import etude as library
from coloring import FAST, etude, save_colors
from etude.recipes.pets_study import PetsStudyOptions, rows_of, verdicts
from etude.runs.statistics import t_p
from stopped_commands import digest, read, stopped_after

FEW = [
    "--valid-pct",
    "0.25",
    "--size",
    "16",
    "--batch-size",
    "8",
    "--lr",
    "0.02",
    "--precision",
    "fp32",
    "--epochs",
    "2",
]


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    """Curves and predictions take longer to draw than so short a training."""
    monkeypatch.setattr("etude.runs.record.draw_curves", lambda *_: None)
    monkeypatch.setattr("etude.vision.show.draw_predictions", lambda *_: None)


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    folder = save_colors(tmp_path_factory.mktemp("finetune") / "colors")
    (folder / "red" / "broken.jpg").touch()
    return folder


@pytest.fixture(scope="module")
def body(colors, tmp_path_factory):
    """A run to start from."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("body") / "run"
    done = etude(
        "train", colors, "--valid-pct", "0.25", *FAST, "--precision", "fp32", "--epochs", "2", "--run-dir", folder
    )
    assert done.code == 0, done.errors
    return folder


@pytest.fixture(scope="module")
def tuned(colors, body, tmp_path_factory):
    """A whole run of three phases."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    done = etude("finetune", colors, "--from", body, *FEW, "--gradual", "--norm", "frozen", "--run-dir", folder)
    assert done.code == 0, done.errors
    return folder, done


def test_each_phase_is_said_and_recorded(tuned):
    folder, done = tuned
    phases = read(folder / "config.json")["phases"]

    assert next(line for line in done.out.splitlines() if line.startswith("phase ")).startswith(
        "phase 1 of 3: the head trains, the norms of the rest stand still ("
    )
    assert "4 epochs of 4 steps" in done.out
    assert [phase["first_epoch"] for phase in phases] == [1, 2, 3]
    assert [phase["epochs"] for phase in phases] == [1, 1, 2]
    assert phases[0]["trainable"] < phases[1]["trainable"] < phases[2]["trainable"] == phases[2]["parameters"]
    assert [set(phase["norms"]) for phase in phases] == [{"frozen"}, {"frozen", "train"}, {"train"}]
    assert [row["epoch"] for row in _epochs(folder)] == [1, 2, 3, 4]
    assert read(folder / "result.json")["epochs"] == 4
    incidents = (folder / "incidents.jsonl").read_text(encoding="utf-8")
    assert incidents.count("broken.jpg") == 1, "told once, and not in every phase"


def test_the_tuned_run_predicts(tuned, colors):
    loaded = library.load(tuned[0])

    assert loaded.model[-1].in_features == 2 * 512, "the new head pools by maximum and average"
    assert loaded.predict(next((colors / "red").glob("*.png"))).label in ("red", "green", "blue")


@pytest.mark.parametrize("after", [1, 7, 13])
def test_a_tuning_that_was_stopped_ends_as_if_it_had_not_been(after, tuned, colors, body, tmp_path, monkeypatch):
    """Stopped in the first, second and third phase; the body's run is gone by the time it goes on."""
    gone = shutil.copytree(body, tmp_path / "gone")
    arguments = ["--from", gone, *FEW, "--gradual", "--norm", "frozen", "--run-dir", tmp_path / "run"]
    with stopped_after(after, monkeypatch):
        etude("finetune", colors, *arguments)
    shutil.rmtree(gone)
    done = etude("resume", tmp_path / "run", "--json")

    assert done.code == 0, done.errors
    assert digest(tmp_path / "run") == digest(tuned[0])
    whole, resumed = (read(folder / "config.json")["phases"] for folder in (tuned[0], tmp_path / "run"))
    assert resumed == whole
    assert [row["epoch"] for row in _epochs(tmp_path / "run")] == [1, 2, 3, 4]


def test_the_last_phase_can_be_made_longer(colors, body, tmp_path, monkeypatch):
    with stopped_after(2, monkeypatch):
        etude("finetune", colors, "--from", body, *FEW, "--run-dir", tmp_path / "run")
    done = etude("resume", tmp_path / "run", "--change", "epochs=3", "--json")

    assert done.code == 0, done.errors
    assert done.json["epochs"] == 4


def test_weights_of_a_file_for_a_named_network(colors, body, tmp_path):
    arguments = ["--arch", "lesson_cnn", *FEW, "--freeze-epochs", "0", "--run-dir", tmp_path / "run"]
    done = etude("finetune", colors, "--from", body / "model.safetensors", *arguments)

    assert done.code == 0, done.errors
    assert "tensors of the body from" in done.out
    assert len(read(tmp_path / "run" / "config.json")["phases"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say which trained body to start from, with --from"),
        (["--from", "nowhere"], "--from nowhere: there is no such folder or file"),
        (["--from", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--from", "x", "--pretrained", "y"], "two bodies are named, --from x and --pretrained y"),
        (["--from", "timm:resnet18", "--arch", "xresnet34"], "leave out --arch xresnet34"),
        (["--from", "BODY", "--norm", "off"], "off"),
        (["--from", "BODY", "--gradual", "--freeze-epochs", "0"], "gradual unfreezing needs freeze_epochs"),
        (["--from", "BODY", "--freeze-epochs", "-1"], "--freeze-epochs must be a number of at least 0, got -1"),
        (["--from", "BODY", "--progressive", "0.5"], "--progressive has no effect here"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_anything_is_read(arguments, words, colors, body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [body if argument == "BODY" else argument for argument in arguments]
    done = etude("finetune", colors, *arguments, *FEW, "--run-dir", tmp_path / "run")

    assert done.code in (1, 2)
    assert words in done.errors + done.out
    assert not (tmp_path / "run").exists()


def test_without_a_body_ones_own_runs_are_proposed(body, tmp_path, monkeypatch):
    shutil.copytree(body, tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "result.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    done = etude("finetune", "photos")

    accuracy = read(body / "result.json")["valid_accuracy"]
    assert done.code == 2
    assert f"--from runs/mine   (train, {accuracy:.1%} right)" in done.errors.replace("\\", "/")
    assert "timm:resnet18" in done.errors


@pytest.mark.parametrize(
    "norm", [pytest.param("train", marks=pytest.mark.slow), pytest.param("affine", marks=pytest.mark.slow), "frozen"]
)
def test_the_plan_shows_each_phase_with_its_norms(norm, colors, body, tmp_path):
    done = etude("plan", "finetune", colors, "--from", body, *FEW, "--norm", norm, "--json")
    first, last = done.json["phases"]

    assert done.code == 0, done.errors
    assert {(one["statistics"], one["affine"]) for one in first["norms"]} == {
        {"train": ("move", "train"), "affine": ("move", "frozen"), "frozen": ("stand still", "frozen")}[norm]
    }
    assert {(one["statistics"], one["affine"]) for one in last["norms"]} == {("move", "train")}
    assert done.json["runs_seconds"] == pytest.approx(first["forecast"]["total"] + last["forecast"]["total"])
    assert "phase 1 of 2: the head trains" in done.out
    assert "all 2 phases take" in done.out


# -- the study --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_study_has_every_row_and_says_what_is_real(colors, body, tmp_path):
    few = ["--size", "16", "--batch-size", "8", "--precision", "fp32", "--epochs", "1", "--freeze-epochs", "1"]
    arguments = ["--valid-pct", "0.25", *few, "--seeds", "2", "--run-dir", tmp_path / "study", "--json"]
    done = etude("pets-study", colors, "--from", body, *arguments)
    assert done.code == 0, done.errors
    rows = {row["variant"]: row for row in done.json["rows"]}

    assert list(rows) == list(rows_of(PetsStudyOptions()))
    assert [row["epochs"] for row in rows.values()] == [1, 1, 2, 2, 2, 2]
    assert all(len(row["accuracies"]) == 2 for row in rows.values())
    first = _epochs(tmp_path / "study" / "norms-affine-then-all-seed-42")[0]["valid_accuracy"]
    assert rows["norms affine, then all"]["frozen_accuracies"][0] == first
    assert len(done.json["pairs"]) == 15
    assert done.json["smallest_p"] == 0.5
    assert "2 seeds can give no p below 0.5" in done.out
    assert (tmp_path / "study" / "study.png").stat().st_size > 10_000
    still = read(tmp_path / "study" / "norms-frozen-then-all-seed-42" / "config.json")
    assert still["phases"][0]["norms"] == {"frozen": 5}
    scratch = read(tmp_path / "study" / "from-scratch-seed-42" / "config.json")
    assert scratch["model"]["arch"] == "lesson_cnn"
    assert scratch["model"]["concat_pool"] is False
    groups = read(tmp_path / "study" / "groups-at-two-rates-seed-43" / "config.json")["groups"]
    assert {group["layer_group"] for group in groups} == {0, 1}


def test_the_p_of_the_t_test_is_the_textbooks():
    """Student's own data of sleep (1908): ten pairs, t = 4.062, two-sided p = 0.00283."""
    hours = (1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4)

    assert t_p(hours) == pytest.approx(0.00283, abs=1e-5)
    assert t_p((1.0, -1.0)) == 1.0
    assert t_p((1.0, 1.0)) == 0.0


def test_one_seed_tells_nothing_about_chance():
    assert verdicts([], 1) == [
        "one seed tells nothing about which differences are more than chance; add --seeds 3 or more"
    ]


def _epochs(folder):
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "epoch"]
