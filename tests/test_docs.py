"""The pages: their code runs, what they quote is the source, their commands and links exist, their claims hold."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import runpy
import shlex
import textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from etude import vision
from etude.cli import app
from etude.training.callbacks.mixup import draw_weights

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
ELSEWHERE = {"from-the-notes.md", "README.zh-CN.md"}
"""Run by tests/test_from_the_notes.py; the same blocks as README.md."""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    """Of the block's first line in the page."""
    source: str
    """The function that the block quotes, as module:name; empty when it quotes none."""


def blocks(page: Path) -> list[Block]:
    found, opened, lines, source = [], None, [], ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if opened is None and line.lstrip().startswith("```"):
            opened, lines = (line.strip().strip("`").strip(), number + 1), []
        elif opened is not None and line.strip() == "```":
            found.append(Block(opened[0], textwrap.dedent("\n".join(lines)) + "\n", opened[1], source))
            opened, source = None, ""
        elif opened is not None:
            lines.append(line)
        elif marker := re.fullmatch(r"<!-- source: (\S+) -->", line):
            source = marker[1]
    assert opened is None, f"{page.name}: the block at line {opened} is not closed"
    return found


def prose(page: Path) -> str:
    """The page without its code."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def named(pages: list[Path]) -> list:
    return [pytest.param(page, id=page.name) for page in pages]


# -- running the code -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    """Page name -> what its python blocks have defined, run in order in a folder of their own with some pictures."""

    @cache
    def run(name: str) -> dict[str, object]:
        page = next(page for page in PAGES if page.name == name)
        folder = tmp_path_factory.mktemp(page.stem)
        save_pictures(folder)
        namespace: dict[str, object] = {"__name__": f"docs_{page.stem}"}
        with contextlib.chdir(folder):
            for block in blocks(page):
                if block.language == "python" and not block.source:
                    # empty lines in front, so that an error names the page's own line
                    exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
        return namespace

    return run


def save_pictures(folder: Path) -> None:
    """Real digits as a user would keep photographs: photos/CLASS/*.png, and new.jpg."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, name in enumerate(("daisy", "rose", "tulip")):
        (folder / "photos" / name).mkdir(parents=True)
        for i, pixels in enumerate(digits.images[digits.target == number][:40]):
            picture = Image.fromarray((255 - pixels * 15.9).astype("uint8")).resize((32, 32)).convert("RGB")
            picture.save(folder / "photos" / name / f"{i}.png")
    picture.save(folder / "new.jpg")


@pytest.mark.parametrize("page", named([page for page in PAGES if page.name not in ELSEWHERE]))
def test_code_of_the_page_runs(page, run_page):
    run_page(page.name)


@pytest.mark.parametrize("page", named(PAGES))
def test_blocks_say_what_they_are(page):
    languages = {block.language for block in blocks(page)}

    assert languages <= {"python", "text", "sh", "toml", "json", "{toctree}"}


@pytest.mark.parametrize("page", named(PAGES))
def test_quotes_equal_the_source(page):
    for block in blocks(page):
        if block.source:
            module, _, name = block.source.partition(":")
            quoted = importlib.import_module(module)
            for part in name.split("."):
                quoted = inspect.getattr_static(quoted, part)

            assert block.text == textwrap.dedent(inspect.getsource(quoted)), f"{block.source}, line {block.line}"


# -- commands, links, languages ---------------------------------------------------------------------------------------


def commands(block: Block) -> list[list[str]]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]


@pytest.mark.parametrize("page", named(PAGES))
def test_commands_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for block in blocks(page):
        for words in commands(block) if block.language == "sh" else ():
            name = Path(words[0]).name if words else ""
            if name == "etude":
                app.parse_args(words[1:], exit_on_error=False)
            elif name == "make":
                assert {word for word in words[1:] if "=" not in word} <= set(targets), words
            elif name.startswith("python") and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file(), words


def anchor(heading: str) -> str:
    """The name that a heading gets as a link's target, on GitHub and with MyST."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", named(PAGES))
def test_links_and_images_exist(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page)) + re.findall(r'(?:src|href)="([^"]+)"', prose(page))
    for link in links:
        path, _, part = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if part and target.suffix == ".md":
            text = target.read_text(encoding="utf-8")
            assert part in map(anchor, re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)), f"{page.name}: {link}"


def test_every_page_is_in_the_contents():
    toctree = next(block for block in blocks(DOCS / "index.md") if block.language == "{toctree}")
    entries = [line for line in toctree.text.splitlines() if line and not line.startswith(":")]

    assert sorted(entries) == sorted(page.stem for page in DOCS.glob("*.md") if page.stem != "index")


def test_both_readmes_show_the_same_code():
    shown = [[block[:2] for block in blocks(ROOT / name)] for name in ("README.md", "README.zh-CN.md")]

    assert shown[0] == shown[1]
