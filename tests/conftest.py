"""Shapes are checked at run time in tests, and only there."""

from __future__ import annotations

import ast
import builtins
import gc
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

import runtime_types

REPO = Path(__file__).parent.parent


def _import_for_type_checkers(module: object, source: str) -> None:
    """Execute a module's `if TYPE_CHECKING:` imports, so that the names in its annotations can be looked up."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), "TYPE_CHECKING", "exec"), vars(module))


def _import_everything() -> None:
    import etude

    names = [
        info.name for info in pkgutil.walk_packages(etude.__path__, "etude.") if not info.name.endswith("__main__")
    ]
    modules = [importlib.import_module(name) for name in names]
    for module in modules:
        assert module.__file__ is not None
        source = Path(module.__file__).read_text(encoding="utf-8")
        if runtime_types.has_shapes(source):
            _import_for_type_checkers(module, source)


def pytest_configure(config: pytest.Config) -> None:
    """Functions with shapes in their signature are decorated as they are imported.

    The package imports jaxtyping's names for type checkers only, so they are lent to it here. The process that only
    hands tests to those of `pytest -n` needs nothing of this.
    """
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    gc.disable()
    for name in ("Bool", "Float", "Int", "Shaped", "UInt8"):
        setattr(builtins, name, getattr(jaxtyping, name))
    runtime_types.check_shapes()
    _import_everything()


def pytest_collection_finish() -> None:
    """What has been imported and collected stays to the end: no search for garbage looks at it again."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither use nor fill the user's cache."""
    os.environ["ETUDE_HOME"] = str(tmp_path_factory.mktemp("etude-home"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tests and the commands that they start share the processors with the tests beside them.

    Here, before the fixtures of a module: with other threads a training has other bits.
    """
    import torch  # not above: the process that only hands out tests goes without

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _runs_draw_nothing() -> Iterator[None]:
    """Curves and predictions take longer to draw than a short training; see `coloring.with_pictures`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etude.runs.record.draw_curves", lambda *_: None)
        patch.setattr("etude.vision.show.draw_predictions", lambda *_: None)
        yield


@pytest.fixture(autouse=True)
def _quiet_machine() -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def data_folder() -> Path:
    """The folder with the real archives; a test that needs it skips where it is not."""
    folder = Path(os.environ.get("ETUDE_TEST_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real archives are not at hand; name their folder in ETUDE_TEST_DATA")
    return folder


@pytest.fixture
def etude_command() -> list[str]:
    return [sys.executable, "-m", "etude"]


@pytest.fixture
def without_type_checks():
    """For tests of what a user sees who runs no type checker."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
