"""Measure in training how rounding of embeddings changes ages, and check tables for it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from age_gender.embeddings import fast_median, subsample, to_unit_length
from age_gender.errors import InputError

if TYPE_CHECKING:
    from age_gender.embedding_space import EmbeddingSpace

ROUNDING_STEPS = 10 ** -np.arange(1.0, 4.25, 0.25)  # for numbers of unit-length embeddings
TRAINING_ROUNDING_STEPS = 1e-4, 10**-2.25  # finest and coarsest step for training faces
MEASURED_FACES = 3000  # most faces on which the effect of rounding is measured
CHECKED_ROWS = 1000  # number of a table's first rows whose rounding is checked
# A table whose ages rounding changes by more than this is warned of, or refused. Changes of 1, 1.5
# and 3 years increase the mean error of held-out faces by 0.1, 0.3 and over 1, since errors add in
# squares. Tables should be refused from 3 years on; the limit is lower because clipped int8 changes
# ages by more than `rounding_years` shows (FaceNet's training faces clipped at 99 %: by 3.1 years,
# shown as 2.6).
WARNING_YEARS, REFUSAL_YEARS = 1.0, 2.5


class RoundingCurve(NamedTuple):
    """Hold the K points of the line from a rounding deviation to the mean change of ages.

    `deviation` (K,), rising, is `EmbeddingSpace.rounding_deviation`; `years` (K,) is the mean
    absolute change of the estimated age.
    """

    deviation: np.ndarray
    years: np.ndarray


def round_at_random(rows: np.ndarray) -> np.ndarray:
    """Return unit-length rows (n, W), each rounded to a random step of TRAINING_ROUNDING_STEPS."""
    exponents = np.log10(TRAINING_ROUNDING_STEPS)
    steps = 10 ** np.random.default_rng(0).uniform(*exponents, (len(rows), 1)).astype(np.float32)
    rounded = np.round(rows / steps) * steps
    return to_unit_length(np.where(rounded.any(axis=1, keepdims=True), rounded, rows))


def measure(
    rows: np.ndarray, space: "EmbeddingSpace", estimate_ages: Callable[[np.ndarray], np.ndarray]
) -> RoundingCurve:
    """Return by how many years rounding changes the ages of held-out faces, unit-length (n, W).

    Each of ROUNDING_STEPS gives a point: the median `rounding_deviation` of the rounded faces, and
    the mean absolute change of their ages. The first point is the faces as they are, with 0 years.
    `estimate_ages` maps (n, W) to years (n,).
    """
    rows = subsample(rows, MEASURED_FACES)
    tables, deviations = [rows], [np.median(space.rounding_deviation(rows))]
    for step in ROUNDING_STEPS[::-1]:  # from the finest
        rounded = np.round(rows / step) * step
        if not rounded.any(axis=1).all():  # some became zero
            break
        rounded = to_unit_length(rounded)
        deviation = np.median(space.rounding_deviation(rounded))
        if deviation > 1.05 * deviations[-1]:  # else these faces are already rounded more
            tables.append(rounded)
            deviations.append(deviation)
    ages = estimate_ages(np.concatenate(tables)).reshape(len(tables), -1)
    years = np.maximum.accumulate(np.abs(ages - ages[0]).mean(axis=1))
    return RoundingCurve(np.array(deviations, np.float32), np.array(years, np.float32))


def to_hinges(curve: RoundingCurve) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve's hinges: their starts and their changes of slope, each (K - 1,).

    The years at a deviation d are the sum of changes * max(0, d - starts), also beyond the last
    point.
    """
    slopes = np.diff(curve.years) / np.diff(curve.deviation)
    return curve.deviation[:-1], np.diff(slopes, prepend=np.float32(0))


def check(source: str, years: np.ndarray, force: bool = False, hint: str = "") -> str | None:
    """Return a warning if rounding changes the ages of a table by more than WARNING_YEARS.

    It judges by the median `rounding_years` (n,) of the first rows, as a single row shows little.
    Raises InputError where it is over REFUSAL_YEARS, unless `force`; `hint` ends its message with
    what else the caller can do.
    """
    median = fast_median(years[:CHECKED_ROWS]) if len(years) else 0.0
    if median <= WARNING_YEARS:
        return None
    message = (
        f"{source}: these embeddings look rounded or quantised, which changes ages by "
        f"about {median:.1f} years; store them as float16 or finer"
    )
    if median > REFUSAL_YEARS and not force:
        raise InputError(message + hint)
    return message
