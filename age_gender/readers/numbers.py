"""Texts into numbers, to the last bit what `float` gives: many rows at once, or one carefully."""

import contextlib
import re
import threading
from collections.abc import Sequence

import numpy as np

from age_gender.readers.errors import RowError

FEWEST, MOST = 16, 4096  # numbers of an embedding, where no model says how many
TINY = 1e-37  # float32 has no accuracy left below

_NUMBERS = re.compile(r"[0-9eE+\-. \t\r\n]*")
_MINUS_ZERO = re.compile(rb"-0(?![0-9.eE])")
_MARK = b"3e38"  # stands between rows: a number that is in no embedding

_of_thread = threading.local()  # its parser, used again: a new one a chunk takes a quarter more


def parse(rows: Sequence[bytes | memoryview], width: int) -> np.ndarray | None:
    """Return (n, width) float64 of the rows' numbers, each a text of numbers between commas.

    None for what is not so, and for all that JSON refuses or might read otherwise than `float`.
    """
    try:
        import simdjson
    except ImportError:  # no wheel for this Python: the careful way reads the same
        return None
    parser = _of_thread.parser = getattr(_of_thread, "parser", None) or simdjson.Parser()
    text = (b",%s," % _MARK).join([b"[1", *rows, b"1]"])
    if text.find(b"[", 1) >= 0:  # a list in a list would be taken apart
        return None
    try:
        document = parser.parse(text)
        values = np.frombuffer(document.as_buffer(of_type="d"))
    except (ValueError, TypeError, RuntimeError):
        return None
    finally:
        document = None  # or the parser would refuse the next text
    if values.size != len(rows) * (width + 1) + 3:
        return None
    table = values[2:-1].reshape(len(rows), width + 1)[:, :width]
    marks = np.flatnonzero(values == float(_MARK))
    if not np.array_equal(marks, np.arange(1, values.size, width + 1)):
        return None
    for row in np.flatnonzero(~table.all(axis=1)) if (values == 0).any() else ():
        if _MINUS_ZERO.search(rows[row]):  # which JSON takes for the whole number 0
            table = table if table.flags.writeable else table.copy()
            table[row] = [*map(float, bytes(rows[row]).split(b","))]
    return table


def is_number(text: str) -> bool:
    """Return whether `float` reads the text, and it is no digits with underscores."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


@np.errstate(over="ignore", invalid="ignore")
def finite(array: np.ndarray) -> np.ndarray:
    """Return an array as float32 (n,). Raises RowError that says which number is not finite."""
    values = array.astype(np.float32)
    for place in np.flatnonzero(~np.isfinite(values))[:1]:
        fault = "too large a number" if np.isfinite(array[place]) else "not a finite number"
        raise RowError(f"number {place + 1} is {array[place]:g}, {fault}")
    return values


@np.errstate(over="ignore")
def float32(cells: Sequence, what: str, first: int) -> np.ndarray:
    """Return a row's numbers, which may be text. Raises RowError that says which of them is none.

    They are called `what` ("cell", "number"), and counted from `first`.
    """
    with contextlib.suppress(ValueError):
        values = np.array(_floats(cells)).astype(np.float32)
        if np.isfinite(values).all():
            return values
    for place, cell in enumerate(cells, first):
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise RowError(f"{what} {place} is empty")
        try:
            (value,) = _floats([cell])
        except ValueError:
            value = np.nan
        if not np.isfinite(np.float32(value)):
            fault = "not a finite number" if value != value else "too large a number"
            raise RowError(f"{what} {place} is {shown(cell)}, {fault}")
    raise RowError("not a row of numbers")


def _floats(cells: Sequence) -> list[float]:
    """Return what `float` does; ValueError also for what only Python takes: 1_0, nan, True."""
    text = " ".join(cell for cell in cells if isinstance(cell, str))
    if not {*map(type, cells)} <= {str, int, float} or not _NUMBERS.fullmatch(text):
        raise ValueError("not numbers alone")
    return [*map(float, cells)]


def shown(value: object) -> str:
    """Return the beginning of a value from a file, for a message."""
    text = value.strip() if isinstance(value, str) else repr(value)
    text = text if len(text) <= 20 else text[:20] + "..."
    return ascii(text) if isinstance(value, str) else text
