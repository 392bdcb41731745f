"""Write and read the CSV of predictions."""

import contextlib
import csv
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from age_gender.errors import InputError, printable
from age_gender.readers.bad_rows import RowSource
from age_gender.table_writing import quote_csv_cells


def _parse_number(text: str, number_type: type = int, maximum: float = math.inf) -> float | None:
    """Return the number from 0 to `maximum` in a cell, or None if it holds something else."""
    with contextlib.suppress(ValueError):
        number = number_type(text)
        if 0 <= number <= maximum:
            return number
    return None


COLUMNS: dict[str, Callable[[str], Any]] = {
    "filename": str,
    "gender": {"0": 0, "1": 1}.get,  # male, female
    **dict.fromkeys(("age", "age_low", "age_high"), _parse_number),  # years
    "female_probability": functools.partial(_parse_number, number_type=float, maximum=1),
}
HEADER = (",".join(COLUMNS) + "\n").encode()
PROBABILITY_UNITS = 10_000  # the CSV has four decimals


def to_columns(scores: np.ndarray) -> dict[str, np.ndarray]:
    """Return the CSV's columns after `filename`, each (n,).

    `scores` (n, 4 or more) have the columns of scorer.OUTPUTS.
    """
    *columns, probability = _round_scores(scores)
    return dict(zip([*COLUMNS][1:], [*columns, probability / PROBABILITY_UNITS], strict=True))


def _round_scores(scores: np.ndarray) -> np.ndarray:
    """Return gender, age, low, high in years, and probability in PROBABILITY_UNITS: int (5, n)."""
    units = [[1], [1], [1], [PROBABILITY_UNITS]]
    age, low, high, probability = np.rint(scores[:, :4].T * units).astype(int)
    is_female = probability >= PROBABILITY_UNITS // 2  # so that it agrees with the decimals
    return np.stack([is_female, age, low, high, probability])


def to_csv(names: Sequence[str], scores: np.ndarray) -> bytes:
    """Return the CSV's rows of faces, by their names and scores (n, 4 or more)."""
    *columns, probability = _round_scores(scores).tolist()
    cells = [""] * (3 * len(scores))
    cells[::3] = quote_csv_cells(names)
    cells[1::3] = map(_format_middle_cells, *columns)
    cells[2::3] = map(_format_last_cell, probability)
    return "".join(cells).encode()


# Cached, since there are only a few thousand combinations of ages and 10,001 probabilities
@functools.cache
def _format_middle_cells(gender: int, age: int, low: int, high: int) -> str:
    return f",{gender},{age},{low},{high},"


@functools.cache
def _format_last_cell(probability: int) -> str:
    return f"{probability / PROBABILITY_UNITS:.4f}\n"


def read(path: Path, *columns: str) -> list[tuple]:
    """Return the values of the `columns` in each row, parsed as in COLUMNS.

    Raises InputError that names the row and the line of the first wrong value.
    """
    rows = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            lines = csv.DictReader(stream, strict=True)
            if not {*columns} <= {*(lines.fieldnames or ())}:
                raise InputError(
                    f"{path}: needs the columns {' and '.join(columns)}, as run.py writes"
                )
            for number, cells in enumerate(lines, 1):
                values = tuple(COLUMNS[column](cells[column] or "") for column in columns)
                if None in values:
                    column = columns[values.index(None)]
                    raise InputError(
                        f"{RowSource(str(path), number, lines.line_num)}: {column} is "
                        f"{printable(repr(cells[column]))}, which run.py does not write; score "
                        "the embeddings again with it"
                    )
                rows.append(values)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV of predictions: {error}; give one of run.py") from None
    if not rows:
        raise InputError(f"{path}: no predictions in this file; score embeddings with run.py first")
    return rows
