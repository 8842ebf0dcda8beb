"""From a text to its tokens: the readable, exact way. `numericalize` does the same to many texts, much faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.text.rules import CAPS_RULES, PRE_RULES, add_bos_eos, rules_hash
from etude.text.tokenizers import Tokenizer

if TYPE_CHECKING:
    from etude.types import Json


def tokenize(text: str, tokenizer: Tokenizer) -> list[str]:
    """The tokens of one text: rules on the text, the tokenizer, rules on the tokens.

    For a tokenizer of sequences that are no prose all rules are left out but the marks of beginning and end.

    >>> from etude.text.tokenizers import Words
    >>> tokenize("I DON'T like Paris!!!!", Words())
    ['xxbos', 'i', 'xxup', "don't", 'like', 'xxmaj', 'paris', 'xxrep', '4', '!', 'xxeos']

    Source: SPEC P3 to P6; any number of texts, one included (error 17 of its section 11).
    """
    if not tokenizer.rules:
        return add_bos_eos(tokenizer.tokens(text))
    for text_rule in PRE_RULES:
        text = text_rule(text)
    tokens = tokenizer.tokens(text)
    if not tokenizer.marks_caps:
        for token_rule in CAPS_RULES:
            tokens = token_rule(tokens)
    return add_bos_eos(tokens)


def made_by(tokenizer: Tokenizer) -> dict[str, Json]:
    """What a vocabulary keeps of how its tokens were made: the tokenizer and the rules."""
    return {"tokenizer": tokenizer.config(), "rules": rules_hash() if tokenizer.rules else None}
