"""The token store, and `text.load` on top of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile

import pytest
import torch

from etude import text
from etude.data import cache
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError, LoadError
from etude.text import rules
from etude.text import store as store_module
from etude.text.batching import BucketLoader, StreamLoader
from etude.text.reader import TextReader
from etude.text.special import SPECIAL
from etude.text.tokenize import tokenize
from etude.text.tokenizers import Characters, Words

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "home"))


@pytest.fixture
def reviews(tmp_path):
    """Forty reviews in IMDB's layout, and two without a label."""
    for side in ("train", "test"):
        for label, word in (("pos", "wonderful"), ("neg", "dreadful")):
            for i in range(10):
                path = tmp_path / "reviews" / side / label / f"{i}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"This {side} film is {word * (i % 3 + 1)}, I say!{' So it is.' * i}", encoding="utf-8")
    (tmp_path / "reviews" / "unsup").mkdir()
    for i in range(2):
        (tmp_path / "reviews" / "unsup" / f"{i}.txt").write_text(f"Nobody knows {i}.", encoding="utf-8")
    return tmp_path / "reviews"


def load(path=None, **settings):
    return text.load(path, **{"progress": False, "batch_size": 4, **settings})


def stores():
    return sorted(path for kind, path in cache.entries() if kind == "stores")


def stored(loader, i):
    return loader.store[int(loader.rows[i])].tolist()


# -- what is stored ---------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_readable_way(reviews):
    data = load(reviews, labels="parent", min_freq=1)
    for loader in (data.train, data.valid):
        for i, name in enumerate(loader.names):
            tokens = tokenize((reviews / name).read_text(), Words())

            assert stored(loader, i) == [data.read.vocab.get(token) or 0 for token in tokens]


def test_the_vocabulary_counts_training_texts_only(reviews):
    vocab = load(reviews, labels="parent", min_freq=1).read.vocab

    assert vocab.get("train") is not None
    assert vocab.get("test") is None
    assert tuple(vocab)[: len(SPECIAL)] == SPECIAL


def test_a_store_is_made_once(reviews, monkeypatch):
    first = load(reviews, labels="parent")
    monkeypatch.setattr(store_module, "_Work", None)
    again = load(reviews, labels="parent")

    assert first.identity == again.identity
    assert first.read.vocab == again.read.vocab
    assert again.read.vocab.made_by["tokenizer"] == {"name": "words"}
    assert torch.equal(first.train.store.values, again.train.store.values)
    assert first.train.store.values.dtype == torch.int32
    assert not first.train.store.damaged()
    assert len(stores()) == 1


@pytest.mark.parametrize(
    "change",
    ["text", "labels", "min_freq", "max_vocab", "split", "seed", "vocab", "tokenizer", "rules", "words", "version"],
)
def test_another_store_for_anything_else(reviews, change, monkeypatch):
    load(reviews, labels="parent", valid=0.4 if change == "seed" else None)
    if change == "text":
        (reviews / "train" / "pos" / "0.txt").write_text("Another text.")
    settings = {
        "labels": {"labels": None},
        "min_freq": {"min_freq": 3},
        "split": {"valid": 0.3},
        "vocab": {"vocab": Vocab([*SPECIAL, "film"])},
        "max_vocab": {"max_vocab": 16},
        "seed": {"valid": 0.4, "seed": 7},  # the same texts, of which others are counted
        "tokenizer": {"tokenizer": "characters"},
    }
    if change == "rules":
        monkeypatch.setattr(rules, "PRE_RULES", rules.PRE_RULES[:-1])
    elif change == "words":
        monkeypatch.setattr(Words, "tokens", lambda self, text: text.split())
    elif change == "version":
        monkeypatch.setattr(store_module, "versions_of", lambda tokenizer: {"spacy": "2.0"})
    load(reviews, **{"labels": "parent", **settings.get(change, {})})

    assert len(stores()) == 2


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, how) for name in ("values.bin", "store.json", "index.safetensors") for how in ("removed", "cut")),
        *(("vocab.json", how) for how in ("removed", "cut", "changed")),
        ("index.safetensors", "changed"),
    ],
)
def test_a_damaged_store_is_made_anew(reviews, name, how, capsys):
    whole = load(reviews, labels="parent").identity
    path = stores()[0] / name
    content = path.read_bytes()
    path.unlink() if how == "removed" else path.write_bytes(content[:-9] if how == "cut" else _changed(content))
    again = text.load(reviews, labels="parent", batch_size=4)

    assert again.identity == whole
    said = capsys.readouterr().out
    assert "damaged" in said
    assert "It is made anew." in said


def test_a_changed_value_is_found(reviews):
    load(reviews, labels="parent")
    path = stores()[0] / "values.bin"
    path.write_bytes(_changed(path.read_bytes()))

    assert len(load(reviews, labels="parent").train.store.damaged()) == 1


def _changed(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_an_interrupted_build_leaves_nothing_and_begins_anew(reviews, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "write_description", stop)
    with pytest.raises(KeyboardInterrupt):
        load(reviews)

    assert stores() == []
    monkeypatch.undo()
    monkeypatch.setenv("ETUDE_HOME", str(reviews.parent / "home"))
    # what a killed process left
    (cache.home() / "stores").mkdir(exist_ok=True)

    assert len(load(reviews).train) > 0


def test_texts_in_memory_are_not_written(tmp_path):
    data = load(texts=[(f"this is number {i}", "odd" if i % 2 else "even") for i in range(40)], valid=0.3)

    assert stores() == []
    assert list(data.vocab) == ["even", "odd"]
    assert len(data.train.names) + len(data.valid.names) == 40


# -- load -------------------------------------------------------------------------------------------------------------


def test_a_language_model_then_a_classifier(reviews):
    """The lines of the README, as far as data goes (DESIGN 3b)."""
    corpus = load(reviews, valid=0.25, batch_size=2, bptt=7)
    data = load(reviews, labels="parent", vocab=corpus.vocab)

    assert isinstance(corpus.train, StreamLoader)
    assert isinstance(data.train, BucketLoader)
    assert corpus.vocab is corpus.read.vocab
    assert data.read.vocab == corpus.vocab
    assert data.train.store.shapes.sum() == sum(len(data.read(reviews / name)) for name in data.train.store.names)
    assert list(data.vocab) == ["neg", "pos"]
    assert [name.split("/")[0] for name in data.valid.names] == ["test"] * 20
    for source in (corpus, data):
        assert load(reviews, labels="parent", vocab=source).identity == data.identity


def test_every_text_is_in_the_stream_of_a_language_model(reviews):
    corpus = load(reviews, valid=0.25, batch_size=1, bptt=10_000)
    begins = corpus.vocab.number("xxbos")
    batches = [batch for loader in (corpus.train, corpus.valid) for batch in loader.batches(0, CPU)]

    assert sum(int((batch.inputs["tokens"] == begins).sum()) for batch in batches) == 42


def test_reading_is_as_validation_is(reviews):
    for settings in ({}, {"backward": True}, {"max_length": 6}, {"backward": True, "max_length": 6}):
        data = load(reviews, labels="parent", **settings)
        (batch, *_) = data.valid.batches(0, CPU)
        names = [data.valid.names[i] for i in batch.indices]
        read = data.collate([data.read(reviews / name) for name in names])

        assert torch.equal(read["tokens"], batch.inputs["tokens"])
        assert torch.equal(read["lengths"], batch.inputs["lengths"])
        assert data.read((reviews / names[0]).read_text()).tolist() == data.read(reviews / names[0]).tolist()
        assert TextReader.from_config(json.loads(json.dumps(data.read.config()))).config() == data.read.config()


def test_what_is_said(reviews, capsys):
    text.load(reviews, labels="parent", batch_size=4)
    said = capsys.readouterr().out.splitlines()

    assert said[0] == f"40 texts (CLASS folders in train and test) in {reviews}"
    assert said[1] == "20 train and 20 valid texts of 2 classes (CLASS folders in train and test)"
    assert "train tokens, " in said[2]
    assert "% unknown; a vocabulary of " in said[2]
    assert said[3] == "  note: 2 texts in unsup, which have no label, are left out"


def test_what_a_vocabulary_says_of_itself(reviews, tmp_path):
    vocab = load(reviews).vocab
    with pytest.raises(ConfigError, match="made by the tokenizer 'words', and tokenizer= is 'spacy'"):
        load(reviews, vocab=vocab, tokenizer="spacy")
    with pytest.raises(ConfigError, match=r"tokenizer= is .*Characters"):
        load(reviews, vocab=vocab, tokenizer=Characters(3))
    with pytest.raises(ConfigError, match="max_vocab and min_freq"):
        load(reviews, vocab=vocab, min_freq=5)
    with pytest.raises(ConfigError, match="no vocabulary of tokens"):
        load(reviews, vocab=Vocab(["pos", "neg"]))
    with pytest.raises(LoadError):
        load(reviews, vocab=tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(LoadError):
        load(reviews, vocab=tmp_path)


def test_settings_without_effect(reviews):
    for settings, said in (
        ({"labels": "parent", "bptt": 30}, "language model"),
        ({"labels": "parent", "variable_bptt": True}, "language model"),
        ({"max_length": 30}, "classifier"),
        ({"texts": ["a"]}, "give a path"),
        ({"tokenizer": "letters"}, "there is no tokenizer"),
        ({"valid": 0.0}, "between 0 and 1"),
        *(
            ({name: value}, rf"{name} must be a whole number, at least 1; got {value!r}")
            for name in ("batch_size", "bptt", "max_length", "max_vocab", "min_freq")
            for value in (2.5, True, 0, -1, "a")
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            load(reviews, **settings)
    with pytest.raises(ConfigError, match="of files"):
        load(texts=["a"], labels="parent")


@pytest.mark.parametrize("changed", [["rules"], ["cuts"], ["rules", "cuts"]])
def test_rules_and_tokenizer_of_another_version_are_told(reviews, changed):
    """By whatever reads texts with the vocabulary: a reader of its own, a saved one, new data."""
    vocab = load(reviews).vocab
    old = Vocab(list(vocab), made_by={**vocab.made_by, **dict.fromkeys(changed, "older")})
    said = "made by the " + " and ".join({"rules": "rules", "cuts": "tokenizer"}[part] for part in changed)
    with pytest.warns(UserWarning, match=f"{said} of another version"):
        config = TextReader(old).config()
    with pytest.warns(UserWarning, match=said):
        TextReader.from_config(config)
    with pytest.warns(UserWarning, match=said):
        load(reviews, vocab=old, batch_size=2)


def test_room_for_four_bytes_of_each_token(reviews, monkeypatch):
    asked = []
    monkeypatch.setattr(cache, "check_space", lambda folder, needed, what: asked.append(needed))
    store = load(reviews, tokenizer="characters").train.store

    assert asked == [store.values.numel() * store.values.element_size()]


def test_the_same_text_on_both_sides_is_told(reviews, capsys):
    for name in ("0.txt", "1.txt"):
        (reviews / "test" / "pos" / name).write_bytes((reviews / "train" / "neg" / name).read_bytes())
    text.load(reviews, labels="parent", batch_size=4)

    assert "note: 2 of 20 validation texts are training texts too" in capsys.readouterr().out


def test_a_very_long_text_is_told(reviews, capsys):
    (reviews / "train" / "pos" / "0.txt").write_text("so long " * 10_000)
    for settings, told in (({"labels": "parent"}, True), ({"labels": "parent", "max_length": 50}, False), ({}, False)):
        text.load(reviews, batch_size=4, **settings)

        assert ("note: the longest text has 20,0" in capsys.readouterr().out) is told


def test_labeled_texts_for_a_trained_model(reviews):
    data = load(reviews, labels="parent")
    found, loader = text.labeled(reviews, data.read, data.vocab, progress=False)
    everywhere = text.labeled(reviews / "test", data.read, data.vocab, progress=False)[1]

    assert loader.names == data.valid.names
    assert everywhere.names == [name.removeprefix("test/") for name in loader.names]
    assert torch.equal(loader.take([3]).inputs["tokens"], data.valid.take([3]).inputs["tokens"])
    assert found.description == "20 texts of 2 classes (CLASS folders in train and test)"
    (reviews / "test" / "pos").rename(reviews / "test" / "good")
    with pytest.raises(DataError, match=r"'good' of .* is not among the 2 classes"):
        text.labeled(reviews, data.read, data.vocab, progress=False)


@pytest.mark.slow
def test_a_real_sample(data_folder):
    """A thousand reviews in a table."""
    data = load(data_folder / "imdb_sample.tgz", labels="label", batch_size=64)

    assert (len(data.train.names), len(data.valid.names)) == (800, 200)
    assert list(data.vocab) == ["negative", "positive"]
    assert len(data.read.vocab) % 8 == 0


@pytest.mark.slow
def test_all_reviews_in_bounded_memory(data_folder, tmp_path):
    """The 100,000 reviews of IMDB: less than 1 GiB at any time. Source: PERF 4.2."""
    with tarfile.open(data_folder / "imdb.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    code = (
        "import resource, sys; from etude import text; data = text.load(sys.argv[1], progress=False); "
        "print(len(data.train), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "imdb"], capture_output=True, text=True, check=True)
    batches, peak = map(int, done.stdout.split())

    assert batches > 5000
    assert peak < 1 << 20
