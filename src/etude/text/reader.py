"""From one text to token ids, as validation texts became them: for prediction, after training and in exports."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from etude.data.build import BadFile
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.output import plain
from etude.text.batching import pad_texts
from etude.text.files import find_texts
from etude.text.reading import clean, read_text
from etude.text.special import PAD, UNK
from etude.text.tokenize import changed_since, tokenize
from etude.text.tokenizers import Tokenizer, make_tokenizer
from etude.types import Inputs

if TYPE_CHECKING:
    from jaxtyping import Int

    from etude.types import Json


def tokenizer_of(vocab: Vocab) -> Tokenizer:
    """The tokenizer that made a vocabulary; that of words unless it says so.

    Raises:
        ConfigError: there is no such tokenizer, or what it needs is not installed.
    """
    made_by = (vocab.made_by or {}).get("tokenizer", "words")
    if not isinstance(made_by, str | dict):
        raise ConfigError(f"a vocabulary was made by {made_by!r:.40}; expected a tokenizer's name or configuration")
    return make_tokenizer(made_by)


@final
class TextReader:
    """From a text (a `str`) or a file (a `Path`) to the ids of its tokens.

    Args:
        vocab: the tokens; `vocab.made_by` says how texts are cut into them, by words unless it says so.
        backward: from the last token to the first, for a model that reads so.
        max_length: longer texts are cut after so many tokens; None keeps all.

    Where rules or tokenizer are others than those that made the vocabulary, a `UserWarning` says so.

    Raises:
        ConfigError: the vocabulary has no special tokens, so it is none of tokens, or asks for what is not installed.

    Source: SPEC P1.
    """

    def __init__(self, vocab: Vocab, *, backward: bool = False, max_length: int | None = None) -> None:
        if vocab.get(UNK) is None or vocab.get(PAD) is None:
            raise ConfigError(f"a vocabulary of tokens holds {UNK} and {PAD}; this one holds {list(vocab)[:5]}")
        self.vocab, self.backward, self.max_length = vocab, backward, max_length
        self.tokenizer = tokenizer_of(vocab)
        self._unknown = vocab.number(UNK)
        if changed := changed_since(vocab.made_by or {}, self.tokenizer):
            warnings.warn(
                f"the vocabulary was made by the {changed} of another version, so texts are read otherwise than the "
                "model learned them. Use the versions that made it, or train anew.",
                stacklevel=2,
            )

    def config(self) -> dict[str, Json]:
        """What `from_config` builds it again from."""
        return {
            "tokens": list(self.vocab),
            "made_by": None if self.vocab.made_by is None else dict(self.vocab.made_by),
            "backward": self.backward,
            "max_length": self.max_length,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TextReader:
        """The reader that `config` described.

        Raises:
            ConfigError: it describes none.
        """
        try:
            tokens, made_by = config["tokens"], config["made_by"]
            backward, max_length = config["backward"], config["max_length"]
        except KeyError as error:
            raise ConfigError(f"a reader of texts is described by tokens, made_by, ...; {error} is missing") from error
        if not isinstance(tokens, list) or not all(type(token) is str for token in tokens):
            raise ConfigError("the tokens of a reader of texts must be a list of names")
        if not (made_by is None or isinstance(made_by, dict)) or type(backward) is not bool:
            raise ConfigError("a reader of texts has made_by, a dict or None, and backward, true or false")
        if max_length is not None and (type(max_length) is not int or max_length < 1):
            raise ConfigError(f"max_length must be at least 1 token, or None for whole texts; got {max_length!r:.40}")
        return cls(Vocab(tokens, made_by=made_by), backward=backward, max_length=max_length)

    def __call__(self, item: Any) -> Int[Tensor, "time"]:
        """Read one text; raises `DataError` naming the file, also of an empty one. Ids, as from here, pass through."""
        if isinstance(item, Tensor):
            if item.ndim != 1 or item.is_floating_point():
                raise DataError(f"expected a text, or its ids (time); got a tensor {tuple(item.shape)} of {item.dtype}")
            if not len(item) or item.min() < 0 or item.max() >= len(self.vocab):
                lowest_highest = (int(item.min()), int(item.max())) if len(item) else "none"
                raise DataError(
                    f"ids of a text are from 0 to {len(self.vocab) - 1}, one at least; got {lowest_highest}"
                )
            return item.long()
        if isinstance(item, str):
            text = clean(item).text
        elif isinstance(item, os.PathLike):
            try:
                text = read_text(Path(item)).text
            except BadFile as bad:
                raise DataError(f"{plain(item)} {bad}. Repair it or take it out.") from bad
        else:
            raise DataError(f"expected a text (str), or a file (pathlib.Path); got a {type(item).__name__}")
        if not text.strip():
            # a model would answer it with confidence all the same
            raise DataError(
                f"{plain(item)} holds no text" if isinstance(item, os.PathLike) else "an empty text was given"
            )
        tokens = tokenize(text, self.tokenizer)[: self.max_length or sys.maxsize]
        ids = [self._unknown if (number := self.vocab.get(token)) is None else number for token in tokens]
        return torch.tensor(ids[::-1] if self.backward else ids)

    def collate(self, texts: Sequence[Tensor]) -> Inputs:
        """Several texts as a batch, padded at the end, with their lengths."""
        return dict(pad_texts(texts, self.vocab.number(PAD)))

    def files_in(self, folder: Path) -> list[Path]:
        """The files of texts below a folder, sorted."""
        return find_texts(folder)
