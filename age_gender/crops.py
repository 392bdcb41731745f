"""What another crop of a face does to its embedding: a linear map and noise, fitted on views.

A face-recognition pipeline cuts faces out of photographs in its own way, and the same face gives
another embedding. To FaceNet that is nearly a linear map of the plain crop's embedding, and what
is left over is nearly Gaussian. train.py draws from both, so that a network learns every crop.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender import files
from age_gender.cli import InputError, display_path, is_machines, say
from age_gender.embedding_space import EmbeddingSpace, unit
from age_gender.labels import base_name
from age_gender.readers import numpy_files

RIDGE = 0.03  # of the mean square of the components on which the maps are fitted
FEWEST = 200  # faces that maps are fitted on; of fewer, they say too little of others
TWICE = 0.5  # of the faces that `draw` sends through a crop, the share that go through two


class Views(NamedTuple):
    """Names (N,), crops (C,), the plain one first, and unit-length embeddings (N, C, W)."""

    names: list[str]
    crops: list[str]
    embeddings: np.ndarray


class Maps(NamedTuple):
    """Of C crops: matrices (C, W, W), offsets (C, W) and roots of the noise (C, W, W).

    A plain embedding x through crop c is x @ matrices[c] + offsets[c] + z @ roots[c], z normal.
    """

    matrices: np.ndarray
    offsets: np.ndarray
    roots: np.ndarray

    def moved(self, kernel: np.ndarray, mean: np.ndarray) -> "Maps":
        """The same maps for (x - mean) @ kernel in place of x, kernel (W, W) of full rank."""
        kernel = kernel.astype(np.float64)
        matrices = np.linalg.inv(kernel) @ self.matrices @ kernel
        offsets = (mean @ self.matrices + self.offsets - mean) @ kernel
        return Maps(*map(np.float32, (matrices, offsets, self.roots @ kernel)))


def read(path: Path) -> Views:
    """The views in an NPZ of `embed.py --views`. InputError for another file, OSError for none."""
    open(path, "rb").close()  # whether it is there and may be read
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names, crops = (_texts(arrays[key]) for key in ("filenames", "crops"))
            embeddings = arrays["embeddings"].astype(np.float32)
            if embeddings.shape[:2] == (len(names), len(crops)) and np.isfinite(embeddings).all():
                rows = unit(embeddings.reshape(-1, embeddings.shape[-1]))
                return Views(names, crops, rows.reshape(embeddings.shape))
    except Exception as error:  # zipfile, zlib and NumPy raise many
        if is_machines(error):
            raise
    raise InputError(
        f"{path}: needs texts, filenames (N,) and crops (C,), and finite embeddings (N, C, W); "
        f"make it with: python embed.py --images CHIPS --aligned --views --output {path.name}"
    )


def write(path: Path, names: list[str], crops: Iterable[str], blocks: Iterable[np.ndarray]) -> None:
    """Write the views that `read` reads; `blocks` are embeddings (n, crops, width) of the names."""
    embeddings = np.concatenate([block.astype(np.float16) for block in blocks])
    with files.whole_file(path) as stream:
        np.savez_compressed(stream, filenames=names, crops=crops, embeddings=embeddings)


def _texts(values: np.ndarray) -> list[str]:
    """Return an array (n,) of texts as a list. Raises ValueError where it holds anything else."""
    if values.ndim != 1 or values.dtype.kind not in "US":
        raise ValueError("not a list of texts")
    texts = numpy_files.as_texts(values)
    "".join(texts).encode()  # raises UnicodeEncodeError for a lone surrogate
    return texts


def learn(path: Path, space: EmbeddingSpace, names: list[str], held: np.ndarray) -> Maps | None:
    """Maps to the crops in the file of views at `path`; None, with a line that says why, without.

    They are fitted on faces of the records that are not held out; on all faces of the file where
    the records hold none of them. So no face that is tested is fitted on.
    """
    views = read(path)
    theirs, names = ([base_name(name) for name in part] for part in (views.names, names))
    plain, ours = views.embeddings[:, 0], np.isin(theirs, names)
    if plain.shape[1] != len(space.mean) or np.mean(space.distance(plain) > 1) > 0.5:
        reason = "its embeddings are of another space than the records"
    else:
        known = ours & ~np.isin(theirs, np.array(names)[held])
        fitted = views.embeddings[known if ours.any() else slice(None)]
        if len(fitted) >= FEWEST:
            return fit(fitted)
        reason = f"{len(fitted)} of its faces are there to fit on, not {FEWEST}"
    say(
        f"{display_path(path)}: {reason}: training for this crop of the face alone "
        "(embed.py --aligned --views makes views for your own embedder)"
    )
    return None


def fit(views: np.ndarray) -> Maps:
    """The maps from the first crop to each of the others, from unit-length views (N, C, W).

    By ridge regression on the principal components of the first crop, whitened half-way, as
    the network's input is: fitted on the embeddings themselves, large components drown what the
    small ones tell of age (0.02 to 0.04 years on crops that were not fitted).
    """
    plain, others = views[:, 0].astype(np.float64), views[:, 1:].astype(np.float64)
    count, width = plain.shape
    mean, means = plain.mean(axis=0), others.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov((plain - mean).T, ddof=0))
    deviations = np.sqrt(np.maximum(variances, 1e-12 * variances[-1]))
    whitening = axes / np.sqrt(deviations * deviations.mean())  # the mean square becomes 1
    components = (plain - mean) @ whitening
    gram = components.T @ components + RIDGE * count * np.eye(width)
    targets = (others - means).transpose(1, 0, 2)
    slopes = np.linalg.solve(gram, components.T @ targets)
    left = targets - components @ slopes
    covariance = left.transpose(0, 2, 1) @ left / count
    floor = 1e-9 * np.trace(covariance, axis1=1, axis2=2)[:, None, None] * np.eye(width)
    roots = np.linalg.cholesky(covariance + floor).transpose(0, 2, 1)
    matrices = whitening @ slopes
    return Maps(*map(np.float32, (matrices, means - mean @ matrices, roots)))


def draw(faces: np.ndarray, maps: Maps, random: np.random.Generator, share: float) -> np.ndarray:
    """Faces (n, W), of which a `share` goes through a crop drawn at random, with its noise.

    Of these, TWICE go through a second one, which makes crops that are in no table of views.
    """
    drawn, chosen = faces.copy(), np.ones(len(faces), bool)
    for part in (share, TWICE):
        chosen &= random.random(len(faces)) < part
        crop = np.where(chosen, random.integers(len(maps.matrices), size=len(faces)), -1)
        for number, (matrix, offset, root) in enumerate(zip(*maps, strict=True)):
            places = np.flatnonzero(crop == number)
            noise = random.standard_normal((len(places), faces.shape[1]), dtype=np.float32)
            drawn[places] = drawn[places] @ matrix + offset + noise @ root
    return drawn
