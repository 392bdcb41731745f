"""Names of faces: as text, as cells of CSV, and the labels that UTKFace's hold."""

import contextlib
import math
import os
import re
from collections.abc import Sequence

from age_gender.tables.numbers import shown

AGES = 117  # 0-116 years, the range of UTKFace's labels
GENDERS = ("male", "female")  # 0 and 1, as the data sets label them
_GENDER_WORDS = (("0", "0.0", "male", "man", "m"), ("1", "1.0", "female", "woman", "f"))
_TO_QUOTE = ',"\r\n\ufeff'


def text_name(name: str) -> str:
    """A file's name or path as text that any table can hold, also where it is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def as_text(values: list) -> tuple[list[str | None], dict[int, str]]:
    """Names as they come through CSV, and what is wrong with which of them."""
    with contextlib.suppress(TypeError, UnicodeEncodeError):  # one look at all of them
        if b"\0" not in "".join(values).encode():
            return values, {}
    found = [str(v) if type(v) is int else v for v in values]
    return found, {i: reason for i, name in enumerate(found) if (reason := _name_fault(name))}


def _name_fault(name: object) -> str:
    if name is None:
        return "the name is missing"
    if not isinstance(name, str):
        return f"the name is {shown(name)}, not text"
    if "\0" in name:
        return "the name holds a NUL byte"
    if re.search("[\ud800-\udfff]", name):
        return "the name is not UTF-8; save the file as UTF-8"
    return ""


def base_name(name: str) -> str:
    """The last path component of a face's name: what names are compared and read by."""
    return re.split(r"[/\\]", name)[-1]


def quoted(name: str) -> str:
    """A name as a cell of CSV. (Before Python 3.13, csv.writer leaves a carriage return bare.)"""
    return '"' + name.replace('"', '""') + '"' if any(mark in name for mark in _TO_QUOTE) else name


def all_quoted(names: Sequence[str]) -> Sequence[str]:
    """Names as cells of CSV."""
    text = "".join(names)  # to look for each mark takes less than a regular expression
    return [*map(quoted, names)] if any(mark in text for mark in _TO_QUOTE) else names


def utkface_labels(name: str) -> tuple[int, int, int | None] | None:
    """Age in years, gender (0 male, 1 female) and race (0-4) from a UTKFace file name.

    The convention is `[age]_[gender]_[race]_[date&time].jpg` (susanqq.github.io/UTKFace).
    Three of its names lack the race field: their race is None. None for any other name.
    """
    match = re.match(r"([0-9]{1,3})_([01])_(?:([0-4])_)?", base_name(name))
    if not match or int(match[1]) >= AGES:
        return None
    return int(match[1]), int(match[2]), int(match[3]) if match[3] else None


def labels(
    names: Sequence[str], ages: Sequence | None, genders: Sequence | None
) -> list[tuple[int, int]]:
    """Whole years and gender of each face, from columns where there are some, else from its name.

    -1 for what is missing, or is no age of 0-116 years or no gender.
    """
    told = []
    if ages is None or genders is None:
        told = [(utkface_labels(name) or (-1, -1))[:2] for name in names]
    of_ages = map(_age, ages) if ages is not None else [age for age, _ in told]
    of_genders = map(_gender, genders) if genders is not None else [gender for _, gender in told]
    return [*zip(of_ages, of_genders, strict=True)]


def _age(value: object) -> int:
    try:
        years = math.floor(float(value) + 0.5)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return -1
    return years if 0 <= years < AGES else -1


def _gender(value: object) -> int:
    word = str(value).strip().casefold()
    return next((gender for gender, words in enumerate(_GENDER_WORDS) if word in words), -1)
