"""From a folder of pictures to batches.

Every picture is decoded once into a store of uint8 pixels (see `etude.data.store`), kept for later runs. Training cuts
a random window of it, validation and prediction the middle.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from etude.data.block import DataBlock, Samples
from etude.data.build import open_or_build
from etude.data.items import Label, Split
from etude.data.layouts import guess
from etude.data.loaders import Augment, DataLoaders
from etude.data.sampling import balanced
from etude.data.store import RaggedStore
from etude.data.unstored import Unstored
from etude.data.vocab import Vocab
from etude.errors import ConfigError
from etude.training.display import progress_bar
from etude.vision.decode import PictureCodec
from etude.vision.finding import Folder, block_of, folder_of, label_of, silent, two_folders
from etude.vision.pictures import DrawWindows, PictureLoader
from etude.vision.preprocess import ImagePreprocess, ImageReader, statistics
from etude.vision.samples import PictureSet, picture_set
from etude.vision.windows import MiddleCrop, RandomResizedCrop

OnBadData: TypeAlias = Literal["skip", "stop"]
Store: TypeAlias = Literal["disk", "none"]
Target: TypeAlias = Literal["class", "number"]
Draws: TypeAlias = Literal["uniform", "balanced"]

_STORED = 2
"""Stored pictures are reduced to this many times the size that the model sees: a window of a third is still sharp."""
_FEW_STEPS = 5
_LARGEST = 4096
"""Pixels of a side: more is a slip of the hand, and would take all memory."""
_SAMPLED, _SAMPLED_PIXELS = 1000, 1 << 25
"""How many pictures mean and deviation are measured on, and of how many pixels in all."""


def load(
    path: Folder | None = None,
    *,
    train: Folder | None = None,
    valid: float | Folder | None = None,
    size: int = 128,
    batch_size: int = 64,
    seed: int = 42,
    split_seed: int | None = None,
    block: DataBlock | None = None,
    label: str | Label | None = None,
    target: Target = "class",
    several: bool = False,
    sampling: Draws = "uniform",
    split: Split | None = None,
    fold: tuple[int, int] | None = None,
    label_noise: float = 0.0,
    windows: DrawWindows | None = None,
    middle: MiddleCrop | None = None,
    augment: Augment | None = None,
    stored_size: int | None = None,
    store: Store = "disk",
    on_bad_data: OnBadData = "skip",
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
) -> DataLoaders:
    """Pictures from a folder, an archive or a known data set.

    Guesses the layout and says which it took: `train/CLASS/*` beside `valid/CLASS/*` (or val, test); `CLASS/*`;
    `labels.csv` with columns `name,label[,is_valid]`; one folder of files named `LABEL_NUMBER.jpg`.

    Args:
        path: a folder; an archive, which is unpacked once; or the name of a known data set (`etude data list`).
        train: folder of training classes, with `valid` the folder of validation classes, instead of `path`.
        valid: the share of pictures held out, drawn by a hash of (split seed, name).
        size: side of the square that the model sees, in pixels.
        batch_size: pictures per step; validation takes twice as many.
        seed: decides the order, windows and augmentation.
        split_seed: decides which pictures are held out; None takes `seed`. Runs that are compared should share it.
        block: find, split and label yourself; nothing is guessed.
        label: instead of the guessed one: "parent" (the folder a picture lies in), "top" (the first folder), a
            regular expression with one group for the file's name, or a function of (file, root).
        target: what labels are: "class", or "number" to be predicted, such as "1.5", or "1.5;2" for two.
        several: a picture may have several labels or none. Taken for granted where labels of a table are joined by ';'.
        sampling: "balanced" draws every class equally often, with replacement; an epoch keeps its length.
        split: instead of the guessed one; see `etude.data.items`.
        fold: (which, of how many), counted from 0: hold out one of several equal parts, for cross-validation.
        label_noise: the share of training labels that are changed to a wrong one, to study noisy labels.
        windows: what training sees of each picture; None is `RandomResizedCrop()`.
        middle: what validation and prediction see; None is `MiddleCrop()`.
        augment: further random changes of training batches, such as `vision.color_jitter(brightness=0.2)`.
        stored_size: the shorter side to which larger pictures are reduced, once; None is twice `size`.
        store: "disk" decodes every picture once and keeps it for later runs; "none" decodes it anew for every batch,
            for sets whose pixels have no room.
        on_bad_data: "skip" leaves out pictures that cannot be read and says which; "stop" raises.
        rank: which part of each step this process takes.
        world_size: the number of processes.
        progress: print what was found, and show bars.

    Raises:
        DataError: naming the folder, file or label that cannot be used.
    """
    _refuse(size, seed, on_bad_data=on_bad_data, store=store, target=target, sampling=sampling)
    said = _Said(label, split, fold, seed if split_seed is None else split_seed, several, target == "number")
    root, block = _find(path, train, valid, block, said, progress)
    samples = block.samples(root)
    codec = PictureCodec(stored_size or _STORED * size)
    stored = _stored(samples, root, codec, store, progress=progress)
    found = picture_set(root, block, samples, stored, label_noise=label_noise, seed=seed)
    found.refuse_bad(stop=on_bad_data == "stop")
    middle = middle or MiddleCrop()
    data = _loaders(
        found,
        ImageReader(size, stored=codec.stored, share=middle.share, squash=middle.squash),
        windows or RandomResizedCrop(),
        augment,
        sampling,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    if progress:
        _tell(found, batch_size)
    return data


def _stored(
    samples: Samples, root: Path, codec: PictureCodec, store: Store, *, progress: bool
) -> RaggedStore | Unstored:
    """Every picture of the samples, decoded once into the cache, or looked at and left as a file."""
    files = [sample.path for sample in (*samples.train, *samples.valid)]
    with progress_bar(enabled=progress) as bar:
        if store == "none":
            return Unstored(files, root, codec, report=bar)
        return open_or_build(files, root, codec, report=bar, say=print if progress else silent)


_CHOICES = {
    "on_bad_data": ("skip", "stop"),
    "store": ("disk", "none"),
    "target": ("class", "number"),
    "sampling": ("uniform", "balanced"),
}


def _refuse(size: Any, seed: Any, **choices: str) -> None:
    """Refuse settings that make no sense; raises `ConfigError`."""
    if not isinstance(size, int) or not 1 <= size <= _LARGEST:
        raise ConfigError(f"size must be a whole number of pixels from 1 to {_LARGEST}, got {size!r}")
    if not isinstance(seed, int):
        raise ConfigError(f"seed must be a whole number, got {seed!r}")
    for name, value in choices.items():
        if value not in _CHOICES[name]:
            raise ConfigError(f"{name} must be one of {_CHOICES[name]}, got {value!r}")
    if (choices["target"], choices["sampling"]) == ("number", "balanced"):
        raise ConfigError("sampling='balanced' draws classes equally often, and numbers have none; leave it out")


class _Said(NamedTuple):
    """What a user says of the layout instead of having it guessed."""

    label: str | Label | None
    split: Split | None
    fold: tuple[int, int] | None
    seed: int
    several: bool
    numbers: bool


def _find(
    path: Folder | None, train: Folder | None, valid: Any, block: DataBlock | None, said: _Said, progress: bool
) -> tuple[Path, DataBlock]:
    """Where the pictures lie, and how they are found, split and labeled; refuses arguments that exclude each other."""
    label, split, fold, seed, several, numbers = said
    says_how = any(given is not None for given in (label, split, fold)) or several or numbers
    if train is not None:
        if path is not None or valid is None or isinstance(valid, float):
            raise ConfigError("give a folder, or train= and valid= folders")
        if says_how or block is not None:
            raise ConfigError(
                "train= and valid= folders say how; block, label, target, several, split and fold have no effect"
            )
        return two_folders(*(Path(folder).expanduser().resolve() for folder in (train, valid)))
    if path is None:
        raise ConfigError("give a folder of pictures, or train= and valid= folders")
    root = folder_of(path, progress=progress)
    if block is None:
        return root, block_of(root, valid, seed, label, split, fold, several=several, numbers=numbers)
    if says_how or valid is not None:
        raise ConfigError(
            "a block says how to find, split and label; valid, label, target, several, split and fold have no effect"
        )
    return root, block


def labeled(
    path: Folder,
    read: ImageReader,
    vocab: Vocab | None,
    *,
    valid: float | None = None,
    seed: int = 42,
    label: str | Label | None = None,
    several: bool = False,
    fold: tuple[int, int] | None = None,
    batch_size: int = 128,
    on_bad_data: OnBadData = "skip",
    progress: bool = True,
) -> tuple[PictureSet, PictureLoader]:
    """Labeled pictures for a model that is trained already, seen just as its own validation pictures were.

    Args:
        path: a folder, an archive, or a known data set. The held-out pictures of its layout are taken, or all of them
            where it has none.
        read: how the model's data read pictures.
        vocab: the model's classes; None for a model of numbers.
        valid: take only the share that `load` holds out with this share and seed.
        seed: of that share.
        label: where labels come from; see `load`.
        several: a picture may have several labels; see `load`.
        fold: take only the part that `load` holds out with this fold and seed.
        batch_size: pictures per batch.
        on_bad_data: "skip" or "stop"; see `load`.
        progress: print what was found, and show bars.

    Raises:
        DataError: naming the folder, file or label that cannot be used.
    """
    root = folder_of(path, progress=progress)
    try:
        block = block_of(root, valid, seed, label, None, fold, several=several, numbers=vocab is None)
        samples = Samples([], block.samples(root).valid)
    except ConfigError:
        if valid is not None or fold is not None:
            raise
        # no held-out pictures of its own, so all of them
        said = {"several": several, "numbers": vocab is None}
        block = guess(root, valid="all", seed=seed, label=label_of(label), **said)
        samples = Samples([], block.labeled(root))
    store = _stored(samples, root, read.codec, "disk", progress=progress)
    found = picture_set(root, block, samples, store, vocab=vocab)
    found.refuse_bad(stop=on_bad_data == "stop")
    if progress:
        for line in found.summary():
            print(line, flush=True)
    return found, PictureLoader(store, *found.valid, size=read.size, windows=read.crop, batch_size=batch_size)


def _loaders(
    found: PictureSet,
    read: ImageReader,
    windows: DrawWindows,
    augment: Augment | None,
    sampling: Draws,
    *,
    batch_size: int,
    seed: int,
    rank: int,
    world_size: int,
) -> DataLoaders:
    loader = partial(
        PictureLoader, found.store, size=read.size, seed=seed, rank=rank, world_size=world_size, vocab=found.vocab
    )
    weights = balanced(found.train[1]) if sampling == "balanced" else None
    train = loader(*found.train, windows=windows, batch_size=batch_size, shuffle=True, drop_last=True, weights=weights)
    return DataLoaders(
        train,
        loader(*found.valid, windows=read.crop, batch_size=2 * batch_size) if len(found.valid[0]) else None,
        vocab=found.vocab,
        preprocess=_preprocess(loader(*found.train, windows=MiddleCrop(1.0, squash=True))),
        augment=augment,
        read=read,
        seed=seed,
        description=found.description,
        incidents=found.incidents,
        identity={**found.identity(), "read": read.config(), "windows": repr(windows)},
        several_labels=found.several_labels,
        numbers=found.numbers,
    )


def _preprocess(whole: PictureLoader) -> ImagePreprocess:
    """By mean and deviation of whole pictures spread over the set, so that every class is there."""
    num = max(min(_SAMPLED, _SAMPLED_PIXELS // whole.size**2), 16)
    some = torch.arange(0, whole.num_samples, -(-whole.num_samples // num))
    return ImagePreprocess(whole.size, *statistics(torch.cat([whole.pixels(rows) for rows in some.split(100)])))


def _tell(found: PictureSet, batch_size: int) -> None:
    """Print what was taken and what was not."""
    for line in found.summary():
        print(line, flush=True)
    num = len(found.train[0])
    if batch_size > num:
        print(f"the batch is the whole set: {num} training pictures, fewer than a batch size of {batch_size}")
    elif batch_size > 1 and num < _FEW_STEPS * batch_size:
        steps = max(num // batch_size, 1)
        plural = "steps" if steps > 1 else "step"
        print(f"an epoch is {steps} {plural} of {batch_size} pictures; a smaller batch size makes more of few pictures")
