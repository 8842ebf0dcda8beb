"""How long `etude --help` and `etude demo --help` take as whole processes: medians of eleven runs.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "etude", *arguments], capture_output=True, check=True)
    return time.perf_counter() - start


for arguments in (["--help"], ["demo", "--help"]):
    seconds(*arguments)
    times = [seconds(*arguments) for _ in range(11)]
    command, middle = " ".join(["etude", *arguments]), statistics.median(times)
    print(f"{command:18} median {middle:.3f} s, {min(times):.3f} to {max(times):.3f} s")
