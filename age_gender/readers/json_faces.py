"""Flatten a row of JSON to one object per face, whatever tool wrote it."""

import contextlib
from collections.abc import Mapping, Sequence

from age_gender.embeddings import MIN_WIDTH
from age_gender.labels import LABEL_COLUMNS
from age_gender.readers import vectors
from age_gender.readers.bad_rows import RowError
from age_gender.readers.names import NAME_COLUMNS

NAME, EMBEDDING = "name", "embedding"  # keys in rows that this reader makes
# Key in a face of [its number in the row, the row's keys that hold one value for each face]. The
# number is appended to the name, unless the name is such a value.
FACE_POSITION = "\0face"
MAX_DEPTH = 4  # levels of nested objects whose keys become paths


def is_vector(value: object) -> bool:
    """Return whether a value is one embedding: a list or text of numbers, or an object of them."""
    if isinstance(value, list):
        return len(value) >= MIN_WIDTH and all(map(is_json_number, value[:MIN_WIDTH]))
    if isinstance(value, Mapping):
        vector_format = vectors.find_format([value])
        return vectors.count_numbers(value, vector_format) >= MIN_WIDTH
    is_long = isinstance(value, str) and len(value) > 2 * MIN_WIDTH
    return is_long and _count_numbers_in_text(value) >= MIN_WIDTH


def is_json_number(value: object) -> bool:
    """Return whether a value is a number; true and false are not."""
    return type(value) in (float, int)


def _count_numbers_in_text(value: str) -> int:
    """Return how many numbers a text holds, 0 if that is uncertain."""
    vector_format = vectors.find_format([value])
    with contextlib.suppress(RowError):  # a list of several faces
        if vector_format and not vector_format.other_dtypes:
            return vectors.count_numbers(value, vector_format)
    return 0


def has_vector(value: object, depth: int = 3 * MAX_DEPTH) -> bool:
    """Return whether a value is an embedding, or an object or list that holds one."""
    if is_vector(value):
        return True
    inner = value[:3] if isinstance(value, list) else ()
    if isinstance(value, Mapping):
        inner = value.values()
        if has_running_numbers(value):
            return True
    return depth > 0 and any(has_vector(part, depth - 1) for part in inner)


def has_running_numbers(row: Mapping) -> bool:
    """Return whether an object holds an embedding's numbers under keys such as e0, e1, ..."""
    return count_running_numbers(row) >= MIN_WIDTH


def count_running_numbers(row: Mapping) -> int:
    """Return how many numbers an object holds under keys that end in a digit."""
    return sum(key[-1:].isdigit() and is_json_number(cell) for key, cell in row.items())


def is_face(value: object) -> bool:
    """Return whether a value is a vector or an object with one, perhaps in a list by itself."""
    value = _unwrapped(value)
    return is_vector(value) or (isinstance(value, Mapping) and has_vector(value))


def _unwrapped(value: object) -> object:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def are_faces(value: object) -> bool:
    """Return whether a value is a list of nothing but faces."""
    return isinstance(value, list) and bool(value) and all(map(is_face, value))


def split_faces(row: object) -> list[dict]:
    """Return the faces of a row as flat objects; several faces have a FACE_POSITION each."""
    if isinstance(row, list):
        return _split_list(row)
    if not isinstance(row, Mapping):
        return []
    flat = flatten(row)
    lengths = {len(value) for value in flat.values() if is_vector(value)}
    for key, value in flat.items():
        # Vectors of the same length are this list's, or hold one number per face
        if are_faces(value) and lengths <= {len(value)}:
            return _split_value(flat, key)
    return [{key: _unwrapped_scalar(value) for key, value in flat.items()}]


def _unwrapped_scalar(value: object) -> object:
    """Return the text or number in a list by itself, as R's jsonlite writes it; else the value."""
    inner = _unwrapped(value)
    return inner if type(inner) in (str, int, float) else value


def _split_value(row: dict[str, object], key: str) -> list[dict]:
    """Return a face per element of a key's list; lists of that length hold a value for each."""
    values, others = row[key], {other: cell for other, cell in row.items() if other != key}
    lists = [k for k, v in others.items() if isinstance(v, list) and len(v) == len(values)]
    faces = []
    for number, value in enumerate(values, 1):
        face = value if isinstance(value, Mapping) else {key: _unwrapped(value)}
        own = {other: others[other][number - 1] for other in lists}
        faces.append(flatten(others | own | face) | {FACE_POSITION: [number, lists]})
    if len(faces) == 1 and not key.casefold().endswith("s"):
        del faces[0][FACE_POSITION]
    return faces


def _split_list(row: Sequence) -> list[dict]:
    """Return the faces of a list: an embedding, a name and an embedding, or several faces."""
    if all(is_json_number(cell) or cell is None for cell in row):
        return [{EMBEDDING: row}]
    if row and all(map(is_face, row)):
        return [face for inner in row for face in split_faces(inner)]
    cells = {f"column {number}": value for number, value in enumerate(row, 1)}
    if isinstance(row[0], str) and not is_vector(row[0]):
        return [{NAME: row[0], **cells}]
    return [cells]


def flatten(row: Mapping, depth: int = MAX_DEPTH) -> dict[str, object]:
    """Return an object with useful values of nested objects under their paths (payload.path)."""
    flat: dict[str, object] = {}
    for key, value in row.items():
        inner = {}
        if isinstance(value, Mapping) and depth and not is_vector(value):
            below = flatten(value, depth - 1)
            inner = {f"{key}.{k}": v for k, v in below.items() if _is_useful(k, v)}
        flat |= inner or {key: value}
    return flat


def _is_useful(path: str, value: object) -> bool:
    last = path.rpartition(".")[2].casefold()
    return last in (*NAME_COLUMNS, *LABEL_COLUMNS) or is_face(value) or are_faces(value)
