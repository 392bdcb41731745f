"""Copies of a face: embeddings so alike that they were made of one photograph."""

import numpy as np
from tqdm import tqdm

COPY = 0.98  # cosine above which two embeddings are of the same face in the same photograph
COMPONENTS = 48  # of which the distance is looked at first
QUERIES, FACES = 1024, 4096  # compared at a time
SAMPLE = 4096  # faces that the components are computed from
LINKS = 100_000  # pairs that are remembered before groups are merged


def find_copies(unit: np.ndarray, faces: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return a group number for each row of unit-length features (n, W): copies share one, (n,).

    Groups are the connected components of the pairs of `queries` and `faces` (row numbers, the
    first among the second) whose cosine is above COPY. That is a distance under sqrt(2 (1 - COPY)),
    which along any few directions can only be smaller: a window of the first principal component
    and then the distance in COMPONENTS of them leave few pairs to be compared in whole, and lose
    none. Memory stays bounded whatever the number of copies.
    """
    from scipy.sparse import coo_array  # SciPy comes with scikit-learn
    from scipy.sparse.csgraph import connected_components

    components = _leading_components(unit, faces)
    order = np.argsort(components[:, 0], kind="stable")
    faces, components = faces[order], components[order]
    radius = np.sqrt(2 * (1 - COPY)) + 1e-4  # room for float32
    # Of two faces, left @ right is minus half of the square of their distance.
    halves = (components**2).sum(axis=1, keepdims=True) / 2
    left = np.hstack([components, np.ones_like(halves), -halves])
    right = np.ascontiguousarray(np.hstack([components, -halves, np.ones_like(halves)]))
    first = components[:, 0]
    places = np.flatnonzero(np.isin(faces, queries))

    group, links = np.arange(len(unit)), []

    def merge() -> np.ndarray:
        pairs = np.concatenate([np.empty((2, 0), int), *links], axis=1)
        links.clear()
        edges = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(len(unit), len(unit)))
        return connected_components(edges, directed=False)[1][group]

    for tile in tqdm(range(0, len(places), QUERIES), "copies", unit="block", disable=None):
        at = places[tile : tile + QUERIES]
        start, end = np.searchsorted(first, [first[at[0]] - radius, first[at[-1]] + radius])
        if len(places) == len(faces):
            start = tile  # those before it have been compared with these
        for begin in range(start, end, FACES):
            among = slice(begin, min(begin + FACES, end))
            near = (left[at] @ right[among].T > -(radius**2) / 2).ravel()
            query, face = np.divmod(np.flatnonzero(near), among.stop - begin)
            pairs = np.array([faces[at[query]], faces[among][face]])
            pairs = pairs[:, group[pairs[0]] != group[pairs[1]]]
            links.append(group[_above_limit(unit, pairs)])
            if sum(part.shape[1] for part in links) > LINKS:
                group = merge()
    return merge()


def _leading_components(unit: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the first principal components, about COMPONENTS, of the faces: (len(faces), k)."""
    from sklearn.decomposition import PCA

    sample = unit[faces[:: -(-len(faces) // SAMPLE)]]
    count = min(COMPONENTS, *sample.shape)
    axes = (
        PCA(count, svd_solver="randomized", iterated_power=1, random_state=0)
        .fit(sample)
        .components_
    )
    parts = [unit[faces[i : i + SAMPLE]] @ axes.T for i in range(0, len(faces), SAMPLE)]
    return np.concatenate(parts)


def _above_limit(unit: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return those of the pairs of rows (2, k) whose cosine is above COPY."""
    (left, left_place), (right, right_place) = (np.unique(p, return_inverse=True) for p in pairs)
    cosines = unit[left] @ unit[right].T
    return pairs[:, cosines[left_place, right_place] > COPY]
