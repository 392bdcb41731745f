"""Define the limits of an embedding's width and numbers; scale and subsample embeddings."""

import numpy as np

MIN_WIDTH, MAX_WIDTH = 16, 4096  # bounds of an embedding's width where no model sets it
MIN_MAGNITUDE = 1e-37  # float32 loses accuracy below this magnitude
BLOCK_ROWS = 1 << 16  # rows that `to_unit_length` scales at a time, to bound memory


def to_unit_length(features: np.ndarray) -> np.ndarray:
    """Return features scaled to unit length, whatever their length: float32 (n, W)."""
    units = np.empty(features.shape, np.float32)
    for start in range(0, len(features), BLOCK_ROWS):
        rows = features[start : start + BLOCK_ROWS]
        rows = rows / np.abs(rows).max(axis=1, keepdims=True)  # so that squares do not overflow
        units[start : start + BLOCK_ROWS] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units


def median_norm(features: np.ndarray) -> float:
    """Return the median Euclidean norm of features (n, W)."""
    return float(np.median(np.sqrt(np.einsum("ij,ij->i", features, features))))


def subsample(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the rows, evenly spaced."""
    return rows[:: -(-len(rows) // most) or 1]


def fast_median(values: np.ndarray) -> float:
    """Return the (upper) median of values (n,), without numpy.ma, which np.median imports.

    That import takes 17 ms of run.py's start.
    """
    return float(np.sort(values)[len(values) // 2])
