"""What a resume compares, what it takes over, and what it refuses, piece by piece."""

from __future__ import annotations

import functools
import json
import shutil
from collections import OrderedDict, defaultdict
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from etude import Callback, Learner, MixUp, Scheduler
from etude.data.loaders import ArrayLoader, DataLoaders
from etude.errors import ConfigError, LoadError
from etude.metrics import EpochMeter
from etude.testing import same
from etude.training import checkpoint
from etude.training.callbacks.checkpoints import Checkpoints
from etude.training.settings import told
from etude.training.snapshot import Snapshot
from etude.training.trees import to_json
from etude.types import Batch, StepOutput

INPUTS = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS[:, 0] > 0).long()


sgd = functools.partial(torch.optim.SGD, lr=0.1)


def hits(preds, targets):
    return (preds.argmax(1) == targets).float().mean()


def make(model: nn.Module | None = None, loss: Any = None, optimizer: Any = None, **options: Any) -> Learner:
    """A small learner, the same each time."""
    torch.manual_seed(1)
    made = model or nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
    train, valid = (ArrayLoader(INPUTS, TARGETS, batch_size=16, shuffle=shuffle) for shuffle in (True, False))
    options = {"data": DataLoaders(train, valid, seed=3), "metrics": [hits], "progress": False} | options
    given = {
        "loss_fn": loss or nn.CrossEntropyLoss(),
        "optimizer": optimizer or sgd,
    }
    return Learner(made, **given, device="cpu", **options)


def two(folder: Path, build, *, place: str = "step-00000006", **fit: Any) -> tuple[Learner, Learner]:
    """A whole fit of two epochs, and one resumed from its sixth of eight steps, or from an epoch's end."""
    whole, again = build(), build()
    whole.fit(2, **fit, callbacks=[Checkpoints(folder / "whole", keep=99, every=3)])
    again.fit(2, **fit, callbacks=[Checkpoints(folder / "again")], resume=folder / "whole" / place)
    return whole, again


def rows(learner: Learner) -> list:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in learner.history]


# -- the optimizer's state --------------------------------------------------------------------------------------------


class Counting(torch.optim.SGD):
    """State that belongs to no parameter, and state that is no dict."""

    def step(self, closure=None):
        own = self.state["global"]
        own["count"] = own.get("count", 0) + 1
        own["mean"] = own.get("mean", torch.zeros(3)) + 1
        for group in self.param_groups:
            group["lr"] = 0.1 / own["count"]
            for parameter in group["params"]:
                self.state[parameter] = [torch.ones(2) * own["count"], {"nested": parameter.detach() * 2}]
        return super().step(closure)


@pytest.mark.parametrize("place", ["step-00000006", "step-00000004-epoch-0001"])
def test_an_optimizers_state_of_any_form_is_kept(place, tmp_path):
    whole, again = two(tmp_path, lambda: make(optimizer=functools.partial(Counting, lr=0.1)), place=place)

    assert same(whole.model.state_dict(), again.model.state_dict())
    assert whole.optimizer.state["global"]["count"] == again.optimizer.state["global"]["count"] == 8
    assert same(whole.optimizer.state_dict(), again.optimizer.state_dict())


# -- metrics of predictions that are more than a tensor ---------------------------------------------------------------


class Output(NamedTuple):
    logits: torch.Tensor
    extra: torch.Tensor


class Named(dict):
    @property
    def logits(self):
        return self["logits"]


class Returns(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.linear, self.kind = nn.Linear(8, 2), kind

    @override
    def forward(self, x):
        logits = self.linear(x)
        return Output(logits, logits) if self.kind == "named tuple" else Named(logits=logits)


@pytest.mark.parametrize("kind", ["named tuple", "dict"])
def test_metrics_may_use_what_predictions_are(kind, tmp_path):
    def build():
        torch.manual_seed(2)
        return make(
            Returns(kind),
            lambda preds, targets: F.cross_entropy(preds.logits, targets),
            metrics={"hits": lambda preds, targets: hits(preds.logits, targets)},
        )

    whole, again = two(tmp_path, build, lr=0.1)
    plain = build()
    plain.fit(2, lr=0.1)

    assert rows(whole) == rows(again) == rows(plain)


def test_a_meter_holds_no_predictions_but_plain_tensors():
    meter = EpochMeter({"hits": lambda preds, targets: hits(getattr(preds, "logits", preds), targets)})
    batch, logits = Batch(INPUTS[:4], TARGETS[:4]), torch.zeros(4, 2)
    for preds, waiting in ((logits, 1), (Output(logits, logits), 0), (logits.as_subclass(nn.Buffer), 0)):
        meter.add(StepOutput(torch.tensor(0.5), preds, batch))
        assert len(meter.state_dict()["block"]) == waiting


def test_what_would_come_back_as_something_else_is_refused():
    class Number(IntEnum):
        ONE = 1

    class Text(str):
        __slots__ = ()

    for value in (Output(torch.ones(1), torch.ones(1)), defaultdict(int), Number.ONE, Text("a"), torch.Size([2])):
        with pytest.raises(ConfigError, match=f"rows/0 is a {type(value).__name__}, which a checkpoint cannot keep"):
            to_json({"rows": [value]}, {})
    with pytest.raises(ConfigError, match="rows/1 is a Number"):
        to_json({"rows": {Number.ONE: 2}}, {})
    assert to_json(OrderedDict(a=1), {}) == {"a": 1}


# -- what is compared -------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path) -> Path:
    """The checkpoints of a fit of two epochs with a schedule."""
    make().fit(2, lr=0.1, callbacks=[Checkpoints(tmp_path / "kept", keep=99, every=3)])
    return tmp_path / "kept"


def other_step(learner, batch):
    from etude.training.step import supervised_step

    return supervised_step(learner, batch)


SMOOTH = nn.CrossEntropyLoss(label_smoothing=0.1)
OTHERS = {
    "loss": (
        {"loss": SMOOTH},
        "loss",
        r"label_smoothing=0.0, .*label_smoothing=0.1",
    ),
    "another function": ({"loss": F.cross_entropy}, "loss", "this one has loss=cross_entropy"),
    "metrics": ({"metrics": {"other": hits}}, "metrics", "cannot go on with"),
    "step": ({"step": other_step}, "step", "step=supervised_step, this one has step=other_step"),
    "decay": (
        {"optimizer": functools.partial(sgd, weight_decay=0.1)},
        "lr",
        "weight_decay: 0 then, 0.1 now",
    ),
    "preprocess": (
        {"data": DataLoaders(ArrayLoader(INPUTS, TARGETS, batch_size=16, shuffle=True), preprocess=nn.LeakyReLU(0.2))},
        "data",
        r"preprocess: None then, 'LeakyReLU\(inplace=False, negative_slope=0.2\)' now",
    ),
    "groups": ({"groups": lambda model: [model[3], model[:3]]}, None, "has the groups"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_fit_is_refused_until_it_is_asked_for(name, kept, tmp_path):
    options, change, words = OTHERS[name]
    start = kept / "step-00000004-epoch-0001"
    with pytest.raises(ConfigError, match=words):
        make(**options).fit(2, lr=0.1, resume=start)
    if change is not None:
        assert len(make(**options).fit(2, lr=0.1, resume=start, change=[change])) == 2


def test_metrics_change_between_epochs_only(kept):
    with pytest.raises(ConfigError, match="metrics can only change between two"):
        make(metrics=[]).fit(2, lr=0.1, resume=kept / "step-00000006", change=["metrics"])


def test_a_loss_that_is_changed_keeps_its_own_state(kept):
    made = make(loss=nn.CrossEntropyLoss(torch.tensor([1.0, 3.0])))
    with pytest.raises(ConfigError, match="does not fit this loss: weight is not there then"):
        made.fit(2, lr=0.1, resume=kept / "step-00000006")
    made.fit(2, lr=0.1, resume=kept / "step-00000006", change=["loss"])
    assert made.loss_fn.weight.tolist() == [1.0, 3.0]


class Hidden(nn.Module):
    """Counts in a buffer that its state dict leaves out."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    @override
    def forward(self, preds, targets):
        if self.training:
            self.seen += 1
        return F.cross_entropy(preds, targets) * (1 + self.seen / 10)


def test_hidden_state_of_a_loss_is_kept(tmp_path):
    whole, again = two(tmp_path, lambda: make(loss=Hidden()), lr=0.1)

    assert whole.loss_fn.seen == again.loss_fn.seen == 8
    assert same(whole.model.state_dict(), again.model.state_dict())


def test_another_rate_is_refused_beside_more_epochs(kept):
    with pytest.raises(ConfigError, match="another schedule"):
        make().fit(4, lr=0.01, resume=kept, change=["num_epochs"])
    assert len(make().fit(4, lr=0.1, resume=kept, change=["num_epochs"])) == 4


def test_a_step_at_another_place_is_another_schedule(tmp_path):
    early, late = (Scheduler({"lr": lambda at, end=end: 0.1 if at < end else 0.01}) for end in (0.45, 0.55))

    assert early.config() != late.config()
    assert early.config()["lr"][0].startswith("0.1 0.1 0.01 0.01 0.01 (")
    assert json.loads(json.dumps(late.config())) == late.config()


def test_a_rate_of_the_optimizers_own_is_changed_when_asked_for(tmp_path):
    make().fit(2, callbacks=[Checkpoints(tmp_path, keep=9)])
    start, other = tmp_path / "step-00000004-epoch-0001", functools.partial(torch.optim.SGD, lr=0.001, weight_decay=0.1)
    with pytest.raises(ConfigError, match=r"lr: 0.1 then, 0.001 now; weight_decay: 0 then, 0.1 now"):
        make(optimizer=other).fit(2, resume=start)
    made = make(optimizer=other)
    made.fit(2, resume=start, change=["lr"])

    assert (made.optimizer.param_groups[0]["lr"], made.optimizer.param_groups[0]["weight_decay"]) == (0.001, 0.1)


def test_a_change_without_a_fit_to_resume_is_refused():
    with pytest.raises(ConfigError, match=r"change=\['lr'\] has no effect without"):
        make().fit(1, lr=0.1, change=["lr"])


def test_parts_are_told_by_name_and_plain_settings():
    assert told(nn.Sequential(nn.ReLU())) == "Sequential(); 0=ReLU(inplace=False)"
    assert told(functools.partial(hits, targets=TARGETS)) == "hits()"
    assert told(MixUp(0.4).transform_batch) == "MixUp.transform_batch"
    assert told(_Called()) == "_Called"


class _Called:
    def __call__(self, preds, targets):
        return preds.sum()


# -- what is read -----------------------------------------------------------------------------------------------------

DAMAGE = {
    "progress": ({}, "progress lacks"),
    "random": ({}, "random/torch is a NoneType, not a Tensor"),
    "optimizer": ({"state": {}, "param_groups": [5]}, "optimizer/param_groups/0 is a int, not a dict"),
    "trainable": (5, "trainable is a int, not a list"),
    "rows": ([{"epoch": "x"}], "rows/0/epoch is a str, not a float"),
    "callbacks": ([["a"]], "callbacks/0 is a list, not a tuple"),
    "seed": ("x", "seed is a str, not a int"),
    "meter": ({"block": []}, "meter/bytes is a NoneType, not a int"),
    "seconds": (None, "seconds is a NoneType, not a float"),
    "other": (1, r"\['other'\], which this version of etude does not know"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_part_of_another_type_is_refused_by_its_name(name, kept):
    value, words = DAMAGE[name]
    state = dict(vars(checkpoint.read(kept / "step-00000006"))) | {name: value}

    with pytest.raises(LoadError, match=words):
        Snapshot.of(state)
    assert Snapshot.of({**vars(checkpoint.read(kept / "step-00000006"))}).seed == 3


def test_a_checkpoint_with_right_digests_and_wrong_types_is_refused(kept, tmp_path):
    place = Path(shutil.copytree(kept / "step-00000006", tmp_path / "step-00000006"))
    state = json.loads((place / "state.json").read_text()) | {"trainable": 5}
    (place / "state.json").write_text(json.dumps(state))
    manifest = json.loads((place / "manifest.json").read_text())
    manifest.pop("sha256")
    manifest["files"]["state.json"] = checkpoint.hashlib.sha256((place / "state.json").read_bytes()).hexdigest()
    (place / "manifest.json").write_text(json.dumps({**manifest, "sha256": checkpoint._digest_of(manifest)}))

    with pytest.raises(LoadError, match="cannot be read: the state's trainable is a int, not a list"):
        make().fit(2, lr=0.1, resume=place)


# -- generators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "said"), [(0, False), (1, True)])
def test_that_kept_workers_are_not_exact_is_said_before_it_matters(workers, said, tmp_path, capsys):
    data = DataLoader(
        TensorDataset(INPUTS, TARGETS), 32, num_workers=workers, persistent_workers=workers > 0, shuffle=True
    )
    make(data=data, progress=True).fit(1, lr=0.1, callbacks=[Checkpoints(tmp_path), _Quiet()])

    assert ("a resumed fit draws other random numbers" in capsys.readouterr().out) == said
    if workers:
        data._iterator._shutdown_workers()


class _Quiet(Callback):
    """Watches nothing."""
