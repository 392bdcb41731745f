"""Find near-duplicates: embeddings so similar that they come from one photograph."""

import numpy as np
from tqdm import tqdm

from age_gender.embeddings import subsample
from age_gender.errors import InputError

MIN_COSINE = 0.98  # two embeddings with a greater cosine are of one face in one photograph
PREFILTER_COMPONENTS = 48  # principal components in which pairs are filtered first
TILE_QUERIES, TILE_FACES = 1024, 4096  # rows that are compared by one matrix product
PCA_ROWS = 4096  # faces that the components are computed from
MAX_LINKS = 100_000  # linked pairs in memory above which groups are merged


def group_near_duplicates(
    unit_features: np.ndarray, face_rows: np.ndarray, query_rows: np.ndarray
) -> np.ndarray:
    """Return each row's group of near-duplicates, as a number (n,); features are (n, W).

    A query and a face (row numbers; queries are among the faces) are linked if their cosine is
    above MIN_COSINE, that is, their distance below sqrt(2 (1 - MIN_COSINE)); groups are the
    connected components. Pairs are filtered by that distance along the first principal component,
    then in PREFILTER_COMPONENTS of them. A projection shortens distances, so no pair is lost.
    Memory is bounded however many pairs are linked.
    """
    # Sort along the first component
    components = _leading_components(unit_features, face_rows)
    order = np.argsort(components[:, 0], kind="stable")
    face_rows, components = face_rows[order], components[order]
    radius = np.sqrt(2 * (1 - MIN_COSINE)) + 1e-4  # room for float32
    first = components[:, 0]
    query_indices = np.flatnonzero(np.isin(face_rows, query_rows))

    # Factors whose product, query_factors @ face_factors.T, is minus half the squared distances
    halves = (components**2).sum(axis=1, keepdims=True) / 2
    query_factors = np.hstack([components, np.ones_like(halves), -halves])
    face_factors = np.ascontiguousarray(np.hstack([components, -halves, np.ones_like(halves)]))

    # Compare tile by tile
    duplicate_group, links = np.arange(len(unit_features)), []
    tiles = range(0, len(query_indices), TILE_QUERIES)
    for tile in tqdm(tiles, "near-duplicates", unit="tile", disable=None):
        rows = query_indices[tile : tile + TILE_QUERIES]
        start, end = np.searchsorted(first, [first[rows[0]] - radius, first[rows[-1]] + radius])
        if len(query_indices) == len(face_rows):
            start = tile  # earlier faces have been compared with these
        for begin in range(start, end, TILE_FACES):
            others = slice(begin, min(begin + TILE_FACES, end))
            is_near = (query_factors[rows] @ face_factors[others].T > -(radius**2) / 2).ravel()
            query, face = np.divmod(np.flatnonzero(is_near), others.stop - begin)
            pairs = np.array([face_rows[rows[query]], face_rows[others][face]])
            pairs = pairs[:, duplicate_group[pairs[0]] != duplicate_group[pairs[1]]]
            links.append(duplicate_group[_select_similar(unit_features, pairs)])
            if sum(linked.shape[1] for linked in links) > MAX_LINKS:
                duplicate_group, links = _merge(duplicate_group, links), []
    return _merge(duplicate_group, links)


def _merge(group: np.ndarray, links: list[np.ndarray]) -> np.ndarray:
    """Return the group of each row (n,) after merging the groups that pairs (2, k) link."""
    from scipy.sparse import coo_array  # SciPy comes with scikit-learn
    from scipy.sparse.csgraph import connected_components

    pairs = np.concatenate([np.empty((2, 0), int), *links], axis=1)
    edges = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(len(group), len(group)))
    return connected_components(edges, directed=False)[1][group]


def _leading_components(unit_features: np.ndarray, face_rows: np.ndarray) -> np.ndarray:
    """Return the leading principal components of the faces: (len(face_rows), k)."""
    from sklearn.decomposition import PCA

    sample = unit_features[subsample(face_rows, PCA_ROWS)]
    count = min(PREFILTER_COMPONENTS, *sample.shape)
    pca = PCA(count, svd_solver="randomized", iterated_power=1, random_state=0).fit(sample)
    blocks = (face_rows[start : start + PCA_ROWS] for start in range(0, len(face_rows), PCA_ROWS))
    return np.concatenate([unit_features[block] @ pca.components_.T for block in blocks])


def _select_similar(unit_features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return those of the pairs of rows (2, k) whose cosine is above MIN_COSINE."""
    (first, first_index), (second, second_index) = (
        np.unique(rows, return_inverse=True) for rows in pairs
    )
    cosines = unit_features[first] @ unit_features[second].T
    return pairs[:, cosines[first_index, second_index] > MIN_COSINE]


def choose_whole_groups(shuffled: np.ndarray, duplicate_group: np.ndarray, size: int) -> np.ndarray:
    """Return `size` faces for the test: whole duplicate groups, in the order of `shuffled`.

    Groups that do not fit are passed over. Raises InputError where the others are too few.
    """
    members: dict[int, list[int]] = {}
    for face in shuffled.tolist():
        members.setdefault(duplicate_group[face], []).append(face)
    test: list[int] = []
    for group_members in members.values():  # in the order of their first member
        if len(test) + len(group_members) <= size:
            test += group_members
    if len(test) < size:
        raise InputError(
            f"--test-size {size} cannot be filled with whole groups of near-duplicates; choose "
            "another size, or --split random"
        )
    return np.array(test)
