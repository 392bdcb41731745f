"""Model a network's embedding space and detect embeddings of any other network.

The embeddings of one network lie in a part of the unit sphere: along some directions they vary
more than random vectors do, along most others hardly at all. So a single row shows whether it
belongs to the space, and its components along these empty directions show how coarsely it was
rounded. Negated embeddings (a sign lost in a cosine or a projection) have the same variances, so
they are tested along an axis of their own. In names, "ood" stands for out of distribution.
"""

from dataclasses import dataclass, replace

import numpy as np

from age_gender.embeddings import subsample, to_unit_length

# Standard deviations of rounding errors: of a number, and as a fraction of the number
THREE_DECIMALS_DEVIATION, FLOAT16_DEVIATION = 1e-3 / 12**0.5, 2e-4
# A principal component is kept if its standard deviation is over this many times the rounding
# error of stored numbers. Chosen on held-out training records (means of two or three seeds).
# FaceNet's age error is 5.08 years at 0.8 and 0.9, 5.10 at 1; three decimals add 0.03, 0.02 and
# 0.01. dlib's is 5.36 up to 0.85, which keeps its 81st component, and 5.39 above.
MIN_SIGNAL_TO_ROUNDING = 0.8
DISTANCE_LIMIT = 1.0  # the `distance` above which a row is out of distribution
TESTED_DIRECTIONS = 64  # number of directions of the test; with 24 a few negated rows passed
EMPTY_DIRECTIONS = 8  # number of directions that show how coarsely a row was rounded
# Added to each tested variance (a random vector's is 1), so that rounding cannot change the result
VARIANCE_FLOOR = 0.02
NEGLIGIBLE_VARIANCE = 0.1 * VARIANCE_FLOOR  # axes with less are not told apart in the test
# Added to the variances in Fisher's discriminant, which separates the space from its negative
NEGATION_FLOOR = 5e-4
# A row farther than this along the negation axis is refused; the mean lies at -1, its negative at 1
NEGATION_LIMIT = 0.04
# Least squared Mahalanobis distance from the mean to its negative for testing negation
MIN_SEPARATION = 25
MAX_ROWS = 100_000  # most rows that a space is fitted on; larger sets are subsampled evenly
MIN_ROWS = 200  # a space fitted on fewer rows would reject faces of its own network
FOLDS, MAX_FOLD_ROWS = 5, 15_000  # number of cross-validation folds, and of rows in all folds
MAX_ERROR_RATE = 0.001  # with a greater error rate of the test, single rows are not judged


@dataclass(frozen=True)
class EmbeddingSpace:
    """Describe one network's unit-length embeddings by a Gaussian, and test others against it.

    The tested directions are those in which the variance differs most from a random vector's; along
    the empty ones, embeddings vary only by rounding.
    """

    mean: np.ndarray  # (W,)
    axes: np.ndarray  # (W, W), the principal axes as columns
    deviations: np.ndarray  # (W,), along the axes, falling
    component_count: int  # number of axes, from the first, above MIN_SIGNAL_TO_ROUNDING
    tested_directions: np.ndarray  # (W, D)
    empty_directions: np.ndarray  # (W, E)
    variances: np.ndarray  # (D,), where a random vector's is 1; VARIANCE_FLOOR included
    negation: np.ndarray  # (W,), along which the mean lies at -1 and its negative at 1
    min_training_log_odds: float  # the least `log_odds_of_random` of the training rows, below 0
    false_rejection_rate: float = 0.0  # fraction of rows that the other folds' space rejects
    false_acceptance_rate: float = 0.0  # fraction of random vectors that are accepted

    @property
    def detects_single_rows(self) -> bool:
        """Return whether a single row suffices to detect an embedding of another network."""
        return max(self.false_rejection_rate, self.false_acceptance_rate) <= MAX_ERROR_RATE

    def distance(self, rows: np.ndarray) -> np.ndarray:
        """Return the distance of unit-length rows (n, W) from this space: (n,), over 1 outside it.

        It is linear in the logarithm of how much likelier a random direction is than this space:
        0 for the training row least like a random one, 1 where both are equally likely. A row
        beyond NEGATION_LIMIT on the side of the negated embeddings is outside too. Where single
        rows cannot be judged it is 1 for all. network_conv.build_row_checks computes the same
        within the exported model, as a test checks.
        """
        if not self.detects_single_rows:
            return np.ones(len(rows), np.float32)
        negated = rows @ self.negation / NEGATION_LIMIT
        return np.maximum(
            np.maximum(1 - self.log_odds_of_random(rows) / self.min_training_log_odds, negated), 0
        )

    def log_odds_of_random(self, rows: np.ndarray) -> np.ndarray:
        """Return the log-likelihood ratio (n,) of a random direction to this space.

        It is below 0 for unit-length rows (n, W) that belong to the space.
        """
        tested = np.sqrt(len(self.mean)) * self.tested_directions
        along = rows @ tested
        centred = along - self.mean @ tested
        return 0.5 * (centred**2 / self.variances + np.log(self.variances) - along**2).sum(axis=1)

    def rounding_deviation(self, rows: np.ndarray) -> np.ndarray:
        """Return the root mean square of unit-length rows (n, W) along empty directions, (n,).

        It estimates the rounding error of each number: 2.9e-4 for three decimals. 0 where no
        direction is empty.
        """
        empty = self.empty_directions
        along = rows @ empty - self.mean @ empty
        return np.sqrt((along**2).sum(axis=1) / max(empty.shape[1], 1))


def is_out_of_distribution(distance: np.ndarray) -> np.ndarray:
    """Return whether each distance (n,) is that of an out-of-distribution embedding."""
    return distance > DISTANCE_LIMIT


def storage_deviation(width: int, norm: float) -> float:
    """Return the standard deviation of the rounding error of stored numbers, at unit length.

    It is that of float16 and three decimals together, for vectors of this `norm`. The norm is
    rounded to a power of ten, so that 0.32 to 3.16 count as 1: such embeddings are often scaled to
    unit length later.
    """
    three_decimals = THREE_DECIMALS_DEVIATION / 10 ** round(np.log10(norm))
    return float(np.hypot(three_decimals, FLOAT16_DEVIATION / width**0.5))


def fit(rows: np.ndarray, norm: float = 1.0, folds: int = FOLDS) -> EmbeddingSpace:
    """Fit the embedding space of unit-length rows (n, W), plain and augmented views together.

    `norm` is the median norm that they had before. Error rates are measured by cross-validation
    over `folds`, and on random vectors; without folds they are 0. Folds are runs of rows, since
    neighbouring rows may be views of one face.
    """
    rows = subsample(rows, MAX_ROWS)
    space = _fit(rows, norm)
    if len(rows) < MIN_ROWS:
        return replace(space, false_rejection_rate=1.0)
    random = np.random.default_rng(0).standard_normal((4000, rows.shape[1]), dtype=np.float32)
    random = to_unit_length(random)
    rejected = accepted = 0.0
    rows = subsample(rows, MAX_FOLD_ROWS)
    for fold in np.array_split(np.arange(len(rows)), folds) if folds else ():
        space_without_fold = _fit(np.delete(rows, fold, axis=0), norm)
        rejected += is_out_of_distribution(space_without_fold.distance(rows[fold])).sum()
        accepted += (~is_out_of_distribution(space_without_fold.distance(random))).mean()
    return replace(
        space,
        false_rejection_rate=float(rejected / len(rows)),
        false_acceptance_rate=float(accepted / max(folds, 1)),
    )


def _fit(rows: np.ndarray, norm: float) -> EmbeddingSpace:
    """Return the embedding space of unit-length rows (n, W), without measuring its error rates."""
    width = rows.shape[1]
    # Principal axes, and the number of them above MIN_SIGNAL_TO_ROUNDING
    mean = rows.mean(axis=0)
    centred = rows - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(rows))
    variances, axes = np.maximum(variances[::-1], 0).astype(np.float64), axes[:, ::-1]
    smallest = MIN_SIGNAL_TO_ROUNDING * storage_deviation(width, norm)
    component_count = max(1, int((np.sqrt(variances) > smallest).sum()))

    # Directions to test. Axes of negligible variance are rotated at random first: each tested one
    # then has a share of another network's variance along all of them.
    tested_variances, rotated_axes = width * variances + VARIANCE_FLOOR, axes.copy()
    is_negligible = width * variances < NEGLIGIBLE_VARIANCE
    if is_negligible.any():
        rotated_axes[:, is_negligible] = axes[:, is_negligible] @ random_rotation(
            is_negligible.sum()
        )
        tested_variances[is_negligible] = tested_variances[is_negligible].mean()
    tested = np.argsort(-np.abs(np.log(tested_variances)), kind="stable")[:TESTED_DIRECTIONS]
    empty = (
        axes[:, component_count:] @ random_rotation(width - component_count)[:, :EMPTY_DIRECTIONS]
    )

    # Fisher's linear discriminant between the space and its negative, or 0 where they overlap
    negation = -axes @ (axes.T @ mean / (width * variances + NEGATION_FLOOR))
    separation = -negation @ mean
    negation = negation / separation if width * separation > MIN_SEPARATION else 0 * negation

    arrays = {
        "mean": mean,
        "axes": axes,
        "deviations": np.sqrt(variances),
        "tested_directions": rotated_axes[:, tested],
        "empty_directions": empty,
        "variances": tested_variances[tested],
        "negation": negation,
    }
    arrays = {name: np.float32(values) for name, values in arrays.items()}
    space = EmbeddingSpace(**arrays, component_count=component_count, min_training_log_odds=-1.0)
    return replace(
        space, min_training_log_odds=float(min(space.log_odds_of_random(rows).min(), -1e-3))
    )


def random_rotation(count: int) -> np.ndarray:
    """Return an orthogonal matrix (count, count), the same every time."""
    return np.linalg.qr(np.random.default_rng(0).normal(size=(count, count)))[0]
