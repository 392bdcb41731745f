"""Model a network's embedding space and detect embeddings of any other network.

The embeddings of one network keep to a part of the unit sphere: along some directions they vary
more than random vectors do, along others, often more than half of all, hardly at all. A
single row suffices to decide whether it lies there. Its components along the empty directions show
how coarsely it was rounded.
"""

from dataclasses import dataclass, replace

import numpy as np

THREE_DECIMALS = 1e-3 / 12**0.5  # standard deviation that rounding to them adds to a number
FLOAT16 = 2e-4  # the same of half precision, as a fraction of the number
# A principal component is kept if its deviation is over this many times what storage adds. Chosen
# on held-out training records. FaceNet's ages are 0.02 years worse with 0.75 than with all of them,
# with 1 0.03 (mean of three seeds), and rounded to three decimals 0.04 years instead of 0.09; below
# 0.85 dlib's 81st component is kept, which two decimals blow up.
CLEARANCE = 0.9
DISTANCE_LIMIT = 1.0  # the `distance` above which a row is out of distribution
DIRECTIONS = 24  # along which a row is tested
ROUNDING_DIRECTIONS = 8  # along which it shows how coarsely it was rounded
FLOOR = 0.02  # added to variances, of which a random vector's is 1, so that rounding is no matter
QUIET = 0.1  # times the floor: the variance below which an axis counts as empty
MIRROR_FLOOR = 5e-4  # the same where a row is told from its negative
MIRROR_LIMIT = 0.25  # how far a row may lie on the negative's side; the negated mean lies at 1
MIRROR_SEPARATION = 25  # squared deviations from the mean to its negative's side, at least
MAX_ROWS = 100_000  # that a space is fitted on; of more, every second or third ...
MIN_ROWS = 200  # that a space is fitted on; with fewer it rejects faces of its own network
FOLDS = 5
MAX_ERROR_RATE = 0.001  # error rate above which single rows cannot be judged
BLOCK_ROWS = 1 << 16  # that are scaled at a time


@dataclass(frozen=True)
class EmbeddingSpace:
    """Describe one network's unit-length embeddings by a Gaussian, and test others against it.

    `directions` are those in which the variance differs most from a random vector's, and then
    those that hold nothing but what rounding adds; `variances` are along the former.
    """

    mean: np.ndarray  # (W,)
    axes: np.ndarray  # (W, W), the principal axes as columns
    deviations: np.ndarray  # (W,), along the axes, falling
    components: int  # how many axes, from the first, hold more than storage adds
    directions: np.ndarray  # (W, D + E)
    variances: np.ndarray  # (D,), along the first, where a random vector's is 1; FLOOR included
    mirror: np.ndarray  # (W,), along which the mean lies at -1 and its negative at 1
    nearest: float  # the least log-likelihood ratio of the training rows, below 0
    effective_rank: float
    false_rejection_rate: float = 0.0  # of held-out training rows
    false_acceptance_rate: float = 0.0  # of random vectors

    @property
    def detects_single_rows(self) -> bool:
        """Return whether a single row suffices to detect an embedding of another network."""
        return max(self.false_rejection_rate, self.false_acceptance_rate) <= MAX_ERROR_RATE

    def distance(self, rows: np.ndarray) -> np.ndarray:
        """Return how far unit-length rows (n, W) lie from this space: (n,), over 1 outside it.

        It is linear in the logarithm of how much likelier a random direction is than this space:
        0 for the nearest training row, 1 where both are equally likely. A row on the side of the
        negated embeddings is as far as it lies there. 1 for
        all rows where single rows cannot be judged.
        """
        if not self.detects_single_rows:
            return np.ones(len(rows), np.float32)
        mirrored = rows @ self.mirror / MIRROR_LIMIT
        return np.maximum(np.maximum(1 - self.likelihood_ratio(rows) / self.nearest, mirrored), 0)

    def likelihood_ratio(self, rows: np.ndarray) -> np.ndarray:
        """Return the logarithm (n,) of how much likelier a random direction is than this space."""
        tested = np.sqrt(len(self.mean)) * self.directions[:, : len(self.variances)]
        along = rows @ tested
        centred = along - self.mean @ tested
        return 0.5 * (centred**2 / self.variances + np.log(self.variances) - along**2).sum(axis=1)

    def rounding_deviation(self, rows: np.ndarray) -> np.ndarray:
        """Return what unit-length rows (n, W) have along empty directions, as a deviation (n,).

        It is what rounding added to each number: 2.9e-4 for three decimals. 0 where no direction
        is empty.
        """
        empty = self.directions[:, len(self.variances) :]
        along = rows @ empty - self.mean @ empty
        return np.sqrt((along**2).sum(axis=1) / max(empty.shape[1], 1))


def is_out_of_distribution(distance: np.ndarray) -> np.ndarray:
    """Return which distances (n,) are those of out-of-distribution embeddings."""
    return distance > DISTANCE_LIMIT


def unit(features: np.ndarray) -> np.ndarray:
    """Return features scaled to unit length, whatever their length: float32 (n, W)."""
    units = np.empty(features.shape, np.float32)
    for start in range(0, len(features), BLOCK_ROWS):
        rows = features[start : start + BLOCK_ROWS]
        rows = rows / np.abs(rows).max(axis=1, keepdims=True)  # whose squares do not overflow
        units[start : start + BLOCK_ROWS] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units


def median_length(features: np.ndarray) -> float:
    """Return the median length of features (n, W)."""
    return float(np.median(np.sqrt(np.einsum("ij,ij->i", features, features))))


def storage_deviation(width: int, length: float) -> float:
    """Return what storage adds to each number of an embedding at unit length, as a deviation.

    That is float16 and three decimals, of numbers whose vector had this `length`, to a power of
    ten: lengths of 0.3 to 3 count as 1, to which many bring such embeddings.
    """
    return float(np.hypot(THREE_DECIMALS / 10 ** round(np.log10(length)), FLOAT16 / width**0.5))


def fit(rows: np.ndarray, length: float = 1.0, folds: int = FOLDS) -> EmbeddingSpace:
    """Fit the embedding space of unit-length rows (n, W), plain and augmented views together.

    `length` is what they had before. Error rates are measured by cross-validation over `folds`,
    and on random vectors; without folds they are 0. Neighbouring rows may be views of one face,
    so that a fold is a run of rows.
    """
    rows = rows[:: -(-len(rows) // MAX_ROWS)]
    space = _fit(rows, length)
    if len(rows) < MIN_ROWS:
        return replace(space, false_rejection_rate=1.0)
    random = np.random.default_rng(0).standard_normal((4000, rows.shape[1]), dtype=np.float32)
    random = unit(random)
    rejected, accepted = [0.0], [0.0]
    for fold in np.array_split(np.arange(len(rows)), folds) if folds else ():
        space_without_fold = _fit(np.delete(rows, fold, axis=0), length)
        rejected.append(
            np.mean(is_out_of_distribution(space_without_fold.distance(rows[fold])))
            * len(fold)
            / len(rows)
        )
        accepted.append(
            np.mean(~is_out_of_distribution(space_without_fold.distance(random))) / folds
        )
    return replace(
        space, false_rejection_rate=float(sum(rejected)), false_acceptance_rate=float(sum(accepted))
    )


def _fit(rows: np.ndarray, length: float) -> EmbeddingSpace:
    """Return the embedding space of unit-length rows (n, W), without measuring its error rates."""
    width = rows.shape[1]
    # Principal axes, and how many of them hold more than storage adds.
    mean = rows.mean(axis=0)
    centred = rows - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(rows))
    variances, axes = np.maximum(variances[::-1], 0).astype(np.float64), axes[:, ::-1]
    clear = CLEARANCE * storage_deviation(width, length)
    components = max(1, int((np.sqrt(variances) > clear).sum()))

    # Axes that are empty but for chance are mixed at random: so each direction holds some of all,
    # and of whatever another network has there.
    spread, mixed = width * variances + FLOOR, axes.copy()
    quiet = np.flatnonzero(width * variances < QUIET * FLOOR)
    mixed[:, quiet] = axes[:, quiet] @ random_rotation(len(quiet))
    spread[quiet] = (width * variances[quiet]).mean() + FLOOR if len(quiet) else 0
    tested = np.argsort(-np.abs(np.log(spread)), kind="stable")[:DIRECTIONS]
    empty = axes[:, components:] @ random_rotation(width - components)[:, :ROUNDING_DIRECTIONS]

    # Fisher's linear discriminant between the space and its negative, where they do not overlap.
    mirror = -axes @ (axes.T @ mean / (width * variances + MIRROR_FLOOR))
    side = -mirror @ mean
    mirror = mirror / side if width * side > MIRROR_SEPARATION else 0 * mirror

    share = variances / max(variances.sum(), 1e-12)
    rank = float(np.exp(-(share * np.log(share + 1e-12)).sum()))  # Roy & Vetterli, 2007
    deviations, directions, spread, mirror = map(
        np.float32,
        (np.sqrt(variances), np.hstack([mixed[:, tested], empty]), spread[tested], mirror),
    )
    space = EmbeddingSpace(
        mean, np.float32(axes), deviations, components, directions, spread, mirror, -1.0, rank
    )
    return replace(space, nearest=float(min(space.likelihood_ratio(rows).min(), -1e-3)))


def random_rotation(count: int) -> np.ndarray:
    """Return an orthogonal matrix (count, count), the same every time."""
    return np.linalg.qr(np.random.default_rng(0).normal(size=(count, count)))[0]
