"""Define ages, gender codes and the titles of label columns; read UTKFace's names."""

import re

from age_gender.files import base_name

AGE_CLASSES = 117  # 0 to 116 years, the range of UTKFace's labels
ADULT_AGE = 10  # years; the genders of younger faces, children, are not trained on
GENDERS = ("male", "female")  # by code: 0 male, 1 female, as UTKFace labels them
# Titles of gender columns: the first that a table has is read, and the others must agree
GENDER_COLUMNS = ("gender", "sex", "geschlecht", *GENDERS, *(f"is_{word}" for word in GENDERS))
LABEL_COLUMNS = ("age", *GENDER_COLUMNS)
INTERVAL_COVERAGE = 0.9  # nominal coverage of the interval from age_low to age_high


def utkface_labels(name: str) -> tuple[int, int, int | None] | None:
    """Return age in years, gender (0 male, 1 female) and race (0-4) from a UTKFace file name.

    The convention is `[age]_[gender]_[race]_[date&time].jpg` (susanqq.github.io/UTKFace).
    Three of its names lack the race field: their race is None. Any other name gives None.
    """
    match = re.match(r"([0-9]{1,3})_([01])_(?:([0-4])_)?", base_name(name))
    if not match or int(match[1]) >= AGE_CLASSES:
        return None
    return int(match[1]), int(match[2]), int(match[3]) if match[3] else None
