"""Choose the model here whose network made a table's embeddings."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from age_gender import paths, trained_models
from age_gender.cli import InputError, display_path
from age_gender.embedding_space import is_out_of_distribution
from age_gender.scoring.litert import DISTANCE, Scorer

PROBE_ROWS = 256  # rows scored with each model to choose one
MIN_FRACTION = 0.01  # of a table, of a model's network by more than chance (0.1 % at most)


def load(model: str | Path, force: bool = False) -> Scorer:
    """Return the scorer of a model, a folder or one of its files, loaded.

    Raises InputError for a model that cannot be used.
    """
    path = trained_models.find_model(model, trained_models.LITERT_MODEL)
    scorer = Scorer(path.read_bytes(), str(path), force)
    scorer.load()
    return scorer


def choose_model(
    rows: np.ndarray, force: bool = False, must_fit: bool = True,
    load: Callable[[Path, bool], Scorer] = load, hint: str = "",
) -> Scorer:  # fmt: skip
    """Return the scorer of the model here that most of the first rows (n, W) belong to.

    It is the model of their width with the fewest out-of-distribution rows; of equals the nearest
    by median `distance`, to a tenth; of these the first that find_models returns. Without rows it
    is the first of all. Raises InputError where all rows are out of distribution for all models;
    unless `must_fit`, only where no model has their width. `hint` ends the message with what else
    the caller can do.
    """
    models, rows, ranks = trained_models.find_models(paths.MODELS), rows[:PROBE_ROWS], []
    if not models:
        raise InputError(
            f"{paths.MODELS}: no model here; make one: python prepare.py && python train.py"
        )
    if not len(rows):
        return load(next(iter(models)), force)

    # Rank the models of this width
    for order, (folder, width) in enumerate(models.items()):
        if width == rows.shape[1]:
            scorer = load(folder, force)
            distance = scorer.score(rows)[:, DISTANCE]
            # np.median and np.quantile would import numpy.ma, for 17 ms.
            median = round(float(np.sort(distance)[len(distance) // 2]), 1)
            ranks.append((int(is_out_of_distribution(distance).sum()), median, order, scorer))

    # Refuse rows that are of none
    if not ranks or (must_fit and not force and min(ranks)[0] == len(rows)):
        raise InputError(
            f"embeddings of {rows.shape[1]} numbers, but of no network that a model here is for "
            f"({describe_models(models)}); embed with one of these and do not round, or train on "
            f"your own: python prepare.py --features YOURS && python train.py{hint}"
        )
    return min(ranks)[-1]


def find_out_of_distribution(features: np.ndarray) -> tuple[str, np.ndarray]:
    """Return which rows (n,) of a table (n, W) are of another network than the rest.

    Before them comes the folder's name of the model here for the network of the rest, by which they
    are judged. Without such a model, or where fewer than MIN_FRACTION of the rows seem to be of its
    network, the name is "", and no row is flagged.
    """
    with contextlib.suppress(InputError):  # no model here is of these, or none can be read
        scorer = choose_model(features[:: -(-len(features) // PROBE_ROWS)])
        is_ood = is_out_of_distribution(scorer.score(features)[:, DISTANCE])
        if is_ood.mean() <= 1 - MIN_FRACTION:
            return Path(scorer.name).parent.name, is_ood
    return "", np.zeros(len(features), bool)


def describe_models(models: dict[Path, int]) -> str:
    """Return model folders and the widths of their embeddings, for a message."""
    return ", ".join(f"{display_path(folder)} {width}" for folder, width in models.items())
