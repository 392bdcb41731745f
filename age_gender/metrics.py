"""Compute expected ages, age errors and gender accuracy."""

from collections.abc import Callable

import numpy as np

from age_gender.labels import AGES

YEARS = np.arange(AGES, dtype=np.float32)


def expected_age(probabilities, matmul: Callable = np.matmul):
    """Return the expected age in years, the sum of p(a) * a: (n, 117) to (n,).

    Within a network, `matmul` is its framework's.
    """
    return matmul(probabilities, YEARS)


def age_error(estimate, age: np.ndarray) -> np.ndarray:
    """Return how far each estimate is from the labelled age, in years (n,); the mean is the MAE."""
    return np.abs(estimate - age)


def estimated_gender(female_probability) -> np.ndarray:
    """Return the more probable gender, 0 male and 1 female, of probabilities of female: (n,)."""
    return (np.asarray(female_probability) >= 0.5).astype(np.int64)


def gender_is_right(female_probability, gender: np.ndarray) -> np.ndarray:
    """Return whether estimated genders are the labelled ones (n,); the mean is the accuracy."""
    return estimated_gender(female_probability) == np.asarray(gender)
