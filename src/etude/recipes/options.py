"""The options that recipes share: one name in Python, on the command line, and in a run's record."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from etude.output import tell
from etude.training.tuning import NormPolicy

if TYPE_CHECKING:
    from etude.types import Json

Precision = Literal["auto", "fp32", "bf16", "bf16-master", "fp16"]
OnBadData = Literal["skip", "stop"]
ClassWeights = Literal["none", "balanced"]
NumberLoss = Literal["mse", "l1", "huber"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings that a command flattens into flags and a run's record holds under the same names."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Options):
    """Where the data of a training lies."""

    data: str | None = None
    """A folder, an archive, or a known data set (see: etude data list)."""


_D = TypeVar("_D", bound=SourceOptions)


@dataclass(frozen=True, kw_only=True)
class DataOptions(SourceOptions):
    """Which pictures, and how they are seen."""

    data: str | None = None
    """A folder or archive of pictures, or a known data set (see: etude data list)."""
    size: int = 128
    """Side of the square that the model sees, in pixels."""
    valid_pct: float | None = None
    """Share of the pictures held out, such as 0.2, where they have no split of their own."""
    split_seed: int = 42
    """Which pictures --valid-pct and --folds hold out: the same for every --seed, so that runs can be compared."""
    label: str | None = None
    """Where a label comes from: parent (the folder), top (the first folder), or a regular expression with one group."""
    target: Literal["class", "number"] = "class"
    """What labels are: class; or number, to be predicted, such as 1.5, or 1.5;2 for two."""
    several: bool = False
    """A picture may have several labels or none; taken for granted where a table joins some by ';'."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """balanced draws every class equally often in training, pictures of rare ones again and again."""
    label_noise: float = 0.0
    """Share of training labels made wrong on purpose, to see what noisy labels do."""
    on_bad_data: OnBadData = "skip"
    """What to do about pictures that cannot be read."""
    stored_size: int | None = None
    """Shorter side to which larger pictures are reduced once; twice the size unless said."""
    store: Literal["disk", "none"] = "disk"
    """Where decoded pictures are kept: disk decodes once; none decodes for every batch, where the disk has no room."""
    min_scale: float = 0.35
    """Smallest share of a picture's area that training sees."""
    flip: float = 0.5
    """Share of training pictures that are mirrored; 0 for text and digits."""
    squash: bool = False
    """Validate on pictures squashed to a square, instead of on their middle square."""
    color: float = 0.0
    """Strength of random brightness, contrast and saturation, such as 0.2."""
    rotate: float = 0.0
    """Largest random rotation, in degrees."""
    erase: float = 0.0
    """Share of training pictures of which a random rectangle is erased."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Which model."""

    arch: str = "xresnet18"
    """xresnet18, 34, 50, 101, 152 or lesson_cnn; the folder of an earlier run, whose body is taken over; timm:NAME."""
    pretrained: str | None = None
    """Where the body of a named architecture comes from: a .safetensors file, or the folder of an earlier run."""
    stem_stride: Literal[1, 2] | None = None
    """2 halves the picture in the first convolution, 1 keeps it, for four times the work. Unset: 1 below 48 pixels."""
    blur_pool: bool = False
    """Low-pass filter wherever the map is halved (Zhang 2019): more accurate, a quarter slower."""
    activation: str = "relu"
    """relu, mish, silu, ..."""


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """What every training is told, whatever it learns from."""

    epochs: int = 20
    """Passes over the training data."""
    batch_size: int = 64
    """Pictures per step."""
    lr: float = 1e-2
    """Peak learning rate of the one-cycle schedule."""
    pct_start: float | None = 0.3
    """Share of the training in which the learning rate goes up."""
    weight_decay: float = 1e-2
    """Decoupled weight decay; norms and biases are left out."""
    precision: Precision = "auto"
    """Number format of the model's computation; auto measures which is fastest, fp16 apart."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    seed: int = 42
    """Decides initial weights, orders, augmentation and mixing."""
    seeds: int = 1
    """How many runs, with seed, seed + 1, ...: their mean and spread are the result."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(FitOptions):
    """How to train on pictures."""

    pct_start: float = 0.3
    """Share of the training in which the learning rate goes up."""
    mixup: float = 0.0
    """Alpha of MixUp; 0 trains without."""
    cutmix: float = 0.0
    """Alpha of CutMix; 0 trains without. With --mixup too, each batch is mixed in one way or the other."""
    cutout: float = 0.0
    """Side of the square that is blanked in every training picture, as a share of the picture's; 0 trains without."""
    label_smoothing: float = 0.1
    """Share of each target spread over all classes; 0 trains without."""
    class_weights: ClassWeights = "none"
    """balanced makes every class count as much in the loss, however few pictures it has."""
    focal: float = 0.0
    """Gamma of a focal loss (Lin 2017), such as 2, which looks less at what is right already; 0: cross entropy."""
    loss: NumberLoss | None = None
    """Of --target number: mse, l1, huber, each of errors in standard deviations; mse unless given."""
    teacher: str | None = None
    """Folder of a trained run or saved model: learn from its probabilities as well as from the labels."""
    distill_weight: float = 0.9
    """Share of the teacher in the loss; the labels have the rest."""
    temperature: float = 4.0
    """What teacher and student divide their scores by; above 1 the teacher's small probabilities count for more."""
    progressive: float = 0.0
    """Share of --size that training begins with and grows from (Howard 2018), such as 0.5; 0: full size throughout."""
    ema: float = 0.0
    """Decay per step of the average of the weights (Polyak 1992) that is validated and saved, such as 0.99; 0: none."""


@dataclass(frozen=True, kw_only=True)
class TuningOptions(Options):
    """How a trained body is fine-tuned."""

    freeze_epochs: int = 1
    """Epochs in which the body stands still and the head trains, before --epochs with all; 0 for none."""
    norm: NormPolicy = "train"
    """What the frozen body's norms do: train; affine (only their statistics move); frozen (neither)."""
    gradual: bool = False
    """Unfreeze in thirds from the head on, --freeze-epochs each, instead of all at once."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """What is printed."""

    json: bool = False
    """Print one JSON object as the last line."""
    quiet: bool = False
    """Print nothing but errors and the JSON line."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(OutputOptions):
    """Where results go and what is printed."""

    run_dir: str | None = None
    """The run's folder, new or empty; by default runs/DATE-TIME-RECIPE."""
    save_every: int = 0
    """Steps between checkpoints within an epoch; one is written after every epoch and every 10 minutes anyway."""
    keep: int = 2
    """Newest checkpoints to keep; the one of the lowest validation loss is kept beside them."""
    on_save_error: Literal["continue", "stop"] = "continue"
    """What to do when a checkpoint cannot be written, as on a full disk."""


def teller(output: OutputOptions) -> Callable[[str], None]:
    """How a recipe says a line: printed at once, or with --quiet not at all."""

    def say(line: str) -> None:
        if not output.quiet:
            tell(line)

    return say


_SHARES = (
    *("valid_pct", "label_noise", "flip", "erase", "min_scale", "pct_start", "lm_pct_start"),
    *("label_smoothing", "cutout"),
)
_LARGEST_ALPHA = 1000
_LOWEST = {"size": 1, "stored_size": 1, "epochs": 1, "batch_size": 1, "seeds": 1, "keep": 1} | dict.fromkeys(
    ("color", "rotate", "lr", "all_lr", "weight_decay", "mixup", "cutmix", "focal", "save_every", "freeze_epochs"), 0
)
_LOWEST |= dict.fromkeys(
    ("max_vocab", "min_freq", "bptt", "embed_dim", "hidden_dim", "num_layers", "max_length", "lm_epochs"), 1
)
_LOWEST |= dict.fromkeys(("drop_mult", "lm_drop_mult", "clip", "ar", "tar", "lm_lr"), 0)


def check(*options: Options) -> None:
    """Refuse values that no training can take, by flag name and before pictures are read.

    Raises:
        ConfigError: naming the flag, its value, and what it takes.
    """
    from etude.errors import ConfigError

    given = flags(*options)
    for name, value in given.items():
        if not isinstance(value, int | float):
            continue
        if name in _SHARES and not 0 <= value <= 1:
            raise ConfigError(f"{_flag(name)} must be a share from 0 to 1, such as 0.2, got {value}")
        if name in ("mixup", "cutmix") and value > _LARGEST_ALPHA:
            raise ConfigError(f"{_flag(name)} must be at most {_LARGEST_ALPHA}, got {value}; 0.2 to 1 is usual")
        if name == "ema" and not 0 <= value < 1:
            raise ConfigError(f"{_flag(name)} must be from 0, for none, to below 1, such as 0.99; got {value}")
        if name == "min_scale" and value == 0:
            raise ConfigError(f"{_flag(name)} must be a share above 0, such as 0.35, got {value}")
        if name == "progressive" and not 0 <= value < 1:
            raise ConfigError(f"{_flag(name)} must be a share from 0, for none, to below 1, such as 0.5; got {value}")
        if name == "progressive" and value and given.get("epochs") == 1:
            raise ConfigError(f"{_flag(name)} has no effect on one epoch: the last is at full size; train for more")
        if name in _LOWEST and not (value >= _LOWEST[name] and math.isfinite(value)):
            kind = "finite number of" if isinstance(value, float) else "number of"
            raise ConfigError(f"{_flag(name)} must be a {kind} at least {_LOWEST[name]}, got {value}")


_ONLY_CLASSES = ("several", "sampling", "label_noise", "class_weights", "focal", "teacher")
"""What has no effect on numbers."""


def check_target(data: DataOptions, train: TrainOptions) -> None:
    """Refuse what does not go with the kind of the labels, or with one another; raises `ConfigError`."""
    from etude.errors import ConfigError

    if data.target == "class":
        refuse_changed(train, ("loss",), "it is one of numbers, and labels are classes without --target number")
    else:
        why = "it belongs to classes, and --target number has none"
        refuse_changed(data, tuple(name for name in _ONLY_CLASSES if name in asdict(data)), why)
        refuse_changed(train, tuple(name for name in _ONLY_CLASSES if name in asdict(train)), why)
        if train.label_smoothing not in (0, type(train)().label_smoothing):
            raise ConfigError(f"--label-smoothing has no effect here: {why}; leave it out")
    if data.sampling == "balanced" and train.class_weights == "balanced":
        raise ConfigError(
            "--sampling balanced shows every class equally often already, and --class-weights balanced on top of it "
            "would make rare classes count more than common ones; leave one of them out"
        )


def refuse_changed(options: Options, names: tuple[str, ...], why: str) -> None:
    """Refuse settings that cannot take effect.

    Raises:
        ConfigError: naming the first of `names` that is not at its default.
    """
    from etude.errors import ConfigError

    for name in names:
        if getattr(options, name) != getattr(type(options)(), name):
            raise ConfigError(f"{_flag(name)} has no effect here: {why}; leave it out")


def check_picture(out: str) -> None:
    """Refuse an --out that no picture can be written to, before the work for it is done; raises `ConfigError`."""
    from etude.errors import ConfigError
    from etude.output import file_to_write

    if Path(out).suffix.lower() != ".png" or not Path(out).absolute().parent.is_dir():
        raise ConfigError(f"--out must be a .png file in a folder that exists, got {out}")
    file_to_write(out, "--out")


def data_of(path: str | None, data: _D) -> _D:
    """The options with the data that a command's PATH or --data names.

    Raises:
        ConfigError: both name some.
    """
    from etude.errors import ConfigError

    if path is not None and data.data is not None:
        raise ConfigError(f"two places for the data, {path} and --data {data.data}; name one")
    return data if path is None else replace(data, data=path)


_CALLED = {"valid": "valid_pct", "labels": "label"}
"""Flags that are not called as the arguments that they set."""


def in_flags(
    message: str,
    names: tuple[str, ...] = (
        *("valid", "label", "labels", "text_column", "max_vocab", "min_freq"),
        *("on_bad_data", "target", "sampling", "class_weights"),
    ),
) -> str:
    """A message of the library, which names Python arguments, with the flags that set them.

    Parts of paths, and "train= and valid= folders", which no flag sets, stay as they are.

    Args:
        message: of an error.
        names: the arguments whose flags are put in.

    >>> in_flags("say which share to hold out, such as valid=0.2; or on_bad_data='skip'")
    'say which share to hold out, such as --valid-pct 0.2; or --on-bad-data skip'
    """
    pattern = rf"(?<![\w/\\'\"])({'|'.join(names)})=(['\"]?)([\w.]*+)\2(?![\w/\\]| folders)"
    return re.sub(
        pattern,
        lambda found: f"{_flag(_CALLED.get(found[1], found[1]))} {found[3]}".rstrip(),
        message,
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def flags(*options: Options) -> dict[str, Json]:
    """All options under their flag names, for a run's record."""
    return {name: value for given in options for name, value in asdict(given).items()}
