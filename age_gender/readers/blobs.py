"""Decode an embedding's bytes from text, and find which type of numbers they hold."""

import ast
import base64
import binascii
import contextlib
import io
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from age_gender.embeddings import MAX_WIDTH, MIN_WIDTH
from age_gender.readers.bad_rows import RowError

DTYPES = {
    "float32": np.dtype("<f4"), "float64": np.dtype("<f8"), "float16": np.dtype("<f2"),
    "float32-be": np.dtype(">f4"), "float64-be": np.dtype(">f8"), "float16-be": np.dtype(">f2"),
}  # fmt: skip
# Hex as PostgreSQL, MySQL and SQLite write it, also with spaces or C#'s hyphens
_HEX = re.compile(r"(?:\\\\?x|0x|[xX]')?((?:[0-9a-fA-F]{2}[ -]?)+)'?")
_HEX_MARKS = str.maketrans("", "", " -")
_BASE64_MARKS = re.compile(r"data:application/[\w.-]+;base64,|b(?=')|'")  # around base64
_MONGODB_FLOAT32 = b"\x27"  # the type of a vector of MongoDB's subtype 9
_URL_SAFE = str.maketrans("-_", "+/", "\r\n")


def as_bytes(value: object) -> bytes | None:
    """Return the value if it is bytes."""
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None


def decode_hex(value: object) -> bytes | None:
    r"""Return the bytes of \x0080c23b, 0x0080C23B, X'0080c23b' or 0080c23b."""
    if isinstance(value, str) and (text := _HEX.fullmatch(value.strip())):
        return binascii.unhexlify(text[1].translate(_HEX_MARKS))
    return None


def decode_base64(value: object) -> bytes | None:
    """Return the bytes of base64, also URL-safe, without padding or with line breaks."""
    if not isinstance(value, str):
        return None
    text = value.strip()
    if "'" in text or ":" in text:
        text = _BASE64_MARKS.sub("", text)
    text = text.translate(_URL_SAFE).rstrip("=")
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    return None


def decode_bytes_literal(value: object) -> bytes | None:
    r"""Return the bytes of b'\x00\x80', as Python prints them and pandas writes them."""
    if isinstance(value, str) and re.match(r"b['\"]", value.strip()):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return as_bytes(ast.literal_eval(value.strip()))
    return None


def decode_integers(value: object) -> bytes | None:
    """Return the bytes of [0, 128, 194, 59, ...], as Rust and Java write bytes in JSON."""
    if isinstance(value, list) and value and type(value[0]) is int:
        with contextlib.suppress(ValueError, TypeError):
            return bytes(value)
    return None


def decode_object(value: object) -> bytes | None:
    """Return the bytes of {"type": "Buffer", "data": [0, 128, ...]} or MongoDB's $binary."""
    if not isinstance(value, Mapping):
        return None
    if value.get("type") == "Buffer":
        return decode_integers(value.get("data"))
    binary = value.get("$binary")
    if not isinstance(binary, Mapping):
        return decode_base64(binary)
    data = decode_base64(binary.get("base64"))
    is_vector = data and binary.get("subType") == "09" and data[:1] == _MONGODB_FLOAT32
    return data[2:] if is_vector else data  # after the type and the padding


# Functions that return a value's bytes, or None for another encoding, by their name in messages
ENCODINGS: dict[str, Callable[[object], bytes | None]] = {
    "": as_bytes,
    "hex of ": decode_hex,
    "a bytes literal of ": decode_bytes_literal,
    "base64 of ": decode_base64,
    "an object of ": decode_object,
    "a list of bytes of ": decode_integers,
}


def parse_npy(data: bytes) -> np.ndarray | None:
    """Return the numbers of an .npy, flattened, or None. Raises RowError for a broken .npy."""
    if not data.startswith(b"\x93NUMPY"):
        return None
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception:  # NumPy raises many types
        raise RowError("an .npy that cannot be read") from None
    return array.reshape(-1) if array.dtype.kind in "fiu" else None


def parse_numbers(dtype: np.dtype, data: bytes) -> np.ndarray:
    """Return bytes as numbers of a type. Raises RowError for no bytes or a cut-off number."""
    if not data or len(data) % dtype.itemsize:
        raise RowError(f"{len(data):,} bytes cannot be read as {dtype_name(dtype)} numbers")
    return np.frombuffer(data, dtype)


def dtype_name(dtype: np.dtype) -> str:
    """Return the name that `--blob-type` gives a type."""
    return next(name for name, other in DTYPES.items() if other == dtype)


def plausible_types(values: Sequence[bytes], width: int | None) -> list[np.dtype]:
    """Return the types that bytes may hold: one if the width fits, else all plausible types.

    If the width fits, the type is little-endian unless only big-endian numbers are plausible.
    """
    plausible = [dtype for dtype in DTYPES.values() if _is_plausible(values, dtype)]
    of_size = [d for d in DTYPES.values() if width and len(values[0]) == width * d.itemsize]
    return ([d for d in of_size if d in plausible] or of_size)[:1] or plausible


@np.errstate(all="ignore")
def _is_plausible(values: Sequence[bytes], dtype: np.dtype) -> bool:
    """Return whether bytes, read as this type, are numbers of an embedding's size.

    Read as a wrong type, numbers may have any size: float16 read as float32 gives 1e-9, float64
    read as float32 up to 1e38, float32 read as float16 infinity or thousands, or every second
    number is zero.
    """
    if {len(value) % dtype.itemsize for value in values} != {0}:
        return False
    for numbers in (np.frombuffer(value, dtype).astype(float) for value in values):
        length = np.sqrt((numbers**2).sum())
        if not (MIN_WIDTH <= len(numbers) <= MAX_WIDTH and 1e-3 < length < 1e3):
            return False
        if any(np.count_nonzero(numbers[i::2]) < len(numbers) / 8 for i in (0, 1)):
            return False
    return True
