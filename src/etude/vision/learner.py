"""A learner for pictures in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from etude.data.loaders import DataLoaders
from etude.errors import ConfigError
from etude.losses import LossFn
from etude.optim import OptimizerFactory, adamw
from etude.regression import NumberLossName, give_numbers
from etude.training.average import EMA
from etude.training.callback import Callback
from etude.training.callbacks.mixup import MixUp
from etude.training.learner import Learner
from etude.training.optimizer import Groups
from etude.training.precision import Precision
from etude.training.step import Step, supervised_step
from etude.vision.objective import ClassWeights, draws_balanced, loss_for, metrics_for
from etude.vision.pretrained import normalized_as, start_for


def learner(
    arch: str | os.PathLike[str] | nn.Module,
    data: DataLoaders,
    *,
    pretrained: str | os.PathLike[str] | None = None,
    mixup: float = 0.0,
    label_smoothing: float = 0.1,
    class_weights: ClassWeights = None,
    focal: float = 0.0,
    loss_fn: LossFn | NumberLossName | None = None,
    optimizer: OptimizerFactory | None = None,
    groups: Groups | None = None,
    callbacks: Sequence[Callback] = (),
    step: Step = supervised_step,
    precision: str | Precision = "auto",
    average: EMA | None = None,
    accumulate: int = 1,
    device: str | torch.device = "auto",
    compile: bool = False,
    progress: bool = True,
    **options: Any,
) -> Learner:
    """A learner with the metrics and the loss that suit its targets, and AdamW.

    One class for each picture: accuracy, and cross entropy with label smoothing. Several labels: the same for the yes
    or no of each class, macro F1 and exact match. Numbers: MAE, RMSE and R2, and the mean squared error.

    Args:
        arch: the name of an architecture; or the folder of a saved model or run, whose body is taken over and gets a
            new head; or "timm:NAME", with its pretrained weights; or a model of your own.
        data: from `vision.load`.
        pretrained: with an architecture by name, where its body comes from: a `.safetensors` file, or the folder of a
            saved model or run. The head is new. Pictures are normalized as the body's own were, where that is known.
        mixup: the alpha of `MixUp`; 0 leaves it out.
        label_smoothing: 0 is plain cross entropy. The epoch table shows the plain cross entropy as well. Numbers have
            none; another value than the default is refused there.
        class_weights: "balanced" makes every class count as much in the loss, however rare; or weights of your own, a
            tensor or list of one for each class, see `etude.losses.FocalLoss`. Balanced accuracy and macro F1 are then
            shown too, as for `focal`.
        focal: the gamma of a focal loss, such as 2; 0 for none.
        loss_fn: a loss of your own; for numbers also "mse", "l1" or "huber".
        optimizer: instead of `etude.optim.adamw()`.
        groups: model -> layer groups; None takes body and head.
        callbacks: after MixUp.
        step: what one training step does.
        precision: "fp32", "bf16", "bf16-master", "fp16", a `MixedPrecision`, or "auto", which measures.
        average: `EMA(...)`: evaluate, predict and save with the average of the weights over the steps.
        accumulate: batches per update.
        device: "auto", or a named one.
        compile: run the model through `torch.compile`.
        progress: show a bar and the epoch table.
        options: of the architecture, such as blur_pool=True, activation="mish", stem_stride=1.
    """
    model, data = _model(arch, data, pretrained, options)
    return Learner(
        model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]  # torch's stub lacks this form
        data,
        loss_for(data, loss_fn, label_smoothing, class_weights, focal),
        optimizer or adamw(),
        groups=groups,
        metrics=metrics_for(data, unequal=class_weights is not None or focal > 0 or draws_balanced(data)),
        callbacks=(*([MixUp(mixup)] if mixup else []), *callbacks),
        step=step,
        precision=precision,
        average=average,
        accumulate=accumulate,
        device=device,
        compile=compile,
        progress=progress,
    )


def _model(
    arch: str | os.PathLike[str] | nn.Module,
    data: DataLoaders,
    pretrained: str | os.PathLike[str] | None,
    options: dict[str, Any],
) -> tuple[nn.Module, DataLoaders]:
    """The model, and the data as its body knows pictures."""
    if isinstance(arch, nn.Module):
        if options or pretrained is not None:
            named = sorted(options) if options else f"pretrained={str(pretrained)!r}"
            raise ConfigError(f"{named} belong to an architecture by name and have no effect on a ready model")
        return arch, data
    start = start_for(str(arch), data, options, None if pretrained is None else str(pretrained))
    model = start.model if data.numbers is None else give_numbers(start.model, data.numbers)
    return model, normalized_as(data, start)
