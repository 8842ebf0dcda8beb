"""Opens folders, each in a process of its own, and prints how much memory that took and whether it was refused."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import torch

import etude
from etude.exports.read_bundle import Bundle


def opened(kind: str, folder: str) -> bool:
    """Whether it opens."""
    try:
        Bundle(folder).check() if kind == "bundle" else etude.load(folder, device="cpu")
    except (etude.EtudeError, ValueError):
        return False
    return True


def peak_of(kind: str, folder: str) -> dict[str, object]:
    """The peak of a child process that opens a folder."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        refused = not opened(kind, folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        os.write(writing, json.dumps({"refused": refused, "bytes": peak}).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return json.loads(told) if told else {"refused": False, "bytes": 1 << 60, "killed": Path(folder).name}


if __name__ == "__main__":
    torch.set_num_threads(1)
    opened(*sys.argv[1:3])
    print(json.dumps([peak_of(sys.argv[1], folder) for folder in sys.argv[2:]]))
