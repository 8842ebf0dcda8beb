"""Files from a stranger: what a folder of a model may hold instead of what it should. Made when they are asked for."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

WITNESS = "etude-was-here"
Harm = Callable[[Path], None]
"""Changes a file, or puts something else in its place."""


class Evil:
    """Unpickling it imports `this` and leaves a file."""

    def __reduce__(self):
        return exec, (f"import this; open({WITNESS!r}, 'w').close()",)


def put(data: bytes) -> Harm:
    return lambda path: path.write_bytes(data) and None


def edit(change: Callable[[Any], Any]) -> Harm:
    """Of JSON."""

    def harm(path: Path) -> None:
        value = json.loads(path.read_text(encoding="utf-8"))
        changed = change(value)
        path.write_text(json.dumps(value if changed is None else changed), encoding="utf-8")

    return harm


def text(change: Callable[[str], str]) -> Harm:
    return lambda path: path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8") and None


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Harm:
    """Of a safetensors file."""

    def harm(path: Path) -> None:
        found = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(found)
        path.write_bytes(save(found))

    return harm


def header(change: Callable[[dict[str, Any]], Any]) -> Harm:
    """Of a safetensors file, its data left as it is."""

    def harm(path: Path) -> None:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        found = json.loads(data[8 : 8 + length])
        found = change(found) or found
        raw = found if isinstance(found, bytes) else json.dumps(found).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])

    return harm


def instead(make: Callable[[Path], object]) -> Harm:
    """Something that is no plain file in its place."""

    def harm(path: Path) -> None:
        path.unlink()
        make(path)

    return harm


def sparse(size: int, start: bytes = b"") -> Harm:
    def harm(path: Path) -> None:
        with path.open("wb") as file:
            file.write(start)
            file.truncate(size)

    return harm


def _torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, buffer)
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("data.pkl", pickle.dumps(Evil()))
    return buffer.getvalue()


def _bomb(shape: list[int], end: int, dtype: str = "F32", data: bytes = b"1234") -> bytes:
    raw = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def _many_empty(count: int) -> bytes:
    raw = json.dumps({str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}).encode()
    return len(raw).to_bytes(8, "little") + raw


def _first(found: dict[str, Any]) -> dict[str, Any]:
    return next(value for name, value in found.items() if name != "__metadata__")


def _large_sparse(path: Path) -> None:
    """A terabyte of one tensor that takes no disk."""
    size = 1 << 40
    raw = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    sparse(8 + len(raw) + size, len(raw).to_bytes(8, "little") + raw)(path)


def anything() -> dict[str, Harm]:
    """For any file."""
    return {
        "a pickle": put(pickle.dumps(Evil())),
        "an old pickle": put(pickle.dumps(Evil(), protocol=0)),
        "a file of torch.save": put(_torch_file()),
        "a zip": put(_zip()),
        "nothing": put(b""),
        "zeros": put(bytes(1000)),
        "noise": put(bytes(range(256)) * 8),
        "a folder": instead(Path.mkdir),
        "a link to a device": instead(lambda path: path.symlink_to("/dev/zero")),
        "a link to memory": instead(lambda path: path.symlink_to("/proc/self/environ")),
        "a link out": instead(lambda path: path.symlink_to("/etc/passwd")),
        "a link to itself out of the folder": _moved_out,
        "a link to itself": instead(lambda path: path.symlink_to(path)),
        "a link to nothing": instead(lambda path: path.symlink_to(path.with_name("gone"))),
        "a hard link to text": instead(lambda path: path.hardlink_to(_note_beside(path))),
        "a pipe": instead(os.mkfifo),
        "missing": instead(lambda path: None),
        "sparse": sparse(1 << 40),
    }


def _moved_out(path: Path) -> None:
    """The right file, outside of the folder."""
    place = path.parent.with_name("elsewhere")
    place.mkdir(exist_ok=True)
    path.symlink_to(path.rename(place / path.name))


def _note_beside(path: Path) -> Path:
    """A file of somebody's outside of the folder."""
    note = path.parent.parent / "note.txt"
    note.write_text("none of your business")
    return note


def of_tensors() -> dict[str, Harm]:
    """For a safetensors file of weights."""
    return {
        "header beyond the file": put((2**62).to_bytes(8, "little") + b"{}"),
        "petabytes": put(_bomb([2**48], 2**50)),
        "shape overflows": put(_bomb([2**62, 4], 4)),
        "more elements than bytes": put(_bomb([2**40], 4)),
        "ends beyond the file": put(_bomb([1], 2**63 - 1)),
        "offsets too long": put(_bomb([0], 4)),
        "unknown numbers": put(_bomb([1], 4, dtype="F31")),
        "eight bits": put(_bomb([4], 4, dtype="F8_E4M3")),
        "a terabyte of holes": _large_sparse,
        "a hundred thousand tensors": put(_many_empty(100_000)),
        "thirty thousand tensors": put(_many_empty(30_000)),
        "no tensor": put((2).to_bytes(8, "little") + b"{}"),
        "deep header": put((200_000).to_bytes(8, "little") + b"[" * 200_000),
        "overlap": header(lambda h: _first(h).update(data_offsets=list(h.values())[-1]["data_offsets"])),
        "negative": header(lambda h: _first(h).update(data_offsets=[-4, 0])),
        "backwards": header(lambda h: _first(h).update(data_offsets=_first(h)["data_offsets"][::-1])),
        "float64": tensors(lambda t: t.update({name: value.double() for name, value in t.items()})),
        "complex": tensors(lambda t: t.update({name: value.to(torch.complex64) for name, value in t.items()})),
        "bool": tensors(lambda t: t.update({name: value != 0 for name, value in t.items()})),
        "integers": tensors(lambda t: t.update({name: value.long() for name, value in t.items()})),
        "one norm float64": tensors(_retype_norm),
        "one tensor float64": tensors(lambda t: t.update({(last := list(t)[-1]): t[last].double()})),
        "turned": tensors(_turn),
        "a tensor more": tensors(lambda t: t.update(more=torch.ones(1))),
        "a tensor less": tensors(lambda t: t.popitem()),
        "other names": tensors(lambda t: t.update({f"os.system.{name}": t.pop(name) for name in list(t)})),
        **{f"cut at {share:.0%}": _cut(share) for share in (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.9999)},
    }


def _retype_norm(found: dict[str, torch.Tensor]) -> None:
    name = next(name for name in found if name.endswith("running_mean"))
    found[name] = found[name].double()


def _turn(found: dict[str, torch.Tensor]) -> None:
    found.update({name: value.transpose(0, 1).contiguous() for name, value in found.items() if value.ndim > 1})


def _cut(share: float) -> Harm:
    return lambda path: path.write_bytes((data := path.read_bytes())[: int(share * len(data))]) and None


def bombs() -> dict[str, Harm]:
    """Large ones."""
    return {"half a million tensors": put(_many_empty(500_000))}


def of_json() -> dict[str, Harm]:
    """For any JSON file."""
    return {
        "no object": put(b"[]"),
        "null": put(b"null"),
        "an empty object": put(b"{}"),
        "deep lists": put(b"[" * 100_000),
        "deep objects": put(b'{"a":' * 100_000),
        "closed deep lists": put(b"[" * 100_000 + b"]" * 100_000),
        "digits": put(b'{"format": ' + b"1" * 10_000_000 + b"}"),
        "a gigabyte of digits": sparse(1 << 30, b'{"format": 1'),
        "empty lists": put(b'{"format": [' + b"[]," * 3_000_000 + b"[]]}"),
        "empty objects": put(b"[" + b"{}," * 3_000_000 + b"{}]"),
        "not UTF-8": put('{"format": "\xe9"}'.encode("latin-1")),
        "UTF-16": _utf_16,
        "NaN": text(lambda old: old.replace("{", '{"odd": NaN,', 1)),
        "infinity": text(lambda old: old.replace("{", '{"odd": -Infinity,', 1)),
        "more than any float": text(lambda old: old.replace("{", '{"odd": 1e999,', 1)),
        "a name twice": text(lambda old: old.replace("{", '{"odd": 1, "odd": 2,', 1)),
        "a comma": text(lambda old: old.replace("{", "{,", 1)),
        "a second value": text(lambda old: old + "{}"),
        **{f"cut at {share:.0%}": _cut(share) for share in (0.1, 0.5, 0.9, 0.98)},
    }


def _utf_16(path: Path) -> None:
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))


def setting(place: tuple[str, ...], value: Any) -> Harm:
    """Put a value at a place of a JSON object."""

    def change(found: dict[str, Any]) -> None:
        for name in place[:-1]:
            found = found[name]
        found[place[-1]] = value

    return edit(change)
