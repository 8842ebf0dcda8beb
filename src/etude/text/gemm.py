"""Products of large matrices on a CPU: which of torch's two libraries makes them.

Torch's own choice for float32 is MKL. On processors with AVX-512 that are not Intel's, oneDNN takes down to a third of
the time, to the same precision; on AVX2 the two are alike. The choice hangs on the processor alone: if it were timed, a
resumed training could end with other bits.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def linear(
    x: Float[Tensor, "row inner"],
    weight: Float[Tensor, "column inner"],
    bias: Float[Tensor, "column"],
    buffer: Float[Tensor, "row column"],
) -> Float[Tensor, "row column"]:
    """`F.linear(x, weight, bias)` without a graph, in `buffer` where the library can write there."""
    if _takes_onednn(x):
        return onednn_linear(x, weight, bias)
    if buffer.dtype != x.dtype:
        return F.linear(x, weight, bias)
    return torch.addmm(bias, x, weight.t(), out=buffer)


def product(a: Float[Tensor, "row inner"], b: Float[Tensor, "inner column"]) -> Float[Tensor, "row column"]:
    """`a @ b` without a graph."""
    return onednn_linear(a, b.t(), None) if _takes_onednn(a) else a @ b


def add_product(
    total: Float[Tensor, "row column"] | None, a: Float[Tensor, "row inner"], b: Float[Tensor, "inner column"]
) -> Float[Tensor, "row column"]:
    """`total + a @ b`, in the memory of `total`; None is the zero that a sum begins with."""
    if total is None:
        return product(a, b)
    if _takes_onednn(a) or total.dtype != a.dtype:
        return total.add_(product(a, b))
    return total.addmm_(a, b)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` by oneDNN. The operator is not public: `_has_onednn` asks for it first."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


def _takes_onednn(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and _is_faster() and _has_onednn()


@cache
def _is_faster() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


@cache
def _has_onednn() -> bool:
    """Whether this build of torch has the operator, with the arguments that are given here."""
    one = torch.ones(1, 1)
    try:
        return bool(onednn_linear(one, one, None) == 1)
    except (AttributeError, RuntimeError, TypeError):
        return False
