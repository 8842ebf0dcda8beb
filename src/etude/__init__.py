"""etude: train image and text models with one readable file per technique.

Importing `etude` imports nothing else; each public name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude import losses as losses
    from etude import metrics as metrics
    from etude import muon as muon
    from etude import optim as optim
    from etude import schedules as schedules
    from etude import text as text
    from etude import vision as vision
    from etude.data.loaders import ArrayLoader as ArrayLoader
    from etude.data.loaders import DataLoaders as DataLoaders
    from etude.data.vocab import Vocab as Vocab
    from etude.errors import ConfigError as ConfigError
    from etude.errors import DataError as DataError
    from etude.errors import EtudeError as EtudeError
    from etude.errors import LoadError as LoadError
    from etude.errors import NonFiniteError as NonFiniteError
    from etude.errors import SaveError as SaveError
    from etude.errors import SkipStep as SkipStep
    from etude.errors import StopEpoch as StopEpoch
    from etude.errors import StopFit as StopFit
    from etude.exports.export import export as export
    from etude.losses import LabelSmoothingCrossEntropy as LabelSmoothingCrossEntropy
    from etude.metrics import accuracy as accuracy
    from etude.metrics import top_k_accuracy as top_k_accuracy
    from etude.runs.load import load as load
    from etude.schedules import flat as flat
    from etude.schedules import flat_cosine as flat_cosine
    from etude.schedules import one_cycle as one_cycle
    from etude.training import transfer as transfer
    from etude.training.activations import activation_statistics as activation_statistics
    from etude.training.average import EMA as EMA
    from etude.training.callback import Callback as Callback
    from etude.training.callbacks.checkpoints import Checkpoints as Checkpoints
    from etude.training.callbacks.choose import Choose as Choose
    from etude.training.callbacks.clip import ClipGradNorm as ClipGradNorm
    from etude.training.callbacks.cutmix import CutMix as CutMix
    from etude.training.callbacks.cutout import Cutout as Cutout
    from etude.training.callbacks.debug import Debug as Debug
    from etude.training.callbacks.erase_pixels import ErasePixels as ErasePixels
    from etude.training.callbacks.four_corners import FourCorners as FourCorners
    from etude.training.callbacks.mixup import MixUp as MixUp
    from etude.training.callbacks.progress import ShowProgress as ShowProgress
    from etude.training.callbacks.record import Record as Record
    from etude.training.callbacks.scheduler import Scheduler as Scheduler
    from etude.training.callbacks.stop import EarlyStopping as EarlyStopping
    from etude.training.callbacks.stop import SaveBest as SaveBest
    from etude.training.distill import Distillation as Distillation
    from etude.training.finder import find_lr as find_lr
    from etude.training.history import History as History
    from etude.training.interpret import Interpretation as Interpretation
    from etude.training.learner import Learner as Learner
    from etude.training.lr_curve import LRCurve as LRCurve
    from etude.training.plan import Plan as Plan
    from etude.training.precision import MixedPrecision as MixedPrecision
    from etude.training.predict import Prediction as Prediction
    from etude.training.predict import Predictions as Predictions
    from etude.training.sam import SAM as SAM
    from etude.training.step import detached as detached
    from etude.training.step import supervised_step as supervised_step
    from etude.types import Batch as Batch
    from etude.types import MixedTargets as MixedTargets
    from etude.types import StepOutput as StepOutput

__version__ = "0.1.0"

_MODULES = {
    "losses": "losses",
    "metrics": "metrics",
    "muon": "muon",
    "optim": "optim",
    "schedules": "schedules",
    "text": "text",
    "transfer": "training.transfer",
    "vision": "vision",
}
_NAMES = {
    "ArrayLoader": "data.loaders",
    "DataLoaders": "data.loaders",
    "Vocab": "data.vocab",
    "ConfigError": "errors",
    "DataError": "errors",
    "EtudeError": "errors",
    "LoadError": "errors",
    "NonFiniteError": "errors",
    "SaveError": "errors",
    "SkipStep": "errors",
    "StopEpoch": "errors",
    "StopFit": "errors",
    "LabelSmoothingCrossEntropy": "losses",
    "accuracy": "metrics",
    "top_k_accuracy": "metrics",
    "export": "exports.export",
    "load": "runs.load",
    "flat": "schedules",
    "flat_cosine": "schedules",
    "one_cycle": "schedules",
    "Callback": "training.callback",
    "Checkpoints": "training.callbacks.checkpoints",
    "Choose": "training.callbacks.choose",
    "ClipGradNorm": "training.callbacks.clip",
    "CutMix": "training.callbacks.cutmix",
    "Cutout": "training.callbacks.cutout",
    "Debug": "training.callbacks.debug",
    "ErasePixels": "training.callbacks.erase_pixels",
    "FourCorners": "training.callbacks.four_corners",
    "MixUp": "training.callbacks.mixup",
    "ShowProgress": "training.callbacks.progress",
    "Record": "training.callbacks.record",
    "Scheduler": "training.callbacks.scheduler",
    "EarlyStopping": "training.callbacks.stop",
    "SaveBest": "training.callbacks.stop",
    "Distillation": "training.distill",
    "find_lr": "training.finder",
    "History": "training.history",
    "activation_statistics": "training.activations",
    "EMA": "training.average",
    "Interpretation": "training.interpret",
    "Learner": "training.learner",
    "MixedPrecision": "training.precision",
    "LRCurve": "training.lr_curve",
    "Plan": "training.plan",
    "Prediction": "training.predict",
    "Predictions": "training.predict",
    "SAM": "training.sam",
    "detached": "training.step",
    "supervised_step": "training.step",
    "Batch": "types",
    "MixedTargets": "types",
    "StepOutput": "types",
}

__all__ = [*_MODULES, *_NAMES]  # names, from the tables above


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"etude.{_MODULES[name]}")
    if name in _NAMES:
        return getattr(import_module(f"etude.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'etude' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
