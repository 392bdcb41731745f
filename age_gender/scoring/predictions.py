"""The CSV of predictions: the one place that writes its rows and the one that reads them back."""

import csv
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from age_gender.script import InputError, printable
from age_gender.tables.names import all_quoted


def _gender(text: str) -> int:
    return ("0", "1").index(text)


def _probability(text: str) -> float:
    if not 0 <= (probability := float(text)) <= 1:
        raise ValueError
    return probability


COLUMNS: dict[str, Callable[[str], Any]] = {
    "filename": str,
    "gender": _gender,  # 0 male, 1 female
    "age": int,  # years, like the ends of its interval
    "age_low": int,
    "age_high": int,
    "female_probability": _probability,
}
HEADER = ",".join(COLUMNS)
_LINE_ENDS = [f"{p / 10_000:.4f}\n" for p in range(10_001)]  # of every probability


@functools.cache  # a few thousand combinations make up all faces
def _middle(gender: int, age: int, low: int, high: int) -> str:
    return f",{gender},{age},{low},{high},"


def as_csv(names: Sequence[str], scores: np.ndarray) -> bytes:
    """Rows of the CSV: names, quoted where it needs that, and scores float32 (n, 5).

    The scores are the litert.OUTPUTS, of which the last, the distance, is not written.
    """
    years = np.rint(scores[:, :3]).astype(int).T.tolist()
    probability = np.rint(10_000 * scores[:, 3]).astype(int)
    gender = (probability >= 5000).astype(int).tolist()  # by the probability as it is written
    cells = [""] * (3 * len(scores))
    cells[::3] = all_quoted(names)
    cells[1::3] = map(_middle, gender, *years)
    cells[2::3] = map(_LINE_ENDS.__getitem__, probability.tolist())
    return "".join(cells).encode()


def read(path: Path, *columns: str) -> list[tuple]:
    """The `columns` of each row, as COLUMNS has them; other columns may be there or not.

    Raises InputError that names the row and the line of the first fault.
    """
    rows = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if not set(columns) <= set(reader.fieldnames or ()):
                raise InputError(
                    f"{path}: needs the columns {' and '.join(columns)}, as run.py writes"
                )
            for number, row in enumerate(reader, 1):
                rows.append(tuple(_value(path, number, reader, row, name) for name in columns))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV of predictions: {error}; use run.py's") from None
    if not rows:
        raise InputError(f"{path}: no predictions in this file; score embeddings with run.py first")
    return rows


def _value(path: Path, number: int, reader: csv.DictReader, row: dict, column: str):
    try:
        return COLUMNS[column](row[column])
    except (TypeError, ValueError):
        raise InputError(
            f"{path}: row {number} (line {reader.line_num}): {column} is "
            f"{printable(repr(row[column]))}, which run.py does not write; score the "
            "embeddings again with it"
        ) from None
