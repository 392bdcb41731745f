"""Parquet, by Arrow's batches."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from age_gender.cli import InputError, require
from age_gender.readers import chunks, vectors
from age_gender.readers.columns import Columns, ReadOptions, Sample, choose, count_of
from age_gender.readers.errors import BadRow, RowError
from age_gender.readers.numpy_files import ArrayReader

PARQUET_BUFFER = 64 << 10  # bytes a column
MOST_VALUES = 1 << 22  # numbers of a batch; lists may claim any length
LOOKED_AT = 20  # rows that tell the length of lists


class ParquetReader:
    """Reads Parquet."""

    is_text = False

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
        return cut(path, options)

    def parse(self, chunk: chunks.Chunk) -> chunks.Batch:
        return ArrayReader().parse(chunk)


def cut(path: str, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of a Parquet file, in order."""
    require(f"{path}: Parquet needs", pyarrow="pyarrow")
    import pyarrow as pa
    import pyarrow.parquet

    # A small buffer a column: otherwise Arrow holds a whole row group. Of 512 columns it still
    # holds a page and a dictionary each, some 2 MB.
    with pa.parquet.ParquetFile(path, buffer_size=PARQUET_BUFFER, pre_buffer=False) as table:
        schema = table.schema_arrow
        if len(set(schema.names)) < len(schema.names):
            raise InputError(f"{path}: two columns of one name; give each its own")
        fixed = any(map(pa.types.is_fixed_size_list, schema.types))
        sizes = _sizes(pa, table)
        samples = [
            Sample(size, vectors.OBJECTS[0] if size > 0 else None, _can_name(pa, column.type))
            for size, column in zip(sizes, schema, strict=True)
        ]
        try:
            columns = choose(path, schema.names, samples, options, by_name=True, strict=fixed)
        except RowError as error:
            raise InputError(f"{path}: {error}") from None
        used = {*columns.embedding, *columns.metadata.values()}
        # Threads of Arrow's own would take the processors from scoring, and twice the time.
        options = {"columns": [*used], "use_threads": False}
        for batch in table.iter_batches(_batch_rows(path, table, used, columns), **options):
            bad: list[BadRow] = []
            if columns.is_list:
                batch, rows, bad = _lists(pa, path, batch, columns)
            else:
                rows = np.stack([_numpy(batch.column(name)) for name in columns.embedding]).T
            metadata = {word: _values(pa, batch.column(n)) for word, n in columns.metadata.items()}
            for start in range(0, len(rows) or 1, chunks.BLOCK_ROWS):  # of lists there is one part
                part = slice(start, start + chunks.BLOCK_ROWS)
                of_rows = {word: values[part] for word, values in metadata.items()}
                size = rows[part].nbytes
                yield chunks.Chunk(
                    path, ArrayReader(), rows[part], columns, of_rows, bad, input_bytes=size
                )


def _sizes(pa, table) -> list[int]:
    """Of each column, how many numbers a row holds: 0 for a number, -1 for anything else."""
    lists, sizes = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list), []
    for column in table.schema_arrow:
        size = 0 if _is_number(pa, column.type) else -1
        if any(test(column.type) for test in lists) and _is_number(pa, column.type.value_type):
            batches = table.iter_batches(LOOKED_AT, columns=[column.name], use_threads=False)
            head = next(batches, None)
            lengths = head.column(0).value_lengths().drop_null().to_pylist() if head else []
            claimed = getattr(column.type, "list_size", -1)
            size = max({*lengths}, key=lengths.count, default=claimed)
        sizes.append(size)
    return sizes


def _can_name(pa, kind) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)


def _is_number(pa, kind) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _batch_rows(path: str, table, used: set[str], columns: Columns) -> int:
    """How many rows a batch may have, by what the file's metadata says of their size."""
    # A batch of 512 columns costs more, so there are fewer of them.
    size = chunks.BLOCK_ROWS if columns.is_list else 4 * chunks.BLOCK_ROWS
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        column_chunks = map(group.column, range(group.num_columns))
        column_chunks = [
            chunk for chunk in column_chunks if chunk.path_in_schema.split(".")[0] in used
        ]
        values = max((chunk.num_values for chunk in column_chunks), default=0)
        values = max(values, sum(chunk.total_uncompressed_size for chunk in column_chunks) // 8)
        a_row = values // max(1, group.num_rows)
        if a_row > MOST_VALUES:
            raise InputError(f"{path}: {a_row:,} numbers a row; write lists of {columns.width}")
        size = min(size, max(1, MOST_VALUES // max(1, a_row)))
    return size


def _lists(pa, path: str, batch, columns: Columns) -> tuple[Any, np.ndarray, list[BadRow]]:
    """A batch without lists of another length, what is left of them (n, width), and what is not."""
    name, width = columns.embedding[0], columns.width
    lengths = batch.column(name).value_lengths()
    wrong = _numpy(lengths.fill_null(width)) != width
    bad = [
        BadRow(path, i + 1, 0, f"{count_of(lengths[i].as_py())}, not {width}")
        for i in np.flatnonzero(wrong).tolist()
    ]
    batch = batch.filter(pa.array(~wrong)) if bad else batch
    lists = batch.column(name)
    rows = _numpy(lists.flatten()).reshape(-1, width)  # without missing lists: they become NaN
    if lists.null_count:
        missing = np.flatnonzero(_numpy(lists.is_null().cast(pa.int8())))
        rows = np.insert(rows.astype(float), missing - np.arange(len(missing)), np.nan, axis=0)
    return batch, rows, bad


def _values(pa, column) -> list:
    """Names, ages or genders."""
    return (column if _is_number(pa, column.type) else column.cast(pa.string())).to_pylist()


def _numpy(numbers) -> np.ndarray:
    """An Arrow array as NumPy's; missing numbers are NaN. Where none is, pandas stays away."""
    if numbers.null_count:
        return numbers.to_numpy(zero_copy_only=False)
    return np.from_dlpack(numbers)
