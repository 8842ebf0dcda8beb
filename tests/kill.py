"""Kill a training again and again, at planned and at random moments: nothing may be lost, and nothing may differ.

    python tests/kill.py [--kills 200] [--seed 0] [--spawn]

Each run is killed several times, most lives at a planned place (an operation in the midst of a save, a batch, a batch
inside a window of accumulated ones, a batch of the validation pass), some by the clock. After each kill every
checkpoint is hashed; the next life resumes; and when the run has come to its end, its weights, buffers, optimizer,
table, history and random generator must have the bits of one that was never stopped.

The parent imports torch and trains once, in one thread, and then forks, so that a life costs a fraction of a second;
--spawn, and a system without fork, start a Python for each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from etude.errors import LoadError
from etude.training import checkpoint
from killing import KILL, Board, Case, Plan, live, warm_up

CASES = (Case("fp32", 1), Case("bf16", 2), Case("bf16", 1, keep=1), Case("fp32", 2))
SHARES = {"save": 0.28, "replace": 0.05, "batch": 0.38, "window": 0.13, "valid": 0.11, "clock": 0.05}
"""Of all kills, by how they are planned."""
LEAST = {"in a save": 0.3, "in mid-epoch": 0.5, "inside a window of accumulated batches": 0.1, "in validation": 0.1}
"""Shares of all kills that must have come about, or the test has not tested what it is for."""
OPERATIONS = {"mkdir": 1, "save_file": 2, "open": 5, "text": 3, "fsync": 7, "rename": 2, "unlink": 5, "rmdir": 1}
"""In one save, and how many of them."""
REPLACING = {"rename": 3, "unlink": 5, "rmdir": 1, "fsync": 8}
"""In a save that takes the place of another."""
MOMENTS = ("batch: before the model", "batch: before the update", "batch: after it")
SECONDS_OF_A_LIFE = 60


@dataclass
class Tally:
    """What has been seen."""

    places: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    checkpoints: int = 0
    damaged: int = 0
    runs: int = 0
    unreadable: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.places.total()

    def add(self, other: dict) -> None:
        """Add what another process has seen."""
        for name, value in other.items():
            setattr(self, name, getattr(self, name) + type(getattr(self, name))(value))


def draw(kind: str, rng: random.Random) -> Plan:
    """A place for the end of the next life."""
    if kind in ("save", "replace"):
        table = OPERATIONS if kind == "save" else REPLACING
        name = rng.choice(list(table))
        when = rng.choice(
            {"save_file": ["half", "amid", "amid", "after"], "text": ["half"]}.get(name, ["before", "after"])
        )
        number = rng.randint(3, 5) if name in ("unlink", "rmdir") else rng.randint(1, 5)
        return Plan(kind, rng.randint(1, 3) if kind == "replace" else number, name, rng.randint(1, table[name]), when)
    most = {"batch": 12, "window": 7, "valid": 5}.get(kind, 1)
    return Plan(kind, rng.randint(1, most), rng.choice(MOMENTS) if kind == "batch" else "")


class Process:
    """A life in a process of its own, its output in a file."""

    def __init__(self, case: Case, folder: Path, plan: Plan, board: Path, *, spawn: bool) -> None:
        log = folder.with_suffix(".log")
        self.popen: subprocess.Popen | None = None
        if spawn:
            what = json.dumps([case, str(folder), plan, str(board)])
            with log.open("ab") as out:
                self.popen = subprocess.Popen([sys.executable, __file__, "--live", what], stdout=out, stderr=out)
            self.pid = self.popen.pid
            return
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                live(case, folder, plan, board)
                code = 0
            except SystemExit as stop:
                code = stop.code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def kill(self) -> None:
        os.kill(self.pid, KILL)

    def wait(self) -> int:
        """Its exit code; that of the signal, negative, for one that was killed."""
        if self.popen is not None:
            return self.popen.wait(SECONDS_OF_A_LIFE)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def one_life(case: Case, folder: Path, plan: Plan, seconds: float, *, spawn: bool) -> tuple[int, str, str]:
    """How it ended, and what its main thread and its writer were doing then."""
    board_path = folder.with_suffix(".board")
    board = Board(board_path, new=True)
    process = Process(case, folder, plan, board_path, spawn=spawn)
    if plan.kind == "clock":
        while board.read(0) in ("", "beginning", "resuming") and seconds > 0:
            time.sleep(0.002)
            seconds -= 0.0002
        time.sleep(max(seconds, 0))
        process.kill()
    code = process.wait()
    found = code, board.read(0), board.read(1)
    board.close()
    return found


class Chain:
    """One run, killed several times until it comes to its end."""

    def __init__(self, case: Case, folder: Path, whole: dict[str, str], tally: Tally, rng: random.Random) -> None:
        self.case, self.folder, self.whole, self.tally, self.rng = case, folder, whole, tally, rng
        (folder / checkpoint.FOLDER).mkdir(parents=True)
        self.newest: tuple | None = None
        self.cut: set[str] = set()
        self.told = ""

    def after_kill(self, plan: Plan, main: str, writer: str) -> None:
        """Hash every checkpoint; sometimes cut the newest, which must then be passed over and replaced."""
        tally, folder = self.tally, self.folder / checkpoint.FOLDER
        place = f"{main} | {writer}" if writer else main
        tally.places[place] += 1
        tally.kinds[plan.kind] += 1
        self.told += f"\n  {plan}: {place}"
        whole = []
        for path in folder.glob("step-*"):
            tally.checkpoints += 1
            try:
                checkpoint.verify(path)
                whole.append((checkpoint.position_of(path)[:2], path))
                self.cut.discard(path.name)  # it was written again
            except LoadError as error:
                if path.name.removesuffix("+new") not in self.cut:
                    tally.unreadable.append(f"{error}{self.told}")
        newest, path = max(whole, default=(None, None))
        if self.newest is not None and (newest is None or newest < self.newest):
            tally.lost.append(f"{self.folder}: {self.newest} was there, now {newest}{self.told}")
        self.newest = newest
        if len(whole) > 1 and self.rng.random() < 0.1:
            with (path / "state.safetensors").open("r+b") as file:
                file.truncate(100)
            tally.damaged += 1
            self.cut.add(path.name.removesuffix("+new"))
            self.newest = max(other for other, _ in whole if other != newest)
            self.told += f"\n  {path.name} cut by this test"

    def at_end(self) -> None:
        """Compare with the run that was never stopped."""
        self.tally.runs += 1
        result = json.loads(self.folder.with_suffix(".json").read_text())
        if other := [name for name in self.whole if self.whole[name] != result[name]]:
            self.tally.different.append(f"{self.folder} ({self.case}): other {other}{self.told}")
        folder = self.folder / checkpoint.FOLDER
        left = sorted(path.name for path in folder.iterdir() if path.name != checkpoint.LOCK)
        if len(left) > self.case.keep + 1 or any(checkpoint.position_of(folder / name) is None for name in left):
            self.tally.failed.append(f"{self.folder} has ended with {left}{self.told}")


def run_chains(wanted: Counter[str], wholes: list, root: Path, seed: int, *, spawn: bool, say) -> Tally:
    """Kill runs until every kind of kill has come about as often as wanted."""
    rng, tally = random.Random(seed), Tally()
    wanted, began = wanted.copy(), time.monotonic()
    for number in range(20 * (1 + wanted.total())):
        if not wanted.total() or tally.failed:
            break
        case, whole, seconds = rng.choice(wholes)
        chain = Chain(case, root / f"run-{seed}-{number}", whole, tally, rng)
        for _ in range(rng.randint(2, 9)):
            kind = rng.choice(sorted(wanted.elements())) if wanted.total() else "none"
            if not end_of_life(chain, draw(kind, rng), rng.uniform(0, seconds), wanted, spawn=spawn):
                break
            if tally.kills % 20 == 0:
                say(f"{tally.kills:4} kills, {time.monotonic() - began:.0f} s")
        else:
            end_of_life(chain, Plan("none"), 0, wanted, spawn=spawn)
        if not (tally.different or tally.unreadable or tally.lost or tally.failed):
            shutil.rmtree(chain.folder)
    return tally


def end_of_life(chain: Chain, plan: Plan, seconds: float, wanted: Counter[str], *, spawn: bool) -> bool:
    """One life of a run and what must hold after it; whether the run goes on."""
    code, main, writer = one_life(chain.case, chain.folder, plan, seconds, spawn=spawn)
    if code in (-KILL, KILL):
        chain.after_kill(plan, main, writer)
        wanted[plan.kind] -= 1
        return True
    if code == 128 + signal.SIGTERM and plan.kind == "replace":
        return True  # it was stopped in order: nothing was there to replace
    if code == 0:
        chain.at_end()
    else:
        log = chain.folder.with_suffix(".log").read_text()[-3000:]
        chain.tally.failed.append(f"{chain.folder} ({chain.case}) ended with {code}{chain.told}\n{log}")
    return False


def never_stopped(root: Path, *, spawn: bool) -> list[tuple[Case, dict[str, str], float]]:
    """What each case ends with when nothing happens to it, and how long that takes."""
    found = []
    if not spawn:
        warm_up(root / "warm-up")
    for number, case in enumerate(CASES):
        folder = root / f"whole-{number}"
        (folder / checkpoint.FOLDER).mkdir(parents=True)
        began = time.monotonic()
        code, *_ = one_life(case, folder, Plan("none"), 0, spawn=spawn)
        if code:
            raise RuntimeError(folder.with_suffix(".log").read_text())
        found.append((case, json.loads(folder.with_suffix(".json").read_text()), time.monotonic() - began))
    return found


def kill(kills: int, seed: int, root: Path, *, spawn: bool = False, processes: int = 2, say=print) -> Tally:
    """Kill that many times; see the head of this file."""
    wholes = never_stopped(root, spawn=spawn)
    kinds = [kind for kind, share in SHARES.items() for _ in range(max(1, round(share * kills)))][:kills]
    kinds += ["batch"] * (kills - len(kinds))
    if spawn or processes == 1:
        return run_chains(Counter(kinds), wholes, root, seed, spawn=spawn, say=say)
    tally, pids = Tally(), []
    for i in range(processes):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                part = run_chains(Counter(kinds[i::processes]), wholes, root, 1000 * seed + i, spawn=False, say=say)
                (root / f"tally-{i}.json").write_text(json.dumps(vars(part)))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        pids.append(pid)
    for i, pid in enumerate(pids):
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise RuntimeError("a process of this test failed")
        tally.add(json.loads((root / f"tally-{i}.json").read_text()))
    return tally


def totals(tally: Tally) -> Counter[str]:
    """Kills by what they are there to test; one in a save while training goes on counts as both."""
    found: Counter[str] = Counter()
    for place, count in tally.places.items():
        found["in a save"] += count * ("save" in place)
        found["in mid-epoch"] += count * place.startswith(("batch", "inside"))
        found["inside a window of accumulated batches"] += count * place.startswith("inside")
        found["in validation"] += count * place.startswith("validation")
    return found


def report(tally: Tally) -> bool:
    """Print what was seen; whether all is well."""
    for title, counts in (
        ("the main thread was at", Counter()),
        ("the writer was at", Counter()),
    ):
        for place, count in tally.places.items():
            main, _, writer = place.partition(" | ")
            counts[main if "main" in title else writer or "nothing"] += count
        print(f"\n{title}")
        for place, count in counts.most_common():
            print(f"  {count:4}  {place}")
    print("\nkills (one in a save in mid-epoch counts as both)")
    few = []
    for name, count in totals(tally).items():
        print(f"  {count:4}  {name}")
        few += [name] * (count < int(LEAST[name] * tally.kills))
    print(
        f"\n{tally.kills} kills of {tally.runs} runs; {tally.checkpoints} checkpoints hashed; {tally.damaged} damaged "
        f"on purpose\nunreadable checkpoints: {len(tally.unreadable)}\ncheckpoints lost: {len(tally.lost)}\n"
        f"different results: {len(tally.different)}\nother failures: {len(tally.failed)}"
    )
    for line in [*tally.unreadable, *tally.lost, *tally.different, *tally.failed]:
        print(line)
    for name in few:
        print(f"too few kills {name}")
    return not (tally.unreadable or tally.lost or tally.different or tally.failed or few)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill a training again and again.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--spawn", action="store_true", help="start a Python for each life instead of forking")
    parser.add_argument("--live", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.live:
        case, folder, plan, board = json.loads(given.live)
        live(Case(*case), Path(folder), Plan(*plan), Path(board))
        return 0
    # what a killed process has written is safe once the system has it: no disk need be waited for
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="etude-kill-", dir=memory) as root:
        spawn = given.spawn or "fork" not in dir(os)
        return int(not report(kill(given.kills, given.seed, Path(root), spawn=spawn, processes=given.processes)))


if __name__ == "__main__":
    sys.exit(main())
