"""Guess how a folder of pictures is laid out, and say it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from etude.data.block import DataBlock
from etude.data.files import (
    IMAGE_SUFFIXES,
    LEFTOVERS,
    LabelRow,
    find_images,
    has_label_columns,
    label_table,
    relative_name,
    says_several,
    unnamed,
)
from etude.data.items import (
    VALID_NAMES,
    Label,
    Split,
    function_split,
    grandparent_split,
    keep_every_class,
    parent_label,
    random_split,
    regex_label,
    table_label,
    table_split,
    top_label,
)
from etude.data.numeric import NumberColumn
from etude.data.wordnet import readable_names
from etude.errors import ConfigError, DataError

Asked: TypeAlias = str | Label | None
"""What a caller says of the labels: "parent", "top", a function, or nothing."""
HeldOut: TypeAlias = float | Literal["all", "train"] | None
"""What a caller says of the split: a share, "all" or "train" where the split comes later, or nothing."""

_NUMBERED = r"^(.+)[_-]\d+\.[^.]+$"
_CAMERA_WORDS = frozenset(
    ("img", "image", "photo", "picture", "pic", "dsc", "dscn", "dscf", "pxl", "mvimg", "file", "frame", "scan")
)
"""What cameras and programs put before a number; where one comes up, what stands before it is no class."""


class _Layout(NamedTuple):
    inner: Path
    """The folder that find, own_split and label count from: the root or one below it."""
    files: list[Path]
    find: Callable[[Path], Sequence[Path]]
    label: Label
    kind: str
    detail: str = ""
    own_split: Split | None = None
    notes: tuple[str, ...] = ()


def guess(
    root: Path,
    *,
    valid: HeldOut,
    seed: int,
    label: Asked = None,
    several: bool = False,
    numbers: bool = False,
) -> DataBlock:
    """The layout of a folder of pictures; its `description` says which it took.

    Understood, the first that fits: a label table `labels.csv` (or the only csv with a name and a label column), with
    or without is_valid; `train/CLASS` beside `valid/CLASS` (or val, validation, test); CLASS folders, perhaps in
    `train`; and loose pictures that are called LABEL_NUMBER. Folders that only wrap such a layout are opened.

    Args:
        root: the folder.
        valid: the share to hold out, also where the folder has validation pictures of its own; None takes those.
            Without a split, "all" finds the pictures of every side, and "train" leaves out validation pictures.
        seed: decides which pictures are held out.
        label: "parent" (the folder that a picture lies in), "top" (the first folder of a deeper tree), or a function
            of (file, folder of the layout); guessed unless given.
        several: a picture may have several labels or none, also where no label of a table holds a ';'.
        numbers: labels are numbers to be predicted.

    Raises:
        ConfigError: there is nothing to validate on, or `valid` is no share.
        DataError: naming the folder or file that fits no layout.
    """
    _refuse(root, valid, label, several=several, numbers=numbers)
    base = _unwrapped(root)
    table = _table_path(base)
    layout = _of_table(base, table, valid, label, several, numbers) if table else _of_folders(base, root, valid, label)
    inner = layout.inner.relative_to(root)
    named, told = (layout.label, "") if callable(label) or numbers else _readable(layout)
    if several:
        named, told = _as_several(named), f"{told}; a picture may have several labels"
    where = "" if inner == Path() else f" in {inner.as_posix()}"
    return DataBlock(
        find=lambda folder: layout.find(folder / inner),
        split=_split_of(layout, root, inner, valid, seed, numbers=numbers),
        label=lambda path, folder: named(path, folder / inner),
        description=f"{layout.kind}{where}{layout.detail}{told}",
        numbers=numbers,
        notes=layout.notes,
    )


def _refuse(root: Path, valid: HeldOut, label: Asked, *, several: bool, numbers: bool) -> None:
    """Refuse what makes no sense before anything is looked at."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected a folder of pictures")
    if isinstance(valid, int | float) and not 0 < valid < 1:
        raise ConfigError(
            f"valid= is the share of pictures to hold out, such as valid=0.2, between 0 and 1 (got {valid})"
        )
    if isinstance(label, str) and label not in ("parent", "top"):
        raise ConfigError(f"label={label!r} is unknown; expected 'parent', 'top' or a function of (file, folder)")
    if several and numbers:
        raise ConfigError(
            "labels are several names (several=) or numbers (target=), not both; numbers joined by ';' are several as "
            "they are"
        )


def _split_of(layout: _Layout, root: Path, inner: Path, valid: HeldOut, seed: int, *, numbers: bool) -> Split:
    """Which pictures are held out."""
    if valid in ("all", "train"):
        return function_split(lambda path: False)
    if isinstance(valid, int | float):
        # names count from the opened folder, so that it does not matter at which of its wrappings a user points
        drawn = random_split(valid, seed)
        return _split_inside(inner, drawn if numbers else keep_every_class(drawn, layout.label))
    if layout.own_split is not None:
        return _split_inside(inner, layout.own_split)
    raise ConfigError(
        f"{root} has no validation pictures of its own; say which share to hold out, such as valid=0.2 (got None)"
    )


def _as_several(label: Label) -> Label:
    """A label function that gives each file a tuple of labels."""

    def labels(path: Path, root: Path) -> tuple[str, ...]:
        found = label(path, root)
        return (found,) if isinstance(found, str) else found

    return labels


def _split_inside(inner: Path, split: Split) -> Split:
    return lambda files, root: split(files, root / inner)


def _unwrapped(root: Path) -> Path:
    """The first folder below the root that is more than the wrapping of another one."""
    base = root
    while _table_path(base) is None:
        inside = [path for path in base.iterdir() if not path.name.startswith(".") and path.name not in LEFTOVERS]
        folders = [path for path in inside if path.is_dir()]
        pictures = [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        if len(folders) != 1 or pictures or folders[0].is_symlink():
            return base
        if folders[0].name.lower() in ("train", *VALID_NAMES):
            return base
        base = folders[0]
    return base


# -- tables -----------------------------------------------------------------------------------------------------------


def _table_path(base: Path) -> Path | None:
    """The label table directly in a folder."""
    if (base / "labels.csv").is_file():
        return base / "labels.csv"
    tables = [path for path in base.glob("*.csv") if not path.name.startswith(".") and has_label_columns(path)]
    return tables[0] if len(tables) == 1 else None


def _of_table(base: Path, table: Path, valid: HeldOut, label: Asked, several: bool, numbers: bool) -> _Layout:
    rows, joined = _rows(table, several, numbers and not label)
    rows = _resolved(table, rows, base)
    notes = unnamed(table, rows, base)
    has_split = any(row.is_valid for row in rows)
    detail = ""
    if has_split and valid == "train":
        rows = [row for row in rows if row.is_valid is False]
        detail = "; its validation pictures are left out"
    elif has_split and valid is not None:
        detail = "; its is_valid is not used"
    elif num := sum(row.is_valid is None for row in rows):
        detail = f"; its {num} test pictures are left out"
    if joined and not several:
        detail += "; labels joined by ';' are several labels of one picture"
    asked = label if callable(label) else {"parent": parent_label(), "top": top_label()}.get(label or "")
    return _Layout(
        inner=base,
        files=[base / row.name for row in rows],
        find=lambda folder: [folder / row.name for row in rows],
        label=asked or table_label(rows, ";" if joined else None),
        kind=f"{table.name}{' with is_valid' if has_split and valid is None else ''}",
        detail=detail,
        own_split=table_split(rows) if has_split else None,
        notes=notes,
    )


def _rows(table: Path, several: bool, numbers: bool) -> tuple[list[LabelRow], bool]:
    """The rows of a table, and whether a picture may have several labels: asked for, or some are joined by ';'."""
    if numbers:
        return label_table(table, check=NumberColumn()), False
    rows = label_table(table, empty=True)
    joined = several or any(";" in row.label for row in rows)
    if not several and not (joined and says_several(table)):
        # with a label missing, it names the line and what to do
        rows = label_table(table)
    return rows, joined


def _resolved(table: Path, rows: Sequence[LabelRow], base: Path) -> list[LabelRow]:
    """The rows with their names as paths below the base.

    A name without a folder or suffix, as tables of competitions have them, means the one picture that is called so.
    """
    if all((base / row.name).is_file() for row in rows):
        return [row._replace(name=relative_name(base / row.name, base)) for row in rows]
    called = defaultdict(set)
    for path in find_images(base):
        called[path.name].add(path)
        called[path.stem].add(path)
    found = []
    for row in rows:
        # what is nowhere to be found is told with the other pictures that cannot be read
        paths = {base / row.name} if (base / row.name).is_file() or not called[row.name] else called[row.name]
        if len(paths) > 1:
            raise DataError(f"{table.name} names {row.name!r}, which may be any of {sorted(map(str, paths))[:3]}")
        found.append(row._replace(name=relative_name(paths.pop(), base)))
    return found


# -- folders ----------------------------------------------------------------------------------------------------------


def _of_folders(base: Path, root: Path, valid: HeldOut, label: Asked) -> _Layout:
    files = find_images(base)
    train, held = _split_folders(base, files)
    if train is None:
        if base != root and label is None and files[0].parent == base and not _numbered(files):
            # one folder of pictures: a class, not a wrapping
            base = base.parent
        told, kind, detail = _told([base], files, label, ())
        return _Layout(base, files, find_images, told, kind, detail)
    if valid == "all" and held is not None:
        return _of_every_side(base, files, label)
    if held is None or valid is not None:
        files = [path for path in files if path.is_relative_to(train)]
        told, kind, detail = _told([train], files, label, ())
        return _Layout(train, files, find_images, told, kind, detail + (f"; {held.name} is left out" if held else ""))
    files = [path for path in files if path.is_relative_to(train) or path.is_relative_to(held)]
    names = train.name, held.name
    told, kind, detail = _told([train, held], files, label, names)
    if kind == "CLASS folders":
        kind = f"{names[0]}/CLASS and {names[1]}/CLASS"
    else:
        kind += f" in {names[0]} and {names[1]}"
    return _Layout(base, files, find_images, told, kind, detail, grandparent_split(*names))


def _of_every_side(base: Path, files: Sequence[Path], label: Asked) -> _Layout:
    """The pictures of all folders that are called as a side of a split, whichever side each will be on."""
    tops = sorted({path.relative_to(base).parts[0] for path in files if path.parent != base})
    names = [name for name in tops if name.lower() in ("train", *VALID_NAMES)]
    files = [path for path in files if path.relative_to(base).parts[0] in names]
    told, kind, detail = _told([base / name for name in names], files, label, names)

    def find(folder: Path) -> list[Path]:
        return [path for path in find_images(folder, include=names) if path.parent != folder]

    return _Layout(base, files, find, told, f"{kind} in {' and '.join(names)}", detail)


def _split_folders(base: Path, files: Sequence[Path]) -> tuple[Path | None, Path | None]:
    """The folders of training and of validation pictures directly in the base."""
    tops = sorted({path.relative_to(base).parts[0] for path in files if path.parent != base})
    lower = {name.lower(): base / name for name in tops}
    train = lower.get("train")
    held = next((lower[name] for name in VALID_NAMES if name in lower), None)
    classes = set(lower) - {"train", *VALID_NAMES}
    if train is not None and classes and any(path.parent == train for path in files):
        # beside car/ and bus/, it is a class of railway trains
        return None, None
    return train, held


def _told(
    folders: Sequence[Path], files: Sequence[Path], label: Asked, splits: Sequence[str]
) -> tuple[Label, str, str]:
    """How pictures below folders are labeled: a function, and in words."""
    if callable(label):
        return label, "label= function", ""
    loose = [path for path in files if path.parent in folders]
    if loose and len(loose) == len(files) and label is None and _numbered(files):
        example = f"{regex_label(_NUMBERED)(files[0], folders[0])!r} of {files[0].name}"
        rule = f": the label is what stands before the last _NUMBER or -NUMBER, such as {example}"
        return regex_label(_NUMBERED), "LABEL_NUMBER files", rule
    if loose:
        why = "" if len(loose) < len(files) else ", and their names do not tell classes as LABEL_NUMBER.jpg does"
        raise DataError(
            f"{loose[0].parent} holds pictures outside any class folder ({[path.name for path in loose[:3]]}){why}; "
            "move each into a folder named after its class, or add a labels.csv with the columns name,label"
        )
    deep = any(path.parent.parent not in folders for path in files)
    if label == "top":
        return top_label(splits), "CLASS folders", "; the label is the first folder" if deep else ""
    rule = '; in deeper folders, the label is the folder that a picture lies in; label="top" takes the first level'
    return parent_label(), "CLASS folders", rule if deep else ""


def _numbered(files: Sequence[Path]) -> bool:
    """Whether names such as cat_12.jpg tell two or more classes of at least two pictures on average."""
    label = regex_label(_NUMBERED)
    try:
        classes = Counter(str(label(path, path.parent)) for path in files)
    except DataError:
        return False
    return 2 <= len(classes) <= len(files) / 2 and not any(name.lower() in _CAMERA_WORDS for name in classes)


def _readable(layout: _Layout) -> tuple[Label, str]:
    """The label with readable names, where all classes are WordNet ids of Imagenette or Imagewoof."""
    labels = [layout.label(path, layout.inner) for path in layout.files]
    names = readable_names(label for label in labels if isinstance(label, str))
    if names is None:
        return layout.label, ""

    def label(path: Path, root: Path) -> str | tuple[str, ...]:
        found = layout.label(path, root)
        # a file that came after the guess may have another label
        return names.get(found, found) if isinstance(found, str) else found

    first = next(iter(names))
    return label, f"; WordNet ids became names ({first} is {names[first]})"
