"""What makes a fit the fit it is, apart from its state: what a resume compares before it touches anything."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn

from etude.data.loaders import SeekableLoader
from etude.errors import ConfigError
from etude.training.callback import Callback, describe
from etude.training.callbacks.scheduler import Scheduler
from etude.types import HasConfig

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.training.loop import Loop

CHANGES: Final = ("num_epochs", "lr", "callbacks", "precision", "data", "loss", "metrics", "step")
"""What a resume may be told to change, and no more: "lr" is the schedule and every setting of the optimizer, "data"
the preprocessing too, "step" the step function. All else that is compared must be the same. Not compared are what the
model computes (only its weights are), what callables do beyond their names and plain settings, and augmentation."""

_KERNELS: Final = ("fused", "foreach", "capturable", "differentiable")
"""How an optimizer computes, which depends on the device."""


def settings_of(learner: Learner, loop: Loop) -> dict[str, Any]:
    """All that must stay the same, under the names by which a resume may change it where it may."""
    assert learner.precision is not None
    names = {parameter: name for name, parameter in learner.model.named_parameters()}
    callbacks = loop.events.callbacks
    schedules = [callback.config() for callback in callbacks if isinstance(callback, Scheduler)]
    scheduled = {name for schedule in schedules for name in schedule} | set(_KERNELS)
    if "momentum" in scheduled:
        scheduled.add("betas")
    own = {name: value for name, value in plain(loop.optimizer.defaults).items() if name not in scheduled}
    return {
        "phase": learner.progress.phase,
        "accumulate": learner.accumulate,
        "optimizer": type(loop.optimizer).__name__,
        "groups": [[names[parameter] for parameter in group["params"]] for group in loop.optimizer.param_groups],
        "lr": {"schedules": schedules, **own},
        "callbacks": [describe(callback) for callback in callbacks if _is_compared(callback)],
        "precision": learner.precision.name,
        "average": None if learner.average is None else learner.average.config(),
        "data": data_of(learner),
        "loss": told(learner.loss_fn),
        "metrics": list(learner.metrics),
        "step": told(learner.step),
    }


def data_of(learner: Learner) -> dict[str, Any]:
    """What tells the training data of a learner from any other: how it is dealt, where it is from, how it is read."""
    train, preprocess = learner.data.train, learner.data.preprocess
    dealt: dict[str, Any] = {"batches": 0 if train is None else len(train)}
    if isinstance(train, SeekableLoader):
        dealt |= train.sampling.config()
    return {**dealt, "preprocess": None if preprocess is None else told(preprocess), **learner.data.identity}


def _is_compared(callback: Callback) -> bool:
    """Whether a callback decides what is trained; the schedule is compared on its own."""
    return callback.decides_training and not isinstance(callback, Scheduler)


def check(then: Mapping[str, Any], now: Mapping[str, Any], change: Collection[str]) -> None:
    """Refuse other settings than those of the fit that is resumed, unless they are to be changed.

    Raises:
        ConfigError: saying what differs, and how to want that.
    """
    if unknown := sorted(set(change) - set(CHANGES)):
        raise ConfigError(f"{unknown} cannot be changed by a resume; it may change {', '.join(CHANGES)}")
    for name, value in now.items():
        if value == then[name] or name in change:
            continue
        hint = f"; to want that, resume with change=[{name!r}]" if name in CHANGES else ""
        raise ConfigError(
            f"the fit to be resumed {_words(name, then[name], value)}, so the rest of it would be another one{hint}"
        )


def _words(name: str, then: Any, now: Any) -> str:
    """What differs, as short as it can be told."""
    if name in ("data", "lr"):
        different = [part for part in {**then, **now} if then.get(part) != now.get(part)]
        parts = [f"{part}: {_short(then.get(part))} then, {_short(now.get(part))} now" for part in different[:4]]
        what = "on other data" if name == "data" else "with another schedule, or other settings of the optimizer"
        return f"was trained {what} ({'; '.join(parts)})"
    if isinstance(then, list):
        return f"has the {name} {then} and cannot go on with {now}"
    return f"has {name}={then}, this one has {name}={now}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def told(part: Any) -> str:
    """A loss, a step function or a module by its name and its plain settings.

    >>> told(nn.CrossEntropyLoss(label_smoothing=0.1))
    "CrossEntropyLoss(ignore_index=-100, label_smoothing=0.1, reduction='mean')"
    >>> told(partial(nn.functional.cross_entropy, label_smoothing=0.1))
    'cross_entropy(label_smoothing=0.1)'
    """
    if isinstance(part, HasConfig) and not isinstance(part, nn.Module):
        return f"{type(part).__name__}({', '.join(f'{name}={value!r}' for name, value in part.config().items())})"
    if isinstance(part, nn.Module):
        return "; ".join(
            f"{name or type(module).__name__}{'=' + type(module).__name__ if name else ''}({_listed(vars(module))})"
            for name, module in part.named_modules()
        )
    if isinstance(part, partial):
        settings = {**{str(i): value for i, value in enumerate(part.args)}, **part.keywords}
        return f"{told(part.func)}({_listed(settings)})"
    return str(getattr(part, "__qualname__", type(part).__qualname__))


def _listed(settings: Mapping[str, Any]) -> str:
    found = plain(settings)
    return ", ".join(f"{name}={found[name]!r}" for name in sorted(found) if name != "training" and name[0] != "_")


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some settings that are numbers, strings, or tuples and lists of them; a small tensor is its numbers."""
    return {name: value for name, given in settings.items() for value in _plain(given)}


def _plain(value: Any) -> Iterator[Any]:
    """The value itself, or nothing if it is not plain."""
    if isinstance(value, Tensor) and value.ndim == 0:
        yield value.item()
    elif value is None or type(value) in (bool, int, float, str):
        yield value
    elif type(value) in (tuple, list):
        items = [item for one in value for item in _plain(one)]
        if len(items) == len(value):
            yield items


def check_shapes(of: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse weights and buffers of other names, shapes or types.

    Raises:
        ConfigError: naming the first few.
    """
    before, after = _shapes(then), _shapes(now)
    if different := [name for name in {**before, **after} if before.get(name) != after.get(name)]:
        parts = [
            f"{name} is {before.get(name, 'not there')} then, {after.get(name, 'not there')} now" for name in different
        ]
        raise ConfigError(f"the snapshot does not fit this {of}: {'; '.join(parts[:4])}")


def _shapes(state: Mapping[str, Any]) -> dict[str, str]:
    def shape(value: Any) -> str:
        return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else "no tensor"

    return {name: shape(value) for name, value in state.items()}
