"""Check labels against a trained model of the same network."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender import metrics, paths, trained_models
from age_gender.cli import InputError, display_path
from age_gender.embedding_space import is_out_of_distribution
from age_gender.scoring import choice

MAX_ROWS = 20_000  # rows that are scored; of more, every second or third ...
MIN_CLASSES, MIN_GENDERS, MIN_AGES = 20, 100, 200  # labels that are evidence
MIN_CORRELATION = 0.3  # rank correlation of labelled and estimated ages; UTKFace's is 0.93
MAX_YEARS = 15  # median difference of the two; UTKFace's is 4
MAX_CONTRADICTED = 0.4  # fraction of the genders; UTKFace's is 0.03, its children's 0.32


class Doubts(NamedTuple):
    """Say why labels look misread, a text each; empty where they do not."""

    ages: str = ""
    genders: str = ""  # more than half of which are contradicted
    are_mixed: bool = False  # whether that is so in some files, and in others not
    many_genders: str = ""  # over MAX_CONTRADICTED of which are contradicted


def check(
    features: np.ndarray, age: np.ndarray, gender: np.ndarray, file: np.ndarray, files: list[str]
) -> Doubts:
    """Return why genders (n,) seem to be swapped, and why ages (n,) do not seem to be years.

    `features` are (n, W), `age` (n,) in years; `file` (n,) is the index of each row's file in
    `files`, which are judged one by one. Without a model of their network there are no doubts.
    Raises InputError where all ages are under 10 and most faces are no children.
    """
    # Score the faces
    step = -(-len(features) // MAX_ROWS) or 1
    features, age, gender, file = features[::step], age[::step], gender[::step], file[::step]
    model, scores = _estimates(features)
    if not model:
        return Doubts()
    estimate, labelled = scores["age"], f"the model {model} estimates"

    # Compare ages
    for where, rows in _parts(file, files, MIN_CLASSES):
        _refuse_classes(where, age[rows], estimate[rows], labelled)
    doubts = (
        _doubt_ages(where, age[rows], estimate[rows], labelled)
        for where, rows in _parts(file, files, MIN_AGES)
    )
    ages = next(filter(None, doubts), "")

    # Compare genders
    wrong = ~metrics.gender_is_right(scores["female_probability"], gender)
    parts = _parts(file, files, MIN_GENDERS)
    swapped = [(where, wrong[rows]) for where, rows in parts if np.mean(wrong[rows]) > 0.5]
    if 0 < len(swapped) < len(parts):
        text = _count_wrong(*swapped[0], labelled)
        return Doubts(ages, f"{text}, and of other files most are", are_mixed=True)
    if len(wrong) < MIN_GENDERS or wrong.mean() <= MAX_CONTRADICTED:
        return Doubts(ages)
    text = _count_wrong("", wrong, labelled)
    return Doubts(ages, text) if swapped else Doubts(ages, many_genders=text)


def _parts(file: np.ndarray, files: list[str], least: int) -> list[tuple[str, np.ndarray]]:
    """Return which rows (n,) each file of at least so many rows has, by the start of a message.

    The whole input comes before them if some rows are of smaller files.
    """
    sizes = np.bincount(file, minlength=len(files))
    large = np.flatnonzero(sizes >= least).tolist()
    parts = [(f"{files[i]}: ", file == i) for i in large]
    if sizes[large].sum() < len(file):
        parts.insert(0, ("", np.ones(len(file), bool)))
    return parts


def _count_wrong(where: str, wrong: np.ndarray, labelled: str) -> str:
    return f"{where}{wrong.sum():,} of {len(wrong):,} genders are not those that {labelled}"


def _refuse_classes(where: str, age: np.ndarray, estimate: np.ndarray, labelled: str) -> None:
    """Raise InputError where ages (n,) are all under 10 and most estimated ones are not."""
    if len(age) >= MIN_CLASSES and age.max() < 10 <= np.median(estimate):
        raise InputError(
            f"{where}ages from {age.min()} to {age.max()} alone, of faces of "
            f"{np.median(estimate):.0f} years, as {labelled}: they look like numbers of classes; "
            "give years"
        )


def _doubt_ages(where: str, age: np.ndarray, estimate: np.ndarray, labelled: str) -> str:
    """Return that ages have little to do with the estimated ones, where it is so."""
    from scipy.stats import spearmanr

    if len(age) < MIN_AGES:
        return ""
    varied = age.min() < age.max() and estimate.min() < estimate.max()
    correlation = float(spearmanr(age, estimate).statistic) if varied else 0.0
    difference = float(np.median(metrics.age_error(estimate, age)))
    if correlation >= MIN_CORRELATION and difference <= MAX_YEARS:
        return ""
    return (
        f"{where}the ages are not those that {labelled} (rank correlation {correlation:.2f}, "
        f"median difference {difference:.0f} years): are they years, and of these rows?"
    )


def _estimates(features: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
    """Return the folder of the model of these embeddings (n, W), and its scores by their names.

    What train.py wrote last is not asked: it may have been trained on the same mistake.
    """
    with contextlib.suppress(InputError):  # no model here is of these, or none can be read
        models = trained_models.find_models(paths.MODELS)
        models.pop(paths.MODELS, None)
        scorer = choice.choose_model(models, features[:: len(features) // choice.PROBE_ROWS + 1])
        scores = scorer.score_by_name(features) if len(features) else {}
        if scores and np.mean(is_out_of_distribution(scores["distance"])) < 0.5:
            return display_path(Path(scorer.name).parent), scores
    return "", {}
