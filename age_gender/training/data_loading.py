"""Read labelled faces, hold some out, and feed them to Keras in augmented batches."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from age_gender.cli import display_path, say
from age_gender.embedding_space import EmbeddingSpace
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


class Recipe(NamedTuple):
    """Hold the settings of a training, which --resume must find unchanged."""

    epochs: int
    batch_size: int
    learning_rate: float
    whitening: float
    crop_share: float
    seed: int


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
    """Return whether each row (n,) is held out: all views of HELD_OUT_FRACTION of the faces.

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
    faces: Faces, crop_maps: CropMaps | None, epochs: range, steps: int, recipe: Recipe
) -> Iterator[tuple]:
    """Yield inputs, labels and weights for Keras: `steps` batches of nearly equal size per epoch.

    An epoch's order, rounding and crops depend on the seed and the epoch's number alone, so that a
    resumed training repeats them.
    """
    for epoch in epochs:
        random = np.random.default_rng([recipe.seed, epoch])
        shuffled = faces.select(random.permutation(len(faces.age)))
        is_rounded = random.random((len(shuffled.age), 1)) < ROUNDED_FRACTION
        components = np.where(is_rounded, shuffled.rounded, shuffled.components)
        if crop_maps:
            components = augment(components, crop_maps, random, recipe.crop_share)
        shuffled = shuffled._replace(components=components)
        ends = np.arange(steps + 1) * len(shuffled.age) // steps
        for start, end in itertools.pairwise(ends):
            yield shuffled.select(slice(start, end)).for_keras()
