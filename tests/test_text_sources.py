"""Where texts come from: folders, tables, WikiText, one long file, archives, memory."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest

from etude.data.items import random_split
from etude.errors import ConfigError, DataError
from etude.text.reading import clean
from etude.text.samples import checked, sides_of
from etude.text.sources import find, of_memory
from etude.text.wikitext import PART, articles


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def found_in(path, label=None, **settings):
    return find(path, label=label, progress=False, **settings)


def texts(corpus, rows=None):
    return [found.text for found in corpus.stream(range(len(corpus.names)) if rows is None else rows)]


IMDB = {
    "train/pos/1.txt": "good",
    "train/neg/2.txt": "bad",
    "train/unsup/3.txt": "who knows",
    "train/urls_pos.txt": "http://",
    "test/pos/4.txt": "fine",
    "test/neg/5.txt": "poor",
    "unsup/6.txt": "perhaps",
    "README.txt": "read me",
}
ARTICLES = (
    " \n = A b = \n \n one <unk> \n = not a title = \n two \n = nor = \n \n = = Part = = \n \n three \n \n"
    " = C = \n \n four \n"
)


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_language_model_takes_the_texts_of_every_folder(tmp_path):
    corpus = found_in(write(tmp_path, IMDB))

    assert corpus.names == (
        *("test/neg/5.txt", "test/pos/4.txt", "train/neg/2.txt", "train/pos/1.txt"),
        *("train/unsup/3.txt", "unsup/6.txt"),
    )
    assert corpus.labels is None
    assert corpus.sides == (True, True, False, False, False, False)
    assert corpus.notes == ("2 texts beside the class folders are left out",)
    assert texts(corpus, [2, 5]) == ["bad", "perhaps"]


def test_a_classifier_takes_the_texts_with_a_label(tmp_path):
    corpus = found_in(write(tmp_path, IMDB), "parent")

    assert corpus.names == ("test/neg/5.txt", "test/pos/4.txt", "train/neg/2.txt", "train/pos/1.txt")
    assert corpus.labels == ("neg", "pos", "neg", "pos")
    assert corpus.sides == (True, True, False, False)
    assert sorted(corpus.notes) == [
        "2 texts beside the class folders are left out",
        "2 texts in unsup, which have no label, are left out",
    ]
    assert corpus.description == "CLASS folders in train and test"


def test_a_flat_folder_keeps_all_its_texts(tmp_path):
    corpus = found_in(
        write(tmp_path, {"b.txt": "b", "series/a.txt": "a", ".hidden.txt": "h", "c.TXT": "c", "d.md": "d"})
    )

    assert corpus.names == ("b.txt", "c.TXT", "series/a.txt")


def test_labels_of_other_kinds(tmp_path):
    write(tmp_path, {"news/sport/a_1.txt": "a", "news/art/b_2.txt": "b", "mail/c_3.txt": "c"})

    assert found_in(tmp_path, "parent").labels == ("mail", "art", "sport")
    assert found_in(tmp_path, "top").labels == ("mail", "news", "news")
    assert found_in(tmp_path, r"^(.)_").labels == ("c", "b", "a")
    assert found_in(tmp_path, lambda path, root: path.stem[-1]).labels == ("3", "2", "1")
    with pytest.raises(DataError, match="expected the name of one class"):
        found_in(tmp_path, lambda path, root: None)


def test_texts_outside_class_folders(tmp_path):
    with pytest.raises(DataError, match="no texts in class folders: 2 texts beside the class folders"):
        found_in(write(tmp_path, {"a.txt": "a", "b.txt": "b"}), "parent")


def test_an_archive_and_a_wrapping_folder(tmp_path):
    write(tmp_path / "inside", {f"outer/inner/{name}": text for name, text in IMDB.items()})
    with tarfile.open(tmp_path / "reviews.tgz", "w:gz") as archive:
        archive.add(tmp_path / "inside", "reviews")

    assert found_in(tmp_path / "reviews.tgz", "parent").names == found_in(tmp_path / "inside", "parent").names


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match=r"holds no texts; looked for .txt and found other files \(2 .jpg\)"):
        found_in(write(tmp_path, {"a.jpg": "", "b/c.jpg": ""}))
    with pytest.raises(DataError, match="missing does not exist"):
        found_in(tmp_path / "missing")


# -- WikiText and other long files ------------------------------------------------------------------------------------


def test_articles_are_cut_at_their_titles():
    """At a title between blank lines; a formula or a section is none. Source: SPEC R16."""
    assert list(articles(ARTICLES.splitlines(keepends=True))) == [
        "= A b =\n\none <unk>\n= not a title =\ntwo\n= nor =\n\n= = Part = =\n\nthree",
        "= C =\n\nfour",
    ]


@pytest.mark.parametrize(
    "names", [("train.txt", "valid.txt", "test.txt"), ("wiki.train.tokens", "wiki.valid.tokens", "x")]
)
def test_the_sides_of_wikitext_are_files(tmp_path, names):
    train, valid, test = names
    corpus = found_in(write(tmp_path, {train: ARTICLES, valid: " = V = \n \n v \n", test: ARTICLES, "README": "x"}))

    assert corpus.names == (f"{train}/1", f"{train}/2", f"{valid}/1")
    assert corpus.sides == (False, False, True)
    assert texts(corpus, [1, 2]) == ["= C =\n\nfour", "= V =\n\nv"]


def test_real_wikitext(data_folder, tmp_path):
    """Every article of WikiText-2, and not a word lost."""
    with tarfile.open(data_folder / "wikitext-2.tgz") as archive:
        archive.extract("wikitext-2/valid.txt", tmp_path, filter="data")
    corpus = found_in(tmp_path / "wikitext-2" / "valid.txt")

    assert len(corpus.names) == 60
    assert sum(len(text.split()) for text in texts(corpus)) == len(
        (tmp_path / "wikitext-2/valid.txt").read_text().split()
    )


def test_one_long_file_is_cut_into_parts(tmp_path):
    lines = [f"line {i} of a book\n" for i in range(3000)]
    corpus = found_in(write(tmp_path, {"book.txt": "".join(lines)}) / "book.txt")

    assert "".join(texts(corpus)) == "".join(lines)
    assert all(PART <= len(text) < PART + 30 for text in texts(corpus)[:-1])
    assert corpus.names[0] == "book.txt/1"


def test_long_lines_are_cut(tmp_path):
    """A book may be one line, of which nothing could be held out."""
    book = "some words, " * 5000 + "x" * 25_000 + "\nand the end"
    corpus = found_in(write(tmp_path, {"book.txt": book}) / "book.txt")

    assert "".join(texts(corpus)) == book
    assert all(len(text) <= 2 * PART for text in texts(corpus))
    assert all(text.endswith(" ") for text in texts(corpus)[:5])


# -- tables -----------------------------------------------------------------------------------------------------------


def test_a_table(tmp_path):
    text = 'label,text,is_valid\npos,"one, ""two""\nthree",False\nneg,four,True\npos,five,False\n'
    corpus = found_in(write(tmp_path, {"texts.csv": text}), "label")

    assert corpus.labels == ("pos", "neg", "pos")
    assert corpus.sides == (False, True, False)
    assert texts(corpus) == ['one, "two"\nthree', "four", "five"]
    assert texts(corpus, [1]) == ["four"]
    assert corpus.names == ("texts.csv/1", "texts.csv/2", "texts.csv/3")


def test_tables_of_other_kinds(tmp_path):
    rows = [{"Review": "a;b", "stars": 1, "split": "train"}, {"Review": "c\u2028d", "stars": 2, "split": "valid"}]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write(tmp_path, {"a.jsonl": lines, "b.tsv": "Review\tstars\tsplit\na;b\t1\ttrain\nc\u2028d\t2\tvalid\n"})
    for name in ("a.jsonl", "b.tsv"):
        corpus = found_in(tmp_path / name, "stars")

        assert corpus.labels == ("1", "2")
        assert corpus.sides == (False, True)
        assert texts(corpus) == ["a;b", "c\u2028d"]


def test_test_rows_validate_where_no_others_do(tmp_path):
    write(tmp_path, {"a.csv": "text,split\na,train\nb,test\n", "b.csv": "text,split\na,train\nb,test\nc,valid\n"})

    assert found_in(tmp_path / "a.csv").sides == (False, True)
    assert found_in(tmp_path / "b.csv").sides == (False, None, True)


def test_columns_that_are_told(tmp_path):
    write(tmp_path, {"a.csv": "id,body,kind\n1,a,x\n2,b,y\n"})

    assert texts(found_in(tmp_path / "a.csv", text_column="body")) == ["a", "b"]
    assert found_in(tmp_path / "a.csv", "Kind", text_column="body").labels == ("x", "y")
    with pytest.raises(
        DataError, match=r"a.csv lacks a column of texts .* it has \['id', 'body', 'kind'\].*text_column="
    ):
        found_in(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a.csv lacks the column 'parent'; it has .*labels="):
        found_in(tmp_path / "a.csv", "parent", text_column="body")
    with pytest.raises(ConfigError, match="files of texts"):
        found_in(write(tmp_path / "folder", {"a.txt": "a"}), text_column="body")
    with pytest.raises(ConfigError, match="by a column of a table"):
        found_in(tmp_path / "folder" / "a.txt", "parent")


def test_a_column_that_comes_twice(tmp_path):
    """The last one was read, and nothing said."""
    write(tmp_path, {"a.csv": "text,label,text\na,x,b\n", "b.csv": "text,label,note,note\na,x,,\nb,y,,\n"})
    with pytest.raises(DataError, match=r"a\.csv has 2 columns called 'text'"):
        found_in(tmp_path / "a.csv")

    assert found_in(tmp_path / "b.csv", "label").labels == ("x", "y")


def test_a_column_that_is_asked_for_is_no_side(tmp_path):
    """Of "valid" and "not" a label; the column of sides is another one, or none."""
    write(tmp_path, {"a.csv": "text,valid,split\na,yes,train\nb,no,valid\n", "b.csv": "split,valid\na,yes\nb,no\n"})

    assert found_in(tmp_path / "a.csv", "valid").sides == (False, True)
    assert found_in(tmp_path / "a.csv", "valid").labels == ("yes", "no")
    assert found_in(tmp_path / "b.csv", "valid", text_column="split").sides is None


def test_labels_that_are_all_the_same(tmp_path):
    corpus = found_in(write(tmp_path, {"a.csv": "text,label\na,x\nb,x\n"}) / "a.csv", "label")
    with pytest.raises(DataError, match=r"'label' of .*a\.csv holds one class only.*, 'x'; expected two or more"):
        checked(corpus, [True, False])


def test_blank_lines_before_the_header(tmp_path):
    write(tmp_path, {"a.csv": "\n\ntext,label\na,x\n\nb,y\n"})

    assert texts(found_in(tmp_path / "a.csv", "label")) == ["a", "b"]


def test_a_table_of_one_row_is_named_as_any_other(tmp_path):
    """Whether a text is held out depends on its name."""
    write(tmp_path, {"a.csv": "text\na\n", "b/a.csv": "text\na\nb\n"})
    one, two = found_in(tmp_path / "a.csv"), found_in(tmp_path / "b" / "a.csv")

    assert [path.relative_to(tmp_path).as_posix() for path in (*one.paths, *two.paths)] == [
        *("a.csv/1", "b/a.csv/1", "b/a.csv/2")
    ]
    assert not one.in_files


def test_several_tables(tmp_path):
    write(tmp_path, {"a.csv": "text\na\n", "b.csv": "text\nb\n"})
    with pytest.raises(DataError, match="several tables"):
        found_in(tmp_path)
    write(tmp_path / "sides", {"train.csv": "text\na\nb\n", "test.csv": "text\nc\n"})

    assert found_in(tmp_path / "sides").sides == (False, False, True)


# -- memory, sides ----------------------------------------------------------------------------------------------------


def test_texts_in_memory():
    assert texts(of_memory(text for text in ("a", "b"))) == ["a", "b"]
    assert of_memory([("a", "x"), ("b", "y")]).labels == ("x", "y")
    assert of_memory([("a", 1), ("b", "1"), ("c", np.int64(0))]).labels == ("1", "1", "0")
    for wrong, said in (("abc", "one text"), (["a", 1], "text 1 is 1, a int"), ([("a", "x"), "b"], "expected a pair")):
        with pytest.raises((ConfigError, DataError), match=said):
            of_memory(wrong)


def test_the_share_held_out_is_drawn_by_name():
    few, more = (of_memory([str(i) for i in range(num)]) for num in (2000, 3000))
    (drawn, told), (longer, _) = (sides_of(corpus, valid=0.2, fold=None, seed=1) for corpus in (few, more))

    assert longer[:2000] == drawn
    assert 350 < sum(map(bool, drawn)) < 450
    assert told == ", 20% held out"
    assert sides_of(few, valid=0.2, fold=None, seed=2)[0] != drawn


def test_a_language_model_holds_out_a_tenth_unless_the_source_does(tmp_path):
    drawn, told = sides_of(of_memory([str(i) for i in range(1000)]), valid=None, fold=None, seed=1)
    files = found_in(write(tmp_path, {"train.txt": ARTICLES, "valid.txt": ARTICLES}))

    assert 70 < sum(map(bool, drawn)) < 130
    assert told == ", 10% held out"
    assert sides_of(files, valid=None, fold=None, seed=1)[0] == [False, False, True, True]
    assert True not in sides_of(files, valid=0.5, fold=None, seed=1)[0][2:]


def test_of_few_texts_a_language_model_holds_out_one():
    """A tenth of three texts is none, most often."""
    for seed in range(20):
        few = of_memory(["a", "b", "c"])
        sides = sides_of(few, valid=None, fold=None, seed=seed)[0]

        assert sides.count(True) >= 1
        if sides.count(True) == 1:  # the one that a larger share takes too
            share = next(share / 100 for share in range(1, 100) if True in _drawn(few, share / 100, seed))
            assert _drawn(few, share, seed) == sides


def _drawn(corpus, share, seed):
    return random_split(share, seed)(corpus.paths, corpus.root)


def test_folds_take_every_text_once(tmp_path):
    corpus = of_memory([(str(i), "ab"[i % 2]) for i in range(30)])
    folds = [sides_of(corpus, valid=None, fold=(fold, 3), seed=1)[0] for fold in range(3)]

    assert [sum(map(bool, sides)) for sides in zip(*folds, strict=True)] == [1] * 30


def test_every_class_keeps_a_text_to_learn_from():
    corpus = of_memory([("a", "rare"), ("b", "rare"), *((str(i), "common") for i in range(20))])
    for seed in range(30):
        sides, _ = sides_of(corpus, valid=0.6, fold=None, seed=seed)

        assert False in sides[:2]


def test_nothing_to_validate_on():
    labeled = of_memory([("a", "x"), ("b", "y")])
    with pytest.raises(ConfigError, match="no validation texts of their own"):
        sides_of(labeled, valid=None, fold=None, seed=1)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        sides_of(labeled, valid=2, fold=None, seed=1)
    with pytest.raises(ConfigError, match="give one of them"):
        sides_of(labeled, valid=0.2, fold=(0, 2), seed=1)


def test_what_is_no_text_is_put_right():
    assert clean("a\r\nb\rc") == ("a\nb\nc", "")
    assert clean("a\0b\0") == ("ab", "NULs were taken out: 2")
    assert clean("a\ud800b\ufffd") == ("a\ufffdb\ufffd", "signs that could not be decoded: 2")
    assert clean("\U0001f600 \u05e9\u05dc\u05d5\u05dd") == ("\U0001f600 \u05e9\u05dc\u05d5\u05dd", "")
