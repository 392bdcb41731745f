"""Parse rows of Python objects, from SQLite and from some columns of Parquet."""

import contextlib
from collections.abc import Iterator

import numpy as np

from age_gender.readers import chunks, numbers, vectors

MAX_VALUE_BYTES = chunks.MAX_ROW_BYTES  # size of a text or bytes


class TooLarge:
    """Replace a value that is too large to keep, so that its row is reported as bad."""

    def __repr__(self) -> str:  # the reason why the row is bad quotes it
        return f"over {MAX_VALUE_BYTES:,} bytes"


def parse(chunk: chunks.Chunk) -> chunks.Batch:
    """Return the batch of a chunk of rows, which are tuples of values, or dicts by title."""
    return chunks.parse_chunk(chunk, _parse_in_bulk, _split_rows)


def limit_size(value: object) -> object:
    """Return a value, or TooLarge if it is larger than MAX_VALUE_BYTES."""
    is_large = isinstance(value, bytes | str) and len(value) > MAX_VALUE_BYTES
    return TooLarge() if is_large else value


def _parse_in_bulk(chunk: chunks.Chunk) -> chunks.ParsedRows | None:
    """Return the numbers and metadata of BLOBs of one length or of lists as text; else None."""
    columns, values = chunk.columns, None
    cells = [row[columns.embedding[0]] for row in chunk.data]
    types = {*map(type, cells)} if columns.holds_vectors else set()
    dtype = columns.vector_format.dtype if types == {bytes} else None
    if dtype and {*map(len, cells)} == {columns.width * dtype.itemsize}:
        values = np.frombuffer(b"".join(cells), dtype).reshape(len(cells), columns.width)
    are_lists = types == {str} and columns.has_format(vectors.TEXT_LIST)
    if are_lists and all(cell[:1] == "[" and cell[-1:] == "]" for cell in cells):
        with contextlib.suppress(UnicodeEncodeError):
            values = numbers.parse_number_table(
                [cell[1:-1].encode() for cell in cells], columns.width
            )
    metadata = {
        role: [row[column] for row in chunk.data]
        for role, column in columns.metadata_columns.items()
    }
    return None if values is None else (values, metadata)


def _split_rows(chunk: chunks.Chunk) -> Iterator[chunks.Row]:
    return (chunks.Row(0, row.__getitem__) for row in chunk.data)
