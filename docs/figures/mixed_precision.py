"""Draw the pictures of docs/mixed-precision.md: `python docs/figures/mixed_precision.py` writes them.

Everything drawn comes from small trainings with the library's own `MixedPrecision`, on a CPU in about a minute.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude import ArrayLoader, Batch, Callback, DataLoaders, Learner, MixedPrecision, StepOutput, StopFit, flat, vision
from etude.optim import sgd
from etude.plots import new_figure, save_figure
from etude.recipes.demo import digits

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"
RESULTS: Final = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "precision-accuracy.json"
RED, BLUE, GREEN, INK = "#c1121f", "#1d6fa5", "#3a7d44", "#22303c"
ZERO, FEW, FULL = "#f3c9cb", "#fdf0cf", "#d8efdc"
"""Behind numbers that float16 rounds to zero, holds with fewer than 11 bits, and holds with all of them."""

SMALLEST, NORMAL, LARGEST = -25, -14, 16
"""Exponents: below the first float16 is zero, from the second it has 11 bits, from the last it is infinite."""
UPDATE: Final = 1e-4
NUM_UPDATES: Final = 1000


class Scales(Callback):
    """The loss scale that each step used, and whether it updated the weights."""

    decides_training = False

    def __init__(self) -> None:
        self.scales: list[float] = []
        self.updated: list[bool] = []

    @override
    def before_step(self, learner: Learner) -> None:
        assert isinstance(learner.precision, MixedPrecision)
        self.scales.append(learner.precision.loss_scale)

    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        self.updated.append(bool(output.updated))


class Probe(Callback):
    """The gradients of every convolution's and linear layer's output, as float16 held them in the first good step."""

    def __init__(self, model: nn.Module) -> None:
        self.found: list[Tensor] = []
        self.scale = 1.0
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(self._watch)

    def _watch(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda grad: self.found.append(grad.float().flatten()))

    @override
    def before_step(self, learner: Learner) -> None:
        assert isinstance(learner.precision, MixedPrecision)
        self.found, self.scale = [], learner.precision.loss_scale

    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        if output.updated:
            raise StopFit("a good step")


class Gradients(NamedTuple):
    """The gradients of one step, as float16 held them: multiplied by the scale."""

    scale: float
    values: Tensor

    @property
    def zero(self) -> float:
        """The share that is zero."""
        return float((self.values == 0).float().mean())

    @property
    def few_bits(self) -> float:
        """The share that is not zero, but has fewer than 11 bits."""
        size = self.values.abs()
        return float(((size > 0) & (size < 2.0**NORMAL)).float().mean())


def learner_of_digits(precision: MixedPrecision, callbacks: list[Callback]) -> Learner:
    """The lessons' network on handwritten digits of 8x8 pixels, with plain cross entropy."""
    options: dict[str, Any] = {"widths": [16, 32, 64], "stem_stride": 1, "device": "cpu", "progress": False}
    return vision.learner(
        "lesson_cnn", digits(), loss_fn=nn.CrossEntropyLoss(), precision=precision, callbacks=callbacks, **options
    )


def gradients_of(weights: dict[str, Tensor], precision: MixedPrecision) -> Gradients:
    """The gradients of the first good step from given weights."""
    learner = learner_of_digits(precision, [])
    learner.model.load_state_dict(weights)
    probe = Probe(learner.model)
    learner.fit(1, lr=0.0, schedule=flat, callbacks=[probe])
    return Gradients(probe.scale, torch.cat(probe.found))


def draw_gradients(epochs: int = 30) -> Any:
    """The gradients of a trained network in float16's range, without scaling and with the scale that was found."""
    seen = Scales()
    learner = learner_of_digits(MixedPrecision(growth_interval=20), [seen])
    learner.fit(epochs, lr=1e-2)
    weights = learner.model.state_dict()
    plain = gradients_of(weights, MixedPrecision(loss_scale=1.0))
    scaled = gradients_of(weights, MixedPrecision(loss_scale=seen.scales[-1], dynamic=True))
    figure, axes = new_figure(2, 1, width=8.4, height=5.6)
    power = _log2(scaled.scale)
    # where the true gradients are: those of the scaled step, divided in float32
    true = (scaled.values / scaled.scale).abs()
    exponents = true[true > 0].log2()
    for axis, shift, held, title in (
        (axes[0], 0, plain, "without scaling"),
        (axes[1], power, scaled, f"loss x 2^{power}, the scale that was found"),
    ):
        _ranges(axis)
        axis.hist(
            (exponents + shift).numpy(), bins=range(-45, 22), color=BLUE, alpha=0.75,
            weights=torch.full_like(exponents, 100 / len(true)).numpy(), zorder=2,
        )  # fmt: skip
        axis.set(xlim=(-42, 20), ylim=(0, 24), ylabel="% of the gradients")
        axis.set_title(title, fontsize=11, color=INK, loc="left")
        for x, text in (
            ((-42 + SMALLEST) / 2, f"becomes zero\n{100 * held.zero:.2f} %"),
            ((SMALLEST + NORMAL) / 2, f"fewer than 11 bits\n{100 * held.few_bits:.1f} %"),
            ((NORMAL + LARGEST) / 2, f"11 bits\n{100 * (1 - held.zero - held.few_bits):.1f} %"),
        ):
            axis.text(x, 22.8, text, ha="center", va="top", fontsize=10, color=INK, zorder=3)
        axis.text((LARGEST + 20) / 2, 22.8, "infinite", ha="center", va="top", fontsize=10, color=INK, rotation=90)
        print(f"{title}: {held.zero:.4%} zero, {held.few_bits:.1%} with fewer than 11 bits")
    axes[1].set_xlabel("log2 of the size of a layer output's gradient, as the backward pass holds it")
    return figure


def _ranges(axis: Any) -> None:
    """What float16 makes of a number, behind the histogram."""
    axis.grid(visible=False)
    for start, end, color in ((-50, SMALLEST, ZERO), (SMALLEST, NORMAL, FEW), (NORMAL, LARGEST, FULL)):
        axis.axvspan(start, end, color=color, linewidth=0, zorder=0)
    axis.axvspan(LARGEST, 30, color=ZERO, linewidth=0, zorder=0)


def draw_scale(epochs: int = 8) -> Any:
    """The scale over a fit's steps: doubled after ten good ones in a row, halved where a gradient overflowed."""
    seen = Scales()
    learner_of_digits(MixedPrecision(growth_interval=10), [seen]).fit(epochs, lr=1e-2)
    steps = range(1, len(seen.scales) + 1)
    skipped = [step for step, updated in zip(steps, seen.updated, strict=True) if not updated]
    figure, axis = new_figure(1, 1, width=8.4, height=3.4)
    axis.step(steps, seen.scales, where="mid", color=BLUE, linewidth=2, label="scale that the step used", zorder=2)
    axis.scatter(
        skipped, [seen.scales[step - 1] for step in skipped], color=RED, s=42, marker="x", linewidth=2, zorder=3,
        label="a gradient overflowed: step skipped, scale halved",
    )  # fmt: skip
    axis.set_yscale("log", base=2)
    axis.set(xlabel="step", ylabel="loss scale", ylim=(2.0**15, max(seen.scales) * 6), xlim=(0, len(seen.scales) + 1))
    axis.legend(frameon=False, loc="upper left", ncols=2, fontsize=10)
    print(f"{len(skipped)} of {len(seen.scales)} steps skipped; the last scale is 2^{_log2(seen.scales[-1])}")
    return figure


def _log2(scale: float) -> int:
    return round(torch.tensor(scale).log2().item())


def small_updates(*, master_weights: bool) -> list[float]:
    """A weight of 1 after each of many updates by 0.0001, computed with in float16."""
    model, seen = nn.Linear(1, 1, bias=False), []
    nn.init.ones_(model.weight)

    class Watch(Callback):
        @override
        def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
            seen.append(model.weight.item())

    ones = torch.ones(NUM_UPDATES, 1)
    Learner(
        model,
        DataLoaders(ArrayLoader(ones, ones, batch_size=1)),
        lambda preds, targets: -preds.mean(),
        sgd(lr=UPDATE, momentum=0.0),
        precision=MixedPrecision(loss_scale=1.0, master_weights=master_weights),
        callbacks=[Watch()],
        device="cpu",
        progress=False,
    ).fit(1)
    return [1.0, *seen]


def draw_updates() -> Any:
    """Small updates add up in a float32 master; without one, each is rounded away."""
    with_master, without = small_updates(master_weights=True), small_updates(master_weights=False)
    copy = torch.tensor(with_master).half().float().tolist()
    figure, axes = new_figure(1, 2, width=8.4, height=3.4)
    for axis, end in zip(axes, (NUM_UPDATES, 50), strict=True):
        steps = range(end + 1)
        axis.step(steps, copy[: end + 1], where="post", color=BLUE, linewidth=1.6, label="its copy, which computes")
        axis.plot(steps, with_master[: end + 1], color=GREEN, linewidth=2, label="float32 master")
        axis.plot(steps, without[: end + 1], color=RED, linewidth=2, label="float16 without a master")
        axis.set(xlabel="updates by 0.0001", xlim=(0, end * 1.02))
        axis.set_title(
            f"{end:,} updates" if end == NUM_UPDATES else f"the first {end}", fontsize=11, color=INK, loc="left"
        )
    axes[0].set_ylabel("weight")
    axes[0].legend(frameon=False, loc="upper left", fontsize=9.5)
    axes[1].yaxis.set_major_formatter("{x:.3f}")
    print(f"after {NUM_UPDATES} updates: {with_master[-1]:.4f} with a master, {without[-1]:.4f} without")
    return figure


def draw_losses() -> Any:
    """Training losses of fp32 and bf16-master, one line for each seed, from what benchmarks/techniques.py wrote."""
    runs = json.loads(RESULTS.read_text())["runs"]
    figure, axis = new_figure(1, 1, width=8.4, height=3.4)
    for (name, rows), color, style in zip(runs.items(), (BLUE, RED), ("-", "--"), strict=True):
        for i, row in enumerate(rows):
            epochs = range(1, len(row["train_losses"]) + 1)
            label = {"label": f"{name}, {len(rows)} seeds"} if i == 0 else {}
            axis.plot(epochs, row["train_losses"], color=color, linestyle=style, linewidth=1.8, **label)
    axis.set(xlabel="epoch", ylabel="training loss", xticks=epochs)
    axis.legend(frameon=False, fontsize=10)
    return figure


def main(folder: Path = IMAGES, *, epochs: int = 30) -> None:
    """Write every picture into a folder and print what they show."""
    save_figure(draw_gradients(epochs), folder / "precision-gradients.png")
    save_figure(draw_scale(), folder / "precision-scale.png")
    save_figure(draw_updates(), folder / "precision-updates.png")
    save_figure(draw_losses(), folder / "precision-losses.png")
    print(f"wrote four pictures into {folder}")


if __name__ == "__main__":
    main()
