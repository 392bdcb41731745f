"""The CSV of predictions: the one place that writes its rows and the one that reads them back."""

import contextlib
import csv
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from age_gender.cli import InputError, printable
from age_gender.readers.names import all_quoted


def _number(text: str, kind: type = int, most: float = math.inf) -> float | None:
    """The number from 0 to `most` in a cell; None where it holds something else."""
    with contextlib.suppress(ValueError):
        return number if 0 <= (number := kind(text)) <= most else None


COLUMNS: dict[str, Callable[[str], Any]] = {
    "filename": str,
    "gender": {"0": 0, "1": 1}.get,  # male, female
    **dict.fromkeys(("age", "age_low", "age_high"), _number),  # years
    "female_probability": functools.partial(_number, kind=float, most=1),
}
HEADER = (",".join(COLUMNS) + "\n").encode()
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
    import pandas as pd

    converters = {column: COLUMNS[column] for column in columns}
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            table = pd.read_csv(
                stream, usecols=columns, converters=converters,
                index_col=False, keep_default_na=False,  # "NA" is a name like another
            )[[*columns]]  # fmt: skip
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: not a CSV of predictions: {error}; use run.py's") from None
    except ValueError:
        options = " and ".join(columns)
        raise InputError(f"{path}: needs the columns {options}, as run.py writes") from None
    if table.empty:
        raise InputError(f"{path}: no predictions in this file; score embeddings with run.py first")
    for row, column in np.argwhere(table.isna().to_numpy()):
        with open(path, newline="", encoding="utf-8-sig") as stream:
            lines = csv.DictReader(stream)  # pandas keeps neither the text nor the line
            text = next(itertools.islice(lines, row, None))[columns[column]]
            raise InputError(
                f"{path}: row {row + 1} (line {lines.line_num}): {columns[column]} is "
                f"{printable(repr(text))}, which run.py does not write; score the embeddings "
                "again with it"
            )
    return list(table.itertuples(index=False, name=None))
