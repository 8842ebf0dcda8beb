"""What was asked of a training on texts: whether it reaches the training, and is refused before one where it cannot."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from coloring import etude
from etude.errors import ConfigError, LoadError
from etude.recipes import classify_text
from etude.recipes.labeled_texts import AskedTexts, trained_on
from etude.recipes.text_options import (
    ClassifierTrainOptions,
    LabeledTextOptions,
    TextModelOptions,
    UlmfitOptions,
)
from etude.recipes.trained import Trained
from etude.recipes.ulmfit import stages
from etude.text.samples import sides_of
from etude.text.sources import find
from etude.training.callbacks.clip import ClipGradNorm
from etude.training.learner import Learner
from etude.training.optimizer import optimizer_of
from stopped_commands import read
from writing import save_texts, sentences

TINY = ["--embed-dim", "8", "--hidden-dim", "8", "--num-layers", "1", "--batch-size", "4", "--bptt", "8"]
TINY += ["--min-freq", "1", "--valid-pct", "0.25"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Two topics of 12 texts."""
    return save_texts(tmp_path_factory.mktemp("texts") / "texts", per_topic=12)


@pytest.fixture(scope="module")
def lm(texts, tmp_path_factory) -> Path:
    """The run of a language model on them."""
    folder = tmp_path_factory.mktemp("lm") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etude.runs.record.draw_curves", lambda *_: None)
        assert etude("lm", texts, *TINY, "--epochs", "1", "--run-dir", folder, "--quiet").code == 0
    return folder


def changed_copy(run: Path, folder: Path, name: str, change) -> Path:
    """A run with another JSON file."""
    shutil.copytree(run, folder)
    described = read(folder / name)
    change(described)
    (folder / name).write_text(json.dumps(described))
    return folder


# -- what is held out -------------------------------------------------------------------------------------------------


def save_layout(folder: Path, sides: dict[str, int]) -> Path:
    """Folders SIDE/TOPIC of so many texts each, and texts that have no topic."""
    for side, num in sides.items():
        save_texts(folder / side, per_topic=num)
    (folder / "train" / "unsup").mkdir()
    (folder / "train" / "unsup" / "1.txt").write_text("Who knows.\n")
    return folder


def save_table(path: Path, sides: tuple[str, ...] = ("False", "False", "True")) -> Path:
    """Rows of both topics, eight for each side."""
    rows = [
        (sentences(topic, i).strip(), topic, side) for i, side in enumerate(sides * 8) for topic in ("tools", "animals")
    ]
    lines = [f'"{text}",{topic},{side}' for text, topic, side in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["text,label,is_valid", *lines]) + "\n")
    return path


LAYOUTS = {
    "train and test": lambda root: save_layout(root, {"train": 8, "test": 4}),
    "train, valid and test": lambda root: save_layout(root, {"train": 8, "valid": 4, "test": 4}),
    "topics": lambda root: save_texts(root / "topics", per_topic=12),
    "a table": lambda root: save_table(root / "texts.csv"),
    "tables": lambda root: save_table(root / "both" / "train.csv") and save_table(root / "both" / "valid.csv").parent,
}


@pytest.mark.parametrize("valid", [None, 0.25])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_language_model_trains_on_what_its_classifier_is_measured_on(tmp_path, layout, valid):
    if (layout, valid) == ("topics", None):
        pytest.skip("a classifier needs texts that are held out")
    place = LAYOUTS[layout](tmp_path)
    plain, labeled = (find(place, label=label, progress=False) for label in (None, "auto"))
    (of_lm, told), (of_classifier, _) = (sides_of(one, valid=valid, fold=None, seed=42) for one in (plain, labeled))
    trained = {name for name, side in zip(plain.names, of_lm, strict=True) if side is False}
    measured = {name for name, side in zip(labeled.names, of_classifier, strict=True) if side}

    assert trained
    assert measured
    assert not trained & measured
    if layout == "train and test":
        assert "train/unsup/1.txt" in trained
        assert told == ("" if valid is None else ", 25% of all texts held out")


def classifier(texts: Path, lm: Path, split_seed: int = 42):
    data = LabeledTextOptions(data=str(texts), valid_pct=0.25, split_seed=split_seed)
    train = ClassifierTrainOptions(batch_size=4, bptt=8, device="cpu")
    return classify_text.training(data, str(lm), TextModelOptions(), train)


def test_texts_that_the_language_model_has_read_are_told(texts, lm, tmp_path, capsys):
    assert classifier(texts, lm).learner(quiet=True).data.incidents == ()
    loaders = classifier(texts, lm, split_seed=7).learner(quiet=False).data
    assert [incident.outcome for incident in loaders.incidents] == ["leak"]
    told = loaders.incidents[0].reason
    assert f"of the {len(loaders.valid.names)} held-out texts were trained on by the language model" in told
    assert f"note: {told}" in capsys.readouterr().out

    def begin_from_lm(config):
        config["body"] = {"from": str(lm)}
        config["options"]["data"] = str(tmp_path)

    # of a language model that went on from that one, elsewhere, too; and in `etude evaluate`
    later = changed_copy(lm, tmp_path / "later", "config.json", begin_from_lm)
    again = classifier(texts, later, split_seed=7).learner(quiet=True).data
    assert again.incidents[0].reason == told
    asked = AskedTexts(str(texts), valid_pct=0.25, split_seed=7, quiet=True)
    number = trained_on(loaders.valid.names, Trained.of(str(later)), asked, labeled=False)
    assert told.startswith(f"{number} of")


@pytest.mark.parametrize("packed", [True, False])
def test_labels_are_the_column_of_a_table_wherever_it_lies(tmp_path, packed):
    save_table(tmp_path / "sample" / "inside" / "texts.csv")
    place = tmp_path / "sample"
    if packed:
        place = tmp_path / "sample.tgz"
        with tarfile.open(place, "w:gz") as archive:
            archive.add(tmp_path / "sample" / "inside", "inside")
    training = classify_text.training(
        LabeledTextOptions(data=str(place), min_freq=1),
        None,
        TextModelOptions(embed_dim=4, hidden_dim=4, num_layers=1),
        ClassifierTrainOptions(device="cpu"),
    )

    assert list(training.learner(quiet=True).data.vocab) == ["animals", "tools"]


# -- every flag reaches the training ----------------------------------------------------------------------------------


class Caught(Exception):
    """In place of a fit."""


@pytest.fixture
def caught(monkeypatch) -> dict:
    """The first fit that a command asks for, instead of which it ends."""
    found: dict = {}

    def fit(learner, *given, **settings):
        found.update(settings, learner=learner, given=given)
        raise Caught

    monkeypatch.setattr(Learner, "fit", fit)
    return found


TEXTS = ["--valid-pct", "0.3", "--split-seed", "5", "--backward", "--tokenizer", "spaces"]
TEXTS += ["--max-vocab", "16", "--min-freq", "3"]
SIZES = {"embed_dim": 6, "hidden_dim": 10, "num_layers": 3}
MODEL = ["--embed-dim", "6", "--hidden-dim", "10", "--num-layers", "3", "--drop-mult", "0.3"]
TRAIN = [
    "--epochs",
    "7",
    "--batch-size",
    "3",
    "--bptt",
    "9",
    "--momentum",
    "0.7",
    "0.6",
    "--clip",
    "0.2",
    "--lr",
    "0.03",
]
TRAIN += ["--pct-start", "0.4", "--weight-decay", "0.02", "--precision", "bf16", "--seed", "8", "--device", "cpu"]


def check_common(caught: dict, drop: dict[str, float]) -> None:
    """What the flags of both commands come to."""
    learner: Learner = caught["learner"]
    encoder = learner.model.encoder.config()
    groups = optimizer_of(learner, reset=False).param_groups

    assert {name: encoder[name] for name in ("embed_dim", "hidden_dim", "num_layers")} == SIZES
    assert {name: encoder["dropouts"][name] for name in drop} == pytest.approx(drop)
    assert {group["betas"] for group in groups} == {(0.7, 0.99)}
    assert {group["weight_decay"] for group in groups} == {0.02, 0.0}
    assert [one.max_norm for one in learner.callbacks if isinstance(one, ClipGradNorm)] == [0.2]
    assert caught["given"] == (7, 0.03)
    assert caught["momentum"] == (0.7, 0.6)
    assert caught["schedule"].keywords == {"pct_start": 0.4}
    assert (learner.precision.name, str(learner.device), learner.data.seed) == ("bf16", "cpu", 8)
    assert learner.data.train.sampling.batch_size == 3
    read = learner.data.read
    assert (read.backward, read.tokenizer.config()["name"]) == (True, "spaces")


def test_every_flag_reaches_the_training_of_a_language_model(texts, tmp_path, caught):
    with pytest.raises(Caught):
        etude("lm", texts, *TEXTS, *MODEL, *TRAIN, "--ar", "0.5", "--tar", "0.25", "--run-dir", tmp_path / "run")

    check_common(caught, {"weight": 0.3 * 0.2, "input": 0.3 * 0.25})
    learner = caught["learner"]
    assert (learner.loss_fn.ar, learner.loss_fn.tar) == (0.5, 0.25)
    assert learner.data.train.sampling.bptt == 9
    plain = find(texts, label=None, progress=False)
    sides, _ = sides_of(plain, valid=0.3, fold=None, seed=5)
    held = [name for name, side in zip(plain.names, sides, strict=True) if side]
    valid = learner.data.valid
    assert [valid.store.names[row] for row in valid.rows.tolist()] == held
    assert len(learner.data.vocab) == 16


def test_every_flag_reaches_the_training_of_a_classifier(texts, tmp_path, caught):
    save_table(tmp_path / "texts.csv", ("",))
    table = ["--text-column", "text", "--label", "label", "--max-length", "5"]
    with pytest.raises(Caught):
        etude(
            *("classify-text", tmp_path / "texts.csv", *TEXTS, *MODEL, *TRAIN, *table),
            *("--run-dir", tmp_path / "run"),
        )

    check_common(caught, {"weight": 0.3 * 0.5, "input": 0.3 * 0.4})
    learner = caught["learner"]
    assert learner.model.config()["bptt"] == 9
    assert learner.data.read.max_length == 5
    assert int(learner.data.train.sampling.lengths.max()) == 5


def test_flags_reach_the_first_phase_on_a_language_model(texts, lm, tmp_path, caught):
    """And the shares of time in which the rate rises are the notes'."""
    flags = ["--epochs", "3", "--freeze-epochs", "2", "--lr", "0.02", "--batch-size", "4", "--bptt", "8"]
    shares = {}
    for command in (("lm", "--from"), ("classify-text", "--lm")):
        with pytest.raises(Caught):
            etude(command[0], texts, command[1], lm, *flags, "--valid-pct", "0.25", "--run-dir", tmp_path / command[0])
        shares[command[0]] = caught["schedule"].keywords["pct_start"]
        assert caught["given"][0] == 2
    assert shares == {"lm": 0.5, "classify-text": 0.3}


def test_ulmfit_shares_its_flags_among_its_stages(texts, lm):
    data, train = LabeledTextOptions(data=str(texts), valid_pct=0.25), UlmfitOptions(freeze_epochs=2, pct_start=0.2)
    new = stages("ulmfit", data, None, None, TextModelOptions(), train).parts
    tuned = stages("ulmfit", data, str(lm), None, TextModelOptions(), train).parts
    asked = stages("ulmfit", data, str(lm), None, TextModelOptions(), replace(train, lm_pct_start=0.1)).parts

    # nothing is frozen in a language model that begins from nothing
    assert (new["lm"].train.freeze_epochs, new["classifier"].train.freeze_epochs) == (1, 2)
    assert new["lm"].schedule().keywords == {"pct_start": 0.3}
    assert [(phase.epochs, phase.pct_start) for phase in tuned["tuned"].all_phases()] == [(2, 0.5), (5, 0.5)]
    assert {phase.pct_start for phase in asked["tuned"].all_phases()} == {0.1}
    assert new["classifier"].train.pct_start == 0.2
    with pytest.raises(ConfigError, match="the language model of --lm has its own"):
        stages("ulmfit", data, str(lm), None, TextModelOptions(embed_dim=9), train)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"read": None}, 1, "expected a language model of text"),
        ({"read": {"backward": "x"}}, 1, "backward"),
        ({"model_class": "XResNet", "model": {"arch": "xresnet18"}}, 2, "holds a XResNet; name the run of a language"),
    ],
    ids=["read", "backward", "another model"],
)
@pytest.mark.parametrize("command", [["classify-text"], ["lr-find", "classify-text"]], ids=" ".join)
def test_what_is_no_language_model_is_refused_in_one_line(texts, lm, tmp_path, command, change, code, words):
    def spoil(described):
        new = {
            name: {**described[name], **value} if name == "read" and value else value for name, value in change.items()
        }
        described.update(new)

    bad = changed_copy(lm, tmp_path / "bad", "model.json", spoil)
    done = etude(*command, texts, "--lm", bad, "--valid-pct", "0.25")

    assert (done.code, len(done.errors.splitlines())) == (code, 1)
    assert words in done.errors


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("train", {"momentum": None}, "momentum"),
        ("train", {"momentum": ["x", 0.7]}, "momentum"),
        ("train", {"momentum": [0.8, 7.0]}, "--momentum must be two numbers"),
        ("train", {"bptt": 0}, "--bptt must be"),
        ("data", {"valid_pct": 3.0}, "--valid-pct must be"),
        ("data", {"backward": "no"}, "backward"),
        ("part", "../../x", "is no name of a folder"),
    ],
)
def test_a_record_that_cannot_be_is_refused(lm, tmp_path, part, value, words):
    (tmp_path / "run").mkdir()
    config = read(lm / "config.json")
    training = config["training"]
    training[part] = {**training[part], **value} if isinstance(value, dict) else value
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    done = etude("resume", tmp_path / "run")

    assert (done.code, len(done.errors.splitlines())) == (2, 1)
    assert words in done.errors


@pytest.mark.parametrize("option", [{"valid_pct": "a"}, {"valid_pct": True}, {"label": 5}, {"split_seed": 0.5}])
def test_options_of_a_run_that_cannot_be_are_refused(lm, tmp_path, option):
    folder = changed_copy(lm, tmp_path / "run", "config.json", lambda config: config["options"].update(option))

    with pytest.raises(LoadError, match=f"config.json says {next(iter(option))}="):
        Trained.of(str(folder)).completed(None, None, None, quiet=True)


def test_a_run_that_begins_again_begins_from_the_same_weights(texts, lm, tmp_path):
    training = classifier(texts, lm)
    config = {"training": training.record(), "options": training.flags(), "body": training.about()["body"]}
    config["body"]["weights_sha256"] = "0" * 64
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    done = etude("resume", tmp_path / "run")

    assert done.code == 2
    assert f"{lm} has other weights than {tmp_path / 'run'} began from" in done.errors
