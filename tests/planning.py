"""A small learner to plan, and short timing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from etude import Learner, accuracy, optim
from etude.training import forecast


@pytest.fixture(autouse=True)
def little_time(request, monkeypatch):
    """A few steps are enough where no forecast is looked at."""
    if "slow" not in request.keywords:
        for name, seconds in (("_SECONDS", 0.1), ("_SECONDS_VALID", 0.05), ("_SECONDS_IN_ALL", 0.1)):
            monkeypatch.setattr(forecast, name, seconds)


def small_model() -> nn.Sequential:
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.LayerNorm(6))
    return nn.Sequential(body, nn.Sequential(nn.BatchNorm1d(6, affine=False), nn.Dropout(0.2), nn.Linear(6, 3)))


def small_learner(optimizer=optim.adamw(weight_decay=0.1), *, model=None, **options) -> Learner:  # noqa: B008
    torch.manual_seed(3)
    inputs = torch.randn(50, 4)
    dataset = TensorDataset(inputs, inputs[:, :3].argmax(1))
    loader = DataLoader(dataset, 16, shuffle=True, generator=torch.Generator().manual_seed(5))
    options = {"metrics": [accuracy], "groups": lambda model: list(model), "progress": False} | options
    return Learner(model or small_model(), (loader, loader), nn.CrossEntropyLoss(), optimizer, device="cpu", **options)
