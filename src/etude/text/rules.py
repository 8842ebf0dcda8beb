r"""Rules that put text into a form with fewer different words: before it is cut into tokens, and after.

Twenty exclamation marks become three tokens, a capital becomes a token of its own, and HTML becomes text again. Each
rule is a small function. The order matters: `sub_br` comes first, since a slash with spaces around it hides `<br/>`;
capitals are marked before everything is lower-cased.

Source: SPEC P3, P4, and errors 15 and 16 of its section 11.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Sequence
from typing import Final

from etude.text.special import BOS, EOS, MAJ, REP, UNK, UP, WREP

# No pattern here goes back over what it has passed: each takes time in proportion to the text, whatever the text is.
_BR: Final = re.compile(r"<[\s/]*+br(?:[\s/][^<>]*+)?>", re.IGNORECASE)
_REPEATED_CHAR: Final = re.compile(r"(\S)\1{3,}")
_REPEATED_WORD: Final = re.compile(r"\b((\w++)\W++)\1{3,}")
_SPACED: Final = re.compile(r"([/#])")
_SPACES: Final = re.compile(r" {2,}")
_NUMBERED: Final = re.compile(r"&#(?=[0-9])0*+([0-9]{0,8})[0-9]*+")
"""A character of HTML by its number. No number of more digits is a character, and Python converts no very long one."""

_ENTITIES: Final = (("#39;", "'"), ("amp;", "&"), ("#146;", "'"), ("nbsp;", " "), ("#36;", "$"), ("quot;", "'"))
"""Of HTML's characters what is left where the & in front was lost."""
_FIXES: Final = (
    # whole ones first: the notes make && of &amp;
    *((f"&{entity}", character) for entity, character in _ENTITIES),
    *_ENTITIES,
    ("\\n", "\n"),
    ("<br />", "\n"),
    ('\\"', '"'),
    ("<unk>", UNK),
    (" @.@ ", "."),
    (" @-@ ", "-"),
    ("\\", " \\ "),
)


def sub_br(text: str) -> str:
    r"""A line break for HTML's, in any form.

    >>> sub_br("one<br />two<BR/>three< br >four<br clear='all'>five")
    'one\ntwo\nthree\nfour\nfive'
    """
    return _BR.sub("\n", text) if "<" in text else text


def fixup_text(text: str) -> str:
    r"""Repair what HTML, JSON and WikiText leave in texts.

    >>> fixup_text("it#39;s 5 @.@ 2 miles &gt; <unk>  &copy; \\n")
    "it's 5.2 miles > xxunk © \n"
    """
    for old, new in _FIXES:
        text = text.replace(old, new)
    if "&#" in text:
        text = _NUMBERED.sub(lambda found: f"&#{found[1] or 0}", text)
    return rm_useless_spaces(html.unescape(text))


def replace_rep(text: str) -> str:
    """A character that comes four times or more in a row, as its number.

    >>> replace_rep("good!!!!! ccc")
    'good xxrep 5 !  ccc'
    """
    return _REPEATED_CHAR.sub(lambda found: f" {REP} {len(found[0])} {found[1]} ", text)


def repeats_a_word(text: str) -> bool:
    """Whether `replace_wrep` finds anything, once the rules before it have been applied.

    >>> repeats_a_word("no no no no!!!!"), repeats_a_word("no no no no!")
    (True, False)
    """
    return _REPEATED_WORD.search(replace_rep(text)) is not None


def replace_wrep(text: str) -> str:
    """A word that comes four times or more in a row, each time with the same characters behind it, as its number.

    >>> replace_wrep("very very very very very good; no, no, no!")
    ' xxwrep 5 very good; no, no, no!'
    """
    return _REPEATED_WORD.sub(lambda found: f" {WREP} {len(found[0]) // len(found[1])} {found[2]} ", text)


def spec_add_spaces(text: str) -> str:
    """Spaces around / and #.

    >>> spec_add_spaces("he/she #1")
    'he / she  # 1'
    """
    return _SPACED.sub(r" \1 ", text)


def rm_useless_spaces(text: str) -> str:
    """One space for several.

    >>> rm_useless_spaces("a   b")
    'a b'
    """
    return _SPACES.sub(" ", text)


def replace_all_caps(tokens: Sequence[str]) -> list[str]:
    """Mark and lower-case words that are all in capitals; a single letter is none.

    >>> replace_all_caps(["I", "AM", "SHOUTING"])
    ['I', 'xxup', 'am', 'xxup', 'shouting']
    """
    result: list[str] = []
    for token in tokens:
        if len(token) > 1 and token.isupper():
            result += (UP, token.lower())
        else:
            result.append(token)
    return result


def deal_caps(tokens: Sequence[str]) -> list[str]:
    """Mark words that begin with a capital, lower-case all, and drop empty ones.

    >>> deal_caps(["My", "name", "", "is", "Jeremy"])
    ['xxmaj', 'my', 'name', 'is', 'xxmaj', 'jeremy']
    """
    result: list[str] = []
    for token in tokens:
        if len(token) > 1 and token[0].isupper() and token[1:].islower():
            result.append(MAJ)
        if token:
            result.append(token.lower())
    return result


def add_bos_eos(tokens: Sequence[str]) -> list[str]:
    """Mark where a text begins and ends.

    >>> add_bos_eos(["hello"])
    ['xxbos', 'hello', 'xxeos']
    """
    return [BOS, *tokens, EOS]


TextRule = Callable[[str], str]
TokenRule = Callable[[Sequence[str]], list[str]]

PRE_RULES: Final[tuple[TextRule, ...]] = (
    sub_br,
    fixup_text,
    replace_rep,
    replace_wrep,
    spec_add_spaces,
    rm_useless_spaces,
)
"""What is done to a text before it is cut into tokens, in this order."""
CAPS_RULES: Final[tuple[TokenRule, ...]] = (replace_all_caps, deal_caps)
"""What is done to capitals afterwards; a tokenizer that marks them itself goes without."""
POST_RULES: Final[tuple[TokenRule, ...]] = (*CAPS_RULES, add_bos_eos)
"""What is done to the tokens, in this order."""

PROBE: Final = (
    'It#39;s <BR/> a<br />b &lt;i&gt; \\n \\" <unk> 1 @.@ 5 @-@ 6 \\ amp; #146; nbsp; #36; quot;  '
    "aaa aaaa!!!!! 10000 no no no no no no, no, no, no, he/she #1 AM I Ok? McCoy A ÉTÉ Été "
    "< br > <br clear=all> </br> <Br  / > <brx> <br\n> <b> a\tb &eacute &copy; &#x27; &#000065; &#99999999999; &#233 "
    "a   b  aaa aaaa\n\n\n\nyes-yes-yes-yes- no\nno\nno\nno\n so so so so.... X XX Xx xX İ ß ǅa iPod U.S. 1A A1 "
    "\t\t\t\t c\\d &#39; &amp; &#146; &nbsp; &#36; &quot;"
)
"""A text with something for each rule to do; what is done to it tells one version from another."""


def rules_hash() -> str:
    """What tells whether texts were put through the same rules: a hash of what they do to a fixed text.

    It is taken over each rule's name and its result, not over the source, so that a faster rule is the same rule.

    Source: SPEC P8.
    """
    steps: list[object] = []
    text, tokens = PROBE, PROBE.split()
    for text_rule in PRE_RULES:
        text = text_rule(text)
        steps.append((text_rule.__name__, text))
    for token_rule in POST_RULES:
        tokens = token_rule(tokens)
        steps.append((token_rule.__name__, tokens))
    return hashlib.blake2b(json.dumps(steps).encode(), digest_size=8).hexdigest()
