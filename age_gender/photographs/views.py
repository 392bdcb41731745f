"""Make augmented views: the same face through several crops, from aligned chips like UTKFace's.

Random numbers are seeded by the face's name, so that its views are the same on every machine.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from age_gender.photographs import faces
from age_gender.photographs.faces import UTKFACE_LANDMARKS, UTKFACE_SIZE
from age_gender.photographs.images import resize

PAD = 60  # pixels added on each side of a chip of 200
USUAL_BOX = np.array([PAD + 18.0, PAD + 2, 164, 196])  # left, top, width, height, as by MTCNN
SEED = b"age-gender views 1"

# Users of FaceNet crop to the detector's box, with various margins. Users of ArcFace align five
# landmarks, so their chips differ in the landmarks' errors and in the quality of the pictures.
CROPS = {
    "utkface": ("chip", "mirror", "box", "box_margin", "box_random", "jitter_1", "jitter_2",
                "box_random_whitened", "chip_whitened", "box_margin_whitened", "jitter_whitened"),
    "arcface": ("chip", "mirror", "shifted", "shifted_far", "dim_or_coarse", "dim_or_coarse_far"),
}  # fmt: skip


def make_views(
    image: np.ndarray, name: str, template: str, size: int, detector: Callable
) -> Iterator[np.ndarray]:
    """Yield a face through each of its template's CROPS: chips (size, size, 3), 0 to 255.

    `image` is an aligned chip and `name` the face's; `detector` maps a picture to rectangles and
    landmarks. Chips that `prewhiten` returns are float32 and exceed that range.
    """
    # The chip itself, and its mirror image
    digest = hashlib.sha256(SEED + name.encode()).digest()
    random = np.random.default_rng(np.frombuffer(digest, np.uint32))
    chip = faces.align_utkface(image, template, size)
    yield chip
    yield chip[:, ::-1]

    # Pad the chip. Half of FaceNet's get a mirrored border, since photographs go on around a face
    border = random.choice(["edge", "symmetric"]) if template == "utkface" else "edge"
    image = resize(image, UTKFACE_SIZE, UTKFACE_SIZE)
    padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), border)

    # ArcFace's: inexact landmarks, then poor pictures too
    if template != "utkface":
        for is_poor, strength in itertools.product((False, True), (1, 2)):
            rotation = random.normal(0, 4 * strength)
            scale = np.exp(random.uniform(-0.08, 0.08) * strength)
            shift = random.normal(0, 0.015 * strength, 2)
            chip = crop_transformed(padded, template, size, rotation, scale, shift)
            chip = degrade(chip, random) if is_poor else chip
            yield chip[:, ::-1] if is_poor and strength == 2 else chip
        return

    # FaceNet's: the detector's box with several margins, jittered chips, and prewhitened ones
    box = detect_box(padded, detector)
    yield crop_box(padded, box, 0, size)
    yield crop_box(padded, box, 0.25 * box[2:], size)
    yield crop_box(padded, box, random.uniform(0, 0.6) * box[2:].mean(), size)
    yield crop_jittered(padded, size, random)
    yield crop_jittered(padded, size, random)
    yield prewhiten(crop_box(padded, box, random.uniform(0, 0.6) * box[2:].mean(), size))
    yield prewhiten(chip)
    yield prewhiten(crop_box(padded, box, 0.19 * box[2:], size))
    yield prewhiten(crop_jittered(padded, size, random))


def detect_box(padded: np.ndarray, detector: Callable) -> np.ndarray:
    """Return left, top, width and height of the face in a padded chip."""
    boxes, _ = detector(padded)
    return max(boxes, key=lambda box: box[2] * box[3], default=USUAL_BOX)


def crop_box(
    padded: np.ndarray, box: np.ndarray, margin: float | np.ndarray, size: int
) -> np.ndarray:
    """Return the box as a chip, with a margin up to the edge of the picture.

    The margin is in pixels: the sum of left and right, and of top and bottom.
    """
    left, top = np.maximum(box[:2] - margin / 2, 0).astype(int)
    right, bottom = np.ceil(box[:2] + box[2:] + margin / 2).astype(int)
    return resize(padded[top:bottom, left:right], size, size)


def crop_transformed(
    padded: np.ndarray, template: str, size: int, rotation: float, scale: float, shift: np.ndarray
) -> np.ndarray:
    """Return the chip rotated by degrees, scaled, and shifted by fractions (2,) of its side."""
    points, side = faces.TEMPLATES[template]
    middle = (size - 1) / 2 * (1 + 1j)
    landmarks = (UTKFACE_LANDMARKS + PAD) * (padded.shape[1] / (UTKFACE_SIZE + 2 * PAD), 1)
    a, b = faces.fit_similarity(landmarks, points * (size / side))
    change = scale * np.exp(1j * np.radians(rotation))
    b = (b - middle) * change + middle + size * (shift @ [1, 1j])
    return faces.warp(padded, a * change, b, size)


def crop_jittered(padded: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Return a chip stretched, rotated, scaled and shifted at random, some mirrored or degraded."""
    if random.random() < 0.5:
        stretched = round(padded.shape[1] * np.exp(random.uniform(0, 0.3)))
        padded = resize(padded, stretched, padded.shape[0])
    rotation, scale = random.normal(0, 7), np.exp(-random.uniform(-0.18, 0.25))
    chip = crop_transformed(padded, "utkface", size, rotation, scale, random.normal(0, 0.05, 2))
    chip = chip[:, ::-1] if random.random() < 0.5 else chip
    return degrade(chip, random, 0.3) if random.random() < 0.5 else chip


def degrade(
    chip: np.ndarray, random: np.random.Generator, coarse_fraction: float = 0.7
) -> np.ndarray:
    """Return the chip with random brightness and contrast, sometimes coarse.

    With probability `coarse_fraction` it is reduced to 28 to 80 pixels and enlarged again.
    """
    contrast, brightness = np.exp(random.normal(0, 0.25)), random.normal(0, 25)
    chip = np.clip((chip - 127.5) * contrast + 127.5 + brightness, 0, 255).astype(np.uint8)
    size, small = len(chip), int(random.integers(28, 81))
    is_coarse = random.random() < coarse_fraction
    return resize(resize(chip, small, small), size, size) if is_coarse else chip


def prewhiten(chip: np.ndarray) -> np.ndarray:
    """Prewhiten a chip as David Sandberg does, by its own mean and standard deviation.

    The result is scaled so that `images.normalise` gives mean 0 and deviation 1.
    """
    pixels = chip.astype(np.float32)
    deviation = max(pixels.std(), 1 / np.sqrt(pixels.size))
    return (pixels - pixels.mean()) / deviation * 128 + 127.5
