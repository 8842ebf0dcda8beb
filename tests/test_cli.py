"""The command line: instant help, exit codes, one JSON object, and a run folder that other tools can rely on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import etude
from coloring import etude as command
from coloring import with_pictures
from etude import cli
from etude.recipes.options import in_flags

COMMANDS = ("demo", "train", "imagenette", "imagewoof", "techniques-study", "noisy-label-study", "predict", "evaluate")
COMMANDS += ("finetune", "pets-study", "resume", "runs", "show", "compare", "report", "export")
COMMANDS += ("demo-text", "lm", "classify-text", "ulmfit", "generate", "bptt-study")
TRAININGS = ("demo", "train", "finetune", "imagenette", "imagewoof", "lm", "classify-text")
COMMANDS += ("lr-find", "plan", *(f"{command} {name}" for command in ("lr-find", "plan") for name in TRAININGS))
DATA_COMMANDS = ("data", "data list", "data get", "data check", "data show", "data cache")


def test_help_of_every_command_does_not_import_torch(etude_command):
    """The 0.4 s of the goal are timed by `benchmarks/startup.py`; here only their cause is checked."""
    helps = [["--version"], ["--help"], *([*name.split(), "--help"] for name in (*COMMANDS, *DATA_COMMANDS))]
    code = (
        "import sys; from etude.cli import run_command\n"
        f"for arguments in {helps!r}:\n"
        "    assert run_command(arguments) == 0\n"
        "    assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules), arguments\n"
    )
    done = subprocess.run([etude_command[0], "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: etude") == len(helps) - 1


def test_the_list_of_commands_is_whole():
    known = {*cli.app, *(f"data {name}" for name in cli.data_app)}
    known |= {f"lr-find {name}" for name in cli.lr_find_app} | {f"plan {name}" for name in cli.plan_app}

    assert {name for name in known if "-" not in (name[0], name.split()[-1][0])} == {*COMMANDS, *DATA_COMMANDS}


def test_options_come_in_the_order_of_a_training(capsys):
    cli.run_command(["train", "--help"])
    groups = re.findall(r"╭─ (\w+) ", capsys.readouterr().out)

    assert groups == ["Arguments", "Parameters", "Pictures", "Model", "Training", "Run"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--epoch", "3"], "Did you mean --epochs?"),
        (["demo", "--epochs", "many"], "--epochs"),
        (["dmo"], 'Did you mean "demo"?'),
        (["demo", "--precision", "fp8"], "fp8"),
        (["demo", "--epochs", "0", "--run-dir", "x"], "--epochs must be a number of at least 1, got 0"),
        (["demo", "--lr", "-1", "--run-dir", "x"], "--lr must be a finite number of at least 0, got -1.0"),
        (["demo", "--device", "warp", "--run-dir", "x"], "device 'warp' cannot be used"),
        (["demo", "--mixup", "-1", "--run-dir", "x"], "--mixup must be a finite number of at least 0, got -1.0"),
        (["train"], "name a folder or archive of pictures"),
        (["train", "here", "--data", "there"], "two places for the data, here and --data there"),
        (["train", "here", "--epoch", "3"], "Did you mean --epochs?"),
        (["train", "here", "--valid-pct", "20"], "--valid-pct must be a share from 0 to 1, such as 0.2, got 20.0"),
        (["train", "here", "--erase", "3"], "--erase must be a share from 0 to 1"),
        (["train", "here", "--min-scale", "0"], "--min-scale must be a share above 0, such as 0.35, got 0.0"),
        (["train", "here", "--color", "-1"], "--color must be a finite number of at least 0"),
        (["train", "here", "--size", "0"], "--size must be a number of at least 1, got 0"),
        (["train", "here", "--seeds", "0"], "--seeds must be a number of at least 1"),
        (["train", "here", "--folds", "1"], "--folds must be at least 2"),
        (["train", "here", "--folds", "3", "--seeds", "2"], "leave out --seeds and --valid-pct"),
        (["train", "here", "--arch", "xresnet19"], "did you mean 'xresnet18'?"),
        (["train", "here", "--arch", "lesson_cnn", "--blur-pool"], "lesson_cnn has no option ['blur_pool']"),
        (["train", "here", "--activation", "tanh"], "unknown activation 'tanh'"),
        (["train", "here", "--device", "warp"], "device 'warp' cannot be used"),
        (["train", "here", "--on-bad-data", "cry"], "cry"),
        (["imagenette", "here"], "Unused Tokens"),
        (["imagenette", "--data", "here", "--epochs", "0"], "--epochs must be a number of at least 1"),
        (["imagewoof", "--size", "big"], "--size"),
        (["techniques-study", "--mixup", "0.2"], "--mixup has no effect here: the study decides it"),
        (["techniques-study", "--flip", "0"], "--flip has no effect here"),
        (["techniques-study", "--seeds", "0"], "--seeds must be a number of at least 1"),
        (["noisy-label-study", "--label-noise", "0.1"], "--label-noise has no effect here"),
        (["lr-find", "dmo"], 'Did you mean "demo"?'),
        (
            ["lr-find", "demo", "--lr", "0.1"],
            "--lr has no effect here: every learning rate from --low",
        ),
        (["lr-find", "demo", "--low", "1", "--high", "0.1"], "must grow from above 0: --low 1 to --high 0.1"),
        (["lr-find", "demo", "--num-steps", "5"], "--num-steps 5 must be a whole number of at least 10"),
        (["lr-find", "demo", "--out", "picture.jpg"], "--out must be a .png file"),
        (["lr-find", "demo", "--run-dir", "x"], "--run-dir"),
        (["lr-find", "train"], "name a folder or archive of pictures"),
        (["lr-find", "train", "here", "--arch", "xresnet19"], "did you mean 'xresnet18'?"),
        (["lm"], "name a folder of .txt files, an archive, a .csv or .jsonl"),
        (["lm", "here", "--data", "there"], "two places for the data, here and --data there"),
        (["lm", "here", "--label", "top"], "--label"),
        (["lm", "here", "--bptt", "0"], "--bptt must be a number of at least 1, got 0"),
        (["lm", "here", "--drop-mult", "-1"], "--drop-mult must be a finite number of at least 0, got -1.0"),
        (["lm", "here", "--momentum", "0.8"], "--momentum"),
        (["lm", "here", "--momentum", "0.8", "1"], "--momentum must be two numbers from 0 to below 1, got 0.8 1.0"),
        (["lm", "here", "--freeze-epochs", "2"], "--freeze-epochs has no effect here: without --from"),
        (["lm", "here", "--tokenizer", "letters"], "letters"),
        (["classify-text"], "name a folder of .txt files"),
        (["classify-text", "here", "--max-length", "0"], "--max-length must be a number of at least 1, got 0"),
        (["ulmfit"], "name a folder of .txt files"),
        (["ulmfit", "here", "--both", "--backward"], "--both reads forward and backward; leave out --backward"),
        (["ulmfit", "here", "--lm-backward", "x"], "--lm-backward has no effect without --both"),
        (["ulmfit", "here", "--both", "--lm", "x"], "say --lm-backward for the other too"),
        (["ulmfit", "here", "--lm-epochs", "0"], "--lm-epochs must be a number of at least 1, got 0"),
        (["generate"], "RUN"),
        (["generate", "run", "--temperatur", "1"], "Did you mean --temperature?"),
        (["demo-text", "--epoch", "3"], "Did you mean --epochs?"),
        (["demo-text", "--seeds", "0"], "--seeds must be a number of at least 1"),
        (["bptt-study", "here", "--bptt", "70"], "--bptt 70 cannot be halved 2 times; take a multiple of 4"),
        (["bptt-study", "here", "--halvings", "20000"], "--halvings must be from 1 to 10, got 20000"),
        (["bptt-study", "here", "--seeds", "0"], "--seeds must be a number of at least 1, got 0"),
        (
            ["generate", "run", "a", "--temperature", "inf"],
            "--temperature must be a number above 0, such as 0.8, got inf",
        ),
        (["generate", "run", "a", "--temperature", "nan"], "--temperature must be a number above 0"),
        (["predict", "run", ""], "empty name"),
        (["predict", "run"], "name pictures or folders of pictures, or - to read names"),
        (["predict", "run", "a.jpg", "--tpo", "2"], "unknown option --tpo"),
        (["predict", "run", "a.jpg", "--top", "0"], "--top must be at least 1"),
        (["evaluate"], "RUN"),
        (["evaluate", "run", "--data", "here", "--split-see", "1"], "Did you mean --split-seed?"),
        (["runs", "--sort", "best"], "best"),
        (["runs", "--limit", "-1"], "--limit must be at least 0, got -1"),
        (["show"], "RUN"),
        (["compare", "a"], "OTHERS"),
        (["compare", "a", "b", "--out", "picture.jpg"], "--out must be a .png file"),
        (["data", "lst"], 'Did you mean "list"?'),
        (["data", "get"], "NAME"),
        (["data", "check"], "name a folder or archive of pictures"),
        (["data", "show", "here", "--out", "picture.jpg"], "--out must be a .png file"),
        (["data", "cache", "--verfy"], "Did you mean --verify?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_usage_exits_with_2_and_one_clear_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = cli.run_command(arguments)
    errors = capsys.readouterr().err

    assert code == 2, errors
    assert words in re.sub(r"\s+", " ", errors.replace("│", " "))
    assert "Traceback" not in errors


def test_a_wrong_flag_is_one_json_object_too(capsys):
    assert cli.run_command(["demo", "--epoch", "3", "--json", "--quiet"]) == 2
    assert "--epoch" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.slow
def test_a_training_goes_on_when_whoever_read_its_output_has_left(etude_command, tmp_path):
    command = [*etude_command, "demo", "--epochs", "1", "--run-dir", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()

    assert (process.returncode, errors) == (0, "")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 1


def test_messages_name_flags_and_leave_paths_as_they_are(tmp_path, monkeypatch, capsys):
    assert (
        in_flags("label='folder' is unknown; such as valid=0.2.")
        == "--label folder is unknown; such as --valid-pct 0.2."
    )
    assert (
        in_flags("labels='mood' is odd; name the texts: text_column=")
        == "--label mood is odd; name the texts: --text-column"
    )
    for kept in ("/my data/label=cat/1.jpg", r"C:\\label=cat\\1.jpg", "label=a.b/1.jpg", "train= and valid= folders"):
        assert in_flags(f"{kept} is odd") == f"{kept} is odd"
    monkeypatch.chdir(tmp_path)
    Path("label=cat").mkdir()

    assert cli.run_command(["train", "label=cat", "--valid-pct", "0.2"]) == 1
    assert "etude: label=cat holds no pictures" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "train here", "imagenette --data here", "techniques-study --data here"])
def test_a_folder_that_holds_something_is_not_touched(tmp_path, capsys, command):
    (tmp_path / "mine.txt").write_text("precious")

    assert cli.run_command([*command.split(), "--run-dir", str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One short real run of the demo."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("demo") / "run"
    with with_pictures():
        done = command("demo", "--epochs", "3", "--seed", "7", "--run-dir", folder, "--json")
    assert done.code == 0, done.errors
    return folder, done


def test_the_last_line_is_one_json_object(run):
    folder, done = run
    result = done.json

    assert result["run"] == str(folder)
    assert 0.9 < result["valid_accuracy"] <= 1
    assert result["train_seconds"] > 0
    assert result == json.loads((folder / "result.json").read_text())


def test_the_run_folder_holds_what_was_promised(run):
    folder, _ = run
    names = {path.name for path in folder.iterdir()}

    assert names >= {
        "config.json",
        "environment.json",
        "history.jsonl",
        "incidents.jsonl",
        "result.json",
        "curves.png",
        "predictions.png",
        "checkpoints",
        "model.safetensors",
        "model.json",
    }
    assert not [name for name in names if name.endswith(".part")]
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["seed"] == config["seed"] == 7
    assert config["callbacks"][1].startswith("MixUp(alpha=0.2")
    assert config["precision"] == "fp32"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert {"threads", "machine", "git", "command", "python"} <= set(environment)
    assert (folder / "incidents.jsonl").read_text() == ""
    with Image.open(folder / "curves.png") as picture:
        assert picture.size[0] > 1000


def test_the_history_has_every_step_and_every_epoch(run):
    lines = [json.loads(line) for line in (run[0] / "history.jsonl").read_text().splitlines()]
    steps, epochs = ([line for line in lines if line["kind"] == kind] for kind in ("step", "epoch"))

    assert [line["step"] for line in steps] == list(range(1, 67))
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert all(line["loss"] > 0 and line["lr"] > 0 for line in steps)
    assert steps[0]["lr"] == pytest.approx(1e-3)


def test_the_trained_model_can_be_loaded(run):
    from etude.recipes.demo import digits

    learner = etude.load(run[0])
    valid = digits().valid
    accuracy = learner.predict(valid.inputs).output.argmax(1).eq(valid.targets).float().mean()

    result = json.loads((run[0] / "result.json").read_text())
    assert float(accuracy) == pytest.approx(result["valid_accuracy"], abs=1e-6)


def test_the_same_seed_gives_the_same_run(run, tmp_path):
    command("demo", "--epochs", "3", "--seed", "7", "--run-dir", tmp_path / "again")
    again = (tmp_path / "again" / "model.safetensors").read_bytes()

    assert again == (run[0] / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_same_run(etude_command, tmp_path):
    demo = ["demo", "--epochs", "1", "--seed", "7", "--json", "--run-dir"]
    done = subprocess.run([*etude_command, *demo, str(tmp_path / "own")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads((tmp_path / "own" / "result.json").read_text())
    torch.set_num_threads(json.loads((tmp_path / "own" / "environment.json").read_text())["threads"])
    assert cli.run_command([*demo, str(tmp_path / "here")]) == 0
    own, here = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("own", "here"))

    assert own == here


def test_quiet_prints_the_json_line_only(tmp_path):
    done = command("demo", "--epochs", "1", "--run-dir", tmp_path / "run", "--quiet", "--json")
    (line,) = done.out.splitlines()

    assert done.code == 0
    assert json.loads(line)["epochs"] == 1


def test_ctrl_c_exits_with_130_and_leaves_a_note(etude_command, tmp_path):
    folder = tmp_path / "run"
    command = [*etude_command, "demo", "--epochs", "500", "--run-dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if list(folder.glob("checkpoints/step-*")):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "KeyboardInterrupt" in (folder / "incidents.jsonl").read_text()
    newest = max((folder / "checkpoints").iterdir())
    assert f"stopped; {newest.parent}" in errors
    assert len(etude.load(newest).data.vocab) == 10
    kinds = [json.loads(line)["kind"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert kinds.count("step") >= 22 * kinds.count("epoch")
    assert not (folder / "result.json").exists()
