"""The training loop you would write by hand: what `Learner` must equal bit for bit."""

from __future__ import annotations

import torch


def train(model, train_loader, valid_loader, loss_fn, optimizer, num_epochs, lr_at=None):
    """Plain PyTorch; `lr_at(i, total)` gives the learning rate of step i. Returns the validation loss per epoch."""
    losses, step, total = [], 0, num_epochs * len(train_loader)
    for _ in range(num_epochs):
        model.train()
        for inputs, targets in train_loader:
            for group in optimizer.param_groups if lr_at else ():
                group["lr"] = lr_at(step / total)
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
        model.eval()
        with torch.no_grad():
            sums = [(loss_fn(model(x), y).double() * len(x), len(x)) for x, y in valid_loader]
        losses.append(float(sum(loss for loss, _ in sums)) / sum(count for _, count in sums))
    return losses
