"""Folders of pictures to batches: every layout, every kind of picture, and a split that stays."""

from __future__ import annotations

import csv
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from etude import ConfigError, DataError, vision
from etude.vision.data import read_image

CPU = torch.device("cpu")
COLORS = {"cat": (200, 40, 40), "dog": (40, 40, 200)}


@pytest.fixture(autouse=True)
def _quiet(capsys):
    yield
    capsys.readouterr()


def _picture(path, color=(200, 40, 40), size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def _classes(folder, num=4, kinds=COLORS):
    for label in kinds:
        for i in range(num):
            _picture(folder / label / f"{i}.png", COLORS.get(label, (90, 90, 90)))
    return folder


def _labels(loader):
    """The number of pictures of each class."""
    return torch.bincount(loader.targets).tolist()


def _load(*args, **options):
    return vision.load(*args, size=8, batch_size=2, **options)


# -- layouts ----------------------------------------------------------------------------------------------------------


def test_a_flat_folder_of_classes(tmp_path):
    data = _load(_classes(tmp_path, 20), valid=0.25)

    assert list(data.vocab) == ["cat", "dog"]
    assert data.num_classes == 2
    assert data.train.num_samples + data.valid.num_samples == 40
    assert 3 <= data.valid.num_samples <= 18
    assert "CLASS folders" in data.description


@pytest.mark.parametrize("name", ["valid", "val", "validation", "test"])
def test_folders_for_training_and_validation(tmp_path, name):
    _classes(tmp_path / "train", 3)
    _classes(tmp_path / name, 2)
    data = _load(tmp_path)

    assert (_labels(data.train), _labels(data.valid)) == ([3, 3], [2, 2])
    assert f"train/CLASS and {name}/CLASS" in data.description


def _write_table(folder, rows, *columns):
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def test_a_label_table_with_its_own_split(tmp_path):
    for i in range(5):
        _picture(tmp_path / f"images/{i}.png")
    rows = [(f"images/{i}.png", "cat" if i % 2 else "dog", i == 4) for i in range(5)]
    _write_table(tmp_path, rows, "name", "label", "is_valid")
    data = _load(tmp_path)

    assert (_labels(data.train), _labels(data.valid)) == ([2, 2], [0, 1])
    assert "labels.csv with is_valid" in data.description


def test_a_label_table_without_a_split(tmp_path):
    for i in range(20):
        _picture(tmp_path / f"{i}.png")
    _write_table(tmp_path, [(f"{i}.png", "cat" if i % 2 else "dog") for i in range(20)], "name", "label")
    data = _load(tmp_path, valid=0.3)

    assert data.train.num_samples + data.valid.num_samples == 20
    assert data.valid.num_samples > 0


def test_two_folders_of_classes(tmp_path):
    _classes(tmp_path / "a", 3)
    _classes(tmp_path / "b", 1)
    data = _load(train=tmp_path / "a", valid=tmp_path / "b")

    assert (_labels(data.train), _labels(data.valid)) == ([3, 3], [1, 1])


def test_a_share_is_held_out_of_the_training_folder_when_asked(tmp_path):
    _classes(tmp_path / "train", 20)
    _classes(tmp_path / "valid", 5)

    assert len(_load(tmp_path, valid=0.2).train.inputs) < 40


# -- what cannot be loaded --------------------------------------------------------------------------------------------


def test_no_share_to_hold_out_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no validation pictures of its own; .* such as valid=0\.2"):
        _load(_classes(tmp_path))


@pytest.mark.parametrize("valid", [0.0, 1.0, 2.5])
def test_a_share_must_leave_something_on_both_sides(tmp_path, valid):
    with pytest.raises(ConfigError, match=f"got {valid}"):
        _load(_classes(tmp_path), valid=valid)


@pytest.mark.parametrize("layout", ["flat", "with its own validation"])
def test_a_validation_folder_beside_a_whole_folder_is_refused(tmp_path, layout):
    """Not ignored: it names pictures that would never be looked at."""
    if layout == "flat":
        _classes(tmp_path / "data")
    else:
        _classes(tmp_path / "data" / "train")
        _classes(tmp_path / "data" / "valid")
    _classes(tmp_path / "other")

    with pytest.raises(ConfigError):
        _load(tmp_path / "data", valid=str(tmp_path / "other"))


def test_no_folder_at_all_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="give a folder of pictures"):
        _load()
    with pytest.raises(ConfigError, match="train= and valid= folders"):
        _load(train=tmp_path)
    with pytest.raises(DataError, match="missing is not a folder"):
        _load(tmp_path / "missing", valid=0.2)


def test_pictures_outside_a_class_are_refused_by_name(tmp_path):
    _picture(_classes(tmp_path) / "stray.png")

    with pytest.raises(DataError, match=r"outside any class folder \(\['stray.png'\]\)"):
        _load(tmp_path, valid=0.2)


def test_a_validation_class_that_training_lacks_is_refused_with_its_file(tmp_path):
    _classes(tmp_path / "train")
    _classes(tmp_path / "valid", 1, ("cat", "emu"))

    with pytest.raises(DataError, match=r"label 'emu' of .*emu.0\.png is not among the 2 classes"):
        _load(tmp_path)


@pytest.mark.parametrize("contents", [b"no picture at all", b""], ids=["text", "empty"])
def test_a_broken_picture_is_refused_by_name(tmp_path, contents):
    (_classes(tmp_path) / "cat" / "broken.jpg").write_bytes(contents)

    with pytest.raises(DataError, match=r"broken\.jpg cannot be read as a picture: .*take it out"):
        _load(tmp_path, valid=0.2)


def test_a_picture_that_ends_too_early_is_refused_by_name(tmp_path):
    path = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(DataError, match=r"cut\.jpg cannot be read"):
        read_image(path, 8)


def test_a_table_that_names_a_missing_picture_is_refused(tmp_path):
    _picture(tmp_path / "0.png")
    _picture(tmp_path / "2.png")
    _write_table(tmp_path, [("0.png", "cat", 0), ("2.png", "dog", 0), ("1.png", "cat", 1)], "name", "label", "is_valid")

    with pytest.raises(DataError, match=r"1\.png does not exist"):
        _load(tmp_path)


# -- the split --------------------------------------------------------------------------------------------------------


def _held_out(folder, seed=42):
    """The numbers of the pictures held out: each picture shows its own number."""
    data = _load(folder, valid=0.3, seed=seed)
    return {int(picture[0, 0, 0]) for picture in data.valid.inputs}


def test_a_folder_of_one_class_is_refused(tmp_path):
    """Most likely the folder above was meant; training on it would reach 100 % at once."""
    for i in range(6):
        _picture(tmp_path / "cat" / f"{i}.png")
    with pytest.raises(DataError, match=r"gave \['cat'\] as classes"):
        _load(tmp_path, valid=0.3)


def test_adding_a_picture_moves_no_other_one_between_the_sets(tmp_path):
    for i in range(40):
        _picture(tmp_path / ("cat" if i < 20 else "dog") / f"{i}.png", (i, 0, 0))
    before = _held_out(tmp_path)
    _picture(tmp_path / "cat" / "0a.png", (200, 0, 0))

    assert _held_out(tmp_path) - {200} == before
    assert _held_out(tmp_path, seed=43) - {200} != before


def test_every_load_gives_the_same_pixels_and_orders(tmp_path):
    _classes(tmp_path, 6)
    first, again = (_load(tmp_path, valid=0.3) for _ in range(2))
    orders = [[batch.indices.tolist() for batch in data.train.batches(1, CPU)] for data in (first, again)]

    assert torch.equal(first.train.inputs, again.train.inputs)
    assert torch.equal(first.valid.targets, again.valid.targets)
    assert orders[0] == orders[1]


# -- reading a picture ------------------------------------------------------------------------------------------------


def _half_red_half_blue():
    """8 by 8 pixels, the left half red."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4, 0], pixels[:, 4:, 2] = 255, 255
    return pixels


def _as_tensor(pixels):
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _saved(path, pixels, mode="RGB", **options):
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_picture_of_any_mode_is_read_in_color(tmp_path, mode):
    pixels = _half_red_half_blue()

    assert torch.equal(read_image(_saved(tmp_path / "1.png", pixels, mode), 8), _as_tensor(pixels))


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_a_grey_picture_gives_three_equal_channels(tmp_path, mode):
    grey = np.zeros((8, 8), np.uint8)
    grey[:, :4] = 255
    pixels = read_image(_saved(tmp_path / "1.png", grey, mode), 8)

    assert pixels.shape == (3, 8, 8)
    assert (pixels == torch.from_numpy(grey)).all()


def test_a_grey_picture_of_16_bits_keeps_its_shades(tmp_path):
    """Cut off at 255 of 65,535, it would come out white."""
    shades = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(shades).save(tmp_path / "1.png")
    pixels = read_image(tmp_path / "1.png", 8)[0].numpy()

    np.testing.assert_allclose(pixels, shades / 257, atol=1)


def test_one_channel_can_be_asked_for(tmp_path):
    assert read_image(_saved(tmp_path / "1.png", _half_red_half_blue()), 8, 1).shape == (1, 8, 8)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (6, -1), (3, 2), (8, 1)])
def test_a_picture_that_the_camera_turned_is_read_upright(tmp_path, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = _half_red_half_blue()
    path = _saved(tmp_path / "1.png", pixels, exif=exif)

    assert torch.equal(read_image(path, 8), _as_tensor(np.rot90(pixels, turns)))


def test_the_middle_square_of_a_wide_picture_is_kept(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16, 1] = 255

    pixels = read_image(_saved(tmp_path / "1.png", wide), 8)
    assert (pixels[1] == 255).all()


def test_a_picture_is_reduced_by_averaging_not_by_leaving_out(tmp_path):
    chessboard = np.indices((64, 64)).sum(0) % 2 * np.full((64, 64), 255)
    pixels = read_image(_saved(tmp_path / "1.png", chessboard.astype(np.uint8)), 8)

    assert (pixels.float() - 127.5).abs().max() < 12


def test_stored_pictures_are_a_little_larger_than_what_the_model_sees(tmp_path):
    data = _load(_classes(tmp_path), valid=0.3)
    batch = next(data.train.batches(0, CPU))
    window = data.augment(batch, 42, 0).inputs

    assert batch.inputs.shape[-2:] == (9, 9)
    assert window.shape[-2:] == data.preprocess(batch.inputs).shape[-2:] == (8, 8)


def test_mean_and_deviation_are_those_of_the_training_pictures(tmp_path):
    data = _load(_classes(tmp_path, 10), valid=0.3)
    pixels = data.train.inputs.double() / 255
    std, mean = torch.std_mean(pixels, dim=(0, 2, 3), correction=0)

    assert data.preprocess.mean == pytest.approx(mean.tolist(), abs=1e-4)
    assert data.preprocess.std == pytest.approx(std.clamp(min=1e-3).tolist(), abs=1e-4)


# -- arrays and real archives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels", [torch.zeros(4, 3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.uint8)], ids=["float", "no channels"]
)
@pytest.mark.usefixtures("without_type_checks")
def test_arrays_that_are_no_pictures_are_refused_with_what_they_are(pixels):
    with pytest.raises(DataError, match=r"expected uint8 pictures \(samples, channel, height, width\), got"):
        vision.from_arrays((pixels, torch.zeros(4)), None, vocab=["a"])


def test_a_real_archive_loads(data_folder, tmp_path):
    archive = data_folder / "imagenette2-mini-64.tgz"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not in the folder of real archives")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    data = vision.load(tmp_path / "imagenette2-mini-64", size=32)

    assert data.num_classes == 10
    assert data.train.num_samples + data.valid.num_samples == 600
    assert 0.3 < min(data.preprocess.mean) < max(data.preprocess.mean) < 0.6
    assert min(_labels(data.train)) > 0
