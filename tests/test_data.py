"""Finding and labeling files, vocabularies, and loaders."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from etude import ArrayLoader, Batch, ConfigError, DataError, DataLoaders, MixedTargets, Vocab
from etude.data.convert import move
from etude.data.files import find_images, label_table
from etude.data.loaders import PlainLoader, as_dataloaders, as_loader

LAW = settings(max_examples=50, deadline=None, derandomize=True)
CPU = torch.device("cpu")


# -- files ------------------------------------------------------------------------------------------------------------


def _touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_pictures_come_sorted_by_path_whatever_order_the_system_gives(tmp_path, monkeypatch):
    """Error 11: unsorted, the same seed split the files differently on every machine."""
    _touch(tmp_path, "b/2.jpg", "b/1.PNG", "a/z.jpeg", "a/a/q.webp", "a.bmp")
    walk = os.walk

    def backwards(folder, **options):
        for root, folders, files in walk(folder, **options):
            folders.sort(reverse=True)
            yield root, folders, sorted(files, reverse=True)

    expected = ["a.bmp", "a/a/q.webp", "a/z.jpeg", "b/1.PNG", "b/2.jpg"]
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == expected
    monkeypatch.setattr(os, "walk", backwards)
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == expected


def test_hidden_files_folders_and_other_kinds_are_passed_over(tmp_path):
    _touch(tmp_path, "a/1.jpg", "a/.2.jpg", ".cache/3.jpg", "a/._4.jpg", "a/notes.txt", "a/jpg", ".DS_Store")

    assert [path.name for path in find_images(tmp_path)] == ["1.jpg"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    _touch(tmp_path, "a/notes.txt")

    with pytest.raises(DataError, match=r"holds no pictures; looked for .*\.jpg"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="missing is not a folder"):
        find_images(tmp_path / "missing")


def _table(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding=encoding)
    return label_table(path)


def test_a_label_table_is_read_sorted_with_its_split(tmp_path):
    rows = _table(tmp_path, "name,label,is_valid\nb.jpg,dog,True\na.jpg,cat,0\nc.jpg,dog,1\n")

    assert rows == [("a.jpg", "cat", False), ("b.jpg", "dog", True), ("c.jpg", "dog", True)]


def test_a_label_table_needs_no_split_and_may_come_from_a_spreadsheet(tmp_path):
    rows = _table(tmp_path, 'label,name\n"Žabka, green",a.jpg\n', encoding="utf-8-sig")

    assert rows == [("a.jpg", "Žabka, green", False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.jpg,cat\n", r"lacks the column \['name'\]; it has \['file', 'label'\]"),
        ("name\na.jpg\n", r"lacks the column \['label'\]"),
        ("", "lacks the column"),
        ("name,label\na.jpg,cat\nb.jpg,\n", "line 3: name or label is empty"),
        ("name,label\na.jpg\n", "line 2: name or label is empty"),
        ("name,label\n,cat\n", "line 2: name or label is empty"),
    ],
    ids=["no name", "no label", "empty", "empty label", "short line", "empty name"],
)
def test_a_broken_label_table_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        _table(tmp_path, text)


# -- vocab ------------------------------------------------------------------------------------------------------------


@LAW
@given(labels=st.lists(st.text("abc", max_size=3), min_size=1, max_size=20))
def test_a_vocabulary_is_the_same_for_any_order_of_the_labels(labels):
    vocab = Vocab.of(labels)

    assert vocab == Vocab.of(reversed(labels))
    assert [vocab.number(name) for name in vocab] == list(range(len(vocab)))
    assert all(vocab[vocab.number(label)] == label for label in labels)


def test_a_vocabulary_of_equal_names_is_refused():
    with pytest.raises(DataError, match=r"\['cat'\] came more than once"):
        Vocab(["cat", "dog", "cat"])


def test_an_unknown_label_is_refused_with_its_source_and_the_known_ones():
    with pytest.raises(DataError, match=r"label 'cow' of farm/1.jpg is not among the 2 classes .*\(cat, dog\)"):
        Vocab(["cat", "dog"]).number("cow", source="farm/1.jpg")


def test_vocabularies_compare_by_their_names():
    assert Vocab(["a", "b"]) == Vocab(["a", "b"])
    assert Vocab(["a", "b"]) != Vocab(["b", "a"])
    assert hash(Vocab(["a"])) == hash(Vocab(["a"]))
    assert repr(Vocab(["a"])) == "Vocab(['a'])"


# -- arrays in memory -------------------------------------------------------------------------------------------------


def _epoch(loader, epoch):
    return list(loader.batches(epoch, CPU))


@LAW
@given(
    num=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    drop_last=st.booleans(),
    epoch=st.integers(0, 5),
    seed=st.integers(0, 100),
)
def test_an_epoch_is_a_permutation_in_batches_of_the_asked_size(num, batch_size, drop_last, epoch, seed):
    samples = torch.arange(num)
    loader = ArrayLoader(samples, -samples, batch_size=batch_size, shuffle=True, drop_last=drop_last, seed=seed)
    batches = _epoch(loader, epoch)
    seen = torch.cat([batch.indices for batch in batches]).tolist()

    assert len(batches) == len(loader)
    assert len(set(seen)) == len(seen)
    assert {batch.size for batch in batches[:-1]} <= {batch_size}
    whole = num // batch_size * batch_size
    assert len(seen) == (whole if drop_last and whole else num)
    assert all(torch.equal(batch.inputs, batch.indices) for batch in batches)
    assert all(torch.equal(batch.targets, -batch.indices) for batch in batches)


def _order(seed, epoch, **options):
    loader = ArrayLoader(torch.zeros(30, 1), torch.zeros(30), batch_size=7, seed=seed, **options)
    return torch.cat([batch.indices for batch in _epoch(loader, epoch)]).tolist()


def test_the_order_is_a_function_of_seed_and_epoch():
    assert _order(1, 0, shuffle=True) == _order(1, 0, shuffle=True)
    assert _order(1, 0, shuffle=True) != _order(1, 1, shuffle=True)
    assert _order(1, 0, shuffle=True) != _order(2, 0, shuffle=True)
    assert _order(1, 3) == list(range(30))


def test_an_epoch_can_be_had_without_those_before_it():
    loader = ArrayLoader(torch.zeros(30, 1), torch.zeros(30), batch_size=7, shuffle=True)
    after = [_epoch(loader, epoch) for epoch in range(4)][3]
    at_once = _epoch(ArrayLoader(torch.zeros(30, 1), torch.zeros(30), batch_size=7, shuffle=True), 3)

    assert all(torch.equal(a.indices, b.indices) for a, b in zip(after, at_once, strict=True))


def test_a_small_set_is_not_dropped_whole():
    assert len(ArrayLoader(torch.zeros(5, 1), torch.zeros(5), batch_size=64, drop_last=True)) == 1


@pytest.mark.parametrize(
    ("sizes", "options", "error", "message"),
    [
        ((4, 3), {}, DataError, "4 inputs but 3 targets"),
        ((0, 0), {}, DataError, "no samples"),
        ((4, 4), {"batch_size": 0}, ConfigError, "batch_size must be at least 1, got 0"),
    ],
    ids=["lengths", "empty", "batch size"],
)
@pytest.mark.usefixtures("without_type_checks")
def test_arrays_that_cannot_be_loaded_are_refused(sizes, options, error, message):
    with pytest.raises(error, match=message):
        ArrayLoader(torch.zeros(sizes[0], 2), torch.zeros(sizes[1]), **options)


# -- a user's own loader ----------------------------------------------------------------------------------------------


def test_a_torch_loader_a_list_and_ready_batches_are_loaders():
    dataset = TensorDataset(torch.arange(10.0), torch.arange(10))
    ready = Batch(torch.zeros(2), torch.zeros(2), torch.ones(2))
    sources = [DataLoader(dataset, batch_size=4), [(torch.zeros(4), torch.zeros(4))] * 2, [ready]]

    assert [[batch.size for batch in _epoch(as_loader(source), 0)] for source in sources] == [[4, 4, 2], [4, 4], [2]]
    assert [len(as_loader(source)) for source in sources] == [3, 2, 1]
    assert all(isinstance(batch, Batch) for source in sources for batch in _epoch(as_loader(source), 0))


def test_a_loader_of_ours_is_taken_as_it_is():
    loader = ArrayLoader(torch.zeros(4, 1), torch.zeros(4))

    assert as_loader(loader) is loader


def test_a_list_of_several_inputs_is_passed_as_several_arguments():
    """Torch's default collation turns a sample's tuple into a list."""
    (batch,) = _epoch(as_loader([[[torch.zeros(2), torch.ones(2)], torch.zeros(2)]]), 0)

    assert isinstance(batch.inputs, tuple)
    assert batch.size == 2


@pytest.mark.parametrize(
    ("item", "what"),
    [
        (torch.zeros(3), "a Tensor"),
        ((torch.zeros(1), torch.zeros(1), torch.zeros(1)), "a tuple of 3"),
        ([torch.zeros(1)], "a list of 1"),
        ({"x": torch.zeros(1)}, "a dict"),
    ],
    ids=["tensor", "triple", "single", "dict"],
)
def test_something_that_is_no_batch_is_refused_with_its_kind_and_place(item, what):
    with pytest.raises(DataError, match=rf"batch 1 is {what}; expected \(inputs, targets\)"):
        _epoch(PlainLoader([(torch.zeros(1), torch.zeros(1)), item]), 0)


def test_a_loader_without_length_is_refused():
    with pytest.raises(ConfigError, match=r"generator has no len\(\), so a schedule cannot know where it ends"):
        PlainLoader(item for item in [])


def test_data_is_a_bundle_a_pair_or_training_batches_alone():
    batches = [(torch.zeros(4), torch.zeros(4))]
    bundle = DataLoaders(as_loader(batches))

    assert as_dataloaders(bundle) is bundle
    assert as_dataloaders(batches).valid is None
    assert as_dataloaders((batches, None)).valid is None
    assert len(as_dataloaders((batches, batches * 2)).valid) == 2
    with pytest.raises(ConfigError, match=r"\(train, valid\), got a tuple of 3"):
        as_dataloaders((batches, batches, batches))


def test_data_without_a_vocabulary_has_no_number_of_classes():
    assert DataLoaders(None, vocab=Vocab(["a", "b"])).num_classes == 2
    with pytest.raises(DataError, match="no vocabulary"):
        _ = DataLoaders(None).num_classes


# -- moving to the device ---------------------------------------------------------------------------------------------

META = torch.device("meta")


def test_tensors_move_inside_any_nesting():
    mixed = MixedTargets(torch.zeros(2), torch.ones(2), torch.ones(2))
    moved = move({"a": (torch.zeros(2), [torch.ones(2)]), "b": mixed, "c": "name", "d": None}, META)

    assert moved["a"][0].device == moved["a"][1][0].device == moved["b"].weight.device == META
    assert isinstance(moved["b"], MixedTargets)
    assert (moved["c"], moved["d"]) == ("name", None)


@pytest.mark.parametrize("inputs_device", [CPU, META], ids=["all", "the rest"])
def test_every_tensor_of_a_batch_moves_to_the_device(inputs_device):
    """Also when inputs and targets are there already."""
    batch = Batch(torch.zeros(2, device=inputs_device), torch.zeros(2, device=inputs_device), indices=torch.arange(2))
    (moved,) = PlainLoader([batch]).batches(0, META)

    assert moved.inputs.device == moved.targets.device == moved.indices.device == META
