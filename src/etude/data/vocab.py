"""Names to numbers and back: classes and tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, final

from typing_extensions import override

from etude.errors import DataError

if TYPE_CHECKING:
    from etude.types import Json


@final
class Vocab(Sequence[str]):
    """An ordered list of distinct names; a name's number is its position.

    Args:
        names: in the order of their numbers.
        made_by: for tokens, how they were made (the tokenizer's configuration, a hash of the rules), so that texts to
            come are cut the same way. Two vocabularies with the same names are equal whatever made them.

    >>> vocab = Vocab.of(["cat", "dog", "cat"])
    >>> list(vocab), vocab.number("dog"), vocab[0]
    (['cat', 'dog'], 1, 'cat')
    """

    def __init__(self, names: Sequence[str], *, made_by: Mapping[str, Json] | None = None) -> None:
        self._names = tuple(names)
        self.made_by = made_by
        self._numbers = {name: i for i, name in enumerate(self._names)}
        if len(self._numbers) < len(self._names):
            twice = sorted(name for name, count in Counter(self._names).items() if count > 1)
            raise DataError(f"a vocabulary's names must differ, but {twice[:5]} came more than once")

    @classmethod
    def of(cls, labels: Iterable[str]) -> Vocab:
        """The sorted distinct labels: the same numbers whatever order the files came in."""
        return cls(sorted(set(labels)))

    def number(self, name: str, *, source: str = "") -> int:
        """The number of a name; `source` tells in the error where it came from."""
        if name not in self._numbers:
            where = f" of {source}" if source else ""
            raise DataError(
                f"the label {name!r}{where} is not among the {len(self)} classes of the training data "
                f"({', '.join(self._names[:10])}{', ...' if len(self) > 10 else ''}). "
                "Add training samples of it, or leave the sample out."
            )
        return self._numbers[name]

    def get(self, name: str) -> int | None:
        """The number of a name; None if there is none. Asking for a name never adds it."""
        return self._numbers.get(name)

    @override
    def __getitem__(self, number: int) -> str:  # type: ignore[override]  # one name; slices are not needed
        return self._names[number]

    @override
    def __len__(self) -> int:
        return len(self._names)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocab) and self._names == other._names

    @override
    def __hash__(self) -> int:
        return hash(self._names)

    @override
    def __repr__(self) -> str:
        return f"Vocab({list(self._names)!r})"
