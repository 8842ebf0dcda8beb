"""Read a written report back: its tiles with their pictures and labels, its tags, its text."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image


class Page(HTMLParser):
    """The tiles of a report, its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tiles: list[dict] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self._style = ""
        self._heading = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self._open.append(tag)
        if tag == "h2":
            self._heading = ""
        if tag == "figure":
            self.tiles.append({"images": [], "part": self._heading})
        if tag == "img" and "figure" in self._open:
            self.tiles[-1]["images"].append(found)
        if tag == "span":
            self._style = found.get("class", "")
        if tag in ("img", "br", "meta", "source"):
            self._open.pop()

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        self.words.append(data)
        if "h2" in self._open:
            self._heading += data
        if "span" in self._open:
            key = next((key for key in ("is ", "says ") if data.startswith(key)), self._style or "other")
            self.tiles[-1][key.strip()] = data.removeprefix(key)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def picture(uri: str) -> Image.Image:
    kind, _, data = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(data)))
