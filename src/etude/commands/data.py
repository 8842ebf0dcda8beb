"""Commands that look at data: `etude data ...`."""

from __future__ import annotations

from typing import Annotated

from etude.commands.shared import Output, Pictures, SomeBadError, finish
from etude.recipes import data as data_recipe
from etude.recipes import options as given
from etude.recipes.options import DataOptions, OutputOptions


def list_known(*, output: Annotated[OutputOptions, Output] = OutputOptions()) -> None:  # noqa: B008  # frozen
    """List the data sets that are known by name."""
    finish(data_recipe.list_known(output), output)


def get(name: str, /, *, output: Annotated[OutputOptions, Output] = OutputOptions()) -> None:  # noqa: B008
    """Fetch a known data set, check it and unpack it.

    Parameters
    ----------
    name
        One of those that etude data list names, or an archive of your own.
    """
    finish(data_recipe.get(name, output), output)


def check(
    path: str | None = None,
    /,
    *,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Say what a training would take: layout, classes, odd and broken pictures.

    Parameters
    ----------
    path
        A folder, an archive, or a known data set; the same as --data.
    """
    finish(data_recipe.check(given.data_of(path, data), output), output)


def show(
    path: str | None = None,
    /,
    *,
    out: str = "batch.png",
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Draw what the model will see, augmentation included.

    Parameters
    ----------
    path
        A folder, an archive, or a known data set; the same as --data.
    out
        The PNG to write.
    """
    finish(data_recipe.show(given.data_of(path, data), out, output), output)


def cache(
    *,
    verify: bool = False,
    clear: bool = False,
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """List what is kept of earlier runs: decoded pictures, archives, downloads.

    Parameters
    ----------
    verify
        Read every store of decoded pictures, and say what is damaged.
    clear
        Remove everything; what is needed is made anew.
    """
    result = data_recipe.cached(verify=verify, clear=clear, output=output)
    finish(result, output)
    if result["damaged"]:
        raise SomeBadError
