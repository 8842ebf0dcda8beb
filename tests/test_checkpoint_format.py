"""What a checkpoint can hold, and that older formats are read."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpointing import names
from etude.errors import ConfigError, LoadError
from etude.testing import same
from etude.training import checkpoint
from etude.training.trees import from_json, to_json

HERE = Path(__file__).parent
OLD = HERE / "data" / "checkpoint-format-1"
EXPECTED = {
    "progress": {
        "epoch": 1,
        "step": 6,
        "batch": 6,
        "num_epochs": 2,
        "steps_per_epoch": 4,
        "fit_epoch": 1,
        "fit_step": 6,
        "epoch_batch": 2,
        "phase": 0,
    },
    "names": ["Scheduler", "MixUp", "SaveBest", "Checkpoints", "Stop"],
    "weight": -3.1888484954833984e-05,
    "momentum": 0.00013246232992969453,
    "loss": 1.5976634919643402,
}
"""What the committed checkpoint holds. Where it is no longer so, the format has changed: raise its number, and add to
`UPGRADES`."""
FIELDS = """
average callbacks earlier_notes earlier_rows generators loss meter model notes optimizer precision progress random rows
seconds seed settings train_results trainable
"""

# -- formats ----------------------------------------------------------------------------------------------------------


def _beside(name: str):
    spec = importlib.util.spec_from_file_location(name, HERE / "data" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_first_format_stays_readable():
    snapshot = checkpoint.read_newest(OLD)

    assert sorted(asdict(snapshot)) == FIELDS.split()
    assert snapshot.progress == EXPECTED["progress"]
    assert [name.partition("(")[0] for name, _ in snapshot.callbacks] == EXPECTED["names"]
    assert snapshot.model["0.weight"].sum().item() == EXPECTED["weight"]
    assert snapshot.optimizer["state"][0]["momentum_buffer"].sum().item() == EXPECTED["momentum"]
    assert snapshot.rows[0]["train_loss"] == EXPECTED["loss"]
    assert snapshot.settings["data"]["batch_size"] == 4
    assert sum(path.stat().st_size for path in OLD.rglob("*") if path.is_file()) < 40_000


def test_the_first_format_can_be_gone_on_with(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    data = _beside("write_checkpoint")
    resumed = data.learner(tmp_path / "old")
    resumed.fit(2, lr=0.1, callbacks=[data.Stop()], resume=tmp_path / "old")
    whole = data.learner(tmp_path / "new")
    whole.fit(2, lr=0.1)

    assert names(tmp_path / "old") == ["step-00000008-epoch-0002"]
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(value, resumed.model.state_dict()[name], atol=1e-5), name


def _with_manifest(place: Path, **changes) -> None:
    """Write a checkpoint's manifest by hand, with the right digest."""
    manifest = json.loads((place / "manifest.json").read_text()) | changes
    manifest.pop("sha256")
    (place / "manifest.json").write_text(json.dumps({**manifest, "sha256": checkpoint._digest_of(manifest)}))


def test_a_newer_format_is_refused(tmp_path):
    place = Path(shutil.copytree(OLD, tmp_path / "old")) / "step-00000006"
    _with_manifest(place, format=3)
    with pytest.raises(LoadError, match=r"has format 3, this version of etude reads up to 2; a newer one wrote it"):
        checkpoint.read_newest(place)


def test_an_older_format_is_brought_up(tmp_path, monkeypatch):
    place = Path(shutil.copytree(OLD, tmp_path / "old")) / "step-00000006"
    state = json.loads((place / "state.json").read_text())
    state["generator_states"] = state.pop("generators")
    (place / "state.json").write_text(json.dumps(state))
    files = json.loads((place / "manifest.json").read_text())["files"]
    files["state.json"] = checkpoint.hashlib.sha256((place / "state.json").read_bytes()).hexdigest()
    for number in (0, -3):
        _with_manifest(place, format=number, files=files)
        with pytest.raises(LoadError, match=f"has format {number}, which this version of etude cannot read"):
            checkpoint.read(place)
    _with_manifest(place, format=0, files=files)
    upgrade = {0: lambda state: {"generators": state.pop("generator_states"), **state}}
    monkeypatch.setattr(checkpoint, "UPGRADES", {**checkpoint.UPGRADES, **upgrade})

    assert same(asdict(checkpoint.read(place)), asdict(checkpoint.read_newest(OLD)))


# -- values -----------------------------------------------------------------------------------------------------------

VALUES = {
    "tuples": (1, (2.5, ()), [None, True]),
    "other keys": {0: "a", "0": "b", (1, 2): {}, None: 3, "$tensor": "x", "plain": {"$": 1}},
    "numbers": [math.nan, math.inf, -math.inf, -0.0, 1e300, 2**70, float(np.float64(0.1))],
    "numpy's own": [np.float64("nan"), np.float64("inf"), np.float64(0.1)],
    "text": ["", "\udcff", "é\n\0", "$float"],
    "tensors": {
        "bf16": torch.tensor([1.5, math.inf], dtype=torch.bfloat16),
        "none": torch.empty(0, 3),
        "0-dim": torch.tensor(7),
        "bools": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "half": torch.ones(2, dtype=torch.float16),
        "strided": torch.arange(6.0).reshape(2, 3).T,
    },
    "places of one name": {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, 0: torch.zeros(2), "0": torch.ones(2)},
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_come_back(kind):
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(to_json(VALUES[kind], tensors), allow_nan=False)
    back = from_json(json.loads(text), checkpoint.safetensors.torch.load(_saved(tensors)))

    assert same(VALUES[kind], back)
    assert repr(back).replace("'", "") == repr(_plain(VALUES[kind])).replace("'", "")


def _saved(tensors: dict[str, torch.Tensor]) -> bytes:
    return checkpoint.safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return float(value) if isinstance(value, float) else value


def test_what_cannot_be_kept_is_named():
    for value in ({1}, object(), np.zeros(2), b"bytes", sys):
        with pytest.raises(ConfigError, match=r"callbacks/0/state is a"):
            to_json({"callbacks": [{"state": value}]}, {})
