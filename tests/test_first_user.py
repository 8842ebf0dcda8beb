"""What a first user ran into: each of these gave a wrong number, a traceback or no word at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from coloring import FAST, etude, picture, save_colors
from drawing import classes, load_small
from etude import ConfigError, load, vision
from etude.data.vocab import Vocab
from etude.recipes.evaluate import measured
from etude.runs import record
from etude.training.predictions import Predictions


@pytest.fixture
def colors(tmp_path):
    return save_colors(tmp_path / "colors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short training on such pictures."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("first-user")
    short = ["--valid-pct", "0.25", "--epochs", "1", "--precision", "fp32", "--quiet"]
    done = etude("train", save_colors(folder / "colors"), *FAST, *short, "--run-dir", folder / "run")
    assert done.code == 0, done.errors
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of its folder, to be changed."""
    return shutil.copytree(trained, tmp_path / "run")


def test_pictures_numbered_by_other_classes_are_refused(tmp_path):
    learner = vision.learner("lesson_cnn", load_small(classes(tmp_path / "a"), valid=0.5), progress=False)
    other = load_small(classes(tmp_path / "b", kinds=["dog", "emu"]), valid=0.5)

    with pytest.raises(
        ConfigError, match=r"classes \['dog', 'emu'\], the model by \['cat', 'dog'\]; .*vision\.labeled"
    ):
        learner.evaluate(other.valid)


def test_pictures_can_be_taken_by_a_plain_list(tmp_path):
    data = load_small(classes(tmp_path), valid=0.5)

    assert torch.equal(data.train.take([1, 0]).inputs, data.train.take(torch.tensor([1, 0])).inputs)


@pytest.mark.parametrize("options", [{"size": 10_000}, {"size": 0}, {"size": 32.5}, {"size": "32"}, {"seed": "a"}])
@pytest.mark.usefixtures("without_type_checks")
def test_settings_that_are_no_numbers_or_slips_are_refused(tmp_path, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} must be a whole number"):
        vision.load(classes(tmp_path), valid=0.5, progress=False, **options)


def test_steps_reach_the_disk_before_the_epoch_ends(tmp_path, monkeypatch):
    """A process that is killed leaves a trace."""
    data = load_small(classes(tmp_path / "data", 40), valid=0.2)
    learner = vision.learner("lesson_cnn", data, precision="fp32", progress=False, widths=[8], stem_stride=1)
    keep = record.KeepRun(record.new_run_folder("run", tmp_path / "run"), {})
    monkeypatch.setattr(record, "_SECONDS_BETWEEN_WRITES", 0.0)
    written = []
    after_step = keep.after_step

    def count(*arguments):
        after_step(*arguments)
        path = keep.folder / "history.jsonl"
        written.append(len(path.read_text().splitlines()) if path.exists() else 0)

    monkeypatch.setattr(keep, "after_step", count)
    learner.fit(1, lr=1e-3, callbacks=[keep])

    assert written == list(range(len(written))) or written == [0, *range(2, len(written) + 1)]


def test_a_stopped_run_says_where_its_newest_checkpoint_is(colors, run):
    for name in ("result.json", "model.safetensors", "model.json"):
        (run / name).unlink()
    done = etude("predict", run, colors)

    assert done.code == 1
    newest = max((run / "checkpoints").iterdir())
    assert f"its newest checkpoint is {newest}, and etude resume {run} goes on with it" in done.errors
    assert etude("predict", newest, colors).code == 0


def test_an_empty_folder_does_not_keep_others_from_being_predicted(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "1.heic").touch()
    picture("red", 0).save(tmp_path / "new.png")
    done = etude("predict", run, tmp_path / "empty", tmp_path / "new.png", "--json")

    assert done.code == 1
    assert [row["file"] for row in done.json["predictions"]] == [str(tmp_path / "new.png")]
    assert "empty holds no pictures" in done.json["skipped"][0]["reason"]
    assert "also holds pictures of kinds that are not read (1 .heic)" in done.errors


def test_a_model_is_not_saved_into_a_file(tmp_path):
    learner = vision.learner("lesson_cnn", load_small(classes(tmp_path / "a"), valid=0.5), progress=False)
    (tmp_path / "mine.py").write_text("precious")

    with pytest.raises(ConfigError, match=r"mine\.py is a file; name a new folder"):
        learner.save(tmp_path / "mine.py")


def test_duplicates_are_one_line_however_many(tmp_path, capsys):
    for side in ("train", "valid"):
        classes(tmp_path / side, 20)
    data = load_small(tmp_path, progress=True)
    said = capsys.readouterr().out.splitlines()

    assert sum(line.startswith("  duplicate") for line in said) == 1
    assert len([incident for incident in data.incidents if incident.outcome == "duplicate"]) == 40


def test_blanks_around_the_cells_of_a_table_are_no_part_of_them(tmp_path):
    for i in range(8):
        picture("red", i).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png, {'cat' if i % 2 else 'dog '}" for i in range(8)]
    (tmp_path / "labels.csv").write_text("\n".join(["name, label", *rows]))

    assert list(load_small(tmp_path, valid=0.5).vocab) == ["cat", "dog"]


def test_pictures_that_only_the_table_knows_are_skipped_by_name(tmp_path):
    for i in range(8):
        picture("red", i).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(9)]
    (tmp_path / "labels.csv").write_text("\n".join(["name,label", *rows]))
    data = load_small(tmp_path, valid=0.5)

    assert [tuple(incident) for incident in data.incidents] == [("8.png", "skipped", "does not exist or is not a file")]


def test_means_over_classes_leave_out_the_same_classes(run, colors):
    shutil.rmtree(colors / "red")
    done = etude("evaluate", run, "--data", colors, "--json")
    learner = load(run)
    found = learner.predict(colors)
    targets = torch.tensor([learner.data.vocab.number(Path(name).parent.name) for name in found.names])
    guesses = found.output.argmax(1)
    hits = [((guesses == i) & (targets == i)).sum() for i in range(2)]
    f1 = [float(2 * hit / ((guesses == i).sum() + (targets == i).sum())) for i, hit in enumerate(hits)]

    assert done.json["macro_f1"] == pytest.approx(sum(f1) / 2)
    assert done.json["without_samples"] == ["red"]
    assert "1 class has no samples and is left out of the means over classes (red)" in done.out


def test_answers_of_absent_classes_are_left_out():
    found = Predictions(
        torch.tensor([[0.9, 0.9], [0.9, 0.1]]), torch.tensor([[1.0, 0], [1, 0]]), Vocab(["a", "b"]), True, several=True
    )
    result = measured(found)

    assert (result["macro_f1"], result["mean_average_precision"], result["without_samples"]) == (1, 1, ["b"])


def test_pictures_that_a_table_does_not_name_are_counted(tmp_path):
    save_table(tmp_path)
    assert "not in labels.csv" not in etude("data", "check", tmp_path, "--size", "16").out
    for i in range(2):
        picture("red", 90 + i).save(tmp_path / f"more-{i}.png")
    done = etude("data", "check", tmp_path, "--size", "16")

    assert "note: 2 pictures in the folder are not in labels.csv, so are not used" in done.out


def save_table(folder):
    lines = ["name,label"]
    for i in range(8):
        color = ["red", "blue"][i % 2]
        picture(color, i).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{color}")
    (folder / "labels.csv").write_text("\n".join(lines))


def test_check_escapes_names_of_classes_and_says_nothing_of_batches(colors):
    (colors / "red").rename(colors / "re\x1bd")
    done = etude("data", "check", colors, "--valid-pct", "0.25", "--size", "16")

    assert "re\\x1bd" in done.out
    assert "\x1b" not in done.out
    assert "batch size" not in done.out


def test_a_batch_larger_than_the_set_is_told(colors, capsys):
    vision.load(colors, valid=0.25, size=16, batch_size=100_000)

    assert "the batch is the whole set: " in capsys.readouterr().out


def test_class_weights_may_be_a_list(colors):
    data = vision.load(colors, valid=0.25, size=16, batch_size=8, progress=False)

    loss = vision.learner("lesson_cnn", data, class_weights=[1, 2, 3.0], progress=False).loss_fn
    assert torch.equal(loss.weight, torch.tensor([1.0, 2, 3]))
    for weights in ([1.0, 2.0], [[1.0, 2.0, 3.0]], torch.ones(4)):
        with pytest.raises(ConfigError, match=r"class_weights must be \(classes,\), and there are 3 classes .*'blue'"):
            vision.learner("lesson_cnn", data, class_weights=weights, progress=False)
