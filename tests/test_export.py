"""Exported models give what the run gives, in places where there is no etude."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import etude
from etude import ConfigError, SaveError, cli, vision
from etude.exports import read_bundle
from etude.exports.export import TEST_PICTURES
from etude.exports.plain import Plain, plain
from etude.exports.read_bundle import Bundle
from etude.recipes.demo import digits
from etude.regression import Numbers, give_numbers
from etude.vision.models import create_model
from etude.vision.preprocess import ImagePreprocess, ImageReader
from exporting import digits_learner, odd_pictures, photos, train, without_etude
from test_docs import DOCS, blocks, save_pictures


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Some pictures in folders of two classes, and a run that was trained on them."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("export")
    photos(place)
    train(place, "run", "--arch lesson_cnn")
    return place


@pytest.fixture(scope="module")
def bundle(place) -> Path:
    assert cli.run_command(["export", str(place / "run"), "--out", str(place / "bundle"), "--quiet"]) == 0
    return place / "bundle"


def test_a_bundle_reads_odd_pictures_as_the_run_does_without_etude(place, bundle, tmp_path):
    _reads_as_the_run(place / "run", bundle, tmp_path)


@pytest.mark.slow
def test_a_bundle_of_a_residual_network_reads_pictures_without_etude(place, tmp_path):
    folder = train(place, "residual", "--arch xresnet18 --blur-pool --stem-stride 1 --squash")
    etude.export(folder, tmp_path / "bundle")
    _reads_as_the_run(folder, tmp_path / "bundle", tmp_path)


def _reads_as_the_run(folder: Path, bundle: Path, tmp_path: Path) -> None:
    pictures = odd_pictures(tmp_path)
    difference, rows = without_etude(bundle, pictures)
    run = etude.load(folder, device="cpu")
    output = run.predict(pictures).output

    assert difference < 1e-5
    for picture, row, expected in zip(pictures, rows, output, strict=True):
        found = torch.tensor([row[label] for label in run.data.vocab])
        assert (found - expected).abs().max() < 1e-5, picture.name
        assert list(row.values()) == sorted(row.values(), reverse=True)
    assert len({round(float(row[0]), 4) for row in output}) > len(pictures) / 2


def test_what_a_bundle_holds(place, bundle):
    about = json.loads((bundle / "bundle.json").read_text(encoding="ascii"))
    run = json.loads((place / "run" / "config.json").read_text(encoding="utf-8"))
    files = {path.name for path in bundle.iterdir()}

    assert files == {*about["files"], "bundle.json"}
    assert files >= {"read_bundle.py", "README.md", "LICENSE", "model.safetensors", "test_vectors.safetensors"}
    assert [name for name in about["files"] if name.endswith(".png")] == [f"test_picture_{i}.png" for i in range(4)]
    assert about["labels"] == ["circle", "square"]
    assert about["data_license"] == "unknown: ask whoever gave the data"
    assert about["model"]["name"] == "lesson_cnn"
    assert about["model"]["layers"] == 5
    assert about["preprocess"]["stored"] == 40
    assert about["origin"]["options"] == run["options"]
    assert about["origin"]["result"]["valid_accuracy"] is not None
    assert about["origin"]["packages"]["torch"]
    assert about["origin"]["command"]
    # it is the average that was validated
    kept = load_file(place / "run" / "model.safetensors")
    for name, tensor in load_file(bundle / "model.safetensors").items():
        assert torch.equal(tensor, kept[name])


def test_the_test_pictures_were_held_out(place, bundle):
    run = etude.load(place / "run", device="cpu")
    held_out = vision.load(place / "photos", valid=0.4, size=32, stored_size=40, progress=False).valid
    stored = {held_out.store[row].numpy().tobytes() for row in held_out.rows.tolist()}
    pictures = [np.asarray(Image.open(bundle / f"test_picture_{i}.png")) for i in range(TEST_PICTURES)]

    assert {picture.tobytes() for picture in pictures} <= stored
    expected = load_file(bundle / "test_vectors.safetensors")["expected"]
    assert torch.allclose(expected[-1], run.predict(bundle / "test_picture_3.png").output, atol=1e-6)


def test_the_reader_is_short_and_imports_no_more_than_it_says():
    source = Path(read_bundle.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert source.count("\n") <= 150
    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "torch", "PIL", "safetensors"}
    assert not {"pickle", "importlib", "subprocess", "socket", "urllib"} & names
    assert not {"eval", "exec", "__import__", "compile"} & {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name)
    }


def _randomized(arch: str, **options: Any) -> nn.Module:
    """A model of which every number matters: a new one's last norms are zeros."""
    model = create_model(arch, **options)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(-0.2, 0.2)
    return model.eval()


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *(("xresnet18", {"activation": name}) for name in ("leaky_relu", "silu", "mish", "gelu")),
    ("xresnet18", {"stem_stride": 1, "channels": 1}),
    ("xresnet18", {"blur_pool": True, "concat_pool": True, "stem_stride": 1}),
    ("xresnet50", {"concat_pool": True, "activation": "mish"}),
    ("lesson_cnn", {"widths": [4, 8, 16]}),
    ("lesson_cnn", {"widths": [5], "stem_stride": 1, "concat_pool": True, "activation": "gelu", "channels": 1}),
]
DEEP: list[tuple[str, dict[str, Any]]] = [
    ("xresnet34", {"blur_pool": True, "channels": 4}),
    ("xresnet50", {"blur_pool": True}),
    ("xresnet101", {}),
    ("xresnet152", {"blur_pool": True, "concat_pool": True}),
]


def _same_as_the_package(arch: str, options: dict[str, Any]) -> None:
    model = _randomized(arch, num_classes=7, **options)
    channels = options.get("channels", 3)
    data = etude.DataLoaders(
        None,
        preprocess=ImagePreprocess(9, [0.5] * channels, [0.3] * channels),
        read=ImageReader(9, channels) if channels in (1, 3) else None,
        channels=channels,
    )
    given = plain(etude.Learner(model, data, nn.CrossEntropyLoss(), torch.optim.SGD)) if channels != 4 else None
    net = given.net if given else {**model.config(), "name": arch}
    weights = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    for size in (9, 40):
        x = torch.randn(2, channels, size, size)
        with torch.no_grad():
            found, expected = read_bundle.run(net, weights, x), model(x)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1), (arch, options, size)


def test_every_architecture_is_what_the_package_builds():
    for arch, options in VARIANTS:
        _same_as_the_package(arch, options)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "options"), DEEP, ids=[arch for arch, _ in DEEP])
def test_deep_architectures_are_what_the_package_builds(arch, options):
    _same_as_the_package(arch, options)


def test_a_flipped_bit_is_found_in_every_file(tmp_path):
    rng, bundle = np.random.default_rng(2), etude.export(digits_learner(), tmp_path / "bundle").folder
    for name in [path.name for path in bundle.iterdir()]:
        for _ in range(8):
            copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
            data = bytearray((copy / name).read_bytes())
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            (copy / name).write_bytes(data)
            with pytest.raises(ValueError, match=str(copy)) as caught:
                Bundle(copy).check()
            assert name in str(caught.value) or name == "bundle.json"
            shutil.rmtree(copy)


@pytest.mark.slow
def test_the_command_of_a_bundle(bundle, tmp_path):
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(bundle / "read_bundle.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    picture = odd_pictures(tmp_path)[0]
    (tmp_path / "no picture.jpg").write_text("words")
    told, checked, failed = call(str(bundle), str(picture)), call(), call(str(bundle), str(tmp_path / "no picture.jpg"))
    best = next(iter(Bundle(bundle).predict(picture).items()))

    assert told.stdout.startswith(f"{picture}  {best[1]:.6f} {best[0]}  ")
    assert "the test vectors come out right" in checked.stdout
    assert failed.returncode == 1
    assert f"{tmp_path / 'no picture.jpg'} cannot be read" in failed.stderr
    assert "File " not in failed.stderr


def test_digits_in_memory_can_be_exported(tmp_path):
    learner = vision.learner("lesson_cnn", digits(), progress=False, precision="fp32", widths=[8, 16], device="cpu")
    learner.fit(1, lr=1e-2)
    done = etude.export(learner, tmp_path / "digits")
    pixels = learner.data.valid.inputs[:20]
    found = Bundle(done.folder).probabilities(pixels)

    assert done.difference < 1e-5
    assert len(done.pictures) == TEST_PICTURES
    assert torch.allclose(found, learner.predict(pixels).output, atol=1e-6)


@pytest.mark.parametrize("form", ["bundle", pytest.param("torch-export", marks=pytest.mark.slow)])
def test_an_average_is_what_is_exported(form, tmp_path):
    data = digits()
    options = {"progress": False, "precision": "fp32", "widths": [8], "device": "cpu"}
    learner = vision.learner("lesson_cnn", data, average=etude.EMA(0.9), **options)
    learner.fit(1, lr=1e-2)
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    etude.export(learner, tmp_path / "out", to=form)
    pixels = data.valid.inputs[:9]
    found = (
        Bundle(tmp_path / "out").probabilities(pixels)
        if form == "bundle"
        else torch.export.load(tmp_path / "out" / "model.pt2").module()(pixels)
    )

    assert torch.allclose(found, learner.predict(pixels).output, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items())


def test_other_outputs_than_one_label(tmp_path):
    """Several labels for each picture, and plain numbers in large units."""
    pixels, names = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8), ["a", "b"]
    data = vision.from_arrays((pixels, torch.arange(12) % 2), (pixels, torch.arange(12) % 2), vocab=names)
    several = vision.learner("lesson_cnn", data, loss_fn=nn.BCEWithLogitsLoss(), progress=False, widths=[8])
    etude.export(several, tmp_path / "several")
    found = Bundle(tmp_path / "several").probabilities(pixels)
    assert torch.allclose(found, several.predict(pixels).output, atol=1e-6)
    assert (found.sum(1) - 1).abs().max() > 1e-3
    numbers = Numbers(("height", "weight"), (1.7e6, -3e5), (9.0, 0.1))
    model = give_numbers(create_model("lesson_cnn", num_classes=2, widths=[8]), numbers)
    learner = vision.learner(model, replace(data, numbers=numbers, vocab=None), loss_fn=nn.MSELoss(), progress=False)
    learner.save(tmp_path / "saved")
    etude.export(tmp_path / "saved", tmp_path / "numbers")
    found = Bundle(tmp_path / "numbers").probabilities(pixels)
    assert torch.allclose(found, learner.predict(pixels).output, rtol=1e-6)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    picture.save(tmp_path / "new.png")
    row = Bundle(tmp_path / "numbers").predict(tmp_path / "new.png")
    assert list(row) == ["height", "weight"]
    assert row["height"] == pytest.approx(1.7e6, abs=100)


class _Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * float(x.sum())


@pytest.mark.usefixtures("without_type_checks")
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(place, bundle, tmp_path, monkeypatch):
    refused = partial(pytest.raises, ConfigError)
    with refused(match="is not an empty folder"):
        etude.export(place / "run", bundle)
    with refused(match=f"there is no folder {tmp_path / 'no' / 'sub'}"):
        etude.export(place / "run", tmp_path / "no" / "sub" / "x")
    with pytest.raises(OSError, match="'/proc/x'"):
        etude.export(digits_learner(), "/proc/x")
    with refused(match="one of bundle, torch-export, onnx, got 'pickle'"):
        etude.export(place / "run", tmp_path / "out", to="pickle")
    own = etude.Learner(_Untraceable(), [(torch.ones(2, 2), torch.ones(2, 2))], nn.MSELoss(), torch.optim.SGD)
    with refused(match="_Untraceable cannot be traced"):
        etude.export(own, tmp_path / "out", to="torch-export")
    for package in ("onnx", "onnxruntime"):
        with monkeypatch.context() as patched, refused(match=r"pip install 'etude\[export\]'"):
            patched.setitem(sys.modules, package, None)
            etude.export(place / "run", tmp_path / "out", to="onnx")
    with monkeypatch.context() as patched:
        expected = Plain.expected
        patched.setattr(Plain, "expected", lambda self, items: expected(self, items) + 2e-5)
        for form in ("bundle", "torch-export"):
            with pytest.raises(SaveError, match="is not kept"):
                etude.export(digits_learner(), tmp_path / "out", to=form)
    assert list(tmp_path.iterdir()) == []
    assert cli.run_command(["export", str(place / "run"), "--test-pictures", "-1"]) == 2


@pytest.mark.slow
def test_the_page_runs_without_etude(tmp_path):
    """What docs/export.md says of a place without etude, done in such a place; test_docs.py runs the rest of it."""
    save_pictures(tmp_path)
    page = DOCS / "export.md"
    code = next(block.text for block in blocks(page) if block.language == "python")
    with contextlib.chdir(tmp_path):
        exec(compile(code, str(page), "exec"), {"__name__": "docs_export"})
    text = page.read_text(encoding="utf-8")
    (commands,) = re.findall(r"<!-- without etude: sh -->\n```text\n(.*?)```", text, flags=re.DOTALL)
    (code,) = re.findall(r"<!-- without etude: python -->\n```text\n(.*?)```", text, flags=re.DOTALL)
    packages = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n"
    for line in commands.splitlines():
        python, file, *arguments = line.split()
        assert python == "python"
        run = f"sys.argv = {[file, *arguments]}; import runpy; runpy.run_path({file!r}, run_name='__main__')"
        done = _isolated(packages + run, tmp_path)
        assert re.search(r"0\.\d{6} \w+|the test vectors come out right", done)
    assert re.search(r"\{'\w+': 0\.\d+.*\}\nCC BY 4.0", _isolated(packages + code, tmp_path))


def _isolated(code: str, place: Path) -> str:
    command = [sys.executable, "-I", "-S", "-B", "-c", code]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_but_random_pixels_where_the_data_is_gone(place, tmp_path):
    moved = Path(shutil.copytree(place / "run", tmp_path / "run"))
    config = json.loads((moved / "config.json").read_text(encoding="utf-8"))
    config["options"]["data"] = "imagewoof2-160"
    (moved / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert cli.run_command(["export", str(moved), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    about = Bundle(tmp_path / "out").about

    assert not [name for name in about["files"] if name.endswith(".png")]
    assert about["data_license"].startswith("pictures from ImageNet: research and education, not commercial use")
