"""Readable names for the WordNet ids that name the folders of Imagenette and Imagewoof."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
# Border and Australian terrier are exchanged in many copies of this table; these are ImageNet's own.
IMAGEWOOF = {
    "n02086240": "Shih-Tzu",
    "n02087394": "Rhodesian ridgeback",
    "n02088364": "beagle",
    "n02089973": "English foxhound",
    "n02093754": "Border terrier",
    "n02096294": "Australian terrier",
    "n02099601": "golden retriever",
    "n02105641": "Old English sheepdog",
    "n02111889": "Samoyed",
    "n02115641": "dingo",
}


def readable_names(classes: Iterable[str]) -> Mapping[str, str] | None:
    """The name of each class, if all of them are ids of Imagenette or Imagewoof; None otherwise.

    >>> readable_names(["n01440764"]), readable_names(["n01440764", "cat"])
    ({'n01440764': 'tench'}, None)
    """
    known = IMAGENETTE | IMAGEWOOF
    asked = sorted(set(classes))
    return {name: known[name] for name in asked} if asked and all(name in known for name in asked) else None
