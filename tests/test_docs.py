"""The pages: their code runs, what they quote is the source, their commands and links exist, their claims hold."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import runpy
import shlex
import textwrap
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from torch import nn

from etude import Learner, accuracy, flat, flat_cosine, one_cycle
from etude.cli import app
from etude.training.callbacks.mixup import draw_weights

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
ELSEWHERE = {"from-the-notes.md", "other-sequences.md", "README.zh-CN.md"}
"""Run by tests of their own; the last one has the same blocks as README.md."""
PICTURES_PER_CLASS = 12
"""In the folder that the pages' code finds as photos/: few, because the README trains a large model on them."""
SMALLER = {
    "size=128": "size=48",
    "xresnet34": "lesson_cnn",
    "fit(5, lr=1e-2)  #": "fit(1, lr=1e-2)  #",
    "fine_tune(5, lr=3e-3, freeze_epochs=2": "fine_tune(1, lr=3e-3, freeze_epochs=1",
    'text.load("reviews/", ': 'text.load("reviews/", batch_size=8, ',
    "embed_dim=300, hidden_dim=300": "embed_dim=16, hidden_dim=16",
    "fit(3, lr=5e-3, momentum": "fit(1, lr=5e-3, momentum",
    "fine_tune(4, lr=1e-2, gradual": "fine_tune(1, lr=1e-2, gradual",
}
"""What is made smaller in a page's code, for the same reason."""


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
        if "photos/" in page.read_text(encoding="utf-8"):
            save_pictures(folder)
        if "reviews/" in page.read_text(encoding="utf-8"):
            save_reviews(folder)
        namespace: dict[str, object] = {"__name__": f"docs_{page.stem}"}
        with contextlib.chdir(folder):
            for block in blocks(page):
                if block.language == "python" and not block.source:
                    # empty lines in front, so that an error names the page's own line
                    text = "\n" * (block.line - 1) + block.text
                    for large, small in SMALLER.items():
                        text = text.replace(large, small)
                    exec(compile(text, str(page), "exec"), namespace)
        return namespace

    return run


def save_pictures(folder: Path) -> None:
    """Real digits as a user would keep photographs: photos/CLASS/*.png, and new.jpg."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, name in enumerate(("daisy", "rose", "tulip")):
        (folder / "photos" / name).mkdir(parents=True)
        for i, pixels in enumerate(digits.images[digits.target == number][:PICTURES_PER_CLASS]):
            picture = Image.fromarray((255 - pixels * 15.9).astype("uint8")).resize((32, 32)).convert("RGB")
            picture.save(folder / "photos" / name / f"{i}.png")
    picture.save(folder / "new.jpg")


def save_reviews(folder: Path) -> None:
    """Reviews as they are often kept: reviews/CLASS/*.txt."""
    for name, word in (("neg", "awful"), ("pos", "lovely")):
        (folder / "reviews" / name).mkdir(parents=True)
        for i in range(30):
            review = f"The film of {1990 + i} is {word}. " + "I saw it twice, and it has a plot. " * (i % 3 + 1)
            (folder / "reviews" / name / f"{i}.txt").write_text(review, encoding="utf-8")


def has_code(page: Path) -> bool:
    return page.name not in ELSEWHERE and any(block.language == "python" for block in blocks(page))


SLOW = {"looking-inside.md", "your-own-step.md", "mixup.md", "write-a-callback.md", "plan.md", "learning-rate.md"}
SLOW |= {"export.md", "transfer-learning.md", "ulmfit.md"}
"""Pages whose code trains for more than a few seconds."""


def slow_marked(pages: list[Path]) -> list:
    return [pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in SLOW)) for page in pages]


@pytest.mark.parametrize("page", slow_marked(list(filter(has_code, PAGES))))
def test_code_of_the_page_runs(page, run_page):
    run_page(page.name)


@pytest.mark.parametrize("page", named(PAGES))
def test_nothing_is_left_to_be_filled_in(page):
    assert not re.search(r"@@|TODO|FIXME|XXX", prose(page))


@pytest.mark.parametrize("page", named(PAGES))
def test_blocks_say_what_they_are(page):
    assert {block.language for block in blocks(page)} <= {"python", "text", "sh", "toml", "json", "{toctree}"}


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


# -- what the pages claim ---------------------------------------------------------------------------------------------


def code_lines(page: str, start: str, end: str) -> int:
    """Lines of code from the one that starts with `start` to the one before `end`, empty ones not counted."""
    text = next(block.text for block in blocks(DOCS / page) if f"\n{start}" in block.text)
    part = text[text.index(start) :].split(end)[0]
    return sum(1 for line in part.splitlines() if line.strip())


def test_a_gan_is_as_short_as_promised():
    assert code_lines("your-own-step.md", "class GAN", "\n\n\n\n") < 40


@pytest.mark.slow
def test_gan_learns_in_windows_too(run_page):
    page = run_page("your-own-step.md")
    torch.manual_seed(1)
    gan = Learner(
        page["GAN"](),
        page["points"],
        page["gan_loss"],
        partial(torch.optim.Adam, betas=(0.5, 0.9)),
        groups=page["gan"].groups,
        step=page["gan_step"],
        accumulate=2,
        seed=1,
        progress=False,
    )
    before = page["distance"](gan.model)
    gan.fit(50, lr=[1e-3, 4e-3], schedule=flat_cosine)
    after = page["distance"](gan.model)

    assert (after < 0.4).all()
    assert (after < before / 3).all()


@pytest.mark.slow
def test_gan_halves_get_the_gradients_of_their_own_losses(run_page):
    page = run_page("your-own-step.md")
    model, real, noise = page["GAN"](), torch.randn(16, 2), torch.randn(16, 2)
    page["gan_loss"](model(real, noise), None).backward()
    softplus, judge, fake = nn.functional.softplus, model.discriminator, model.generator(noise)
    own = {
        "generator": softplus(-judge(fake)),
        "discriminator": softplus(judge(fake.detach())) + softplus(-judge(real)),
    }
    for name, loss in own.items():
        parameters = list(getattr(model, name).parameters())
        grads = torch.autograd.grad(loss.mean(), parameters)

        torch.testing.assert_close(list(grads), [parameter.grad for parameter in parameters])


@pytest.mark.parametrize("scheduled", [False, True], ids=["flat", "one-cycle"])
def test_learner_equals_the_loops_of_the_page_with_momentum(run_page, scheduled):
    page = run_page("coming-from-pytorch.md")
    sgd_momentum = partial(torch.optim.SGD, lr=1e-3, momentum=0.9)
    model, *loaders = page["start"]()
    by_hand = page["one_cycle_by_hand" if scheduled else "train_by_hand"]
    by_hand(model, *loaders, sgd_momentum(model.parameters()), 3)
    ours, *loaders = page["start"]()
    learner = Learner(ours, tuple(loaders), nn.CrossEntropyLoss(), sgd_momentum, metrics=[accuracy], progress=False)
    learner.fit(3, lr=1e-3, schedule=one_cycle if scheduled else flat)

    assert page["same_bits"](model, ours)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.8])
def test_drawn_densities_integrate_to_one(figures, alpha):
    # w = t^(1/alpha) takes the pole at 0 away; the other half of the interval is its mirror image
    ends = torch.linspace(0, 0.5**alpha, 20_001, dtype=torch.float64)
    t = (ends[1:] + ends[:-1]) / 2
    area = (figures["beta_density"](t ** (1 / alpha), alpha) * t ** (1 / alpha - 1) / alpha).sum() * (ends[1] - ends[0])

    assert 2 * float(area) == pytest.approx(1, abs=1e-6)


def test_mean_shares_of_the_page(figures):
    """The table of docs/mixup.md, from the function that MixUp draws with."""
    rows = re.findall(
        r"^\| (\d\.\d) \| (\d\.\d{3}) \|$", (DOCS / "mixup.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )

    assert ("0.4", "0.840") in rows
    for alpha, mean in rows:
        assert float(draw_weights(float(alpha), 200_000).mean()) == pytest.approx(float(mean), abs=2e-3)
        assert figures["mean_larger_share"](float(alpha)) == pytest.approx(float(mean), abs=5e-4)


BY_HAND = {"report.png"}
"""A picture that takes a browser; its page says how it was made."""


@pytest.mark.slow
def test_figures_can_be_drawn(figures, tmp_path):
    for name in ("step", "learning_rate", "plan", "looking_inside", "transfer", "text"):
        runpy.run_path(str(DOCS / "figures" / f"{name}.py"))["main"](tmp_path)
    figures["main"](tmp_path)
    runpy.run_path(str(DOCS / "figures" / "mixed_precision.py"))["main"](tmp_path, epochs=2)
    runpy.run_path(str(DOCS / "figures" / "runs.py"))["main"](tmp_path, epochs=1, seeds=2)

    pictures = {path.name for path in (DOCS / "images").glob("*.png")}
    assert {path.name for path in tmp_path.iterdir()} == pictures - BY_HAND


@pytest.fixture(scope="module")
def figures() -> dict:
    return runpy.run_path(str(DOCS / "figures" / "mixup.py"))
