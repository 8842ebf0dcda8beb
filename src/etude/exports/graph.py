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
from torch import Tensor, nn

from etude.errors import ConfigError, SaveError
from etude.exports.plain import Plain, Whole
from etude.exports.texts import graph_readme
from etude.training.durable import write_tensors, write_text
from etude.training.saving import write_json
from etude.types import Json

PT2: Final = "model.pt2"
ONNX: Final = "model.onnx"
TOLERANCE: Final = 1e-5
_TEXTS: Final = "tokens"
"""The input that is as long as the longest text of a batch."""


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
    whole, inputs = _whole(given), given.inputs
    # an example of one sample would make a graph of one sample
    example = {name: one if len(one) > 1 else torch.cat([one, one]) for name, one in inputs.items()}
    try:
        with _quiet(), torch.no_grad():
            (_write_pt2 if file == PT2 else _write_onnx)(whole, example, folder / file)
    # each of the tracers has errors of its own, of no common kind
    except Exception as error:
        name, first = type(given.learner.model).__name__, (str(error).strip() or repr(error)).splitlines()[0]
        raise ConfigError(f"{name} cannot be traced: {type(error).__name__}: {first:.300}") from error
    write_tensors({**inputs, "expected": given.expected(inputs)}, folder / "test_vectors.safetensors")
    write_json(folder / "labels.json", list(given.labels) if given.labels is not None else None)
    if given.tokens is not None:
        write_json(folder / "vocab.json", list(given.tokens))
    about = {
        name: {"dtype": str(one.dtype).removeprefix("torch."), "shape": ["batch", *_sides(name, one)]}
        for name, one in inputs.items()
    }
    write_json(
        folder / "preprocess.json",
        {
            "inputs": about.get("inputs", about),
            "outputs": given.outputs,
            "picture" if given.tokens is None else "text": given.preprocess,
            "data_license": license,
            "origin": origin,
        },
    )
    write_text(graph_readme(given, file, license), folder / "README.md")


def _whole(given: Plain) -> nn.Module:
    """The model, and what is inside the graph around it."""
    if given.tokens is None:
        return Whole(given).eval()
    # its module loads a part of torch that nothing else needs
    from etude.exports.text_graph import WholeText

    return WholeText(given).eval()


def _sides(name: str, inputs: Tensor) -> list[Json]:
    """The sides of an input but the first, those that are free by their names."""
    return ["time"] if name == _TEXTS else list(inputs.shape[1:])


def _free(inputs: dict[str, Tensor]) -> tuple[dict[int, Any], ...]:
    """The sides of each input that may be of any size: the batch, and the time of texts."""
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    return tuple({0: batch, 1: time} if name == _TEXTS else {0: batch} for name in inputs)


def _write_pt2(whole: nn.Module, example: dict[str, Tensor], path: Path) -> None:
    program = torch.export.export(whole, tuple(example.values()), dynamic_shapes=_free(example))
    torch.export.save(program, path)


def _write_onnx(whole: nn.Module, example: dict[str, Tensor], path: Path) -> None:
    torch.onnx.export(
        whole,
        tuple(example.values()),
        path,
        dynamo=True,
        dynamic_shapes=_free(example),
        input_names=list(example),
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
        worst = max(_difference(call(inputs), expected), _difference(call(_first(inputs)), expected[:1]))
    # what is no number is no small difference
    if not worst <= TOLERANCE:
        raise SaveError(f"{file} gives other numbers than the model, by {worst:.1e}, and is not kept")
    return worst


def _first(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first sample alone; a text without what stands behind its end."""
    one = {name: tensor[:1] for name, tensor in inputs.items()}
    return one if _TEXTS not in one else {**one, _TEXTS: one[_TEXTS][:, : int(one["lengths"])]}


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest one; relative to numbers that are larger than 1, as no probability is."""
    return float(((found - expected).abs() / expected.abs().clamp(min=1)).max())


def _loaded(path: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    if path.name == PT2:
        module: Any = torch.export.load(path).module()
        return lambda inputs: module(*inputs.values()).detach()
    runtime: Any = import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {name: one.numpy() for name, one in inputs.items()})[0])


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
