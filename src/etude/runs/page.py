"""One HTML page that stands alone: no network, no scripts, pictures inside; for a phone, a screen, light and dark.

Everything that comes as text is escaped here, so that the name of a file or a class may hold anything.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Final, NewType

from etude.runs.text import plain

Markup = NewType("Markup", str)
"""HTML that may be put on a page as it is."""

_STYLE: Final = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #fff; --ink: #1c1e21; --quiet: #646a73; --line: #e3e4e6;
  --mark: #2f62a8; --bad: #b8432a; --good: #2f7d4a; --shade: #0003; }
@media (prefers-color-scheme: dark) { :root { --ground: #15171a; --card: #1d2024; --ink: #e4e6e9; --quiet: #9aa1ab;
  --line: #32363c; --mark: #8db4ec; --bad: #f0937a; --good: #82c99a; --shade: #fff3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 1rem 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
a { color: var(--mark); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 1rem 0; font-size: .9rem; }
.quiet { color: var(--quiet); font-size: .9rem; }
.verdict { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--mark);
  border-radius: 6px; padding: .5rem 1rem; }
.verdict p:first-child { font-size: 1.15rem; font-weight: 600; }
.warn { border-left: 4px solid var(--bad); padding: .1rem .9rem; background: var(--card); border-radius: 6px; }
/* an edge that more lies behind is shaded; the covers scroll away with the content, the shades stay */
.wide { overflow-x: auto; background:
  linear-gradient(to right, var(--ground) 40%, transparent) left / 2rem 100% no-repeat local,
  linear-gradient(to left, var(--ground) 40%, transparent) right / 2rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / .8rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
thead th, thead th.number { white-space: normal; vertical-align: bottom; }
th:last-child, td:last-child { padding-right: 0; }
@media (max-width: 34rem) {
  table { font-size: .8rem; line-height: 1.35; } th, td { padding-right: .4rem; } td { overflow-wrap: anywhere; }
  td:first-child:not(.number) { min-width: 6.7em; } thead th { font-size: .72rem; }
}
table.facts td { overflow-wrap: anywhere; min-width: 9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .75rem; }
.tiles.pairs { grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
figure { margin: 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
.tile .images { display: flex; gap: .4rem; }
.tile img { display: block; flex: 1 1 0; min-width: 0; width: 100%; aspect-ratio: 1; object-fit: contain; }
.tile img.small { image-rendering: pixelated; }
figcaption { font-size: .85rem; line-height: 1.35; margin-top: .35rem; overflow-wrap: anywhere; }
figcaption .name { color: var(--quiet); font-size: .75rem; display: block; }
.chart img { display: block; max-width: 100%; height: auto; }
.true { color: var(--good); } .said { color: var(--bad); }
.quotes { display: grid; gap: .75rem; }
.quote { margin: 0; font-size: .95rem; line-height: 1.75; overflow-wrap: anywhere; unicode-bidi: isolate; }
/* what spoke for the answer stands on a line, what spoke against it over dots: it can be told without colors */
.for, .against { border-radius: 3px; padding: 0 .1em; text-decoration: underline 2px; text-underline-offset: .22em; }
.for { --tone: var(--mark); } .against { --tone: var(--bad); text-decoration-style: dotted; }
.for, .against { text-decoration-color: var(--tone);
  background: color-mix(in srgb, var(--tone) calc(var(--much) * 45%), transparent); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem;
  font-size: .85rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .75rem 0; } summary { cursor: pointer; color: var(--mark); }
"""
_SHRINK: Final = 0.8
"""A wide chart is shrunk to this share of its width at most, and scrolls then; small ones fit a phone."""
_NARROW: Final = 600
_LEAST: Final = 0.05
"""Of the strongest word: what moved less is not marked."""


def text(value: object) -> Markup:
    """A value as text, with what HTML would understand escaped.

    >>> text("<script>")
    '&lt;script&gt;'
    """
    return Markup(html.escape(plain(value)))


def join(parts: Iterable[Markup]) -> Markup:
    """Parts one after the other."""
    return Markup("\n".join(parts))


def page(title: str, sections: Sequence[tuple[str, Markup]], *, head: Markup) -> str:
    """A whole page.

    Args:
        title: in the tab of the browser, and over all.
        sections: heading and content; they are listed at the top as links.
        head: what comes before them.
    """
    links = join(Markup(f'<a href="#part-{i}">{text(name)}</a>') for i, (name, _) in enumerate(sections))
    body = join(
        Markup(f'<section id="part-{i}"><h2>{text(name)}</h2>\n{content}</section>')
        for i, (name, content) in enumerate(sections)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # nothing is loaded, whatever a name in here might ask for
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{text(title)}</h1>\n{head}\n<nav>{links}</nav>\n{body}\n</main>\n</body>\n</html>\n"
    )


def paragraph(words: object, kind: str = "") -> Markup:
    """A paragraph of text."""
    return Markup(f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>")


def block(parts: Iterable[Markup], kind: str) -> Markup:
    """Parts in a box of a style."""
    return Markup(f'<div class="{kind}">{join(parts)}</div>')


def heading(words: str) -> Markup:
    """A heading within a section."""
    return Markup(f"<h3>{text(words)}</h3>")


def listing(lines: str) -> Markup:
    """Lines as they are, such as a command."""
    return Markup(f"<pre>{join(text(line) for line in lines.splitlines())}</pre>")


def hidden(summary: str, content: Markup) -> Markup:
    """Content that opens at a click."""
    return Markup(f"<details><summary>{text(summary)}</summary>{content}</details>")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], align: str = "", *, kind: str = "") -> Markup:
    """A table, which scrolls by itself where it is wider than the screen.

    Args:
        head: names of the columns; none for a table without a head.
        rows: cells, as text.
        align: one sign per column, `>` for numbers.
        kind: a style.
    """
    columns = align.ljust(100)

    def cells(values: Sequence[object], tag: str) -> str:
        classes = (' class="number"' if side == ">" else "" for side in columns)
        return "".join(f"<{tag}{kind}>{text(value)}</{tag}>" for value, kind in zip(values, classes, strict=False))

    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if head else ""
    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return Markup(f'<div class="wide"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>')


def facts(rows: Iterable[tuple[str, str]]) -> Markup:
    """Names and what is known under them."""
    body = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows)
    return Markup(f'<div class="wide"><table class="facts"><tbody>{body}</tbody></table></div>')


def chart(light: bytes, dark: bytes, width: float, what: str) -> Markup:
    """A drawn figure: one PNG for light ground and one for dark.

    Args:
        light: with dark letters.
        dark: with light letters.
        width: in pixels of the page.
        what: the picture in words, for those who do not see it.
    """
    least = f' style="min-width: {_SHRINK * width:.0f}px"' if width > _NARROW else ""
    return Markup(
        f'<div class="wide"><picture class="chart">'
        f'<source media="(prefers-color-scheme: dark)" srcset="{data_uri(dark)}">'
        f'<img src="{data_uri(light)}" width="{width:.0f}"{least} alt="{text(what)}"></picture></div>'
    )


def tile(images: Sequence[tuple[bytes, str]], lines: Sequence[tuple[str, str]], *, small: bool = False) -> Markup:
    """Pictures beside each other, and lines below them.

    Args:
        images: PNG or JPEG, and what it shows in words.
        lines: each with its style: "", "true", "said" or "name".
        small: so few pixels that they shall be seen one by one.
    """
    kind = ' class="small"' if small else ""
    shown = "".join(f'<img{kind} src="{data_uri(image)}" alt="{text(what)}">' for image, what in images)
    under = "<br>".join(f'<span class="{style}">{text(line)}</span>' for line, style in lines)
    return Markup(f'<figure class="tile"><div class="images">{shown}</div><figcaption>{under}</figcaption></figure>')


def quote(words: Iterable[tuple[str, float]], lines: Sequence[tuple[str, str]]) -> Markup:
    """A text whose words are marked as strongly as they moved something, and lines below it.

    Args:
        words: each with how much it moved: above 0 for it, below 0 against it, 0 not at all.
        lines: as in `tile`.
    """
    shown = list(words)
    largest = max((abs(score) for _, score in shown), default=0.0)
    said = " ".join(_marked(word, score, largest) for word, score in shown)
    under = "<br>".join(f'<span class="{style}">{text(line)}</span>' for line, style in lines)
    return Markup(
        f'<figure class="tile"><blockquote class="quote" dir="auto">{said}</blockquote>'
        f"<figcaption>{under}</figcaption></figure>"
    )


def _marked(word: str, score: float, largest: float) -> str:
    # a word in another direction of writing, or a sign that turns it, ends where the word ends
    if not abs(score) > _LEAST * largest:
        return f"<bdi>{text(word)}</bdi>"
    kind, much = "for" if score > 0 else "against", abs(score) / largest
    return f'<bdi class="{kind}" style="--much: {much:.2f}" title="{score:+.2f}">{text(word)}</bdi>'


def data_uri(image: bytes) -> str:
    """A PNG or JPEG within the page."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
