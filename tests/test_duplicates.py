"""The same file on both sides of a split is found by its bytes, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from etude.data.duplicates import shared_files
from etude.data.store import mark_files

LONG = bytes(range(256)) * 80
"""Longer than the two ends that are hashed."""


def _shared(folder, train, valid):
    for name, data in {**train, **valid}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    marks = mark_files([folder / name for name in (*train, *valid)], folder)
    return [tuple(twin) for twin in shared_files(train, valid, {mark.name: mark for mark in marks}, folder)]


@pytest.mark.parametrize("data", [b"", b"short", LONG], ids=["empty", "short", "long"])
def test_the_same_bytes_under_another_name_are_found(tmp_path, data):
    train = {"cat/1.png": data, "dog/2.png": b"other"}
    valid = {"dog/copy.png": data, "dog/3.png": b"a third"}

    assert _shared(tmp_path, train, valid) == [("dog/copy.png", "cat/1.png")]


def test_every_copy_is_found_once(tmp_path):
    twins = _shared(tmp_path, {"1": LONG, "2": LONG, "3": b"3"}, {"4": LONG, "5": b"3", "6": LONG})

    assert twins == [("4", "1"), ("5", "3"), ("6", "1")]


def test_equal_size_and_equal_ends_are_not_enough(tmp_path):
    """Such as pictures of one camera whose headers are the same."""
    middle = len(LONG) // 2
    other = LONG[:middle] + b"x" + LONG[middle + 1 :]

    assert _shared(tmp_path, {"1": LONG}, {"2": other}) == []
    assert _shared(tmp_path, {"1": LONG, "3": other}, {"2": other}) == [("2", "3")]


def test_copies_on_one_side_are_none_of_its_business(tmp_path):
    assert _shared(tmp_path, {"1": LONG, "2": LONG}, {"3": b"3", "4": b"3"}) == []
