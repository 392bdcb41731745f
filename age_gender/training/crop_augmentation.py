"""Model how cropping changes an embedding: a linear map plus Gaussian noise, fitted on views.

Each face-recognition pipeline crops faces out of photographs in its own way, and each gives another
embedding of the same face. For FaceNet it is nearly a linear map of the plain crop's embedding plus
Gaussian noise. train.py augments faces by these maps and noise, so that a network learns every
crop.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender import view_files
from age_gender.embedding_space import EmbeddingSpace, is_out_of_distribution
from age_gender.files import base_name

RIDGE = 0.03  # ridge penalty, as a fraction of the components' mean square
MIN_FACES = 200  # maps fitted on fewer faces do not generalise
SECOND_CROP_FRACTION = 0.5  # fraction of the augmented faces that go through a second crop


class UnusableViews(Exception):
    """Raised when no maps can be fitted on views; the message says why."""


class CropMaps(NamedTuple):
    """Hold the map of components (n, k) by each crop but the plain one; M = C - 1 crops.

    A plain crop's components x become x @ matrices[c] + offsets[c] + z @ noise_factors[c], where
    z is normal and the factors are the Cholesky factors of the noise's covariance.
    """

    matrices: np.ndarray  # (M, k, k)
    offsets: np.ndarray  # (M, k)
    noise_factors: np.ndarray  # (M, k, k)


def select_training_views(
    path: Path, space: EmbeddingSpace, names: list[str], is_held_out: np.ndarray
) -> np.ndarray:
    """Return the views (N, C, W) in a file to fit maps on.

    `names` (n,) are the records' faces. Views of held-out faces, and of faces that the records
    lack, are left out; if the records have none of the file's faces, all its views are returned.
    `space` is that of the records. Raises UnusableViews for views of another network, or of too few
    faces.
    """
    # Check their network
    views = view_files.read_views(path)
    plain = views.embeddings[:, 0]
    has_other_width = plain.shape[1] != len(space.mean)
    if has_other_width or is_out_of_distribution(space.distance(plain)).mean() > 0.5:
        raise UnusableViews("was made by another network than the records")

    # Choose the training faces among them
    of_views, of_records = (
        np.array([base_name(name) for name in source]) for source in (views.names, names)
    )
    is_training = np.isin(of_views, of_records) & ~np.isin(of_views, of_records[is_held_out])
    if not np.isin(of_views, of_records).any():
        is_training[:] = True
    if is_training.sum() < MIN_FACES:
        raise UnusableViews(f"has {is_training.sum()} training faces, and {MIN_FACES} are needed")
    return views.embeddings[is_training]


def fit_crop_maps(views: np.ndarray) -> CropMaps:
    """Fit the maps from the first crop to each of the others, by ridge regression.

    `views` (N, C, k) are principal components as the network reads them. Maps fitted
    on the embeddings themselves would be dominated by the large components, although small ones
    carry age too: they were 0.02 to 0.04 years worse on crops that were not fitted.
    """
    # Solve the normal equations for all crops at once
    plain, others = views[:, 0].astype(np.float64), views[:, 1:].astype(np.float64)
    count, width = plain.shape
    mean, means = plain.mean(axis=0), others.mean(axis=0)
    centred = plain - mean
    gram = centred.T @ centred + RIDGE * count * np.square(centred).mean() * np.eye(width)
    targets = (others - means).transpose(1, 0, 2)
    matrices = np.linalg.solve(gram, centred.T @ targets)

    # Factor the covariance of the residual
    residual = targets - centred @ matrices
    covariance = residual.transpose(0, 2, 1) @ residual / count
    floor = 1e-9 * np.trace(covariance, axis1=1, axis2=2)[:, None, None] * np.eye(width)
    noise_factors = np.linalg.cholesky(covariance + floor).transpose(0, 2, 1)
    return CropMaps(*map(np.float32, (matrices, means - mean @ matrices, noise_factors)))


def augment(
    components: np.ndarray, crop_maps: CropMaps, random: np.random.Generator, fraction: float
) -> np.ndarray:
    """Return components (n, k), a `fraction` of them augmented by a random crop's map and noise.

    Of these, SECOND_CROP_FRACTION pass through a second crop, which imitates crops that no views
    show.
    """
    count, width = components.shape
    augmented, is_chosen = components.copy(), np.ones(count, bool)
    for probability in (fraction, SECOND_CROP_FRACTION):
        is_chosen &= random.random(count) < probability
        crop_of_face = np.where(is_chosen, random.integers(len(crop_maps.matrices), size=count), -1)
        for number, (matrix, offset, noise_factor) in enumerate(zip(*crop_maps, strict=True)):
            rows = np.flatnonzero(crop_of_face == number)
            noise = random.standard_normal((len(rows), width), dtype=np.float32)
            augmented[rows] = augmented[rows] @ matrix + offset + noise @ noise_factor
    return augmented
