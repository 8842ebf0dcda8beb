"""Every layout of a folder of pictures is guessed, and said."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from etude import ConfigError, DataError, random
from etude.data.items import fold_split, function_label
from etude.data.layouts import guess
from etude.data.wordnet import IMAGENETTE


def _touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _classes(folder, num=20, labels=("cat", "dog")):
    _touch(folder, *(f"{label}/{i}.jpg" for label in labels for i in range(num)))
    return folder


def _table(folder, *lines, name="labels.csv"):
    (folder / name).write_text("\n".join(lines), encoding="utf-8")


def _load(folder, valid=0.3, **options):
    """Description, training counts, validation counts."""
    block = guess(folder, valid=valid, seed=42, **options)
    samples = block.samples(folder)
    train, valid_counts = (Counter(label for _, label in part) for part in (samples.train, samples.valid))
    return block.description, train, valid_counts


# -- folders ----------------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path):
    told, train, valid = _load(_classes(tmp_path))

    assert told == "CLASS folders"
    assert train + valid == {"cat": 20, "dog": 20}
    assert min(train.total(), valid.total()) >= 5


@pytest.mark.parametrize("name", ["valid", "val", "validation", "test", "Val"])
def test_train_beside_validation(tmp_path, name):
    _classes(tmp_path / "train", 3)
    _classes(tmp_path / name, 2)

    told, train, valid = _load(tmp_path, None)
    assert told == f"train/CLASS and {name}/CLASS"
    assert (train, valid) == ({"cat": 3, "dog": 3}, {"cat": 2, "dog": 2})


def test_a_test_set_beside_a_validation_set_stays_untouched(tmp_path):
    for name, num in (("train", 3), ("val", 2), ("test", 1)):
        _classes(tmp_path / name, num)
    samples = guess(tmp_path, valid=None, seed=42).samples(tmp_path)

    assert (len(samples.train), len(samples.valid), samples.left_out) == (6, 4, 2)


def test_a_share_is_held_out_of_training_folders_when_asked(tmp_path):
    _classes(tmp_path / "train")
    _classes(tmp_path / "valid", 5)
    told, train, valid = _load(tmp_path)

    assert told == "CLASS folders in train; valid is left out"
    assert train + valid == {"cat": 20, "dog": 20}
    (tmp_path / "valid").rename(tmp_path.parent / "gone")
    assert _load(tmp_path)[1:] == (train, valid)


def test_train_beside_other_classes_is_a_class(tmp_path):
    _touch(tmp_path, *(f"{label}/{i}.jpg" for label in ("bus", "car", "train") for i in range(9)))

    assert set(_load(tmp_path)[1]) == {"bus", "car", "train"}


@pytest.mark.parametrize("inner", ["photos", "a/b", "train"])
def test_a_held_out_picture_stays_so_whatever_the_layout(tmp_path, inner):
    """The hash is that of (seed, name below the folder that was opened), at whichever wrapping a user points."""
    _classes(tmp_path / inner)
    for root in (tmp_path, tmp_path / inner):
        valid = guess(root, valid=0.3, seed=7).samples(root).valid
        held = {path.name for path, label in valid if label == "cat"}

        assert held == {f"{i}.jpg" for i in range(20) if random.key(7, f"valid:cat/{i}.jpg") / (1 << 63) < 0.3}


@pytest.mark.parametrize("wrapping", ["photos", "a/photos"])
def test_a_wrapping_folder_is_opened(tmp_path, wrapping):
    _classes(tmp_path / wrapping)
    _touch(tmp_path, "readme.txt", "__MACOSX/photos/._1.jpg", ".cache/x/1.jpg")
    told, train, valid = _load(tmp_path)

    assert told == f"CLASS folders in {wrapping}"
    assert train + valid == {"cat": 20, "dog": 20}


def test_a_wrapped_split_is_opened(tmp_path):
    _classes(tmp_path / "set" / "train", 3)
    _classes(tmp_path / "set" / "val", 2)

    told, train, valid = _load(tmp_path, None)
    assert told == "train/CLASS and val/CLASS in set"
    assert (train.total(), valid.total()) == (6, 4)


def test_a_link_to_a_folder_is_not_opened(tmp_path):
    try:
        (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")

    with pytest.raises(DataError, match=f"{tmp_path.name} holds no pictures"):
        guess(tmp_path, valid=0.2, seed=42)


def test_deeper_trees_take_the_folder_and_say_so(tmp_path):
    _touch(tmp_path, *(f"{a}/{b}/{i}.jpg" for a in ("pet", "farm") for b in ("cat", "dog") for i in range(9)))
    told, train, valid = _load(tmp_path)

    assert 'the label is the folder that a picture lies in; label="top" takes the first level' in told
    assert train + valid == {"cat": 18, "dog": 18}
    told, train, valid = _load(tmp_path, label="top")
    assert told == "CLASS folders; the label is the first folder"
    assert train + valid == {"pet": 18, "farm": 18}


def test_the_first_level_of_a_deeper_tree_below_split_folders(tmp_path):
    _touch(tmp_path, *(f"{part}/{a}/x/{i}.jpg" for part in ("train", "val") for a in ("pet", "farm") for i in range(2)))

    _, train, valid = _load(tmp_path, None, label="top")
    assert train == valid == {"pet": 2, "farm": 2}


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "images", "set/images"])
def test_loose_pictures_whose_names_tell_the_class(tmp_path, folder):
    names = [f"{label}{i}.jpg" for label in ("great_pyrenees_", "Sphynx-", "am-staff_") for i in range(9)]
    _touch(tmp_path / folder, *names)
    told, train, valid = _load(tmp_path)

    assert train + valid == {"great_pyrenees": 9, "Sphynx": 9, "am-staff": 9}
    assert told.startswith("LABEL_NUMBER files")
    assert "what stands before the last _NUMBER or -NUMBER, such as 'Sphynx' of Sphynx-0.jpg" in told
    assert f" in {folder}:" in told or not folder


def test_loose_pictures_in_split_folders(tmp_path):
    _touch(tmp_path, *(f"{part}/{label}_{i}.jpg" for part in ("train", "val") for label in "ab" for i in range(2)))

    told, train, valid = _load(tmp_path, None)
    assert told.startswith("LABEL_NUMBER files in train and val")
    assert train == valid == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    "names",
    [
        ("a_1.jpg", "a_2.jpg", "b_1.jpg", "c.jpg"),
        ("a_1.jpg", "b_1.jpg", "c_2.jpg"),
        ("IMG_1.jpg", "IMG_2.jpg", "DSC_1.jpg", "DSC_2.jpg"),
        ("a_1.jpg", "a_2.jpg"),
        ("1.jpg", "2.jpg"),
    ],
    ids=["one without", "hardly two of a kind", "camera", "one class", "numbers"],
)
def test_loose_pictures_whose_names_tell_nothing_are_refused(tmp_path, names):
    _touch(tmp_path, *names)

    with pytest.raises(DataError, match=r"outside any class folder .*names do not tell classes .* add a labels\.csv"):
        guess(tmp_path, valid=0.3, seed=42)


def test_loose_pictures_beside_class_folders_are_refused_by_name(tmp_path):
    _touch(_classes(tmp_path), "stray_1.jpg", "stray_2.jpg")

    with pytest.raises(DataError, match=r"outside any class folder \(\['stray_1.jpg', 'stray_2.jpg'\]\); move each"):
        guess(tmp_path, valid=0.2, seed=42)


def test_a_loose_picture_in_a_split_folder_is_refused(tmp_path):
    _classes(tmp_path / "train")
    _touch(_classes(tmp_path / "val"), "stray.jpg")

    with pytest.raises(DataError, match=r"val holds pictures outside any class folder \(\['stray.jpg'\]\)"):
        guess(tmp_path, valid=None, seed=42)


@pytest.mark.parametrize("names", ["{i}.jpg", "cat_{i}.jpg", "IMG_{i}.jpg"])
def test_a_folder_of_one_class_is_refused(tmp_path, names):
    _touch(tmp_path, *("cat/" + names.format(i=i) for i in range(6)))

    with pytest.raises(DataError, match=r"gave \['cat'\] as classes"):
        guess(tmp_path, valid=0.3, seed=42).samples(tmp_path)


def test_a_function_labels_what_no_layout_fits(tmp_path):
    _touch(tmp_path, *(f"{i:02}.jpg" for i in range(30)), "sub/31.jpg")
    told, train, valid = _load(tmp_path, label=function_label(lambda path: str(int(path.stem) % 2)))

    assert told == "label= function"
    assert train + valid == {"0": 15, "1": 16}


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["labels.csv", "train.csv"])
def test_a_table_with_its_own_split(tmp_path, name):
    _touch(tmp_path, *(f"images/{i}.jpg" for i in range(6)))
    sides = ["train"] * 4 + ["val"] * 2
    _table(tmp_path, "Image;Class;Split", *(f"images/{i}.jpg;{'ab'[i % 2]};{sides[i]}" for i in range(6)), name=name)

    told, train, valid = _load(tmp_path, None)
    assert told == f"{name} with is_valid"
    assert (train, valid) == ({"a": 2, "b": 2}, {"a": 1, "b": 1})


def test_a_table_without_a_split(tmp_path):
    _touch(tmp_path / "set", *(f"{i}.jpg" for i in range(20)), "not listed.jpg")
    _table(tmp_path / "set", "name,label", *(f"./{i}.jpg,{'ab'[i % 2]}" for i in range(20)))
    told, train, valid = _load(tmp_path)

    assert told == "labels.csv in set"
    assert train + valid == {"a": 10, "b": 10}
    with pytest.raises(ConfigError, match="no validation pictures of its own"):
        guess(tmp_path, valid=None, seed=42)


def test_a_share_goes_before_the_split_of_a_table(tmp_path):
    _touch(tmp_path, *(f"{i}.jpg" for i in range(20)))
    _table(tmp_path, "name,label,is_valid", *(f"{i}.jpg,{'ab'[i % 2]},{int(i == 0)}" for i in range(20)))

    told, _, valid = _load(tmp_path)
    assert told == "labels.csv; its is_valid is not used"
    assert valid.total() > 1


def test_a_table_may_leave_out_folder_and_suffix(tmp_path):
    _touch(tmp_path, *(f"images/{i}.jpg" for i in range(20)))
    _table(tmp_path, "id,label", *(f"{i},{'ab'[i % 2]}" for i in range(20)))

    _, train, valid = _load(tmp_path)
    assert train + valid == {"a": 10, "b": 10}


def test_a_name_that_may_be_any_of_several_pictures_is_refused(tmp_path):
    _touch(tmp_path, "a/1.jpg", "b/1.jpg")
    _table(tmp_path, "id,label", "1,a")

    with pytest.raises(DataError, match=r"names '1', which may be any of \[.*a.1\.jpg'"):
        guess(tmp_path, valid=0.3, seed=42)


def test_a_picture_that_only_the_table_knows_is_told_with_those_that_cannot_be_read(tmp_path):
    _touch(tmp_path, *(f"{i}.jpg" for i in range(9)))
    _table(tmp_path, "name,label", *(f"{i}.jpg,{'ab'[i % 2]}" for i in range(10)))
    found = guess(tmp_path, valid=0.3, seed=42).samples(tmp_path)

    assert tmp_path / "9.jpg" in [sample.path for sample in (*found.train, *found.valid)]


def test_every_class_keeps_a_sample_to_learn_from(tmp_path):
    _touch(tmp_path, *(f"{i:03}/{j}.jpg" for i in range(200) for j in range(2)))
    found = guess(tmp_path, valid=0.3, seed=42).samples(tmp_path)

    assert len({sample.label for sample in found.train}) == 200


def test_labels_that_are_joined_are_several_and_it_is_said(tmp_path):
    _touch(tmp_path, *(f"{i}.jpg" for i in range(20)))
    _table(tmp_path, "name,labels", *(f"{i}.jpg,{('a', 'a;b')[i % 2]}" for i in range(20)))

    told, train, valid = _load(tmp_path)
    assert told == "labels.csv; labels joined by ';' are several labels of one picture"
    assert train + valid == {("a",): 10, ("a", "b"): 10}


def test_tables_that_are_no_label_table_are_passed_over(tmp_path):
    _classes(tmp_path)
    _table(tmp_path, "path,noise,is_valid", "a,b,c", name="noisy.csv")
    assert _load(tmp_path)[0] == "CLASS folders"
    _table(tmp_path, "id,label", "a,b", name="one.csv")
    _table(tmp_path, "id,label", "a,b", name="two.csv")
    assert _load(tmp_path)[0] == "CLASS folders"


# -- settings ---------------------------------------------------------------------------------------------------------


def test_no_share_to_hold_out_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no validation pictures of its own; .* such as valid=0\.2"):
        guess(_classes(tmp_path), valid=None, seed=42)


@pytest.mark.parametrize("valid", [0.0, 1.0, 2.5, -1])
def test_a_share_must_leave_something_on_both_sides(tmp_path, valid):
    with pytest.raises(ConfigError, match=rf"such as valid=0\.2.*\(got {valid}\)"):
        guess(_classes(tmp_path), valid=valid, seed=42)


def test_a_missing_folder_and_an_unknown_label_are_refused(tmp_path):
    with pytest.raises(DataError, match="missing is not a folder; expected a folder of pictures"):
        guess(tmp_path / "missing", valid=0.2, seed=42)
    with pytest.raises(ConfigError, match=r"label='folder' is unknown; expected 'parent', 'top'"):
        guess(_classes(tmp_path), valid=0.2, seed=42, label="folder")


def test_another_split_can_be_put_in(tmp_path):
    """As for cross-validation: every picture is held out once."""
    block = guess(_classes(tmp_path), valid=0.2, seed=42)
    folds = [replace(block, split=fold_split(i, 5, label=block.label)).samples(tmp_path).valid for i in range(5)]

    samples = block.samples(tmp_path)
    assert sorted(sample for fold in folds for sample in fold) == sorted(samples.train + samples.valid)


# -- readable names ---------------------------------------------------------------------------------------------------


def test_wordnet_ids_of_known_sets_become_names(tmp_path):
    _classes(tmp_path / "train", 2, IMAGENETTE)
    _classes(tmp_path / "val", 1, IMAGENETTE)

    told, train, valid = _load(tmp_path, None)
    assert told == "train/CLASS and val/CLASS; WordNet ids became names (n01440764 is tench)"
    assert set(train) == set(valid) == set(IMAGENETTE.values())


def test_ids_stay_where_one_class_is_none_of_them(tmp_path):
    told, train, _ = _load(_classes(tmp_path, 20, ["n01440764", "n99999999"]))

    assert told == "CLASS folders"
    assert set(train) == {"n01440764", "n99999999"}
