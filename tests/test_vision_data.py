"""Folders of pictures to batches: every layout, a split that stays, pictures decoded once, and what is said of them."""

from __future__ import annotations

import tarfile
from contextlib import nullcontext

import pytest
import torch

from drawing import classes, every_picture, labels_of, load_small, noise, plain, write_table
from etude import ConfigError, DataError, vision
from etude.data import fetch
from etude.vision import finding

CPU = torch.device("cpu")
_KINDS = ("cat", "dog")


# -- layouts ----------------------------------------------------------------------------------------------------------


def test_a_flat_folder_of_classes(tmp_path):
    data = load_small(classes(tmp_path, 20), valid=0.25)

    assert list(data.vocab) == ["cat", "dog"]
    assert data.num_classes == 2
    assert data.train.num_samples + data.valid.num_samples == 40
    assert 3 <= data.valid.num_samples <= 18
    assert "CLASS folders" in data.description
    for loader in (data.train, data.valid):
        assert [data.vocab[i] for i in loader.targets.tolist()] == [name.split("/")[0] for name in loader.names]


@pytest.mark.parametrize("name", ["valid", "val", "validation", "test"])
def test_folders_for_training_and_validation(tmp_path, name):
    classes(tmp_path / "train", 3)
    classes(tmp_path / name, 2)
    data = load_small(tmp_path)

    assert (labels_of(data.train), labels_of(data.valid)) == ([3, 3], [2, 2])
    assert f"train/CLASS and {name}/CLASS" in data.description


def test_a_label_table_with_its_own_split(tmp_path):
    for i in range(5):
        plain(tmp_path / f"images/{i}.png")
    rows = [(f"images/{i}.png", "cat" if i % 2 else "dog", i == 4) for i in range(5)]
    write_table(tmp_path, rows, "name", "label", "is_valid")
    data = load_small(tmp_path)

    assert (labels_of(data.train), labels_of(data.valid)) == ([2, 2], [0, 1])
    assert "labels.csv with is_valid" in data.description


def test_two_folders_of_classes(tmp_path):
    classes(tmp_path / "a", 3)
    classes(tmp_path / "b", 1)
    data = load_small(train=tmp_path / "a", valid=str(tmp_path / "b"))

    assert (labels_of(data.train), labels_of(data.valid)) == ([3, 3], [1, 1])
    assert set(data.valid.names) == {"b/cat/0.png", "b/dog/0.png"}
    assert "two folders of classes" in data.description


def test_two_folders_far_apart_are_all_that_is_looked_at(tmp_path, monkeypatch, capsys):
    """What they have in common may be the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    classes(tmp_path / "x" / "train", 3)
    classes(tmp_path / "y" / "valid", 1)
    for folder in ("x/train", "elsewhere"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "photo.heic").touch()
    (tmp_path / "x" / "train" / "emu").mkdir()
    data = load_small(train="~/x/train", valid="~/y/valid", progress=True)
    told = capsys.readouterr().out

    assert set(data.valid.names) == {"y/valid/cat/0.png", "y/valid/dog/0.png"}
    assert "(1 .heic)" in told
    assert "the class folders ['x/train/emu'] hold no samples" in told


def test_test_rows_of_a_table_stay_out_of_training_and_validation(tmp_path, capsys):
    sides = ["train", "train", "val", "val", "test", "test"]
    for i in range(6):
        plain(tmp_path / f"{i}.png")
    write_table(tmp_path, [(f"{i}.png", "ab"[i % 2], side) for i, side in enumerate(sides)], "name", "label", "split")
    data = load_small(tmp_path, progress=True)
    told = capsys.readouterr().out

    assert (data.train.names, data.valid.names) == (["0.png", "1.png"], ["2.png", "3.png"])
    assert "labels.csv with is_valid; its 2 test pictures are left out" in told
    assert "note: 2 files are left out of training and validation" in told


def test_test_rows_validate_where_no_others_do(tmp_path):
    for i in range(4):
        plain(tmp_path / f"{i}.png")
    rows = [(f"{i}.png", "ab"[i % 2], "test" if i > 1 else "train") for i in range(4)]
    write_table(tmp_path, rows, "name", "label", "split")

    assert load_small(tmp_path).valid.names == ["2.png", "3.png"]


def test_a_share_is_held_out_of_the_training_folder_when_asked(tmp_path):
    classes(tmp_path / "train", 20)
    classes(tmp_path / "valid", 5)
    data = load_small(tmp_path, valid=0.2)

    assert data.train.num_samples < 40
    assert not [name for name in (*data.train.names, *data.valid.names) if name.startswith("valid")]


def test_an_archive(tmp_path):
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(classes(tmp_path / "pets", 10), "pets")
    data = load_small(tmp_path / "pets.tar", valid=0.3)

    assert data.train.num_samples + data.valid.num_samples == 20
    assert torch.equal(
        every_picture(data.valid).inputs, every_picture(load_small(tmp_path / "pets", valid=0.3).valid).inputs
    )


def test_labels_can_be_told(tmp_path):
    classes(tmp_path / "x", 5)
    classes(tmp_path / "y", 5)

    assert list(load_small(tmp_path, valid=0.3, label="top").vocab) == ["x", "y"]
    assert list(load_small(tmp_path, valid=0.3, label=r"(\d)\.png").vocab) == list("01234")
    assert list(load_small(tmp_path, valid=0.3, label=lambda path, root: path.parent.name[:1]).vocab) == ["c", "d"]


def test_a_split_of_ones_own(tmp_path):
    data = load_small(classes(tmp_path), split=lambda files, root: [path.stem == "0" for path in files])

    assert data.valid.names == ["cat/0.png", "dog/0.png"]


@pytest.mark.parametrize("label", [None, "top"])
def test_a_split_of_ones_own_sees_the_pictures_of_every_side(tmp_path, label):
    for side in ("train", "valid", "test"):
        classes(tmp_path / side, 2)
    plain(tmp_path / "logo.png")
    plain(tmp_path / "other" / "emu" / "0.png")
    data = load_small(tmp_path, label=label, split=lambda files, root: [path.stem == "0" for path in files])

    assert data.valid.names == [f"{side}/{kind}/0.png" for side in ("test", "train", "valid") for kind in _KINDS]
    assert (list(data.vocab), labels_of(data.train), labels_of(data.valid)) == (["cat", "dog"], [3, 3], [3, 3])
    assert "CLASS folders in test and train and valid, split by a function" in data.description


def test_folds_are_made_of_the_training_pictures(tmp_path):
    classes(tmp_path / "folders" / "train", 4)
    classes(tmp_path / "folders" / "valid", 2)
    data = load_small(tmp_path / "folders", fold=(0, 2))
    assert data.train.num_samples + data.valid.num_samples == 8
    assert "valid is left out, fold 1 of 2 held out" in data.description
    for i in range(8):
        plain(tmp_path / "table" / f"{i}.png")
    rows = [(f"{i}.png", "ab"[i % 2], ["train", "val", "test"][max(0, i - 5)]) for i in range(8)]
    write_table(tmp_path / "table", rows, "name", "label", "split")
    data = load_small(tmp_path / "table", fold=(0, 2))
    assert sorted(data.train.names + data.valid.names) == [f"{i}.png" for i in range(6)]
    assert "its validation pictures are left out, fold 1 of 2 held out" in data.description


def test_the_bar_says_what_it_measures(tmp_path, monkeypatch):
    known = fetch.DATASETS["imagenette2-160"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(classes(tmp_path / "pets"), known.folder)
    said = []
    monkeypatch.setattr(
        finding, "progress_bar", lambda enabled: nullcontext(lambda what, done, total: said.append(what))
    )
    monkeypatch.setattr(fetch, "download", lambda _, say, progress: progress(1, 2) or tmp_path / "a.tar")
    finding.folder_of("imagenette2-160", progress=True)

    assert said[0] == "downloading"
    assert set(said[1:]) == {"unpacking"}


# -- what cannot be loaded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"no validation pictures of its own; .* such as valid=0\.2"),
        ({"valid": 0.0}, r"got 0\.0"),
        ({"valid": 1.0}, r"got 1\.0"),
        ({"valid": "other"}, "beside a folder, valid= is the share to hold out, got 'other'"),
        ({"valid": 0.2, "fold": (0, 5)}, "valid, split and fold each say what is held out"),
        ({"fold": (5, 5)}, "fold must be from 0 to 4"),
        ({"train": "a", "valid": "b"}, "give a folder, or train= and valid= folders"),
        ({"block": vision.load, "valid": 0.2}, "a block says how .*; valid, label, .* split and fold have no effect"),
        ({"valid": 0.2, "size": 0}, "size must be .*, got 0"),
        ({"valid": 0.2, "on_bad_data": "ignore"}, r"on_bad_data must be .*'skip', .*'stop'.*'ignore'"),
        ({"valid": 0.2, "label_noise": 1.5}, r"from 0 to 1, got 1\.5"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_arguments_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        load_small(classes(tmp_path), **options)


def test_no_folder_at_all_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="give a folder of pictures"):
        load_small()
    with pytest.raises(ConfigError, match="train= and valid= folders"):
        load_small(train=tmp_path)
    with pytest.raises(ConfigError, match="train= and valid= folders say how"):
        load_small(train=tmp_path, valid=str(tmp_path), fold=(0, 2))
    with pytest.raises(ConfigError, match="was given for training and validation alike"):
        load_small(train=tmp_path, valid=str(tmp_path))
    with pytest.raises(DataError, match="missing is neither a folder, nor an archive, nor a known data set"):
        load_small(tmp_path / "missing", valid=0.2)


def test_what_is_no_set_of_classes_is_refused_by_name(tmp_path):
    classes(tmp_path / "one", kinds=["cat"])
    with pytest.raises(DataError, match=r"gave \['cat'\] as classes; .*Most likely the folder above"):
        load_small(tmp_path / "one", valid=0.3)
    plain(classes(tmp_path / "two") / "stray.png")
    with pytest.raises(DataError, match=r"outside any class folder \(\['stray.png'\]\)"):
        load_small(tmp_path / "two", valid=0.2)
    classes(tmp_path / "three" / "train")
    classes(tmp_path / "three" / "valid", 1, ("cat", "emu"))
    with pytest.raises(DataError, match=r"label 'emu' of .*emu.0\.png is not among the 2 classes"):
        load_small(tmp_path / "three")


# -- the split --------------------------------------------------------------------------------------------------------


def test_adding_a_picture_moves_no_other_one_between_the_sets(tmp_path):
    classes(tmp_path, 20)
    before = set(load_small(tmp_path, valid=0.3).valid.names)
    plain(tmp_path / "cat" / "0a.png")

    assert set(load_small(tmp_path, valid=0.3).valid.names) - {"cat/0a.png"} == before
    assert set(load_small(tmp_path, valid=0.3, seed=43).valid.names) - {"cat/0a.png"} != before


def test_every_picture_is_held_out_in_one_fold(tmp_path):
    classes(tmp_path, 7)
    folds = [load_small(tmp_path, fold=(i, 3)) for i in range(3)]
    held = [name for data in folds for name in data.valid.names]

    assert len(held) == 14
    assert sorted(held) == sorted({*folds[0].train.names, *folds[0].valid.names})
    assert "fold 2 of 3 held out" in folds[1].description


def test_every_load_gives_the_same_pixels_and_orders(tmp_path):
    for i in range(16):
        noise(tmp_path / "ab"[i % 2] / f"{i}.png", 20 + i, 20)
    first, again = (load_small(tmp_path, valid=0.3) for _ in range(2))
    batches = [[batch for epoch in (0, 1) for batch in data.train.batches(epoch, CPU)] for data in (first, again)]

    assert len(batches[0]) == 2 * len(first.train)
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.indices, other.indices)
    assert torch.equal(first.valid.targets, again.valid.targets)
    assert not torch.equal(every_picture(first.train, 0).inputs, every_picture(first.train, 1).inputs), (
        "windows change with the epoch"
    )


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_stated_number_of_labels_is_made_wrong(tmp_path, share):
    classes(tmp_path, 20)
    clean, noisy = (load_small(tmp_path, valid=0.3, label_noise=noise, progress=True) for noise in (0.0, share))

    assert int((clean.train.targets != noisy.train.targets).sum()) == round(share * clean.train.num_samples)
    assert torch.equal(clean.valid.targets, noisy.valid.targets)
