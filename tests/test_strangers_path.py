"""A stranger's path, as docs/your-own-pictures.md tells it: four breeds, a borrowed body, and a model without etude."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from coloring import etude

PAGE = Path(__file__).parent.parent / "docs" / "your-own-pictures.md"
BREEDS = ("Abyssinian", "beagle", "Bombay", "shiba_inu")
PER_BREED = 50


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the stranger has it: breeds/BREED/*.jpg, and some new pictures without a label."""
    data = Path(__file__).parents[2] / "shared" / "data" / "oxford-iiit-pet-160.tgz"
    if not data.exists():
        pytest.skip("the Pets archive is not at hand")
    folder = tmp_path_factory.mktemp("stranger")
    taken = dict.fromkeys(BREEDS, 0)
    with tarfile.open(data) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            breed = Path(member.name).name.rpartition("_")[0]
            if not member.isfile() or breed not in taken:
                continue
            taken[breed] += 1
            into = folder / "breeds" / breed if taken[breed] <= PER_BREED else folder / "new"
            into.mkdir(parents=True, exist_ok=True)
            found = archive.extractfile(member)
            assert found is not None
            (into / Path(member.name).name).write_bytes(found.read())
    # the new pictures of the one breed that has many more would be most of the set
    for extra in sorted((folder / "new").glob("Abyssinian_*"))[3:]:
        extra.unlink()
    return folder


def _commands() -> list[list[str]]:
    """The page's commands, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_page_in_its_order(place, tmp_path, monkeypatch):
    """As on the page, but for a body that is trained for 10 epochs on half of Imagewoof instead of 40 on all of it."""
    monkeypatch.chdir(place)
    archive = Path(__file__).parents[2] / "shared" / "data" / "imagewoof2-128-half.tgz"
    said = {}
    for words in _commands():
        if words[0] != "etude":
            continue
        extra = ["--data", archive, "--epochs", "10"] if words[1] == "imagewoof" else []
        words = words[: words.index("--epochs")] + words[words.index("--epochs") + 2 :] if extra else words
        done = etude(*words[1:], *extra)
        assert done.code == 0, (words, done.errors)
        said[words[1], len(said)] = done
    tuned = json.loads((place / "runs" / "breeds" / "result.json").read_text(encoding="utf-8"))
    scratch = json.loads((place / "runs" / "scratch" / "result.json").read_text(encoding="utf-8"))

    assert tuned["valid_accuracy"] > scratch["valid_accuracy"] + 0.05
    assert (place / "runs" / "breeds" / "report.html").stat().st_size > 50_000
    with (place / "new.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(path) for path in sorted(Path("new").iterdir())]

    # elsewhere: an environment that has torch, safetensors and Pillow, and no etude
    reader = place / "breeds-bundle" / "read_bundle.py"
    bundle = _without_etude(tmp_path, reader, place)
    assert [max(one, key=one.get) for one in bundle] == [row["label"] for row in rows]
    for one, row in zip(bundle, rows, strict=True):
        assert max(one.values()) == pytest.approx(float(row["probability"]), abs=1e-5)


def _without_etude(folder: Path, reader: Path, place: Path) -> list[dict[str, float]]:
    """What the bundle's reader says of the new pictures, in an environment where `import etude` fails."""
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    libraries = folder / "libraries"
    libraries.mkdir()
    for entry in site.iterdir():
        # an editable installation lies there as a .pth file and a .dist-info
        if not entry.name.startswith(("etude", "_etude", "__editable__")) and entry.suffix != ".pth":
            (libraries / entry.name).symlink_to(entry)
    code = (
        "import importlib.util, json, sys\n"
        "assert importlib.util.find_spec('etude') is None\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from read_bundle import Bundle\n"
        "bundle = Bundle(sys.argv[1])\n"
        "print(json.dumps([bundle.predict(path) for path in sys.argv[2:]]))\n"
    )
    pictures = [str(path) for path in sorted((place / "new").iterdir())]
    done = subprocess.run(
        [python, "-c", code, str(reader.parent), *pictures],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(libraries), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
