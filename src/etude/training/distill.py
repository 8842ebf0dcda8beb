"""Distillation: a student learns from the probabilities of a trained teacher as well as from the labels."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude import losses
from etude.data.loaders import DataLoaders
from etude.errors import ConfigError
from etude.training.callback import Callback
from etude.training.callbacks.choose import Choose
from etude.training.callbacks.mixup import MixUp
from etude.training.learner import Learner
from etude.training.predict import probabilities_of
from etude.training.settings import told
from etude.training.step import detached
from etude.types import Batch, Inputs, Json, StepOutput

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

_FEW = 3
"""Classes named in an error."""


@runtime_checkable
class HasSize(Protocol):
    """A preprocess that cuts pictures to a square."""

    size: int
    """Its side, in pixels."""


@final
class Distillation:
    """A step that teaches: `Learner(..., step=Distillation(etude.load("runs/large")))`.

        loss = (1 - weight) * usual loss + weight * temperature^2 * KL(teacher / T, student / T)

    The teacher is a copy of what is passed, as it is then, in evaluation mode; it is never trained. It sees the batch
    that the student sees, after every transform: the same window, the same mixture. A `Learner` sees it through its own
    preprocessing, at the size that it was trained with; if it averages its weights, the average answers. Its classes
    are matched by name. A plain module sees what the student's model sees; its class numbers must mean the same.

    `train_loss` is the loss above; `valid_loss` is the usual one, so the two cannot be compared. A resume is refused
    with another teacher: its weights' digest is part of the step's name.

    Args:
        teacher: a module that returns scores (batch, class), or a learner.
        temperature: what the scores are divided by. Above 1 the teacher's small probabilities count, which say what
            resembles what. 4 is what most later work took; Hinton et al. found 2.5 to 4 best for small students, and
            more for large ones, and He et al. 2018 used 20 on ImageNet. The factor T^2 keeps the gradient's size.
        weight: of the teacher, in (0, 1]. 0.9, because the paper found "a considerably lower weight" best for the
            labels; 1 leaves them out.

    Raises:
        ConfigError: a value is outside of its range; or, at the first step, the teacher does not fit the student.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2; Beyer et al. 2021,
    "Knowledge distillation: a good teacher is patient and consistent", for the same view; SPEC M13.
    """

    def __init__(self, teacher: nn.Module | Learner, *, temperature: float = 4.0, weight: float = 0.9) -> None:
        if not 0.01 <= temperature <= 1000:
            raise ConfigError(f"temperature must be from 0.01 to 1000, got {temperature}")
        if not 0 < weight <= 1:
            raise ConfigError(f"weight must be in (0, 1], got {weight}; leave Distillation out to train without it")
        if isinstance(teacher, Learner):
            _refuse_sigmoid("the teacher", teacher)
        elif not isinstance(teacher, nn.Module):
            raise ConfigError(f"the teacher must be a module or a learner, got {teacher!r}; etude.load(path) gives one")
        self.temperature, self.weight = temperature, weight
        own = teacher.data if isinstance(teacher, Learner) else None
        model = teacher.model if isinstance(teacher, Learner) else teacher
        self._is_learner = own is not None
        with teacher.averaged() if isinstance(teacher, Learner) else nullcontext():
            self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._preprocess = copy.deepcopy(own.preprocess) if own is not None else None
        self._vocab = own.vocab if own is not None else None
        self._student: tuple[DataLoaders, torch.device] | None = None
        self._order: Tensor | None = None
        self._name = f"{type(model).__name__} {digest_of(self._model, self._preprocess)[:16]}"

    def __call__(self, learner: Learner, batch: Batch) -> StepOutput:
        """One step: the teacher's answer, the student's, and both losses."""
        if self._student is None or self._student[0] is not learner.data or self._student[1] != learner.device:
            self._meet(learner)
        # another fit can have other callbacks
        _refuse_hidden_mixing(learner.running().events.callbacks)
        batch = learner.transform(batch)
        answers = self.answers(learner, batch)
        loss, preds = learner.forward(batch)
        if not isinstance(preds, Tensor) or preds.shape != answers.shape:
            shape = tuple(preds.shape) if isinstance(preds, Tensor) else type(preds).__name__
            raise ConfigError(f"the teacher gives {tuple(answers.shape)}, the student {shape}; expected one shape")
        soft_loss = partial(divergence, temperature=self.temperature, reduction=losses.reduction_of(learner.loss_fn))
        soft = losses.apply(soft_loss, preds, answers, batch.weight)
        loss = (1 - self.weight) * loss + self.weight * soft
        learner.backward(loss)
        updated = learner.update()
        return StepOutput(loss.detach(), detached(preds), batch, updated)

    def config(self) -> dict[str, Json]:
        """The teacher's digest, temperature and weight; a resume compares them."""
        return {"teacher": self._name, "temperature": self.temperature, "weight": self.weight}

    def check(self, learner: Learner) -> None:
        """Refuse a student that this teacher cannot teach, before anything is trained.

        Raises:
            ConfigError: other classes; one of the two reads raw inputs and the other does not; a loss that is no cross
                entropy; mixing in a hidden layer.
        """
        _refuse_sigmoid("the student", learner)
        _refuse_hidden_mixing(learner.callbacks)
        theirs, ours = self._vocab, learner.data.vocab
        if theirs is not None and ours is not None and set(theirs) != set(ours):
            names = {"the teacher": set(theirs) - set(ours), "the data": set(ours) - set(theirs)}
            only = [f"only {who} has {sorted(extra)[:_FEW]}" for who, extra in names.items() if extra]
            raise ConfigError(
                f"the teacher knows {len(theirs)} classes, the student's data has {len(ours)}: {', '.join(only)}; "
                "pass a teacher of the student's classes"
            )
        if self._is_learner and (self._preprocess is None) != (learner.data.preprocess is None):
            first, second = ("student", "teacher") if self._preprocess is None else ("teacher", "student")
            raise ConfigError(
                f"the {first}'s data has raw inputs and a preprocess, the {second}'s has none, so they cannot see the "
                "same batch; if the teacher's model takes what the student's takes: Distillation(teacher.model)"
            )

    def answers(self, learner: Learner, batch: Batch) -> Float[Tensor, "batch class *rest"]:
        """The teacher's scores for a transformed batch, columns in the student's order."""
        with torch.no_grad():
            inputs = self._seen(learner, batch.inputs)
            with _autocast(learner):
                answers = _called(self._model, inputs)
        if not isinstance(answers, Tensor) or answers.ndim < 2:
            raise ConfigError(f"the teacher returns {type(answers).__name__}; expected scores (batch, class)")
        answers = answers if self._order is None else answers.index_select(1, self._order)
        return answers.to(torch.promote_types(answers.dtype, torch.float32))

    def _meet(self, learner: Learner) -> None:
        """Check a new student, and move to its device."""
        self.check(learner)
        self._model.to(learner.device)
        if self._preprocess is not None:
            self._preprocess.to(learner.device)
        theirs, ours = self._vocab, learner.data.vocab
        self._order = None
        if theirs is not None and ours is not None and theirs != ours:
            self._order = torch.tensor([theirs.number(name) for name in ours], device=learner.device)
        self._student = learner.data, learner.device

    def _seen(self, learner: Learner, inputs: Inputs) -> Any:
        """Transformed inputs as the teacher's model takes them."""
        student = learner.data.preprocess
        if self._preprocess is None:
            return inputs if self._is_learner or student is None else student(inputs)
        if isinstance(self._preprocess, HasSize) and isinstance(inputs, Tensor) and inputs.ndim == 4:
            most = student.size if isinstance(student, HasSize) else self._preprocess.size
            inputs = resized(inputs, most, self._preprocess.size)
        return self._preprocess(inputs)


def divergence(
    preds: Float[Tensor, "batch class *rest"],
    answers: Float[Tensor, "batch class *rest"],
    temperature: float,
    reduction: str = "mean",
) -> Tensor:
    """The Kullback-Leibler divergence from the teacher's softened probabilities to the student's, times T^2.

    Source: Hinton et al. 2015, equation 1, and section 2 for T^2.
    """
    student, teacher = (scores.div(temperature).log_softmax(1) for scores in (preds, answers))
    each = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return temperature**2 * losses.reduce(each, reduction)


def resized(
    pictures: Shaped[Tensor, "batch channel height width"], most: int, size: int
) -> Shaped[Tensor, "batch channel height2 width2"]:
    """The middle square of `most` pixels, which is what the student sees, at another size."""
    height, width = pictures.shape[-2:]
    side = min(height, width, most)
    if side == size:
        # the teacher's preprocessing cuts the same square
        return pictures
    top, left = (height - side) // 2, (width - side) // 2
    square = pictures[..., top : top + side, left : left + side].float()
    return F.interpolate(square, (size, size), mode="bilinear", antialias=True)


def digest_of(model: nn.Module, preprocess: nn.Module | None = None) -> str:
    """SHA-256 over a model's weights and buffers, whatever their memory format and device, and its preprocessing."""
    found = hashlib.sha256(b"" if preprocess is None else told(preprocess).encode())
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _called(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def _autocast(learner: Learner) -> torch.autocast:
    """The student's number format; without gradients neither master weights nor a loss scale are needed."""
    name = learner.precision.name if learner.precision is not None else "fp32"
    dtype = torch.float16 if "fp16" in name else torch.bfloat16
    return torch.autocast(learner.device.type, dtype=dtype, enabled=name != "fp32")


def _refuse_sigmoid(who: str, learner: Learner) -> None:
    if learner.data.several_labels or probabilities_of(learner.loss_fn) == "sigmoid":
        raise ConfigError(f"{who} gives several labels at once; distillation compares probabilities of one class")


def _refuse_hidden_mixing(callbacks: Iterable[Callback]) -> None:
    """In a hidden layer of the student two samples are mixed that the teacher sees apart."""
    for callback in callbacks:
        for mixer in callback.mixers if isinstance(callback, Choose) else (callback,):
            if isinstance(mixer, MixUp) and mixer.at != "input":
                raise ConfigError(
                    f"MixUp mixes in the student's layer {mixer.at!r}, where the teacher cannot see it; use MixUp() at "
                    "the input"
                )
