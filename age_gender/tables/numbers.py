"""Numbers of embeddings from whatever a cell holds: text, a list, a BLOB.

`parse` reads the text of many rows at once; `vector` and `numbers` read one row carefully and say
what is wrong with it. Both give what Python's `float` gives, to the last bit of float32.
"""

import re
import threading
from collections.abc import Iterable, Sequence

import numpy as np

FEWEST, MOST = 16, 4096  # numbers of an embedding, where no model says how many
TINY = 1e-37  # float32 has no accuracy left below
ZEROS = "a row of zeros is no embedding (all numbers are under 1e-37)"
SHORTENED = (
    "numpy shortened this list (...); write whole lists: table.embedding.map(lambda e: e.tolist())"
)

_NUMBERS = re.compile(r"[0-9eE+\-. \t]*")
_SCALARS = re.compile(r"np\.float\d+\(([^()]*)\)")  # a list of NumPy's numbers, as it prints them
_MINUS_ZERO = re.compile(rb"-0(?![0-9.eE])")
_MARK = b"3e38"  # stands between rows: a number that is in no embedding


class _Parsers(threading.local):
    """One parser a thread, used again: a new one a piece takes a quarter more time."""

    parser = None

    def __reduce__(self):  # to a Dask worker goes none
        return type(self), ()


_parsers = _Parsers()


def parse(rows: Sequence[bytes | memoryview], width: int) -> np.ndarray | None:
    """(n, width) float64 of the rows' numbers, each a text of numbers between commas.

    None for what is not so, and for all that JSON refuses or might read otherwise than `float`.
    """
    try:
        import simdjson
    except ImportError:  # no wheel for this Python: the careful way reads the same
        return None
    if _parsers.parser is None:
        _parsers.parser = simdjson.Parser()
    text = (b",%s," % _MARK).join([b"[1", *rows, b"1]"])
    if text.find(b"[", 1) >= 0:  # a list in a list would be taken apart
        return None
    try:
        document = _parsers.parser.parse(text)
        values = np.frombuffer(document.as_buffer(of_type="d"))
    except (ValueError, TypeError, RuntimeError):
        return None
    finally:
        document = None  # or the parser would refuse the next text
    if values.size != len(rows) * (width + 1) + 3:
        return None
    table = values[2:-1].reshape(len(rows), width + 1)
    marks = np.flatnonzero(values == float(_MARK))
    if not np.array_equal(marks, np.arange(1, values.size, width + 1)):
        return None
    table = table[:, :width]
    if (values == 0).any():
        for row in np.flatnonzero(~table.all(axis=1)):
            if _MINUS_ZERO.search(rows[row]):  # which JSON takes for the whole number 0
                table = table if table.flags.writeable else table.copy()
                table[row] = [*map(float, bytes(rows[row]).split(b","))]
    return table


def float32(values: float | np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which Python takes for a number's


def in_list(text: str) -> list[str] | None:
    """The numbers, as text, of a list as Python, JSON, pgvector or NumPy write it; or None."""
    text = text.strip()
    if text[:1] != "[" or text[-1:] != "]":
        return None
    text = _SCALARS.sub(r"\1", text)[1:-1] if "np." in text else text[1:-1]
    return text.split(",") if "," in text else text.split()


def size(value: object, width: int | None) -> int:
    """How many numbers a column's value holds: a list's length, 0 for a number, -1 for neither.

    A BLOB of 4 or 8 bytes for each of `width` numbers is a list; another, or where no width is
    known, where its numbers are plausible.
    """
    if isinstance(value, bytes):
        kind = blob_type(value, width)
        return len(value) // kind.itemsize if kind else -1
    if isinstance(value, list):
        return len(value)
    if isinstance(value, str):
        cells = in_list(value)
        return len(cells) if cells is not None else 0 if is_number(value) else -1
    return 0 if isinstance(value, int | float) and not isinstance(value, bool) else -1


def blob_type(value: bytes, width: int | None) -> np.dtype | None:
    """float32 or float64, whichever a BLOB's length tells, else whichever its numbers tell."""
    kinds = [np.dtype("<f4"), np.dtype("<f8")]
    for kind in kinds:
        if width and len(value) == width * kind.itemsize:
            return kind
    for kind in kinds:
        if len(value) % kind.itemsize == 0 and len(value) >= FEWEST * kind.itemsize:
            numbers = np.frombuffer(value, kind)
            # Halves of doubles are float32s of any size, up to 1e38 or no number at all.
            if np.isfinite(numbers).all() and np.abs(numbers).max() < 1e10:
                return kind
    return None


def vector(value: object, width: int) -> tuple[np.ndarray, str, int]:
    """The `width` numbers of a list or BLOB, what is wrong ("" if nothing is), how many it has.

    Only where the number of numbers is what is wrong, the reason is left to the caller.
    """
    none = np.empty(0, np.float32)
    if value is None or value == "":
        return none, "the embedding is missing", width
    if isinstance(value, bytes):
        kind = blob_type(value, width)
        if kind is None:
            return none, f"a BLOB of {len(value):,} bytes is not {width} numbers", width
        cells: Sequence = np.frombuffer(value, kind)
    elif isinstance(value, str):
        cells = in_list(value)
        if cells is None:
            return none, f"{shown(value)} is not a list of numbers", width
        if "..." in value:
            return none, SHORTENED, width
    elif isinstance(value, list):
        cells = value
    else:
        return none, f"{shown(value)} is not a list of numbers", width
    if len(cells) != width:
        return none, "", len(cells)
    return *numbers(cells, "number", 1), width


def numbers(cells: Sequence, what: str, first: int) -> tuple[np.ndarray, str]:
    """A row's numbers, and what is wrong with it ("" if nothing is).

    `cells` are text or numbers; `what` they are called ("cell", "number"), counted from `first`.
    """
    text = not isinstance(cells, np.ndarray) and any(isinstance(cell, str) for cell in cells)
    if not text or _NUMBERS.fullmatch(" ".join(map(str, cells))):
        try:
            if not text and not all(map(_is_plain, cells)):
                raise TypeError
            values = float32(list(map(float, cells)))
        except (ValueError, TypeError, OverflowError):
            pass
        else:
            if np.isfinite(values).all():
                return values, "" if abs(values).max(initial=0) >= TINY else ZEROS
    return np.empty(0, np.float32), _fault(cells, what, first)


def _fault(cells: Iterable, what: str, first: int) -> str:
    for place, cell in enumerate(cells, first):
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            return f"{what} {place} is empty"
        plain = _is_plain(cell) if not isinstance(cell, str) else (
            _NUMBERS.fullmatch(cell) and is_number(cell))  # fmt: skip
        try:
            value = float(cell) if plain else None
        except OverflowError:  # of a whole number
            value = np.inf
        if value is None or value != value:
            return f"{what} {place} is {shown(cell)}, not a finite number"
        if not np.isfinite(float32(value)):
            return f"{what} {place} is {shown(cell)}, too large a number"
    return "not a row of numbers"


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | np.floating) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value from a file, in a message."""
    text = value.strip() if isinstance(value, str) else repr(value)
    text = text if len(text) <= 20 else text[:20] + "..."
    return ascii(text) if isinstance(value, str) else text
