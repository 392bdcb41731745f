"""Check labels against a trained model of the same network."""

from typing import NamedTuple

import numpy as np

from age_gender import metrics, paths, trained_models
from age_gender.cli import InputError, display_path
from age_gender.embedding_space import is_out_of_distribution
from age_gender.scoring import litert

MAX_ROWS = 20_000  # rows that are scored; of more, every second or third ...
MIN_GENDERS, MIN_AGES = 100, 200  # labels that are evidence
MIN_CORRELATION = 0.3  # rank correlation of labelled and estimated ages; UTKFace's is 0.93
MAX_YEARS = 15  # median difference of the two; UTKFace's is 4


class Doubts(NamedTuple):
    """Why labels look misread, a text each; empty where they do not."""

    ages: str = ""
    genders: str = ""


def check(features: np.ndarray, age: np.ndarray, gender: np.ndarray) -> Doubts:
    """Return why genders (n,) seem to be swapped, and why ages (n,) do not seem to be years.

    `features` are (n, W), `age` (n,) in years. Without a model of their network there are no
    doubts. Raises InputError where all ages are under 10 and most faces are no children.
    """
    step = -(-len(features) // MAX_ROWS) or 1
    features, age, gender = features[::step], age[::step], gender[::step]
    model, scores = _estimates(features)
    if not model:
        return Doubts()
    estimate, labelled = scores["age"], f"the model {model} estimates"
    if len(age) >= 20 and age.max() < 10 <= np.median(estimate):
        raise InputError(
            f"ages from {age.min()} to {age.max()} alone, of faces of {np.median(estimate):.0f} "
            f"years, as {labelled}: they look like numbers of classes; give years"
        )
    wrong, of_genders = ~metrics.gender_is_right(scores["female_probability"], gender), ""
    if len(gender) >= MIN_GENDERS and wrong.mean() > 0.5:
        of_genders = f"{wrong.sum():,} of {len(wrong):,} genders are not those that {labelled}"
    return Doubts(_doubt_ages(age, estimate, labelled), of_genders)


def _doubt_ages(age: np.ndarray, estimate: np.ndarray, labelled: str) -> str:
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
        f"the ages are not those that {labelled} (rank correlation {correlation:.2f}, median "
        f"difference {difference:.0f} years): are they years, and of these rows?"
    )


def _estimates(features: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
    """Return the folder of the model of these embeddings (n, W), and its scores by their names.

    What train.py wrote last is not asked: it may have been trained on the same mistake.
    """
    for path in sorted(paths.MODELS.glob(f"[!.]*/{trained_models.LITERT_MODEL}")):
        try:
            model = litert.Model(path.read_bytes(), str(path))
        except InputError:  # of another version; scoring with it raises
            continue
        if len(features) and model.width == features.shape[1]:
            scores = model.outputs(features)
            if np.mean(is_out_of_distribution(scores["distance"])) < 0.5:
                return display_path(path.parent), scores
    return "", {}
