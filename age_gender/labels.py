"""Ages and genders: their range, their codes, what UTKFace's file names say of them."""

import math
import re
from collections.abc import Sequence

AGES = 117  # 0-116 years, the range of UTKFace's labels
GENDERS = ("male", "female")  # 0 and 1, as the data sets label them
NOMINAL = 0.9  # share of the ages that age_low to age_high promise to hold
_GENDER_WORDS = (("0", "0.0", "male", "man", "m"), ("1", "1.0", "female", "woman", "f"))


def base_name(name: str) -> str:
    """The last path component of a face's name: what names are compared and read by."""
    return re.split(r"[/\\]", name)[-1]


def utkface_labels(name: str) -> tuple[int, int, int | None] | None:
    """Age in years, gender (0 male, 1 female) and race (0-4) from a UTKFace file name.

    The convention is `[age]_[gender]_[race]_[date&time].jpg` (susanqq.github.io/UTKFace).
    Three of its names lack the race field: their race is None. None for any other name.
    """
    match = re.match(r"([0-9]{1,3})_([01])_(?:([0-4])_)?", base_name(name))
    if not match or int(match[1]) >= AGES:
        return None
    return int(match[1]), int(match[2]), int(match[3]) if match[3] else None


def face_labels(
    names: Sequence[str], ages: Sequence | None, genders: Sequence | None
) -> list[tuple[int, int]]:
    """Whole years and gender of each face, from columns where there are some, else from its name.

    -1 for what is missing, or is no age of 0-116 years or no gender.
    """
    metadata = []
    if ages is None or genders is None:
        metadata = [(utkface_labels(name) or (-1, -1))[:2] for name in names]
    of_ages = map(_age, ages) if ages is not None else [age for age, _ in metadata]
    of_genders = (
        map(_gender, genders) if genders is not None else [gender for _, gender in metadata]
    )
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
