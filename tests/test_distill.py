"""A teacher is asked about what the student sees, in its own way, and is never changed by it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import etude
from etude import EMA, ArrayLoader, Batch, Choose, ConfigError, Debug, Distillation, Learner, MixUp
from etude.optim import sgd
from etude.testing import same
from etude.training.callbacks.checkpoints import Checkpoints
from etude.training.distill import digest_of
from etude.types import MixedTargets
from etude.vision import LessonCNN, from_arrays
from reference import textbook
from resuming import StopAt, check_places, learner, outcome, signaled_by


def _net(seed=1, classes=3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.4), nn.Linear(12, classes))


def _batch(size=16, classes=3, **fields) -> Batch:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(size, 6, generator=generator)
    return Batch(x, x[:, :classes].argmax(1), **fields)


def _student(step, data=None, **options) -> Learner:
    given = {"loss_fn": nn.CrossEntropyLoss(), "callbacks": []} | ({"step": step} if step else {}) | options
    return Learner(
        _net(3), [_batch()] if data is None else data, optimizer=sgd(), device="cpu", progress=False, **given
    )


def _pictures(size: int, *, vocab=("a", "b", "c"), raw=8, seed=0, channels=1, preprocessed=True, **options) -> Learner:
    """A learner of small random pictures."""
    pixels = torch.randint(256, (24, channels, raw, raw), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(24) % len(vocab)
    data = from_arrays((pixels, targets), (pixels, targets), vocab=list(vocab), size=size, batch_size=8, seed=seed)
    torch.manual_seed(seed)
    model = LessonCNN(len(vocab), channels=channels, widths=[4, 8], stem_stride=1)
    if not preprocessed:
        data.preprocess = None
    given = {"loss_fn": nn.CrossEntropyLoss()} | options
    return Learner(model, data, optimizer=sgd(), device="cpu", progress=False, **given)


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "weighted", "mixed", "sum"])
@pytest.mark.parametrize(("temperature", "weight"), [(4.0, 0.9), (1.0, 0.3), (20.0, 1.0)])
def test_the_loss_equals_the_textbook(kind, temperature, weight):
    batch, teacher, seen = _batch(), _net(), []
    counts = torch.rand(16) if kind == "weighted" else None
    distribution = textbook.one_hot(batch.targets, 3)
    if kind == "mixed":
        other, share = batch.targets.flip(0), torch.linspace(0.5, 1, 16)
        batch = batch._replace(targets=MixedTargets(batch.targets, other, share))
        share = share.double().unsqueeze(1)
        distribution = share * distribution + (1 - share) * textbook.one_hot(other, 3)
    step = Distillation(teacher, temperature=temperature, weight=weight)
    look = Debug("after_step", call=lambda learner, batch, output: seen.append(output))
    loss_fn = nn.CrossEntropyLoss(reduction="sum" if kind == "sum" else "mean")
    _student(step, [batch._replace(weight=counts)], callbacks=[look], loss_fn=loss_fn).fit(1, lr=0.1)

    answers = copy.deepcopy(teacher).eval()(batch.inputs)
    each = textbook.distillation(seen[0].preds, answers, distribution, temperature=temperature, weight=weight)
    counts = torch.ones(16) if counts is None else counts
    expected = (each * counts).sum() if kind == "sum" else (each * counts).sum() / counts.sum()
    # softened by 20 the probabilities nearly agree, and float32 loses digits of the logarithm of their ratio
    torch.testing.assert_close(seen[0].loss.double(), expected.detach(), atol=1e-5, rtol=1e-4)


def test_the_gradient_is_that_of_the_loss():
    teacher, student = _net(), _net(3)
    batch = _batch()
    learner = _student(Distillation(teacher, temperature=2.0, weight=0.5))
    learner.model[3].p = student[3].p = 0.0
    learner.fit(1, lr=0.1, schedule=etude.flat, momentum=None)
    student.train()
    p, q = student(batch.inputs), teacher.eval()(batch.inputs).detach()
    soft = F.kl_div((p / 2).log_softmax(1), (q / 2).softmax(1), reduction="batchmean")
    (0.5 * F.cross_entropy(p, batch.targets) + 0.5 * 4 * soft).backward()

    expected = student[4].weight - 0.1 * student[4].weight.grad
    torch.testing.assert_close(learner.model[4].weight, expected, atol=1e-6, rtol=1e-5)


def test_a_student_learns_what_only_the_teacher_knows():
    """Labels are noise; the teacher is right."""
    torch.manual_seed(0)
    teacher, inputs = nn.Linear(6, 3), torch.randn(256, 6)
    teacher.weight.data *= 3
    data = ArrayLoader(inputs, torch.randint(3, (256,)), batch_size=32, shuffle=True)
    student = Learner(
        nn.Linear(6, 3), data, nn.CrossEntropyLoss(), sgd(), step=Distillation(teacher), device="cpu", progress=False
    )
    student.fit(6, lr=0.5)

    agree = (student.model(inputs).argmax(1) == teacher(inputs).argmax(1)).float().mean()
    assert float(agree) > 0.9


# -- the teacher ------------------------------------------------------------------------------------------------------


def test_the_teacher_is_not_changed_and_a_later_change_of_it_is_not_seen():
    teacher = _net().train()
    before = copy.deepcopy(teacher.state_dict())
    step = Distillation(teacher)
    expected = copy.deepcopy(teacher).eval()(_batch().inputs)
    learner = _student(step)
    learner.fit(2, lr=0.5)

    assert same(teacher.state_dict(), before), "running statistics too"
    assert teacher.training
    assert all(weight.requires_grad and weight.grad is None for weight in teacher.parameters())
    with torch.no_grad():
        teacher[0].weight.zero_()
    assert torch.equal(step.answers(learner, _batch()), expected), "in evaluation mode, without dropout"
    assert not step.answers(learner, _batch()).requires_grad


@pytest.mark.parametrize("own", [True, False], ids=["learner", "module"])
def test_the_teacher_sees_the_mixed_batch_that_the_student_sees(own):
    seen = []

    class Note(nn.Module):
        def __init__(self, who):
            super().__init__()
            self.who, self.net = who, LessonCNN(3, channels=1, widths=[4, 8], stem_stride=1)

        def forward(self, x):
            seen.append((self.who, x.detach().clone()))
            return self.net(x)

    made = _pictures(8, callbacks=[MixUp(0.4)])
    teacher = _pictures(8)
    teacher.model = Note("teacher")
    made.step = Distillation(teacher if own else teacher.model)
    made.model = made._call = Note("student")
    made.fit(1, lr=0.1)

    training = seen[: 2 * 3]
    assert [who for who, _ in training] == ["teacher", "student"] * 3
    for (_, asked), (_, learned) in zip(training[::2], training[1::2], strict=True):
        assert torch.equal(asked, learned)
        assert not torch.equal(asked, asked.round()), "mixed and normalized"


def test_a_learner_of_the_same_size_answers_as_it_predicts():
    teacher, student = _pictures(8, seed=1), _pictures(8)
    teacher.data.preprocess = type(teacher.data.preprocess)(8, [0.1], [0.7])
    batch = next(student.data.valid.batches(0, student.device))

    assert torch.equal(Distillation(teacher).answers(student, batch), teacher.preds(batch))


def test_a_learner_with_an_average_answers_by_it():
    teacher, student = _pictures(8, average=EMA(0.9, every=1)), _pictures(8)
    teacher.fit(1, lr=0.5)
    batch = next(student.data.valid.batches(0, student.device))

    assert torch.equal(Distillation(teacher).answers(student, batch), teacher.preds(batch))


@pytest.mark.parametrize(("own", "theirs", "raw"), [(12, 8, 8), (5, 8, 8), (12, 6, 8)], ids=str)
def test_a_learner_of_another_size_sees_the_students_square_at_its_own(own, theirs, raw):
    teacher, student = _pictures(own, raw=16), _pictures(theirs, raw=raw)
    batch = next(student.data.valid.batches(0, student.device))
    edge = (raw - theirs) // 2
    square = batch.inputs[..., edge : edge + theirs, edge : edge + theirs].float()
    expected = F.interpolate(square, (own, own), mode="bilinear", antialias=True)

    answers = Distillation(teacher).answers(student, batch)
    assert torch.equal(answers, teacher.preds(Batch(expected, None)))


def test_classes_are_matched_by_name():
    teacher, student = _pictures(8, vocab=("c", "a", "b")), _pictures(8, vocab=("a", "b", "c"))
    student.step = Distillation(teacher)
    seen = []
    batch = next(student.data.valid.batches(0, student.device))
    student.fit(1, lr=0.0, callbacks=[Debug("after_step", call=lambda *_: seen.append(1))])

    assert torch.equal(student.step.answers(student, batch), teacher.preds(batch)[:, [1, 2, 0]])


def test_the_digest_is_of_values_not_of_their_place():
    model = LessonCNN(3, widths=[4, 8])
    digest = digest_of(model)

    assert digest_of(copy.deepcopy(model).to(memory_format=torch.channels_last)) == digest
    with torch.no_grad():
        next(model.parameters()).flatten()[0] += 1e-6
    assert digest_of(model) != digest


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": 0.0}, "temperature must be from 0.01 to 1000, got 0.0"),
        ({"weight": 0.0}, r"weight must be in \(0, 1\], got 0.0; leave Distillation out"),
        ({"weight": 1.5}, r"weight must be in \(0, 1\], got 1.5"),
        ({"teacher": "runs/large"}, r"a module or a learner, got 'runs/large'; etude.load\(path\) gives one"),
    ],
    ids=str,
)
def test_what_is_no_teacher_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        Distillation(**{"teacher": _net()} | given)


def _binary(**options):
    return _pictures(8, loss_fn=nn.BCEWithLogitsLoss(), **options)


@pytest.mark.parametrize(
    ("teacher", "student", "words"),
    [
        (
            lambda: _pictures(8, vocab=("a", "b", "x")),
            lambda: _pictures(8),
            r"the teacher knows 3 classes, the student's data has 3: only the teacher has \['x'\], only the data has "
            r"\['c'\]",
        ),
        (lambda: _pictures(8, vocab=tuple("abcd")), lambda: _pictures(8), r"only the teacher has \['d'\]; pass a"),
        (lambda: _net(classes=5), lambda: _student(None), r"the teacher gives \(16, 5\), the student \(16, 3\)"),
        (lambda: _pictures(8), lambda: _pictures(8, preprocessed=False), "the teacher's data has raw inputs"),
        (lambda: _pictures(8, preprocessed=False), lambda: _pictures(8), "the student's data has raw inputs"),
        (lambda: _pictures(8), _binary, "the student gives several labels at once"),
        (lambda: _pictures(8), lambda: _pictures(8, callbacks=[MixUp(at="0")]), "mixes in the student's layer '0'"),
        (
            lambda: _pictures(8),
            lambda: _pictures(8, callbacks=[Choose(MixUp(), MixUp(at="0", seed=1))]),
            "mixes in the student's layer '0'",
        ),
    ],
    ids=["other class", "more classes", "other shape", "ready", "raw", "sigmoid", "hidden mixing", "a choice of it"],
)
def test_a_teacher_that_does_not_fit_is_refused_before_a_weight_moves(teacher, student, words):
    made = student()
    made.step = Distillation(teacher())
    before = copy.deepcopy(made.model.state_dict())
    with pytest.raises(ConfigError, match=words):
        made.fit(1, lr=0.1)

    assert all(torch.equal(weight, before[name]) for name, weight in made.model.named_parameters())


def test_a_sigmoid_teacher_is_refused():
    with pytest.raises(ConfigError, match="the teacher gives several labels at once"):
        Distillation(_binary())


# -- resuming ---------------------------------------------------------------------------------------------------------


def _teacher(seed=9) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_stopped_fit_goes_on_exactly(precision, tmp_path, monkeypatch):
    """In windows of two batches, with dropout, a norm and MixUp."""
    step, places = Distillation(_teacher()), ("mid-epoch", "an epoch's end")
    check_places(lambda: [MixUp(0.4)], tmp_path, monkeypatch, places, step=step, precision=precision)


def test_a_resume_needs_the_same_teacher(tmp_path, monkeypatch):
    stop = StopAt("an epoch's end")
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
        learner([stop, Checkpoints(tmp_path)], step=Distillation(_teacher())).fit(3, lr=0.05)

    def resumed(teacher, **options):
        made = learner([StopAt(None), Checkpoints(tmp_path)], step=Distillation(teacher, **options))
        made.fit(3, lr=0.05, resume=tmp_path)
        return made

    with pytest.raises(ConfigError, match=r"has step=Distillation\(teacher='Sequential [0-9a-f]{16}', temperature=4.0"):
        resumed(_teacher(10))
    with pytest.raises(ConfigError, match=r"this one has step=Distillation\(.* temperature=3.0"):
        resumed(_teacher(), temperature=3.0)
    assert len(outcome(resumed(_teacher().to(memory_format=torch.channels_last)))["rows"]) == 3
