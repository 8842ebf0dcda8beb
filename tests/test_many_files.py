"""Stores of thousands of files."""

from __future__ import annotations

from etude.data.build import open_or_build
from test_store import Bytes, _files, _text


def test_thousands_of_small_files(tmp_path):
    contents = {f"{i:04}": b"%d" % i for i in range(2000)}
    told = []
    paths = _files(tmp_path / "data", **contents)
    store = open_or_build(paths, tmp_path / "data", Bytes(), report=lambda *args: told.append(args))

    assert [_text(store, i) for i in range(0, 2000, 400)] == [b"%d" % i for i in range(0, 2000, 400)]
    assert told[0] == ("reading sizes", 64, 2000)
    assert told[-1] == ("decoding", 2000, 2000)
