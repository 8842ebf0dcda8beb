"""Go on with a run that was stopped, as if it never had been."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from etude.recipes.asked import Asked, training_of
from etude.recipes.options import OutputOptions, RunOptions, TrainOptions, check, teller
from etude.recipes.several import Several, finish_all
from etude.recipes.train import fit_and_finish

if TYPE_CHECKING:
    from etude.training.snapshot import Snapshot
    from etude.types import Json

CHANGES: Final = {
    "epochs": "num_epochs",
    "lr": "lr",
    "pct_start": "lr",
    "precision": "precision",
    "device": None,
    "data": None,
}
"""What `--change` can name, and what that is to `Learner.fit`; None where the rest of the fit stays the same."""

MATTERS: Final = ("packages", "python", "machine", "cpu", "threads", "gpus", "cuda")
"""What of a run's environment the last bits of its weights depend on."""


def resume(
    run_folder: str,
    change: Sequence[str] = (),
    *,
    exact: bool = False,
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Json]:
    """Go on with a run from its newest whole checkpoint; the final weights are those of a run never stopped.

    Args:
        run_folder: of a run, or of several.
        change: settings that shall differ from now on, as "epochs=10".
        exact: refuse where the machine or a version differs, instead of saying so.
        output: what is printed.

    Returns:
        The run's result.

    Raises:
        ConfigError: the folder holds no run, another process trains it, or a setting cannot be changed.
        LoadError: none of its checkpoints is whole.
    """
    from etude.runs.record import running

    folder = Path(run_folder)
    config = _config(folder)
    changes = _changes(change)
    say = teller(output)
    if (result := finished(folder)) is not None and not changes:
        say(f"{folder} is finished; look at {folder / 'result.json'}")
        return result
    if "several" in config:
        if changes:
            raise _refused(
                f"{folder} holds several runs; --change one of them: etude resume {folder}/NAME --change ..."
            )
        try:
            several = Several.of(config["several"])
            run = RunOptions(json=output.json, quiet=output.quiet, **_kept(config))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _refused(f"{folder / 'config.json'} does not say which runs it holds: {error}") from error
        cwd = Path(str(_environment(folder).get("cwd", "")))
        return finish_all(several.found_again(partial(_from, cwd), folder), folder, run)
    with running(folder):
        return _go_on(folder, config, changes, exact=exact, output=output)


def finished(folder: Path) -> dict[str, Json] | None:
    """The result of a run that has ended; None for one that has not."""
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(f"{path} is damaged ({error}); remove it, and the run goes on from its checkpoints") from error
    if not isinstance(result, dict):
        raise _refused(f"{path} is not what etude writes; remove it, and the run goes on from its checkpoints")
    return result


def _go_on(
    folder: Path, config: dict[str, Any], changes: dict[str, Any], *, exact: bool, output: OutputOptions
) -> dict[str, Json]:
    from etude.runs.record import KeepRun
    from etude.training import checkpoint

    say = teller(output)
    before = _environment(folder)
    different = _differences(before, say)
    if different and exact:
        raise _refused(f"this is not where {folder} was trained: {'; '.join(different)}; without --exact it goes on")
    for line in different:
        say(f"note: {line}; the last bits of the result may differ")
    try:
        training = _training(config, changes, Path(str(before.get("cwd", ""))), folder)
        run = RunOptions(json=output.json, quiet=output.quiet, run_dir=str(folder), **_kept(config))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise _refused(f"{folder / 'config.json'} does not say how the run was made: {error}") from error
    check(training.train)
    start = None
    if checkpoint.checkpoints(folder / checkpoint.FOLDER):
        start = checkpoint.read_newest(folder, say=say)
        _refuse_at_its_end(folder, start, training, changes)
    say(_where(folder, start, training))
    body = config.get("body") if start else _body_of(folder, config, training)
    learner = training.learner(quiet=output.quiet)
    asked = [f"--change {name}={value}" for name, value in changes.items()]
    told = "; ".join([_where(folder, start, training), *asked, *different]) if start else ""
    # what was changed before stays so, also when no checkpoint has been written since
    about = {"epochs": training.num_epochs, "body": body}
    changed = {of for name in changes if (of := CHANGES[name])} | set(config.get("changed", ()))
    keep = KeepRun(folder, config["options"] | changes, training.record(), resumed=told, changed=changed, about=about)
    return fit_and_finish(training, run, learner, keep, start, changed if start else ())


def _body_of(folder: Path, config: dict[str, Any], training: Asked) -> Json:
    """What a training that begins again begins from; raises `ConfigError` where that is no longer what it was."""
    before, now = config.get("body"), training.about()["body"]
    if isinstance(before, dict) and isinstance(now, dict) and before.get("weights_sha256") != now["weights_sha256"]:
        raise _refused(
            f"{now['from']} has other weights than {folder} began from, and there is no checkpoint to go on from; "
            "bring them back, or start a new run"
        )
    return now


def _refuse_at_its_end(folder: Path, start: Snapshot, training: Asked, changes: dict[str, Any]) -> None:
    """Refuse a change that could not take effect, for nothing is left to be trained."""
    done, last = start.progress["fit_epoch"], max(len(training.all_phases()) - 1, 0)
    if changes and start.progress["phase"] == last and done >= training.train.epochs:
        raise _refused(
            f"{folder} has trained {done} epochs, so there is nothing left for the change to act on; give it more: "
            f"--change epochs={done + 1}"
        )


def _where(folder: Path, start: Snapshot | None, training: Asked) -> str:
    if start is None:
        return f"{folder} was stopped before its first checkpoint; it begins again"
    progress = start.progress
    return f"from the checkpoint of step {progress['step']}, after {progress['epoch']} of {training.num_epochs} epochs"


def _environment(folder: Path) -> dict[str, Any]:
    """Where the run was trained; nothing is known when it was killed before it could write that down."""
    try:
        found: dict[str, Any] = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _differences(before: dict[str, Any], say: Callable[[str], None]) -> list[str]:
    """What differs from where the run was trained and can change the last bits; threads are set as they were."""
    import torch

    from etude.runs.environment import environment

    threads = before.get("threads")
    if isinstance(threads, int) and threads != torch.get_num_threads():
        say(f"{threads} threads, as before")
        torch.set_num_threads(threads)
    now = environment()
    return [
        f"{name} was {before[name]}, now {now[name]}"
        for name in MATTERS
        if name in before and before[name] != now[name]
    ]


def _training(config: dict[str, Any], changes: dict[str, Any], cwd: Path, folder: Path) -> Asked:
    """What was trained, with what was measured then: precision and device must not be chosen anew."""
    measured = {name: config[name] for name in ("precision", "device") if config.get(name) is not None}
    train = {name: value for name, value in (measured | changes).items() if name != "data"}
    return training_of(config["training"]).resumed(train, changes.get("data"), partial(_from, cwd), folder)


def _from(cwd: Path, name: str) -> str:
    """A path as it was meant where the run was started; names that are no paths stay as they are."""
    return name if Path(name).exists() or not (cwd / name).exists() else str(cwd / name)


def _kept(config: dict[str, Any]) -> dict[str, Any]:
    """The options of the run's folder."""
    names = {field.name for field in fields(RunOptions)} - {field.name for field in fields(OutputOptions)} - {"run_dir"}
    return {name: value for name, value in config.get("options", {}).items() if name in names}


def _changes(change: Sequence[str]) -> dict[str, Any]:
    """What `--change` asks for, in its options' own types."""
    types: dict[str, Any] = {"epochs": int, "lr": float, "pct_start": float}
    found = {}
    for given in change:
        name, _, value = given.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if name not in CHANGES or not value:
            known = ", ".join(f"{known.replace('_', '-')}=..." for known in CHANGES)
            raise _refused(f"--change {given}: a resumed run can change {known}; for all else start a new one")
        try:
            found[name] = types.get(name, str)(value)
        except ValueError:
            raise _refused(f"--change {given}: {value!r} is no {types[name].__name__}") from None
    check(replace(TrainOptions(), **{name: value for name, value in found.items() if name != "data"}))
    return found


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _refused(f"{folder} holds no config.json, so it is not the folder of a run") from None
    except ValueError as error:
        raise _refused(f"{folder / 'config.json'} is damaged: {error}") from error
    if not isinstance(config, dict) or not ("several" in config or config.get("training")):
        raise _refused(f"{folder} was not made by a recipe; go on in Python: learner.fit(..., resume={str(folder)!r})")
    return config


def _refused(message: str) -> Exception:
    from etude.errors import ConfigError

    return ConfigError(message)
