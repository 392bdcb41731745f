"""Write and read the CSV of predictions."""

import contextlib
import csv
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from age_gender.cli import InputError, printable
from age_gender.readers.names import quote_csv_cells


def _number(text: str, number_type: type = int, most: float = math.inf) -> float | None:
    """Return the number from 0 to `most` in a cell; None where it holds something else."""
    with contextlib.suppress(ValueError):
        return number if 0 <= (number := number_type(text)) <= most else None


COLUMNS: dict[str, Callable[[str], Any]] = {
    "filename": str,
    "gender": {"0": 0, "1": 1}.get,  # male, female
    **dict.fromkeys(("age", "age_low", "age_high"), _number),  # years
    "female_probability": functools.partial(_number, number_type=float, most=1),
}
HEADER = (",".join(COLUMNS) + "\n").encode()
_LINE_ENDS = [f"{p / 10_000:.4f}\n" for p in range(10_001)]  # of every probability


@functools.cache  # a few thousand combinations make up all faces
def _middle(gender: int, age: int, low: int, high: int) -> str:
    return f",{gender},{age},{low},{high},"


def output_columns(scores: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns behind the name, each (n,), of scores (n, 4 or more), litert.OUTPUTS."""
    whole = _in_units(scores)
    names = list(COLUMNS)[1:]
    return dict(zip(names, [*whole[:4], whole[4] / 10_000], strict=True))


def _in_units(scores: np.ndarray) -> np.ndarray:
    """Return gender, three ages in years and the probability in ten-thousandths: whole (5, n)."""
    age, low, high, female = np.rint(scores[:, :4].T * [[1], [1], [1], [10_000]]).astype(int)
    return np.stack([female >= 5000, age, low, high, female])  # the gender as the text has it


def as_csv(names: Sequence[str], scores: np.ndarray) -> bytes:
    """Return rows of the CSV, of names, quoted where they need that, and scores (n, 4 or more)."""
    *middle, female = _in_units(scores).tolist()
    cells = [""] * (3 * len(scores))
    cells[::3] = quote_csv_cells(names)
    cells[1::3] = map(_middle, *middle)
    cells[2::3] = map(_LINE_ENDS.__getitem__, female)
    return "".join(cells).encode()


def read(path: Path, *columns: str) -> list[tuple]:
    """Return the `columns` of each row, as COLUMNS has them; other columns may be there or not.

    Raises InputError that names the row and the line of the first fault.
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
                        f"{path}: row {number} (line {lines.line_num}): {column} is "
                        f"{printable(repr(cells[column]))}, which run.py does not write; score "
                        "the embeddings again with it"
                    )
                rows.append(values)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV of predictions: {error}; give one of run.py") from None
    if not rows:
        raise InputError(f"{path}: no predictions in this file; score embeddings with run.py first")
    return rows
