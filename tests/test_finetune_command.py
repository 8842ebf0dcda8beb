"""`etude finetune`, its plan and its resume, and the study of what freezing does."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
import torch

import etude as library
from coloring import FAST, NARROW, etude, save_colors
from etude import ConfigError
from etude.recipes import pets_study
from etude.recipes.finetune import FinetuneOptions, training
from etude.recipes.lr_find import command_of
from etude.recipes.options import DataOptions, ModelOptions, TuningOptions
from etude.recipes.pets_study import PetsStudyOptions, rows_of, verdicts
from etude.runs.statistics import t_p
from etude.training import checkpoint
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
    assert read(folder / "result.json")["epochs"] == read(folder / "config.json")["epochs"] == 4
    incidents = (folder / "incidents.jsonl").read_text(encoding="utf-8")
    assert incidents.count("broken.jpg") == 1, "told once, and not in every phase"


def test_the_tuned_run_predicts(tuned, colors):
    loaded = library.load(tuned[0])

    assert loaded.model[-1].in_features == 2 * NARROW[-1], "the new head pools by maximum and average"
    assert loaded.predict(next((colors / "red").glob("*.png"))).label in ("red", "green", "blue")


@pytest.mark.parametrize(
    ("after", "phase", "step"), [(1, 0, 2), (10, 1, 7), pytest.param(18, 2, 11, marks=pytest.mark.slow)]
)
def test_a_tuning_that_was_stopped_ends_as_if_it_had_not_been(
    after, phase, step, tuned, colors, body, tmp_path, monkeypatch
):
    """Stopped in the middle of each phase; the body's run is gone by the time it goes on."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(body, tmp_path / "gone")
    arguments = ["--from", "gone", *FEW, "--gradual", "--norm", "frozen", "--run-dir", tmp_path / "run"]
    with stopped_after(after, monkeypatch):
        etude("finetune", colors, *arguments)
    stopped = checkpoint.read_newest(tmp_path / "run").progress
    assert (stopped["phase"], stopped["step"]) == (phase, step)
    shutil.rmtree(tmp_path / "gone")
    done = etude("resume", tmp_path / "run", "--json")

    assert done.code == 0, done.errors
    assert digest(tmp_path / "run") == digest(tuned[0])
    whole, resumed = (read(folder / "config.json")["phases"] for folder in (tuned[0], tmp_path / "run"))
    assert resumed == whole
    assert f"step {step}, after {stopped['epoch']} of 4 epochs" in done.out
    assert read(tmp_path / "run" / "config.json")["body"]["weights_sha256"] == digest(body)
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
        (["--from", "BODY", "--freeze-epochs", "0", "--norm", "frozen"], "--norm has no effect here"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_anything_is_read(arguments, words, colors, body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [body if argument == "BODY" else argument for argument in arguments]
    done = etude("finetune", colors, *arguments, *FEW, "--run-dir", tmp_path / "run")

    assert done.code in (1, 2)
    assert words in done.errors + done.out
    assert not (tmp_path / "run").exists()


def test_held_out_pictures_that_the_body_was_trained_on_are_told(colors, body, tmp_path):
    """By the body itself, or by the one that it came from."""
    first, second = tmp_path / "first", tmp_path / "second"
    done = etude("finetune", colors, "--from", body, *FEW, "--freeze-epochs", "0", "--run-dir", first)
    assert "trained on by the body" not in done.out, "the same split"
    done = etude("finetune", colors, "--from", first, *FEW, "--split-seed", "7", "--run-dir", second)

    assert done.code == 0, done.errors
    (told,) = [line for line in done.out.splitlines() if "held-out pictures were trained on by the body" in line]
    assert told.startswith("  note: ")
    assert "trained on by the body" in (second / "incidents.jsonl").read_text(encoding="utf-8")


def test_without_a_body_ones_own_runs_are_proposed(body, tmp_path, monkeypatch):
    shutil.copytree(body, tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "result.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    done = etude("finetune", "photos")

    accuracy = read(body / "result.json")["valid_accuracy"]
    assert done.code == 2
    assert f"--from runs/mine   (train on 36 pictures, {accuracy:.1%} right)" in done.errors.replace("\\", "/")
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


def test_the_network_from_scratch_is_that_of_the_body(tmp_path):
    made = library.vision.create_model("xresnet18", num_classes=3, blur_pool=True)
    plain = library.Learner(made, [], torch.nn.CrossEntropyLoss(), torch.optim.SGD)
    plain.save(tmp_path / "body")

    asked = ModelOptions(arch=str(tmp_path / "body"), activation="mish")
    assert pets_study.network_of(asked) == ModelOptions(
        arch="xresnet18", stem_stride=2, blur_pool=True, activation="mish"
    )
    narrow = library.vision.create_model("lesson_cnn", num_classes=3, widths=[8])
    library.Learner(narrow, [], torch.nn.CrossEntropyLoss(), torch.optim.SGD).save(tmp_path / "narrow")
    with pytest.raises(ConfigError, match=r"has \['widths'\] of its own"):
        pets_study.network_of(ModelOptions(arch=str(tmp_path / "narrow")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "number"], "--target has no effect here"),
        (["--freeze-epochs", "0"], "--freeze-epochs must be at least 1"),
    ],
)
def test_a_study_without_a_meaning_is_refused(arguments, words, colors, body):
    done = etude("pets-study", colors, "--from", body, *arguments)

    assert done.code == 2
    assert words in done.errors


def test_the_finder_looks_for_the_rate_of_the_head(colors, body, tmp_path, monkeypatch):
    seen = []
    find = library.find_lr

    def looked_at(learner, **options):
        seen.append([name for name, one in learner.model.named_parameters() if one.requires_grad])
        return find(learner, **options)

    monkeypatch.setattr("etude.training.finder.find_lr", looked_at)
    monkeypatch.chdir(tmp_path)
    few = ["--valid-pct", "0.25", "--size", "16", "--batch-size", "8", "--precision", "fp32", "--epochs", "1"]
    done = etude("lr-find", "finetune", colors, "--from", body, *few, "--norm", "affine", "--num-steps", "20", "--json")

    assert seen == [["7.weight", "7.bias"]], done.errors


@pytest.mark.parametrize("file", [False, True], ids=["a run", "a file"])
def test_the_command_that_a_finder_names_trains_what_was_asked(file, colors, body, tmp_path):
    source = str(body / "model.safetensors") if file else str(body)
    data = DataOptions(data=str(colors), valid_pct=0.25, size=16)
    model = ModelOptions(arch="lesson_cnn") if file else ModelOptions()
    train = FinetuneOptions(epochs=1, batch_size=8, precision="fp32")
    asked = training(data, source, model, train, TuningOptions(norm="affine"))
    words = shlex.split(command_of(asked, 0.01))

    assert words[:3] == ["etude", "finetune", str(colors)]
    done = etude(*words[1:], "--run-dir", tmp_path / "run")
    assert done.code == 0, done.errors
    made = read(tmp_path / "run" / "config.json")["training"]
    wanted = asked.record()
    assert {name: made[name] for name in ("data", "model", "tuning")} == {
        name: wanted[name] for name in ("data", "model", "tuning")
    }
    assert made["train"] == {**wanted["train"], "lr": 0.01}


def test_one_seed_tells_nothing_about_chance():
    assert verdicts([], 1) == [
        "one seed tells nothing about which differences are more than chance; add --seeds 3 or more"
    ]


def _epochs(folder):
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "epoch"]
