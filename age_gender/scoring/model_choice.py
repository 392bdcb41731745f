"""Choose the model in models/ whose network made a table's embeddings."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender import paths, trained_models
from age_gender.cli import display_path
from age_gender.embedding_space import is_out_of_distribution
from age_gender.embeddings import fast_median, subsample
from age_gender.errors import InputError
from age_gender.scoring.scorer import DISTANCE, Scorer
from age_gender.trained_models import TRAIN_COMMAND

PROBE_ROWS = 256  # rows scored with each model to choose one
MIN_FITTING_FRACTION = 0.01  # least fraction of fitting rows; by chance at most 0.001 fit


class ModelScores(NamedTuple):
    """Hold a table's scores by the model in models/ that fits it."""

    folder: Path  # the model's
    scores: dict[str, np.ndarray]  # each of scorer.OUTPUTS, (n,)
    is_ood: np.ndarray  # (n,), whether a row is out of distribution


def load(model: str | Path, force: bool = False) -> Scorer:
    """Return the scorer of a model, given its folder or one of its files.

    Raises InputError for a model that cannot be used.
    """
    path = trained_models.find_model_file(model, trained_models.LITERT_MODEL)
    return Scorer(path.read_bytes(), str(path), force)


def choose_model(
    model_widths: Mapping[Path, int],
    rows: np.ndarray,
    must_fit: bool = True,
    load_scorer: Callable[[Path], Scorer] = load,
    hint: str = "",
) -> Scorer:
    """Return the scorer of the model that most of a table's first rows (n, W) belong to.

    `model_widths` are those of find_model_widths. Among the models of the rows' width the one with
    the fewest out-of-distribution rows is chosen; ties go to the least median `distance`, rounded
    to tenths, then to the first folder. Without rows it is the first of all. Raises InputError
    where there is no model of their width and, if `must_fit`, where all rows are out of
    distribution for all of these. `hint` ends the message with what else the caller can do.
    """
    if not model_widths:
        raise InputError(
            f"{paths.MODELS}: no model here; make one: python prepare.py && python train.py"
        )
    if not len(rows):
        return load_scorer(next(iter(model_widths)))

    # Rank the models of this width
    rows, ranks = rows[:PROBE_ROWS], []
    for order, (folder, width) in enumerate(model_widths.items()):
        if width == rows.shape[1]:
            scorer = load_scorer(folder)
            distance = scorer.score(rows)[:, DISTANCE]
            median = round(fast_median(distance), 1)
            ranks.append((int(is_out_of_distribution(distance).sum()), median, order, scorer))

    # Refuse rows that belong to none
    if not ranks or (must_fit and min(ranks)[0] == len(rows)):
        raise InputError(
            f"no model in {display_path(paths.MODELS)} fits these embeddings of {rows.shape[1]} "
            f"numbers (models: {describe_models(model_widths)}): another network made them, or "
            "they are rounded too coarsely; embed with one of these networks, or train a model: "
            f"{TRAIN_COMMAND}{hint}"
        )
    return min(ranks)[-1]


def score_by_fitting_model(
    features: np.ndarray, exclude: Iterable[Path] = ()
) -> ModelScores | None:
    """Return the scores of a table (n, W) by the model in models/ that fits it.

    Models in the folders `exclude` are not used. None where no model fits at least
    MIN_FITTING_FRACTION of the rows, or none can be read.
    """
    with contextlib.suppress(InputError):
        model_widths = trained_models.find_model_widths(paths.MODELS)
        for folder in model_widths.keys() & {*exclude}:
            del model_widths[folder]
        scorer = choose_model(model_widths, subsample(features, PROBE_ROWS))
        scores = scorer.score_by_name(features)
        is_ood = is_out_of_distribution(scores["distance"])
        if len(features) and is_ood.mean() <= 1 - MIN_FITTING_FRACTION:
            return ModelScores(Path(scorer.path).parent, scores, is_ood)
    return None


def describe_models(model_widths: Mapping[Path, int]) -> str:
    """Return model folders and the widths of their embeddings, for a message."""
    return ", ".join(f"{display_path(folder)} {width}" for folder, width in model_widths.items())
