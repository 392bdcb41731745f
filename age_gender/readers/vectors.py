"""Numbers of embeddings from whatever a cell holds: text, a list, a BLOB.

`parse` reads the text of many rows at once; `cells` and `float32` read one row carefully and say
what is wrong with it. Both give what Python's `float` gives, to the last bit of float32.
"""

import contextlib
import re
import threading
from collections.abc import Sequence

import numpy as np

from age_gender.readers.errors import RowError

FEWEST, MOST = 16, 4096  # numbers of an embedding, where no model says how many
TINY = 1e-37  # float32 has no accuracy left below
WHOLE_LISTS = "write whole lists: table.embedding.map(lambda e: e.tolist())"

_NUMBERS = re.compile(r"[0-9eE+\-. \t]*")
_SCALARS = re.compile(r"np\.float\d+\(([^()]*)\)")  # a list of NumPy's numbers, as it prints them
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


def in_list(text: str) -> list[str] | None:
    """Return the numbers, as text, of a list as Python, JSON, pgvector or NumPy write it."""
    text = text.strip()
    if text[:1] != "[" or text[-1:] != "]":
        return None
    text = _SCALARS.sub(r"\1", text)[1:-1] if "np." in text else text[1:-1]
    return text.split(",") if "," in text else text.split()


def size(value: object, width: int | None) -> int:
    """Return how many numbers a value holds: a list's length, 0 for a number, -1 for neither.

    A BLOB of 4 or 8 bytes for each of `width` numbers is a list; another, or where no width is
    known, where its numbers are plausible.
    """
    with contextlib.suppress(RowError):
        return len(cells(value, width))
    return 0 if type(value) in (int, float) or (type(value) is str and is_number(value)) else -1


def blob_type(value: bytes, width: int | None) -> np.dtype | None:
    """Return float32 or float64 by a BLOB's length, else by its numbers, or None."""
    dtypes = [np.dtype("<f4"), np.dtype("<f8")]
    for dtype in dtypes:
        if width and len(value) == width * dtype.itemsize:
            return dtype
    for dtype in dtypes:
        if len(value) % dtype.itemsize == 0 and len(value) >= FEWEST * dtype.itemsize:
            numbers = np.frombuffer(value, dtype)
            # Halves of doubles are float32s of any size, up to 1e38 or no number at all.
            if np.isfinite(numbers).all() and np.abs(numbers).max() < 1e10:
                return dtype
    return None


def cells(value: object, width: int | None) -> list:
    """Return the numbers, or their texts, of a list or BLOB. Raises RowError."""
    if value is None or value == "":
        raise RowError("the embedding is missing")
    if isinstance(value, bytes):
        dtype = blob_type(value, width)
        if dtype is None:
            raise RowError(f"a BLOB of {len(value):,} bytes is not {width} numbers")
        return np.frombuffer(value, dtype).tolist()
    cells = in_list(value) if isinstance(value, str) else value
    if not isinstance(cells, list):
        raise RowError(f"{shown(value)} is not a list of numbers")
    return cells


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
