"""A learner for pictures in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from etude.data.loaders import DataLoaders
from etude.errors import ConfigError
from etude.losses import LabelSmoothingCrossEntropy, LossFn
from etude.metrics import accuracy, cross_entropy, multilabel_accuracy
from etude.optim import OptimizerFactory, adamw
from etude.training.average import EMA
from etude.training.callback import Callback
from etude.training.callbacks.mixup import MixUp
from etude.training.learner import Learner
from etude.training.optimizer import Groups
from etude.training.precision import Precision
from etude.training.step import Step, supervised_step
from etude.vision.pretrained import model_for

_METRICS = {"accuracy": accuracy, "cross_entropy": cross_entropy}


def learner(
    arch: str | os.PathLike[str] | nn.Module,
    data: DataLoaders,
    *,
    mixup: float = 0.0,
    label_smoothing: float = 0.1,
    loss_fn: LossFn | None = None,
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
    """A learner with accuracy, label smoothing and AdamW.

    Args:
        arch: the name of an architecture; or the folder of a saved model or run, whose body is taken over and gets a
            new head; or a model of your own.
        data: from `vision.load`.
        mixup: the alpha of `MixUp`; 0 leaves it out.
        label_smoothing: 0 is plain cross entropy. The epoch table shows the plain cross entropy as well.
        loss_fn: instead of the smoothed cross entropy; pictures with several labels get a binary one.
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
    if data.several_labels:
        loss_fn = loss_fn or _binary(label_smoothing)
    model = arch if isinstance(arch, nn.Module) else model_for(str(arch), data, options)
    if isinstance(arch, nn.Module) and options:
        raise ConfigError(f"{sorted(options)} belong to an architecture by name and have no effect on a ready model")
    return Learner(
        model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]  # torch's stub lacks this form
        data,
        loss_fn or LabelSmoothingCrossEntropy(label_smoothing),
        optimizer or adamw(),
        groups=groups,
        metrics={"accuracy": multilabel_accuracy} if data.several_labels else _METRICS,
        callbacks=(*([MixUp(mixup)] if mixup else []), *callbacks),
        step=step,
        precision=precision,
        average=average,
        accumulate=accumulate,
        device=device,
        compile=compile,
        progress=progress,
    )


def _binary(label_smoothing: float) -> LossFn:
    """The loss for pictures with several labels each."""
    if label_smoothing:
        print("several labels for each picture: binary cross entropy, without label smoothing")
    return nn.BCEWithLogitsLoss()
