"""Commands that look at run folders: runs, show and compare."""

from __future__ import annotations

from typing import Annotated

from etude.commands.shared import Output, finish
from etude.recipes import runs as recipe
from etude.recipes.options import OutputOptions
from etude.runs.listing import Sort


def runs(
    folder: str = recipe.RUNS,
    /,
    *,
    sort: Sort = "when",
    limit: int = 50,
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """List runs: what was trained, how it stands, and what came out.

    Parameters
    ----------
    folder
        Where runs lie; the folder of several seeds lists these.
    sort
        The newest, best or fastest first.
    limit
        How many to list; 0 lists all.
    """
    finish(recipe.list_runs(folder, sort=sort, limit=limit, output=output), output)


def show(run: str, /, *, output: Annotated[OutputOptions, Output] = OutputOptions()) -> None:  # noqa: B008
    """Show everything worth knowing of a run on one screen.

    Parameters
    ----------
    run
        Its folder, or its name in runs/.
    """
    finish(recipe.show_run(run, output), output)


def compare(
    run: str,
    others: list[str],
    /,
    *,
    out: str = "compare.png",
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """Compare runs: what differs, what came out, and whether it is chance.

    Folders of several seeds are paired seed by seed.

    Parameters
    ----------
    run
        A run, or the folder of several seeds; the others are compared with it.
    others
        One or more of the same kind.
    out
        The PNG for the curves.
    """
    finish(recipe.compare_runs([run, *others], out, output), output)
