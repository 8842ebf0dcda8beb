"""Write any model as a graph: by torch.export, or as ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from etude.errors import ConfigError, SaveError
from etude.exports.plain import Plain, Whole
from etude.exports.texts import graph_readme
from etude.training.durable import write_tensors, write_text
from etude.training.saving import write_json
from etude.types import Json

PT2: Final = "model.pt2"
ONNX: Final = "model.onnx"
TOLERANCE: Final = 1e-5


def check_onnx() -> None:
    """Refuse ONNX where its packages are not installed; raises `ConfigError`."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(package)
        except ImportError as error:
            raise ConfigError(f"ONNX needs packages of its own: pip install 'etude[export]' ({error})") from error


def write_graph(given: Plain, folder: Path, file: str, *, license: str, origin: dict[str, Json]) -> None:
    """Write a graph and what one needs to know of it into an empty folder.

    Args:
        given: what is exported.
        folder: new and empty.
        file: `PT2` or `ONNX`.
        license: of the data.
        origin: where the model comes from.

    Raises:
        ConfigError: the model cannot be traced.
    """
    whole, inputs = Whole(given).eval(), given.inputs
    # an example of one sample would make a graph of one sample
    example = inputs if len(inputs) > 1 else torch.cat([inputs, inputs])
    try:
        with _quiet(), torch.no_grad():
            (_write_pt2 if file == PT2 else _write_onnx)(whole, example, folder / file)
    # each of the tracers has errors of its own, of no common kind
    except Exception as error:
        name, first = type(given.learner.model).__name__, (str(error).strip() or repr(error)).splitlines()[0]
        raise ConfigError(f"{name} cannot be traced: {type(error).__name__}: {first:.300}") from error
    write_tensors({"inputs": inputs, "expected": given.expected(inputs)}, folder / "test_vectors.safetensors")
    write_json(folder / "labels.json", list(given.labels) if given.labels is not None else None)
    about = {"dtype": str(inputs.dtype).removeprefix("torch."), "shape": ["batch", *inputs.shape[1:]]}
    write_json(
        folder / "preprocess.json",
        {
            "inputs": about,
            "outputs": given.outputs,
            "picture": given.preprocess,
            "data_license": license,
            "origin": origin,
        },
    )
    write_text(graph_readme(given, file, license), folder / "README.md")


def _write_pt2(whole: Whole, example: Tensor, path: Path) -> None:
    program = torch.export.export(whole, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)


def _write_onnx(whole: Whole, example: Tensor, path: Path) -> None:
    torch.onnx.export(
        whole,
        (example,),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["inputs"],
        output_names=["outputs"],
        external_data=False,
        verbose=False,
    )


def check_written(given: Plain, folder: Path, file: str) -> float:
    """Load a graph anew and say how far it is from what the model gives, for a whole batch and for one sample.

    Raises:
        SaveError: it is further than 1e-5.
    """
    inputs, expected = given.inputs, given.expected(given.inputs)
    with _quiet():
        call = _loaded(folder / file)
        worst = max(_difference(call(inputs[:count]), expected[:count]) for count in (len(inputs), 1))
    # what is no number is no small difference
    if not worst <= TOLERANCE:
        raise SaveError(f"{file} gives other numbers than the model, by {worst:.1e}, and is not kept")
    return worst


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest one; relative to numbers that are larger than 1, as no probability is."""
    return float(((found - expected).abs() / expected.abs().clamp(min=1)).max())


def _loaded(path: Path) -> Callable[[Tensor], Tensor]:
    if path.name == PT2:
        module: Any = torch.export.load(path).module()
        return lambda inputs: module(inputs).detach()
    runtime: Any = import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps from the user what the tracers say of packages that no exported model needs."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
