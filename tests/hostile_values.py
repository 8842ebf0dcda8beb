"""What the places of model.json and bundle.json cannot hold."""

from __future__ import annotations

from typing import Any


def _number(count: int, mean: Any) -> dict[str, Any]:
    """What a description says of numbers as targets."""
    return {"names": [*"xyz"[:count]], "mean": [mean] * count, "std": [1.0] * count}


_SIZES = (0, -1, 10**9, 10**12, 10**400, 1.5, "8", None, [], {"$import": "os"}, True)
_TEXTS = ("os.system", "builtins.eval", 3, None, [], {}, "../../etc/passwd")
_SHARES = (0, -1, 2, 10**400, "1", None, [])
_NUMBERS = ([], ["a"], [None], [10**400], "abc", None, 3, [0.1, 0.2], [[0.1]])
_LABELS = ("abc", [1, 2, 3], ["a", "a", "b"], ["a", "b"], [f"a very long name of class {i}" for i in range(100_000)], 3)
_WIDTHS = ([], [10**9], [4] * 100_000, "ab", None, [4.5, 8], [8, 4], [True, 8], [[4], 8], [4, 10**12], 3)
_MODEL = {
    "num_classes": _SIZES,
    "channels": _SIZES[:-1],
    "stem_stride": _SIZES[:-1],
    "activation": (*_TEXTS, "tanh"),
    "widths": _WIDTHS,
    "concat_pool": (True, "yes", 10**9),
    "num_blocks": (10**9,),
    "__class__": ("os.system",),
}
SAVED: dict[tuple[str, ...], tuple[Any, ...]] = {
    **{("model", name): values for name, values in _MODEL.items()},
    ("model", "arch"): (*_TEXTS, "xresnet19", "xresnet18", ["lesson_cnn"], "timm:hf-hub:evil/model", "timm:../x"),
    ("model",): (3, [], "lesson_cnn", None, {}, {"arch": "os.system"}, {"arch": "builtins.eval", "source": "1"}),
    ("read", "size"): (*_SIZES, 4),
    ("read", "channels"): (*_SIZES[:-1], 3),
    ("read", "stored"): (0, -1, 10**9, 10**400, "8", 1.5, []),
    ("read", "share"): _SHARES,
    ("read", "more"): (1,),
    ("read",): (3, [], "os.system", {}),
    ("preprocess", "size"): (*_SIZES, 9),
    ("preprocess", "mean"): _NUMBERS,
    ("preprocess", "std"): (*_NUMBERS, [0], [-1]),
    ("preprocess",): (3, [], "os.system", {}),
    ("vocab",): _LABELS,
    ("channels",): ("1", None, [], 1.5, True),
    ("probabilities",): ("exec", 3, [], "os.system", {}),
    ("format",): (1, 3, "2", None, 2.5, [], 10**400),
    ("model_class",): (3, None, []),
    ("numbers",): (3, [], "x", _number(1, 0.0), _number(3, 10**400), _number(3, None)),
}
"""By place in model.json: what it cannot be."""
BUNDLE: dict[tuple[str, ...], tuple[Any, ...]] = {
    **{("model", name): values for name, values in _MODEL.items() if name not in ("num_blocks", "widths", "__class__")},
    ("model", "activation"): (*_TEXTS[:-4], [], {}, "tanh"),
    ("model", "channels"): (0, -1, 10**9, 10**400, 1.5, "8", None, [], 3),
    ("model", "layers"): _SIZES,
    ("model", "stem_stride"): (0, -1, 1.5, "8", []),
    ("model", "concat_pool"): (True, "yes"),
    ("model", "name"): (*_TEXTS, "xresnet19", "xresnet18", ["lesson_cnn"]),
    ("model",): (3, [], "lesson_cnn", None, {}),
    ("preprocess", "size"): (0, -1, 10**9, 10**400, "8", None, [], 9),
    ("preprocess", "read_size"): (0, -1, 10**9, 10**400, "8", None, [], 4),
    ("preprocess", "share"): _SHARES,
    ("preprocess", "mean"): (["a"], [None], [10**400], "abc", None, [0.1, 0.2], []),
    ("preprocess", "std"): (["a"], [None], [10**400], "abc", None, [0], [0.1, 0.2], []),
    ("preprocess",): (3, [], "os.system", {}, None),
    ("labels",): ("abc", [1, 2, 3], ["a", "b"], [str(i) for i in range(100_000)], 3),
    ("outputs",): ("exec", 3, [], "os.system", {}, None),
    ("version",): (0, 2, "1", None, 1.5, []),
    ("files",): ({}, [], 3, "x", {"../model.safetensors": "0"}, {"/etc/passwd": "0"}),
}
"""By place in bundle.json."""
