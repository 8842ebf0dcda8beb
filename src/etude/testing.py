"""What a callback must hold, as one function to call in a test: every shipped callback passes it."""

from __future__ import annotations

import json
from collections.abc import Callable as Function
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from etude.data.loaders import ArrayLoader, DataLoaders
from etude.metrics import accuracy
from etude.training import snapshot
from etude.training.callback import Callback
from etude.training.learner import Learner
from etude.types import Batch, StepOutput


def check_callback(make: Function[[], Callback]) -> None:
    """Train a small network with a callback and check the house's promises.

    1. Two runs from the same seed end with the same bits.
    2. A run stopped after an epoch and resumed in new objects ends with the same bits as one never stopped, and so
       does the callback's state.
    3. `config` is JSON, `state_dict` holds numbers, strings, tensors, and lists and dicts of them.
    4. After an error inside the fit no forward hook is left on the model and it can be trained again.

    Args:
        make: returns a new callback each time: `check_callback(lambda: MixUp(0.4))`.

    Raises:
        AssertionError: saying which promise is broken.
    """
    whole, again = make(), make()
    weights = _fit(whole)
    assert same(weights, _fit(again)), f"{_name(whole)}: two runs from the same seed differ"
    json.dumps(whole.config())
    for leaf in tree_leaves(whole.state_dict()):
        plain = leaf is None or isinstance(leaf, bool | int | float | str | Tensor)
        assert plain, f"{_name(whole)}.state_dict holds a {type(leaf).__name__}, which a checkpoint cannot keep"
    taker = _TakeSnapshot(after_epoch=2)
    _fit(make(), taker)
    assert taker.taken is not None, (
        f"{_name(whole)} ended the fit before its second epoch; check it with other settings"
    )
    resumed = make()
    torch.manual_seed(12345)
    assert same(weights, _fit(resumed, _TakeSnapshot(after_epoch=2), resume=taker.taken)), (
        f"{_name(whole)}: a resumed run differs from one that was never stopped"
    )
    assert same(_untimed(whole.state_dict()), _untimed(resumed.state_dict())), (
        f"{_name(whole)}: its state differs after a resume"
    )
    _check_error(make())


def _check_error(callback: Callback) -> None:
    learner = _learner(callback)
    before = {name: len(module._forward_hooks) for name, module in learner.model.named_modules()}
    try:
        learner.fit(1, lr=0.05, callbacks=[_Fail()])
    except _PlantedError:
        pass
    else:
        raise AssertionError("the planted error did not come through")
    after = {name: len(module._forward_hooks) for name, module in learner.model.named_modules()}
    assert before == after, f"{_name(callback)} left forward hooks behind after an error"
    assert not torch.is_autocast_enabled("cpu"), f"{_name(callback)} left autocast on after an error"
    learner.fit(1, lr=0.05)


def _learner(*callbacks: Callback) -> Learner:
    """A small network with a norm and dropout, on 90 samples that can be learnt."""
    torch.manual_seed(0)
    inputs = torch.randn(90, 1, 6, 6)
    targets = inputs.flatten(1)[:, :4].argmax(1)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 4)
    )
    data = DataLoaders(
        ArrayLoader(inputs, targets, batch_size=16, shuffle=True, seed=3),
        ArrayLoader(inputs, targets, batch_size=32),
        seed=3,
    )
    return Learner(
        model,
        data,
        nn.CrossEntropyLoss(),
        torch.optim.AdamW,
        metrics=[accuracy],
        callbacks=callbacks,
        device="cpu",
        progress=False,
    )


def _fit(callback: Callback, *others: Callback, resume: snapshot.Snapshot | None = None) -> dict[str, Any]:
    extra = others or (_TakeSnapshot(after_epoch=0),)
    # before the callback under test: the order must not matter
    learner = _learner(*extra, callback)
    learner.fit(4, lr=0.05, resume=resume)
    return {"model": learner.model.state_dict(), "rows": [_untimed(row) for row in learner.history]}


def _untimed(tree: Any) -> Any:
    """Without what a clock has measured."""
    if isinstance(tree, dict):
        return {name: _untimed(value) for name, value in tree.items() if name != "seconds"}
    return [_untimed(value) for value in tree] if isinstance(tree, list | tuple) else tree


def same(a: Any, b: Any) -> bool:
    """Whether two trees of tensors and numbers are equal bit for bit, tensors included; NaN equals itself."""
    left, right = tree_leaves(a), tree_leaves(b)
    return len(left) == len(right) and all(_equal(x, y) for x, y in zip(left, right, strict=True))


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x.dtype == y.dtype and torch.equal(x, y)
    return bool(x == y) or (isinstance(x, float) and x != x and y != y)


def _name(callback: Callback) -> str:
    return type(callback).__name__


class _PlantedError(Exception):
    pass


@final
class _Fail(Callback):
    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        if learner.progress.fit_step == 2:
            raise _PlantedError


@final
class _TakeSnapshot(Callback):
    def __init__(self, after_epoch: int) -> None:
        self.after_epoch_number = after_epoch
        self.taken: snapshot.Snapshot | None = None

    @override
    def before_fit(self, learner: Learner) -> None:
        learner.running().at_rest.append(lambda after: self._take(learner, after))

    def _take(self, learner: Learner, after: str) -> None:
        if after == "epoch" and learner.progress.fit_epoch == self.after_epoch_number:
            self.taken = snapshot.take(learner)
