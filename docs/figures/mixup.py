"""Draw the pictures of docs/mixup.md: `python docs/figures/mixup.py` writes them and prints the page's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from etude import Batch, Callback, CutMix, Cutout, ErasePixels, FourCorners, MixedTargets, MixUp, random, vision
from etude.plots import new_figure, save_figure
from etude.recipes.demo import digits
from etude.training.callbacks.mixup import draw_weights, mix

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"
COLORS: Final = {0.1: "#c1121f", 0.4: "#1d6fa5", 0.8: "#3a7d44"}
INK: Final = "#22303c"
NUM_DRAWS: Final = 1_000_000


def gamma(x: Tensor) -> Tensor:
    """The Gamma function of positive numbers: Gamma(n + 1) is n factorial."""
    return torch.lgamma(x).exp()


def beta_density(weight: Tensor, alpha: float) -> Tensor:
    """The density of Beta(alpha, alpha) at weights in (0, 1): the normalizer is Gamma(a)^2 / Gamma(2 a)."""
    shape = torch.tensor(alpha, dtype=weight.dtype)
    return (weight * (1 - weight)) ** (alpha - 1) * gamma(2 * shape) / gamma(shape) ** 2


def mean_larger_share(alpha: float, num: int = NUM_DRAWS) -> float:
    """The mean of max(w, 1 - w), from draws of the library's own function."""
    return float(draw_weights(alpha, num, random.generator(0, "mean larger share")).mean())


def draw_pair() -> Any:
    """Two photographs and their mixture, made with the function that `MixUp` uses."""
    pixels = _photographs()
    share = 0.7
    weights = torch.tensor([share, 1.0])
    mixed = mix(pixels, torch.tensor([1, 1]), weights)[0]
    figure, axes = new_figure(1, 3, width=9, height=2.5)
    titles = ("china", "flower", f"{share:.1f} of china + {1 - share:.1f} of flower")
    for axis, picture, title in zip(axes, (*pixels, mixed), titles, strict=True):
        axis.imshow((picture.permute(1, 2, 0) / 255).numpy())
        axis.set_title(title, fontsize=11, color=INK)
        axis.set_axis_off()
    return figure


def _photographs() -> Tensor:
    """scikit-learn's two sample photographs: float pixels in [0, 255], (2, 3, height, width)."""
    from sklearn.datasets import load_sample_image

    arrays = [load_sample_image(f"{name}.jpg") for name in ("china", "flower")]
    return torch.stack([torch.tensor(array).permute(2, 0, 1).float() for array in arrays])


def draw_cutting() -> Any:
    """What each callback makes of the same batch of four digits, and what the result is to be called."""
    batch = _digits()
    learner = vision.learner("lesson_cnn", digits(), widths=[8, 8], progress=False, device="cpu")
    # numbers of batches in which much can be seen
    shown: list[tuple[Callback, int]] = [
        (MixUp(1.0), 26),
        (CutMix(), 58),
        (FourCorners(1.0), 116),
        (Cutout(0.5), 4),
        (ErasePixels(0.3), 5),
    ]
    figure, axes = new_figure(1, 1 + len(shown), width=11, height=2.5)
    _show(axes[0], batch, "one of four")
    for axis, (callback, number) in zip(axes[1:], shown, strict=True):
        learner.progress.batch = number
        _show(axis, callback.transform_batch(batch, learner), type(callback).__name__)
    return figure


def _show(axis: Any, batch: Batch, title: str) -> None:
    """The first picture of a batch, with its labels by share below."""
    axis.imshow((batch.inputs[0].permute(1, 2, 0) / 255).clamp(0, 1).numpy())
    axis.set_title(title, fontsize=11, color=INK)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    targets = batch.targets
    shares = {int(targets[0]): 1.0} if isinstance(targets, Tensor) else _shares(targets)
    parts = [f'{share:.2f} "{label}"' for label, share in sorted(shares.items(), key=lambda pair: -pair[1])]
    lines = [" + ".join(parts[i : i + 2]) for i in range(0, len(parts), 2)]
    axis.set_xlabel("\n+ ".join(lines), fontsize=9, color=INK)


def _shares(targets: MixedTargets) -> dict[int, float]:
    """The summed share of each label of the first sample."""
    found: dict[int, float] = {}
    for label, share in zip(targets.labels(), targets.shares(), strict=True):
        found[int(label[0])] = found.get(int(label[0]), 0.0) + float(share[0])
    return found


def _digits() -> Batch:
    """Four handwritten digits, enlarged, each in a color of its own so that pieces can be told apart."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = (3, 8, 5, 6)
    colors = torch.tensor([[1.0, 0.62, 0.25], [0.35, 0.72, 1.0], [0.6, 0.9, 0.45], [0.95, 0.5, 0.75]])
    rows = [int((bunch.target == label).nonzero()[0][0]) for label in labels]
    gray = torch.from_numpy(bunch.images[rows]).float().unsqueeze(1) / 16
    large = torch.nn.functional.interpolate(gray, size=(64, 64), mode="bicubic").clamp(0, 1)
    # dark ink on paper of the same color
    ink = colors.view(4, 3, 1, 1)
    paper = 0.8 + 0.2 * ink
    pixels = 255 * paper.lerp(0.7 * ink, large)
    return Batch(pixels, torch.tensor(labels))


def draw_densities() -> Any:
    """Beta densities: the smaller alpha is, the closer to an unmixed pair most draws are."""
    # points that crowd towards both ends, where the curves are steep
    weight = (1 - torch.linspace(0, torch.pi, 2001, dtype=torch.float64)[1:-1].cos()) / 2
    figure, axis = new_figure(1, 1, width=6.4, height=3.6)
    for alpha, color in COLORS.items():
        axis.plot(
            weight.numpy(), beta_density(weight, alpha).numpy(), color=color, linewidth=2, label=f"alpha = {alpha}"
        )
    axis.set(xlim=(0, 1), ylim=(0, 4), xlabel="weight w", ylabel="density")
    axis.legend(frameon=False, loc="upper center")
    return figure


def draw_histogram(alpha: float = 0.4) -> Any:
    """The weights that `MixUp(0.4)` really draws, and the density that they should have."""
    weights = draw_weights(alpha, NUM_DRAWS, random.generator(0, "mean larger share"))
    figure, axis = new_figure(1, 1, width=6.4, height=3.6)
    color, mean = COLORS[alpha], float(weights.mean())
    axis.hist(weights.numpy(), bins=50, range=(0.5, 1), density=True, color=color, alpha=0.35, label="drawn weights")
    x = torch.linspace(0.5, 1, 1001, dtype=torch.float64)[:-1]
    axis.plot(x.numpy(), 2 * beta_density(x, alpha).numpy(), color=color, linewidth=2, label="density of max(w, 1 - w)")
    axis.axvline(mean, color=INK, linewidth=1.5, linestyle="--", label=f"mean {mean:.3f}")
    axis.set(xlim=(0.5, 1), ylim=(0, 10), xlabel=f"share of a sample's own picture, alpha = {alpha}", ylabel="density")
    axis.legend(frameon=False, loc="upper left")
    return figure


def draw_factorials() -> Any:
    """The Gamma function joins the factorials with a smooth curve."""
    figure, axis = new_figure(1, 1, width=6.4, height=3.6)
    x = torch.linspace(0, 5, 501, dtype=torch.float64)
    axis.plot(x.numpy(), gamma(x + 1).numpy(), color="#1d6fa5", linewidth=2, label="Gamma(x + 1)", zorder=2)
    whole = torch.arange(6.0, dtype=torch.float64)
    axis.scatter(whole.numpy(), gamma(whole + 1).numpy(), color="#c1121f", s=45, label="n factorial", zorder=3)
    for n, value in enumerate(gamma(whole + 1).tolist()):
        axis.annotate(f"{value:.0f}", (n, value), (-4, 7), textcoords="offset points", ha="right", color=INK)
    axis.set(xlim=(-0.3, 5.2), ylim=(-4, 130), xlabel="x", ylabel="")
    axis.legend(frameon=False, loc="upper left")
    return figure


PICTURES: Final[dict[str, Callable[[], Any]]] = {
    "mixup-pair.png": draw_pair,
    "mixup-densities.png": draw_densities,
    "mixup-weights.png": draw_histogram,
    "mixup-factorials.png": draw_factorials,
    "mixup-cutting.png": draw_cutting,
}


def main(folder: Path = IMAGES) -> None:
    """Write every picture into a folder and print the mean shares."""
    for name, draw in PICTURES.items():
        save_figure(draw(), folder / name)
        print(f"wrote {folder / name}")
    for alpha in (0.1, 0.2, 0.4, 0.8, 1.0):
        print(f"alpha {alpha}: the mean larger share of {NUM_DRAWS:,} pairs is {mean_larger_share(alpha):.3f}")


if __name__ == "__main__":
    main()
