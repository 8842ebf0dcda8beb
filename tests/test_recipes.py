"""`etude train`, `imagenette` and the studies: what they print, what their run folders hold, and their arithmetic."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from coloring import COLORS, FAST, etude, save_colors, save_odd, with_pictures
from etude import vision
from etude.recipes import seeds, studies
from etude.runs.record import KeepRun

REASONS: dict[str, str] = {}
SPLIT = ["--valid-pct", "0.25"]
ONE = ["--epochs", "1", "--precision", "fp32"]
THREE = ["--epochs", "3", "--precision", "fp32"]
FOLDERS = ["config.json", "curves.png", "environment.json", "history.jsonl", "incidents.jsonl", "model.safetensors"]


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    """Three classes of 16 pictures, and one odd file of each kind."""
    folder = save_colors(tmp_path_factory.mktemp("recipes") / "colors")
    REASONS.update(save_odd(folder / "red"))
    return folder


@pytest.fixture(scope="module")
def run(colors):
    """One short training on them."""
    torch.set_num_threads(1)
    folder = colors.parent / "run"
    with with_pictures():
        done = etude("train", colors, *SPLIT, *FAST, *THREE, "--run-dir", folder, "--json")
    assert done.code == 0, done.errors
    return folder, done


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- one training -----------------------------------------------------------------------------------------------------


def test_colors_are_learned(run):
    assert run[1].json["valid_accuracy"] > 0.7


def test_what_is_printed_names_the_data_the_odd_files_and_the_next_step(run):
    folder, done = run
    said = done.out.splitlines()

    assert said[0].endswith("of 3 classes (CLASS folders)")
    assert "  skipped 1: is empty (red/nothing.jpg)" in said
    assert "  converted 1: CMYK (red/cmyk.jpg)" in said
    result = done.json
    assert f"\n{result['valid_right']} of {result['valid_samples']} held-out pictures right: " in done.out
    assert f"look at {folder / 'curves.png'} and {folder / 'predictions.png'}" in said
    assert said[-2] == f"next: etude predict {folder} FILES"
    assert done.errors == ""


def test_the_result_file_equals_the_printed_json(run):
    folder, done = run

    assert done.json == read(folder / "result.json")
    assert done.json["valid_accuracy"] == done.json["valid_right"] / done.json["valid_samples"]


def test_the_run_folder_holds_the_identity_of_its_data(run, colors):
    config = read(run[0] / "config.json")

    assert {path.name for path in run[0].iterdir()} >= {*FOLDERS, "predictions.png", "model.json", "result.json"}
    data = config["data"]
    assert data["classes"] == list(COLORS)
    assert data["train"] + data["valid"] == 48 + 5, "the odd files that can be read are taken"
    assert len(data["store"]) == len(data["labels"]) == 32
    assert data["read"]["size"] == 16
    assert config["options"]["data"] == str(colors)
    assert config["options"]["valid_pct"] == 0.25
    with Image.open(run[0] / "predictions.png") as grid:
        assert grid.size[0] > 1000


def test_every_odd_file_is_an_incident_with_its_reason(run):
    incidents = {
        line["why"].split(": ")[0]: (line["what"], line["why"])
        for line in lines(run[0] / "incidents.jsonl")
        if line["what"].startswith("data: ")
    }

    assert set(incidents) == {f"red/{name}" for name in REASONS}
    for name, reason in REASONS.items():
        what, why = incidents[f"red/{name}"]
        assert reason in why
        bad = name in ("truncated.jpg", "nothing.jpg", "text.jpg", "dangling.jpg")
        assert (what == "data: skipped") == bad, name


def test_the_same_seed_gives_the_same_run(run, colors, tmp_path):
    folder = tmp_path / "again"
    done = etude("train", "--data", colors, *SPLIT, *FAST, *THREE, "--run-dir", folder, "--json", "--quiet")
    varying = {"run", "train_seconds", "ended"}

    assert {k: v for k, v in done.json.items() if k not in varying} == {
        k: v for k, v in run[1].json.items() if k not in varying
    }


def test_quiet_and_json_print_one_line(colors, tmp_path):
    done = etude("train", colors, *SPLIT, *FAST, *ONE, "--run-dir", tmp_path / "run", "--quiet", "--json")

    assert (done.code, done.errors) == (0, "")
    (line,) = done.out.splitlines()
    assert json.loads(line)["epochs"] == 1


def test_bad_pictures_stop_a_training_that_says_so(colors, tmp_path):
    done = etude("train", colors, *SPLIT, *FAST, "--on-bad-data", "stop", "--run-dir", tmp_path / "run")

    assert done.code == 1
    assert "4 of 57 pictures in" in done.errors
    assert "--on-bad-data skip" in done.errors, "the way out is said as a flag"
    assert not (tmp_path / "run").exists()


def test_a_finished_run_lends_its_body(run, colors, tmp_path):
    few = ["--size", "16", "--batch-size", "8", "--epochs", "1", "--precision", "fp32", "--run-dir", tmp_path / "run"]
    done = etude("train", colors, *SPLIT, "--arch", run[0], *few)

    assert done.code == 0, done.errors
    assert f"from {run[0]}; new head" in done.out
    assert "1 epoch of " in done.out


def test_ctrl_c_exits_with_130_and_names_the_way_to_go_on(colors, tmp_path, monkeypatch):
    after_epoch = KeepRun.after_epoch

    def stopped(self, learner, results):
        after_epoch(self, learner, results)
        raise KeyboardInterrupt

    monkeypatch.setattr(KeepRun, "after_epoch", stopped)
    done = etude("train", colors, *SPLIT, *FAST, *THREE, "--run-dir", tmp_path / "run")

    assert (done.code, done.errors) == (130, "stopped\n")
    assert done.out.splitlines()[-1] == f"go on with: etude resume {tmp_path / 'run'}"
    assert not (tmp_path / "run" / "result.json").exists()


# -- layouts ----------------------------------------------------------------------------------------------------------


def as_train_and_valid(colors, folder):
    for path in colors.glob("*/[0-9]*.png"):
        side = "valid" if int(path.stem) % 4 == 0 else "train"
        (folder / side / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / side / path.parent.name / path.name).write_bytes(path.read_bytes())
    return []


def as_loose_files(colors, folder):
    folder.mkdir()
    for path in colors.glob("*/[0-9]*.png"):
        (folder / f"{path.parent.name}_{path.name}").write_bytes(path.read_bytes())
    return ["--valid-pct", "0.25"]


def as_table(colors, folder):
    folder.mkdir()
    rows = ["name,label,is_valid"]
    for path in sorted(colors.glob("*/[0-9]*.png")):
        name = f"{path.parent.name}-{path.name}"
        (folder / name).write_bytes(path.read_bytes())
        rows.append(f"{name},{path.parent.name},{int(path.stem) % 4 == 0}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return []


def as_deeper_folders(colors, folder):
    for path in colors.glob("*/[0-9]*.png"):
        deep = folder / "wrapping" / path.parent.name / str(int(path.stem) % 2)
        deep.mkdir(parents=True, exist_ok=True)
        (deep / path.name).write_bytes(path.read_bytes())
    return ["--label", "top", "--valid-pct", "0.25"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (as_train_and_valid, "train/CLASS and valid/CLASS"),
        (as_loose_files, "LABEL_NUMBER files"),
        (as_table, "labels.csv with is_valid"),
        (as_deeper_folders, "CLASS folders in wrapping; the label is the first folder"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_every_layout_trains(colors, tmp_path, make, words):
    flags = make(colors, tmp_path / "data")
    done = etude("train", tmp_path / "data", *flags, *FAST, *ONE, "--run-dir", tmp_path / "run", "--json")

    assert done.code == 0, done.errors
    assert words in done.out.splitlines()[0]
    assert read(tmp_path / "run" / "config.json")["data"]["classes"] == list(COLORS)
    assert (tmp_path / "run" / "incidents.jsonl").read_text().count("data: ") == 0


# -- several runs -----------------------------------------------------------------------------------------------------


def test_two_seeds_share_the_precision_that_the_first_measured(colors, tmp_path):
    two = ["--epochs", "1", "--precision", "auto", "--seeds", "2", "--run-dir", tmp_path / "both", "--json"]
    done = etude("train", colors, *SPLIT, *FAST, *two)

    assert done.code == 0, done.errors
    result = done.json
    first, second = (read(tmp_path / "both" / f"seed-{seed}" / "config.json") for seed in (42, 43))
    assert re.match("measured|this processor has no bfloat16 instructions", first["precision_reason"])
    assert second["options"]["precision"] == second["precision"] == first["precision"]
    assert result == read(tmp_path / "both" / "result.json")
    accuracies = [read(tmp_path / "both" / f"seed-{seed}" / "result.json")["valid_accuracy"] for seed in (42, 43)]
    assert result["valid_accuracies"] == accuracies
    assert result["valid_accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["valid_accuracy_sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert f"accuracy {seeds.spread(accuracies)} (" in done.out


def test_three_folds_hold_out_every_picture_once(colors, tmp_path, monkeypatch):
    loaded, load = [], vision.load
    monkeypatch.setattr(vision, "load", lambda *args, **options: loaded.append(load(*args, **options)) or loaded[-1])
    done = etude("train", colors, *FAST, "--folds", "3", "--epochs", "1", "--run-dir", tmp_path / "folds", "--json")

    assert done.code == 0, done.errors
    assert len({name for data in loaded for name in data.valid.names}) == sum(len(d.valid.names) for d in loaded) == 53
    configs = [read(tmp_path / "folds" / f"fold-{i}" / "config.json") for i in (1, 2, 3)]
    assert [c["options"]["precision"] for c in configs] == ["auto", *[configs[0]["precision"]] * 2]
    assert len(done.json["runs"]) == len(done.json["valid_accuracies"]) == 3
    assert done.json["valid_accuracy"] == pytest.approx(np.mean(done.json["valid_accuracies"]))


# -- studies ----------------------------------------------------------------------------------------------------------


def check_rows(rows, bases):
    """The arithmetic of a study's rows against numpy."""
    values = [np.array(row["accuracies"]) for row in rows]
    for row, own, base in zip(rows, values, bases, strict=True):
        differences = own - values[base]
        assert row["mean"] == pytest.approx(own.mean())
        assert row["sd"] == pytest.approx(own.std(ddof=1))
        assert row["difference"] == pytest.approx(differences.mean())
        # two pairs: one degree of freedom
        half = 12.706204736 * differences.std(ddof=1) / np.sqrt(2)
        assert row["difference_half_interval"] == pytest.approx(half)


@pytest.mark.parametrize(
    ("command", "variants", "bases"),
    [("techniques-study", 3, [0, 0, 0]), ("noisy-label-study", 6, [0, 0, 2, 2, 4, 4])],
)
def test_a_study_has_a_row_per_variant_and_paired_differences(colors, tmp_path, command, variants, bases):
    small = [*FAST, "--epochs", "1", "--seeds", "2", "--run-dir", tmp_path / "study", "--json"]
    done = etude(command, "--data", colors, *SPLIT, *small)

    assert done.code == 0, done.errors
    result = done.json
    assert result == read(tmp_path / "study" / "result.json")
    assert len(result["rows"]) == variants
    check_rows(result["rows"], bases)
    table = done.out[done.out.index("\nvariant ") :].splitlines()[1:]
    assert [line.split("  ")[0] for line in table[1 : variants + 1]] == [row["variant"] for row in result["rows"]]
    configs = [read(path) for path in sorted((tmp_path / "study").glob("*/config.json"))]
    assert len(configs) == 2 * variants
    assert {config["precision"] for config in configs} == {result["precision"]}
    assert (tmp_path / "study" / "study.png").exists()


def test_wrong_labels_are_in_training_only(colors, tmp_path):
    noise = ["--label-noise", "0.5", "--run-dir", tmp_path / "run"]
    done = etude("train", colors, *SPLIT, *FAST, *ONE, *noise)
    train = read(tmp_path / "run" / "config.json")["data"]["train"]

    assert f"{round(train / 2)} of {train} training labels were made wrong on purpose" in done.out


@pytest.mark.parametrize(("command", "flag"), [("techniques-study", "--mixup"), ("noisy-label-study", "--label-noise")])
def test_a_study_refuses_what_it_decides_itself(colors, command, flag):
    done = etude(command, "--data", colors, *SPLIT, flag, "0.3")

    assert done.code == 2
    assert f"{flag} has no effect here: the study decides it" in done.errors


def test_one_run_has_no_interval():
    rows = studies.compare({"a": [0.5], "b": [0.75]})

    assert [row["difference"] for row in rows] == [0, 0.25]
    assert rows[1]["sd"] is rows[1]["difference_half_interval"] is None
    assert studies.table(rows).splitlines()[-1] == "b        75.00 %   +25.00 points"


# -- real archives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imagenette", "imagewoof"])
def test_the_lessons_recipe_runs_on_the_archive(data_folder, tmp_path, name):
    small = ["--size", "8", *FAST[2:4], *ONE]
    done = etude(name, "--data", data_folder / f"{name}2-mini-64.tgz", *small, "--run-dir", tmp_path / "run", "--json")

    assert done.code == 0, done.errors
    assert "400 train and 200 valid pictures of 10 classes (train/CLASS and val/CLASS" in done.out
    assert done.json["valid_samples"] == 200
    config = read(tmp_path / "run" / "config.json")
    assert len(config["data"]["classes"]) == 10
    assert not [name for name in config["data"]["classes"] if name.startswith("n0")], "names, not WordNet ids"
    assert config["options"]["lr"] == 8e-3


def test_pets_are_labeled_by_their_names(data_folder, tmp_path):
    small = ["--size", "8", *FAST[2:4], *ONE, "--valid-pct", "0.2"]
    done = etude("train", data_folder / "oxford-iiit-pet-mini-64.tgz", *small, "--run-dir", tmp_path / "run", "--json")

    assert done.code == 0, done.errors
    assert "of 37 classes (LABEL_NUMBER files" in done.out
