"""Compute the figures of the report, each with its number of faces and a 95 % bootstrap interval.

An interval is the percentile bootstrap over faces (Efron & Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13), always with the same resamples. SciPy, pandas and scikit-learn are
imported by the functions that need them.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from age_gender import metrics
from age_gender.labels import GENDERS, INTERVAL_COVERAGE, utkface_labels

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES, SEED, CONFIDENCE = 2000, 0, 0.95  # settings of the bootstrap
# Results of the original experiment, with another FaceNet: years, and the fraction of genders
PUBLISHED = {"mae": 5.72, "accuracy": 0.9645}
BANDS = {"under 10": 0, "10–19": 10, "20–29": 20, "30–44": 30, "45–59": 45, "60+": 60}
# By the code in UTKFace's names; None for a name without one
RACES = {0: "White", 1: "Black", 2: "Asian", 3: "Indian", 4: "others", None: "none"}
BINS = 10  # number of bins of the probability
CALIBRATION_DRAWS = 200  # drawn genders from which the expected calibration error is averaged
# Figures by their names, and the columns of `tabulate_faces` that they are the means of
MEASURES = {
    "age_mae": "age_error",
    "age_bias": "signed_error",
    "gender_accuracy": "is_gender_right",
    "interval_coverage": "is_in_interval",
    "interval_width": "interval_width",
}


def tabulate_faces(
    age: np.ndarray, gender: np.ndarray, names: list[str], scores: dict
) -> "pd.DataFrame":
    """Return a DataFrame with a row per test face: labels, scores and the columns of MEASURES.

    `age` (n,) in years, `gender` (n,) 0 male and 1 female; `scores` are the exported model's, by
    their names. Errors and widths are in years.
    """
    import pandas as pd

    races = [RACES[(utkface_labels(name) or [None])[-1]] for name in names]
    low, high = np.rint(scores["age_low"]), np.rint(scores["age_high"])
    probability = scores["female_probability"]
    columns = {
        "age": age,
        "gender": gender,
        "race": races,
        "estimate": scores["age"],
        "probability": probability,
        "distance": scores["distance"],
        "age_error": metrics.compute_age_error(scores["age"], age),
        "signed_error": scores["age"] - age,
        "is_gender_right": metrics.is_gender_right(probability, gender),
        "is_in_interval": (low <= age) & (age <= high),
        "interval_width": high - low,
        "low": low,
        "high": high,
    }
    return pd.DataFrame(columns)


def measure(table: "pd.DataFrame", loss: np.ndarray) -> dict:
    """Return the figures of all faces and of each group, ready for JSON.

    `table` is that of `tabulate_faces`; `loss` (n,) is the Keras model's, as the exported one has
    none.
    """
    import pandas as pd
    from sklearn.metrics import confusion_matrix

    def measure_groups(groups: pd.Categorical) -> list[dict]:  # only groups that have a face
        return [measure_group(*group) for group in table.groupby(groups, observed=True)]

    printed_age = np.rint(table.estimate)
    estimated_gender = metrics.estimate_gender(table.probability)
    confusion = confusion_matrix(table.gender, estimated_gender, labels=[0, 1])
    return {
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "confidence": CONFIDENCE},
        "all": measure_group("all", table) | {"loss": estimate_interval(loss)},
        "by_true_age": measure_groups(assign_bands(table.age)),
        "by_estimated_age": measure_groups(assign_bands(printed_age)),
        "by_gender": measure_groups(pd.Categorical.from_codes(table.gender, GENDERS)),
        "by_race": measure_groups(pd.Categorical(table.race, RACES.values())),
        "gender_confusion": confusion.tolist(),  # a row for each labelled gender
        "nominal": INTERVAL_COVERAGE,
        "probability": measure_calibration(table.probability, table.gender),
    }


def measure_variant(name: str, table: "pd.DataFrame") -> dict:
    """Return the figures of the faces in one variant: a crop, or a way of storage.

    A gender without faces has none.
    """
    figures = measure_group(name, table, ("age_mae", "interval_coverage"))
    for gender, is_right in table.is_gender_right.groupby(table.gender):
        figures[f"{GENDERS[gender]}_right"] = estimate_interval(is_right)
    return figures


def measure_group(group: str, table: "pd.DataFrame", measures: Iterable[str] = MEASURES) -> dict:
    """Return the name of a group, its number of faces and each measure with its interval."""
    figures = {name: estimate_interval(table[MEASURES[name]]) for name in measures}
    return {"group": group, "n": len(table)} | figures


def assign_bands(age: "np.ndarray | pd.Series") -> "pd.Categorical | pd.Series":
    """Return the band of each age (n,) in whole years, as a pandas Categorical of all bands."""
    import pandas as pd

    return pd.cut(age, [*BANDS.values(), np.inf], right=False, labels=[*BANDS])


def estimate_interval(*samples: np.ndarray, statistic: Callable = np.mean) -> dict:
    """Return a statistic of samples (n,), each of the same n faces, with its interval."""
    from scipy.stats import bootstrap

    samples = [np.asarray(sample, np.float64) for sample in samples]
    n = len(samples[0])
    value = low = high = statistic(*samples, axis=-1)
    if n > 1:  # SciPy refuses to resample one face
        batch = max(1, 1_000_000 // n)  # bounds the memory
        settings = {"method": "percentile", "n_resamples": RESAMPLES, "rng": SEED, "batch": batch}
        result = bootstrap(samples, statistic, paired=True, confidence_level=CONFIDENCE, **settings)
        low, high = result.confidence_interval
    return {"value": round_figure(value), "low": round_figure(low), "high": round_figure(high)}


def round_figure(value: float) -> float:
    """Return the value with the six decimals that JSON gets."""
    return round(float(value), 6)


def measure_calibration(probability: np.ndarray, gender: np.ndarray) -> dict:
    """Return the expected calibration error of the probability of female (n,), and its ten bins.

    The error is the mean over faces of |mean probability - fraction of females| of the face's bin
    (Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015; bins
    of equal width, of the probability of female). It is above 0 even where every probability is
    exact, for chance; `expected_if_exact` is how much, by drawing genders from the probabilities.
    (scikit-learn's calibration_curve puts 0.5, which is called female, into the bin below.)
    """
    probability, gender = np.asarray(probability, np.float64), np.asarray(gender)
    bin_index = np.minimum((probability * BINS).astype(int), BINS - 1)
    is_in_bin = bin_index == np.arange(BINS)[:, None]

    # The error of the labels, and of genders that are drawn from the probabilities
    error = estimate_interval(*is_in_bin * (probability - gender), statistic=calibration_error)
    draw = np.random.default_rng(SEED).random
    gaps = (probability - (draw(len(gender)) < probability) for _ in range(CALIBRATION_DRAWS))
    expected = np.mean([calibration_error(*is_in_bin * gap) for gap in gaps])

    # Each bin that has a face
    bins = [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "n": int(inside.sum()),
            "probability": round_figure(probability[inside].mean()),
            "female": estimate_interval(gender[inside]),
        }
        for number, inside in enumerate(is_in_bin)
        if inside.any()
    ]
    return {
        "calibration_error": error,
        "expected_if_exact": round_figure(expected),
        "bins": bins,
    }


def calibration_error(*gaps: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the expected calibration error from each face's probability less its label.

    `gaps` has an array for each bin, with 0 for the faces of the other bins.
    """
    return sum(np.abs(gap.mean(axis=axis)) for gap in gaps)
