"""Read labelled faces, fit their space, hold some out, and feed them to Keras in batches."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from age_gender import embedding_space
from age_gender.cli import display_path, say
from age_gender.embedding_space import EmbeddingSpace
from age_gender.embeddings import median_norm, to_unit_length
from age_gender.errors import InputError
from age_gender.training.crop_augmentation import (
    CropMaps,
    UnusableViews,
    augment,
    select_training_views,
)

if TYPE_CHECKING:
    from age_gender.training.records import Records  # imports TensorFlow

HELD_OUT_FRACTION = 0.2  # fraction of the faces that is held out
# Fraction of the faces that are rounded in an epoch. Exact embeddings lose nothing by it (16 + 10
# epochs, held-out FaceNet faces, three seeds: 5.084 years and 96.46 %, without it 5.086 and
# 96.42 %); two decimals then add 2.6 years instead of 3.8.
ROUNDED_FRACTION = 0.2


class Faces(NamedTuple):
    """Hold faces: components, float32 (n, k), ages, genders and whether each is adult, (n,).

    `rounded` are the components of the same embeddings after rounding.
    """

    components: np.ndarray
    rounded: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    is_adult: np.ndarray

    def select(self, rows: np.ndarray) -> "Faces":
        """Return these faces; `rows` are their numbers or a mask (n,)."""
        return Faces(*(values[rows] for values in self))

    def for_keras(self) -> tuple:
        """Return inputs, labels and weights of labels; the weight of a child's gender is 0."""
        weights = {"age": np.ones(len(self.age), "f4"), "gender": self.is_adult.astype("f4")}
        return self.components, {"age": self.age, "gender": self.gender}, weights


def read_faces(train: Path, children: Path | None) -> tuple["Records", np.ndarray]:
    """Return the records of adults and children together, and whether each is an adult's (n,)."""
    from age_gender.training import records

    parts = [records.read(path) for path in (train, children) if path]
    widths = [part.features.shape[1] for part in parts]
    if widths[-1] != widths[0]:
        raise InputError(
            f"{children}: embeddings of {widths[1]} numbers, and of {widths[0]} in {train}; "
            "prepare both from one table, or give --children none"
        )
    faces = records.Records(*map(np.concatenate, zip(*parts, strict=True)))
    return faces, np.arange(len(faces.age)) < len(parts[0].age)


def hold_out(names: list[str], is_adult: np.ndarray, seed: int) -> np.ndarray:
    """Return whether each row (n,) is held out: all rows of HELD_OUT_FRACTION of the faces.

    Raises InputError where no face is left to train on.
    """
    random = np.random.default_rng(seed)
    is_held_out = np.zeros(len(names), bool)
    face = np.unique(np.array(names, object), return_inverse=True)[1]
    for is_in_group in (is_adult, ~is_adult):
        faces = random.permutation(np.unique(face[is_in_group]))
        count = int(np.ceil(HELD_OUT_FRACTION * len(faces)))
        is_held_out |= is_in_group & np.isin(face, faces[:count])
    if is_held_out.all():
        raise InputError(f"{len(names)} faces are too few to train on; prepare more")
    return is_held_out


def scale_and_fit_space(
    records: "Records", is_held_out: np.ndarray, views: Path | None
) -> tuple[np.ndarray, np.ndarray | None, EmbeddingSpace]:
    """Scale the embeddings to unit length, read the views, and fit the space of both.

    Returns embeddings (n, W), the views of training faces, and their space. The views are None
    without a file, or where its faces are too few or of another network. Raises
    InputError where nothing can be learnt from the embeddings.
    """
    # Fit the space of the embeddings and the views
    embeddings = to_unit_length(records.features)
    norm = median_norm(records.features)
    rows, training_views = embeddings, None
    if views is not None:
        plain_space = embedding_space.fit(embeddings, norm, folds=0)
        training_views = read_views_or_warn(views, plain_space, records.file_names, is_held_out)
    if training_views is not None:
        rows = np.concatenate([embeddings, training_views[:, 1:].reshape(-1, embeddings.shape[1])])
    space = embedding_space.fit(rows, norm)

    # Describe it, and check that it can be used
    say(
        f"{len(embeddings)} faces; embeddings of {embeddings.shape[1]} dimensions, "
        f"{space.component_count} principal components above rounding noise; median norm {norm:.3g}"
    )
    if space.deviations[0] < 1e-4:  # FaceNet's is 0.2; rounding of equal embeddings gives 1e-6
        raise InputError(
            f"the embeddings of all {len(embeddings)} faces are the same: nothing to learn"
        )
    if not space.detects_single_rows:
        say(
            "warning: out-of-distribution embeddings cannot be detected for this model (too few "
            "rows, or too few empty directions); run.py will score any row of this width"
        )
    return embeddings, training_views, space


def read_views_or_warn(
    path: Path, space: EmbeddingSpace, names: list[str], is_held_out: np.ndarray
) -> np.ndarray | None:
    """Return the views (N, C, W) of training faces, or say why they are unusable and give None."""
    try:
        return select_training_views(path, space, names, is_held_out)
    except UnusableViews as reason:
        say(
            f"{display_path(path)}: {reason}; training without crop augmentation (to make views: "
            "embed.py --aligned --views)"
        )


def batches(
    faces: Faces, crop_maps: CropMaps | None, epochs: range, steps: int, seed: int,
    crop_fraction: float,
) -> Iterator[tuple]:  # fmt: skip
    """Yield inputs, labels and weights for Keras: `steps` batches of nearly equal size per epoch.

    An epoch's order, rounding and crops depend on the seed and the epoch's number alone, so that a
    resumed training repeats them.
    """
    for epoch in epochs:
        random = np.random.default_rng([seed, epoch])
        shuffled = faces.select(random.permutation(len(faces.age)))
        is_rounded = random.random((len(shuffled.age), 1)) < ROUNDED_FRACTION
        components = np.where(is_rounded, shuffled.rounded, shuffled.components)
        if crop_maps:
            components = augment(components, crop_maps, random, crop_fraction)
        shuffled = shuffled._replace(components=components)
        ends = np.arange(steps + 1) * len(shuffled.age) // steps
        for start, end in itertools.pairwise(ends):
            yield shuffled.select(slice(start, end)).for_keras()
