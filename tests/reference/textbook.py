"""Formulas of the papers and of the lesson's text in float64, written as plainly as they can be.

The tests compare the library with these, and the documentation shows them by inclusion. Nothing here is fast.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def lin_comb(v1, v2, beta):
    """The notes' linear combination: `beta` is the share of the *first* argument (SPEC M7)."""
    return beta * v1 + (1 - beta) * v2


# -- losses as explicit target distributions --------------------------------------------------------------------------


def one_hot(targets: Tensor, num_classes: int) -> Tensor:
    """One row per sample: 1 at the true class, 0 elsewhere."""
    return F.one_hot(targets, num_classes).double()


def soft_cross_entropy(logits: Tensor, distribution: Tensor) -> Tensor:
    """The cross entropy of each sample, -sum_j q_j log p_j, against a distribution q over the classes."""
    log_p = logits.double().log_softmax(dim=1)
    return -(distribution * log_p).sum(dim=1)


def smoothed(targets: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Szegedy et al. 2015: every class gets smoothing / k, the true one 1 - smoothing on top."""
    return (1 - smoothing) * one_hot(targets, num_classes) + smoothing / num_classes


def smoothed_excluding_true(targets: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """The lesson's words: the true class gets 1 - smoothing, every other one smoothing / (k - 1)."""
    true = one_hot(targets, num_classes)
    return (1 - smoothing) * true + smoothing / (num_classes - 1) * (1 - true)


def smoothed_as_printed(targets: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """The formula printed beside those words, whose sum runs over *all* classes. Wrong: see the sum of a row."""
    return (1 - smoothing) * one_hot(targets, num_classes) + smoothing / (num_classes - 1)


def mixup(x: Tensor, distribution: Tensor, partner: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """MixUp as the paper writes it (Zhang et al. 2017), sample by sample, on inputs and on target distributions."""
    x, y = x.double(), distribution.double()
    pairs = list(zip(partner.tolist(), weight.double().tolist(), strict=True))
    mixed_x = [w * x[i] + (1 - w) * x[j] for i, (j, w) in enumerate(pairs)]
    mixed_y = [w * y[i] + (1 - w) * y[j] for i, (j, w) in enumerate(pairs)]
    return torch.stack(mixed_x), torch.stack(mixed_y)


def mean_larger_share(alpha: float) -> float:
    """The mean of max(w, 1 - w) for w from Beta(alpha, alpha): 1/2 and the mean distance of w from there."""
    beta = math.gamma(alpha) ** 2 / math.gamma(2 * alpha)
    return 0.5 + 4**-alpha / (alpha * beta)


# -- schedules --------------------------------------------------------------------------------------------------------


def cosine_between(start: float, end: float, position: float) -> float:
    """Half a cosine from `start` at position 0 to `end` at position 1."""
    return end + (start - end) * (1 + math.cos(math.pi * position)) / 2


def one_cycle_lr(position: float, peak: float, pct_start: float, div_start: float, div_end: float) -> float:
    """Learning rate: peak / div_start up to the peak, then down to peak / div_end."""
    if position < pct_start:
        return cosine_between(peak / div_start, peak, position / pct_start)
    return cosine_between(peak, peak / div_end, (position - pct_start) / (1 - pct_start))


def one_cycle_momentum(position: float, ends: float, middle: float, pct_start: float) -> float:
    """Momentum: the other way, from `ends` to `middle` and back."""
    if position < pct_start:
        return cosine_between(ends, middle, position / pct_start)
    return cosine_between(middle, ends, (position - pct_start) / (1 - pct_start))


# -- optimizers, for one tensor ---------------------------------------------------------------------------------------


def adamw(x: Tensor, grads: list[Tensor], *, lr, betas, eps, weight_decay) -> Tensor:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, algorithm 2): x after all gradients."""
    x, m, v = x.double(), torch.zeros_like(x).double(), torch.zeros_like(x).double()
    for t, g in enumerate(grads, 1):
        g = g.double()
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        x = x - lr * (m_hat / (v_hat.sqrt() + eps) + weight_decay * x)
    return x


def lamb(x: Tensor, grads: list[Tensor], *, lr, betas, eps, weight_decay, max_ratio=math.inf) -> Tensor:
    """LAMB (You et al. 2019, algorithm 2): Adam's step, made as long as `lr` times the tensor."""
    x, m, v = x.double(), torch.zeros_like(x).double(), torch.zeros_like(x).double()
    for t, g in enumerate(grads, 1):
        g = g.double()
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        r = (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
        update = r + weight_decay * x
        ratio = min(float(x.norm() / update.norm()), max_ratio) if x.norm() > 0 and update.norm() > 0 else 1.0
        x = x - lr * ratio * update
    return x


def muon(x: Tensor, grads: list[Tensor], *, lr, momentum, nesterov, num_iterations, weight_decay) -> Tensor:
    """Muon for one matrix (Jordan et al. 2024), its step scaled as Liu et al. 2025 do: x after all gradients."""
    x, m = x.double(), torch.zeros_like(x).double()
    for g in grads:
        g = g.double()
        m = momentum * m + (1 - momentum) * g
        direction = momentum * m + (1 - momentum) * g if nesterov else m
        o = direction / direction.norm()
        for _ in range(num_iterations):
            o = 3.4445 * o - 4.7750 * o @ o.T @ o + 2.0315 * o @ o.T @ o @ o.T @ o
        x = x - lr * (0.2 * math.sqrt(max(x.shape)) * o + weight_decay * x)
    return x


# -- steps ------------------------------------------------------------------------------------------------------------


def sam_gradient(gradient, w: Tensor, rho: float) -> Tensor:
    """Foret et al. 2020, equations 2 and 3: the gradient at w + rho g / |g|; `gradient` is a function of w."""
    g = gradient(w.double())
    return gradient(w.double() + rho * g / g.norm())


def distillation(student: Tensor, teacher: Tensor, distribution: Tensor, *, temperature, weight) -> Tensor:
    """Hinton et al. 2015, for each sample: against labels, and against the teacher's softened probabilities."""
    p, q = ((scores.double() / temperature).softmax(1) for scores in (teacher, student))
    soft = (p * (p.log() - q.log())).sum(1)
    return (1 - weight) * soft_cross_entropy(student, distribution) + weight * temperature**2 * soft


# -- randomness -------------------------------------------------------------------------------------------------------


def splitmix64(start: int, position: int) -> int:
    """The number at one position of a splitmix64 stream (Steele, Lea and Flood 2014), in Python's own integers."""
    word = (1 << 64) - 1
    z = (start + position * 0x9E3779B97F4A7C15) & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
    return z ^ (z >> 31)
