"""The command that goes on with a run that was stopped."""

from __future__ import annotations

from typing import Annotated

from etude.commands.shared import Output, finish
from etude.recipes import resume as resume_recipe
from etude.recipes.options import OutputOptions


def resume(
    run_folder: str,
    /,
    *,
    change: list[str] | None = None,
    exact: bool = False,
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """Go on with a run that was stopped, as if it never had been.

    From its newest whole checkpoint; the final weights are, bit for bit, those
    of a run that was never stopped. A finished run is left alone.

    Parameters
    ----------
    run_folder
        The run, or the folder of several (seeds, folds, a study).
    change
        A setting that shall differ from now on, as epochs=10, lr=0.001, pct-start=0.2, precision=fp32 or device=cpu;
        or data=PATH, where the same pictures lie now.
    exact
        Refuse to go on with other versions or on another kind of machine, instead of saying what differs.
    """
    finish(resume_recipe.resume(run_folder, change or (), exact=exact, output=output), output)
