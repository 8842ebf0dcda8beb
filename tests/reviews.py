"""Real reviews for tests, read from their archives."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path


def sample_reviews(data_folder: Path) -> list[str]:
    """The 1,000 reviews of imdb_sample."""
    with tarfile.open(data_folder / "imdb_sample.tgz") as archive:
        name = next(name for name in archive.getnames() if name.endswith("texts.csv"))
        file = archive.extractfile(name)
        assert file is not None
        return [row["text"] for row in csv.DictReader(io.StringIO(file.read().decode(), newline=""))]


def all_reviews(data_folder: Path, *folders: str) -> Iterator[tuple[str, str]]:
    """Name and text of each review in folders such as "train"."""
    with tarfile.open(data_folder / "imdb.tar.xz", "r|xz") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".txt") and member.name.split("/")[1] in folders:
                file = archive.extractfile(member)
                assert file is not None
                yield member.name, file.read().decode()
