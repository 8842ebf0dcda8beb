"""What cuts a text into tokens: words as spaCy's English cuts them, spaCy itself, or pieces of words.

For sequences that are no prose there are what stands between blanks, and characters.

A tokenizer is recorded with the vocabulary it made (`config()`), and `make_tokenizer` builds it again from there.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

from typing_extensions import override

from etude.errors import ConfigError
from etude.text import words
from etude.text.detokenize import detokenize
from etude.text.rules import CAPS_RULES
from etude.text.special import SPECIAL, UNK

if TYPE_CHECKING:
    from etude.types import Json


@runtime_checkable
class Tokenizer(Protocol):
    """Cuts a text into tokens, after the rules for texts and before those for tokens."""

    by_chunk: bool
    """Whether what stands between two blanks is cut alone, whatever stands beside it: then each is cut only once."""
    marks_caps: bool
    """Whether its tokens are in lower case, with capitals marked: then the rules for capitals are left out."""

    rules: bool = True
    """Whether the rules for texts and tokens apply: not to sequences that are no prose, where AAAA is four times A."""

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text."""
        ...

    def text(self, tokens: Sequence[str]) -> str:
        """The way back, as far as there is one: a text that reads well, special tokens written out or left out."""
        return detokenize(tokens)

    def config(self) -> dict[str, Json]:
        """What `make_tokenizer` builds it again from."""
        ...


@final
class Words(Tokenizer):
    """English words, numbers, punctuation and emoticons, as spaCy's English tokenizer cuts them, without spaCy.

    >>> Words().tokens("Mr. O'Neill didn't pay $5.50 (really) :-)")
    ['Mr.', "O'Neill", 'did', "n't", 'pay', '$', '5.50', '(', 'really', ')', ':-)']
    """

    by_chunk = True
    marks_caps = False

    @override
    def tokens(self, text: str) -> list[str]:
        return words.tokens(text)

    @override
    def config(self) -> dict[str, Json]:
        return {"name": "words"}


@final
class Spacy(Tokenizer):
    """spaCy's tokenizer for a language, by rules, without a trained pipeline.

    Args:
        lang: spaCy's code of the language.

    Raises:
        ConfigError: spaCy is not installed, or does not know the language.
    """

    by_chunk = False  # its special cases reach across blanks, as in ": )"
    marks_caps = False

    def __init__(self, lang: str = "en") -> None:
        try:
            import spacy
        except ImportError as error:
            raise ConfigError(
                "the tokenizer 'spacy' needs spaCy, which is not installed: pip install 'etude[spacy]', or use 'words'"
            ) from error
        try:
            self._cut = spacy.blank(lang).tokenizer
        except ImportError as error:
            raise ConfigError(
                f"spaCy has no tokenizer for the language {lang!r} ({error}); expected a code such as 'en' or 'de'"
            ) from error
        self.lang = lang

    @override
    def tokens(self, text: str) -> list[str]:
        return [token.text for token in self._cut(encodable(text))]

    @override
    def config(self) -> dict[str, Json]:
        return {"name": "spacy", "lang": self.lang}


@final
class Subwords(Tokenizer):
    """Pieces of words, by Hugging Face's `tokenizers`: frequent words stay whole, rare ones are cut into parts.

    Capitals are marked and texts lower-cased before they are cut, so that "The" and "the" are made of the same pieces.

    Args:
        definition: the text of a `tokenizer.json`. It is part of `config()`, so no file is needed later.

    Raises:
        ConfigError: `tokenizers` is not installed, or cannot read the definition.
    """

    by_chunk = False  # what a piece is may depend on the blank before it
    marks_caps = True

    def __init__(self, definition: str) -> None:
        library = _tokenizers()
        try:
            self._cut = library.Tokenizer.from_str(definition)
        except Exception as error:  # the library raises nothing more special
            raise ConfigError(
                f"the definition of the subwords cannot be read ({error}); expected the text of a tokenizer.json"
            ) from error
        # a text is neither cut off nor filled up, whatever the file was made for
        self._cut.no_truncation()
        self._cut.no_padding()
        self._cut.add_special_tokens(_special(library))

    @classmethod
    def train(cls, texts: Iterable[str], size: int = 30_000) -> Subwords:
        """Learn the pieces from texts: byte-pair encoding, starting from characters.

        Args:
            texts: those of the training data, after the rules for texts.
            size: how many pieces at most.

        **Source**: Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, section 3.2.
        """
        library = _tokenizers()
        made = library.Tokenizer(library.models.BPE(unk_token=UNK))
        made.pre_tokenizer = library.pre_tokenizers.Metaspace()
        trainer = library.trainers.BpeTrainer(vocab_size=size, special_tokens=_special(library), show_progress=False)
        made.train_from_iterator((mark_caps(encodable(text)) for text in texts), trainer)
        return cls(made.to_str())

    @override
    def tokens(self, text: str) -> list[str]:
        numbers = self._cut.encode(mark_caps(encodable(text)), add_special_tokens=False).ids
        return [self._cut.id_to_token(number) for number in numbers]

    @override
    def config(self) -> dict[str, Json]:
        return {"name": "subwords", "definition": json.loads(self._cut.to_str())}


@final
class Spaces(Tokenizer):
    """What stands between blanks, as it is: for events, k-mers and whatever else was cut beforehand.

    >>> Spaces().tokens("NOTE_ON<60> WAIT<12>\\nNOTE_OFF<60>")
    ['NOTE_ON<60>', 'WAIT<12>', 'NOTE_OFF<60>']
    """

    by_chunk = False
    marks_caps = False
    rules = False

    @override
    def tokens(self, text: str) -> list[str]:
        return text.split()

    @override
    def text(self, tokens: Sequence[str]) -> str:
        return " ".join(token for token in tokens if token not in SPECIAL)

    @override
    def config(self) -> dict[str, Json]:
        return {"name": "spaces"}


@final
class Characters(Tokenizer):
    """Characters one by one, or in groups of `k` that do not overlap: for DNA, proteins, molecules.

    Line breaks are left out, since files of such sequences wrap their lines. What is left at the end makes a shorter
    group.

    >>> Characters().tokens("CC(=O)O"), Characters(3).tokens("ACGT\\nACGT")
    (['C', 'C', '(', '=', 'O', ')', 'O'], ['ACG', 'TAC', 'GT'])

    Args:
        k: characters of a token.

    Raises:
        ConfigError: `k` is no whole number of at least 1.
    """

    by_chunk = False
    marks_caps = False
    rules = False

    def __init__(self, k: int = 1) -> None:
        if type(k) is not int or k < 1:
            raise ConfigError(f"k counts the characters of a token, a whole number of at least 1; got {k!r:.40}")
        self.k = k

    @override
    def tokens(self, text: str) -> list[str]:
        sequence = "".join(text.splitlines())
        return [sequence[i : i + self.k] for i in range(0, len(sequence), self.k)]

    @override
    def text(self, tokens: Sequence[str]) -> str:
        return "".join(token for token in tokens if token not in SPECIAL)

    @override
    def config(self) -> dict[str, Json]:
        return {"name": "characters", "k": self.k}


_WORD = re.compile(r"\w+")


def mark_caps(text: str) -> str:
    """The rules for capitals on a text that is not cut yet.

    >>> mark_caps("The BBC's news")
    "xxmaj the xxup bbc's news"
    """

    def mark(found: re.Match[str]) -> str:
        marked = [found[0]]
        for rule in CAPS_RULES:
            marked = rule(marked)
        return " ".join(marked)

    return _WORD.sub(mark, text)


def encodable(text: str) -> str:
    """The text with half characters (lone surrogates) replaced, which no encoding can hold.

    >>> encodable("a\\ud800b")
    'a\ufffdb'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def versions_of(tokenizer: Tokenizer) -> dict[str, Json]:
    """The versions of the packages that a tokenizer cuts with; none for those of our own."""
    packages = {"spacy": "spacy", "subwords": "tokenizers"}
    used = packages.get(str(tokenizer.config().get("name")))
    return {used: importlib.metadata.version(used)} if used else {}


def make_tokenizer(config: str | Mapping[str, Json] | Tokenizer) -> Tokenizer:
    """The tokenizer of a name, or of what `config()` returned; a tokenizer of this file is returned as it is.

    Raises:
        ConfigError: there is no such tokenizer, or the package that it needs is not installed.
    """
    if isinstance(config, Tokenizer):
        if not isinstance(config, Words | Spacy | Subwords | Spaces | Characters):
            raise ConfigError(
                f"a saved model must find its tokenizer again, and {type(config).__name__} is not one of etude's; cut "
                "the texts beforehand, join their tokens with blanks, and take Spaces()"
            )
        return config
    given = {"name": config} if isinstance(config, str) else dict(config)
    match given:
        case {"name": "words", **rest} if not rest:
            return Words()
        case {"name": "spacy", **rest} if not rest.keys() - {"lang"}:
            return Spacy(str(rest.get("lang", "en")))
        case {"name": "subwords", "definition": definition, **rest} if not rest:
            return Subwords(definition if isinstance(definition, str) else json.dumps(definition))
        case {"name": "spaces", **rest} if not rest:
            return Spaces()
        case {"name": "characters", **rest} if not rest.keys() - {"k"}:
            return Characters(rest.get("k", 1))  # type: ignore[arg-type]  # it says what is wrong with another one
        case {"name": "subwords"}:
            raise ConfigError(
                "the tokenizer 'subwords' must be learned: Subwords.train(texts), or Subwords(definition)"
            )
    raise ConfigError(
        f"there is no tokenizer {config!r}. Expected 'words', 'spacy' (or {{'name': 'spacy', 'lang': 'de'}}), "
        "'characters' (or {'name': 'characters', 'k': 3}), 'spaces', or a Subwords tokenizer."
    )


def _special(library: Any) -> list[Any]:
    """The special tokens, which stay whole; the space before one is no token."""
    return [library.AddedToken(name, lstrip=True, single_word=True, normalized=False, special=True) for name in SPECIAL]


def _tokenizers() -> Any:
    """Hugging Face's package, whose modules are loaded only when they are asked for."""
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError(
            "subwords need the package tokenizers, which is not installed: pip install 'etude[tokenizers]', "
            "or use 'words'"
        ) from error
    return tokenizers
