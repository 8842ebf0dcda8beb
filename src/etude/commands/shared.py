"""What the commands share: how options are grouped in the help, and how a command ends."""

from __future__ import annotations

import json
from typing import Any

from cyclopts import Group, Parameter

from etude.recipes.options import OutputOptions

# each group of options stands at its own place in the help
Pictures, Texts, Model, Training, Run, Output = (
    Parameter(name="*", group=Group(name, sort_key=place))
    for place, name in enumerate(("Pictures", "Texts", "Model", "Training", "Run", "Output"), start=2)
)
From = Parameter(name="--from")
"""Where a body comes from; `from` is no name in Python."""
Lm = Parameter(name="--lm")
"""The run of a language model to begin from."""


class SomeBadError(Exception):
    """A command did its work, found that some files are bad, and has said which."""


def finish(result: dict[str, Any], output: OutputOptions) -> None:
    """Print a command's result as the last line, if asked."""
    if output.json:
        print(json.dumps(result))
