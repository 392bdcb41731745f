"""Compute the figures of the report, each with its number of faces and a 95 % bootstrap interval.

An interval is the percentile bootstrap over faces (Efron & Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13), always with the same resamples. The libraries are imported as late
as the first figure.
"""

import numpy as np

from age_gender import metrics
from age_gender.labels import GENDERS, INTERVAL_COVERAGE, utkface_labels

RESAMPLES = 2000
SEED = 0
CONFIDENCE = 0.95
PUBLISHED = {"mae": 5.72, "accuracy": 0.9645}  # the original's, of another FaceNet: years, genders
BANDS = {"under 10": 0, "10–19": 10, "20–29": 20, "30–44": 30, "45–59": 45, "60+": 60}
RACES = {0: "White", 1: "Black", 2: "Asian", 3: "Indian", 4: "others", None: "none"}
BINS = 10  # of the probability
MEASURES = ("age_mae", "age_bias", "gender_accuracy", "interval_coverage", "interval_width")


def per_face(age: np.ndarray, gender: np.ndarray, names: list[str], scores: dict):
    """Return a DataFrame with a row per test face: labels, what run.py would print, the MEASURES.

    `age` (n,) in years, `gender` (n,) 0 male and 1 female; `scores` are the exported model's, by
    their names. Measures are in years, or whether they hold.
    """
    import pandas as pd

    races = [RACES[(utkface_labels(name) or [None])[-1]] for name in names]
    low, high = np.rint(scores["age_low"]), np.rint(scores["age_high"])
    error, probability = scores["age"] - age, scores["female_probability"]
    return pd.DataFrame({
        "age": age, "gender": gender, "race": races,
        "estimate": scores["age"], "probability": probability, "distance": scores["distance"],
        "age_mae": metrics.age_error(scores["age"], age), "age_bias": error,
        "gender_accuracy": metrics.gender_is_right(probability, gender),
        "interval_coverage": (low <= age) & (age <= high), "interval_width": high - low,
        "low": low, "high": high,
    })  # fmt: skip


def measure(faces, loss: np.ndarray) -> dict:
    """Return all figures of the report, ready for JSON, of faces as per_face has them.

    `loss` (n,) is the Keras model's: the exported one has none.
    """
    import pandas as pd
    from sklearn.metrics import confusion_matrix

    def rows(groups: pd.Categorical) -> list[dict]:  # only groups that have a face
        return [row(*part) for part in faces.groupby(groups, observed=True)]

    female = metrics.estimated_gender(faces.probability)
    return {
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "confidence": CONFIDENCE},
        "all": row("all", faces) | {"loss": with_interval(loss)},
        "by_true_age": rows(in_bands(faces.age)),
        "by_estimated_age": rows(in_bands(np.rint(faces.estimate))),  # the number run.py prints
        "by_gender": rows(pd.Categorical.from_codes(faces.gender, GENDERS)),
        "by_race": rows(pd.Categorical(faces.race, RACES.values())),
        # a row for each labelled gender, a column for each estimated one
        "gender_confusion": confusion_matrix(faces.gender, female, labels=[0, 1]).tolist(),
        "nominal": INTERVAL_COVERAGE,
        "probability": probability(faces.probability, faces.gender),
    }


def of_crop(name: str, faces) -> dict:
    """Return the figures of faces through one crop; a gender without faces has none."""
    figures = row(name, faces, ("age_mae", "interval_coverage"))
    for gender, right in faces.gender_accuracy.groupby(faces.gender):
        figures[f"{GENDERS[gender]}_right"] = with_interval(right)
    return figures


def row(group: str, faces, measures: tuple[str, ...] = MEASURES) -> dict:
    """Return the name of a group, its number of faces and each measure with its interval."""
    figures = {name: with_interval(faces[name]) for name in measures}
    return {"group": group, "n": len(faces)} | figures


def in_bands(age):
    """Return the band of each age (n,) in whole years, as pandas's categories, ends included."""
    import pandas as pd

    return pd.cut(age, [*BANDS.values(), np.inf], right=False, labels=[*BANDS])


def with_interval(*samples, statistic=np.mean) -> dict:
    """Return a statistic of samples (n,), each of the same n faces, with its interval."""
    from scipy.stats import bootstrap

    samples = [np.asarray(sample, np.float64) for sample in samples]
    n = len(samples[0])
    value = low = high = statistic(*samples, axis=-1)
    if n > 1:  # SciPy refuses to resample one face
        low, high = bootstrap(
            samples, statistic, paired=True, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
            method="percentile", rng=SEED, batch=max(1, 1_000_000 // n),  # for memory's sake
        ).confidence_interval  # fmt: skip
    return {"value": rounded(value), "low": rounded(low), "high": rounded(high)}


def rounded(value: float) -> float:
    """Return the value with the six decimals that JSON gets."""
    return round(float(value), 6)


def probability(female, gender) -> dict:
    """Return the expected calibration error of the probability of female (n,), and its ten bins.

    The error is the mean over faces of |mean probability - fraction of females| of the face's bin
    (Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015; bins
    of equal width, of the probability of female). It is above 0 even where every probability is
    exact, for chance; `expected_if_exact` is how much, by drawing genders from the probabilities.
    (scikit-learn's calibration_curve puts 0.5, which is called female, into the bin below.)
    """
    female, gender = np.asarray(female, np.float64), np.asarray(gender)
    bins = np.minimum((female * BINS).astype(int), BINS - 1) == np.arange(BINS)[:, None]
    draw = np.random.default_rng(SEED).random
    drawn = (female - (draw(len(female)) < female) for _ in range(200))
    return {
        "calibration_error": with_interval(*bins * (female - gender), statistic=calibration_error),
        "expected_if_exact": rounded(np.mean([calibration_error(*bins * gap) for gap in drawn])),
        "bins": [{
            "from": number / BINS, "to": (number + 1) / BINS, "n": int(inside.sum()),
            "probability": rounded(female[inside].mean()),
            "female": with_interval(gender[inside]),
        } for number, inside in enumerate(bins) if inside.any()],
    }  # fmt: skip


def calibration_error(*gaps: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the expected calibration error from each face's probability less its label.

    `gaps` has an array for each bin, with 0 for the faces of the other bins.
    """
    return sum(np.abs(gap.mean(axis=axis)) for gap in gaps)
