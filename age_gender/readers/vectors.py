"""Turn a value of any format into the numbers of an embedding: text, bytes, lists, objects.

`find_format` finds the format of a column from its first values; it is the same in the whole file.
Formats are entries in tables: what surrounds the numbers of a text (WRAPPERS), what lists and
objects look like (OBJECT_FORMATS), and how bytes and their encodings hold numbers (blobs.py).
"""

import contextlib
import functools
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from age_gender.cli import counted
from age_gender.embeddings import MAX_WIDTH, MIN_WIDTH
from age_gender.readers import blobs
from age_gender.readers.bad_rows import MISSING_EMBEDDING, RowError
from age_gender.readers.numbers import excerpt, is_number_text, parse_cells, to_float32

SHORTENED = RowError(
    "numpy shortened this list (...)",
    "write whole lists: table.embedding.map(lambda e: e.tolist())",
)
_SEVERAL_FACES = RowError("a list of several faces", "write one row per face")

# Formats of text, by the name that messages use: the regular expressions of the text before and
# after the numbers. Formats may be nested. The first match is the column's, so put a special one
# above a general one. To add one, see CONTRIBUTING.md.
_NAMED = r"(?:,\s*\w+=(?:<[^<>]*>|'[^']*'|\([\d, ]*\)|[\w.]+))*"  # dtype=float32, grad_fn=<...>
_NUMPY_OPENING = r"(?:np\.|numpy\.|jnp\.|jax\.)?[aA]rray\((?:'[fd]',\s*)?"
_PADDLE_OPENING = r"Tensor\((?:\w+=(?:\[[\d, ]*\]|Place\([^()]*\)|[\w.]+),\s*)+"
WRAPPERS = {
    "a DeepFace answer": (  # str or JSON of what represent() returns
        r"\[?\{['\"]embedding['\"]:\s*(?=\[)",
        r"(?:,\s*['\"]facial_area['\"].*|,\s*['\"]face_confidence['\"].*)?\}\]?",
    ),
    "a Go slice": (r"\[\d*\]float(?:32|64)", ""),  # []float32{0.1, 0.2}
    "a list": (r"\[", r",?\s*\]"),  # Python, JSON, pgvector, Java; with spaces NumPy, Go
    "a tuple": (r"\(", r",?\s*\)"),  # Python, PostgreSQL's cube
    "a PostgreSQL array": (r"\{", r"\}"),
    "a NumPy array": (_NUMPY_OPENING, rf"{_NAMED},?\s*\)"),
    "an MXNet array": (r"(?=\[)", r"\s*<NDArray [^<>]*>"),
    "a PyTorch tensor": (r"(?:Parameter containing:\s*)?(?:torch\.)?tensor\(", rf"{_NAMED},?\s*\)"),
    "a PaddlePaddle tensor": (_PADDLE_OPENING, r"\)"),
    "a TensorFlow tensor": (r"tf\.Tensor\(", rf"{_NAMED}\)"),
    "a TensorFlow value": (r"<tf\.Tensor:[^\[]*numpy=", ">"),
    "a typed array": (r"(?:new )?Float(?:32|64)Array\s*(?:\(\d+\)\s*)?(?=[\[{(])", ""),
    "an R vector": (r"c\(", r"\)"),
    "a Julia vector": (r"Float(?:16|32|64)(?=\[)", ""),
    "a C# or Java array": (r"(?:new )?(?:float|double)\[\d*\]\s*(?=\{)", ""),
    "a deque": (r"(?:collections\.)?deque\(", rf"{_NAMED}\)"),
    "a Spark or pgvector vector": (r"(?:Dense|Half)?Vector\(", r"\)"),
    "a list in quotes": (r"['\"](?=[\[({])", r"['\"]"),
    "bare numbers": (r"(?=[-+.\d][-+.\deE,;|\s]+\Z)", ""),  # ','.join(map(str, embedding))
}
_OPENINGS = {name: re.compile(opening) for name, (opening, _) in WRAPPERS.items()}
_CLOSINGS = {name: re.compile(rf"(?:{closing})\Z") for name, (_, closing) in WRAPPERS.items()}
_CLOSING_LENGTH = 400  # characters at the end of a text in which a closing is searched for
_BRACKET = re.compile(r"[\[({]")
_SCALARS = re.compile(r"(?:np\.float\d+|Decimal)\('?([^()']*)'?\)")  # printed numbers of a list
_QUOTES = re.compile(r"""(?<![^\s,])['"]|['"](?![^\s,])""")  # around the numbers of a list of texts
_JULIA_EXPONENT = re.compile(r"(?<=[\d.])f(?=[-+]?\d)")  # 1.0f-5
_TYPE_NAMES = re.compile(r"System\.\w+\[\]|\[[FD]@\w+|\[object \w+\]|<memory at \w+>|<\w[^>]*>")
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM")


class VectorFormat(NamedTuple):
    """Describe how a column's values hold numbers.

    `extract` returns a value's numbers, which may be texts, or None for another format.
    """

    name: str
    extract: Callable[[object], Sequence | None]
    dtype: np.dtype | None = None  # type of bytes that hold nothing but the numbers
    other_dtypes: tuple[str, ...] = ()  # other types that the bytes may have

    def read(self, value: object, width: int) -> np.ndarray:
        """Return the value as float32 (width,). Raises RowError."""
        if _is_missing(value):
            raise RowError(MISSING_EMBEDDING)
        cells = self.extract(value)
        if cells is None:
            raise _other_format_error(self, value)
        if len(cells) != width:
            raise RowError(f"{counted(len(cells), 'number')}, not {width:,}")
        if isinstance(cells, np.ndarray):
            return to_float32(cells)
        return parse_cells(cells, "number", 1)


def find_format(
    values: Sequence[object], width: int | None = None, blob_type: str | None = None
) -> VectorFormat | None:
    """Return the format of the first of these values that is not missing, or None.

    The other values help to find which type of numbers bytes hold, unless `blob_type` names it.
    """
    values = [value for value in values if not _is_missing(value)]
    if not values or is_scalar(values[0]) or _is_word(values[0]):
        return None
    is_list = isinstance(values[0], list)  # a list of bytes, if these make sense as numbers
    if is_list and (vector_format := _find_encoded_format(values, width, blob_type)):
        return vector_format
    for vector_format in (*OBJECT_FORMATS, *TEXT_FORMATS):
        if _has_format(vector_format, values[0], width):
            return vector_format
    return None if is_list else _find_encoded_format(values, width, blob_type)


def _find_encoded_format(
    values: Sequence[object], width: int | None, blob_type: str | None
) -> VectorFormat | None:
    """Return the format of values that are bytes, or that encode bytes as the first one does."""
    for name, decode in blobs.ENCODINGS.items():
        if (data := decode(values[0])) is None:
            continue
        all_data = [data, *(other for other in map(decode, values[1:]) if other is not None)]
        if inner := _find_bytes_format(all_data, width, blob_type):
            dtype = inner.dtype if decode is blobs.as_bytes else None
            extract = functools.partial(_extract_encoded, decode, inner)
            return VectorFormat(name + inner.name, extract, dtype, inner.other_dtypes)
    return None


def count_numbers(value: object, vector_format: VectorFormat | None) -> int:
    """Return how many numbers a value of this format holds; 0 for another format.

    Raises RowError for a faulty value of this format.
    """
    cells = vector_format.extract(value) if vector_format else None
    return 0 if cells is None else len(cells)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value)


def _is_word(value: object) -> bool:
    """Return whether a text is too short for any format, as most titles and names are."""
    return isinstance(value, str) and len(value) < 12 and not _BRACKET.search(value)


def is_scalar(value: object) -> bool:
    """Return whether a value is one number, or the text of one."""
    return type(value) in (int, float) or (type(value) is str and is_number_text(value))


def _has_format(vector_format: VectorFormat, value: object, width: int | None) -> bool:
    """Return whether a value has a format.

    Fewer than MIN_WIDTH numbers have a format only in a list or an object, or if there are `width`
    of them.
    """
    try:
        cells = vector_format.extract(value)
    except RowError:  # a faulty value of this format
        return True
    is_list = vector_format is TEXT_LIST or vector_format in OBJECT_FORMATS
    return cells is not None and (is_list or len(cells) == width or len(cells) >= MIN_WIDTH)


# --------------------------------------------------------------------------------- text


def _unwrap_numbers(name: str, value: object) -> list[str] | None:
    """Return the numbers inside this wrapper, and inside wrappers within it, as texts."""
    if not isinstance(value, str) or (body := _unwrap(name, value.strip())) is None:
        return None
    for _ in range(3):
        unwrapped = (_unwrap(other, body) for other in WRAPPERS)
        inner = next((text for text in unwrapped if text is not None), None)
        if inner is None:
            break
        body = inner
    if "..." in body:
        raise SHORTENED
    if "(" in body:
        body = _SCALARS.sub(r"\1", body)
    if re.search(r"[\])}]\s*,?\s*[\[({a-zA-Z]", body):
        raise _SEVERAL_FACES
    if "'" in body or '"' in body:
        body = _QUOTES.sub("", body)
    if "f" in body:
        body = _JULIA_EXPONENT.sub("e", body)
    return _split_cells(body)


def _split_cells(body: str) -> list[str]:
    """Return cells between semicolons, bars, commas or spaces; the first two allow 0,1."""
    for separator in (";", "|"):
        if separator in body:
            return body.replace(",", ".").split(separator)
    return body.split(",") if "," in body else body.split()


def _unwrap(name: str, text: str) -> str | None:
    opened = _OPENINGS[name].match(text)
    closed = opened and _CLOSINGS[name].search(text, max(opened.end(), len(text) - _CLOSING_LENGTH))
    return text[opened.end() : closed.start()].strip() if closed else None


TEXT_FORMATS = [VectorFormat(name, functools.partial(_unwrap_numbers, name)) for name in WRAPPERS]
TEXT_LIST = next(vector_format for vector_format in TEXT_FORMATS if vector_format.name == "a list")


# --------------------------------------------------------------------- lists and objects


def _extract_list(value: object) -> Sequence | None:
    """Return the cells of a list or an array, or None; a list of one vector is that vector."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return None
    if len(value) == 1 and isinstance(value[0], list | tuple | dict):
        extract = _extract_object if isinstance(value[0], dict) else _extract_list
        return extract(value[0])
    are_points = bool(value) and isinstance(value[0], list | tuple | dict)  # or several faces
    return None if are_points else value


def _extract_object(value: object) -> Sequence | None:
    """Return the values of {"0": 0.1, "1": 0.2, ...}: keys that count up from 0 or 1, in order."""
    if not isinstance(value, Mapping) or len(value) < 2:
        return None
    if not all(type(cell) in (int, float) for cell in itertools.islice(value.values(), 3)):
        return None
    stems, numbers = zip(*map(_split_number, map(str, value)), strict=True)
    start = min(numbers)
    is_run = sorted(numbers) == [*range(start, start + len(numbers))]
    if start not in (0, 1) or len({*stems}) > 1 or not is_run:
        return None
    return [cell for _, cell in sorted(zip(numbers, value.values(), strict=True))]  # all differ


def _extract_json_object(value: object) -> Sequence | None:
    """Return the values of an object with running keys that is JSON in a text."""
    if isinstance(value, str) and value.startswith('{"'):
        with contextlib.suppress(ValueError, RecursionError):
            return _extract_object(json.loads(value))
    return None


def _split_number(key: str) -> tuple[str, int]:
    """Return a key without the number at its end, and the number, or -1 without one."""
    digits = re.search(r"[0-9]{1,6}\Z", key)
    return (key[: digits.start()], int(digits[0])) if digits else (key, -1)


LIST = VectorFormat("a list of numbers", _extract_list)
OBJECT_FORMATS = [
    LIST,
    VectorFormat("an object with running keys", _extract_object),
    VectorFormat("the text of an object with running keys", _extract_json_object),
]

# --------------------------------------------------------------------------------- bytes


def _extract_encoded(decode: Callable, inner: VectorFormat, value: object) -> Sequence | None:
    data = decode(value)
    return None if data is None else inner.extract(data)


def _extract_utf8(data: bytes) -> Sequence | None:
    if data[:1] not in (b"[", b"(", b"{"):
        return None
    with contextlib.suppress(UnicodeDecodeError):
        text = data.decode()
        extracted = (vector_format.extract(text) for vector_format in TEXT_FORMATS)
        return next((cells for cells in extracted if cells is not None), None)
    return None


NPY = VectorFormat("an .npy file", blobs.parse_npy)
UTF8 = VectorFormat("a list as text", _extract_utf8)


def _find_bytes_format(
    values: Sequence[bytes], width: int | None, blob_type: str | None
) -> VectorFormat | None:
    """Return the format of bytes: an .npy, text, or numbers of a fitting or plausible type."""
    for vector_format in (NPY, UTF8):
        if _has_format(vector_format, values[0], width):
            return vector_format
    types = [blobs.DTYPES[blob_type]] if blob_type else blobs.plausible_types(values, width)
    if not types:
        return None
    names = [blobs.dtype_name(dtype) for dtype in types]
    extract = functools.partial(blobs.parse_numbers, types[0])
    return VectorFormat(names[0], extract, types[0], tuple(names[1:]))


# ------------------------------------------------------------------- what is no embedding

LONG_VALUE = 100  # characters of a value that may be meant as an embedding
_OTHER_CONTENTS = (  # beginnings of bytes, and of base64, by what they are
    (_IMAGES, ("/9j/", "iVBORw0KGgo", "R0lGOD", "data:image"), "an image"),
    ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), ("gASV", "gAN", "gAV"), "a pickle"),
    ((b"\x1f\x8b", b"x\x9c", b"x\xda", b"x\x01"), ("H4sI",), "compressed by gzip or zlib"),
    ((b"PK\x03\x04",), ("UEsD",), "a ZIP file, such as an NPZ"),
)


def _identify(value: object) -> str:
    """Return what a value that is not an embedding is, for a message; "" if unknown."""
    for beginnings, text_beginnings, identity in _OTHER_CONTENTS:
        known = beginnings if isinstance(value, bytes) else text_beginnings
        if isinstance(value, bytes | str) and value.startswith(known):
            return identity
    if isinstance(value, str) and _TYPE_NAMES.fullmatch(value.strip()):
        return "the name of a type, not its numbers"
    is_of_size = isinstance(value, bytes) and MIN_WIDTH <= len(value) <= MAX_WIDTH
    if is_of_size and len(value) % MIN_WIDTH == 0:
        return f"{len(value):,} bytes, perhaps int8; int8 needs its scale: write float32"
    return ""


def describe_value(value: object) -> str:
    """Return what a value that is not an embedding seems to be, or the beginning of a long one."""
    if identity := _identify(value):
        return f"{excerpt(value)}, {identity}"
    return excerpt(value) if isinstance(value, str | bytes) and len(value) > LONG_VALUE else ""


def _other_format_error(vector_format: VectorFormat, value: object) -> RowError:
    """Return the error of a value without its column's format, with what it seems to be."""
    if identity := _identify(value):
        return RowError(f"{excerpt(value)} is {identity}", "write the list")
    if isinstance(value, bytes):
        return RowError(f"{len(value):,} bytes, not {vector_format.name} as in the first rows")
    if isinstance(value, list) and value and isinstance(value[0], list):
        return _SEVERAL_FACES
    other = find_format([value])
    if other and other.name != vector_format.name:
        return RowError(
            f"{excerpt(value)} is {other.name}, not {vector_format.name} as in the first rows"
        )
    return RowError(f"{excerpt(value)} is not a list of numbers")
