"""Say a line."""

from __future__ import annotations

import os
import sys


def tell(line: str) -> None:
    """Print a line at once; work goes on in silence when whoever read our output has left, as `head` does."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # what is printed from now on, and what Python still holds at its end, goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
