"""From a folder to samples: files are found alike everywhere, stages explain themselves, oddities are said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from etude import ConfigError, DataError
from etude.data.block import DataBlock, Samples, check_samples, empty_classes
from etude.data.files import find_images, other_files
from etude.data.items import Sample, function_label, function_split, grandparent_split, parent_label, random_split

BLOCK = DataBlock(find_images, grandparent_split(), parent_label(), "train and valid")


def _touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def folder(tmp_path):
    """Two classes with two training pictures and one validation picture each."""
    _touch(tmp_path, *(f"{part}/1.jpg" for part in ("train/cat", "train/dog", "valid/cat", "valid/dog")))
    _touch(tmp_path, "train/cat/2.jpg", "train/dog/2.jpg")
    return tmp_path


def _names(samples, root):
    return [(path.relative_to(root).as_posix(), label) for path, label in samples]


# -- finding ----------------------------------------------------------------------------------------------------------


def test_include_filters_folders_at_the_top_only(tmp_path):
    _touch(tmp_path, "a/b/1.jpg", "b/2.jpg", "b/a/3.jpg", "4.jpg")
    found = find_images(tmp_path, include=["b"])

    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["4.jpg", "b/2.jpg", "b/a/3.jpg"]


def test_an_include_that_cannot_take_effect_is_refused(tmp_path):
    _touch(tmp_path, "a/1.jpg")

    with pytest.raises(DataError, match=r"has no folders \['c'\]"):
        find_images(tmp_path, include=["a", "c"])
    with pytest.raises(ConfigError, match=r"include='a' is one name; give a list"):
        find_images(tmp_path, include="a")


def test_links_to_folders_are_followed_once(tmp_path):
    """A folder of links to class folders is common, and so are links that lead round in a circle."""
    _touch(tmp_path, "a/1.jpg")
    try:
        (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")

    assert [path.name for path in find_images(tmp_path)] == ["1.jpg"]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to(tmp_path / "a", target_is_directory=True)
    assert [path.name for path in find_images(tmp_path / "links")] == ["1.jpg"]


def test_files_passed_over_are_counted_by_suffix(tmp_path):
    _touch(tmp_path, "a/1.jpg", "a/2.HEIC", "3.heic", "notes", ".hidden.txt")

    assert other_files(tmp_path) == {".heic": 2, "": 1}


def test_a_folder_of_other_files_is_refused_with_what_it_holds(tmp_path):
    _touch(tmp_path, "1.heic", "2.heic")

    with pytest.raises(DataError, match=r"found other files \(2 \.heic\)"):
        find_images(tmp_path)


# -- the three stages -------------------------------------------------------------------------------------------------


def test_a_block_finds_splits_and_labels(folder):
    samples = BLOCK.samples(folder)

    assert _names(samples.train, folder) == [
        ("train/cat/1.jpg", "cat"),
        ("train/cat/2.jpg", "cat"),
        ("train/dog/1.jpg", "dog"),
        ("train/dog/2.jpg", "dog"),
    ]
    assert _names(samples.valid, folder) == [("valid/cat/1.jpg", "cat"), ("valid/dog/1.jpg", "dog")]
    assert (samples.left_out, samples.notes) == (0, ())


def test_files_are_sorted_before_they_are_split(folder):
    """Also those that a find function of one's own gave in an order of its own."""
    seen = []

    def split(files, root):
        seen.append(files)
        return grandparent_split()(files, root)

    backwards = replace(BLOCK, find=lambda root: find_images(root)[::-1], split=split)

    assert backwards.samples(folder) == BLOCK.samples(folder)
    assert seen == [find_images(folder)]


def test_files_that_are_left_out_are_counted_and_not_labeled(folder):
    _touch(folder, "other/cow/1.jpg", "stray.jpg")
    samples = BLOCK.samples(folder)

    assert samples.left_out == 2
    assert "2 files are left out of training and validation" in samples.notes


def test_several_labels_of_a_sample_are_a_tuple(folder):
    samples = replace(BLOCK, label=function_label(lambda path: (path.parent.name, "pet"))).samples(folder)

    assert samples.train[0].label == ("cat", "pet")
    one = replace(BLOCK, label=function_label(lambda path: ("pet",) if path.stem == "1" else ())).samples(folder)
    assert [sample.label for sample in one.train] == [("pet",), (), ("pet",), ()]


def _fail(*_):
    raise KeyError("lost")


@pytest.mark.parametrize(
    ("stage", "where"), [("find", "{folder}: "), ("split", r"6 files from .*1\.jpg on: "), ("label", r".*cat.1\.jpg: ")]
)
def test_a_stage_that_fails_is_named_with_its_sample_and_what_to_do(folder, stage, where):
    message = rf"the {stage} stage failed at {where}KeyError: 'lost'\. Return "
    with pytest.raises(DataError, match=message.replace("{folder}", ".*")) as raised:
        replace(BLOCK, **{stage: _fail}).samples(folder)

    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize("stage", ["find", "split", "label"])
def test_an_error_that_explains_itself_is_passed_on(folder, stage):
    def fail(*_):
        raise ConfigError("said well enough")

    with pytest.raises(ConfigError, match=r"^said well enough$"):
        replace(BLOCK, **{stage: fail}).samples(folder)


@pytest.mark.parametrize(
    ("stage", "result", "message"),
    [
        ("find", None, "gave a NoneType .* return a list of paths"),
        ("find", "train", "gave a str .* return a list of paths"),
        ("find", ["train/1.jpg"], r"gave 'train/1\.jpg', a str; return pathlib\.Path objects"),
        ("find", [], "found nothing in .*mend find="),
        ("find", [Path("elsewhere/1.jpg")], "does not lie in"),
        ("split", None, "gave a NoneType for 6 files"),
        ("split", [True, False], "gave 2 values for 6 files"),
        ("split", [True, False, None, 1, 0, "valid"], r"gave 1, a int, for .*2\.jpg"),
        ("label", None, r"gave None, a NoneType, for .*cat.1\.jpg.*Return a text"),
        ("label", 3, "gave 3, a int"),
        ("label", " ", "gave ' ', a str"),
        ("label", ("cat", 3), r"gave \('cat', 3\), a tuple"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_a_stage_that_gives_something_else_is_refused(folder, stage, result, message):
    with pytest.raises(DataError, match=message):
        replace(BLOCK, **{stage: lambda *_: result}).samples(folder)


def test_a_file_that_is_found_twice_is_refused(folder):
    with pytest.raises(DataError, match=r"gave .*1\.jpg more than once"):
        replace(BLOCK, find=lambda root: find_images(root) * 2).samples(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="missing is not a folder"):
        BLOCK.samples(tmp_path / "missing")


def test_a_side_without_samples_is_refused_with_where_they_went(folder):
    no_valid = replace(BLOCK, split=function_split(lambda path: False if path.stem == "1" else None))
    no_train = replace(BLOCK, split=function_split(lambda path: True))

    with pytest.raises(DataError, match=r"no validation samples: all 4 .* and 2 were left out.*larger share"):
        no_valid.samples(folder)
    with pytest.raises(DataError, match=r"\(train and valid\) gave no training samples: all 6 .* 0 were left out"):
        no_train.samples(folder)


def test_one_class_is_refused(folder):
    """Most likely the folder above was meant; training on it would reach 100 % at once."""
    with pytest.raises(DataError, match=r"gave \['pet'\] as classes.*Most likely the folder above was meant"):
        replace(BLOCK, label=function_label(lambda path: "pet")).samples(folder)


def test_one_label_here_and_a_tuple_there_are_refused(folder):
    mixed = function_label(lambda path: (path.parent.name,) if "valid" in path.parts else path.parent.name)

    with pytest.raises(DataError, match=r"valid.*1\.jpg has a tuple of labels, \('cat',\), but .*'cat'; give a tuple"):
        replace(BLOCK, label=mixed).samples(folder)


# -- what is odd ------------------------------------------------------------------------------------------------------


def _samples(train, valid=None):
    """Samples from the number of each class."""

    def make(part, counts):
        return [Sample(Path(f"{part}/{label}/{i}.jpg"), label) for label, num in counts.items() for i in range(num)]

    return Samples(make("train", train), make("valid", dict.fromkeys(train, 1) if valid is None else valid))


def test_nothing_is_said_of_sound_samples():
    assert check_samples(_samples({"a": 20, "b": 1 + 1})) == []


@pytest.mark.parametrize(
    ("samples", "note"),
    [
        (_samples({"a": 2, "b": 1, "c": 1}), "the classes ['b', 'c'] have one training sample; little"),
        (_samples({"a": 41, "b": 2}), "41 training samples of 'a' but 2 of 'b'"),
        (_samples({"a": 2, "b": 2}, {"a": 1}), "the classes ['b'] have no validation samples"),
        (_samples({"Cat ": 2, "cat": 2, "dog": 2}), "the labels ['Cat ', 'cat'] differ only by case or blanks"),
        (_samples({"a b": 2, "ab": 2}), "the labels ['a b', 'ab'] differ only by case or blanks"),
    ],
    ids=["one picture", "imbalance", "missing", "case", "blanks"],
)
def test_what_is_odd_is_said(samples, note):
    (said,) = check_samples(samples)

    assert note in said


def test_many_names_are_cut_short():
    (said, *_) = check_samples(_samples(dict.fromkeys("abcdefgh", 1) | {"x": 2}))

    assert "['a', 'b', 'c', 'd', 'e'] and 3 more have one training sample" in said


def test_a_validation_class_that_training_lacks_is_refused_with_its_file():
    with pytest.raises(DataError, match=r"label 'emu' of valid.emu.0\.png is not among the 2 classes") as raised:
        check_samples(Samples(_samples({"a": 2, "b": 2}).train, [Sample(Path("valid/emu/0.png"), "emu")]))
    assert "Add training samples of it" in str(raised.value)


def test_one_class_is_refused_by_the_checks():
    with pytest.raises(DataError, match=r"the training data gave \['a'\] as classes"):
        check_samples(_samples({"a": 2}))


def test_empty_class_folders_are_found_beside_full_ones(tmp_path):
    _touch(tmp_path, "train/cat/1.jpg", "train/dog/a/1.jpg", "train/emu/notes.txt", "docs/a.txt", "train/.git/a")
    (tmp_path / "train" / "fox").mkdir()
    (tmp_path / "__MACOSX").mkdir()

    assert empty_classes(tmp_path) == ["train/emu", "train/fox"]


def test_an_empty_class_folder_is_said(folder):
    (folder / "train" / "emu").mkdir()

    assert "the class folders ['train/emu'] hold no samples" in BLOCK.samples(folder).notes[0]


def test_an_empty_folder_beside_pictures_that_a_function_labels_is_no_class(tmp_path):
    _touch(tmp_path, *(f"images/{label}{i}.jpg" for label in "ab" for i in range(20)))
    (tmp_path / "docs").mkdir()
    block = DataBlock(find_images, random_split(0.3), function_label(lambda path: path.name[0]))

    assert block.samples(tmp_path).notes == ()


def test_pictures_of_kinds_that_are_not_read_are_said(folder):
    _touch(folder, "train/cat/3.HEIC", "train/cat/4.heic", "train/readme.txt", "train/cat/5.avif")

    assert "passed over (2 .heic); convert them" in BLOCK.samples(folder).notes[0]


def test_samples_need_not_be_pictures(tmp_path):
    _touch(tmp_path, *(f"{part}/{label}/{i}.txt" for part in ("train", "valid") for label in "ab" for i in range(2)))
    block = DataBlock(lambda root: list(root.rglob("*.txt")), grandparent_split(), parent_label())

    assert len(block.samples(tmp_path).train) == 4


def test_only_the_folders_that_find_looks_into_are_told_of(tmp_path):
    for folder in ("data/a", "data/b", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.heic").touch()
        for i in range(4):
            (tmp_path / folder / f"{i}.jpg").touch()
    within = (tmp_path / "data",)
    block = DataBlock(
        lambda root: find_images(root / "data"), function_split(lambda path: path.stem == "0"), parent_label()
    )

    assert "(3 .heic)" in " ".join(block.samples(tmp_path).notes)
    assert "(2 .heic)" in " ".join(replace(block, within=within).samples(tmp_path).notes)
