"""From a text to its tokens: the readable, exact way. `numericalize` does the same to many texts, much faster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from etude.text.rules import CAPS_RULES, PRE_RULES, PROBE, add_bos_eos, rules_hash
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
    tokens = tokenizer.tokens(before_cutting(text))
    if not tokenizer.marks_caps:
        for token_rule in CAPS_RULES:
            tokens = token_rule(tokens)
    return add_bos_eos(tokens)


def before_cutting(text: str) -> str:
    """A text after the rules that come before the tokenizer."""
    for rule in PRE_RULES:
        text = rule(text)
    return text


_PROBE: Final = (
    f"{PROBE} Mr. O'Neill didn't pay $5.50 (really) :-) \"well-known\", e.g. 10km/h; U.K. it's I'm can't we'll y'all "
    "http://a.bc/d?e=f me@a.bc 1,000.5 3-4 9a.m. 'tis o'clock ... end.Start and/or --this-- C++ #1 50% €5 <3 ( : ) n't"
)


def made_by(tokenizer: Tokenizer) -> dict[str, Json]:
    """What a vocabulary keeps of how its tokens were made: the tokenizer, what it does to a fixed text, the rules."""
    cuts = json.dumps(tokenizer.tokens(_PROBE)).encode()
    return {
        "tokenizer": tokenizer.config(),
        "cuts": hashlib.blake2b(cuts, digest_size=8).hexdigest(),
        "rules": rules_hash() if tokenizer.rules else None,
    }


def changed_since(made: Mapping[str, Any], tokenizer: Tokenizer) -> str:
    """What is done otherwise than when a vocabulary was made, in words; empty where nothing is, as far as it says."""
    now = made_by(tokenizer)
    parts = {"rules": "rules", "cuts": "tokenizer"}
    return " and ".join(part for key, part in parts.items() if key in made and made[key] != now[key])
