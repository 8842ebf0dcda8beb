"""Exported classifiers of texts give what the run gives, from raw text, in places where there is no etude."""

from __future__ import annotations

import ast
import hashlib
import json
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import etude
from coloring import etude as command
from etude import ConfigError
from etude.data.vocab import Vocab
from etude.exports import read_text_bundle, text_bundle
from etude.exports.plain import plain
from etude.exports.read_text_bundle import Bundle
from etude.exports.text_graph import WholeText
from etude.text import AWDLSTM, LanguageModel, LanguageModelLoss, TextClassifier, TextReader
from etude.text.rules import rules_hash
from etude.text.special import PAD, SPECIAL

WORDS = [
    *("the", "a", "film", "plot", "was", "great", "bad", "dull", "i", "it", "see", "again", "can", "not", "n't"),
    *("4", "5", "60", "3000", ",", ".", "!", "'", "<script>", "\u202e", "été", "你好世界", "🎉"),
]
ODD = [
    "The film was GREAT!!!!! I can't see it again.",
    "a " * 3_000,
    "one\r\ntwo\rthree\n\n\nfour \0 nul",
    "half \ud83d of a sign, 🎉🎉🎉🎉🎉 你好世界 \u202eleft\u202c \ufeffbom",
    'xxbos xxunk XXPAD <br /><br/> &amp;&lt;i&gt; #39; \\n \\" <unk> 1 @.@ 5 @-@ 6',
    "é" * 5_000 + " :-) http://x.y/z?a=b me@x.org $5.50 10km/h (a)(b) ...... '''",
    "no no no no no, the the the the film\t\x0b\x0c\x1c\u2028end",
]
WITHOUT_ETUDE = f"""
import importlib.util, json, sys
sys.path.append({sysconfig.get_path("purelib")!r})
assert importlib.util.find_spec("etude") is None
sys.path.insert(0, sys.argv[1])
from read_text_bundle import Bundle
bundle = Bundle(sys.argv[1])
texts = json.loads(sys.stdin.read())
print(json.dumps([bundle.check(), [bundle.predict(text) for text in texts]]))
assert not [name for name in sys.modules if name.startswith("etude")]
assert not {{"spacy", "tokenizers", "PIL", "numpy.testing"}} & set(sys.modules)
"""


def learner_of(model: nn.Module | None = None, **settings) -> etude.Learner:
    """A classifier of which every number matters: a new one's norms are those of nothing."""
    vocab = Vocab([*SPECIAL, *WORDS], made_by={"tokenizer": {"name": "words"}})
    read = TextReader(vocab, **settings)
    if model is None:
        model = TextClassifier(AWDLSTM(len(vocab), 6, 8, 3, pad=vocab.number(PAD)), 3, hidden=5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_(0, 0.4)
    data = etude.DataLoaders(None, vocab=Vocab(["bad", "<b>fine</b>", "gréat"]), read=read, collate=read.collate)
    return etude.Learner(model, data, nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu", progress=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A saved model in `saved`, and its bundle in `bundle`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("text export")
    learner_of().save(place / "saved")
    done = command("export", place / "saved", "--out", place / "bundle", "--data-license", "CC0", "--json")
    assert done.code == 0, done.errors
    assert done.json["difference"] < 1e-5
    assert done.json["test_pictures"] == []
    return place


@pytest.fixture
def bundle(saved, tmp_path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(saved / "bundle", tmp_path / "bundle"))


def without_etude(bundle: Path, texts: list[str]) -> tuple[float, list[dict[str, float]]]:
    call = [sys.executable, "-I", "-S", "-B", "-c", WITHOUT_ETUDE, str(bundle)]
    done = subprocess.run(call, input=json.dumps(texts), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    difference, rows = json.loads(done.stdout)
    return difference, rows


def assert_same(learner: etude.Learner, rows: list[dict[str, float]], texts: list[str]) -> None:
    for text, row in zip(texts, rows, strict=True):
        found = torch.tensor([row[label] for label in learner.data.vocab])
        assert (found - learner.predict(text).output).abs().max() < 1e-5, text[:40]
        assert list(row.values()) == sorted(row.values(), reverse=True)


def test_a_bundle_reads_odd_texts_as_the_run_does_without_etude(saved):
    difference, rows = without_etude(saved / "bundle", ODD)
    learner = etude.load(saved / "saved", device="cpu")

    assert difference < 1e-5
    assert_same(learner, rows, ODD)
    assert len({round(row["bad"], 4) for row in rows}) > len(ODD) / 2


def test_backward_models_and_cut_texts_are_read_so(tmp_path):
    for name, settings in (("backward", {"backward": True}), ("cut", {"max_length": 7}), ("both", None)):
        learner = learner_of(**(settings or {"backward": True, "max_length": 3}))
        found = Bundle(etude.export(learner, tmp_path / name).folder)
        assert_same(learner, [found.predict(text) for text in ODD], ODD)
        for text in ODD:
            assert found.read(text) == learner.data.read(text).tolist()


def test_files_in_every_encoding_are_read_as_the_run_does(saved, tmp_path):
    learner, found = etude.load(saved / "saved", device="cpu"), Bundle(saved / "bundle")
    for name in ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"):
        path = tmp_path / f"{name}.txt"
        path.write_bytes("The été was gréat!\r\nI see.".encode(name))
        assert_same(learner, [found.predict(path)], [path])
    for bad in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            found.predict(bad)


def test_what_a_bundle_holds(saved):
    about = json.loads((saved / "bundle" / "bundle.json").read_text(encoding="ascii"))
    files = {path.name for path in (saved / "bundle").iterdir()}

    assert files == {*about["files"], "bundle.json"}
    assert {"text_rules.py", "text_words.py", "text_english.py", "text_special.py"} < files
    assert {"read_text_bundle.py", "vocab.json", "LICENSE", "README.md", "test_texts.json"} < files
    for name, digest in about["files"].items():
        assert hashlib.sha256((saved / "bundle" / name).read_bytes()).hexdigest() == digest
    assert about["labels"] == ["bad", "<b>fine</b>", "gréat"]
    assert about["data_license"] == "CC0"
    assert about["text"]["tokenizer"] == {"name": "words"}
    assert "spaCy" in (saved / "bundle" / "LICENSE").read_text()


def test_the_reader_is_short_and_what_goes_with_it_needs_the_standard_library_alone():
    assert Path(read_text_bundle.__file__).read_text(encoding="utf-8").count("\n") <= 150
    shipped = text_bundle.reader_files()
    allowed = {*sys.stdlib_module_names, *(name.removesuffix(".py") for name in shipped)}
    for name, source in shipped.items():
        tree = ast.parse(source)
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        more = {"torch", "safetensors"} if name == text_bundle.READER else set()
        assert {one.partition(".")[0] for one in names} <= allowed | more, name
        assert not {"pickle", "importlib", "subprocess", "socket", "urllib", "ctypes"} & names
        called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not {"eval", "exec", "__import__", "compile"} & called


def test_the_readers_command(saved, tmp_path, monkeypatch, capsys):
    folder = saved / "bundle"

    def call(*names: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["read_text_bundle.py", str(folder), *map(str, names)])
        monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)
        with text_bundle._beside(folder), pytest.raises(SystemExit) as ended:
            runpy.run_path(str(folder / "read_text_bundle.py"), run_name="__main__")
        return int(ended.value.code), *capsys.readouterr()

    (tmp_path / "a.txt").write_text("great film")
    code, out, errors = call(tmp_path / "a.txt", tmp_path / "b.txt")
    assert code == 1
    assert out.startswith(f"{tmp_path / 'a.txt'}  0.")
    assert "b.txt cannot be read" in errors
    said = call("--text", "great film", "--check")[1].splitlines()
    assert [line.split("  ")[0] for line in said] == ["great film", "--check"]
    assert said[0].split("  ")[1:] == out.rstrip().split("  ")[1:]
    assert "the test vectors come out right" in call("--check")[1]
    assert not [name for name in sys.modules if name.startswith("text_words")]


# -- files from strangers ---------------------------------------------------------------------------------------------


def signed(folder: Path, **changed: object) -> None:
    """What bundle.json says, changed, with its hashes made right."""
    about = json.loads((folder / "bundle.json").read_text()) | changed
    about["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in about["files"]}
    about["sha256"] = ""
    about["sha256"] = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(about, indent=1))


def test_a_flipped_bit_is_found_in_every_file(saved, tmp_path):
    for number, path in enumerate(sorted((saved / "bundle").iterdir())):
        copy = Path(shutil.copytree(saved / "bundle", tmp_path / path.stem))
        data = bytearray((copy / path.name).read_bytes())
        data[(97 * number + 31) % len(data)] ^= 1
        (copy / path.name).write_bytes(data)
        with pytest.raises(ValueError, match=str(copy)):
            Bundle(copy).check()


SIZES = {"name": "text_classifier", "embed_dim": 6, "hidden_dim": 8, "num_layers": 3, "hidden": 5, "num_classes": 3}
SIZES["vocab_size"] = len(SPECIAL) + len(WORDS)
TEXT = {"tokenizer": {"name": "words"}, "rules": rules_hash(), "backward": False, "max_length": None}
HOSTILE = {
    "a billion layers": {"model": {**SIZES, "num_layers": 10**9}},
    "no layer": {"model": {**SIZES, "num_layers": 0}},
    "half a layer": {"model": {**SIZES, "num_layers": 1.5}},
    "a billion words": {"model": {**SIZES, "vocab_size": 10**9}},
    "other widths": {"model": {**SIZES, "hidden_dim": 7}},
    "a name of code": {"text": {**TEXT, "tokenizer": {"name": "os.system"}}},
    "a tokenizer of its own": {"text": {**TEXT, "tokenizer": {"name": "words", "module": "os"}}},
    "an endless text": {"text": {**TEXT, "max_length": -1}},
    "half a token": {"text": {**TEXT, "max_length": 2.5}},
    "a length that is none": {"text": {**TEXT, "max_length": True}},
    "a way that is none": {"text": {**TEXT, "backward": "no"}},
    "other rules": {"text": {**TEXT, "rules": "0" * 16}},
    "another format": {"format": "other"},
    "no text": {"text": None},
    "outputs of code": {"outputs": "__import__"},
    "labels that are none": {"labels": [1, 2, 3]},
    "too many labels": {"labels": ["a", "b", "c", "d"]},
    "another version": {"version": 2},
    "a path": {"files": {"../bundle/vocab.json": "", "vocab.json": "", "model.safetensors": ""}},
}


@pytest.mark.parametrize("good", [{}, {"model": SIZES}, {"text": TEXT}, {"text": {**TEXT, "max_length": 3}}], ids=str)
def test_a_good_description_that_is_signed_anew_opens(bundle, good):
    """So that the hostile ones are refused for what they say."""
    signed(bundle, **good)
    assert set(Bundle(bundle).predict("great film")) == {"bad", "<b>fine</b>", "gréat"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_description_is_refused_and_nothing_is_imported(bundle, name):
    before = set(sys.modules)
    signed(bundle, **HOSTILE[name])
    with pytest.raises(ValueError, match=r"cannot be used|does not pass its test"):
        Bundle(bundle).check()
    assert not set(sys.modules) - before


@pytest.mark.parametrize(
    "content", ["[]", "{}", "[" * 100_000, '["xxunk", 1]', "9" * 5_000, '["a"' + ', "a"' * 34 + "]"], ids=str
)
def test_a_hostile_vocabulary_is_refused(bundle, content):
    (bundle / "vocab.json").write_text(content)
    signed(bundle)
    with pytest.raises(ValueError, match="cannot be used"):
        Bundle(bundle)


def test_other_files_in_the_place_of_good_ones_are_refused(bundle, tmp_path):
    def refused() -> None:
        with pytest.raises(ValueError, match="cannot be used"):
            Bundle(bundle)

    (bundle / "vocab.json").rename(tmp_path / "elsewhere.json")
    refused()
    (bundle / "vocab.json").symlink_to(tmp_path / "elsewhere.json")
    refused()
    (bundle / "vocab.json").unlink()
    (bundle / "vocab.json").mkdir()
    refused()
    (bundle / "bundle.json").write_text('{"format": NaN}')
    refused()
    shutil.rmtree(bundle)
    refused()


def test_numbers_that_are_no_tokens_are_refused(saved):
    found = Bundle(saved / "bundle")
    for bad in ([], [-1], [10**6], [True], [0.5]):
        with pytest.raises(ValueError, match="token numbers"):
            found.probabilities(bad)


# -- what cannot go out, and graphs -----------------------------------------------------------------------------------


def test_what_no_bundle_holds_is_refused(tmp_path):
    learner = learner_of()
    encoder = AWDLSTM(len(learner.data.read.vocab), 6, 8, 1, pad=1)
    read = learner.data.read
    data = etude.DataLoaders(None, vocab=read.vocab, read=read, collate=read.collate)
    lm = etude.Learner(LanguageModel(encoder), data, LanguageModelLoss(), torch.optim.SGD, device="cpu", progress=False)
    with pytest.raises(ConfigError, match=r"a LanguageModel cannot be exported.*etude classify-text.*etude generate"):
        etude.export(lm, tmp_path / "out")
    with pytest.raises(ConfigError, match="etude's own classifier can be exported, and this is a Linear"):
        etude.export(learner_of(nn.Linear(2, 3)), tmp_path / "out")

    class Other:
        def config(self):
            return {"name": "spacy", "lang": "en"}

    learner.data.read.tokenizer = Other()
    with pytest.raises(ConfigError, match=r"own tokenizer 'words'.*'spacy'.*torch-export"):
        etude.export(learner, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_whole_text_at_once_is_what_the_chunks_give(monkeypatch):
    """The graph's form, before it is one: a long pass equals passes of 70 tokens that hand on their state."""
    learner = learner_of()
    whole = WholeText(plain(learner)).eval()
    lengths = torch.tensor([150, 1, 70, 71])
    tokens = torch.randint(0, len(learner.data.read.vocab), (4, 150))
    found = learner.preds(etude.Batch({"tokens": tokens, "lengths": lengths}, None)).softmax(1)
    with torch.no_grad():
        assert (whole(tokens, lengths) - found).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch-export", "onnx"])
def test_a_graph_takes_any_number_of_texts_of_any_length(saved, tmp_path, form):
    done = command("export", saved / "saved", "--to", form, "--out", tmp_path / "graph", "--json")
    assert done.code == 0, done.errors
    assert done.json["difference"] < 1e-5
    folder = tmp_path / "graph"
    learner = etude.load(saved / "saved", device="cpu")
    vectors = load_file(folder / "test_vectors.safetensors")
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        call = lambda *given: torch.from_numpy(  # noqa: E731
            session.run(None, {name: one.numpy() for name, one in zip(("tokens", "lengths"), given, strict=True)})[0]
        )
    else:
        call = torch.export.load(folder / "model.pt2").module()
    assert (call(vectors["tokens"], vectors["lengths"]) - vectors["expected"]).abs().max() < 1e-5
    for texts in (ODD[1:2], [ODD[0]], [ODD[i] for i in (1, 3, 4, 5)]):
        inputs = learner.data.collate([learner.data.read(text) for text in texts])
        found = call(inputs["tokens"], inputs["lengths"])
        assert (found - learner.predict(texts).output).abs().max() < 1e-5
    assert json.loads((folder / "vocab.json").read_text(encoding="utf-8")) == list(learner.data.read.vocab)
    about = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    assert about["inputs"]["tokens"] == {"dtype": "int64", "shape": ["batch", "time"]}
    assert "`tokens` is int64" in (folder / "README.md").read_text(encoding="utf-8")
