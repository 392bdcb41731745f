"""Calibrate the age interval and the gender's probability on held-out faces."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from age_gender.labels import INTERVAL_COVERAGE
from age_gender.metrics import compute_expected_age

# Estimated age in years at which `child_factor` is halfway between its values for a newborn and for
# an adult; fitted on held-out children.
CHILD_AGE_MIDPOINT = 3.5
CHILD_CERTAINTY_AGE = 25  # years; hardly any child is estimated older
# From this estimated age on, the tail is multiplied by the factor: with one tail for all ages,
# older adults' intervals contained too few labels. Chosen on held-out adults.
OLDER_AGE, OLDER_TAIL_FACTOR = 44.5, 0.8

Array = np.ndarray | keras.KerasTensor  # formulas below take both


class Calibration(NamedTuple):
    """Hold the calibration parameters, fitted on held-out faces."""

    tail: float  # the interval's ends are the quantiles tail and 1 - tail of the age softmax
    gender_temperature: float  # divides the gender's logits
    child_certainty: float  # factor of the logits of a newborn, whose gender cannot be seen


def tail_factor(age: Array) -> Array:
    """Return the factor (n,) of the interval's tail for estimated ages (n,) in years.

    It is OLDER_TAIL_FACTOR from OLDER_AGE on, else 1.
    """
    return 1 - (1 - OLDER_TAIL_FACTOR) * ops.cast(age >= OLDER_AGE, "float32")


def child_factor(age: Array, certainty: Array) -> Array:
    """Return the factor (n,) of the gender's logits for estimated ages (n,) in years.

    It rises from `certainty` for a newborn to 1 at about ten years, and is halfway between them at
    CHILD_AGE_MIDPOINT years.
    """
    return 1 - (1 - certainty) * ops.sigmoid(CHILD_AGE_MIDPOINT - age)


def calibrate(
    softmax: dict[str, np.ndarray], age: np.ndarray, gender: np.ndarray, is_adult: np.ndarray
) -> Calibration:
    """Fit the Calibration to the softmaxes "age" (n, 117) and "gender" (n, 2) of held-out faces.

    The temperature (Guo et al., "On Calibration of Modern Neural Networks", 2017) minimises the
    gender loss of adults; then the certainty of children minimises that of all faces estimated
    under CHILD_CERTAINTY_AGE. `fit_tail` fits the tail on adults.
    """
    estimate = compute_expected_age(softmax["age"])
    logit = np.diff(np.log(softmax["gender"] + 1e-9), axis=1)[:, 0]
    label_logit = np.where(gender == 1, logit, -logit)
    temperatures = np.linspace(0.5, 3, 251)
    temperature = temperatures[argmin_loss(label_logit[is_adult] / temperatures[:, None])]
    certainty = 1.0
    if not is_adult.all():
        may_be_child, certainties = estimate < CHILD_CERTAINTY_AGE, np.linspace(0, 1, 101)
        factors = np.asarray(child_factor(estimate[may_be_child], certainties[:, None]))
        scaled_logits = label_logit[may_be_child] * factors / temperature
        certainty = certainties[argmin_loss(scaled_logits)]
    tail = fit_tail(softmax["age"][is_adult], age[is_adult])
    return Calibration(tail, float(temperature), float(certainty))


def fit_tail(softmax: np.ndarray, age: np.ndarray) -> float:
    """Return the largest tail with which intervals contain INTERVAL_COVERAGE of the ages (n,).

    Split conformal prediction (Romano et al., "Conformalized Quantile Regression", 2019): a face's
    score is the largest tail with which its interval still contains its label, min(P(age <= label),
    P(age >= label)) by its softmax (n, 117), divided by its `tail_factor`. The tail is the score of
    rank (1 - INTERVAL_COVERAGE) (n + 1), from the least.
    """
    rows, cumulative = np.arange(len(age)), np.cumsum(softmax, axis=1)
    score = np.minimum(cumulative[rows, age], 1 - (cumulative - softmax)[rows, age])
    score /= np.asarray(tail_factor(compute_expected_age(softmax)))
    outside = int((1 - INTERVAL_COVERAGE) * (len(score) + 1))
    return float(np.sort(score)[max(outside - 1, 0)])


def argmin_loss(logits: np.ndarray) -> int:
    """Return which row of the labelled genders' logits (k, n) has the least mean cross-entropy."""
    return int(np.logaddexp(0, -logits).mean(axis=1).argmin())
