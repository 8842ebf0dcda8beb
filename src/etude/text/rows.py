"""Rows: the tokens that each chunk of a text becomes, found out once. What `numericalize` looks chunks up in."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, final

from etude.text.rules import (
    CAPS_RULES,
    TokenRule,
    replace_rep,
    replace_wrep,
    rm_useless_spaces,
    spec_add_spaces,
)
from etude.text.special import BOS, EOS
from etude.text.tokenizers import Tokenizer

WORD, SPACE_BEFORE, BLANK_BEFORE, BLANK_BEHIND, LINES = 1, 2, 4, 8, 16
"""What is noted of a row: its chunk holds a word; a rule puts a space in front of it; it begins with a blank that is no
space; it ends with one, and its tokens are those of the chunk and a space; it is line breaks and spaces."""

_WORD_CHARACTER: Final = re.compile(r"\w")
_CHUNK_RULES: Final = (replace_rep, replace_wrep, spec_add_spaces, rm_useless_spaces)
"""The rules for texts that see one chunk at a time (`replace_wrep` mostly)."""
_REWRITTEN: Final = re.compile(r"[/#]|(\S)\1{3}|\b(\w++\W++)\2{3}")
"""A chunk that the rules for texts may change."""


class _Numbers(dict[str, int]):
    """Tokens and their numbers, in the order in which they came; a new token gets the next number."""

    def __missing__(self, token: str) -> int:
        self[token] = number = len(self)
        return number


@final
class _Words(dict[str, tuple[int, ...]]):
    """What a tokenizer returned, and the numbers of the tokens that each becomes by the rules for tokens.

    Those rules look at one token at a time, so each is put through them once.
    """

    def __init__(self, rules: Sequence[TokenRule]) -> None:
        super().__init__()
        self.rules, self.numbers = rules, _Numbers()

    def __missing__(self, word: str) -> tuple[int, ...]:
        tokens = [word]
        if not word.islower():  # else there are no capitals, and the rules would change nothing
            for rule in self.rules:
                tokens = rule(tokens)
        self[word] = numbers = tuple(map(self.numbers.__getitem__, tokens))
        return numbers


@final
class Rows(dict[str, int]):
    """Chunks and the numbers of their rows; a new chunk is put through rules and tokenizer and gets the next row."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.cut = tokenizer.tokens
        self.words = _Words(() if tokenizer.marks_caps else CAPS_RULES)
        self.tokens, self.ends, self.notes = array("i"), array("q", [0]), bytearray()
        self.first, self.last, self.empty = self.add([BOS], WORD), self.add([EOS]), self.add([])
        # the row that stands for another one when a space follows
        self.spaced = {self.first: self.add([BOS, *self.cut(" ")], WORD)}
        self.forget()

    def forget(self) -> None:
        """Forget which chunk has which row, and what the tokenizer returned; rows and the tokens' numbers stay."""
        self.clear()
        self.words.clear()
        self[""] = self.empty

    def add(self, words: Iterable[str], notes: int = 0) -> int:
        """A new row for what a tokenizer returned; its number."""
        self.tokens.extend(chain.from_iterable(map(self.words.__getitem__, words)))
        return self._end(notes)

    def add_tokens(self, tokens: Iterable[str]) -> int:
        """A new row for tokens that are through all rules; its number."""
        self.tokens.extend(map(self.words.numbers.__getitem__, tokens))
        return self._end(0)

    def _end(self, notes: int) -> int:
        self.ends.append(len(self.tokens))
        self.notes.append(notes)
        return len(self.notes) - 1

    def __missing__(self, chunk: str) -> int:
        text, notes = chunk, WORD
        if not chunk.isalnum():
            notes = self._notes(chunk)
            if notes & BLANK_BEHIND:
                text += " "
        if _REWRITTEN.search(chunk):
            for rule in _CHUNK_RULES:
                text = rule(text)
            if text[0] == " ":
                text, notes = text[1:], notes | SPACE_BEFORE
        self[chunk] = row = self.add(self.cut(text), notes)
        if notes & LINES:
            self.spaced[row] = self.add(self.cut(text.removesuffix(" ") + " "), notes)
        return row

    @staticmethod
    def _notes(chunk: str) -> int:
        """What is noted of a chunk that is not all letters and digits."""
        notes = WORD if _WORD_CHARACTER.search(chunk) else 0
        if chunk[0].isspace():
            notes |= BLANK_BEFORE
        if chunk[-1].isspace():
            notes |= LINES if chunk[0] == "\n" and not chunk.strip(" \n") else BLANK_BEHIND
        return notes
