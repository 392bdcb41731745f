"""Measure a model on coarsely stored and on out-of-distribution embeddings."""

from collections.abc import Callable

import numpy as np

from age_gender.embedding_space import is_out_of_distribution
from age_gender.report import measurement


def quantise(features: np.ndarray) -> np.ndarray:
    """Return features (n, W) after storage as int8 with a scale for each vector."""
    scales = np.abs(features).max(axis=1, keepdims=True) / 127
    return np.rint(features / scales) * scales


# Ways of storing embeddings, as functions of features (n, W)
STORAGE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": np.asarray,
    "float16": lambda features: features.astype(np.float16),
    "three decimals": lambda features: features.round(3),
    "two decimals": lambda features: features.round(2),
    "int8, a scale for each vector": quantise,
}


def permute(features: np.ndarray) -> np.ndarray:
    """Return features (n, W) with their numbers in another order, as if of another network."""
    return features[:, np.random.default_rng(0).permutation(features.shape[1])]


def random_like(features: np.ndarray) -> np.ndarray:
    """Return random directions, float32 (n, W)."""
    return np.random.default_rng(0).standard_normal(features.shape, np.float32)


# Functions that turn features (n, W) into embeddings that are not of their network.
OUT_OF_DISTRIBUTION_SAMPLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "their numbers permuted": permute,
    "negated": np.negative,
    "random vectors": random_like,
}


def measure(features: np.ndarray, labels_and_names: tuple, score_by_name: Callable) -> dict:
    """Return the measures of coarsely stored embeddings, and how many others are refused.

    For each STORAGE: the measures of the faces and the fraction refused. For each of
    OUT_OF_DISTRIBUTION_SAMPLES: the fraction refused. `score_by_name` returns the exported model's
    scores of features, float32 (n, W); `labels_and_names` are the first three arguments of
    tabulate_faces.
    """

    def fraction_refused(scores: dict[str, np.ndarray]) -> float:
        return measurement.round_figure(is_out_of_distribution(scores["distance"]).mean())

    by_storage = []
    for name, store in STORAGE.items():
        stored = np.float32(store(features))
        scores = score_by_name(np.where(stored.any(axis=1, keepdims=True), stored, features))
        row = measurement.measure_variant(
            name, measurement.tabulate_faces(*labels_and_names, scores)
        )
        by_storage.append(row | {"refused": fraction_refused(scores)})
    return {
        "dimensions": features.shape[1],
        "by_storage": by_storage,
        "others_refused": {
            name: fraction_refused(score_by_name(np.float32(sample(features))))
            for name, sample in OUT_OF_DISTRIBUTION_SAMPLES.items()
        },
    }
