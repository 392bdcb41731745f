"""Find image files, read them as uint8 RGB, and resize them."""

import contextlib
import glob
import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from age_gender import files
from age_gender.errors import InputError, error_line, is_resource_shortage

CHIP_SIZE = 160  # pixels, FaceNet's input
LARGEST_IMAGE = 128_000_000  # pixels, 0.4 GB decoded; larger ones may be decompression bombs
ONE_COLOUR = 2  # standard deviation of colours from 0 to 255; a chip below it shows no face
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
# Suffixes of a folder's images; those of other formats are reported as unreadable.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp",
            ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif")  # fmt: skip


def find_images(patterns: Sequence[str], excluded: Path | None) -> tuple[Path, list[str]]:
    """Return the folder above all images, and the sorted paths of the images below it.

    Of a folder and its subfolders, files with an image suffix are listed, but no hidden ones; of a
    glob, all files that it matches. A file that several links lead to is listed once; files in the
    folder `excluded` are left out. Raises InputError where there is no image.
    """
    images, roots = set(), []
    for text in patterns:
        # Find the files of this folder, file or glob
        if Path(text).is_dir():
            root, paths = text, files.walk_files(text, SUFFIXES)
        elif Path(text).exists():
            root, paths = os.path.dirname(text), iter([text])
        elif magic := glob.magic_check.search(text):
            root = os.path.dirname(text[: magic.start()])
            paths = (path for path in files.expand_glob(text) if Path(path).is_file())
        else:
            raise InputError(f"{text}: no such folder or file; check the path")
        # Leave out those in --chips
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
    paths = files.without_duplicates(sorted(images))
    return Path(above), [os.path.relpath(path, above) for path in paths]


def hash_images(root: str, images: Iterable[str]) -> str:
    """Return a hash of the images' folder, names, sizes and modification times."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(root)))
    for image in images:
        digest.update(b"\0" + os.fsencode(image))
        with contextlib.suppress(OSError):  # reading it says what is wrong
            status = os.stat(os.path.join(root, image))
            digest.update(b"\0%d\0%d" % (status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


class Skipped(Exception):
    """Raised for an image that yields no face; `category` counts it in the summary."""

    category = "unreadable"


class NoFace(Skipped):
    """Raised for an image that can be read and shows no face."""

    category = "without a face"


def read_image(path: str) -> np.ndarray:
    """Return the image as uint8 RGB (height, width, 3), upright. Raises Skipped.

    Files are not trusted: only FORMATS are tried, and the size is checked before decoding.
    Transparency is ignored.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.init()  # registers the formats; WebP would be unknown otherwise
    Image.MAX_IMAGE_PIXELS = None  # Pillow only warns; the check is here
    try:
        # Check format and size before decoding
        if not Path(path).is_file():
            raise Skipped("no such file")
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST_IMAGE:
                size = f"{width} x {height} pixels"
                raise Skipped(f"{size} are more than {LARGEST_IMAGE:,}; shrink it")
            image.load()
            # Convert to 8 bits a colour, upright, RGB
            if (numbers := read_16_bit_png(path)) is not None:
                scaled = Image.fromarray(to_8_bits(numbers))
                scaled.info, image = image.info, scaled
            with contextlib.suppress(Exception):  # broken EXIF data is no fault of the picture
                image = ImageOps.exif_transpose(image)
            image.info.pop("transparency", None)  # Pillow warns of it in a palette
            return np.asarray(image.convert("RGB"))
    except Skipped:
        raise
    except UnidentifiedImageError as error:
        raise Skipped("not an image that can be read; convert it to JPEG or PNG") from error
    except Exception as error:  # libraries that decode raise nearly everything
        if is_resource_shortage(error):
            raise
        raise Skipped(error_line(error) or type(error).__name__) from error


def read_16_bit_png(path: str) -> np.ndarray | None:
    """Return the numbers of a 16-bit PNG, uint16 (height, width), or (height, width, 3 or 4).

    These are grey, or red, green and blue, and opacity if there is any. None for another image;
    raises Skipped for a broken one. Pillow would give the upper 8 bits of RGB, which are black
    where a camera uses the lower 12.
    """
    import cv2

    with open(path, "rb") as stream:
        header = stream.read(25)
    if header[:4] != b"\x89PNG" or header[24] != 16:  # the bit depth (PNG, 11.2.1 IHDR)
        return None
    numbers = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if numbers is None:
        raise Skipped("broken PNG file")
    return numbers if numbers.ndim == 2 else numbers[:, :, [2, 1, 0, 3][: numbers.shape[2]]]


def to_8_bits(numbers: np.ndarray) -> np.ndarray:
    """Return the numbers of `read_16_bit_png` as uint8, scaled from the bits that they use.

    They are the fewest bits from 8 to 16 with no visible number over 2 ** bits: cameras give 10 to
    14, some tools scale to 4096, and pictures of 8 bits are saved as 16. Where all numbers are
    multiples of 256 or of 257, 8 bits were spread over 16: all 16 are used, so that dark pictures
    stay dark.
    """
    import cv2

    has_opacity = numbers.shape[2:] == (4,)
    visible = numbers[numbers[:, :, 3] > 0, :3] if has_opacity else numbers
    bits = max(8, math.ceil(math.log2(visible.max(initial=1))))
    if any(not (visible % step).any() for step in (256, 257)):
        bits = 16
    colours = np.ascontiguousarray(numbers[:, :, :3] if has_opacity else numbers)
    return cv2.convertScaleAbs(colours, alpha=255 / (2**bits - 1))


def is_one_colour(pixels: np.ndarray) -> bool:
    """Return whether no colour of an image (height, width, 3) varies by ONE_COLOUR of 255."""
    import cv2

    return bool(cv2.meanStdDev(pixels)[1].max() < ONE_COLOUR)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the image shrunk by area averaging, as UTKFace's chips were, or enlarged linearly."""
    import cv2

    is_smaller = width * height <= image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def crop_rectangle(image: np.ndarray, crop: tuple[int, int, int, int], size: int) -> np.ndarray:
    """Return a rectangle of the image as a chip of `size` pixels.

    `crop` is top, bottom, left and right in pixels. Raises Skipped for a smaller image.
    """
    top, bottom, left, right = crop
    height, width = image.shape[:2]
    if bottom > height or right > width:
        raise Skipped(f"{width} x {height} pixels, smaller than the crop")
    return resize(image[top:bottom, left:right], size, size)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """Return pixels, 0 to 255, as all networks here take them: float32 from -1 to 1."""
    return np.subtract(pixels, 127.5, dtype=np.float32) / 128
