"""Feed faces to Keras: components with labels and weights, in batches augmented by crops."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from age_gender.crop_augmentation import Maps, augment


class Recipe(NamedTuple):
    """The settings of a training, which --resume must find unchanged."""

    epochs: int
    batch_size: int
    learning_rate: float
    whitening: float
    crop_share: float
    seed: int


class Faces(NamedTuple):
    """Components float32 (n, k), ages, genders, and whether each is no child: (n,) each."""

    components: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    is_adult: np.ndarray

    def at(self, places) -> "Faces":
        return Faces(*(values[places] for values in self))

    def for_keras(self) -> tuple:
        """Return inputs, labels, and the labels' weights: a child's gender is not learnt."""
        weights = {"age": np.ones(len(self.age), "f4"), "gender": self.is_adult.astype("f4")}
        return self.components, {"age": self.age, "gender": self.gender}, weights


def batches(
    faces: Faces, maps: Maps | None, epochs: range, steps: int, recipe: Recipe
) -> Iterator[tuple]:
    """Yield what Keras takes: `steps` parts of each epoch's faces, as equal in size as can be.

    What is random in an epoch, the order and the crops, follows from the seed and its number.
    """
    for epoch in epochs:
        random = np.random.default_rng([recipe.seed, epoch])
        shown = faces.at(random.permutation(len(faces.age)))
        if maps:
            components = augment(shown.components, maps, random, recipe.crop_share)
            shown = shown._replace(components=components)
        ends = np.arange(steps + 1) * len(shown.age) // steps
        for start, end in itertools.pairwise(ends):
            yield shown.at(slice(start, end)).for_keras()
