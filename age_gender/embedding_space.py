"""Which kind of embeddings a table holds: the subspace that one model's embeddings keep to.

FaceNet's embeddings lie in about 100 of their 512 dimensions; those of another model, or with
their dimensions permuted, lie in others. The exported model tells from it who is a stranger.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from age_gender.cli import InputError, say

ENERGY = 0.999  # of the variance that the kept directions carry, at least
DIRECTIONS = 110  # kept at least, where there are faces enough (measured on UTKFace)
PROBES = 32  # directions outside the subspace in which an embedding is looked at
SMALLEST = 100  # rows of a part of a mixture that is recognized by itself
SAMPLE = 1000  # faces that the search for a mixture looks at
BLOCK = 1 << 16  # rows that are computed at a time
MOST = 100_000  # rows that a kind is measured on; with more of them, on every second or third ...
FEWEST = 4 * DIRECTIONS  # rows; the subspace of fewer holds too little of other faces of the kind
# Times the median of the training faces. The strangest of 13,233 LFW faces is at 6 times, and at
# 40 times an embedding was rounded so much (two decimals) that its age is ten years off.
LIMIT = 40


@dataclass(frozen=True)
class EmbeddingSpace:
    """What tells one kind of embedding from another, all for unit-length embeddings.

    A row is a stranger by what it has along the probes, where this kind has next to nothing and
    another a part of its length; and by its side of the normal, which tells it from its negative.
    """

    mean: np.ndarray  # (W,)
    axes: np.ndarray  # (W, W), the principal axes as columns
    deviations: np.ndarray  # (W,), along the axes, falling
    count: int  # of the axes, from the first, that span the subspace
    probes: np.ndarray  # (W, k), directions outside it, drawn at random
    off: float  # the square of what a row has along the probes beyond which it is a stranger
    normal: np.ndarray  # (W,), where this kind projects positively; -1 is the limit; or zeros
    effective_rank: float

    def distance(self, features: np.ndarray) -> np.ndarray:
        """How strange each row of unit-length features (n, W) is: (n,), over 1 a stranger."""
        outside = (((features - self.mean) @ self.probes) ** 2).sum(axis=1)
        return np.maximum(outside / self.off, -(features @ self.normal))


def examine(
    features: np.ndarray, names: Sequence[str], source: str, heading: str
) -> tuple[np.ndarray, EmbeddingSpace]:
    """Features (n, W) at unit length, and their kind, which it says in one line after a heading.

    Raises InputError where the table `source` holds two kinds; it names a row of the smaller.
    """
    rows = unit(features)
    kind = measure(rows)
    lengths = np.sqrt(np.einsum("ij,ij->i", features, features))
    length = f"lengths {lengths.min():.3g} to {lengths.max():.3g}"
    if np.allclose(lengths, 1, atol=0.01):
        length = "unit length"
    text = f"{features.shape[1]} dimensions, {length}, effective rank {kind.effective_rank:.0f}"
    if np.isinf(kind.off):
        text += "; too few, too varied or too narrow to tell other embeddings by"
    say(heading + text)
    if parts := mixture(rows, kind):
        raise InputError(
            f"{source}: two kinds of embeddings, {len(parts[0])} rows, and at least "
            f"{len(parts[1])} in another subspace (the first is {names[parts[1][0]]}); "
            "embed all with one model"
        )
    return rows, kind


def unit(features: np.ndarray) -> np.ndarray:
    """Features scaled to unit length, whatever their length: float32 (n, W)."""
    units = np.empty(features.shape, np.float32)
    for start in range(0, len(features), BLOCK):
        rows = features[start : start + BLOCK]
        rows = rows / np.abs(rows).max(axis=1, keepdims=True)
        units[start : start + BLOCK] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units


def measure(features: np.ndarray, fewest: int = FEWEST, limit: float = LIMIT) -> EmbeddingSpace:
    """The kind of unit-length features (n, W); of fewer than `fewest` it tells no stranger."""
    features = features[:: -(-len(features) // MOST)]
    mean = features.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov((features - mean).T, ddof=0))
    variances, axes = np.maximum(variances[::-1], 0), axes[:, ::-1]
    share = variances / max(variances.sum(), 1e-12)
    rank = float(np.exp(-(share * np.log(share + 1e-12)).sum()))  # Roy & Vetterli, 2007
    enough = int(np.searchsorted(np.cumsum(share), ENERGY)) + 1
    count = min(max(enough, DIRECTIONS), len(features) // 4 + 1, features.shape[1])
    axes, deviations = axes.astype(np.float32), np.sqrt(variances).astype(np.float32)
    outside = axes[:, count:]
    mixing = np.random.default_rng(0).normal(size=(outside.shape[1], PROBES))
    probes = (outside @ np.linalg.qr(mixing)[0]).astype(np.float32)
    off, normal = np.inf, np.zeros_like(mean)
    if len(features) >= fewest:
        # Between what these faces have along the probes and what a stranger has, whose directions
        # are as good as random, so that each probe has a W-th of its energy. Medians, as a few
        # strangers may be among the faces.
        own = np.median((((features - mean) @ probes) ** 2).sum(axis=1))
        own = max(float(own), 1e-9)
        stranger = probes.shape[1] / features.shape[1] * variances.sum()
        if stranger > 64 * own:
            off = min(float(np.sqrt(own * stranger)), limit * own)
        side = outside @ (outside.T @ mean)
        side = side / max(np.linalg.norm(side), 1e-12)
        low, length, high = np.quantile(features @ side, [0.16, 0.5, 0.84])
        if length > 2 * (high - low):  # the limit is a quarter of the way to the mean's negative
            normal = (side / (0.25 * length)).astype(np.float32)
    return EmbeddingSpace(mean, axes, deviations, count, probes, off, normal, rank)


def mixture(features: np.ndarray, kind: EmbeddingSpace) -> list[np.ndarray] | None:
    """Places of two kinds of unit-length embeddings in one table, larger first, or None.

    They are two kinds where some rows are strange to the subspace of others: 10 rows and 1 in
    1,000 at least. `kind` is what was measured on all: it tells a few strangers. Many are found
    by what grows from a few rows of a sample of SAMPLE.
    """
    random = np.random.default_rng(0)
    sample = features[random.permutation(len(features))[:SAMPLE]]
    rows = np.unique(sample, axis=0)  # copies would be a subspace of their own
    kinds = [kind]
    for start in random.permutation(len(rows))[:5]:
        part = _same_subspace(rows, start)
        if part.sum() >= SMALLEST:
            found = replace(measure(rows[part], SMALLEST, np.inf), normal=0 * kind.normal)
            strange = found.distance(rows[~part]) > 1
            if len(strange) < 10 or strange.mean() > 0.5:
                kinds.append(found)
        if part.mean() > 0.99:  # they all share one
            break
    for found in kinds:
        strange = found.distance(features) > 1
        if strange.sum() >= max(10, len(features) / 1000):
            parts = np.flatnonzero(~strange), np.flatnonzero(strange)
            return sorted(parts, key=len, reverse=True)
    return None


def _same_subspace(rows: np.ndarray, start: int) -> np.ndarray:
    """Which rows lie in the subspace that grows from one row and its nearest neighbours."""
    similarity = (rows @ rows[start]) ** 2
    part = similarity >= np.sort(similarity)[-min(150, len(rows) // 4 + 1)]
    for share in (0.5, 0.7, 0.9, 0.9):
        if part.sum() < SMALLEST // 2:
            break
        centred = rows - rows[part].mean(axis=0)
        count = min(DIRECTIONS, part.sum() // 4)
        directions = np.linalg.svd(centred[part], full_matrices=False)[2][:count]
        inside = ((centred @ directions.T) ** 2).sum(axis=1)
        part = inside > share * (centred**2).sum(axis=1)  # a stranger has count / W inside
    return part
