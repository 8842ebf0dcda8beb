"""What English needs to be cut into words: special cases, and which characters may be cut off or cut at.

The lists and patterns are those of spaCy 3.8 (spacy/lang/en/tokenizer_exceptions.py, spacy/lang/punctuation.py and
beside them), written shorter. Its licence:

    The MIT License (MIT)

    Copyright (C) 2016-2024 ExplosionAI GmbH, 2016 spaCy GmbH, 2015 Matthew Honnibal

    Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
    documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
    rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
    permit persons to whom the Software is furnished to do so, subject to the following conditions:

    The above copyright notice and this permission notice shall be included in all copies or substantial portions of
    the Software.

    THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
    THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
    AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT,
    TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
    SOFTWARE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

# -- special cases: a bar says where they are cut ---------------------------------------------------------------------

_WILL: Final = "'ll ll 'll|'ve ll|ve 'd d 'd|'ve d|ve"
_ENDINGS: Final = (
    ("i", f"'m m 'm|a m|a 've ve {_WILL}"),
    ("you we they", f"'ve ve 're re {_WILL}"),
    ("he she it that this", f"'s s {_WILL}"),
    ("who what when where why how there", f"'s s 're re 've ve {_WILL}"),
    ("these those", f"'re re 've ve {_WILL}"),
    ("ca could do does did had may might must need ought sha should wo would", "n't nt n't|'ve nt|ve"),
    ("could might must should would not", "'ve ve"),
    ("ai are is was were have has dare", "n't nt"),
    ("doin goin nothin nuthin ol somethin lovin havin", "'"),
)
"""Words, also with a first capital, and what may follow them."""
_OWN_WORDS: Final = "ill its hell shell shed were well whore"
"""Made of a word and an ending above, yet words of their own."""
_OTHERS: Final = """
y'|all y|all how|'d|'y How|'d|'y can|not Can|not gon|na Gon|na got|ta Got|ta let|'s Let|'s c'm|on C'm|on
°|c|. °|f|. °|k|. °|C|. °|F|. °|K|."""
_WHOLE: Final = r"""
'em 'll 'nuff 'S 's ‘S ‘s and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout 'd ma'am Ma'am o'clock
O'clock a.m. p.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs.
Mo. Mont. Mr. Mrs. Ms. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn.
Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H.
N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. — ' '' \") <space> C++
\t \n ä. ö. ü.
:) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( :-((
:((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :*
:-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__-
v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<)
(*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>"""


def special_cases() -> dict[str, tuple[str, ...]]:
    """Everything that is cut in a way of its own, and its tokens."""
    own = _OWN_WORDS.split()
    cases = [tokens for tokens in _cases() if "".join(tokens).lower() not in own]
    curly = [tuple(token.replace("'", "’") for token in tokens) for tokens in cases]
    return {"".join(tokens): tokens for tokens in (*cases, *curly)}


def _cases() -> Iterator[tuple[str, ...]]:
    for words, endings in _ENDINGS:
        for word in words.split():
            for ending in endings.split():
                for start in (word, word.title()):
                    yield (start + ending,) if ending == "'" else (start, *ending.split("|"))
    for hour in range(1, 13):
        for half in ("am", "a.m.", "pm", "p.m."):
            yield str(hour), half
    yield from (tuple(case.split("|")) for case in _OTHERS.split())
    yield from ((case,) for case in _WHOLE.split())
    yield from ((f"{letter}.",) for letter in "abcdefghijklmnopqrstuvwxyz")


# -- classes of characters --------------------------------------------------------------------------------------------

_CASED: Final = (
    "41-5A 61-7A C0-24F 250-2AF 370-4FF 1D00-1D9A 1E00-1EFF 2C60-2C7F A722-A7FA AB30-AB64 FF21-FF3A FF41-FF5A"
)
"""Where letters with a lower and an upper case are, in hexadecimal: Latin, Greek and Cyrillic."""
_UNCASED: Final = """
    591-5F4 620-64A 66E-6D5 6E5-6FF 750-77F 8A0-8BD 900-9FF B80-CFF D80-DFF 1100-137F 2E80-2FDF 2FF0-30FF 31C0-31EF
    3200-4DBF 4E00-9FFF AC00-D7AF F900-FAFF FB1D-FBB1 FBD3-FD3D FD50-FDC7 FDF0-FDFB FE30-FE4F FE70-FEFC 1EE00-1EEBB
    1F200-1F2FF 20000-2A6DF 2A700-2EBEF 2F800-2FA1F"""
"""Letters of other scripts."""
_SYMBOLS: Final = """
    A6 A9 AE B0 482 58D-58E 60E-60F 6DE 6E9 6FD-6FE 7F6 9FA B70 BF3-BF8 BFA C7F D4F D79 F01-F03 F13 F15-F17 F1A-F1F
    F34 F36 F38 FBE-FC5 FC7-FCC FCE-FCF FD5-FD8 109E-109F 1390-1399 1940 19DE-19FF 1B61-1B6A 1B74-1B7C 2100-2101
    2103-2106 2108-2109 2114 2116-2117 211E-2123 2125 2127 2129 212E 213A-213B 214A 214C-214D 214F 218A-218B
    2195-2199 219C-219F 21A1-21A2 21A4-21A5 21A7-21AD 21AF-21CD 21D0-21D1 21D3 21D5-21F3 2300-2307 230C-231F
    2322-2328 232B-237B 237D-239A 23B4-23DB 23E2-2426 2440-244A 249C-24E9 2500-25B6 25B8-25C0 25C2-25F7 2600-266E
    2670-2767 2794-27BF 2800-28FF 2B00-2B2F 2B45-2B46 2B4D-2B73 2B76-2B95 2B98-2BC8 2BCA-2BFE 2CE5-2CEA 2E80-2E99
    2E9B-2EF3 2F00-2FD5 2FF0-2FFB 3004 3012-3013 3020 3036-3037 303E-303F 3190-3191 3196-319F 31C0-31E3 3200-321E
    322A-3247 3250 3260-327F 328A-32B0 32C0-32FE 3300-33FF 4DC0-4DFF A490-A4C6 A828-A82B A836-A837 A839 AA77-AA79
    FDFD FFE4 FFE8 FFED-FFEE FFFC-FFFD 10137-1013F 10179-10189 1018C-1018E 10190-1019B 101A0 101D0-101FC 10877-10878
    10AC8 1173F 16B3C-16B3F 16B45 1BC9C 1D000-1D0F5 1D100-1D126 1D129-1D164 1D16A-1D16C 1D183-1D184 1D18C-1D1A9
    1D1AE-1D1E8 1D200-1D241 1D245 1D300-1D356 1D800-1D9FF 1DA37-1DA3A 1DA6D-1DA74 1DA76-1DA83 1DA85-1DA86 1ECAC
    1F000-1F02B 1F030-1F093 1F0A0-1F0AE 1F0B1-1F0BF 1F0C1-1F0CF 1F0D1-1F0F5 1F110-1F16B 1F170-1F1AC 1F1E6-1F202
    1F210-1F23B 1F240-1F248 1F250-1F251 1F260-1F265 1F300-1F3FA 1F400-1F6D4 1F6E0-1F6EC 1F6F0-1F6F9 1F700-1F773
    1F780-1F7D8 1F800-1F80B 1F810-1F847 1F850-1F859 1F860-1F887 1F890-1F8AD 1F900-1F90B 1F910-1F93E 1F940-1F970
    1F973-1F976 1F97A 1F97C-1F9A2 1F9B0-1F9B9 1F9C0-1F9C2 1F9D0-1F9FF 1FA60-1FA6D"""
"""Dingbats, arrows, emoji and the like."""


def _spans(ranges: str) -> Iterator[tuple[int, int]]:
    for text in ranges.split():
        first, _, last = text.partition("-")
        yield int(first, 16), int(last or first, 16)


def _class(ranges: str) -> str:
    """The ranges as they are written inside [ ] in a pattern."""
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in _spans(ranges))


_cased: Final = [chr(code) for first, last in _spans(_CASED) for code in range(first, last + 1)]
_LOWER: Final = "".join(filter(str.islower, _cased)) + _class(_UNCASED)
_UPPER: Final = "".join(filter(str.isupper, _cased)) + _class(_UNCASED)
_LETTER: Final = "".join(filter(str.isalpha, _cased)) + _class(_UNCASED)

_QUOTES: Final = r"""'"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧"""
_PUNCTUATION: Final = r"…,:;!?¿؟¡()\[\]{}<>_#*&。？！，、；：～·।،۔؛٪"
_CURRENCY: Final = r"US\$|C\$|A\$|[$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫€₭₮₯₰₱₲₳₴₵₶₷₸₹₺₻₼₽₾₿]"
_HYPHENS: Final = "---|--|——|[-–—~]"
_UNITS: Final = (
    "(?:[kdcm]?m|км|[дсм]?м|[كسم]?م)[²³]?|ha|µm|nm|yd|in|ft|[kmµ]?g|t|lb|oz|m/s|km/h|kmh|mph|hPa|Pa|mbar|[mMkKgGtT][bB]|"
    "[TGMK%]|нм|[км]?г|м/с|км/ч|[кК]Па|Па|мбар|[КкМмГгТт][Бб]|غرام|جرام|جم|كغ|ملغ|كوب|اكواب"
)
_ENDS_SENTENCE: Final = rf"0-9{_LOWER}%²\-+{_PUNCTUATION}|{_QUOTES}"

# -- patterns ---------------------------------------------------------------------------------------------------------

PREFIX: Final = re.compile(rf"[§%=—–{_PUNCTUATION}{_QUOTES}{_class(_SYMBOLS)}]|\+(?![0-9])|\.\.+|{_CURRENCY}")
"""What is cut off in front."""
SUFFIX: Final = re.compile(
    rf"(?:\.\.+|……|[{_PUNCTUATION}{_QUOTES}{_class(_SYMBOLS)}—–]|['’][sS]|(?<=[0-9])(?:\+|{_CURRENCY}|{_UNITS})"
    rf"|(?<=°[FfCcKk])\.|(?<=[{_ENDS_SENTENCE}])\.|(?<=[{_UPPER}][{_UPPER}])\.)$"
)
"""What is cut off behind."""
INFIX: Final = re.compile(
    rf"\.\.+|[…{_class(_SYMBOLS)}]|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[{_LOWER}{_QUOTES}])\.(?=[{_UPPER}{_QUOTES}])"
    rf"|(?<=[{_LETTER}]),(?=[{_LETTER}])|(?<=[{_LETTER}0-9])(?:{_HYPHENS})(?=[{_LETTER}])"
    rf"|(?<=[{_LETTER}0-9])[:<>=/](?=[{_LETTER}])"
)
"""What a word is cut at."""
_HOST: Final = r"[A-Za-z0-9\u00a1-\uffff]"
URL: Final = re.compile(
    # an address of four numbers, but for private ones, or names with dots; before them a protocol, a user
    r"(?:[\w+\-.]{2,}://)?(?:\S+@)?(?:(?!(?:10|127)(?:\.\d{1,3}){3}|(?:169\.254|192\.168)(?:\.\d{1,3}){2}"
    r"|172\.(?:1[6-9]|2\d|3[0-1])(?:\.\d{1,3}){2})(?:[1-9]\d?|1\d\d|2[01]\d|22[0-3])"
    r"(?:\.(?:1?\d{1,2}|2[0-4]\d|25[0-5])){2}\.(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-4])"
    rf"|(?:(?:{_HOST}[A-Za-z0-9\u00a1-\uffff_-]{{0,62}})?{_HOST}\.)+[{_LOWER}]{{2,63}})"
    r"(?::\d{2,5})?(?:[/?#]\S*)?"
)
"""An address: it stays whole. After https://gist.github.com/dperini/729294 (Diego Perini, MIT license)."""
