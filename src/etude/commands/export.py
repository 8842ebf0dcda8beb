"""The command that writes a trained run for use without etude."""

from __future__ import annotations

from typing import Annotated

from etude.commands.shared import Output, finish
from etude.recipes import export as export_recipe
from etude.recipes.options import OutputOptions


def export(
    run_folder: str,
    /,
    *,
    to: export_recipe.Form = "bundle",
    out: str | None = None,
    data_license: str | None = None,
    test_pictures: int = 4,
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """Write a trained run for use without etude.

    It is read back and compared with the run before it gets its name.

    Parameters
    ----------
    run_folder
        The run, as written by a training.
    to
        bundle is a folder of safetensors and JSON with a reader of its own, for etude's own models of pictures and its
        classifier of texts; torch-export and onnx are graphs, for any model.
    out
        A new or empty folder; by default RUN-FORM in the current one.
    data_license
        License of the data that it learned from; those of known data sets are known.
    test_pictures
        How many held-out pictures go into a bundle to test it with, where the run's data is at hand; into one
        of texts none goes.
    """
    result = export_recipe.export(
        run_folder, to=to, out=out, data_license=data_license, test_pictures=test_pictures, output=output
    )
    finish(result, output)
