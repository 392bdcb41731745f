"""Draw faces that resemble ones enough for MTCNN, where no photographs may be committed."""

from typing import TYPE_CHECKING

import numpy as np

from age_gender.photographs import faces

if TYPE_CHECKING:
    from PIL.Image import Image


def draw_chip(seed: int = 0, size: int = 200) -> "Image":
    """Return a Pillow image that resembles a face, with the landmarks of UTKFace's template."""
    from PIL import Image, ImageDraw

    random = np.random.default_rng(seed)
    skin = tuple(random.integers((150, 100, 80), (230, 180, 150)).tolist())
    chip = Image.new("RGB", (200, 200), tuple(random.integers(0, 100, 3).tolist()))
    draw = ImageDraw.Draw(chip)
    draw.ellipse((25, -20, 180, 195), fill=skin)
    for x, y in faces.UTKFACE_LANDMARKS[:2]:
        draw.ellipse((x - 14, y - 8, x + 14, y + 8), fill="white")
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(60, 40, int(random.integers(20, 120))))
        draw.arc((x - 20, y - 24, x + 20, y + 6), 200, 340, fill=(50, 30, 20), width=4)
    draw.polygon([(103, 70), (92, 112), (114, 112)], fill=tuple(v - 25 for v in skin))
    draw.chord((67, 128, 138, 160), 0, 180, fill=(170, 60, 60))
    return chip.resize((size, size))


def draw_photograph(
    faces_at: list[tuple[int, int, int]], size: tuple[int, int] = (500, 360)
) -> "Image":
    """Return drawn faces (left, top, side) on grey; MTCNN takes them for faces."""
    from PIL import Image

    picture = Image.new("RGB", size, (120, 130, 125))
    for number, (left, top, side) in enumerate(faces_at):
        picture.paste(draw_chip(number, side), (left, top))
    return picture
