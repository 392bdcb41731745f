"""Find the rows in the JSON documents of APIs, databases and data frames."""

import math
from collections.abc import Callable, Iterator, Mapping

from age_gender.embeddings import MIN_WIDTH
from age_gender.labels import LABEL_COLUMNS
from age_gender.readers.json_faces import (
    EMBEDDING,
    NAME,
    are_faces,
    count_running_numbers,
    flatten,
    has_running_numbers,
    has_vector,
    is_face,
    is_json_number,
    is_vector,
    split_faces,
)  # fmt: skip
from age_gender.readers.names import NAME_COLUMNS

# Keys of the rows from DeepFace, Qdrant, Milvus, Elasticsearch, Weaviate, Pinecone and CompreFace
ROW_KEYS = (
    "result", "results", "data", "rows", "points", "hits", "objects", "records", "items",
    "documents", "entities", "vectors", "embeddings", "faces", "descriptors",
)  # fmt: skip
# Words in the keys of embeddings; such keys are not the names of faces
EMBEDDING_WORDS = ("embed", "vector", "descriptor", "encoding", "feature", "repr", "value", "data")

KeyPath = tuple[str, ...]


def iterate_rows(document: object, fits: Callable[[int], bool]) -> Iterator[object]:
    """Yield the rows of a whole document, most of which are objects.

    `fits` returns whether a count of numbers may be an embedding's, if the shape leaves that open.
    """
    if isinstance(document, list):
        for row in document:
            yield from _rows_of_tensor(row) or [row]
    elif not isinstance(document, Mapping):
        yield document
    elif {"columns", "data"} <= document.keys():  # pandas' orient="split"
        titles, index = document["columns"], document.get("index") or [None] * len(document["data"])
        for label, row in zip(index, document["data"], strict=False):
            yield {"": label, **dict(zip(map(str, titles), row, strict=False))}
    elif rows := _rows_of_tensor(document):
        yield from rows
    elif columns := _find_series(document) or _find_columns(document, fits):
        yield from _rows_of_columns(columns)
    elif _has_names_as_keys(document):
        yield from _rows_of_names(document)
    elif (key := _find_container(document)) is not None:
        yield from iterate_rows(document[key], fits)
    else:
        yield from split_faces(document)


def find_path_to_rows(document: Mapping) -> KeyPath | None:
    """Return the keys that lead to the rows of a document with this beginning.

    () means that the document's own keys are names, None that it must be read whole.
    """
    if _has_names_as_keys(document):
        # A single key may be a column, and keys that end in digits columns of one number each
        is_clear = len(document) > 1 and not any(key[-1:].isdigit() for key in document)
        return () if is_clear and not _are_photos(document) else None
    key = _find_container(document)
    if key is None or _find_columns(document):
        return None
    if isinstance(rows := document[key], list):
        # The names of bare vectors may be in another list
        is_rows = isinstance(rows[0], Mapping) and {"shape", "datatype"}.isdisjoint(rows[0])
        return (key,) if is_rows else None
    below = find_path_to_rows(rows)
    return (key, *below) if below else None


def _find_container(document: Mapping) -> str | None:
    """Return the key of a document's list or object of rows; None if the document is a row."""
    inner = [key for key, value in document.items() if _holds_rows(value)]
    key = next((key for key in (*ROW_KEYS, *inner) if key in inner), None)
    has_name = any(_is_photo_title(k) and isinstance(v, str) for k, v in document.items())
    if key is None or not has_name or not are_faces(document[key]):
        return key
    first = document[key][0]  # {"path": "a.jpg", "faces": [{"embedding": [...]}, ...]}
    return key if isinstance(first, Mapping) and any(map(_is_photo_title, flatten(first))) else None


def _is_photo_title(key: str) -> bool:
    """Return whether a key may hold the name of a photo or person; "id" may be a request's."""
    return key.casefold().rpartition(".")[2] in NAME_COLUMNS and key.casefold() != "id"


def _holds_rows(value: object) -> bool:
    return isinstance(value, list | Mapping) and not is_vector(value) and has_vector(value)


def _has_names_as_keys(document: Mapping) -> bool:
    """Return whether keys are names: each value is an embedding, a row, or a list of these."""
    values = [*document.values()]
    if not all(isinstance(value, list | Mapping | str) for value in values):
        return False
    if not values or not {*NAME_COLUMNS, *LABEL_COLUMNS}.isdisjoint(map(str.casefold, document)):
        return False
    if len(values) == 1:
        (key,) = document
        return is_vector(values[0]) and not _is_embedding_word(key)
    return all(map(is_vector, values)) or all(map(_is_entry, values))


def _is_entry(value: object) -> bool:
    """Return whether a value holds the faces, the row, or the photos of one name."""
    if isinstance(value, str) or is_vector(value):
        return False
    if isinstance(value, list):
        return all(map(is_face, value))
    return any(map(is_vector, value.values())) or has_running_numbers(value)


def _are_photos(names: Mapping) -> bool:
    """Return whether an object maps each name to an object of photo names and vectors."""
    rows = [*names.values()]
    if not all(isinstance(row, Mapping) and row and not is_vector(row) for row in rows):
        return False
    have_same_keys = len(rows) > 1 and len({*map(tuple, rows)}) == 1  # no names of photos
    return not have_same_keys and all(
        is_vector(vector) and not _is_embedding_word(photo)
        for row in rows for photo, vector in row.items()
    )  # fmt: skip


def _is_embedding_word(key: str) -> bool:
    return any(word in key.casefold() for word in EMBEDDING_WORDS) or key in ROW_KEYS


def _rows_of_names(document: Mapping) -> Iterator[dict]:
    """Yield a row for each name, or for each photo of a name."""
    if _are_photos(document):
        for name, photos in document.items():
            yield from (row_of_name(f"{name}/{photo}", face) for photo, face in photos.items())
    else:
        yield from (row_of_name(name, value) for name, value in document.items())


def row_of_name(name: str, value: object) -> dict:
    """Return the row of a name: a row that has it as its index, or its embeddings."""
    is_row = isinstance(value, Mapping) and not is_vector(value)
    return {**value, "": name} if is_row else {NAME: name, EMBEDDING: value}


JsonColumn = list | Mapping  # pandas writes objects that map an index to values


def _find_columns(
    document: Mapping, fits: Callable[[int], bool] | None = None
) -> dict[str, JsonColumn]:
    """Return the columns of a column-wise document, all of one length and type; else {}.

    Either some columns hold vectors, or at least MIN_WIDTH of them (e0, e1, ...) one number of a
    vector each.
    """
    columns = {key: c for key, c in document.items() if isinstance(c, JsonColumn) and len(c)}
    of_vectors = [column for column in columns.values() if _holds_vectors(column)]
    of_numbers = [c for key, c in columns.items() if key[-1:].isdigit() and _holds_numbers(c)]
    is_wide = not of_vectors and len(of_numbers) >= MIN_WIDTH
    if _has_names_as_keys(document):  # or pandas' {"0": {"0": 0.1, "1": 0.2, ...}, ...}
        first = next(iter(document.values()))
        count = count_running_numbers(first) if isinstance(first, Mapping) else len(first)
        if not is_wide or fits is None or fits(count) or not fits(len(of_numbers)):
            return {}
    longest = max(of_numbers if is_wide else of_vectors, key=len, default=())
    columns = {
        key: column for key, column in columns.items()
        if len(column) == len(longest) and isinstance(column, type(longest))
    }  # fmt: skip
    return columns if len(columns) > 1 else {}


def _first_values(column: JsonColumn) -> list:
    return [*(column.values() if isinstance(column, Mapping) else column)][:3]


def _holds_vectors(column: JsonColumn) -> bool:
    """Return whether each value of a column is a vector, or vectors."""
    return not is_vector(column) and any(
        is_vector(value) or (isinstance(value, list) and value and all(map(is_vector, value[:3])))
        for value in _first_values(column)
    )


def _holds_numbers(column: JsonColumn) -> bool:
    return all(map(is_json_number, _first_values(column)))


def _rows_of_columns(columns: dict[str, JsonColumn]) -> Iterator[dict]:
    """Yield the rows of a table that is given as columns by title."""
    first = next(iter(columns.values()))
    if isinstance(first, Mapping):
        for key in first:
            yield {"": key, **{title: column.get(key) for title, column in columns.items()}}
        return
    for title, column in columns.items():
        if all(isinstance(value, list) and len(value) == 1 for value in column):  # (N, 1, width)
            columns[title] = [value for (value,) in column]
    yield from (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _find_series(document: Mapping) -> dict[str, list]:
    """Return the columns of polars' {"columns": [{"name": ..., "values": [...]}, ...]}."""
    series = document.get("columns")
    if not isinstance(series, list) or not all(
        isinstance(one, Mapping) and {"name", "values"} <= one.keys() for one in series
    ):
        return {}
    return {
        one["name"]: [v["values"] if isinstance(v, Mapping) and "values" in v else v
                      for v in one["values"]]
        for one in series
    }  # fmt: skip


def _rows_of_tensor(tensor: object) -> list[dict]:
    """Return the rows of Triton's flat tensor, {"shape": [N, W], "data": [...]}; else []."""
    if not isinstance(tensor, Mapping) or not {"shape", "data"} <= tensor.keys():
        return []
    shape, data = tensor["shape"], tensor["data"]
    if not isinstance(shape, list) or not isinstance(data, list) or len(shape) < 2:
        return []
    if not data or not all(type(size) is int for size in shape) or math.prod(shape) != len(data):
        return []
    return [{EMBEDDING: data[i : i + shape[-1]]} for i in range(0, len(data), shape[-1])]
