"""Look at data before training on it: what is known, what a folder holds, what the model will see, what is cached."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etude.output import plain
from etude.recipes.options import DataOptions, OutputOptions, TrainOptions, check_picture, teller
from etude.recipes.training import Training

if TYPE_CHECKING:
    from etude.data.loaders import DataLoaders
    from etude.types import Json

_HELD_OUT = 0.2
_NO_BATCHES = TrainOptions(batch_size=1)
"""Nothing is trained, so nothing is to be said of steps."""


def list_known(output: OutputOptions = OutputOptions()) -> dict[str, Json]:  # noqa: B008  # frozen
    """The data sets that can be fetched by name, with size, license and whether they are here already."""
    from etude.data import cache, fetch
    from etude.data.sources.known import DOCSTRINGS

    say = teller(output)
    rows: list[Json] = []

    def tell(name: str, size: str, license: str, description: str, *, here: bool) -> None:
        say(f"{name:<17} {size:>12}  {description}")
        say(f"{'':<17} {'here' if here else '':>12}  license: {license}")

    for name, known in sorted(fetch.DATASETS.items()):
        # a download under way has a .part, and any that was tried a .lock
        files = (cache.home() / "downloads").glob(f"{name}.*")
        here = any(path.suffix != ".lock" and ".part" not in path.suffixes for path in files)
        rows.append(
            {
                "name": name,
                "bytes": known.size,
                "license": known.license,
                "description": known.description,
                "here": here,
                "checked": known.digest is not None,
            }
        )
        size = cache.human_size(known.size) if known.size else "size unknown"
        tell(name, size, known.license, known.description, here=here)
    made = asdict(DOCSTRINGS) | {"bytes": None, "here": (cache.home() / DOCSTRINGS.name).exists(), "checked": True}
    tell(DOCSTRINGS.name, "made here", DOCSTRINGS.license, DOCSTRINGS.description, here=bool(made["here"]))
    rows.append(made)
    return {"datasets": rows}


def get(name: str, output: OutputOptions = OutputOptions()) -> dict[str, Json]:  # noqa: B008
    """Fetch a known data set, or unpack an archive; says the folder."""
    from etude.data import fetch
    from etude.recipes.texts import place_of
    from etude.training.display import progress_bar

    say = teller(output)
    with progress_bar(enabled=not output.quiet) as bar:
        folder = fetch.resolve(
            place_of(name, labeled=False), say=say, progress=lambda done, total: bar(name, done, total)
        )
    say(str(folder))
    return {"name": name, "folder": str(folder)}


def check(data: DataOptions, output: OutputOptions = OutputOptions()) -> dict[str, Json]:  # noqa: B008
    """Say what a training would take of a folder: layout, classes, odd and broken pictures, duplicates."""
    import torch

    loaders = _loaded(data, output)
    counts: dict[str, Json] = {}
    width = max(len(plain(name)) for name in loaders.vocab or ("",))
    for i, name in enumerate(loaders.vocab or ()):
        both: list[Json] = []
        for loader in (loaders.train, loaders.valid):
            targets = torch.zeros(0) if loader is None else loader.targets  # type: ignore[attr-defined]  # ours
            both.append(int(targets[:, i].sum()) if targets.ndim == 2 else int((targets == i).sum()))
        counts[name] = both
        if not output.quiet:
            print(f"  {plain(name):<{width}} {both[0]:>7} train {both[1]:>6} valid")
    numbers = loaders.numbers
    for name, mean, std in () if numbers is None else zip(numbers.names, numbers.mean, numbers.std, strict=True):
        teller(output)(f"  {name}: mean {mean:.6g}, standard deviation {std:.4g} in training")
    return {
        "description": loaders.description,
        "classes": counts,
        "numbers": None if numbers is None else numbers.config(),
        "incidents": [{"file": name, "outcome": outcome, "reason": why} for name, outcome, why in loaders.incidents],
        "mean": list(loaders.preprocess.mean),  # type: ignore[union-attr, arg-type]  # ours
        "std": list(loaders.preprocess.std),  # type: ignore[union-attr, arg-type]
    }


def show(data: DataOptions, out: str = "batch.png", output: OutputOptions = OutputOptions()) -> dict[str, Json]:  # noqa: B008
    """Draw what the model will see: training pictures in three epochs each, and validation pictures."""
    from etude.vision.show import draw_batch

    check_picture(out)
    loaders = _loaded(data, output)
    draw_batch(loaders, Path(out))
    if not output.quiet:
        print(f"look at {out}")
    return {"picture": out, "description": loaders.description}


def _loaded(data: DataOptions, output: OutputOptions) -> DataLoaders:
    """What a training would take; where nothing is held out a share is, to have something to look at."""
    from etude.errors import ConfigError

    try:
        return Training(name="data", data=data, train=_NO_BATCHES).loaders(quiet=output.quiet)
    except ConfigError:
        if data.valid_pct is not None:
            raise
        shared = replace(data, valid_pct=_HELD_OUT)
        loaders = Training(name="data", data=shared, train=_NO_BATCHES).loaders(quiet=output.quiet)
        teller(output)(
            f"  note: {data.data} has no validation pictures of its own; a training needs --valid-pct, {_HELD_OUT} here"
        )
        return loaders


def cached(
    *,
    verify: bool = False,
    clear: bool = False,
    output: OutputOptions = OutputOptions(),  # noqa: B008
) -> dict[str, Json]:
    """List what is kept of earlier runs: decoded pictures, unpacked archives, downloads.

    Args:
        verify: read every store, and say which pictures are damaged.
        clear: remove everything; it is made anew when it is needed.
        output: whether to print.
    """
    from etude.data import cache

    say = teller(output)
    rows: list[dict[str, Json]] = []
    for kind, path in cache.entries():
        if cache.is_part(path):
            say(f"{kind:<9} {'':>9}  {path.name}  being made, or left by a process that was killed")
            continue
        size = cache.size_of(path)
        row: dict[str, Json] = {"kind": kind, "name": path.name, "bytes": size}
        note = _look_into(path, row, verify=verify) if kind == "stores" and path.is_dir() else ""
        rows.append(row)
        say(f"{kind:<9} {cache.human_size(size):>9}  {path.name}{note}")
    total = sum(row["bytes"] for row in rows if isinstance(row["bytes"], int))
    damaged: list[Json] = [row["name"] for row in rows if row.get("damaged")]
    if clear:
        freed, kept = cache.clear()
        say(f"removed {cache.human_size(freed)} from {cache.home()}")
        for line in kept:
            print(f"left alone: {line}", file=sys.stderr)
    else:
        say(f"{cache.human_size(total)} in {cache.home()}")
    if damaged and not clear:
        print(f"damaged: {', '.join(map(str, damaged))}; etude data cache --clear removes all", file=sys.stderr)
    entries: list[Json] = list(rows)
    return {
        "folder": str(cache.home()),
        "entries": entries,
        "bytes": total,
        "cleared": clear,
        "damaged": [] if clear else damaged,
    }


def _look_into(path: Path, row: dict[str, Json], *, verify: bool) -> str:
    """What a store of decoded pictures holds, into its row and in words."""
    from etude.data.store import open_store
    from etude.errors import LoadError

    try:
        store = open_store(path)
        damaged = store.damaged() if verify else []
        row["samples"], row["example"] = len(store), next(iter(store.names), "")
    except LoadError as error:
        row["damaged"] = [str(error)]
        return "  DAMAGED: cannot be opened"
    note = f"  {len(store)} pictures, such as {row['example']}"
    if verify:
        row["damaged"] = list(damaged)
        note += f"; DAMAGED: {', '.join(damaged[:3])}" if damaged else "; whole"
    return note
