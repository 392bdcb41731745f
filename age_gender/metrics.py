"""Compute expected ages, age errors and gender accuracy."""

from collections.abc import Callable
from typing import Any

import numpy as np

from age_gender.labels import AGE_CLASSES

YEARS = np.arange(AGE_CLASSES, dtype=np.float32)


def compute_expected_age(probabilities: Any, matmul: Callable = np.matmul) -> Any:
    """Return the expected age in years, the sum of p(a) * a: (n, 117) to (n,).

    Within a network, `matmul` is that of Keras.
    """
    return matmul(probabilities, YEARS)


def compute_age_error(estimate: np.ndarray, age: np.ndarray) -> np.ndarray:
    """Return how far each estimate is from the labelled age, in years (n,); the mean is the MAE."""
    return np.abs(estimate - age)


def estimate_gender(female_probability: np.ndarray) -> np.ndarray:
    """Return the more probable gender, 0 male and 1 female, of probabilities of female: (n,)."""
    return (np.asarray(female_probability) >= 0.5).astype(np.int64)


def is_gender_right(female_probability: np.ndarray, gender: np.ndarray) -> np.ndarray:
    """Return whether estimated genders are the labelled ones (n,); the mean is the accuracy."""
    return estimate_gender(female_probability) == np.asarray(gender)
