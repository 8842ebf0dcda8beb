"""Splits and labels: stable, exact, the same for any order of the files; and label tables in every dress."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import ConfigError, DataError, random
from etude.data.files import LabelRow, find_images, has_label_columns, label_table
from etude.data.items import (
    Sample,
    fold_split,
    function_label,
    function_split,
    grandparent_split,
    noisy_labels,
    parent_label,
    random_split,
    regex_label,
    table_label,
    table_split,
    top_label,
)

LAW = settings(max_examples=50, deadline=None, derandomize=True)
ROOT = Path("data")
NAMES = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 999)).map(lambda pair: f"{pair[0]}/{pair[1]}.jpg"),
    min_size=1,
    max_size=60,
    unique=True,
)


def _paths(*names):
    return [ROOT / name for name in names]


def _touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# -- label tables -----------------------------------------------------------------------------------------------------


def _table(folder, text):
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", ["name", "Filename", "image", "PATH", "id"])
@pytest.mark.parametrize("label", ["label", "Class", "category", "target", " labels "])
def test_common_headers_are_understood(tmp_path, name, label):
    assert label_table(_table(tmp_path, f"{name},{label}\na.jpg,cat\n")) == [("a.jpg", "cat", False)]


def test_the_preferred_header_wins(tmp_path):
    assert label_table(_table(tmp_path, "id,label,name\n7,cat,a.jpg\n")) == [("a.jpg", "cat", False)]


@pytest.mark.parametrize("header", ["is_valid", "Valid", "split"])
@pytest.mark.parametrize(
    ("value", "side"),
    [("train", False), ("0", False), ("", False), ("val", True), ("VALID", True), ("test", True), (" yes", True)],
)
def test_a_split_column_is_understood(tmp_path, header, value, side):
    assert label_table(_table(tmp_path, f"name,label,{header}\na.jpg,cat,{value}\n"))[0].is_valid is side


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_delimiter_is_found(tmp_path, delimiter, end):
    """Also where another one stands in the labels, as between several of them."""
    lines = [delimiter.join(("name", "label")), delimiter.join(("a.jpg", '"cat;dog, tame"')), ""]

    assert label_table(_table(tmp_path, end.join(lines))) == [("a.jpg", "cat;dog, tame", False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label,split\na.jpg,cat,train\nb.jpg,cat,maybe\n", r"line 3: 'maybe' does not say .* expected one of 0,"),
        ("name,label\na.jpg,cat\nb.jpg,dog\na.jpg,dog\n", r"line 4: 'a\.jpg' is 'dog' .* but 'cat' .* in line 2"),
        ("name,label,split\na.jpg,cat,0\na.jpg,cat,1\n", r"line 3: .*'cat' for validation .*'cat' for training"),
        ("name,label\na.jpg,cat,tame\n", r"line 2: 3 columns, but the first line has 2.*double quotes"),
        ('name,label\na.jpg,"cat\nb.jpg,dog\n', r"line 3: .*Is a double quote missing\?"),
        (b"name,label\na.jpg,cat\nb.jpg,\xe9t\xe9\n", r"line 3: byte 27 \(0xe9\) is not UTF-8"),
        ("name,label\n  ,cat\n", "line 2: name or label is empty"),
        ("image,kind\n", r"lacks the column \['label'\].*label may also be labels, class"),
    ],
    ids=["split", "two labels", "two sides", "more columns", "open quote", "encoding", "blank", "columns"],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        label_table(_table(tmp_path, text))


def test_a_line_that_comes_twice_counts_once(tmp_path):
    assert len(label_table(_table(tmp_path, "name,label\na.jpg,cat\n\na.jpg,cat\n"))) == 1


def test_what_looks_like_a_label_table(tmp_path):
    assert has_label_columns(_table(tmp_path, "image;class\n"))
    assert not has_label_columns(_table(tmp_path, "image;size\n"))
    assert not has_label_columns(_table(tmp_path, b"\xff\xfe\x00"))


# -- splits -----------------------------------------------------------------------------------------------------------


def test_the_grandparent_tells_the_side_and_other_folders_are_left_out():
    files = _paths("train/cat/1.jpg", "val/cat/2.jpg", "test/cat/3.jpg", "extra/cat/4.jpg", "5.jpg", "train/a/b/6.jpg")

    assert grandparent_split()(files, ROOT) == [False, True, None, None, None, False]
    assert grandparent_split(valid="test")(files, ROOT) == [False, None, True, None, None, False]
    assert grandparent_split("extra", ["none", "test"])(files, ROOT) == [None, None, True, False, None, None]


@LAW
@given(names=NAMES, share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_a_random_split_is_a_function_of_seed_and_name(names, share, seed):
    """So no file moves when another one comes, and none when the files come in another order."""
    split, files = random_split(share, seed), _paths(*names)

    assert split(files, ROOT) == [random.key(seed, f"valid:{name}") / (1 << 63) < share for name in names]
    assert split(files[::-1], ROOT) == split(files, ROOT)[::-1]
    assert split(files[:-1], ROOT) == split(files, ROOT)[:-1]


def test_a_random_split_holds_out_about_its_share():
    files = _paths(*(f"{i}.jpg" for i in range(2000)))

    assert 340 <= sum(random_split(0.2)(files, ROOT)) <= 460
    assert random_split(0.2)(files, ROOT) != random_split(0.2, seed=1)(files, ROOT)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_must_leave_something_on_both_sides(share):
    with pytest.raises(ConfigError, match=f"between 0 and 1, such as 0.2; got {share}"):
        random_split(share)


def test_a_file_outside_the_root_is_refused():
    with pytest.raises(DataError, match=r"other.1\.jpg does not lie in data"):
        random_split(0.2)([Path("other/1.jpg")], ROOT)


def test_a_function_tells_the_side():
    sides = {"1.jpg": True, "2.jpg": False, "3.jpg": None}

    assert function_split(lambda path: sides[path.name])(_paths("3.jpg", "1.jpg", "2.jpg"), ROOT) == [None, True, False]


@pytest.mark.usefixtures("without_type_checks")
def test_a_split_function_that_fails_is_named_with_its_file():
    with pytest.raises(DataError, match=r"failed at data.1\.jpg: ZeroDivisionError: .*return None") as raised:
        function_split(lambda path: 1 / 0)(_paths("1.jpg"), ROOT)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    with pytest.raises(DataError, match=r"gave 'valid' for data.1\.jpg; return True for validation"):
        function_split(lambda path: "valid")(_paths("1.jpg"), ROOT)


def test_a_table_tells_the_side():
    rows = [LabelRow(f"a/{i}.jpg", "cat", side) for i, side in enumerate([None, True, False])]

    assert table_split(rows)(_paths("a/2.jpg", "a/1.jpg", "a/3.jpg", "a/0.jpg"), ROOT) == [False, True, None, None]


@LAW
@given(names=NAMES, num_folds=st.integers(2, 6), seed=st.integers(0, 99))
def test_folds_partition_the_files_evenly_in_every_class(names, num_folds, seed):
    files = _paths(*names)
    if len(files) < num_folds:
        return
    folds = [fold_split(fold, num_folds, seed)(files, ROOT) for fold in range(num_folds)]
    held = [[path for path, side in zip(files, sides, strict=True) if side] for sides in folds]

    assert all(sum(sides) == 1 for sides in zip(*folds, strict=True))
    sizes = [len(part) for part in held]
    assert max(sizes) - min(sizes) <= 1
    for label in {path.parent.name for path in files}:
        of_class = [sum(path.parent.name == label for path in part) for part in held]
        assert max(of_class) - min(of_class) <= 1
    assert fold_split(0, num_folds, seed)(files[::-1], ROOT) == folds[0][::-1]


def test_folds_follow_the_seed_and_the_label():
    files = _paths(*(f"{i % 2}_{i}.jpg" for i in range(40)))
    by_name = [fold_split(0, 4, seed, label=regex_label(r"^(\d)_"))(files, ROOT) for seed in (1, 2)]

    moved = [Path("elsewhere", path.name) for path in files]

    assert by_name[0] != by_name[1]
    assert fold_split(0, 4, 1, label=regex_label(r"^(\d)_"))(moved, Path("elsewhere")) == by_name[0]
    assert Counter(path.name[0] for path, side in zip(files, by_name[0], strict=True) if side) == {"0": 5, "1": 5}


@pytest.mark.parametrize(
    ("fold", "num_folds", "message"),
    [(0, 1, "num_folds must be at least 2, got 1"), (3, 3, "from 0 to 2 .* got 3"), (-1, 3, "got -1")],
)
def test_a_fold_that_does_not_exist_is_refused(fold, num_folds, message):
    with pytest.raises(ConfigError, match=message):
        fold_split(fold, num_folds)


def test_fewer_files_than_folds_are_refused():
    with pytest.raises(DataError, match="2 files cannot be dealt to 3 folds"):
        fold_split(0, 3)(_paths("a/1.jpg", "a/2.jpg"), ROOT)


# -- labels -----------------------------------------------------------------------------------------------------------


def test_the_folder_a_file_lies_in():
    assert parent_label()(ROOT / "train/cat/tame/1.jpg", ROOT) == "tame"
    with pytest.raises(DataError, match=r"1\.jpg lies outside any class folder"):
        parent_label()(ROOT / "1.jpg", ROOT)


def test_the_first_folder_below_the_root_or_a_split_folder():
    label = top_label()

    assert label(ROOT / "train/cat/tame/1.jpg", ROOT) == label(ROOT / "cat/tame/1.jpg", ROOT) == "cat"
    assert top_label(())(ROOT / "test/cat/1.jpg", ROOT) == "test"
    for name in ("1.jpg", "train/1.jpg"):
        with pytest.raises(DataError, match=r"1\.jpg lies outside any class folder"):
            label(ROOT / name, ROOT)


def test_a_pattern_tells_the_label_from_the_file_name():
    label = regex_label(r"^(.*)_\d+\.jpg$")

    assert label(ROOT / "a_1/great_pyrenees_12.jpg", ROOT) == "great_pyrenees"
    for name in ("cat.jpg", "cat_1jpg", "cat_1.JPG", "_1.jpg"):
        with pytest.raises(DataError, match=r"data.c?a?t?.*gives no label with the pattern .*Mend the pattern, rename"):
            label(ROOT / name, ROOT)
    assert regex_label(r"(?i)^(.*)_\d+\.jpg$")(ROOT / "cat_1.JPG", ROOT) == "cat"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("^.*$", "has 0 groups"), ("(a)(b)", "has 2 groups"), ("(a", "no regular expression")],
)
def test_a_pattern_must_have_one_group(pattern, message):
    with pytest.raises(ConfigError, match=message):
        regex_label(pattern)


def test_a_function_and_a_table_tell_the_label():
    rows = [LabelRow("1.jpg", "cat; dog;", False), LabelRow("2.jpg", "cow", False)]
    one, several = table_label(rows), table_label(rows, several=";")

    assert function_label(lambda path: path.stem)(ROOT / "a/1.jpg", ROOT) == "1"
    assert [one(path, ROOT) for path in _paths("1.jpg", "2.jpg")] == ["cat; dog;", "cow"]
    assert [several(path, ROOT) for path in _paths("1.jpg", "2.jpg")] == [("cat", "dog"), ("cow",)]
    with pytest.raises(DataError, match=r"has no line for a/3\.jpg"):
        one(ROOT / "a/3.jpg", ROOT)


# -- wrong labels -----------------------------------------------------------------------------------------------------


def _samples(names):
    return [Sample(ROOT / name, name[0]) for name in names]


@LAW
@given(names=NAMES, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_exactly_the_share_of_labels_is_wrong_whatever_the_order(names, share, seed):
    samples = _samples(names)
    noisy, flipped = noisy_labels(samples, share, "abc", root=ROOT, seed=seed)
    again, _ = noisy_labels(samples[::-1], share, "cba", root=ROOT, seed=seed)

    assert len(flipped) == round(share * len(samples))
    assert flipped == [i for i, (a, b) in enumerate(zip(samples, noisy, strict=True)) if a.label != b.label]
    assert all(label in "abc" for _, label in noisy)
    assert [path for path, _ in noisy] == [path for path, _ in samples]
    assert again[::-1] == noisy


def test_wrong_labels_are_drawn_evenly_and_by_the_seed():
    samples = _samples([f"a/{i}.jpg" for i in range(1000)])
    noisy, flipped = noisy_labels(samples, 0.9, "abcd", root=ROOT)
    drawn = Counter(noisy[i].label for i in flipped)

    assert set(drawn) == set("bcd")
    assert all(240 <= num <= 360 for num in drawn.values())
    assert noisy_labels(samples, 0.9, "abcd", root=ROOT, seed=1)[1] != flipped


def test_wrong_labels_do_not_hang_on_where_the_folder_lies():
    names = [f"a/{i}.jpg" for i in range(20)]
    there = [Sample(Path("elsewhere") / name, "a") for name in names]
    here = noisy_labels(_samples(names), 0.5, "abc", root=ROOT)

    moved = noisy_labels(there, 0.5, "abc", root=Path("elsewhere"))
    assert (moved[1], [label for _, label in moved[0]]) == (here[1], [label for _, label in here[0]])


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_wrong_labels_outside_0_and_1_is_refused(share):
    with pytest.raises(ConfigError, match=f"from 0 to 1, got {share}"):
        noisy_labels(_samples(["a/1.jpg"]), share, "ab", root=ROOT)


def test_samples_that_can_have_no_wrong_label_are_refused():
    with pytest.raises(ConfigError, match=r"at least two classes, got \['a'\]"):
        noisy_labels(_samples(["a/1.jpg"]), 0.5, "a", root=ROOT)
    with pytest.raises(ConfigError, match=r"each sample has one label, but .*1\.jpg has \('a', 'b'\)"):
        noisy_labels([Sample(ROOT / "1.jpg", ("a", "b"))], 0.5, "ab", root=ROOT)
    with pytest.raises(DataError, match=r"label 'c' of .*1\.jpg is not among the 2 classes"):
        noisy_labels(_samples(["c/1.jpg"]), 0.5, "ab", root=ROOT)


def test_labels_are_not_searched_for_in_a_list(monkeypatch):
    """With a million samples of thousands of classes that takes minutes."""
    unsearched = type("Unsearched", (list,), {"__contains__": None})
    monkeypatch.setattr("etude.data.items.sorted", lambda values: unsearched(sorted(values)), raising=False)
    assert noisy_labels(_samples(["a/1.jpg", "b/1.jpg"]), 0.0, "ab", root=ROOT)[1] == []


def test_the_split_of_a_folder_does_not_hang_on_the_order_of_the_system(tmp_path, monkeypatch):
    """Error 11: the notes drew a coin per file in the order of os.walk."""
    _touch(tmp_path, *(f"{label}/{i}.jpg" for label in "ab" for i in range(20)))

    def sides():
        files = find_images(tmp_path)
        splits = (random_split(0.3), fold_split(1, 4))
        return [list(zip(files, split(files, tmp_path), strict=True)) for split in splits]

    expected, walk = sides(), os.walk

    def backwards(folder, **options):
        for place, folders, files in walk(folder, **options):
            folders.sort(reverse=True)
            yield place, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert sides() == expected
