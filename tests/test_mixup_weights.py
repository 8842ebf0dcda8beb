"""The weights that MixUp draws: the larger share of a Beta variable, for every alpha."""

from __future__ import annotations

import pytest
import torch

from etude import ConfigError, MixUp
from etude.training.callbacks.mixup import draw_weights, mix
from reference import textbook


def test_at_the_lessons_alpha_a_sample_keeps_84_percent():
    """M3."""
    assert textbook.mean_larger_share(0.4) == pytest.approx(0.840, abs=5e-4)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.2, 0.4, 1.0, 4.0])
def test_the_larger_share_is_at_least_half_and_has_its_known_mean(alpha):
    """Also for a small alpha, where both of the Gamma variables behind a share can underflow."""
    weights = draw_weights(alpha, 400_000, torch.Generator().manual_seed(0))

    assert weights.min() >= 0.5
    assert weights.max() <= 1
    assert weights.double().mean().item() == pytest.approx(textbook.mean_larger_share(alpha), abs=1e-3)


def test_the_weights_spread_like_the_larger_share_of_a_beta_variable():
    ours = draw_weights(0.4, 200_000, torch.Generator().manual_seed(0))
    shares = torch.distributions.Beta(0.4, 0.4).sample((200_000,))
    points = torch.linspace(0.05, 0.95, 19)

    torch.testing.assert_close(
        ours.quantile(points), torch.maximum(shares, 1 - shares).quantile(points), atol=5e-3, rtol=0
    )


def test_every_sample_has_its_own_weight():
    assert len(draw_weights(0.4, 64, torch.Generator().manual_seed(1)).unique()) > 60


@pytest.mark.parametrize("alpha", [0.0, -0.4, float("nan")])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ConfigError, match="alpha must be positive"):
        MixUp(alpha)


def test_mix_gives_the_named_share_to_the_sample_itself():
    """M7: weight * x + (1 - weight) * partner, in this order."""
    x = torch.tensor([[0.0], [10.0]])

    torch.testing.assert_close(mix(x, torch.tensor([1, 0]), torch.tensor([0.9, 0.9])), torch.tensor([[1.0], [9.0]]))
