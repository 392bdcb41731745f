"""Cut augmented views: the same face through several crops, from aligned chips like UTKFace's.

Random numbers are seeded by the face's name, so that its views are the same on every machine.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from age_gender.photographs import faces
from age_gender.photographs.faces import TEMPLATE, TEMPLATE_SIZE
from age_gender.photographs.images import resize

PAD = 60  # pixels added on each side of a chip of 200
USUAL_BOX = np.array([PAD + 18.0, PAD + 2, 164, 196])  # left, top, width, height of MTCNN's box
SEED = b"age-gender views 1"

# Users of FaceNet cut by the detector's box, with one margin or another; those of ArcFace by five
# points, so that their faces differ by what the points and the pictures do.
CROPS = {
    "utkface": ("chip", "mirror", "box", "box_margin", "box_random", "jitter_1", "jitter_2",
                "box_random_whitened", "chip_whitened", "box_margin_whitened", "jitter_whitened"),
    "arcface": ("chip", "mirror", "shifted", "shifted_far", "dim_or_coarse", "dim_or_coarse_far"),
}  # fmt: skip


def cut_views(
    image: np.ndarray, name: str, template: str, size: int, detector: Callable
) -> Iterator[np.ndarray]:
    """Yield a face through each of its template's CROPS: chips (size, size, 3), 0 to 255.

    `image` is an aligned chip and `name` the face's; `detector` maps a picture to boxes and
    landmarks. Prewhitened chips (David Sandberg's: by their own mean and deviation) are float32
    beyond that range, such that (x - 127.5) / 128 has mean 0 and deviation 1.
    """
    # The chip itself, and its mirror image
    digest = hashlib.sha256(SEED + name.encode()).digest()
    random = np.random.default_rng(np.frombuffer(digest, np.uint32))
    chip = faces.align_utkface(image, template, size)
    yield chip
    yield chip[:, ::-1]

    # Pad the chip: half of the pictures that FaceNet's users cut from go on beyond the face, as a
    # mirrored border does
    border = random.choice(["edge", "symmetric"]) if template == "utkface" else "edge"
    image = resize(image, TEMPLATE_SIZE, TEMPLATE_SIZE)
    padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), border)

    # ArcFace's: landmarks a little off, then poor pictures too
    if template != "utkface":
        for is_poor, far in itertools.product((False, True), (1, 2)):
            turn, scale = random.normal(0, 4 * far), np.exp(random.uniform(-0.08, 0.08) * far)
            chip = cut_moved(padded, template, size, turn, scale, random.normal(0, 0.015 * far, 2))
            chip = degrade(chip, random) if is_poor else chip
            yield chip[:, ::-1] if is_poor and far == 2 else chip
        return

    # FaceNet's: the detector's box with several margins, jittered chips, and prewhitened ones
    box = detect_box(padded, detector)
    yield cut_box(padded, box, 0, size)
    yield cut_box(padded, box, 0.25 * box[2:], size)
    yield cut_box(padded, box, random.uniform(0, 0.6) * box[2:].mean(), size)
    yield cut_jittered(padded, size, random)
    yield cut_jittered(padded, size, random)
    yield prewhiten(cut_box(padded, box, random.uniform(0, 0.6) * box[2:].mean(), size))
    yield prewhiten(chip)
    yield prewhiten(cut_box(padded, box, 0.19 * box[2:], size))
    yield prewhiten(cut_jittered(padded, size, random))


def detect_box(padded: np.ndarray, detector: Callable) -> np.ndarray:
    """Return left, top, width and height of the face in a padded chip."""
    boxes, _ = detector(padded)
    return max(boxes, key=lambda box: box[2] * box[3], default=USUAL_BOX)


def cut_box(
    padded: np.ndarray, box: np.ndarray, margin: float | np.ndarray, size: int
) -> np.ndarray:
    """Return the box as a chip, with a margin as far as the picture goes.

    The margin is in pixels, left and right together, top and bottom together.
    """
    left, top = np.maximum(box[:2] - margin / 2, 0).astype(int)
    right, bottom = np.ceil(box[:2] + box[2:] + margin / 2).astype(int)
    return resize(padded[top:bottom, left:right], size, size)


def cut_moved(
    padded: np.ndarray, template: str, size: int, turn: float, scale: float, move: np.ndarray
) -> np.ndarray:
    """Return the chip turned by degrees, scaled, and moved by fractions of its side."""
    points, side = faces.TEMPLATES[template]
    middle = (size - 1) / 2 * (1 + 1j)
    landmarks = (TEMPLATE + PAD) * (padded.shape[1] / (TEMPLATE_SIZE + 2 * PAD), 1)
    a, b = faces.fit_similarity(landmarks, points * (size / side))
    change = scale * np.exp(1j * np.radians(turn))
    b = (b - middle) * change + middle + size * (move @ [1, 1j])
    return faces.warp(padded, a * change, b, size)


def cut_jittered(padded: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Return a chip stretched, turned, scaled and moved at random, some mirrored or degraded."""
    if random.random() < 0.5:
        stretched = round(padded.shape[1] * np.exp(random.uniform(0, 0.3)))
        padded = resize(padded, stretched, padded.shape[0])
    turn, scale = random.normal(0, 7), np.exp(-random.uniform(-0.18, 0.25))
    chip = cut_moved(padded, "utkface", size, turn, scale, random.normal(0, 0.05, 2))
    chip = chip[:, ::-1] if random.random() < 0.5 else chip
    return degrade(chip, random, 0.3) if random.random() < 0.5 else chip


def degrade(chip: np.ndarray, random: np.random.Generator, coarse: float = 0.7) -> np.ndarray:
    """Return a chip of other brightness and contrast, some of them coarse.

    A fraction `coarse` of the chips is resampled from 28 to 80 pixels.
    """
    contrast, brightness = np.exp(random.normal(0, 0.25)), random.normal(0, 25)
    chip = np.clip((chip - 127.5) * contrast + 127.5 + brightness, 0, 255).astype(np.uint8)
    size, small = len(chip), int(random.integers(28, 81))
    return resize(resize(chip, small, small), size, size) if random.random() < coarse else chip


def prewhiten(chip: np.ndarray) -> np.ndarray:
    """Return a chip of mean 0 and deviation 1, in the units of pixels that networks take."""
    pixels = chip.astype(np.float32)
    deviation = max(pixels.std(), 1 / np.sqrt(pixels.size))
    return (pixels - pixels.mean()) / deviation * 128 + 127.5
