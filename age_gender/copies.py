"""Find near-duplicates: embeddings so similar that they come from one photograph."""

import numpy as np
from tqdm import tqdm

COPY = 0.98  # cosine above which two embeddings are of the same face in the same photograph
PREFILTER_COMPONENTS = 48  # principal components in which pairs are filtered first
QUERY_ROWS, FACE_ROWS = 1024, 4096  # of a tile, which is compared at a time
SAMPLE_ROWS = 4096  # faces that the components are computed from
MAX_LINKS = 100_000  # pairs that are kept before groups are merged


def find_copies(unit: np.ndarray, faces: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return a group number for each row of unit-length features (n, W): copies share one, (n,).

    Groups are the connected components of the pairs of `queries` and `faces` (row numbers, the
    first among the second) whose cosine is above COPY. That is a distance under sqrt(2 (1 - COPY)),
    which along any few directions can only be smaller: a window of the first principal component,
    and then the distance in PREFILTER_COMPONENTS of them, leave few pairs to be compared in full,
    and lose none. Memory stays bounded whatever the number of copies.
    """
    from scipy.sparse import coo_array  # SciPy comes with scikit-learn
    from scipy.sparse.csgraph import connected_components

    # Sort along the first component
    components = _leading_components(unit, faces)
    order = np.argsort(components[:, 0], kind="stable")
    faces, components = faces[order], components[order]
    radius = np.sqrt(2 * (1 - COPY)) + 1e-4  # room for float32
    first = components[:, 0]
    query_indices = np.flatnonzero(np.isin(faces, queries))

    # Distances by one matrix product: query_rows @ face_rows.T is minus half of their squares
    halves = (components**2).sum(axis=1, keepdims=True) / 2
    query_rows = np.hstack([components, np.ones_like(halves), -halves])
    face_rows = np.ascontiguousarray(np.hstack([components, -halves, np.ones_like(halves)]))

    # Merge groups that a pair links
    group, links = np.arange(len(unit)), []

    def merge() -> np.ndarray:
        pairs = np.concatenate([np.empty((2, 0), int), *links], axis=1)
        links.clear()
        edges = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(len(unit), len(unit)))
        return connected_components(edges, directed=False)[1][group]

    # Compare tile by tile
    tiles = range(0, len(query_indices), QUERY_ROWS)
    for tile in tqdm(tiles, "copies", unit="tile", disable=None):
        at = query_indices[tile : tile + QUERY_ROWS]
        start, end = np.searchsorted(first, [first[at[0]] - radius, first[at[-1]] + radius])
        if len(query_indices) == len(faces):
            start = tile  # those before it have been compared with these
        for begin in range(start, end, FACE_ROWS):
            among = slice(begin, min(begin + FACE_ROWS, end))
            near = (query_rows[at] @ face_rows[among].T > -(radius**2) / 2).ravel()
            query, face = np.divmod(np.flatnonzero(near), among.stop - begin)
            pairs = np.array([faces[at[query]], faces[among][face]])
            pairs = pairs[:, group[pairs[0]] != group[pairs[1]]]
            links.append(group[_above_limit(unit, pairs)])
            if sum(part.shape[1] for part in links) > MAX_LINKS:
                group = merge()
    return merge()


def _leading_components(unit: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the leading principal components of the faces: (len(faces), k)."""
    from sklearn.decomposition import PCA

    sample = unit[faces[:: -(-len(faces) // SAMPLE_ROWS)]]
    count = min(PREFILTER_COMPONENTS, *sample.shape)
    axes = (
        PCA(count, svd_solver="randomized", iterated_power=1, random_state=0)
        .fit(sample)
        .components_
    )
    parts = [unit[faces[i : i + SAMPLE_ROWS]] @ axes.T for i in range(0, len(faces), SAMPLE_ROWS)]
    return np.concatenate(parts)


def _above_limit(unit: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return those of the pairs of rows (2, k) whose cosine is above COPY."""
    (first, first_index), (second, second_index) = (
        np.unique(rows, return_inverse=True) for rows in pairs
    )
    cosines = unit[first] @ unit[second].T
    return pairs[:, cosines[first_index, second_index] > COPY]
