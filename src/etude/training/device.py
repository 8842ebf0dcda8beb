"""Which device a learner trains on, and how to wait for it."""

from __future__ import annotations

import torch

from etude.errors import ConfigError


def pick_device(device: str | torch.device) -> torch.device:
    """The named device, or for "auto" the GPU if there is one.

    Raises:
        ConfigError: the named device is not there; nothing else is taken in its place.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps", 0) if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}. Use 'auto' or 'cpu'."
        ) from error
    return torch.device(chosen.type, torch.cuda.current_device()) if str(chosen) == "cuda" else chosen


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was given: what timing it needs."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
