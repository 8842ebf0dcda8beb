"""Two hundred ways to damage a checkpoint, all found; hostile files, which name no code and reach no other file."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch

from checkpointing import FILES, fitted
from etude.errors import LoadError
from etude.training import checkpoint
from etude.training.trees import from_json

NEWEST = ("step-00000009-epoch-0003", "step-00000009", "step-00000008")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three checkpoints of one run."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    torch.set_num_threads(1)
    fitted(folder, keep=3, best=None, every=1)
    return folder


def _cut(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _flip(data: bytes, rng: random.Random, other: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _swap(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return other


def _grow(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data + bytes(rng.randrange(1, 99))


def _empty(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return b""


def _remove(data: bytes, rng: random.Random, other: bytes) -> None:
    return None


HARMS = {_cut: 12, _flip: 20, _swap: 1, _grow: 5, _empty: 1, _remove: 1}
CASES = [(harm, name, i) for harm, count in HARMS.items() for name in FILES for i in range(count)]


def _refused(place: Path, name: str) -> None:
    for read in (checkpoint.verify, checkpoint.read):
        with pytest.raises(LoadError) as caught:
            read(place)
        assert str(place) in str(caught.value)
        assert name in str(caught.value)


def test_every_damage_is_found_and_named(folder):
    assert len(CASES) == 200
    rng = random.Random(0)
    for harm, name, _ in CASES:
        place, other = folder / NEWEST[0], folder / NEWEST[2] / name
        whole = (place / name).read_bytes()
        harmed = harm(whole, rng, other.read_bytes())
        if harmed == whole:  # model.json is the same in all of a run
            assert (harm, name) == (_swap, "model.json")
            continue
        if harmed is None:
            (place / name).unlink()
        else:
            (place / name).write_bytes(harmed)
        # a whole manifest of another checkpoint is whole: what it does not fit are the files
        _refused(place, "safetensors" if (harm, name) == (_swap, "manifest.json") else name)
        (place / name).write_bytes(whole)
    checkpoint.verify(folder / NEWEST[0])


def test_files_that_were_added_or_are_none(folder, tmp_path):
    place = Path(shutil.copytree(folder / NEWEST[0], tmp_path / NEWEST[0]))
    for name in (".DS_Store", "Thumbs.db"):
        (place / name).write_text("a system's own")
    checkpoint.verify(place)
    for name in ("extra.py", "model.pt"):
        (place / name).write_text("")
        _refused(place, name)
        (place / name).unlink()
    (place / "state.json").unlink()
    (place / "state.json").mkdir()
    _refused(place, "state.json")


def test_a_manifest_edited_by_hand(folder, tmp_path):
    place = Path(shutil.copytree(folder / NEWEST[0], tmp_path / NEWEST[0]))
    manifest = json.loads((place / "manifest.json").read_text())
    edits = [
        {"step": 8},
        {"sha256": "0" * 64},
        {"files": {}},
        {"files": list(manifest["files"])},
        {"files": {**manifest["files"], "../../outside": "0"}},
        {"format": "1"},
        {"format": None},
        {"format": 0.5},
        {"format": -(10**12)},
    ]
    for right_digest in (False, True):
        for edit in edits:
            changed = manifest | edit
            if right_digest and "sha256" not in edit:
                changed.pop("sha256")
                changed["sha256"] = checkpoint._digest_of(changed)
            if right_digest and edit == {"step": 8}:
                continue  # that is what the digest is for
            (place / "manifest.json").write_text(json.dumps(changed))
            _refused(place, "format" if right_digest and edit == {"format": -(10**12)} else "manifest.json")
    for text in ("[]", "3", "null", "{" * 50_000, "[" * 50_000, '{"a": ' * 50_000, "\0"):
        (place / "manifest.json").write_text(text)
        _refused(place, "manifest.json")


def test_damaged_ones_are_passed_over_and_told(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "run" / "checkpoints"))
    for i, name in enumerate(NEWEST):
        said: list[str] = []
        newest = checkpoint.read_newest(copy.parent, say=said.append)
        assert newest.progress["step"] == (9, 9, 8)[i]
        assert (newest.meter is None) == (i == 0)
        assert len(said) == i
        assert all("state.json is not what was written" in line for line in said)
        assert all(line.endswith("trying the one before it") for line in said)
        (copy / name / "state.json").write_text("{}")
    with pytest.raises(LoadError, match="none of the 3 checkpoints in"):
        checkpoint.read_newest(copy.parent, say=said.append)
    with pytest.raises(LoadError, match="holds no checkpoint"):
        checkpoint.read_newest(tmp_path / "nowhere")
    with pytest.raises(LoadError, match=r"state\.json is not what"):
        checkpoint.read_newest(copy / NEWEST[0])


# -- hostile files: their digests are right ---------------------------------------------------------------------------


def _forge(place: Path, name: str, data: bytes) -> None:
    (place / name).write_bytes(data)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest.pop("sha256")
    manifest["files"][name] = checkpoint.hashlib.sha256(data).hexdigest()
    (place / "manifest.json").write_text(json.dumps({**manifest, "sha256": checkpoint._digest_of(manifest)}))


class _Evil:
    def __reduce__(self):
        return exec, ("import this; open('/tmp/etude-was-here', 'w').close()",)


def _bomb(shape: list[int], end: int) -> bytes:
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"1234"


HOSTILE = {
    "model.safetensors": [
        *(pickle.dumps(_Evil()), b"", b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}"),
        *(_bomb([2**40], 2**42), _bomb([2**62, 4], 4), _bomb([2**40], 4), _bomb([1], 2**63 - 1), _bomb([0], 4)),
    ],
    "state.json": [
        *(b"null", b"[]", b"7", b'"model"', b"{}", b'{"$tuple": []}', b"[" * 100_000, b'{"a":' * 100_000),
        *(b'{"$import": "this"}', b'{"model": {"$object": ["os.system", "ls"]}}', b'{"model": {"$tensor": "/none"}}'),
        *(b"\x80\x04N.", pickle.dumps(_Evil()), b'{"weights": [[]], "model": {}}', b"1" * 10_000),
    ],
}
HOSTILE["state.safetensors"] = HOSTILE["model.safetensors"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_name_no_code(name, folder, tmp_path):
    place = Path(shutil.copytree(folder / NEWEST[0], tmp_path / NEWEST[0]))
    modules = set(sys.modules)
    for data in HOSTILE[name]:
        _forge(place, name, data)
        with pytest.raises(LoadError, match="cannot be read"):
            checkpoint.read(place)
    assert set(sys.modules) == modules
    assert not Path("/tmp/etude-was-here").exists()
    assert {path.name for path in tmp_path.rglob("*")} == {NEWEST[0], *FILES}


@pytest.mark.parametrize(
    "json",
    [
        {"$import": "os"},
        {"$tensor": "/not/there"},
        {"$tensor": 3},
        {"$tensor": []},
        {"$float": "1e5"},
        {"$float": []},
        {"$tuple": "text"},
        {"$tuple": 5},
        {"$tuple": {"a": 1}},
        {"$dict": {"ab": 1}},
        {"$dict": ["ab"]},
        {"$dict": [[[], 1]]},
        {"$dict": [[1, 2, 3]]},
        {"$dict": 1},
        {"$tuple": [], "$dict": []},
        {"$tuple": [], "more": 1},
        {"$": 1},
    ],
    ids=str,
)
def test_forms_that_are_never_written_are_refused(json):
    for nested in (json, [json], {"a": {"b": (json)}}, {"$tuple": [json]}):
        with pytest.raises(LoadError, match="the state holds"):
            from_json(nested, {})


def test_nesting_without_end_is_refused():
    nested: object = 1
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(LoadError, match="nested deeper"):
        from_json(nested, {})
