"""Model what cropping does to an embedding: a linear map plus Gaussian noise, fitted on views.

Each face-recognition pipeline crops faces out of photographs in its own way, and each gives another
embedding of the same face. For FaceNet it is nearly a linear map of the plain crop's embedding plus
Gaussian noise. train.py augments faces by these maps and noise, so that a network learns every
crop.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender import files
from age_gender.embedding_space import EmbeddingSpace, is_out_of_distribution
from age_gender.embeddings import to_unit_length
from age_gender.errors import InputError, is_resource_shortage, printable
from age_gender.labels import base_name
from age_gender.readers import numpy_files

RIDGE = 0.03  # ridge penalty, as a fraction of the components' mean square
MIN_FACES = 200  # maps fitted on fewer faces do not generalise
SECOND_CROP_FRACTION = 0.5  # fraction of the augmented faces that go through a second crop


class UnusableViews(Exception):
    """Raised when no maps can be fitted on views; the message says why."""


class Views(NamedTuple):
    """Hold augmented views: N faces, each embedded through C crops, the plain one first."""

    names: list[str]  # (N,)
    crops: list[str]  # (C,)
    embeddings: np.ndarray  # (N, C, W) of unit length


class CropMaps(NamedTuple):
    """Hold the map of components (n, k) by each crop but the plain one; M = C - 1 crops.

    A plain crop's components x become x @ matrices[c] + offsets[c] + z @ noise_factors[c], where
    z is normal and the factors are the Cholesky factors of the noise's covariance.
    """

    matrices: np.ndarray  # (M, k, k)
    offsets: np.ndarray  # (M, k)
    noise_factors: np.ndarray  # (M, k, k)


def read_views(path: Path) -> Views:
    """Return the views in an NPZ of `embed.py --views`.

    Raises InputError for another file, OSError for one that cannot be read.
    """
    open(path, "rb").close()  # raises OSError if it is missing or may not be read
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names, crops = (_texts(arrays[key]) for key in ("filenames", "crops"))
            embeddings = arrays["embeddings"].astype(np.float32)
            if embeddings.shape[:2] == (len(names), len(crops)) and np.isfinite(embeddings).all():
                rows = to_unit_length(embeddings.reshape(-1, embeddings.shape[-1]))
                crops = [*map(printable, crops)]  # they are printed
                return Views(names, crops, rows.reshape(embeddings.shape))
    except Exception as error:  # zipfile, zlib and NumPy raise many types
        if is_resource_shortage(error):
            raise
    raise InputError(
        f"{path}: not a file of augmented views: needs filenames (N,), crops (C,) and finite "
        f"embeddings (N, C, W); write it with: python embed.py --images CHIPS "
        f"--aligned --views --output {path.name}"
    )


def write_views(
    path: Path, names: list[str], crops: Iterable[str], blocks: Iterable[np.ndarray]
) -> None:
    """Write the views that `read_views` reads.

    `blocks` are embeddings (n, crops, width) of the names, in their order.
    """
    embeddings = np.concatenate([block.astype(np.float16) for block in blocks])
    with files.atomic_file(path) as stream:
        np.savez_compressed(stream, filenames=names, crops=crops, embeddings=embeddings)


def _texts(values: np.ndarray) -> list[str]:
    """Return an array (n,) of texts as a list. Raises ValueError where it holds anything else."""
    if values.ndim != 1 or values.dtype.kind not in "US":
        raise ValueError("not a list of texts")
    texts = numpy_files.to_texts(values)
    "".join(texts).encode()  # raises UnicodeEncodeError for a lone surrogate
    return texts


def select_training_views(
    path: Path, space: EmbeddingSpace, names: list[str], is_held_out: np.ndarray
) -> np.ndarray:
    """Return the views (N, C, W) in a file to fit maps on.

    They are those of the records' faces `names` (n,) that are not held out, so that maps are never
    fitted on held-out faces; all in the file where the records have none of its faces. `space` is
    that of the records. Raises UnusableViews for views of another network, or of too few faces.
    """
    # Check their network
    views = read_views(path)
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

    `views` (N, C, k) are principal components as the network reads them. In maps fitted on the
    embeddings themselves, large components would dominate the age information in small ones (0.02
    to 0.04 years on crops that were not fitted).
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
