"""Pictures are decoded once: what comes out of the store, and what is said of odd and bad ones."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from drawing import classes, every_picture, labels_of, load_small, noise, plain, write_table
from etude import DataError, vision
from etude.losses import BinaryCrossEntropy
from etude.vision.decode import PictureCodec
from etude.vision.windows import MiddleCrop

# -- decoded once -----------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """The names of all pictures that are decoded."""
    names, decode = [], PictureCodec.decode

    def counted(self, path, out):
        names.append(path.name)
        decode(self, path, out)

    monkeypatch.setattr(PictureCodec, "decode", counted)
    return names


def test_loads_that_split_otherwise_share_one_store(tmp_path, decoded):
    classes(tmp_path, 10)
    loads = [load_small(tmp_path, **how) for how in ({"valid": 0.3}, {"valid": 0.5}, {"valid": 0.3, "seed": 1})]
    loads += [load_small(tmp_path, fold=(0, 4)), load_small(tmp_path, valid=0.3, label_noise=0.2)]

    assert len(decoded) == 20
    assert len({data.identity["store"] for data in loads}) == 1
    assert len({data.identity["labels"] for data in loads}) == len(loads)
    load_small(tmp_path, valid=0.3, size=9)
    assert len(decoded) == 40, "stored at another size"
    plain(tmp_path / "cat" / "0.png", (1, 2, 3))
    assert load_small(tmp_path, valid=0.3).identity["store"] != loads[0].identity["store"]


@pytest.mark.parametrize("middle", [None, MiddleCrop(1.0), MiddleCrop(0.8, squash=True)], ids=str)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_validation_sees_what_is_read_for_prediction(tmp_path, suffix, middle):
    exif = Image.Exif()
    exif[0x0112] = 6
    for i, (width, height) in enumerate([(12, 10), (5, 7), (1, 9), (70, 50), (50, 70), (19, 300), (64, 64), (200, 8)]):
        for side in ("train", "valid"):
            noise(tmp_path / side / "ab"[i % 2] / f"{i}.{suffix}", width, height, **({"exif": exif} if i > 4 else {}))
    data = load_small(tmp_path, size=16, middle=middle)
    seen = every_picture(data.valid)

    assert data.valid.windows == (middle or MiddleCrop(0.875))
    assert seen.inputs.dtype == torch.uint8
    for name, pixels in zip(data.valid.names, seen.inputs, strict=True):
        assert torch.equal(pixels, data.read(tmp_path / name)), name


def test_large_pictures_are_stored_at_twice_the_size_or_as_told(tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "valid/a/3.png", "valid/b/4.png"):
        noise(tmp_path / name, 120, 60)

    assert load_small(tmp_path).train.store.shapes.tolist() == [[16, 32, 3]] * 4
    assert load_small(tmp_path, stored_size=20).train.store.shapes.tolist() == [[20, 40, 3]] * 4
    assert load_small(tmp_path, stored_size=60).train.store.shapes.tolist() == [[60, 120, 3]] * 4


def test_mean_and_deviation_are_those_of_whole_training_pictures(tmp_path):
    classes(tmp_path / "train", 10)
    classes(tmp_path / "valid", 3, ("cat",))
    data = load_small(tmp_path)
    store, rows = data.train.store, data.train.rows.tolist()
    pixels = torch.cat([store[row].reshape(-1, 3) for row in rows]).double() / 255
    std, mean = torch.std_mean(pixels, dim=0, correction=0)

    assert data.preprocess.mean == pytest.approx(mean.tolist(), abs=1e-3)
    assert data.preprocess.std == pytest.approx(std.clamp(min=1e-3).tolist(), abs=1e-3)


# -- bad and odd pictures ---------------------------------------------------------------------------------------------


def _spoiled(folder):
    classes(folder, 6)
    (folder / "cat" / "empty.jpg").write_bytes(b"")
    (folder / "dog" / "page.jpg").write_text("<html>")
    Image.new("L", (9, 9)).save(folder / "dog" / "gray.png")
    return folder


def test_bad_pictures_are_left_out_and_named(tmp_path, capsys):
    data = load_small(_spoiled(tmp_path), valid=0.3, progress=True)
    said = capsys.readouterr().out

    assert sorted(tuple(incident) for incident in data.incidents) == [
        ("cat/empty.jpg", "skipped", "is empty"),
        ("dog/gray.png", "converted", "gray"),
        ("dog/page.jpg", "skipped", "is not a picture in any known format"),
    ]
    assert data.train.num_samples + data.valid.num_samples == 13
    assert not {"cat/empty.jpg", "dog/page.jpg"} & {*data.train.names, *data.valid.names}
    assert "skipped 1: is empty (cat/empty.jpg)" in said
    assert "skipped 1: is not a picture in any known format (dog/page.jpg)" in said
    assert "converted 1: gray (dog/gray.png)" in said
    assert said.index("skipped") < said.index("converted")
    assert load_small(tmp_path, valid=0.3).incidents == data.incidents, "from the cache too"


@pytest.mark.parametrize("store", ["disk", "none"])
def test_no_store_is_made_while_the_disk_fails(tmp_path, monkeypatch, store):
    classes(tmp_path, 4)
    fails, read = ["3.png"], Path.read_bytes

    def sometimes(path):
        if path.name in fails:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", sometimes)
    with pytest.raises(DataError, match=r"3\.png: the disk or network answered 'Input/output error'; nothing was kept"):
        load_small(tmp_path, valid=0.3, store=store)
    fails.clear()
    data = load_small(tmp_path, valid=0.3, store=store)

    assert data.train.num_samples + data.valid.num_samples == 8
    assert not data.incidents


def test_a_user_may_want_to_stop_at_bad_pictures(tmp_path):
    with pytest.raises(DataError, match=r"2 of 15 pictures in .* cannot be used: cat/empty\.jpg is empty; dog/page"):
        load_small(_spoiled(tmp_path), valid=0.3, on_bad_data="stop")


def test_more_bad_pictures_than_good_ones_are_refused(tmp_path):
    classes(tmp_path, 4)
    for i in range(9):
        (tmp_path / "cat" / f"bad{i}.jpg").write_bytes(b"")

    with pytest.raises(DataError, match=r"9 of 17 pictures .* and 6 more\. That is more than half"):
        load_small(tmp_path, valid=0.3)


@pytest.mark.parametrize("on_bad_data", ["skip", "stop"])
def test_a_class_whose_pictures_are_all_bad_is_told(tmp_path, on_bad_data):
    classes(tmp_path / "train", 6)
    classes(tmp_path / "valid", 2)
    for path in (tmp_path / "train" / "dog").iterdir():
        path.write_bytes(b"")

    with pytest.raises(DataError, match=r"label 'dog' of .*6 pictures cannot be used.*: train/dog/0\.png is empty; "):
        load_small(tmp_path, on_bad_data=on_bad_data)


def test_what_is_odd_about_the_classes_is_told(tmp_path, capsys):
    classes(tmp_path / "train", 30)
    classes(tmp_path / "valid", 2)
    plain(tmp_path / "train" / "emu" / "1.png")
    (tmp_path / "train" / "yak").mkdir()
    shutil.copy(tmp_path / "train" / "cat" / "29.png", tmp_path / "valid" / "cat" / "again.png")
    data = load_small(tmp_path, progress=True)
    said = capsys.readouterr().out

    assert "61 train and 5 valid pictures of 3 classes" in said
    assert "note: the class folders ['train/yak'] hold no samples" in said
    assert "note: the classes ['emu'] have one training sample" in said
    assert "note: the classes ['emu'] have no validation samples" in said
    assert "validation pictures are training pictures too" in said
    assert ("valid/cat/again.png", "duplicate", "also in training: as train/cat/29.png") in [
        tuple(i) for i in data.incidents
    ]


def test_the_words_for_wrong_labels_and_few_pictures(tmp_path, capsys):
    load_small(classes(tmp_path, 10), valid=0.3, label_noise=0.5, progress=True)

    assert "training labels were made wrong on purpose (label_noise)" in capsys.readouterr().out
    load_small(tmp_path, valid=0.3, batch_size=8, progress=True)
    assert "a smaller batch size makes more of few pictures" in capsys.readouterr().out


# -- several labels ---------------------------------------------------------------------------------------------------


def test_pictures_with_several_labels_are_trained_on(tmp_path, capsys):
    labels = ["red", "red;wide", "wide", "red;wide;big"]
    for i in range(12):
        plain(tmp_path / f"{i}.png", (20 * i, 0, 0))
    rows = [(f"{i}.png", labels[i % 4], i >= 8) for i in range(12)]
    write_table(tmp_path, rows, "name", "labels", "is_valid")
    data = load_small(tmp_path, progress=True)
    expected = {"red": [0, 1, 0], "red;wide": [0, 1, 1], "wide": [0, 0, 1], "red;wide;big": [1, 1, 1]}

    assert (list(data.vocab), data.several_labels) == (["big", "red", "wide"], True)
    assert data.train.targets.dtype == torch.float32
    for name, targets in zip(data.train.names, data.train.targets.tolist(), strict=True):
        assert targets == expected[labels[int(name.split(".")[0]) % 4]]
    learner = vision.learner("xresnet18", data, precision="fp32", device="cpu", progress=False)
    history = learner.fit(1, lr=1e-3)
    assert isinstance(learner.loss_fn, BinaryCrossEntropy)
    assert 0 <= history["valid_accuracy"][-1] <= 1
    assert "labels joined by ';' are several labels" in capsys.readouterr().out


# -- arrays and real archives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels", [torch.zeros(4, 3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.uint8)], ids=["float", "no channels"]
)
@pytest.mark.usefixtures("without_type_checks")
def test_arrays_that_are_no_pictures_are_refused_with_what_they_are(pixels):
    with pytest.raises(DataError, match=r"expected uint8 pictures \(samples, channel, height, width\), got"):
        vision.from_arrays((pixels, torch.zeros(4)), None, vocab=["a"])


def test_targets_beyond_the_vocabulary_are_refused():
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)

    with pytest.raises(DataError, match="targets hold class 2 but the vocabulary has 2 names"):
        vision.from_arrays((pixels, torch.tensor([0, 1, 2, 0])), None, vocab=["a", "b"])


def test_a_real_archive_loads(data_folder):
    archive = data_folder / "imagenette2-mini-64.tgz"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not in the folder of real archives")
    data = vision.load(archive, size=32, progress=False)

    assert data.num_classes == 10
    assert data.train.num_samples + data.valid.num_samples == 600
    assert 0.3 < min(data.preprocess.mean) < max(data.preprocess.mean) < 0.6
    assert min(labels_of(data.train)) > 0
