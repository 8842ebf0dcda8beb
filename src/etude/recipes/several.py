"""Several trainings in folders beside each other: seeds, folds, or the variants of a study."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from etude.recipes.asked import Asked, training_of
from etude.recipes.options import OutputOptions, Precision, RunOptions, flags, teller
from etude.recipes.seeds import summarize

if TYPE_CHECKING:
    from etude.types import Json

Result: TypeAlias = Literal["mean", "study", "transfer", "bptt", "ulmfit", "demo-text"]


@dataclass(frozen=True)
class Several:
    """Trainings that belong together.

    Args:
        title: what they are, for people.
        parts: folder name to training, in the order in which they run.
        result: what is made of them: their "mean", a "study" that compares variants, the "transfer" or the "bptt"
            study, or the stages of "ulmfit" or of the "demo-text".
        group: in a study, a base is the first of so many variants after each other; None compares with the first.
        variants: in a study, each part's variant, in words.
    """

    title: str
    parts: Mapping[str, Asked]
    result: Result = "mean"
    group: int | None = None
    variants: Mapping[str, str] | None = None

    def record(self) -> dict[str, Json]:
        """All of it as JSON, for the folder's record."""
        return {
            "title": self.title,
            "parts": {name: training.record() for name, training in self.parts.items()},
            "result": self.result,
            "group": self.group,
            "variants": None if self.variants is None else dict(self.variants),
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Several:
        """What `record` gave; raises `KeyError`, `TypeError` or `ValueError` for something else."""
        from etude.runs.read import is_plain_name

        parts = {name: training_of(part) for name, part in record["parts"].items()}
        if bad := [name for name in parts if not is_plain_name(name)]:
            raise ValueError(f"{bad[0]!r} is no name of a folder in it")
        return cls(record["title"], parts, record["result"], record["group"], record["variants"])

    def found_again(self, found: Callable[[str], str], folder: Path) -> Several:
        """The same where it goes on, perhaps from another folder; see `Asked.resumed`."""
        return replace(
            self, parts={name: part.resumed({}, None, found, folder / name) for name, part in self.parts.items()}
        )


def over_seeds(training: Asked, run: RunOptions) -> dict[str, Json]:
    """Run a training once, or for `train.seeds` seeds in folders beside each other.

    Returns:
        The run's result; for several seeds `{"run": folder, "runs": [...], "valid_accuracy": mean, ...}`.
    """
    from etude.recipes.options import check
    from etude.recipes.train import train_once

    train = training.train
    check(train)
    if train.seeds == 1:
        return train_once(training, run)
    seeds = range(train.seed, train.seed + train.seeds)
    parts = {f"seed-{seed}": training.seeded(seed) for seed in seeds}
    return run_all(Several(training.name, parts), training.name, run)


def run_all(several: Several, name: str, run: RunOptions) -> dict[str, Json]:
    """Train every part, and summarize them.

    Args:
        several: what to train.
        name: of the folder.
        run: where it goes.
    """
    from etude.runs.environment import environment
    from etude.runs.record import check_run_dir, new_run_folder
    from etude.training.saving import write_json

    check_run_dir(run.run_dir)
    folder = new_run_folder(name, run.run_dir, several=True)
    write_json(folder / "config.json", {"options": flags(run), "several": several.record()})
    write_json(folder / "environment.json", environment())
    try:
        return finish_all(several, folder, run)
    except (KeyboardInterrupt, SystemExit):
        teller(run)(f"go on with all of them: etude resume {shlex.quote(str(folder))}")
        raise


def finish_all(several: Several, folder: Path, run: RunOptions) -> dict[str, Json]:
    """Train the parts that are not trained yet, go on with one that was stopped, and summarize all."""
    from etude.runs.record import running

    with running(folder):
        return _finish_all(several, folder, run)


def _finish_all(several: Several, folder: Path, run: RunOptions) -> dict[str, Json]:
    say = teller(run)
    results: dict[str, dict[str, Json]] = {}
    precision: Precision | None = None
    for i, (name, training) in enumerate(several.parts.items(), 1):
        say(f"\n--- {_what(several, name)}, run {i} of {len(several.parts)}")
        if precision is not None:
            # what the first run measured holds for all: else two of them might differ in more than was asked
            training = training.in_precision(precision)
        results[name] = _one(training.beside(folder), folder / name, run)
        precision = cast("Precision", results[name]["precision"])
    if several.result == "mean":
        return summarize(several.title, folder, list(results.values()), say)
    from etude.recipes import bptt_study, demo_text, pets_study, studies, ulmfit

    concludes: dict[Result, Callable[..., dict[str, Json]]] = {
        "study": studies.conclude,
        "transfer": pets_study.conclude,
        "bptt": bptt_study.conclude,
        "ulmfit": ulmfit.conclude,
        "demo-text": demo_text.conclude,
    }
    return concludes[several.result](several, folder, results, say)


def _one(training: Asked, folder: Path, run: RunOptions) -> dict[str, Json]:
    """A part's result: from its folder if it is there, else from training it, or what is left of it."""
    from etude.recipes.resume import resume
    from etude.recipes.train import train_once

    if (folder / "config.json").exists():
        return resume(str(folder), output=OutputOptions(json=run.json, quiet=run.quiet))
    return train_once(training, replace(run, run_dir=str(folder)))


def _what(several: Several, name: str) -> str:
    """A part in words."""
    seed = several.parts[name].train.seed
    if several.variants is not None:
        return f"{several.variants[name]}, seed {seed}"
    return name.replace("-", " ")
