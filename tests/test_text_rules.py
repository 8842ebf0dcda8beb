"""The rules for texts and tokens: what they do, in which order, and in how much time."""

from __future__ import annotations

import html
import re

import pytest

from etude.text import rules
from etude.text.numericalize import encode
from etude.text.tokenize import made_by, tokenize
from etude.text.tokenizers import Words


def pre(text: str) -> str:
    for rule in rules.PRE_RULES:
        text = rule(text)
    return text


# -- errors of the original -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["<br>", "<br/>", "<br />", "<BR />", "<Br  / >", "< br >", "</br>", '<br clear="all"/>', "<br clear=all>"]
)
def test_error_15_every_form_of_line_break_is_one(form):
    """The original put spaces around the slash first, and then no longer found `<br/>`."""
    assert pre(f"one{form}two") == "one\ntwo"
    assert rules.PRE_RULES[0] is rules.sub_br


def test_error_15_repeated_characters_and_words_are_found():
    """The printed patterns were `(\\s)` and `\\w+\\w+`, which find neither."""
    assert rules.replace_rep("cccc") == " xxrep 4 c "
    assert rules.replace_rep("ccc    ") == "ccc    "
    assert rules.replace_wrep("word word word word word ") == " xxwrep 5 word "
    assert rules.replace_wrep("no, no, no, no, never") == " xxwrep 4 no never"
    assert rules.replace_wrep("no no no no") == "no no no no"  # the last one has nothing behind it


def test_error_16_words_in_capitals_are_marked():
    """The original lower-cased everything first."""
    found = tokenize("I AM SHOUTING at Jeremy. A U.S. McCoy", Words())

    expected = "xxbos i xxup am xxup shouting at xxmaj jeremy . a xxup u.s. mccoy xxeos"
    assert found == expected.split()


def test_error_17_one_text_and_none_can_be_tokenized():
    """The original could not take a single new text, and crashed without any."""
    assert tokenize("don't", Words()) == ["xxbos", "do", "n't", "xxeos"]
    assert encode(["don't"], Words(), min_freq=1).values.tolist() == [2, 8, 9, 3]
    assert encode([], Words()).starts.tolist() == [0]


# -- the rules --------------------------------------------------------------------------------------------------------


def test_what_html_and_wikitext_left_is_repaired():
    assert rules.fixup_text("it#39;s #146;x#146; nbsp; #36;5 quot;a quot;") == "it's 'x' $5 'a '"
    assert rules.fixup_text("Tom &amp; Jerry&#39;s &quot;show&quot; &#36;5 &amp;lt;3") == "Tom & Jerry's 'show' $5 <3"
    assert rules.fixup_text('a\\nb \\"c\\" d\\e') == 'a\nb "c" d \\ e'
    assert rules.fixup_text("3 @.@ 5 a @-@ b <unk>  &lt;3 &eacute;") == "3.5 a-b xxunk <3 é"


def test_a_character_by_a_number_of_any_length():
    """Python refuses to convert thousands of digits, which stopped a whole load."""
    assert rules.fixup_text(f"a&#{'9' * 5000};b") == "a\ufffdb"
    assert rules.fixup_text(f"&#{'0' * 5000}65;&#65&#0;&#;&#x{'0' * 5000}41;&#") == "AA\ufffd&#;A&#"
    for number in (0, 9, 65, 128, 233, 1114111, 1114112, 99999999, 999999999):
        assert rules.fixup_text(f"&#{number};") == html.unescape(f"&#{number};")


def test_words_keep_their_order_and_nothing_is_dropped():
    assert rules.deal_caps(rules.replace_all_caps(["MY", "Name", "", "iS", "X", "été", "ÉTÉ"])) == (
        ["xxup", "my", "xxmaj", "name", "is", "x", "été", "xxup", "été"]
    )


def test_twenty_one_exclamation_marks_are_three_tokens():
    assert tokenize("wow" + "!" * 21, Words()) == ["xxbos", "wow", "xxrep", "21", "!", "xxeos"]


def test_the_hash_is_that_of_what_the_rules_do(monkeypatch):
    """A vocabulary remembers it: whoever changes a rule on purpose changes it here."""
    before = rules.rules_hash()

    assert before == "88b7bce6e49f429b"
    assert made_by(Words()) == {"tokenizer": {"name": "words"}, "cuts": "d9434f36e861e69f", "rules": before}
    monkeypatch.setattr(rules, "PRE_RULES", rules.PRE_RULES[::-1])
    assert rules.rules_hash() != before


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("_BR", r"<[\s/]*+br(?:[\s/]*+)?>"),
        ("_BR", r"<[/]*+br(?:[\s/][^<>]*+)?>"),
        ("_BR", r"<[\s/]*+br(?:[^<>]*+)?>"),
        ("_REPEATED_CHAR", r"(\S)\1{4,}"),
        ("_REPEATED_CHAR", r"(.)\1{3,}"),
        ("_REPEATED_CHAR", r"([^\n])\1{3,}"),
        ("_REPEATED_WORD", r"\b((\w++) )\1{3,}"),
        ("_REPEATED_WORD", r"\b((\w++)\s++)\1{3,}"),
        ("_SPACED", r"(/)"),
        ("_SPACES", r" {3,}"),
    ],
)
def test_the_hash_sees_every_branch_of_a_pattern(monkeypatch, name, pattern):
    before = rules.rules_hash()
    monkeypatch.setattr(rules, name, re.compile(pattern, re.IGNORECASE))

    assert rules.rules_hash() != before


@pytest.mark.parametrize("fix", [fix for fix in rules._FIXES if fix[0] != "<br />"])  # `sub_br` leaves none
def test_the_hash_sees_every_fix(monkeypatch, fix):
    before = rules.rules_hash()
    monkeypatch.setattr(rules, "_FIXES", tuple(other for other in rules._FIXES if other != fix))

    assert rules.rules_hash() != before


# -- hostile texts ----------------------------------------------------------------------------------------------------

HOSTILE = [
    "",
    " ",
    "\0",
    "\ud800",
    "שלום עולם",
    "😀👍🏽👨‍👩‍👧",
    "<<<>>><br<br>&&&amp;&#x;",
    "\r\n\t\x85\u2028",
    "İ",
    "ﬁ",
    "\\",
    "a\u0300",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_has_tokens(text):
    tokens = tokenize(text, Words())

    assert (tokens[0], tokens[-1]) == ("xxbos", "xxeos")
    assert "" not in tokens


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "ab",
        "a ",
        "a\n",
        "!",
        "(-",
        "<br ",
        "< ",
        "</",
        "a-",
        "aa aa ",
        "&",
        "#",
        "\\",
        "1.",
        "a.a@",
        "'",
        "° ",
        "..",
        "x://",
    ],
)
def test_time_is_in_proportion_to_the_text(piece):
    """A pattern that goes back over what it has passed would take hours here."""
    size = 100_000
    tokens = tokenize(piece * (size // len(piece)), Words())

    assert len(tokens) <= 2 * size
