"""Pictures with several labels or none: read, trained with soft answers, measured and predicted."""

from __future__ import annotations

import csv
import json
import tarfile

import pytest
import torch

import etude as library
from coloring import COLORS, FAST, etude, picture
from etude import ConfigError, CutMix, DataError, MixUp, losses, vision
from etude.losses import BinaryCrossEntropy


def save(folder, lines, header="name,labels,is_valid"):
    """Pictures of which each line names one, its labels, and its side."""
    folder.mkdir(exist_ok=True)
    lines = list(lines)
    for i, line in enumerate(lines):
        color = next((name for name in COLORS if name in line), "blue")
        picture(color, 600 + i).save(folder / line.split(",")[0])
    (folder / "labels.csv").write_text("\n".join([header, *lines]))
    return folder


def colors(num=30, every=5):
    """Colors and warmth; every fifth has no label and is blue."""
    for i in range(num):
        color = list(COLORS)[i % 3]
        label = "" if i % every == 4 else f"{color}{';warm' if color == 'red' else ''}"
        yield f"{i}.png,{label},{int(i >= num * 2 // 3)}"


def load(folder, **options):
    return vision.load(folder, size=16, batch_size=8, progress=False, **options)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return save(tmp_path_factory.mktemp("several") / "data", colors())


@pytest.fixture(scope="module")
def run(several):
    short = ["--epochs", "4", "--label-smoothing", "0", "--precision", "fp32", "--quiet"]
    done = etude("train", several, *FAST, *short, "--run-dir", several.parent / "run")
    assert done.code == 0, done.errors
    return several.parent / "run"


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_picture_may_have_no_label(several):
    data = load(several)
    names = [name.removesuffix(".png") for name in data.train.names]

    assert list(data.vocab) == ["blue", "green", "red", "warm"]
    for name, target in zip(names, data.train.targets.tolist(), strict=True):
        i = int(name)
        color = list(COLORS)[i % 3]
        expected = [i % 5 != 4 and one in (color, "warm" if color == "red" else "") for one in data.vocab]
        assert target == [float(one) for one in expected]


def test_no_label_is_refused_where_the_header_promises_one(tmp_path):
    lines = ["a.png,red,0", "b.png,,0", "c.png,blue;red,1"]
    with pytest.raises(DataError, match=r"labels\.csv, line 3: name or label is empty; .*'labels'.*--several"):
        load(save(tmp_path / "1", lines, "name,label,is_valid"))
    with pytest.raises(DataError, match=r"labels\.csv, line 3: name or label is empty"):
        load(save(tmp_path / "2", [line.replace("blue;", "") for line in lines]))


def test_one_label_each_can_be_read_as_several(tmp_path):
    lines = ["a.png,red,0", "b.png,,0", "c.png,blue,0", "d.png,red,1"]
    data = load(save(tmp_path, lines, "name,label,is_valid"), several=True)

    assert data.several_labels
    assert data.train.targets.tolist() == [[0, 1], [0, 0], [1, 0]]


def test_folders_can_be_read_as_several_labels_too(tmp_path):
    for i, color in enumerate(["blue", "red"] * 4):
        (tmp_path / color).mkdir(exist_ok=True)
        picture(color, i).save(tmp_path / color / f"{i}.png")

    assert load(tmp_path, valid=0.3, several=True).train.targets.shape[1] == 2


# -- training ---------------------------------------------------------------------------------------------------------


def learner(data, **options):
    return vision.learner("lesson_cnn", data, precision="fp32", progress=False, widths=[8], **options)


def test_the_loss_is_smoothed_and_the_metrics_suit(several):
    made = learner(load(several), label_smoothing=0.2)
    row = made.evaluate()

    assert isinstance(made.loss_fn, BinaryCrossEntropy)
    assert made.loss_fn.smoothing == 0.2
    assert set(row) == {"loss", "accuracy", "cross_entropy", "macro_f1", "exact_match"}
    plain = learner(load(several), label_smoothing=0.0)
    plain.model.load_state_dict(made.model.state_dict())
    assert plain.evaluate()["loss"] == pytest.approx(row["cross_entropy"], rel=1e-5)


@pytest.mark.parametrize("mixer", [MixUp(0.4), CutMix(1.0)], ids=["mixup", "cutmix"])
def test_mixed_pictures_have_soft_answers(several, mixer):
    seen = []

    class Look(library.Callback):
        def after_step(self, learner, batch, output):
            mixed = batch.targets
            share = mixed.weight[:, None]
            soft = share * mixed.first + (1 - share) * mixed.second
            expected = losses.apply(learner.loss_fn, output.preds, soft)
            seen.append((float(output.loss), float(expected)))

    made = learner(load(several), label_smoothing=0.1, callbacks=[mixer, Look()])
    made.fit(1, lr=1e-3)

    assert len(seen) == 2
    assert all(ours == pytest.approx(soft, rel=1e-5) for ours, soft in seen)


def test_balanced_weights_count_the_yes_and_the_no_of_a_class_alike(several):
    from etude.vision.objective import balanced_weights

    data = load(several)
    weights, targets = balanced_weights(data), data.train.targets
    each = torch.where(targets > 0.5, weights[1], weights[0])

    assert torch.allclose((each * targets).sum(0), (each * (1 - targets)).sum(0))
    assert float(each.mean()) == pytest.approx(1)
    assert learner(data, focal=2.0, class_weights="balanced").loss_fn.binary


# -- using ------------------------------------------------------------------------------------------------------------


def test_predict_says_every_label_above_the_threshold(run, several):
    done = {
        given: [
            json.loads(line) for line in etude("predict", run, several, "--format", "json", *given).out.splitlines()
        ]
        for given in ((), ("--threshold", "0.2"), ("--threshold", "0"), ("--threshold", "1"), ("--top", "2"))
    }
    whole = [{one["label"]: one["probability"] for one in row["labels"]} for row in done["--threshold", "0"]]

    assert all(len(row) == 4 for row in whole)
    for given, threshold in (((), 0.5), (("--threshold", "0.2"), 0.2)):
        for row, probabilities in zip(done[given], whole, strict=True):
            assert [one["label"] for one in row["labels"]] == [
                name
                for name in sorted(probabilities, key=probabilities.get, reverse=True)
                if probabilities[name] >= threshold
            ]
    assert any(row["labels"] == [] for row in done["--threshold", "1"])
    assert [len(row["labels"]) for row in done["--top", "2"]] == [2] * 30


def test_csv_and_table_join_the_labels(run, several):
    lines = etude("predict", run, several, "--format", "csv", "--threshold", "0").out.splitlines()
    row = next(iter(csv.DictReader(lines)))
    table = etude("predict", run, several, "--threshold", "1").out

    assert list(row) == ["file", "labels", "probabilities", "error"]
    assert len(row["labels"].split(";")) == len(row["probabilities"].split(";")) == 4
    assert "no label" in table
    prediction = library.load(run).predict(several / "0.png")
    assert set(prediction.labels) <= {"blue", "green", "red", "warm"}
    assert "Prediction(labels=" in repr(prediction)


def test_evaluate_measures_what_training_measured(run, several):
    own = json.loads((run / "result.json").read_text())
    done = etude("evaluate", run, "--data", several, "--json")

    assert done.code == 0, done.errors
    for name in ("accuracy", "macro_f1", "exact_match", "cross_entropy"):
        assert done.json[name] == pytest.approx(own[f"valid_{name}"], rel=1e-5), name
    assert 0 < done.json["mean_average_precision"] <= 1
    assert "mean average precision" in done.out


def test_a_run_that_was_said_to_have_several_labels_is_measured_so(tmp_path):
    lines = [line.replace(";warm", "") for line in colors(every=100)]
    data = save(tmp_path / "data", lines, "name,label,is_valid")
    short = ["--several", "--epochs", "1", "--precision", "fp32", "--quiet", "--run-dir", tmp_path / "run"]
    assert etude("train", data, *FAST, *short).code == 0
    done = etude("evaluate", tmp_path / "run", "--data", data, "--json", "--quiet")

    assert done.code == 0, done.errors
    assert (done.json["answers"], done.json["trained_on"]) == (30, 0)


def test_numbers_and_several_labels_are_refused_together(several):
    with pytest.raises(ConfigError, match=r"several names \(several=\) or numbers \(target=\), not both"):
        load(several, several=True, target="number")


@pytest.mark.slow
def test_breed_and_animal_of_real_pets(data_folder, tmp_path):
    """One animal in two answers: cats and dogs are told apart long before their breeds."""
    with tarfile.open(data_folder / "oxford-iiit-pet-mini-64.tgz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "oxford-iiit-pet-mini-64" / "images"
    files = sorted(folder.glob("*.jpg"))
    lines = ["name,labels,is_valid"]
    for i, path in enumerate(files):
        breed = path.stem.rsplit("_", 1)[0]
        lines.append(f"{path.name},{breed};{'cat' if breed[0].isupper() else 'dog'},{int(i % 5 == 0)}")
    (folder / "labels.csv").write_text("\n".join(lines))
    flags = ["--size", "48", "--arch", "lesson_cnn", "--batch-size", "32", "--lr", "0.005", "--mixup", "0.2"]
    short = ["--epochs", "8", "--precision", "fp32", "--quiet", "--run-dir", tmp_path / "run"]
    assert etude("train", folder, *flags, *short).code == 0
    result = etude("evaluate", tmp_path / "run", "--data", folder, "--json", "--quiet").json

    assert len(result["classes"]) == 39
    assert result["classes"]["dog"]["average_precision"] > 0.75
    dogs = result["classes"]["dog"]["samples"] / result["samples"]
    assert result["classes"]["dog"]["accuracy"] > max(dogs, 1 - dogs) - 0.05
