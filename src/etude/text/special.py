"""The special tokens: what a text holds beside its words.

Their numbers are never written down anywhere: `vocab.number(UNK)` looks them up by name.

Source: SPEC P2.
"""

from __future__ import annotations

from typing import Final

UNK: Final = "xxunk"
"""A word that the vocabulary does not hold."""
PAD: Final = "xxpad"
"""Fills short texts of a batch."""
BOS: Final = "xxbos"
"""A text begins."""
EOS: Final = "xxeos"
"""A text ends."""
REP: Final = "xxrep"
"""A character comes several times: `xxrep 4 !`."""
WREP: Final = "xxwrep"
"""A word comes several times: `xxwrep 5 very`."""
UP: Final = "xxup"
"""The next word was all in capitals."""
MAJ: Final = "xxmaj"
"""The next word began with a capital."""

SPECIAL: Final = (UNK, PAD, BOS, EOS, REP, WREP, UP, MAJ)
"""In the order in which they come first in every vocabulary."""
