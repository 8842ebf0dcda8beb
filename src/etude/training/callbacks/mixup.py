"""MixUp: train on weighted means of two samples and of their labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError
from etude.training.callback import Callback
from etude.training.callbacks.choose import refuse_conflicts
from etude.training.callbacks.mixing import beta_shares, keyed, mixable, partners
from etude.types import Batch, Inputs, Json, MixedTargets, StepOutput, per_sample_view, select

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped

    from etude.training.learner import Learner


@final
class MixUp(Callback):
    """Mix every sample of a batch with another one of the same batch.

        x = weight * x_i + (1 - weight) * x_j        weight = max(w, 1 - w),  w ~ Beta(alpha, alpha)

    Each sample has its own weight, which converges faster than one per batch, and the larger share is always its
    own, which avoids near-duplicates of pairs. Targets become `MixedTargets`, of targets that are mixed already too;
    no one-hot matrix is built, and validation is untouched. Pairs and weights are a function of (seed, batch number):
    a resumed run draws the same.

    Args:
        alpha: 0.4 mixes a lot, 0.1 a little (the mean of the larger share is 0.84 at 0.4). Helps in long trainings.
        at: "input", or the name of a module (`model.named_modules()`) whose output is mixed instead, such as a hidden
            layer or an embedding. Nothing may mix the targets after that one: its mixing comes last, inside the model.
        seed: None takes the learner's.

    Source: Zhang et al. 2017, "mixup: Beyond empirical risk minimization"; Verma et al. 2018, "Manifold mixup";
    SPEC M1-M10.
    """

    def __init__(self, alpha: float = 0.4, *, at: str = "input", seed: int | None = None) -> None:
        if not alpha > 0:
            raise ConfigError(f"alpha must be positive, got {alpha}; leave MixUp out to train without it")
        self.alpha, self.at, self.seed = alpha, at, seed
        self._pairs: tuple[Tensor, Tensor] | None = None
        self._num_labels, self._mixed = 0, False

    @override
    def transform_batch(self, batch: Batch, learner: Learner) -> Batch:
        """Mix inputs (or leave that to the hook in a hidden layer) and targets."""
        given = mixable(batch.targets, "MixUp")
        # Apple's GPUs cannot draw Gamma variables
        device = torch.device("cpu") if learner.device.type == "mps" else learner.device
        generator = keyed(learner, self.seed, "mixup", device=device)
        weight = draw_weights(self.alpha, batch.size, generator).to(learner.device)
        partner = partners(learner, batch.size, generator)
        targets = MixedTargets(given, select(given, partner), weight)
        if self.at != "input":
            self._pairs, self._num_labels, self._mixed = (partner, weight), len(targets.labels()), False
            return batch._replace(targets=targets)
        return batch._replace(inputs=_mix_all(batch.inputs, partner, weight), targets=targets)

    @override
    def during_fit(self, learner: Learner) -> AbstractContextManager[Any]:
        """Refuse what would go wrong beside it in one list; keep a hook on the named module, if it mixes there."""
        refuse_conflicts(self, learner)
        return nullcontext() if self.at == "input" else self._hooked(learner.model)

    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """Refuse to train on labels that were mixed in another way than the samples."""
        pairs, self._pairs = self._pairs, None
        # none were drawn for a batch that was left out, as `Choose` may do
        if pairs is None or output.preds is None:
            return
        if not self._mixed:
            raise ConfigError(f"the model did not call its module {self.at!r} in this step, so nothing was mixed there")
        if isinstance(batch.targets, MixedTargets) and len(batch.targets.labels()) > self._num_labels:
            raise ConfigError(
                f"targets were mixed again after MixUp(at={self.at!r}), which mixes inside the model and so comes "
                "last; put it behind the other mixing callbacks"
            )

    @contextmanager
    def _hooked(self, model: nn.Module) -> Iterator[None]:
        modules = dict(model.named_modules())
        if self.at not in modules or not self.at:
            raise ConfigError(f"the model has no module {self.at!r} to mix at; it has {list(modules)[1:12]} ...")

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            # training only, whatever mode a frozen norm is held in; a step with two passes (SAM) mixes both alike
            if not model.training or self._pairs is None:
                return None
            if not isinstance(output, Tensor):
                raise ConfigError(f"module {self.at!r} returns {type(output).__name__}; MixUp can mix one tensor")
            self._mixed = True
            return mix(output, *self._pairs)

        handle = modules[self.at].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
            self._pairs = None

    @override
    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"alpha": self.alpha, "at": self.at, "seed": self.seed}


def draw_weights(alpha: float, num: int, generator: torch.Generator | None = None) -> Float[Tensor, "num"]:
    """The larger shares of `num` pairs: max(w, 1 - w) with w from Beta(alpha, alpha)."""
    share = beta_shares(alpha, num, generator)
    return torch.maximum(share, 1 - share)


def mix(
    x: Shaped[Tensor, "batch ..."], partner: Int[Tensor, "batch"], weight: Float[Tensor, "batch"]
) -> Float[Tensor, "batch ..."]:
    """Weight * x + (1 - weight) * x[partner], for any rank; integer pixels become float32."""
    x = x if x.is_floating_point() else x.float()
    other = x.index_select(0, partner)
    return other.lerp(x, per_sample_view(weight.to(x.dtype), x))


def _mix_all(inputs: Inputs, partner: Tensor, weight: Tensor) -> Inputs:
    if isinstance(inputs, tuple):
        return tuple(_mix_one(part, partner, weight) for part in inputs)
    if isinstance(inputs, dict):
        return {name: _mix_one(part, partner, weight) for name, part in inputs.items()}
    return _mix_one(inputs, partner, weight)


def _mix_one(inputs: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    if not inputs.is_floating_point() and inputs.dtype != torch.uint8:
        raise ConfigError(
            f"inputs of type {inputs.dtype} are numbers of things, which cannot be averaged. "
            "Mix behind the embedding: MixUp(at='name of the embedding module')."
        )
    return mix(inputs, partner, weight)
