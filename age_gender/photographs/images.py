"""Image files found and read, as uint8 RGB, and brought to a network's size."""

import contextlib
import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from age_gender import files
from age_gender.cli import InputError, error_line

CHIP = 160  # pixels, FaceNet's input
LARGEST_IMAGE = 128_000_000  # pixels: 0.4 GB decoded; beyond lie decompression bombs
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
# What a folder's images are known by; those that FORMATS lacks are reported, not passed over.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp",
            ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif")  # fmt: skip


def find_images(given: Sequence[str], excluded: Path | None) -> tuple[Path, list[str]]:
    """Return the folder above all images, and the sorted paths of the images below it.

    Of a folder and those below it, these are the files that are named like images and do not
    begin with a dot; of a glob, all files. A file that links lead to is taken once, and nothing
    that lies in the folder `excluded`. Raises InputError where there is no image.
    """
    images, roots = set(), []
    for text in given:
        if Path(text).is_dir():
            root, paths = text, files.find_below(text, SUFFIXES)
        elif Path(text).exists():
            root, paths = os.path.dirname(text), iter([text])
        elif magic := glob.magic_check.search(text):
            root = os.path.dirname(text[: magic.start()])
            paths = (path for path in files.find_matches(text) if Path(path).is_file())
        else:
            raise InputError(f"{text}: no such folder or file; check the path")
        where = "there"
        if excluded is not None:
            where, chips = "there outside --chips", os.path.join(os.path.realpath(excluded), "")
            paths = (path for path in paths if not os.path.realpath(path).startswith(chips))
        below = {os.path.abspath(path) for path in paths}
        if not below:
            raise InputError(f"{text}: no image {where} ({', '.join(SUFFIXES[:7])})")
        roots.append(os.path.abspath(root))
        images |= below
    above = os.path.commonpath(roots)
    return Path(above), [os.path.relpath(path, above) for path in files.each_once(sorted(images))]


class Skipped(Exception):
    """Why an image gives no face."""


def read_image(path: str) -> np.ndarray:
    """The image as uint8 RGB (height, width, 3), upright. Raises Skipped.

    Files are not trusted: only FORMATS are tried, and the size is known before decoding.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.init()  # registers the formats; WebP would be unknown otherwise
    Image.MAX_IMAGE_PIXELS = None  # Pillow only warns; the check is here
    try:
        if not Path(path).is_file():
            raise FileNotFoundError("no such file")
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST_IMAGE:
                most = f"{LARGEST_IMAGE:,}; shrink it"
                raise ValueError(f"{width} x {height} pixels are more than {most}")
            image.load()
            with contextlib.suppress(Exception):  # what is wrong with EXIF is not the picture's
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise Skipped("not an image that can be read; convert it to JPEG or PNG") from error
    except Exception as error:  # libraries that decode raise nearly everything
        raise Skipped(error_line(error) or type(error).__name__) from error


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Area averaging, which is how the embeddings of UTKFace were made; linear to enlarge."""
    import cv2

    smaller = width * height <= image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def fixed_crop(image: np.ndarray, crop: tuple[int, int, int, int], size: int) -> np.ndarray:
    """Those rows and columns of the image as a chip of `size` pixels. Raises Skipped."""
    top, bottom, left, right = crop
    height, width = image.shape[:2]
    if bottom > height or right > width:
        raise Skipped(f"{width} x {height} pixels, smaller than the crop")
    return resize(image[top:bottom, left:right], size, size)


def normalised(pixels: np.ndarray) -> np.ndarray:
    """Pixels, 0 to 255, as all networks here take them: float32 from -1 to 1."""
    return np.subtract(pixels, 127.5, dtype=np.float32) / 128
