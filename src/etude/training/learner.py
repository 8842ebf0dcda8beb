"""The learner: a model, its data, a loss and an optimizer, and the loop that brings them together.

To follow a batch, start at `supervised_step` in step.py and read the four verbs below that it is made of: `transform`,
`forward`, `backward`, `update`. The loop that calls it is in loop.py.
"""

from __future__ import annotations

import html
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from etude import losses
from etude.data.convert import to_device
from etude.data.loaders import DataLoaders, Loader, as_dataloaders, as_loader, check_vocab
from etude.errors import ConfigError
from etude.hooks import mode
from etude.losses import LossFn
from etude.metrics import EpochMeter, Metric, named
from etude.optim import LAYER_GROUP, OptimizerFactory
from etude.schedules import Cycle, Rate, Schedules, one_cycle
from etude.training import checkpoint, saving, transfer
from etude.training.auto_precision import choose_precision
from etude.training.average import EMA
from etude.training.callback import Callback, Events, instances
from etude.training.callbacks.progress import ShowProgress
from etude.training.callbacks.scheduler import Momentum, Scheduler, schedules_of
from etude.training.checks import check_fit, check_parts
from etude.training.device import pick_device
from etude.training.history import History, Progress
from etude.training.loop import Loop
from etude.training.optimizer import Groups, check_instance, optimizer_of
from etude.training.plan import Plan, make_plan
from etude.training.precision import FullPrecision, Precision, make_precision
from etude.training.predict import Views, predict
from etude.training.snapshot import Snapshot, precision_of
from etude.training.step import Step, supervised_step
from etude.training.summary import Summary, layer_table, summarize
from etude.training.tuning import NormPolicy
from etude.types import Batch, StepOutput


@final
class Learner:
    """Trains a model.

    Args:
        model: any module; it is moved to the device.
        data: `DataLoaders`, or (train, valid) loaders that yield (inputs, targets), or training batches alone.
        loss_fn: (preds, targets) -> scalar; a module or a function.
        optimizer: a factory such as `torch.optim.AdamW` or `etude.optim.adamw()`, called with the layer groups at the
            first fit and kept for later ones; or an optimizer of this model, each group of which is a layer group.
        groups: model -> layer groups, for a learning rate each; None asks the model, else makes one group.
        metrics: functions (preds, targets) -> mean over the samples; a dict names them.
        callbacks: in the order in which they work.
        precision: "fp32", "bf16", "bf16-master", "fp16", a `MixedPrecision`, or "auto", which times all but fp16.
        average: `EMA(...)`: evaluation, prediction and saved models use the average of the weights over the steps.
        step: what one training step does.
        accumulate: batches per update; the update equals that of one big batch.
        device: "auto" takes the GPU if there is one; a named device is obeyed.
        compile: run the model through `torch.compile`.
        seed: keys the callbacks' randomness; None takes the data's seed, else torch's initial seed.
        progress: show a bar and the epoch table.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DataLoaders | Loader | tuple[Any, Any] | Iterable[Any],
        loss_fn: LossFn,
        optimizer: OptimizerFactory | Optimizer,
        *,
        groups: Groups | None = None,
        metrics: Sequence[Metric] | Mapping[str, Metric] = (),
        callbacks: Sequence[Callback] = (),
        precision: str | Precision = "fp32",
        average: EMA | None = None,
        step: Step = supervised_step,
        accumulate: int = 1,
        device: str | torch.device = "auto",
        compile: bool = False,
        seed: int | None = None,
        progress: bool = True,
    ) -> None:
        check_parts(loss_fn, optimizer, accumulate, average, step)
        self.device = pick_device(device)
        self.model = model.to(self.device)
        self.data = as_dataloaders(data)
        if self.data.preprocess is not None:
            self.data.preprocess.to(self.device)
        self.loss_fn = loss_fn.to(self.device) if isinstance(loss_fn, nn.Module) else loss_fn
        self.groups, self.metrics, self.callbacks = groups, named(metrics), instances(callbacks)
        self.step, self.accumulate, self.show_progress = step, accumulate, progress
        self.seed = next(seed for seed in (seed, self.data.seed, torch.initial_seed()) if seed is not None)
        self.progress = Progress()
        self.history = History()
        self.precision: Precision | None = None if precision == "auto" else make_precision(precision, self.device)
        self.average = None if average is None else average.of(self.model)
        self.optimizer: Optimizer | None = None
        self.factory: OptimizerFactory | None = None
        if isinstance(optimizer, Optimizer):
            check_instance(optimizer, self.model)
            self.optimizer = optimizer
            for i, group in enumerate(optimizer.param_groups):
                group.setdefault(LAYER_GROUP, i)
        else:
            self.factory = optimizer
        self.compile = compile
        self._call = torch.compile(self.model) if compile else self.model
        self._loop: Loop | None = None

    def fit(
        self,
        num_epochs: int,
        lr: Rate | None = None,
        *,
        schedule: Cycle | Schedules = one_cycle,
        momentum: Momentum = "auto",
        callbacks: Sequence[Callback] = (),
        resume: Snapshot | str | os.PathLike[str] | None = None,
        change: Collection[str] = (),
        reset_optimizer: bool = False,
    ) -> History:
        """Train for some epochs, validating after each.

        Args:
            num_epochs: passes over the training data.
            lr: the peak learning rate, or one per layer group. None keeps the optimizer's own, unscheduled.
            schedule: from `lr` and `momentum` to what each step uses (`one_cycle`, `flat`, ...), or the schedules
                themselves: `{"lr": cosine(1e-2, 0), "weight_decay": linear(0, 1e-2)}`.
            momentum: what the schedule takes; "auto" is the schedule's default where the optimizer has momentum.
            callbacks: for this fit only, after the learner's own.
            resume: a checkpoint (or the folder of several, or of a run: its newest good one) of a fit with the same
                arguments; training goes on where it was taken, as if it had never stopped.
            change: what may differ from the fit that is resumed, such as "num_epochs"; see `etude.training.settings`.
            reset_optimizer: start with a new optimizer instead of keeping momentum and step counts.

        Returns:
            This fit's rows. `learner.history` has those of all fits.

        Raises:
            NonFiniteError: a loss or gradient became infinite or NaN; weights are those of the last good step.
        """
        train = self.data.train
        if train is None:
            raise ConfigError("this learner has no training data; make one with data to train it")
        check_fit(self.model, train, num_epochs)
        snapshot = resume if resume is None or isinstance(resume, Snapshot) else checkpoint.read_newest(resume)
        optimizer = self.optimizer = optimizer_of(self, reset=reset_optimizer)
        if snapshot is not None and self.precision is None:
            self.precision = precision_of(snapshot, self)
        precision = self._choose_precision(train)
        schedules = schedules_of(optimizer, lr, schedule, momentum)
        first = [Scheduler(schedules)] if schedules else []
        last = [ShowProgress()] if self.show_progress else []
        self._loop = Loop(self, optimizer, precision, train, (*first, *self.callbacks, *instances(callbacks), *last))
        try:
            return self._loop.run(num_epochs, snapshot, change)
        finally:
            self.history.extend(self._loop.history)
            self._loop = None

    def plan(
        self,
        num_epochs: int,
        lr: Rate | None = None,
        *,
        schedule: Cycle | Schedules = one_cycle,
        momentum: Momentum = "auto",
        callbacks: Sequence[Callback] = (),
    ) -> Plan:
        """What `fit` with these arguments will do; a few steps of a copy are timed, and the learner is left alone."""
        return make_plan(self, num_epochs, lr, schedule=schedule, momentum=momentum, callbacks=callbacks)

    def fine_tune(
        self,
        num_epochs: int,
        lr: float,
        *,
        freeze_epochs: int = 1,
        norm: NormPolicy = "train",
        gradual: bool = False,
        momentum: tuple[float, float] | None = None,
        callbacks: Sequence[Callback] = (),
        resume: Snapshot | str | os.PathLike[str] | None = None,
    ) -> History:
        """Train the head alone for `freeze_epochs`, then everything for `num_epochs`, the body at a tenth of the rate.

        Args:
            num_epochs: epochs with everything trainable.
            lr: the head's peak learning rate while the body is frozen; half of it afterwards.
            freeze_epochs: epochs with the body frozen; 0 for none.
            norm: what the norms of the frozen body do: "train", "affine" or "frozen" (see `etude.training.transfer`).
            gradual: unfreeze one layer group after the other, for `freeze_epochs` each.
            momentum: (at both ends of each phase, at its peak); None is the schedule's own.
            callbacks: for every phase, after the learner's own.
            resume: a checkpoint of the same call; training goes on in the phase in which it was taken.

        Returns:
            The history of the last phase.
        """
        return transfer.fine_tune(self, num_epochs, lr, freeze_epochs, norm, gradual, momentum, callbacks, resume)

    # -- the four verbs of a step ---------------------------------------------------------------------------------

    def transform(self, batch: Batch) -> Batch:
        """The data's own augmentation, then each callback's `transform_batch`."""
        if self.data.augment is not None:
            batch = self.data.augment(batch, self.seed, self.progress.epoch)
        for change in self._loop.events.transform_batch if self._loop else Events(self.callbacks).transform_batch:
            batch = change(batch, self)
            if not isinstance(batch, Batch):
                raise ConfigError(f"{change} returned {type(batch).__name__}; transform_batch must return a Batch")
        return batch

    def forward(self, batch: Batch) -> tuple[Tensor, Any]:
        """The loss and the predictions of a batch: the model in its precision, the loss outside, in float32."""
        preds = self.run(self._call, batch, self.precision or self._precision_now())
        return losses.apply(self.loss_fn, preds, batch.targets, batch.weight), preds

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this batch's share of the step."""
        if loss.ndim:
            raise ConfigError(f"the loss must be one number, got shape {tuple(loss.shape)}; use reduction='mean'")
        (self._loop or self.running()).backward(loss)

    def grad(self, loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The gradients of a loss in float32, whatever the precision; no `.grad` changes."""
        return self._precision_now().grad(loss, weights)

    def update(self) -> bool | Tensor:
        """At the end of a window of accumulated batches: transform the gradients, step, clear them.

        Returns:
            Whether the weights changed; a tensor where only the device knows.
        """
        return (self._loop or self.running()).update()

    # -- without training -----------------------------------------------------------------------------------------

    def evaluate(self, data: Any = None) -> dict[str, float]:
        """The mean loss and metrics over the validation data, or over any loader, in evaluation mode."""
        loader = self.data.valid if data is None else as_loader(data)
        if loader is None:
            raise ConfigError("there is no validation data; pass a loader: evaluate(loader)")
        check_vocab(loader, self.data.vocab)
        meter = EpochMeter(self.metrics, loss_is_sum=losses.reduction_of(self.loss_fn) == "sum")
        with torch.no_grad(), self.evaluating(), mode(self._loss_module(), training=False):
            for batch in loader.batches(0, self.device):
                loss, preds = self.forward(batch)
                output = StepOutput(loss, preds, batch)
                meter.add(output)
                if self._loop is not None:
                    self._loop.events.notify("after_eval_batch", self, batch, output)
        return meter.compute()

    def predict(self, items: Any = None, *, views: Views | None = None) -> Any:
        """What the model says of new items.

        Args:
            items: one item as the data reads it (a path, a picture, an array): gives a `Prediction`. A list or iterator
                of items, a folder, a tensor (a batch), a loader, or None for the validation data: gives `Predictions`.
            views: of each item, such as `vision.Views()`; the mean of their probabilities counts.
        """
        return predict(self, items, views)

    def preds(self, batch: Batch) -> Any:
        """The model's output for a batch in evaluation mode, in float32."""
        with torch.no_grad(), self.evaluating():
            return self.run(self.model, to_device(batch, self.device), self._precision_now())

    def one_batch(self) -> Batch:
        """The next training batch as the model will see it; torch's global generators are left as they were."""
        if self.data.train is None:
            raise ConfigError("this learner has no training data, so there is no batch to look at")
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            return self.transform(next(self.data.train.batches(self.progress.epoch, self.device)))

    def summary(self, *, all_layers: bool = False) -> Summary:
        """The model's children (or all layers in them) with shapes, parameters and what their norms do in a step."""
        return summarize(self, all_layers=all_layers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder of `model.safetensors` and `model.json`; `etude.load` reads it back."""
        saving.save(self, path)

    # -- preparation ----------------------------------------------------------------------------------------------

    def _choose_precision(self, train: Loader) -> Precision:
        if self.precision is None:
            self.precision = choose_precision(self, train)
            if self.show_progress:
                print(f"precision {self.precision.name}: {self.precision.reason}", flush=True)
        return self.precision

    def _precision_now(self) -> Precision:
        return self.precision or FullPrecision("fp32", self.device)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model holds the average of its weights, if this learner has one: what is evaluated and saved."""
        with nullcontext() if self.average is None else self.average.shown():
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model is in evaluation mode, with averaged weights and in the learner's precision."""
        with self.averaged(), self._precision_now().evaluating(self.model), mode(self.model, training=False):
            yield

    def run(self, model: Any, batch: Batch, precision: Precision) -> Any:
        """The predictions of a model for this learner's data: preprocessed, in a precision, then widened."""
        inputs = batch.inputs if self.data.preprocess is None else self.data.preprocess(batch.inputs)
        with precision.running():
            inputs = precision.narrow(inputs)
            if isinstance(inputs, Tensor):
                preds = model(inputs)
            else:
                preds = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
        return precision.widen(preds)

    def running(self) -> Loop:
        """The fit under way; raises `RuntimeError` when there is none."""
        if self._loop is None:
            raise RuntimeError("backward and update belong to a step inside fit; call learner.fit")
        return self._loop

    def _loss_module(self) -> nn.Module:
        return self.loss_fn if isinstance(self.loss_fn, nn.Module) else nn.Identity()

    @override
    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.model.parameters())
        optimizer = type(self.optimizer).__name__ if self.optimizer else "no optimizer yet"
        return (
            f"Learner({type(self.model).__name__}, {count:,} parameters, {self.data.description or 'data'}, "
            f"{optimizer}, {self._precision_now().name} on {self.device}, {self.progress.epoch} epochs trained)"
        )

    def _repr_html_(self) -> str:
        """The learner and its layers in a notebook."""
        return f"<p>{html.escape(repr(self))}</p>{layer_table(self.model)}"
