"""What a result depends on besides the code: versions, machine, threads, git commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from etude.types import Json

_PACKAGES = ("etude", "torch", "numpy", "pillow", "simplejpeg", "safetensors")
_VARIABLES = ("OMP_", "MKL_", "KMP_", "OPENBLAS_", "GOMP_", "CUDA_", "CUBLAS_", "CUDNN_", "NCCL_", "NVIDIA_TF32",
              "TORCH", "PYTORCH", "PYTHONHASHSEED")  # fmt: skip
"""How the names of environment variables begin that change numbers or speed."""
_PLACES = ("_DIR", "_HOME", "_PATH", "_FILE")
"""How those of them end that only say where something lies."""


def environment() -> dict[str, Json]:
    """The environment of this process, for a run's record."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "cwd": str(Path.cwd()),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "cpus_allowed": _cpus_allowed(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.version.cuda else None,
        "torch_commit": torch.version.git_version,
        "torch_build": torch.__config__.show().strip(),
        "numerics": _numerics(),
        "variables": _variables(),
        "git": git_state(Path.cwd()),
        "source": _own_source(),
    }


def git_state(folder: Path) -> dict[str, Json] | None:
    """Commit and uncommitted difference of the checkout a folder lies in; None outside of one.

    The difference is a patch that `git apply` takes, whatever the user's settings; files that git does not know are
    only counted.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    plain = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-relative", "--src-prefix=a/", "--dst-prefix=b/")
    top = _git(folder, "rev-parse", "--show-toplevel")
    untracked = _git(Path(top.strip()) if top else folder, "ls-files", "--others", "--exclude-standard", "-z")
    return {
        "commit": commit.strip(),
        "changes": _git(folder, "diff", *plain, "HEAD") or "",
        "untracked": (untracked or "").count("\0"),
    }


def _own_source() -> dict[str, Json] | None:
    """The checkout that etude itself runs from, if it does."""
    folder = Path(__file__).parent
    # it may be installed in an environment that lies in somebody's checkout
    return git_state(folder) if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) else None


def _numerics() -> dict[str, Json]:
    """Torch's switches that change numbers."""
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


def _variables() -> dict[str, Json]:
    """The environment variables that matter."""
    names = (name for name in sorted(os.environ) if name.startswith(_VARIABLES) and not name.endswith(_PLACES))
    return {name: os.environ[name] for name in names}


def _cpu() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _cpus_allowed() -> int | None:
    """How many processors this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed is not None else os.cpu_count()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
