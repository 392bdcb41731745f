"""Chips of faces as PNG files, and the contact sheet that shows them with their estimates."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from age_gender import files
from age_gender.cli import InputError, say
from age_gender.labels import GENDERS
from age_gender.photographs.images import CHIP, Skipped, read_image, resize

SHEET_FACES = 1000  # larger pictures are hard to open


def chip_file(folder: Path, name: str) -> Path:
    """Where the chip of the face `name` lies: always below `folder`, whatever the name."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    for i, part in enumerate(map(str.encode, parts)):
        if len(part) > 150:  # with what is added, file systems take no more than 255
            digest = hashlib.sha256(part).hexdigest()[:16]
            parts[i] = f"{part[:60].decode(errors='ignore')}-{digest}"
    return folder.joinpath(*parts[:-1], f"{''.join(parts[-1:])}.png")


def write_chip(folder: Path, name: str, data: bytes) -> None:
    path = chip_file(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_file(path) as stream:
        stream.write(data)


def png(chip: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", chip[:, :, ::-1])[1].tobytes()


def contact_sheet(output: Path, chips: Path, predicted: Sequence[tuple]) -> int:
    """Draw the chips with estimated age, interval and gender below each; how many were drawn.

    `predicted` are rows of run.py's CSV, all its columns, in the order to draw. Raises InputError.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    shown = [row for row in predicted if chip_file(chips, row[0]).is_file()]
    if not shown:
        raise InputError(f"{chips}: no chip of a face in the predictions; make them with --chips")
    if left_out := len(shown[SHEET_FACES:]):
        say(f"{output}: shows the first {SHEET_FACES:,} faces, not {left_out:,} more")
    shown = shown[:SHEET_FACES]
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    bold = ImageFont.truetype(fonts / "DejaVuSans-Bold.ttf", 26)
    plain = ImageFont.truetype(fonts / "DejaVuSans.ttf", 15)

    gap, text_height, grey = 24, 62, "#555555"
    columns = min(len(shown), max(4, math.ceil(math.sqrt(len(shown) * 1.6))))
    lines = math.ceil(len(shown) / columns)
    width, height = CHIP + gap, CHIP + text_height + gap
    sheet = Image.new("RGB", (columns * width + gap, lines * height + gap), "#ffffff")
    draw = ImageDraw.Draw(sheet)
    for i, (name, gender, age, low, high, female) in enumerate(shown):
        x, y = gap + i % columns * width, gap + i // columns * height
        try:
            chip = resize(read_image(str(chip_file(chips, name))), CHIP, CHIP)
        except Skipped as reason:
            raise InputError(f"{chip_file(chips, name)}: {reason}; make it again") from None
        sheet.paste(Image.fromarray(chip), (x, y))
        draw.text((x, y + CHIP + 36), f"{age}", "#111111", bold, anchor="ls")
        end = x + draw.textlength(f"{age} ", bold)
        draw.text((end, y + CHIP + 36), f"{low}\u2013{high} years", grey, plain, anchor="ls")
        certainty = female if gender == 1 else 1 - female
        percent = ">99%" if certainty >= 0.995 else f"{certainty:.0%}"
        draw.text((x, y + CHIP + 60), f"{GENDERS[gender]}  {percent}", grey, plain, anchor="ls")
    with files.whole_file(output) as stream:
        sheet.save(stream, "PNG")
    return len(shown)
