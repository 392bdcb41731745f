"""Write face chips as PNG, and draw the contact sheet that shows them with their estimates."""

import hashlib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from age_gender import files
from age_gender.cli import say
from age_gender.errors import InputError
from age_gender.labels import GENDERS
from age_gender.photographs.images import CHIP_SIZE, Skipped, read_image, resize

SHEET_FACES = 1000  # a picture of more faces is hard to open


def find_chip_path(folder: Path, name: str) -> Path:
    """Return the path of a face's chip below `folder`, unique to its name."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    for i, part in enumerate(parts[:-1]):  # no folder may have a chip's name
        parts[i] = re.sub(r"(\.png_*)$", r"\1_", part, flags=re.IGNORECASE)
    for i, part in enumerate(map(str.encode, parts)):
        if len(part) > 150:  # file systems take up to 255 bytes, with what is added
            digest = hashlib.sha256(part).hexdigest()[:16]
            parts[i] = f"{part[:60].decode(errors='ignore')}-{digest}"
    path = "/".join([*parts[:-1], f"{''.join(parts[-1:])}.png"])
    return folder / os.fsdecode(path.encode())  # the path is UTF-8 in every locale


def write_chip(folder: Path, name: str, data: bytes) -> None:
    """Write a chip as PNG. Raises InputError where a link leads out of `folder`."""
    path = find_chip_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.realpath(path) != os.path.join(os.path.realpath(folder), path.relative_to(folder)):
        raise InputError(
            f"{path}: this path leads through a link to another folder; remove the link"
        )
    with files.atomic_file(path) as stream:
        stream.write(data)


def read_chip(folder: Path, name: str) -> np.ndarray:
    """Return a face's chip as uint8 RGB (160, 160, 3). Raises InputError for a damaged file."""
    path = find_chip_path(folder, name)
    try:
        return resize(read_image(str(path)), CHIP_SIZE, CHIP_SIZE)
    except Skipped as reason:
        raise InputError(
            f"{path}: {reason}; write it again: embed.py --images DIR --chips {folder}"
        ) from None


def encode_png(chip: np.ndarray) -> bytes:
    """Return an RGB chip as a PNG file."""
    import cv2

    return cv2.imencode(".png", chip[:, :, ::-1])[1].tobytes()


def draw_contact_sheet(output: Path, chips: Path, predicted: Sequence[tuple]) -> int:
    """Draw the chips with estimated age, interval and gender below each; return their number.

    `predicted` are rows of run.py's CSV, all its columns, in the order to draw. Raises InputError.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    # Choose the rows whose faces have a chip
    rows = [row for row in predicted if find_chip_path(chips, row[0]).is_file()]
    if not rows:
        raise InputError(
            f"{chips}: no chip of a face in the predictions; write chips with --images and --chips"
        )
    if len(rows) > SHEET_FACES:
        say(f"{output}: shows the first {SHEET_FACES:,} of {len(rows):,} faces")
    rows = rows[:SHEET_FACES]
    files.refuse_overwriting(output, (find_chip_path(chips, row[0]) for row in rows))

    # Make an empty sheet, with the fonts that matplotlib has
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    bold = ImageFont.truetype(fonts / "DejaVuSans-Bold.ttf", 26)
    plain = ImageFont.truetype(fonts / "DejaVuSans.ttf", 15)
    gap, text_height, grey = 24, 62, "#555555"
    columns = min(len(rows), max(4, math.ceil(math.sqrt(len(rows) * 1.6))))
    lines = math.ceil(len(rows) / columns)
    width, height = CHIP_SIZE + gap, CHIP_SIZE + text_height + gap
    sheet = Image.new("RGB", (columns * width + gap, lines * height + gap), "#ffffff")
    draw = ImageDraw.Draw(sheet)

    # Draw each chip with its estimates below
    for i, (name, gender, age, low, high, female) in enumerate(rows):
        x, y = gap + i % columns * width, gap + i // columns * height
        sheet.paste(Image.fromarray(read_chip(chips, name)), (x, y))
        draw.text((x, y + CHIP_SIZE + 36), f"{age}", "#111111", bold, anchor="ls")
        end = x + draw.textlength(f"{age} ", bold)
        draw.text((end, y + CHIP_SIZE + 36), f"{low}\u2013{high} years", grey, plain, anchor="ls")
        certainty = female if gender == 1 else 1 - female
        percent = ">99%" if certainty >= 0.995 else f"{certainty:.0%}"
        draw.text(
            (x, y + CHIP_SIZE + 60), f"{GENDERS[gender]}  {percent}", grey, plain, anchor="ls"
        )
    with files.atomic_file(output) as stream:
        sheet.save(stream, "PNG")
    return len(rows)
