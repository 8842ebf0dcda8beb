"""The teacher of a training, as it was asked for with --teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.recipes.options import TrainOptions, refuse_changed

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.training.step import Step


def check_teacher(train: TrainOptions) -> None:
    """Refuse a teacher that cannot be had before pictures are read.

    Raises:
        ConfigError: a value is out of range, or has no effect without a teacher.
        LoadError: the folder holds no model.
    """
    from etude.errors import ConfigError, LoadError
    from etude.training import saving

    if train.teacher is None:
        refuse_changed(train, ("distill_weight", "temperature"), "there is no --teacher")
        return
    if not 0 < train.distill_weight <= 1:
        raise ConfigError(f"--distill-weight must be a share above 0 and up to 1, got {train.distill_weight}")
    if train.distill_weight == 1:
        refuse_changed(train, ("focal", "class_weights"), "--distill-weight 1 leaves the labels no say")
    if not 0.01 <= train.temperature <= 1000:
        raise ConfigError(f"--temperature must be a number from 0.01 to 1000, such as 4, got {train.temperature}")
    try:
        saving.read(train.teacher)
    except LoadError as error:
        raise LoadError(f"--teacher {train.teacher!r} cannot be the teacher: {error}") from error


def step_of(train: TrainOptions) -> Step:
    """The training's step: with a teacher or without."""
    from etude.runs.load import load
    from etude.training.distill import Distillation
    from etude.training.step import supervised_step

    if train.teacher is None:
        return supervised_step
    teacher = load(train.teacher, device=train.device)
    return Distillation(teacher, temperature=train.temperature, weight=train.distill_weight)


def check_student(learner: Learner) -> None:
    """Refuse data that the teacher cannot teach, before anything is trained; raises `ConfigError`."""
    from etude.training.distill import Distillation

    if isinstance(learner.step, Distillation):
        learner.step.check(learner)
