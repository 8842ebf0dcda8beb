"""Files that were not taken as they were, in lines for a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from etude.data.store import Incident

_FEW: Final = 3
"""Examples named in a line."""


def incident_lines(incidents: Iterable[Incident]) -> Iterator[str]:
    """A line for each kind of incident, skipped files first."""
    names = defaultdict(list)
    for name, outcome, reason in incidents:
        # what stands behind a colon belongs to one file alone
        names[outcome, reason.split(":")[0]].append(name)
    for (outcome, kind), found in sorted(names.items(), key=lambda item: (item[0][0] != "skipped", -len(item[1]))):
        yield f"  {outcome} {len(found)}: {kind} ({', '.join(found[:_FEW])}{', ...' if len(found) > _FEW else ''})"
