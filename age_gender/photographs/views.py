"""Views: one more embedding of each face through other crops, from aligned chips of UTKFace's kind.

What is drawn at random follows from the face's name alone, so that it is the same whenever and
wherever it is done.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from age_gender import files
from age_gender.photographs import faces
from age_gender.photographs.faces import TEMPLATE, TEMPLATE_SIZE
from age_gender.photographs.images import resize

PAD = 60  # pixels about a chip of 200
USUAL_BOX = np.array([PAD + 18.0, PAD + 2, 164, 196])  # MTCNN's: left, top, width, height
SEED = b"age-gender views 1"

# Users of FaceNet cut by the detector's box, with one margin or another; those of ArcFace by five
# points, so that their faces differ by what the points and the pictures do.
CROPS = {
    "utkface": ("chip", "mirror", "box", "box_margin", "box_random", "jitter_1", "jitter_2",
                "box_random_whitened", "chip_whitened", "box_margin_whitened", "jitter_whitened"),
    "arcface": ("chip", "mirror", "shifted", "shifted_far", "dim_or_coarse", "dim_or_coarse_far"),
}  # fmt: skip


def views(image: np.ndarray, name: str, template: str, size: int, detector) -> Iterator[np.ndarray]:
    """The chip of a face through each of the template's CROPS: (size, size, 3), 0 to 255.

    Whitened ones (David Sandberg's: by the chip's own mean and deviation) are float32 beyond
    that range, such that (x - 127.5) / 128 has mean 0 and deviation 1.
    """
    digest = hashlib.sha256(SEED + name.encode()).digest()
    random = np.random.default_rng(np.frombuffer(digest, np.uint32))
    chip = faces.from_utkface(image, template, size)
    yield chip
    yield chip[:, ::-1]
    # Half of the pictures that FaceNet's users cut from go on beyond the face, as mirrored ones do.
    border = random.choice(["edge", "symmetric"]) if template == "utkface" else "edge"
    image = resize(image, TEMPLATE_SIZE, TEMPLATE_SIZE)
    padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), border)
    if template != "utkface":
        for poor, far in itertools.product((False, True), (1, 2)):
            turn, scale = random.normal(0, 4 * far), np.exp(random.uniform(-0.08, 0.08) * far)
            chip = turned(padded, template, size, turn, scale, random.normal(0, 0.015 * far, 2))
            chip = dim_or_coarse(chip, random) if poor else chip
            yield chip[:, ::-1] if poor and far == 2 else chip
        return
    box = face_box(padded, detector)
    yield boxed(padded, box, 0, size)
    yield boxed(padded, box, 0.25 * box[2:], size)
    yield boxed(padded, box, random.uniform(0, 0.6) * box[2:].mean(), size)
    yield jittered(padded, size, random)
    yield jittered(padded, size, random)
    yield whitened(boxed(padded, box, random.uniform(0, 0.6) * box[2:].mean(), size))
    yield whitened(chip)
    yield whitened(boxed(padded, box, 0.19 * box[2:], size))
    yield whitened(jittered(padded, size, random))


def face_box(padded: np.ndarray, detector) -> np.ndarray:
    """Left, top, width and height of the face in a padded chip."""
    boxes, _ = detector(padded)
    return max(boxes, key=lambda box: box[2] * box[3], default=USUAL_BOX)


def boxed(padded: np.ndarray, box: np.ndarray, margin: float | np.ndarray, size: int) -> np.ndarray:
    """The box, with a margin in pixels (of both sides together) as far as the picture goes."""
    left, top = np.maximum(box[:2] - margin / 2, 0).astype(int)
    right, bottom = np.ceil(box[:2] + box[2:] + margin / 2).astype(int)
    return resize(padded[top:bottom, left:right], size, size)


def turned(
    padded: np.ndarray, template: str, size: int, turn: float, scale: float, move: np.ndarray
) -> np.ndarray:
    """The chip at the template, turned by degrees, scaled, and moved by parts of its side."""
    points, side = faces.TEMPLATES[template]
    middle = (size - 1) / 2 * (1 + 1j)
    landmarks = (TEMPLATE + PAD) * (padded.shape[1] / (TEMPLATE_SIZE + 2 * PAD), 1)
    a, b = faces.similarity(landmarks, points * (size / side))
    change = scale * np.exp(1j * np.radians(turn))
    b = (b - middle) * change + middle + size * (move @ [1, 1j])
    return faces.warp(padded, a * change, b, size)


def jittered(padded: np.ndarray, size: int, random) -> np.ndarray:
    """About the chip, turned, larger or smaller, stretched, moved, mirrored, or a poor picture."""
    if random.random() < 0.5:
        stretched = round(padded.shape[1] * np.exp(random.uniform(0, 0.3)))
        padded = resize(padded, stretched, padded.shape[0])
    turn, scale = random.normal(0, 7), np.exp(-random.uniform(-0.18, 0.25))
    chip = turned(padded, "utkface", size, turn, scale, random.normal(0, 0.05, 2))
    chip = chip[:, ::-1] if random.random() < 0.5 else chip
    return dim_or_coarse(chip, random, 0.3) if random.random() < 0.5 else chip


def dim_or_coarse(chip: np.ndarray, random, coarse: float = 0.7) -> np.ndarray:
    """Of other brightness and contrast, and `coarse` of them from 28 to 80 pixels."""
    contrast, brightness = np.exp(random.normal(0, 0.25)), random.normal(0, 25)
    chip = np.clip((chip - 127.5) * contrast + 127.5 + brightness, 0, 255).astype(np.uint8)
    size, small = len(chip), int(random.integers(28, 81))
    return resize(resize(chip, small, small), size, size) if random.random() < coarse else chip


def whitened(chip: np.ndarray) -> np.ndarray:
    pixels = chip.astype(np.float32)
    deviation = max(pixels.std(), 1 / np.sqrt(pixels.size))
    return (pixels - pixels.mean()) / deviation * 128 + 127.5


def write(path: Path, names: list[str], crops: Iterable[str], blocks: Iterable[np.ndarray]) -> None:
    """Write `filenames` (n,), `crops` (c,) and `embeddings` (n, c, width), float16, as NPZ."""
    embeddings = np.concatenate([block.astype(np.float16) for block in blocks])
    with files.whole_file(path) as stream:
        np.savez_compressed(stream, filenames=names, crops=crops, embeddings=embeddings)
