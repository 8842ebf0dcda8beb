"""Texts as they come: broken, empty, huge, of every script. A clear error or a stated outcome, and nothing lost."""

from __future__ import annotations

import codecs
import csv
import json

import pytest
import torch

from etude import text
from etude.errors import ConfigError, DataError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path):
    """Ten good texts of each of two classes."""
    for label in ("pos", "neg"):
        for i in range(10):
            path = tmp_path / "texts" / label / f"{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"This one, number {i}, is {label}.", encoding="utf-8")
    return tmp_path / "texts"


def load(path, **settings):
    return text.load(path, **{"labels": "parent", "valid": 0.3, "progress": False, "batch_size": 4, **settings})


def words_of(data, name):
    loader = data.train if name in data.train.names else data.valid
    row = loader.rows[loader.names.index(name)]
    return [data.read.vocab[i] for i in loader.store[int(row)].tolist()]


def names_of(data):
    return sorted([*data.train.names, *data.valid.names])


# -- single texts -----------------------------------------------------------------------------------------------------


def test_empty_texts_are_left_out_and_told(folder, capsys):
    (folder / "pos" / "empty.txt").write_text("")
    (folder / "pos" / "blank.txt").write_text(" \n\t\n ")
    (folder / "pos" / "mark.txt").write_bytes(codecs.BOM_UTF8)
    data = load(folder, progress=True)

    assert len(names_of(data)) == 20
    assert {tuple(i) for i in data.incidents} == {
        (f"pos/{name}.txt", "skipped", "holds no text") for name in ("empty", "blank", "mark")
    }
    assert "skipped 3: holds no text (pos/blank.txt, pos/empty.txt, pos/mark.txt)" in capsys.readouterr().out


def test_a_text_of_one_character(folder):
    (folder / "pos" / "one.txt").write_text("x")

    assert len(words_of(load(folder), "pos/one.txt")) == 3
    assert len(load(folder).read("x")) == 3
    with pytest.raises(DataError, match="an empty text"):
        load(folder).read("")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (codecs.BOM_UTF8 + b"good film", ["good", "film"]),
        ("good film".encode("utf-16"), ["good", "film"]),
        (codecs.BOM_UTF16_BE + "good film".encode("utf-16-be"), ["good", "film"]),
        ("good film".encode("utf-32"), ["good", "film"]),
        (b"good\r\nfilm\r", ["good", "\n", "film"]),
    ],
)
def test_encodings_that_say_what_they_are(folder, content, expected):
    for i in range(3):
        (folder / "pos" / f"x{i}.txt").write_bytes(content)
    data = load(folder, min_freq=1, valid=0.3)
    words = words_of(data, "pos/x0.txt")

    assert [word for word in words[1:-1] if word.strip()] == [word for word in expected if word.strip()]
    assert not data.incidents


def test_bytes_that_are_no_text_cost_a_sign_and_are_told(folder):
    (folder / "pos" / "latin.txt").write_bytes("a café, a café".encode("latin-1"))
    (folder / "neg" / "nuls.txt").write_bytes(b"g\0ood\0")
    data = load(folder)

    assert {tuple(i) for i in data.incidents} == {
        ("pos/latin.txt", "converted", "signs that could not be decoded: 2"),
        ("neg/nuls.txt", "converted", "NULs were taken out: 2"),
    }
    assert len(names_of(data)) == 22
    assert data.read(folder / "pos" / "latin.txt").tolist() == data.read("a caf\ufffd, a caf\ufffd").tolist()


@pytest.mark.parametrize(
    "one",
    [
        "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd, \u0645\u0631\u062d\u0628\u0627",
        "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
        '<div><p class="x">A &lt;b&gt; &amp;amp; <br /><BR> &#39; &nbsp; </div><script>if (a<b) {}</script>' * 20,
        "\u202eevil\u202c \u0000 \u200b\ufeff \x1b[31m",
        "e\u0301" * 300,
        "!" * 5000,
        "very " * 3000,
    ],
)
def test_texts_of_every_kind(folder, one):
    (folder / "pos" / "odd.txt").write_text(one, encoding="utf-8")
    data = load(folder, min_freq=1, valid=0.05, split_seed=3)
    (batch, *_) = data.train.batches(0, CPU)

    assert len(names_of(data)) == 21
    assert words_of(data, "pos/odd.txt")[0] == "xxbos"
    assert data.read(folder / "pos" / "odd.txt").tolist() == data.read(one).tolist()
    assert batch.inputs["tokens"].dtype == torch.long


def test_a_line_of_a_megabyte(folder):
    """No text is too long for a stream; a batch of a classifier is cut by `max_length`."""
    (folder / "pos" / "long.txt").write_text("word " * 200_000, encoding="utf-8")
    data = load(folder, max_length=100)
    widest = max(batch.inputs["tokens"].shape[1] for batch in data.train.batches(0, CPU))
    stream = text.load(folder, progress=False, batch_size=4)

    assert widest <= 100
    assert "pos/long.txt" in names_of(data)
    assert len(list(stream.train.batches(0, CPU))) == len(stream.train)


def test_a_file_that_cannot_be_read(folder):
    (folder / "pos" / "gone.txt").symlink_to(folder / "nowhere.txt")
    data = load(folder)

    assert [tuple(i) for i in data.incidents] == [("pos/gone.txt", "skipped", "is no file")]
    with pytest.raises(DataError, match=r"gone.txt is no file. Repair it"):
        data.read(folder / "pos" / "gone.txt")
    with pytest.raises(DataError, match=r"expected a text \(str\), or a file \(pathlib.Path\); got a int"):
        data.read(5)


# -- sets of texts ----------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(DataError, match=r"holds no texts; looked for .txt and found other files \(1 .jpg\)"):
        load(tmp_path / "pictures")
    with pytest.raises(DataError, match="is no file of texts"):
        load(tmp_path / "pictures" / "a.jpg")


def test_empty_texts_only(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("")
    with pytest.raises(DataError, match=r"none of the 3 texts \(text files.*\) can be used: a.txt holds no text"):
        load(tmp_path, labels=None, valid=0.5, split_seed=2)
    with pytest.raises(DataError, match="texts= holds no text"):
        text.load(texts=[], progress=False)


def test_labels_only_in_validation(folder):
    held = folder.parent / "sides"
    (held / "train").mkdir(parents=True)
    for label in ("pos", "neg"):
        (folder / label).rename(held / "train" / label)
    (held / "valid" / "odd").mkdir(parents=True)
    (held / "valid" / "odd" / "1.txt").write_text("an odd one")
    with pytest.raises(DataError, match=r"the label 'odd' of valid/odd/1.txt is not among the 2 classes"):
        load(held, valid=None)


def test_one_class(folder):
    with pytest.raises(DataError, match=r"gave \['texts'\] as classes"):
        load(folder.parent, labels=lambda path, root: "texts")


# -- tables -----------------------------------------------------------------------------------------------------------


def table(path, content):
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "lacks a column of texts"),
        ("a,b\n1,2\n", r"lacks a column of texts \(one of text, .*\); it has \['a', 'b'\]"),
        ("text,label\nok,x\na,b,c\n", r"t.csv, line 3: 3 columns, but the first line has 2.*double quotes"),
        ("text,label\nok,x\nshort\n", "t.csv, line 3: 1 columns"),
        ('text,label\nok,x\n"open,y\nmore\n', r"t.csv, line 4: unexpected end of data. Is a double quote missing\?"),
        ('text,label\n"a"b,x\n', "line 2: ',' expected after '\"'. Is a double quote missing"),
        ("text,label\nok,x\nno label,\n", "t.csv, line 3: there is no label in 'label'"),
        ("text,label,split\nok,x,maybe\n", "t.csv, line 2: 'maybe' in 'split' does not say"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        load(table(tmp_path / "t.csv", content), labels="label")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{'text': 1}", "line 3: Expecting property name"),
        ("[1, 2]", "line 3: a list; expected a JSON object"),
        ('{"text": 5, "label": "a"}', "line 3: 'text' is 5, a int; expected a text"),
        ('{"label": "a"}', "line 3: 'text' is missing"),
        ('{"text": "a", "label": null}', "line 3: there is no label"),
        ("[" * 100_000, "line 3: "),
    ],
)
def test_a_bad_line_of_json(tmp_path, line, said):
    good = json.dumps({"text": "good", "label": "a"})
    with pytest.raises(DataError, match=said):
        load(table(tmp_path / "t.jsonl", f"{good}\n\n{line}\n{good}\n"), labels="label")


def test_a_field_of_any_length(tmp_path):
    """The csv module stops at 131,072 characters unless it is told; what it was told before is told again."""
    before = csv.field_size_limit()
    rows = "".join(f'"{"word " * size}",{label}\n' for size, label in [(40_000, "a"), (2, "b")] * 5)
    data = load(table(tmp_path / "t.csv", f"text,label\n{rows}"), labels="label", valid=0.4)

    assert max(int(data.train.sampling.lengths.max()), int(data.valid.sampling.lengths.max())) > 2
    assert csv.field_size_limit() == before


def test_a_table_with_a_mark_and_nuls(tmp_path):
    (tmp_path / "t.csv").write_bytes(codecs.BOM_UTF8 + b"text,label\r\n" + b"g\0ood,a\r\nbad,b\r\n" * 10)
    data = load(tmp_path / "t.csv", labels="label")

    assert list(data.vocab) == ["a", "b"]
    assert len(names_of(data)) == 20


def test_too_few_tokens_for_the_batch(folder):
    with pytest.raises(DataError, match="are too few for 5000 rows of a stream"):
        text.load(folder, batch_size=5000, progress=False)
    with pytest.raises(ConfigError, match="one text"):
        text.load(texts="a single text", progress=False)
