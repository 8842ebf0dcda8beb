"""`etude predict` and `etude evaluate`: what a trained run says of pictures, and how right it is."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import torch

import etude as library
from coloring import COLORS, FAST, etude, picture, save_colors, save_odd
from etude.data.layouts import guess

SKIPPED = ["dangling.jpg", "nothing.jpg", "text.jpg", "truncated.jpg"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training on three colors, a quarter held out."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("predict")
    save_colors(folder / "colors")
    training = [
        "--valid-pct",
        "0.25",
        "--seed",
        "5",
        "--split-seed",
        "5",
        "--epochs",
        "3",
        "--precision",
        "fp32",
        "--quiet",
    ]
    done = etude("train", folder / "colors", *FAST, *training, "--run-dir", folder / "run")
    assert done.code == 0, done.errors
    return folder / "run"


@pytest.fixture(scope="module")
def colors(run):
    return run.parent / "colors"


@pytest.fixture(scope="module")
def new(run):
    """Pictures that the run has not seen; their order is that of no alphabet."""
    paths = []
    for i, color in enumerate(["red", "blue", "green", "blue", "red"]):
        paths.append(run.parent / f"{'edcba'[i]}.png")
        picture(color, 500 + i).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def odd(run):
    folder = run.parent / "odd"
    folder.mkdir()
    save_odd(folder)
    return folder


def record(run, description=None, **options):
    """Change what a run's folder says of its training."""
    config = json.loads((run / "config.json").read_text())
    config["options"] |= options
    config["data"]["description"] = description or config["data"]["description"]
    (run / "config.json").write_text(json.dumps(config))


# -- predict ----------------------------------------------------------------------------------------------------------


def test_the_command_says_what_the_library_says(run, new):
    rows = etude("predict", run, *new, "--json").json["predictions"]
    learner = library.load(run)

    for path, row in zip(new, rows, strict=True):
        prediction = learner.predict(path)
        assert row["label"] == prediction.label
        assert row["probability"] == pytest.approx(prediction.probability, abs=1e-5)


def test_the_order_of_the_names_is_kept(run, new):
    for names in (new, new[::-1]):
        rows = etude("predict", run, *names, "--json", "--quiet").json["predictions"]

        assert [row["file"] for row in rows] == [str(path) for path in names]


def test_more_pictures_than_a_batch_keep_their_order(run, new):
    names = [new[i % 5] for i in range(150)]
    rows = etude("predict", run, *names, "--json", "--quiet").json["predictions"]

    assert [row["file"] for row in rows] == [str(path) for path in names]
    assert len({(row["file"], row["label"]) for row in rows}) == 5


def test_top_names_the_classes_by_probability(run, new):
    row = etude("predict", run, new[0], "--top", "3", "--json").json["predictions"][0]
    probabilities = [one["probability"] for one in row["top"]]

    assert {one["label"] for one in row["top"]} == set(COLORS)
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert row["label"] == row["top"][0]["label"]


def test_the_table_is_aligned(run, new, tmp_path):
    longer = tmp_path / "a-picture-with-a-longer-name.png"
    picture("green", 700).save(longer)
    done = etude("predict", run, new[0], longer, "--top", "2")
    first, second = done.out.splitlines()

    assert first.startswith(f"{new[0]} ")
    assert second.startswith(f"{longer} ")
    assert first.index("%") == second.index("%")
    assert first.rindex("%") == second.rindex("%")


def test_a_folder_means_its_pictures(run, colors):
    rows = etude("predict", run, colors, "--json", "--quiet").json["predictions"]

    assert len(rows) == 48
    right = sum(row["label"] in row["file"].split("/")[-2] for row in rows)
    assert right > 33, "of colors that it was trained on"


def test_a_dash_reads_names_from_standard_input(run, new, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{new[1]}\n\n{new[0]}\n"))
    done = etude("predict", run, "-", "--json")

    assert [row["file"] for row in done.json["predictions"]] == [str(new[1]), str(new[0])]


def test_bad_pictures_are_skipped_named_and_exit_with_1(run, odd):
    done = etude("predict", run, odd, "--json")

    assert done.code == 1
    skipped = {row["file"].split("/")[-1]: row["reason"] for row in done.json["skipped"]}
    assert sorted(skipped) == SKIPPED
    assert len(done.json["predictions"]) == 5
    for name in SKIPPED:
        assert f"skipped: {odd / name} " in done.errors


def test_quiet_still_names_what_was_skipped(run, new, odd):
    done = etude("predict", run, new[0], odd / "nothing.jpg", "--quiet", "--out", run.parent / "quiet.csv")

    assert (done.code, done.out) == (1, "")
    assert done.errors.startswith(f"skipped: {odd / 'nothing.jpg'} is empty.")


def test_bad_pictures_stop_a_prediction_that_says_so(run, new, odd):
    done = etude("predict", run, new[0], odd / "nothing.jpg", "--on-bad-data", "stop")

    assert done.code == 1
    assert done.errors.startswith(f"etude: {odd / 'nothing.jpg'} is empty.")


def test_quiet_and_json_print_one_line(run, new):
    done = etude("predict", run, *new, "--quiet", "--json")

    assert (done.code, done.errors) == (0, "")
    (line,) = done.out.splitlines()
    assert len(json.loads(line)["predictions"]) == 5


def test_what_is_no_run_is_named(new, tmp_path):
    done = etude("predict", tmp_path, new[0], "--json")

    assert done.code == 1
    assert f"{tmp_path} holds no model.safetensors" in done.errors
    assert done.json == {"error": done.errors.removeprefix("etude: ").strip()}


def test_a_folder_without_pictures_is_named(run, tmp_path):
    done = etude("predict", run, tmp_path)

    assert done.code == 1
    assert f"{tmp_path} holds no pictures" in done.errors


# -- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluate_on_the_held_out_share_equals_the_runs_own_accuracy(run, colors):
    own = json.loads((run / "result.json").read_text())
    done = etude("evaluate", run, "--data", colors, "--valid-pct", "0.25", "--split-seed", "5", "--json")

    assert done.code == 0, done.errors
    assert done.json["accuracy"] == own["valid_accuracy"]
    assert done.json["samples"] == own["valid_samples"]
    assert done.json["cross_entropy"] == pytest.approx(own["valid_cross_entropy"], rel=1e-5)
    assert f"{own['valid_right']} of {own['valid_samples']} pictures right: " in done.out


@pytest.mark.parametrize("of", ["", "checkpoints"])
def test_evaluate_on_the_data_of_the_training_takes_what_it_held_out(run, colors, monkeypatch, of):
    monkeypatch.chdir(colors.parent)
    own = json.loads((run / "result.json").read_text())
    place = max((run / of).iterdir()) if of else run
    done = etude("evaluate", place, "--data", "colors", "--json")

    assert (done.json["samples"], done.json["accuracy"]) == (own["valid_samples"], own["valid_accuracy"])
    assert done.json["trained_on"] == 0
    assert "note: " not in done.out
    assert done.out.splitlines()[0] == "as in the training: --valid-pct 0.25 --split-seed 5"


def test_evaluate_on_pictures_that_were_trained_on_says_so(run, colors):
    held, others = ({path for path, _ in guess(colors, valid=0.25, seed=i).samples(colors).valid} for i in (5, 6))
    done = etude("evaluate", run, "--data", colors, "--split-seed", "6", "--json")

    assert done.out.splitlines()[0] == "as in the training: --valid-pct 0.25"
    assert done.json["samples"] == len(others)
    assert 0 < done.json["trained_on"] == len(others - held)
    assert f"  note: {len(others - held)} of these pictures were trained on: " in done.out


def test_evaluate_on_a_part_of_the_data_counts_what_was_trained_on(run, tmp_path):
    data = tmp_path / "data"
    save_colors(data / "train", per_class=3)
    save_colors(data / "valid", per_class=2)
    shutil.copytree(run, tmp_path / "run")
    record(tmp_path / "run", data=str(data), valid_pct=None)
    counts = {
        part: etude("evaluate", tmp_path / "run", "--data", data / part, "--json", "--quiet").json["trained_on"]
        for part in ("train", "valid", "")
    }

    assert counts == {"train": 9, "valid": 0, "": 0}
    record(tmp_path / "run", description="CLASS folders in train; valid is left out, fold 2 of 3 held out")
    folds = etude("evaluate", tmp_path / "run", "--data", data / "train", "--json", "--quiet")
    assert folds.json["trained_on"] == 6
    shutil.rmtree(data / "valid")
    record(tmp_path / "run", description="train/CLASS and valid/CLASS")
    gone = etude("evaluate", tmp_path / "run", "--data", data / "train", "--json", "--quiet")
    assert gone.json["trained_on"] is None


def test_evaluate_elsewhere_takes_all_pictures(run, tmp_path):
    save_colors(tmp_path / "data", per_class=5)
    done = etude("evaluate", run, "--data", tmp_path / "data", "--json")
    result = done.json

    assert (result["samples"], result["trained_on"]) == (15, 0)
    assert {name: row["samples"] for name, row in result["classes"].items()} == dict.fromkeys(COLORS, 5)
    assert result["accuracy"] == pytest.approx(sum(row["accuracy"] for row in result["classes"].values()) / 3)
    assert "as in the training" not in done.out


def test_evaluate_names_the_worst_class_first(run, tmp_path):
    """Some files lie in the folder of another color, and so are wrong."""
    for color, others in (("blue", 3), ("green", 8), ("red", 0)):
        (tmp_path / color).mkdir()
        for i in range(8):
            picture("red" if i < others else color, 800 + i).save(tmp_path / color / f"{i}.png")
    done = etude("evaluate", run, "--data", tmp_path)
    rows = [line.split()[:2] for line in done.out.splitlines()[1:-2]]

    assert [name for name, _ in rows] == ["green", "blue", "red"]
    assert len({share for _, share in rows}) == 3


def test_evaluate_skips_and_names_bad_pictures(run, colors, tmp_path):
    save_colors(tmp_path / "data", per_class=4)
    save_odd(tmp_path / "data" / "red")
    result = etude("evaluate", run, "--data", tmp_path / "data", "--json", "--quiet").json

    assert sorted(row["file"] for row in result["skipped"]) == [f"red/{name}" for name in SKIPPED]
    assert result["samples"] == 12 + 5
    stopped = etude("evaluate", run, "--data", tmp_path / "data", "--on-bad-data", "stop")
    assert stopped.code == 1
    assert "4 of 21 pictures" in stopped.errors


def test_evaluate_names_a_label_that_the_run_does_not_know(run, tmp_path):
    save_colors(tmp_path / "data", per_class=4)
    (tmp_path / "data" / "red").rename(tmp_path / "data" / "crimson")
    done = etude("evaluate", run, "--data", tmp_path / "data")

    assert done.code == 1
    assert "the label 'crimson'" in done.errors
    assert "(blue, green, red)" in done.errors


@pytest.fixture(scope="module")
def several(run):
    """Data of several labels, of which a third is held out, and a run on it."""
    data = run.parent / "several"
    data.mkdir()
    rows = ["name,labels,is_valid"]
    for i in range(24):
        color = list(COLORS)[i % 3]
        picture(color, 600 + i).save(data / f"{i}.png")
        rows.append(f"{i}.png,{color}{';warm' if color == 'red' else ''},{int(i >= 15)}")
    (data / "labels.csv").write_text("\n".join(rows))
    short = ["--epochs", "2", "--precision", "fp32", "--quiet", "--run-dir", run.parent / "several-run"]
    done = etude("train", data, *FAST, *short)
    assert done.code == 0, done.errors
    return data, run.parent / "several-run"


def test_evaluate_measures_several_labels_by_their_answers(several):
    data, folder = several
    own = json.loads((folder / "result.json").read_text())
    done = etude("evaluate", folder, "--data", data, "--json")
    result, classes = done.json, done.json["classes"]

    assert done.code == 0, done.errors
    assert (result["samples"], result["answers"], result["trained_on"]) == (9, 36, 0)
    assert result["accuracy"] == pytest.approx(own["valid_accuracy"])
    assert {name: row["samples"] for name, row in classes.items()} == {"blue": 3, "green": 3, "red": 3, "warm": 3}
    assert result["accuracy"] == pytest.approx(sum(row["accuracy"] for row in classes.values()) / 4)
    probabilities = torch.tensor(
        [
            [one["probability"] for one in sorted(row["labels"], key=lambda one: one["label"])]
            for row in etude(
                "predict", folder, *(data / f"{i}.png" for i in range(15, 24)), "--top", "4", "--json"
            ).json["predictions"]
        ]
    ).double()
    truth = torch.tensor([[i % 3 == 0, i % 3 == 1, i % 3 == 2, i % 3 == 2] for i in range(15, 24)])
    expected = -torch.where(truth, probabilities, 1 - probabilities).log().mean()
    assert result["cross_entropy"] == pytest.approx(float(expected), abs=1e-4)
    assert f"{result['accuracy']:.2%} of 36 yes-or-no answers right, binary cross entropy " in done.out


def test_evaluate_refuses_labels_of_another_kind_than_the_models(run, colors, several):
    data, folder = several
    one = etude("evaluate", folder, "--data", colors)
    joined = etude("evaluate", folder, "--data", data, "--label", r"(\d)\.png")

    assert (one.code, joined.code) == (2, 1)
    assert "answers yes or no for each class, but the pictures in" in one.errors
    assert "have one label each" in one.errors
    (data.parent / "two").mkdir(exist_ok=True)
    picture("red", 1).save(data.parent / "two" / "1.png")
    picture("red", 2).save(data.parent / "two" / "2.png")
    (data.parent / "two" / "labels.csv").write_text("name,labels\n1.png,red;blue\n2.png,green")
    other = etude("evaluate", run, "--data", data.parent / "two")
    assert other.code == 2
    assert "names one class for each picture, but the pictures in" in other.errors
    assert "have several labels joined by ';'" in other.errors
