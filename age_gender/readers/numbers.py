"""Parse text into numbers, to the last bit as `float` does: many rows in bulk, or a single one."""

import contextlib
import re
import threading
from collections.abc import Sequence

import numpy as np

from age_gender.readers.bad_rows import RowError

_NUMBERS = re.compile(r"[0-9eE+\-. \t\r\n]*")  # without nan, inf and underscores
_MINUS_ZERO = re.compile(rb"-0(?![0-9.eE])")
_ROW_SEPARATOR = b"3e38"  # a number that is in no embedding

_thread_local = threading.local()  # keeps a parser: a new one for each chunk takes 25 % longer


def parse_number_table(rows: Sequence[bytes | memoryview], width: int) -> np.ndarray | None:
    """Return the numbers of rows, float64 (n, width); a row is text with commas between numbers.

    Returns None for any other text, where JSON and `float` might give different numbers, and
    without pysimdjson.
    """
    # Parse one JSON array of all rows with separators between them
    try:
        import simdjson
    except ImportError:  # no wheel for this Python; parsing row by row gives the same
        return None
    parser = _thread_local.parser = getattr(_thread_local, "parser", None) or simdjson.Parser()
    text = (b",%s," % _ROW_SEPARATOR).join([b"[1", *rows, b"1]"])
    if text.find(b"[", 1) >= 0:  # a list in a list would be flattened
        return None
    try:
        document = parser.parse(text)
        values = np.frombuffer(document.as_buffer(of_type="d"))
    except (ValueError, TypeError, RuntimeError):
        return None
    finally:
        document = None  # otherwise the parser refuses the next text

    # Check that each row has its width
    if values.size != len(rows) * (width + 1) + 3:
        return None
    table = values[2:-1].reshape(len(rows), width + 1)[:, :width]
    separators = np.flatnonzero(values == float(_ROW_SEPARATOR))
    if not np.array_equal(separators, np.arange(1, values.size, width + 1)):
        return None

    # Restore -0, which JSON reads as the whole number 0
    for row in np.flatnonzero(~table.all(axis=1)) if (values == 0).any() else ():
        if _MINUS_ZERO.search(rows[row]):
            table = table if table.flags.writeable else table.copy()
            table[row] = [*map(float, bytes(rows[row]).split(b","))]
    return table


def is_number_text(text: str) -> bool:
    """Return whether `float` reads the text; text with underscores does not count."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def describe_not_finite(values: np.ndarray) -> str:
    """Return a message on the first number of a row (n,) that is not finite as float32, or ""."""
    with np.errstate(over="ignore", invalid="ignore"):
        not_finite = np.flatnonzero(~np.isfinite(values.astype(np.float32)))
    if not len(not_finite):
        return ""
    value = values[not_finite[0]]
    fault = "too large a number" if np.isfinite(value) else "not a finite number"
    return f"number {not_finite[0] + 1} is {value:g}, {fault}"


def to_float32(values: np.ndarray) -> np.ndarray:
    """Return a row (n,) as float32. Raises RowError for the first number that is not finite."""
    if fault := describe_not_finite(values):
        raise RowError(fault)
    return values.astype(np.float32)


@np.errstate(over="ignore")
def parse_cells(cells: Sequence, noun: str, first: int) -> np.ndarray:
    """Return a row's numbers, which may be text, as float32 (n,).

    Raises RowError for the first cell that is no finite number; it is called `noun` ("cell",
    "number"), and cells count from `first`.
    """
    with contextlib.suppress(ValueError):
        values = np.array(_to_floats(cells)).astype(np.float32)
        if np.isfinite(values).all():
            return values
    for number, cell in enumerate(cells, first):
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise RowError(f"{noun} {number} is empty")
        try:
            (value,) = _to_floats([cell])
        except ValueError:
            value = np.nan
        if not np.isfinite(np.float32(value)):
            fault = "not a finite number" if value != value else "too large a number"
            raise RowError(f"{noun} {number} is {excerpt(cell)}, {fault}")
    raise RowError("not a row of numbers")  # never reached, as one of the cells is bad


def _to_floats(cells: Sequence) -> list[float]:
    """Return cells as `float` reads them; raises ValueError also for 1_0, nan and True."""
    text = " ".join(cell for cell in cells if isinstance(cell, str))
    if not {*map(type, cells)} <= {str, int, float} or not _NUMBERS.fullmatch(text):
        raise ValueError("not numbers alone")
    return [*map(float, cells)]


def excerpt(value: object) -> str:
    """Return the beginning of a value from a file, for a message."""
    text = value.strip() if isinstance(value, str) else repr(value)
    text = text if len(text) <= 20 else text[:20] + "..."
    return ascii(text) if isinstance(value, str) else text
