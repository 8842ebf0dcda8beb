"""The readable names of Imagenette's and Imagewoof's classes."""

from __future__ import annotations

from etude.data.wordnet import IMAGENETTE, IMAGEWOOF, readable_names


def test_the_twenty_names():
    """ImageNet's own; Border and Australian terrier are exchanged in many copies."""
    known = IMAGENETTE | IMAGEWOOF

    assert len(known) == len(set(known.values())) == 20
    assert (known["n02093754"], known["n02096294"]) == ("Border terrier", "Australian terrier")
    assert readable_names([]) is None
