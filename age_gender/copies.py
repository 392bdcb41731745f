"""Find near-duplicates: embeddings so similar that they come from one photograph."""

import numpy as np
from tqdm import tqdm

from age_gender.embedding_space import thin
from age_gender.errors import InputError

MIN_COSINE = 0.98  # cosine above which two embeddings are of one face in one photograph
PREFILTER_COMPONENTS = 48  # principal components in which pairs are filtered first
TILE_QUERIES, TILE_FACES = 1024, 4096  # rows that are compared by one matrix product
SAMPLE_ROWS = 4096  # faces that the components are computed from
MAX_LINKS = 100_000  # linked pairs in memory, after which groups are merged


def find_copies(unit_features: np.ndarray, faces: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return a group number for each row of unit-length features (n, W), shared by copies: (n,).

    Groups are the connected components of the pairs of `queries` and `faces` (row numbers, the
    first among the second) whose cosine is above MIN_COSINE. Their distance is then below
    sqrt(2 (1 - MIN_COSINE)), and along any few directions it is even smaller: a window of the first
    principal component, and the distance in PREFILTER_COMPONENTS of them, leave few pairs to be
    compared in full, and lose none. Memory stays bounded whatever the number of copies.
    """
    # Sort along the first component
    components = _leading_components(unit_features, faces)
    order = np.argsort(components[:, 0], kind="stable")
    faces, components = faces[order], components[order]
    radius = np.sqrt(2 * (1 - MIN_COSINE)) + 1e-4  # room for float32
    first = components[:, 0]
    query_indices = np.flatnonzero(np.isin(faces, queries))

    # Prepare distances by one matrix product: query_rows @ face_rows.T is minus half their squares
    halves = (components**2).sum(axis=1, keepdims=True) / 2
    query_rows = np.hstack([components, np.ones_like(halves), -halves])
    face_rows = np.ascontiguousarray(np.hstack([components, -halves, np.ones_like(halves)]))

    # Compare tile by tile
    group, links = np.arange(len(unit_features)), []
    tiles = range(0, len(query_indices), TILE_QUERIES)
    for tile in tqdm(tiles, "copies", unit="tile", disable=None):
        rows = query_indices[tile : tile + TILE_QUERIES]
        start, end = np.searchsorted(first, [first[rows[0]] - radius, first[rows[-1]] + radius])
        if len(query_indices) == len(faces):
            start = tile  # earlier faces have been compared with these
        for begin in range(start, end, TILE_FACES):
            others = slice(begin, min(begin + TILE_FACES, end))
            is_near = (query_rows[rows] @ face_rows[others].T > -(radius**2) / 2).ravel()
            query, face = np.divmod(np.flatnonzero(is_near), others.stop - begin)
            pairs = np.array([faces[rows[query]], faces[others][face]])
            pairs = pairs[:, group[pairs[0]] != group[pairs[1]]]
            links.append(group[_above_limit(unit_features, pairs)])
            if sum(linked.shape[1] for linked in links) > MAX_LINKS:
                group, links = _merge(group, links), []
    return _merge(group, links)


def _merge(group: np.ndarray, links: list[np.ndarray]) -> np.ndarray:
    """Return the group of each row (n,) after merging the groups that pairs (2, k) link."""
    from scipy.sparse import coo_array  # SciPy comes with scikit-learn
    from scipy.sparse.csgraph import connected_components

    pairs = np.concatenate([np.empty((2, 0), int), *links], axis=1)
    edges = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(len(group), len(group)))
    return connected_components(edges, directed=False)[1][group]


def _leading_components(unit_features: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the leading principal components of the faces: (len(faces), k)."""
    from sklearn.decomposition import PCA

    sample = unit_features[thin(faces, SAMPLE_ROWS)]
    count = min(PREFILTER_COMPONENTS, *sample.shape)
    pca = PCA(count, svd_solver="randomized", iterated_power=1, random_state=0).fit(sample)
    blocks = (faces[start : start + SAMPLE_ROWS] for start in range(0, len(faces), SAMPLE_ROWS))
    return np.concatenate([unit_features[block] @ pca.components_.T for block in blocks])


def _above_limit(unit_features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return those of the pairs of rows (2, k) whose cosine is above MIN_COSINE."""
    (first, first_index), (second, second_index) = (
        np.unique(rows, return_inverse=True) for rows in pairs
    )
    cosines = unit_features[first] @ unit_features[second].T
    return pairs[:, cosines[first_index, second_index] > MIN_COSINE]


def choose_whole_groups(shuffled: np.ndarray, group: np.ndarray, size: int) -> np.ndarray:
    """Return `size` faces for the test: the first whose groups of copies fit in whole.

    Raises InputError where these are too few.
    """
    members: dict[int, list[int]] = {}
    for face in shuffled.tolist():
        members.setdefault(group[face], []).append(face)
    test: list[int] = []
    for group_members in members.values():  # in the order of their first member
        if len(test) + len(group_members) <= size:
            test += group_members
    if len(test) < size:
        raise InputError(
            f"--test-size {size} cannot be filled with whole groups of copies; choose another "
            "size, or --split random"
        )
    return np.array(test)
