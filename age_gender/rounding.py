"""Measure in training how rounding of embeddings shifts ages, and check tables for it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from age_gender.cli import InputError

if TYPE_CHECKING:
    from age_gender.embedding_space import EmbeddingSpace

STEPS = 10 ** -np.arange(1.0, 4.25, 0.25)  # to which faces at unit length are rounded
JUDGED_ROWS = 1000  # of a table, from its start
WARNED, REFUSED = 1.0, 3.0  # years by which rounding moves the ages of a table


def measure(
    rows: np.ndarray, space: "EmbeddingSpace", estimate_ages: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return deviations along empty directions (K,), and the years (K,) that they move ages by.

    `rows` (n, W) are held-out faces at unit length. They are rounded to each of STEPS, which gives
    the median deviation and the mean absolute change of the estimated age. The first deviation is
    what they have as they are, and costs nothing.
    """
    from age_gender.embedding_space import unit

    exact = estimate_ages(rows)
    deviations, years = [np.median(space.rounding_deviation(rows))], [0.0]
    for step in STEPS[::-1]:  # from the finest
        rounded = np.round(rows / step) * step
        if not rounded.any(axis=1).all():  # some are rounded to nothing
            break
        rounded = unit(rounded)
        deviation = np.median(space.rounding_deviation(rounded))
        if deviation > 1.05 * deviations[-1]:  # else it is less than these faces have
            deviations.append(deviation)
            years.append(max(years[-1], np.abs(estimate_ages(rounded) - exact).mean()))
    return np.array(deviations, np.float32), np.array(years, np.float32)


def ramps(deviations: np.ndarray, years: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and slopes (K - 1,) of the ramps whose sum runs through these points.

    The years of a deviation d are the sum of slopes * max(0, d - starts): linear between the
    points and beyond them.
    """
    slopes = np.diff(years) / np.diff(deviations)
    return deviations[:-1], np.diff(slopes, prepend=np.float32(0))


def judge(source: str, years: np.ndarray, force: bool = False, hint: str = "") -> str | None:
    """Return a warning where the `rounding_years` (n,) of a table's first rows call for one.

    Raises InputError where their median is over REFUSED, unless `force`; `hint` ends its
    message with what else the caller can do. A single row shows little.
    """
    judged = np.sort(years[:JUDGED_ROWS])  # np.median and np.quantile import numpy.ma, for 17 ms
    median = float(judged[len(judged) // 2]) if len(judged) else 0.0
    if median <= WARNED:
        return None
    message = (
        f"{source}: these embeddings look rounded or quantised: ages may be off by about "
        f"{median:.1f} years more than from float16 or finer"
    )
    if median > REFUSED and not force:
        raise InputError(f"{message}; store them as float16 or finer{hint}")
    return message
