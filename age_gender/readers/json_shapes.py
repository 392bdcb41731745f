"""Flatten the JSON of APIs and exports to one object per face.

`iterate_rows` yields the rows of a whole document, `split_faces` the faces of a row.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from age_gender.labels import LABEL_COLUMNS
from age_gender.readers import vectors
from age_gender.readers.columns import NAME_COLUMNS
from age_gender.readers.errors import RowError
from age_gender.readers.numbers import MIN_WIDTH

# Where APIs keep the rows: DeepFace, Qdrant, Milvus, Elasticsearch, Weaviate, Pinecone, CompreFace.
ROW_KEYS = (
    "result", "results", "data", "rows", "points", "hits", "objects", "records", "items",
    "documents", "entities", "vectors", "embeddings", "faces", "descriptors",
)  # fmt: skip
EMBEDDING_WORDS = ("embed", "vector", "descriptor", "encoding", "feature", "repr", "value", "data")
NAME, EMBEDDING, FACE = "name", "embedding", "#"  # keys of rows that are made here
MAX_DEPTH = 4  # nested objects whose keys become paths

Path = tuple[str, ...]


def is_vector(value: object) -> bool:
    """Return whether a value is one embedding: a list of numbers, an object with running keys."""
    if isinstance(value, list):
        return len(value) >= MIN_WIDTH and all(
            type(cell) in (float, int) for cell in value[:MIN_WIDTH]
        )
    if isinstance(value, Mapping):
        form = vectors.find_form([value])
        return form is not None and vectors.count_numbers(value, form) >= MIN_WIDTH
    is_long = isinstance(value, str) and len(value) > 2 * MIN_WIDTH
    return is_long and _vector_size(value) >= MIN_WIDTH


def _vector_size(value: str) -> int:
    """Return how many numbers a text holds for sure."""
    form = vectors.find_form([value])
    with contextlib.suppress(RowError):  # a list of several faces
        return vectors.count_numbers(value, form) if form and not form.rivals else 0
    return 0


def has_vector(row: object) -> bool:
    """Return whether an object holds an embedding, or objects or lists that do."""
    if isinstance(row, Mapping):
        return is_vector(row) or any(map(has_vector, row.values()))
    return is_vector(row) or (isinstance(row, list) and any(map(has_vector, row[:3])))


def find_rows(document: Mapping) -> Path | None:
    """Return the keys that lead to the list or object of rows in a document; None: it is columns.

    () is the document itself: its keys are names, and their values embeddings.
    """
    if _has_names_as_keys(document):
        return ()
    if _has_columns(document):
        return None
    inner = {key: value for key, value in document.items() if _holds_rows(value)}
    for key in (*(key for key in ROW_KEYS if key in inner), *inner)[: None if inner else 0]:
        if isinstance(document[key], list):
            return (key,)
        below = find_rows(document[key])
        return None if below is None else (key, *below)
    return None


def _holds_rows(value: object) -> bool:
    return isinstance(value, list | Mapping) and not is_vector(value) and has_vector(value)


def _has_names_as_keys(document: Mapping) -> bool:
    """Return whether keys are names: each value is an embedding, or a row, or lists of them."""
    values = [value for value in document.values() if isinstance(value, list | Mapping | str)]
    if not values or len(values) < len(document):
        return False
    if len(document) == 1:
        (key,) = document
        return is_vector(values[0]) and not _is_embedding_word(key)
    return all(map(is_vector, values)) or all(map(_is_entry, values))


def _is_entry(value: object) -> bool:
    """Return whether a value is the faces, the row, or the photos of one name."""
    if isinstance(value, str) or is_vector(value):
        return False
    if isinstance(value, list):
        return all(is_vector(face) or (isinstance(face, Mapping) and has_vector(face))
                   for face in value)  # fmt: skip
    return any(map(is_vector, value.values()))


def are_photos(names: object) -> bool:
    """Return whether an object has for each name vectors by the names of photos."""
    rows = [*names.values()] if isinstance(names, Mapping) and not is_vector(names) else []
    if not rows or not all(isinstance(row, Mapping) and not is_vector(row) for row in rows):
        return False
    is_one_key = len(rows) > 1 and len({*map(tuple, rows)}) == 1  # which is no photo's name
    return not is_one_key and all(
        is_vector(vector) and not _is_embedding_word(photo)
        for row in rows for photo, vector in row.items()
    )  # fmt: skip


def _is_embedding_word(key: str) -> bool:
    return any(word in key.casefold() for word in EMBEDDING_WORDS) or key in ROW_KEYS


def _has_columns(document: Mapping) -> bool:
    """Return whether values are columns of one length, or pandas' objects of rows."""
    columns = [v for v in document.values() if isinstance(v, list | Mapping) and len(v)]
    length = max((len(column) for column in columns if _has_vectors(column)), default=0)
    return sum(len(column) == length for column in columns) > 1


def _has_vectors(column: list | Mapping) -> bool:
    values = [*column.values()] if isinstance(column, Mapping) else column
    return not is_vector(column) and any(map(is_vector, values[:3]))


def iterate_rows(document: object) -> Iterator[object]:
    """Yield the rows of a whole document, most of them objects."""
    if isinstance(document, list):
        yield from document
    elif not isinstance(document, Mapping):
        yield document
    elif {"columns", "data"} <= document.keys():  # pandas' orient="split"
        titles, index = document["columns"], document.get("index") or [None] * len(document["data"])
        for label, row in zip(index, document["data"], strict=False):
            yield {"": label, **dict(zip(map(str, titles), row, strict=False))}
    elif (path := find_rows(document)) is not None:
        rows = document
        for key in path:
            rows = rows[key]
        yield from rows if isinstance(rows, list) else rows_of_names(rows)
    elif _has_columns(document):
        yield from _rows_of_columns(document)
    else:
        yield document


def rows_of_names(document: Mapping) -> Iterator[object]:
    """Yield a row for each name of an object of names."""
    if are_photos(document):
        for name, photos in document.items():
            yield from rows_of_names({f"{name}/{photo}": v for photo, v in photos.items()})
        return
    for name, value in document.items():
        is_row = isinstance(value, Mapping) and not is_vector(value)
        yield {**value, "": name} if is_row else {NAME: name, EMBEDDING: value}


def _rows_of_columns(document: Mapping) -> Iterator[dict]:
    columns = {title: column for title, column in document.items() if column}
    columns = {t: c for t, c in columns.items() if isinstance(c, list | Mapping)}
    length = max(len(column) for column in columns.values() if _has_vectors(column))
    columns = {title: c for title, c in columns.items() if len(c) == length}
    by_key = next((c for c in columns.values() if isinstance(c, Mapping)), None)
    for index, key in enumerate(by_key if by_key is not None else range(length)):
        row = {t: c[index] if isinstance(c, list) else c.get(key) for t, c in columns.items()}
        yield row if by_key is None else {"": key, **row}


# --------------------------------------------------------------------------------- faces


def split_faces(row: object) -> list[dict]:
    """Return the faces of a row as flat objects; those of several have their number as FACE."""
    if isinstance(row, list):
        return _split_list(row)
    if not isinstance(row, Mapping):
        return []
    flat = _flat(row)
    if any(map(is_vector, flat.values())):
        return [flat]
    for key, value in flat.items():
        if not isinstance(value, list) or not value or not all(map(_is_face, value)):
            continue
        others = {k: v for k, v in flat.items() if k != key}
        faces = [face if isinstance(face, Mapping) else {key: _unwrapped(face)} for face in value]
        if len(faces) == 1 and not key.casefold().endswith("s"):
            return [others | _flat(faces[0])]
        return [others | _flat(face) | {FACE: number} for number, face in enumerate(faces, 1)]
    return [flat]


def _split_list(row: Sequence) -> list[dict]:
    """Return the faces of a list: an embedding, a name beside it, or several faces of one photo."""
    if all(type(cell) in (float, int) or cell is None for cell in row):
        return [{EMBEDDING: row}]
    if row and all(map(_is_face, row)):
        return [face for inner in row for face in split_faces(inner)]
    cells = {f"column {number}": value for number, value in enumerate(row, 1)}
    if isinstance(row[0], str) and not is_vector(row[0]):
        return [{NAME: row[0], **cells}]
    return [cells]


def _is_face(value: object) -> bool:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return is_vector(value) or (isinstance(value, Mapping) and has_vector(value))


def _unwrapped(face: list) -> object:
    return face[0] if isinstance(face, list) and len(face) == 1 else face


def _flat(row: Mapping, depth: int = MAX_DEPTH) -> dict[str, object]:
    """Return an object with what is of use in objects inside it, by their paths (payload.path)."""
    flat: dict[str, object] = {}
    for key, value in row.items():
        inner = {}
        if isinstance(value, Mapping) and depth and not is_vector(value):
            below = _flat(value, depth - 1)
            inner = {f"{key}.{k}": v for k, v in below.items() if _is_useful(k, v)}
        flat |= inner or {key: value}
    return flat


def _is_useful(path: str, value: object) -> bool:
    last = path.rpartition(".")[2].casefold()
    return last in NAME_COLUMNS or last in LABEL_COLUMNS or _is_face(value) or (
        isinstance(value, list) and bool(value) and all(map(_is_face, value))
    )  # fmt: skip
