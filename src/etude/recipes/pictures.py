"""From the options of a training on pictures to its loaders and its learner."""

from __future__ import annotations

from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from etude.recipes.options import DataOptions, ModelOptions, TrainOptions, check
from etude.recipes.teacher import step_of
from etude.runs.statistics import number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from etude.data.loaders import Augment, DataLoaders
    from etude.training.average import EMA
    from etude.training.callback import Callback
    from etude.training.learner import Learner
    from etude.training.optimizer import Groups as GroupsOf
    from etude.types import Json
    from etude.vision.progressive import ProgressiveResizing

Groups = Literal["body and head", "norms with the head", "thirds"]
"""How a model is divided into layer groups; see `etude.training.transfer`."""


def loaders(
    data: DataOptions, train: TrainOptions, *, fold: tuple[int, int] | None = None, whole: bool = False, quiet: bool
) -> DataLoaders:
    """The pictures.

    Args:
        data: which ones.
        train: for the size of a batch and the seed.
        fold: (which, of how many) is held out, counted from 0.
        whole: squashed and not augmented, as the studies see them.
        quiet: say nothing.
    """
    from etude import vision
    from etude.errors import ConfigError

    check(data, train)
    if data.data is None:
        raise ConfigError("name a folder or archive of pictures, or a known data set (see: etude data list)")
    middle = vision.MiddleCrop(1.0, squash=True) if whole else None
    return vision.load(
        data.data,
        size=data.size,
        valid=data.valid_pct,
        batch_size=train.batch_size,
        seed=train.seed,
        split_seed=data.split_seed,
        label=data.label,
        target=data.target,
        several=data.several,
        sampling=data.sampling,
        fold=fold,
        label_noise=data.label_noise,
        windows=middle or vision.RandomResizedCrop((data.min_scale, 1.0), flip=data.flip),
        middle=middle or vision.MiddleCrop(squash=data.squash),
        augment=_augment(data),
        stored_size=data.stored_size,
        store=data.store,
        on_bad_data=data.on_bad_data,
        progress=not quiet,
    )


def _groups_of(name: Groups) -> GroupsOf | None:
    """The function from a model to its layer groups; None is the model's own."""
    from etude.training import transfer

    return {"body and head": None, "norms with the head": transfer.norms_with_head, "thirds": transfer.in_thirds}[name]


def check_model(model: ModelOptions, train: TrainOptions, size: int) -> None:
    """Refuse a model, a device or a growth of pictures that cannot be had; raises `ConfigError` or `LoadError`."""
    import torch

    from etude.errors import ConfigError
    from etude.training import saving
    from etude.training.device import pick_device
    from etude.vision.models import create_model

    for growing in _growing(train):
        growing.check(size)
    pick_device(train.device)
    if model.pretrained is not None:
        saving.read_weights(model.pretrained)
    if Path(model.arch).is_file():
        raise ConfigError(
            f"{model.arch} is a file of weights; say --pretrained {model.arch}, and --arch for its network"
        )
    if Path(model.arch).exists():
        saving.read(model.arch)
        return
    with torch.device("meta"):  # no memory, no random numbers
        create_model(model.arch, num_classes=1, **_model_options(model))


def _model_options(model: ModelOptions) -> dict[str, Any]:
    """What was asked of the architecture beside its name."""
    options: dict[str, Any] = {}
    if model.stem_stride is not None:
        options["stem_stride"] = model.stem_stride
    if model.blur_pool:
        options["blur_pool"] = True
    if model.activation != "relu":
        options["activation"] = model.activation
    return options


def mixing(train: TrainOptions) -> list[Callback]:
    """What blanks and mixes batches, in the order in which they work: pictures are blanked before they are mixed."""
    from etude.training.callbacks.choose import Choose
    from etude.training.callbacks.cutmix import CutMix
    from etude.training.callbacks.cutout import Cutout
    from etude.training.callbacks.mixup import MixUp

    first: list[Callback] = [Cutout(train.cutout)] if train.cutout else []
    mixers: list[Callback] = [MixUp(train.mixup)] if train.mixup else []
    mixers += [CutMix(train.cutmix)] if train.cutmix else []
    return [*first, Choose(*mixers)] if len(mixers) > 1 else [*first, *mixers]


def average_of(train: TrainOptions) -> EMA | None:
    """The average of the weights, if there shall be one."""
    from etude.training.average import EMA

    return EMA(train.ema) if train.ema else None


def _growing(train: TrainOptions) -> list[ProgressiveResizing]:
    """What lets the pictures grow, if they shall."""
    from etude import vision

    return [vision.ProgressiveResizing(train.progressive)] if train.progressive else []


def _augment(data: DataOptions) -> Augment | None:
    """The random changes beside window and mirroring, in the order in which they work."""
    from etude import vision

    changes = []
    if data.rotate:
        changes.append(vision.affine(rotate=data.rotate, padding="reflection"))
    if data.color:
        changes.append(vision.color_jitter(brightness=data.color, contrast=data.color, saturation=data.color))
    if data.erase:
        changes.append(vision.random_erasing(p=data.erase))
    return vision.compose(*changes) if changes else None


def learner(
    data: DataLoaders, model: ModelOptions, train: TrainOptions, groups: Groups = "body and head", *, quiet: bool
) -> Learner:
    """The learner on these pictures; torch's seed is set before."""
    from etude import vision
    from etude.optim import adamw

    # what it says of the model it makes is no error
    with redirect_stdout(None) if quiet else nullcontext():
        return vision.learner(
            model.arch,
            data,
            pretrained=model.pretrained,
            groups=_groups_of(groups),
            label_smoothing=train.label_smoothing,
            class_weights=None if train.class_weights == "none" else train.class_weights,
            focal=train.focal,
            loss_fn=train.loss,
            optimizer=adamw(weight_decay=train.weight_decay),
            step=step_of(train),
            callbacks=[*mixing(train), *_growing(train)],
            precision=train.precision,
            average=average_of(train),
            device=train.device,
            progress=not quiet,
            **_model_options(model),
        )


def found_again(model: ModelOptions, found: Callable[[str], str], folder: Path) -> ModelOptions:
    """The model's options with their paths as they were meant; of a body that is gone, a checkpoint has its network.

    Args:
        model: as it was asked for.
        found: from a path to where it lies now.
        folder: the run's.
    """
    from etude.training import checkpoint
    from etude.vision.models import ARCHITECTURES, TIMM

    arch, body = found(model.arch), None if model.pretrained is None else found(model.pretrained)
    kept = checkpoint.checkpoints(folder / checkpoint.FOLDER)
    is_path = model.arch not in ARCHITECTURES and not model.arch.startswith(TIMM)
    gone = (body is not None and not Path(body).exists()) or (is_path and not Path(arch).exists())
    if gone and kept:
        # its weights come from the checkpoint as well, so nothing of the body is needed any more
        return ModelOptions(arch=str(kept[0]))
    return replace(model, arch=arch, pretrained=body)


def outcome(learner: Learner, folder: Path) -> dict[str, Json]:
    """Draw what a trained learner says of the held-out pictures; gives how many of them are right."""
    from etude.runs.draw import draw_numbers
    from etude.vision.show import draw_predictions

    if learner.data.valid is None or learner.data.several_labels:
        return {}
    predictions = learner.predict()
    if learner.data.numbers is not None:
        draw_numbers(predictions, folder / "predictions.png")
        return {"valid_samples": len(predictions)}
    draw_predictions(learner, predictions, folder / "predictions.png")
    return {"valid_right": predictions.num_right, "valid_samples": len(predictions)}


def told(result: Mapping[str, Json]) -> str:
    """A run's result in words."""
    if "valid_rmse" in result:
        r2, rmse, mae = (number(result[f"valid_{name}"]) for name in ("r2", "rmse", "mae"))
        return f"{result['valid_samples']} held-out pictures: R2 {r2:.4f}, RMSE {rmse:.4g}, MAE {mae:.4g}"
    if "valid_accuracy" not in result:
        return "trained without validation"
    share = number(result["valid_accuracy"])
    if "valid_right" not in result:
        return f"{share:.2%} of all yes-or-no answers on held-out pictures right"
    return f"{result['valid_right']} of {result['valid_samples']} held-out pictures right: {share:.2%}"
