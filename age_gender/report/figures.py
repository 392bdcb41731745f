"""The figures of the report, each with its number of faces and a 95 % bootstrap interval.

An interval is the percentile bootstrap over faces (Efron & Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13): 2,000 resamples with replacement, always the same ones. The
libraries are imported as late as the first figure.
"""

from typing import NamedTuple

import numpy as np

from age_gender.tables.names import GENDERS

RESAMPLES = 2000
SEED = 0
CONFIDENCE = 0.95
NOMINAL = 0.9  # what age_low to age_high promise to hold; network_conv.py calibrates it
PUBLISHED_MAE = 5.72  # years: the original's, on the embeddings of another FaceNet
PUBLISHED_ACCURACY = 0.9645  # of its genders
BANDS = {"under 10": 0, "10–19": 10, "20–29": 20, "30–44": 30, "45–59": 45, "60+": 60}
RACES = ("White", "Black", "Asian", "Indian", "others", "none")  # the last is -1, no label
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BINS = 10  # of the probability
MEASURES = ("age_mae", "age_bias", "gender_accuracy", "interval_coverage", "interval_width")


class Faces(NamedTuple):
    """Of each test face, all (n,): its labels, and what the exported model makes of it.

    `age` in years, `gender` 0 male and 1 female, `race` 0-4 or -1 where the name has none;
    `estimate` the expected age in years, `low` and `high` the interval in whole years,
    `probability` that of female.
    """

    age: np.ndarray
    gender: np.ndarray
    race: np.ndarray
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: np.ndarray


def measure(faces: Faces, age_softmax: np.ndarray, loss: np.ndarray) -> dict:
    """All figures, ready for JSON.

    `age_softmax` (n, 117) and `loss` (n,) are the Keras model's: the exported one has neither.
    """
    import pandas as pd
    from sklearn.metrics import confusion_matrix

    female = faces.probability >= 0.5
    values = per_face(faces)

    def row(group: str, part: pd.DataFrame) -> dict:
        return {"group": group, "n": len(part)} | {key: with_interval(part[key]) for key in part}

    def rows(groups: pd.Categorical) -> list[dict]:  # of the groups that have a face at all
        return [row(*part) for part in values.groupby(groups, observed=True)]

    return {
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "confidence": CONFIDENCE},
        "all": row("all", values) | {"loss": with_interval(loss)},
        "by_true_age": rows(in_bands(faces.age)),
        "by_estimated_age": rows(in_bands(np.rint(faces.estimate))),  # the number run.py prints
        "by_gender": rows(pd.Categorical.from_codes(faces.gender, GENDERS)),
        "by_race": rows(pd.Categorical.from_codes(faces.race % len(RACES), RACES)),
        # a row a labelled gender, a column an estimated one
        "gender_confusion": confusion_matrix(faces.gender, female, labels=[0, 1]).tolist(),
        "interval": {"nominal": NOMINAL, "softmax": softmax_coverage(faces.age, age_softmax)},
        "probability": probability(faces.probability, faces.gender),
    }


def per_face(faces: Faces):
    """The MEASURES of each face, a pandas DataFrame: in years, or whether they hold."""
    import pandas as pd

    error = faces.estimate - faces.age
    right = (faces.probability >= 0.5) == faces.gender
    inside = (faces.low <= faces.age) & (faces.age <= faces.high)
    values = (np.abs(error), error, right, inside, faces.high - faces.low)
    return pd.DataFrame(dict(zip(MEASURES, values, strict=True)))


def of_crop(name: str, faces: Faces) -> dict:
    """The figures of faces seen through one crop; a gender of which there is no face has none."""
    values = per_face(faces)
    genders = {
        f"{gender}_right": with_interval(values.gender_accuracy[faces.gender == code])
        for code, gender in enumerate(GENDERS)
        if (faces.gender == code).any()
    }
    both = {key: with_interval(values[key]) for key in ("age_mae", "interval_coverage")}
    return {"group": name, "n": len(values)} | both | genders


def in_bands(age: np.ndarray):
    """The band of each age (n,) in whole years, a pandas Categorical; both ends belong to it."""
    import pandas as pd

    return pd.cut(age, [*BANDS.values(), np.inf], right=False, labels=[*BANDS])


def with_interval(*samples: np.ndarray, statistic=np.mean) -> dict:
    """A statistic of samples (n,), each of the same n faces, and the interval of it."""
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
    return round(float(value), 6)


# ------------------------------------------------------------------------- calibration


def softmax_coverage(age: np.ndarray, softmax: np.ndarray) -> list[dict]:
    """What the age softmax (n, 117) promises at each of LEVELS, and how many ages it holds.

    The central interval of a level runs over whole years, so that it holds more than the level:
    `promised` is the mean probability inside it, `observed` the share of ages (n,) inside.
    """
    cumulative = np.cumsum(softmax, axis=1, dtype=np.float64)
    faces, levels = np.arange(len(age)), []
    for level in LEVELS:
        tail = (1 - level) / 2
        low = (cumulative < tail).sum(axis=1)
        high = np.minimum((cumulative < 1 - tail).sum(axis=1), softmax.shape[1] - 1)
        mass = cumulative[faces, high] - cumulative[faces, low] + softmax[faces, low]
        observed = with_interval((low <= age) & (age <= high))
        levels.append({"level": level, "promised": rounded(mass.mean()), "observed": observed})
    return levels


def probability(female: np.ndarray, gender: np.ndarray) -> dict:
    """The expected calibration error of the probability of female (n,), and its ten bins.

    The error is the mean over faces of |mean probability - share of females| of the face's bin
    (Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015; bins
    of equal width, of the probability of female). It is above 0 even where every probability is
    exact, for chance; `expected_if_exact` is how much, by drawing genders from the probabilities.
    (scikit-learn's calibration_curve puts a probability on an edge into the bin below, so that
    0.5, which is called female, would stand among the males, and does not count its bins.)
    """
    female = np.asarray(female, np.float64)
    number = np.minimum((female * BINS).astype(int), BINS - 1)
    one_hot = number == np.arange(BINS)[:, None]
    gaps = one_hot * (female - gender)
    random = np.random.default_rng(SEED)
    drawn = (random.random(len(female)) < female for _ in range(200))
    exact = [calibration_error(*one_hot * (female - genders)) for genders in drawn]
    return {
        "calibration_error": with_interval(*gaps, statistic=calibration_error),
        "expected_if_exact": rounded(np.mean(exact)),
        "bins": [
            {
                "from": place / BINS, "to": (place + 1) / BINS, "n": int(inside.sum()),
                "probability": rounded(female[inside].mean()),
                "female": with_interval(gender[inside]),
            }
            for place, inside in enumerate(one_hot) if inside.any()
        ],
    }  # fmt: skip


def calibration_error(*gaps: np.ndarray, axis: int = -1) -> np.ndarray:
    """From each face's probability less its label: an array a bin, 0 for the other bins' faces."""
    return sum(np.abs(gap.mean(axis=axis)) for gap in gaps)
