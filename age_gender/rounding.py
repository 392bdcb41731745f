"""Measure in training how rounding of embeddings shifts ages, and check tables for it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from age_gender.errors import InputError

if TYPE_CHECKING:
    from age_gender.embedding_space import EmbeddingSpace

STEPS = 10 ** -np.arange(1.0, 4.25, 0.25)  # of rounding, measured on unit-length embeddings
TRAINING_STEPS = 1e-4, 10**-2.25  # the finest and the coarsest step that a network learns from
MEASURED_FACES = 3000  # faces at most on which the cost of rounding is measured
CHECKED_ROWS = 1000  # rows at a table's start whose rounding is checked
# Years by which rounding moves the ages of a table. Errors add as squares do: where ages move by 1
# year, the mean error of held-out faces grows by 0.1, by 0.3 where by 1.5, by over 1 where by 3.
# A table is refused where ages move by 3: that shows as 2.5, since int8 that was clipped moves ages
# by more than its rounding shows (FaceNet's training faces clipped at 99 %: 3.2, and 2.6 shown).
WARNED, REFUSED = 1.0, 2.5


class Curve(NamedTuple):
    """Hold K points of how rounding changes ages on average.

    `deviation` (K,), rising, is `EmbeddingSpace.rounding_deviation`; `years` (K,) is the change.
    """

    deviation: np.ndarray
    years: np.ndarray


def round_at_random(rows: np.ndarray) -> np.ndarray:
    """Return unit-length rows (n, W), each rounded to a step that is drawn from TRAINING_STEPS."""
    from age_gender.embedding_space import to_unit_length

    exponents = np.log10(TRAINING_STEPS)
    steps = 10 ** np.random.default_rng(0).uniform(*exponents, (len(rows), 1)).astype(np.float32)
    rounded = np.round(rows / steps) * steps
    return to_unit_length(np.where(rounded.any(axis=1, keepdims=True), rounded, rows))


def measure(
    rows: np.ndarray, space: "EmbeddingSpace", estimate_ages: Callable[[np.ndarray], np.ndarray]
) -> Curve:
    """Return how rounding moves the estimated ages of held-out unit-length faces (n, W).

    They are rounded to each of STEPS, which gives the median deviation along empty directions and
    the mean absolute change of the age. The first deviation is that of the faces as they are,
    which costs nothing.
    """
    from age_gender.embedding_space import thin, to_unit_length

    rows = thin(rows, MEASURED_FACES)
    tables, deviations = [rows], [np.median(space.rounding_deviation(rows))]
    for step in STEPS[::-1]:  # from the finest
        rounded = np.round(rows / step) * step
        if not rounded.any(axis=1).all():  # some are rounded to nothing
            break
        rounded = to_unit_length(rounded)
        deviation = np.median(space.rounding_deviation(rounded))
        if deviation > 1.05 * deviations[-1]:  # else it is less than these faces have
            tables.append(rounded)
            deviations.append(deviation)
    ages = estimate_ages(np.concatenate(tables)).reshape(len(tables), -1)
    years = np.maximum.accumulate(np.abs(ages - ages[0]).mean(axis=1))
    return Curve(np.array(deviations, np.float32), np.array(years, np.float32))


def hinges(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and changes of slope (K - 1,) of the curve: linear between its points.

    The years of a deviation d are the sum of changes * max(0, d - starts), beyond the points too.
    """
    slopes = np.diff(curve.years) / np.diff(curve.deviation)
    return curve.deviation[:-1], np.diff(slopes, prepend=np.float32(0))


def check(source: str, years: np.ndarray, force: bool = False, hint: str = "") -> str | None:
    """Return a warning if the median `rounding_years` (n,) of a table's first rows is over WARNED.

    Raises InputError where it is over REFUSED, unless `force`; `hint` ends its message with what
    else the caller can do. A single row shows little.
    """
    checked = np.sort(years[:CHECKED_ROWS])  # np.median and np.quantile import numpy.ma, for 17 ms
    median = float(checked[len(checked) // 2]) if len(checked) else 0.0
    if median <= WARNED:
        return None
    message = (
        f"{source}: these embeddings look rounded or quantised, which changes ages by "
        f"about {median:.1f} years; store them as float16 or finer"
    )
    if median > REFUSED and not force:
        raise InputError(message + hint)
    return message
