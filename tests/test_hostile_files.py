"""Files from a stranger: every way to open a model refuses them, and nothing else comes of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import etude
import hostile
from etude import cli, vision
from etude.errors import EtudeError
from etude.exports.read_bundle import Bundle
from etude.training import checkpoint
from hostile_values import BUNDLE, SAVED

WIDTHS = [4, 8]
LABELS = ["a", "b", "c"]
PIXELS = torch.arange(12 * 64, dtype=torch.uint8).view(12, 1, 8, 8)


def digits() -> etude.DataLoaders:
    pair = PIXELS, torch.arange(12) % 3
    return vision.from_arrays(pair, pair, vocab=LABELS, batch_size=4)


def untrained() -> etude.Learner:
    return vision.learner("lesson_cnn", digits(), progress=False, precision="fp32", widths=WIDTHS, device="cpu")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, Path]:
    """A saved model, a checkpoint and a bundle of the same small network."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("good")
    learner = untrained()
    learner.fit(1, lr=1e-3, callbacks=[etude.Checkpoints(place / "checkpoints")])
    learner.save(place / "saved")
    etude.export(learner, place / "bundle")
    kept = checkpoint.checkpoints(place / "checkpoints")[0]
    found = {"saved": place / "saved", "checkpoint": kept, "bundle": place / "bundle"}
    for kind, folder in found.items():
        # what opening a good one imports, and that it is one
        for call in OPENERS[kind].values():
            call(folder)
            shutil.rmtree(folder.parent / "out", ignore_errors=True)
    # what makes the files may import what it likes
    hostile.anything(), hostile.of_tensors()
    return found


def _export(folder: Path) -> None:
    etude.export(folder, folder.parent / "out")


def _finetune(folder: Path) -> None:
    vision.learner(str(folder), digits(), progress=False)


def _resume(folder: Path) -> None:
    checkpoint.verify(folder)
    untrained().fit(1, lr=1e-3, resume=folder)


def _read_file(folder: Path) -> None:
    vision.learner("lesson_cnn", digits(), pretrained=str(folder / "model.safetensors"), progress=False, widths=WIDTHS)


OPENERS: dict[str, dict[str, Callable[[Path], Any]]] = {
    "saved": {"load": etude.load, "export": _export, "finetune": _finetune},
    "checkpoint": {"load": etude.load, "resume": _resume, "export": _export, "finetune": _finetune},
    "bundle": {"read": lambda folder: Bundle(folder).check()},
}


NOT_OF_THE_BODY = tuple(
    f"model.json: {name}" for name in ("read", "vocab", "probabilities", "numbers", "channels", "preprocess.size = 9")
)


def _forge(kind: str, folder: Path, name: str) -> None:
    """Make the digests right again, as a stranger can."""
    path = folder / name
    if not path.is_file() or path.is_symlink() or path.stat().st_size > 1 << 26:
        return
    digest = checkpoint.hashlib.sha256(path.read_bytes()).hexdigest()
    if kind == "saved" and name == "model.safetensors":
        hostile.edit(lambda found: found.update(weights_sha256=digest))(folder / "model.json")
    if kind == "checkpoint" and name != "manifest.json":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest.pop("sha256")
        manifest["files"][name] = digest
        (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": checkpoint._digest_of(manifest)}))
    if kind == "bundle" and name == "bundle.json":
        _forge_text(path)
    elif kind == "bundle":
        hostile.edit(lambda found: found["files"].update({name: digest}))(folder / "bundle.json")
        _forge_text(folder / "bundle.json")


def _forge_text(path: Path) -> None:
    """Put the digest of what it says into the text of a bundle.json, whatever else is odd in it."""
    try:
        text = path.read_text(encoding="utf-8")
        about = json.loads(text)
        digest = checkpoint.hashlib.sha256(json.dumps({**about, "sha256": ""}).encode()).hexdigest()
        if text == json.dumps(about):
            text = json.dumps(about, indent=1)
        path.write_text(text.replace(about["sha256"], digest), encoding="utf-8")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return


def _refused(kind: str, folder: Path, openers: dict[str, Callable[[Path], Any]], what: str) -> list[str]:
    """What of it was not refused as it should be, in words."""
    wrong: list[str] = []
    for opener, call in openers.items():
        # only what it uses of a description is judged: the body, and how its pictures were normalized
        if opener == "finetune" and what.startswith(NOT_OF_THE_BODY):
            continue
        try:
            call(folder)
        except Exception as error:
            if not isinstance(error, ValueError if kind == "bundle" else EtudeError):
                wrong.append(f"{what}, {opener}: {type(error).__name__}: {str(error)[:200]}")
            # a snapshot may also be one in memory
            elif str(folder) not in str(error) and "the snapshot does not fit" not in str(error):
                wrong.append(f"{what}, {opener}: does not name it: {error}")
        else:
            wrong.append(f"{what}, {opener}: not refused")
    return wrong


def _try_all(
    kind: str, name: str, harms: dict[str, hostile.Harm], source: Path, place: Path, *, forge: bool = True
) -> list[str]:
    """Every harm to one file of a folder, with right digests where a stranger can make them."""
    wrong: list[str] = []
    for what, harm in harms.items():
        folder = place / source.name
        shutil.copytree(source, folder)
        harm(folder / name)
        if forge:
            _forge(kind, folder, name)
        before = set(place.rglob("*"))
        # what is wrong with the weights of a bundle is found when it is opened, not only by its test
        openers = {"open": Bundle} if (kind, name) == ("bundle", "model.safetensors") else OPENERS[kind]
        wrong += _refused(kind, folder, openers, f"{name}: {what}")
        wrong += [f"{name}: {what}: left {path}" for path in set(place.rglob("*")) - before]
        shutil.rmtree(folder)
    return wrong


def nothing(wrong: list[str]) -> None:
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.fixture
def watched(good, tmp_path, monkeypatch):
    """A folder of its own in which nothing may be left, and no module may have been imported."""
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    place = tmp_path / "place"
    place.mkdir()
    yield place
    assert {name for name in set(sys.modules) - modules if not name.startswith("encodings.")} == set()
    assert not list(tmp_path.rglob(hostile.WITNESS))


LARGE = {"a hundred thousand tensors", "digits", "a gigabyte of digits", "empty lists", "empty objects"}
"""Harms that take long to make or to read."""
HOW_MANY = pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["few", "all"])


def _some(harms: dict[str, hostile.Harm], first: int, *, few: bool) -> dict[str, hostile.Harm]:
    """All of them; or few, every third of those that do not take long."""
    quick = [what for what in harms if what not in LARGE]
    return {what: harms[what] for what in quick[first::3]} if few else harms


SLOWER = [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "bundle"), id=kind) for kind in OPENERS]


@HOW_MANY
@pytest.mark.parametrize("kind", SLOWER)
@pytest.mark.usefixtures("without_type_checks")
def test_weights_are_refused(kind, few, good, watched):
    harms = _some(hostile.anything() | hostile.of_tensors(), 0, few=few)

    nothing(_try_all(kind, "model.safetensors", harms, good[kind], watched))


@HOW_MANY
@pytest.mark.parametrize(
    ("kind", "name"), [("saved", "model.json"), ("checkpoint", "manifest.json"), ("bundle", "bundle.json")]
)
@pytest.mark.usefixtures("without_type_checks")
def test_descriptions_are_refused(kind, name, few, good, watched):
    # each of the few is tried on one of the kinds
    harms = _some(hostile.anything() | hostile.of_json(), list(OPENERS).index(kind), few=few)

    nothing(_try_all(kind, name, harms, good[kind], watched, forge=kind == "bundle"))


@HOW_MANY
@pytest.mark.parametrize(
    ("kind", "name", "places"), [("saved", "model.json", SAVED), ("bundle", "bundle.json", BUNDLE)]
)
@pytest.mark.usefixtures("without_type_checks")
def test_values_are_refused(kind, name, places, few, good, watched):
    harms = {
        f"{'.'.join(place)} = {str(value)[:40] if value != 10**400 else 'huge'}": hostile.setting(place, value)
        for place, values in places.items()
        for value in values
    }

    nothing(_try_all(kind, name, _some(harms, 0, few=few), good[kind], watched))


@HOW_MANY
@pytest.mark.usefixtures("without_type_checks")
def test_other_folders_and_files_are_refused(few, good, watched, capsys):
    sharded = watched / "sharded"
    sharded.mkdir()
    for name in (".metadata", "__0_0.distcp"):
        hostile.anything()["a pickle"](sharded / name)
    file = watched / "weights.safetensors"
    others = (good["bundle"], good["saved"] / "model.json", watched / "nowhere", Path("\0"), Path("/dev/zero"))
    for path in (sharded, *others):
        for call in OPENERS["saved"].values():
            with pytest.raises(EtudeError):
                call(path)
    with pytest.raises(etude.LoadError, match=r"torch\.distributed\.checkpoint, whose files can hold code"):
        etude.load(sharded)
    harms = _some(hostile.anything() | hostile.of_tensors(), 1, few=few)
    # what is not of the body is told of and not used; what a link leads to is the user's own choice
    for what in set(harms) - {"a tensor more", "a tensor less", "a link out"}:
        shutil.copy(good["saved"] / "model.safetensors", file)
        harms[what](file)
        command = f"finetune {watched} --from {file} --arch lesson_cnn --run-dir {watched / 'run'}"
        assert cli.run_command(command.split()) in (1, 2), what
        shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
    assert not (watched / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
def test_a_run_that_is_exported_is_read_with_care(good, watched):
    """Beside the model stand the run's own files, of which export says what can be read."""
    for what, harm in (hostile.anything() | hostile.of_json()).items():
        folder = watched / "run"
        shutil.copytree(good["saved"], folder)
        (folder / "config.json").write_text('{"options": {}, "training": {}}')
        harm(folder / "config.json")
        done = etude.export(folder, watched / "out")
        assert Bundle(watched / "out").check() == done.difference, what
        assert "none of your business" not in (watched / "out" / "bundle.json").read_text()
        shutil.rmtree(folder), shutil.rmtree(watched / "out")


def test_a_changed_byte_of_saved_weights_is_found(good, tmp_path):
    folder = Path(shutil.copytree(good["saved"], tmp_path / "saved"))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(etude.LoadError, match=r"model\.safetensors is damaged: it is not what was written \(SHA-256\)"):
        etude.load(folder)
    # as an older version wrote it
    hostile.edit(lambda found: found.pop("weights_sha256") and None)(folder / "model.json")
    etude.load(folder)


def test_a_file_that_a_finished_run_has_lost(good, tmp_path):
    folder = Path(shutil.copytree(good["saved"], tmp_path / "run"))
    kept = Path(shutil.copytree(good["checkpoint"], folder / "checkpoints" / good["checkpoint"].name))
    (folder / "model.json").unlink()
    with pytest.raises(etude.LoadError, match="was stopped before its end"):
        etude.load(folder)
    (folder / "result.json").write_text("{}")
    with pytest.raises(etude.LoadError, match=f"model.json is missing, though its run has ended.*{kept}"):
        etude.load(folder)


@pytest.mark.usefixtures("without_type_checks")
def test_weights_that_are_no_numbers_load_and_are_not_exported(good, tmp_path):
    folder = Path(shutil.copytree(good["saved"], tmp_path / "saved"))
    hostile.tensors(lambda found: found["4.bias"].fill_(float("nan")))(folder / "model.safetensors")
    _forge("saved", folder, "model.safetensors")

    assert etude.load(folder).predict(PIXELS).output.isnan().all()
    for form in ("bundle", "torch-export"):
        with pytest.raises(etude.SaveError, match="is not kept"):
            etude.export(folder, tmp_path / "out", to=form)


BOMBS = ("sparse", "a terabyte of holes", "petabytes", "half a million tensors", "thirty thousand tensors")
TEXT_BOMBS = ("sparse", "a gigabyte of digits", "digits", "empty lists", "empty objects", "deep lists")
ROOM = 128 << 20
"""Bytes that opening may take beyond twice the file: what its objects cost in Python."""


@pytest.mark.slow
def test_opening_takes_at_most_twice_the_file(good, tmp_path):
    """Each in a process of its own, whose peak is compared with that of a good file."""
    for kind, folder in good.items():
        bombs = hostile.anything() | hostile.of_tensors() | hostile.of_json() | hostile.bombs()
        description = "model.json" if kind == "saved" else "manifest.json" if kind == "checkpoint" else "bundle.json"
        cases = [("model.safetensors", what) for what in BOMBS] + [(description, what) for what in TEXT_BOMBS]
        for i, (name, what) in enumerate(cases):
            shutil.copytree(folder, tmp_path / kind / str(i) / folder.name)
            bombs[what](tmp_path / kind / str(i) / folder.name / name)
            if what != "sparse":
                _forge(kind, tmp_path / kind / str(i) / folder.name, name)
        script = Path(hostile.__file__).with_name("peak.py")
        folders = [str(folder), *(str(tmp_path / kind / str(i) / folder.name) for i in range(len(cases)))]
        command = [sys.executable, str(script), kind, *folders]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        peaks = json.loads(done.stdout)
        for (name, what), path, peak in zip(cases, folders[1:], peaks[1:], strict=True):
            size = (Path(path) / name).stat().st_blocks * 512
            assert peak["refused"], (kind, name, what)
            assert peak["bytes"] - peaks[0]["bytes"] < 2 * size + ROOM, (kind, name, what, peak, size)
