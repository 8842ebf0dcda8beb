"""Where pictures lie, and how they are found, split and labeled: from what a user says to a `DataBlock`."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from etude.data import fetch
from etude.data.block import DataBlock
from etude.data.files import find_images
from etude.data.items import Label, Split, fold_split, function_split, parent_label, regex_label
from etude.data.layouts import guess
from etude.errors import ConfigError, DataError
from etude.training.display import progress_bar

Folder: TypeAlias = str | os.PathLike[str]


def folder_of(path: Folder, *, progress: bool) -> Path:
    """The folder that a folder, an archive or the name of a known data set means."""
    with progress_bar(enabled=progress) as bar:
        return fetch.resolve(
            path,
            say=print if progress else silent,
            progress=partial(bar, "downloading"),
            unpacking=partial(bar, "unpacking"),
        )


def block_of(
    root: Path,
    valid: float | None,
    seed: int,
    label: str | Label | None,
    split: Split | None,
    fold: tuple[int, int] | None,
    *,
    several: bool = False,
    numbers: bool = False,
) -> DataBlock:
    """The guessed layout of a folder, with the parts of it that the user said otherwise; see `vision.load`."""
    if valid is not None and not isinstance(valid, float):
        raise ConfigError(f"beside a folder, valid= is the share to hold out, got {valid!r}; name both: train=, valid=")
    if sum(given is not None for given in (valid, split, fold)) > 1:
        raise ConfigError("valid, split and fold each say what is held out; give one of them")
    # a split of one's own sees every picture; folds are made of those that the layout does not hold out
    block = guess(
        root,
        valid="all" if split is not None else "train" if fold is not None else valid,
        seed=seed,
        label=label_of(label),
        several=several,
        numbers=numbers,
    )
    if fold is not None:
        # numbers are dealt out as if all were of one class
        split = fold_split(fold[0], fold[1], seed, label=(lambda path, root: "") if numbers else block.label)
        block = replace(block, description=f"{block.description}, fold {fold[0] + 1} of {fold[1]} held out")
    elif split is not None:
        block = replace(block, description=f"{block.description}, split by a function")
    return replace(block, split=split) if split is not None else block


def label_of(label: str | Label | None) -> str | Label | None:
    """A label function, "parent" or "top"; any other text is taken as a regular expression for file names."""
    return regex_label(label) if isinstance(label, str) and label not in ("parent", "top") else label


def two_folders(train: Path, valid: Path) -> tuple[Path, DataBlock]:
    """Training and validation classes in two folders, wherever they lie."""
    for folder in (train, valid):
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; expected a folder of class folders")
    if train == valid:
        raise ConfigError(f"{train} was given for training and validation alike; hold out a share of it with valid=0.2")

    def label(path: Path, root: Path) -> str | tuple[str, ...]:
        side = valid if path.is_relative_to(valid) else train
        return parent_label()(path, side)

    block = DataBlock(
        find=lambda root: list({*find_images(train), *find_images(valid)}),
        split=function_split(lambda path: path.is_relative_to(valid)),
        label=label,
        description="two folders of classes",
        within=(train, valid),
    )
    return Path(os.path.commonpath([train, valid])), block


def silent(line: str) -> None:
    """Say nothing."""
