"""What differs between runs: in what was asked for, in their data, and in where they ran."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from etude.runs.files import mapping, text
from etude.runs.read import RunRecord
from etude.runs.show import PRINTED, changed_lines
from etude.runs.text import plain, shorten

if TYPE_CHECKING:
    from etude.types import Json

OPTION, DATA, SETTING, VERSION, MACHINE, CODE = "option", "data", "setting", "version", "machine", "code"
_MISSING: Final = "-"
"""Where a run does not say."""
DATA_OPTIONS: Final = frozenset(
    {
        *("data", "size", "valid_pct", "split_seed", "label", "label_noise", "on_bad_data", "stored_size", "store"),
        *("min_scale", "flip", "squash", "color", "rotate", "erase", "target", "several", "sampling"),
    }
)
"""Options that decide what the data is, so that another fingerprint follows from them."""
_SETTINGS: Final = ("loss", "optimizer", "precision", "average", "step", "device", "accumulate", "steps_per_epoch")
_WIDEST: Final = 44
"""Signs of a value in the table."""
_KEEPING: Final = ("KeepRun(", "KeepCheckpoints(", "Checkpoints(", "ShowProgress(", "Record(")
"""Callbacks that only watch what every run has."""
_MACHINE: Final = ("platform", "machine", "cpu", "cpu_count", "cpus_allowed", "threads", "interop_threads", "gpus")


class Difference(NamedTuple):
    """One thing that is not the same in all runs."""

    group: str
    """option, data, setting, version, machine, code."""
    key: str
    values: tuple[Json, ...]
    """One for each run; "-" where a run does not say."""

    @property
    def told(self) -> bool:
        """Whether all runs say, as an older record may not; what was not asked for is no such gap."""
        return self.group in (OPTION, DATA, SETTING) or _MISSING not in self.values


def differences(runs: Sequence[RunRecord]) -> list[Difference]:
    """Everything that differs, in the order of its weight; what runs were called and where they lie is left out."""
    found = []
    facts = [_facts(run) for run in runs]
    for place in dict.fromkeys(place for one in facts for place in one):
        values = tuple(one.get(place, _MISSING) for one in facts)
        if any(not _same(value, values[0]) for value in values[1:]):
            found.append(Difference(*place, values))
    order = (OPTION, DATA, SETTING, CODE, VERSION, MACHINE)
    return sorted(found, key=lambda one: order.index(one.group))


def _same(one: Json, other: Json) -> bool:
    # True == 1 in Python, but not for a reader
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _facts(run: RunRecord) -> dict[tuple[str, str], Json]:
    """Everything that may differ, by group and key."""
    config, environment = run.config, run.environment
    facts: dict[tuple[str, str], Json] = {}
    for name, value in run.options.items():
        if name not in PRINTED:
            facts[OPTION, name] = value
    for name in ("kind", "fold"):
        if name in run.training:
            facts[OPTION, name] = run.training[name]
    for name, value in mapping(config.get("data")).items():
        facts[DATA, name] = value
    model = config.get("model")
    for name, value in mapping(model).items():
        facts[SETTING, f"model {name}"] = value
    if not isinstance(model, dict) and model is not None:
        facts[SETTING, "model"] = model
    facts |= {(SETTING, name): config[name] for name in _SETTINGS if name in config}
    facts |= {(SETTING, name): value for name, value in _lists(config)}
    facts |= {(VERSION, name): value for name, value in _versions(environment)}
    facts |= {(MACHINE, name): environment[name] for name in _MACHINE if name in environment}
    for part in ("numerics", "variables"):
        facts |= {(MACHINE, name): value for name, value in mapping(environment.get(part)).items()}
    return facts | _code(environment)


def _lists(config: Any) -> Iterator[tuple[str, Json]]:
    """The optimizer's groups, setting by setting, and each callback of its own."""
    groups = config.get("groups")
    groups = [mapping(one) for one in groups] if isinstance(groups, list) else []
    for name in dict.fromkeys(name for one in groups for name in one):
        values: list[Json] = [one.get(name) for one in groups]
        yield f"{name} of the groups", values if any(not _same(one, values[0]) for one in values) else values[0]
    callbacks = config.get("callbacks")
    for one in callbacks if isinstance(callbacks, list) else ():
        if not str(one).startswith(_KEEPING):
            kind, _, arguments = str(one).partition("(")
            yield f"callback {kind}", arguments.removesuffix(")") or "as it is"


def _versions(environment: Any) -> Iterator[tuple[str, Json]]:
    yield from mapping(environment.get("packages")).items()
    for name in ("python", "cuda", "cudnn", "torch_commit", "torch_build"):
        if name in environment:
            yield name, environment[name]


def _code(environment: Any) -> dict[tuple[str, str], Json]:
    """The checkout that a run was started in, and that of etude where it is another one."""
    git, source = mapping(environment.get("git")), mapping(environment.get("source"))
    facts: dict[tuple[str, str], Json] = {}
    for name, state in (("", git), *([("etude's ", source)] if source and source != git else [])):
        facts[CODE, f"{name}commit"] = text(state.get("commit"))[:12] or None
        facts[CODE, f"{name}uncommitted changes"] = _patch(text(state.get("changes")))
    return facts


def _patch(changes: str) -> str:
    """A patch as its length and a digest."""
    if not changes.strip():
        return "none"
    digest = hashlib.blake2b(changes.strip().encode("utf-8", "replace"), digest_size=4).hexdigest()
    return f"{changed_lines(changes)} lines ({digest})"


def things(found: Sequence[Difference]) -> list[str]:
    """What the runs differ in, in words, each thing once; what only follows from an option is no thing of its own."""
    options = [one.key for one in found if one.group == OPTION]
    groups = {one.group for one in found}
    named = [f"the option {name}" for name in options]
    if DATA in groups and not {*options} & {*DATA_OPTIONS, "kind", "fold"}:
        named.append("the data")
    if SETTING in groups and not {*options} - {"seed", "seeds"}:
        named.append("the settings")
    named += [one.key if one.key != "commit" else "the commit" for one in found if one.group == CODE and one.told]
    groups = {one.group for one in found if one.told}
    if VERSION in groups:
        named.append("versions")
    if MACHINE in groups:
        named.append("the machine or its settings")
    return named


def conditions(runs: Sequence[RunRecord]) -> list[str]:
    """What runs that should differ in their seed alone differ in besides: code, versions, machine."""
    return things([one for one in differences(runs) if one.group in (CODE, VERSION, MACHINE)]) if runs else []


def told(found: Sequence[Difference], letters: Sequence[str]) -> list[tuple[str, ...]]:
    """The differences that all runs tell of, as rows of a table with a header."""
    rows = [(one.group, plain(one.key), *map(in_words, one.values)) for one in found if one.told]
    return [("differs in", "", *letters), *rows] if rows else []


def in_words(value: Json) -> str:
    """A value in a few signs."""
    if isinstance(value, list) and len(value) > 4:
        digest = hashlib.blake2b(json.dumps(value).encode(), digest_size=4).hexdigest()
        return f"{len(value)} items ({digest})"
    said = plain(value if isinstance(value, str) else json.dumps(value))
    if len(said) <= _WIDEST:
        return said
    # what differs may be in the part that is left out
    digest = hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=4).hexdigest()
    return f"{shorten(said, _WIDEST - 11)} ({digest})"


# -- whether results can be compared at all ----------------------------------------------------------------------------


class Comparable(NamedTuple):
    """Whether two runs were measured on the same held-out data, and what is to be said of it."""

    same: bool
    why: str = ""


def comparable(one: RunRecord, other: RunRecord) -> Comparable:
    """Whether results of two runs are measured on the same held-out data."""
    kinds = [run.training.get("kind") for run in (one, other)]
    if "digits" in kinds and kinds[0] != kinds[1]:
        return Comparable(False, "one is trained on the demo's digits, the other is not")
    data = [mapping(run.config.get("data")) for run in (one, other)]
    if any("labels" not in identity for identity in data):
        return _by_description(*data)
    if data[0].get("classes") != data[1].get("classes"):
        return Comparable(False, "their classes are not the same")
    if data[0]["labels"] == data[1]["labels"]:
        if data[0].get("store") == data[1].get("store"):
            return Comparable(True)
        return Comparable(
            True,
            f"they have as many {one.noun}s with the same labels, but from files that differ or read in another way; "
            f"that the {one.noun}s are the same is not recorded",
        )
    if one.training.get("fold") != other.training.get("fold"):
        return Comparable(False, "another part of the data is held out (fold)")
    return _with_noise(one, other)


def _by_description(one: dict[str, Any], other: dict[str, Any]) -> Comparable:
    if not one or not other:
        return Comparable(False, "what the data was is not recorded")
    if one != other:
        return Comparable(False, "their data is described differently")
    return Comparable(True, "" if text(one.get("description")) else "their data has no fingerprint")


def _with_noise(one: RunRecord, other: RunRecord) -> Comparable:
    """Whether labels differ only in training, where some were made wrong on purpose."""
    split = ("data", "valid_pct", "split_seed", "label")
    noisy = any(run.options.get("label_noise") for run in (one, other))
    as_many = mapping(one.config["data"]).get("valid") == mapping(other.config["data"]).get("valid")
    if noisy and as_many and all(one.options.get(name) == other.options.get(name) for name in split):
        return Comparable(True, "training labels were made wrong on purpose; the held-out ones are the same")
    return Comparable(False, f"other {one.noun}s are held out, or they have other labels")
