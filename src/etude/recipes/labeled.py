"""Labeled pictures for a trained run: what `evaluate` measures on, and what `report` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.recipes.options import OnBadData
from etude.recipes.trained import Trained

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.vision.pictures import PictureLoader
    from etude.vision.samples import PictureSet


def labeled_pictures(
    learner: Learner,
    record: Trained,
    run: str,
    data: str,
    *,
    valid_pct: float | None,
    split_seed: int | None,
    label: str | None,
    several: bool = False,
    on_bad_data: OnBadData,
    quiet: bool,
) -> tuple[PictureSet, PictureLoader]:
    """Pictures seen as the run's own validation pictures were; on its own data, what is not given as in its training.

    Args:
        learner: the run's model.
        record: what the run's folder says of its training.
        run: what the run is called.
        data: a folder, an archive, or a known data set.
        valid_pct: only the share that training with this share and split seed holds out.
        split_seed: of that training.
        label: where labels come from; see `vision.load`.
        several: a picture may have several labels, as it may where the run was trained so.
        on_bad_data: "skip" leaves out pictures that cannot be read; "stop" raises.
        quiet: print nothing.

    Raises:
        ConfigError: the run was not trained on labeled pictures, or these have labels of another kind.
        DataError: naming the folder, file or label that cannot be used.
    """
    from etude import vision
    from etude.errors import ConfigError
    from etude.vision.preprocess import ImageReader

    has_targets = learner.data.vocab is not None or learner.data.numbers is not None
    if not isinstance(learner.data.read, ImageReader) or not has_targets:
        raise ConfigError(f"{run} was not trained on labeled pictures, so it cannot be measured on a folder")
    fold = None
    if record.is_on(data):
        fold = record.fold if valid_pct is None else None
        valid_pct, split_seed, label = record.completed(valid_pct, split_seed, label, quiet=quiet)
    found, loader = vision.labeled(
        data,
        learner.data.read,
        learner.data.vocab if learner.data.numbers is None else None,
        valid=valid_pct,
        seed=42 if split_seed is None else split_seed,
        label=label,
        several=several or (record.several and learner.data.numbers is None),
        fold=fold,
        on_bad_data=on_bad_data,
        progress=not quiet,
    )
    _refuse_other_kind(learner, found, run, data)
    return found, loader


def _refuse_other_kind(learner: Learner, found: PictureSet, run: str, data: str) -> None:
    """Refuse labels that the model's outputs do not answer to."""
    from etude.errors import ConfigError
    from etude.training.predict import probabilities_of

    if (numbers := learner.data.numbers) is not None:
        if (num := found.valid[1].shape[1]) != len(numbers.names):
            raise ConfigError(
                f"the model of {run} predicts {len(numbers.names)} numbers ({', '.join(numbers.names)}), but the "
                f"pictures in {data} have {num} each; give data of its kind"
            )
        return
    kind, several = probabilities_of(learner.loss_fn), found.several_labels
    if kind != ("sigmoid" if several else "softmax"):
        model = {"softmax": "names one class for each picture", "sigmoid": "answers yes or no for each class"}
        labels = "several labels joined by ';'" if several else "one label each (or say --several)"
        says = model.get(str(kind), "gives no probabilities, as its loss is one of your own")
        raise ConfigError(f"the model of {run} {says}, but the pictures in {data} have {labels}; give data of its kind")
