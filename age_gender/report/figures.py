"""The figures of the report, each with its number of faces and a 95 % bootstrap interval.

Counts, means and resampling alone: report.py draws and writes what is computed here. The
interval of a mean is the percentile bootstrap over faces (Efron & Tibshirani, "An Introduction
to the Bootstrap", 1993, chapter 13): 2,000 resamples with replacement, always the same ones.
"""

from typing import NamedTuple

import numpy as np

from age_gender.tables.names import GENDERS

RESAMPLES = 2000
SEED = 0
CONFIDENCE = 0.95
NOMINAL = 0.9  # what age_low to age_high promise to hold; train.py calibrates it
BANDS = {"under 10": 0, "10–19": 10, "20–29": 20, "30–44": 30, "45–59": 45, "60+": 60}
RACES = {0: "White", 1: "Black", 2: "Asian", 3: "Indian", 4: "others", -1: "none"}
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
    values = per_face(faces)
    estimate = np.rint(faces.estimate)  # the whole number that run.py prints
    races = {name: faces.race == code for code, name in RACES.items()}
    genders = {name: faces.gender == code for code, name in enumerate(GENDERS)}
    female = faces.probability >= 0.5
    return {
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "confidence": CONFIDENCE},
        "all": row("all", values) | {"loss": with_interval(loss)},
        "by_true_age": rows(in_bands(faces.age), values),
        "by_estimated_age": rows(in_bands(estimate), values),
        "by_gender": rows(genders, values),
        "by_race": rows(races, values),
        "gender_confusion": [  # a row a labelled gender, a column an estimated one
            [int(((faces.gender == label) & (female == guess)).sum()) for guess in (0, 1)]
            for label in (0, 1)
        ],
        "interval": {"nominal": NOMINAL, "softmax": softmax_coverage(faces.age, age_softmax)},
        "probability": probability(faces.probability, faces.gender),
    }


def per_face(faces: Faces) -> np.ndarray:
    """The MEASURES of each face, (n, 5): years, years, 0 or 1, 0 or 1, years."""
    error = faces.estimate - faces.age
    right = (faces.probability >= 0.5) == faces.gender
    inside = (faces.low <= faces.age) & (faces.age <= faces.high)
    return np.stack([np.abs(error), error, right, inside, faces.high - faces.low], axis=1)


def in_bands(age: np.ndarray) -> dict[str, np.ndarray]:
    """Which ages (n,), in whole years, lie in each band: both of its ends belong to it."""
    band = np.searchsorted(list(BANDS.values()), age, side="right") - 1
    return {name: band == number for number, name in enumerate(BANDS)}


def rows(groups: dict[str, np.ndarray], values: np.ndarray) -> list[dict]:
    """A row of figures for each group (name: which faces, (n,)) that has a face at all."""
    return [row(name, values[part]) for name, part in groups.items() if part.any()]


def row(name: str, values: np.ndarray) -> dict:
    """The figures of a group of faces, from its per_face values (n, 5)."""
    intervals = mean_intervals(values)
    return {"group": name, "n": len(values)} | dict(zip(MEASURES, intervals, strict=True))


# --------------------------------------------------------------------------- bootstrap


def resampled_means(values: np.ndarray) -> np.ndarray:
    """The means of RESAMPLES samples, with replacement, of the rows (n, k): (RESAMPLES, k)."""
    random = np.random.default_rng(SEED)
    n, means = len(values), []
    step = max(1, 4_000_000 // n)  # so many draws at once, for memory's sake
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        drawn = random.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        means.append(times @ values.astype(np.float64) / n)
    return np.concatenate(means)


def mean_intervals(values: np.ndarray) -> list[dict]:
    """The mean and the interval of each column of values (n, k)."""
    return [
        as_figure(value, resampled)
        for value, resampled in zip(values.mean(axis=0), resampled_means(values).T, strict=True)
    ]


def with_interval(values: np.ndarray) -> dict:
    """The mean of values (n,) and its interval."""
    return mean_intervals(np.asarray(values)[:, None])[0]


def as_figure(value: float, resampled: np.ndarray) -> dict:
    """A figure and the middle CONFIDENCE of its resamples (RESAMPLES,)."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return {"value": rounded(value), "low": rounded(low), "high": rounded(high)}


def rounded(value: float) -> float:
    return round(float(value), 6)


def as_text(figure: dict, form: str) -> str:
    """A figure as text by a format, its interval in brackets: 5.07 (4.83 to 5.31)."""
    return f"{in_text(figure['value'], form)} ({interval_as_text(figure, form)})"


def interval_as_text(figure: dict, form: str) -> str:
    return f"{in_text(figure['low'], form)} to {in_text(figure['high'], form)}"


def in_text(value: float, form: str) -> str:
    """A number as text by a format, with a minus sign, and a space before its % sign."""
    return form.format(value).replace("-", "−").replace("%", " %")


# ------------------------------------------------------------------------- calibration


def softmax_coverage(age: np.ndarray, softmax: np.ndarray) -> list[dict]:
    """What the age softmax (n, 117) promises at each of LEVELS, and how many ages it holds.

    The central interval of a level runs over whole years, so that it holds more than the level:
    `promised` is the mean probability inside it, `observed` the share of ages (n,) inside.
    """
    cumulative = np.cumsum(softmax, axis=1, dtype=np.float64)
    faces, promised, inside = np.arange(len(age)), [], []
    for level in LEVELS:
        tail = (1 - level) / 2
        low = (cumulative < tail).sum(axis=1)
        high = np.minimum((cumulative < 1 - tail).sum(axis=1), softmax.shape[1] - 1)
        mass = cumulative[faces, high] - cumulative[faces, low] + softmax[faces, low]
        promised.append(rounded(mass.mean()))
        inside.append((low <= age) & (age <= high))
    return [
        {"level": level, "promised": share, "observed": observed}
        for level, share, observed in zip(
            LEVELS, promised, mean_intervals(np.stack(inside, axis=1)), strict=True
        )
    ]


def probability(female: np.ndarray, gender: np.ndarray) -> dict:
    """The expected calibration error of the probability of female (n,), and its ten bins.

    The error is the mean over faces of |mean probability - share of females| of the face's bin
    (Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015; bins
    of equal width, of the probability of female). It is above 0 even where every probability is
    exact, for chance; `expected_if_exact` is how much, by drawing genders from the probabilities.
    """
    female = np.asarray(female, np.float64)
    number = np.minimum((female * BINS).astype(int), BINS - 1)
    one_hot = number[:, None] == np.arange(BINS)
    gaps = one_hot * (female - gender)[:, None]
    error = as_figure(np.abs(gaps.mean(axis=0)).sum(), np.abs(resampled_means(gaps)).sum(axis=1))
    random = np.random.default_rng(SEED)
    exact = [
        np.abs((female - (random.random(len(female)) < female)) @ one_hot).sum() / len(female)
        for _ in range(200)
    ]
    bins = [
        {
            "from": place / BINS,
            "to": (place + 1) / BINS,
            "n": int(part.sum()),
            "probability": rounded(female[part].mean()),
            "female": with_interval(gender[part]),
        }
        for place, part in enumerate(one_hot.T)
        if part.any()
    ]
    return {
        "calibration_error": error,
        "expected_if_exact": rounded(np.mean(exact)),
        "bins": bins,
    }
