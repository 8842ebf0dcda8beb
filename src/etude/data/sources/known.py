"""The data sets that the library knows by name: where they are, how large, and how to tell that they are whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class DataSet:
    """A data set that can be downloaded.

    Args:
        name: what a user types.
        url: its archive.
        size: of the archive, in bytes; None when it is not known.
        digest: of the archive, `md5:...` or `sha256:...`; None when nobody published one, then it cannot be checked.
        license: under which terms.
        description: what it holds, in a line.
        folder: the folder of the archive that holds the samples.
        kind: of the samples.
    """

    name: str
    url: str
    size: int | None
    digest: str | None
    license: str
    description: str
    folder: str
    kind: Literal["images", "text"]


@dataclass(frozen=True)
class MadeHere:
    """Texts that need no download, for they are made of what is on every machine with Python.

    Args:
        name: what a user types.
        license: under which terms.
        description: what it holds, in a line.
    """

    name: str
    license: str
    description: str


DOCSTRINGS: Final = MadeHere(
    "python-docstrings",
    "PSF License Agreement (Python Software Foundation)",
    "Documentation strings of Python's own library, some with a topic, to train and to validate",
)
_FAST_AI: Final = "https://s3.amazonaws.com/fast-ai-imageclas"
_IMAGENET: Final = "pictures from ImageNet: research and education, not commercial use"
_WIKIPEDIA: Final = "CC BY-SA 3.0 (Wikipedia)"


def _from_imagenet(name: str, size: int, md5: str, what: str) -> DataSet:
    return DataSet(name, f"{_FAST_AI}/{name}.tgz", size, f"md5:{md5}", _IMAGENET, what, name, "images")


def _wikitext(name: str, md5: str, what: str) -> DataSet:
    url = f"https://wikitext.smerity.com/{name}-v1.zip"
    return DataSet(name, url, None, f"md5:{md5}", _WIKIPEDIA, what, name, "text")


_NETTE: Final = "Imagenette v2: 10 easy classes of ImageNet, 9,469 pictures to train and 3,925 to validate"
_WOOF: Final = "Imagewoof v2: 10 dog breeds of ImageNet, 9,025 pictures to train and 3,929 to validate"

DATASETS: Final[dict[str, DataSet]] = {
    dataset.name: dataset
    for dataset in (
        _from_imagenet(
            "imagenette2-160", 99_003_388, "e793b78cc4c9e9a4ccc0c1155377a412", f"{_NETTE}, shortest side 160"
        ),
        _from_imagenet(
            "imagenette2-320", 341_663_724, "3df6f0d01a2c9592104656642f5e78a3", f"{_NETTE}, shortest side 320"
        ),
        _from_imagenet("imagenette2", 1_557_161_267, "fe2fc210e6bb7c5664d602c3cd71e612", f"{_NETTE}, full size"),
        _from_imagenet("imagewoof2-160", 92_612_825, "3d200a7be99704a0d7509be2a9fbfe15", f"{_WOOF}, shortest side 160"),
        _from_imagenet(
            "imagewoof2-320", 328_387_740, "0f46d997ec2264e97609196c95897a44", f"{_WOOF}, shortest side 320"
        ),
        _from_imagenet("imagewoof2", 1_343_715_595, "9aafe18bcdb1632c4249a76c458465ba", f"{_WOOF}, full size"),
        DataSet(
            "oxford-iiit-pet",
            "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
            791_918_971,
            "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c",
            "CC BY-SA 4.0",
            "Oxford-IIIT Pets: 7,390 pictures of 37 breeds of cats and dogs, the breed in the file name",
            "images",
            "images",
        ),
        DataSet(
            "cifar10",
            f"{_FAST_AI}/cifar10.tgz",
            168_168_549,
            "sha256:637c5814e11aefcb6ee76d5f59c67ddc8de7f5b5077502a195b0833d1e3e4441",
            "none stated; cite Krizhevsky (2009)",
            "CIFAR-10 as PNG files: 10 classes, 50,000 pictures of 32x32 to train and 10,000 to test",
            "cifar10",
            "images",
        ),
        DataSet(
            "imdb",
            "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
            84_125_825,
            "md5:7c2ac02c03563afcf9b574c7e56c153a",
            "none stated; research use, cite Maas et al. (2011)",
            "IMDB reviews: 25,000 to train and 25,000 to test, positive or negative, and 50,000 without a label",
            "aclImdb",
            "text",
        ),
        DataSet(
            "imdb_sample",
            "https://s3.amazonaws.com/fast-ai-sample/imdb_sample.tgz",
            571_827,
            "md5:0842e61a9867caa2e6fbdb14fa703d61",
            "none stated; research use, cite Maas et al. (2011)",
            "IMDB reviews, a thousand of them in a table: 800 to train and 200 to validate",
            "imdb_sample",
            "text",
        ),
        _wikitext(
            "wikitext-2", "542ccefacc6c27f945fb54453812b3cd", "WikiText-2: 2 million words of good Wikipedia articles"
        ),
        _wikitext(
            "wikitext-103",
            "9ddaacaf6af0710eda8c456decff7832",
            "WikiText-103: 103 million words of good Wikipedia articles",
        ),
    )
}
