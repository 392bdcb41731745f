"""Read Parquet in Arrow's batches, after the file's pages are checked."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from age_gender.cli import counted, require
from age_gender.embeddings import MIN_WIDTH
from age_gender.errors import InputError
from age_gender.processes.library_output import quiet_stderr
from age_gender.readers import chunks, object_rows, parquet_pages, vectors
from age_gender.readers.bad_rows import MISSING_EMBEDDING, BadRow, RowError
from age_gender.readers.column_choice import choose_columns
from age_gender.readers.columns import (
    SAMPLE_ROWS,
    Columns,
    ColumnSummary,
    ReadOptions,
    summarise_column,
)
from age_gender.readers.names import NAME_COLUMNS
from age_gender.readers.numpy_files import parse_array
from age_gender.readers.object_rows import MAX_VALUE_BYTES, limit_size

BUFFER_BYTES = 64 << 10  # size of Arrow's buffer for a column
BATCH_BYTES = 64 << 20  # greatest size of a batch's column of texts or bytes


def read_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of a file's rows, as arrays or as Python objects."""
    require(f"{path}: Parquet needs", pyarrow="pyarrow")
    with quiet_stderr():  # Arrow's allocator writes a line when memory is short
        import pyarrow.parquet

    # With a small buffer per column, Arrow does not hold a whole row group. It still holds a page
    # and a dictionary of each column, some 2 MB.
    arrow_options = {"buffer_size": BUFFER_BYTES, "pre_buffer": False}
    with pyarrow.parquet.ParquetFile(path, **arrow_options) as parquet_file:
        file = _CheckedFile(path, parquet_file, parquet_pages.read_layout(path))
        yield from _read_table(file, _choose_columns(file, options))


class _CheckedFile:
    """Read a Parquet file whose pages are checked before they are decoded.

    The fields of a struct are columns, such as `image.path`.
    """

    def __init__(self, path: str, file: Any, layout: parquet_pages.Layout) -> None:
        self.path, self.file, self.layout = path, file, layout
        schema = _flatten_structs(file.schema_arrow.empty_table()).schema
        self.types = dict(zip(schema.names, schema.types, strict=True))
        if len(self.types) < len(schema):
            raise InputError(f"{path}: two columns have the same name; rename one of them")
        for column in map(file.schema.column, range(len(file.schema.names))):
            if column.length > MAX_VALUE_BYTES:  # Arrow takes so much memory for each value
                title, size = column.path, f"{column.length:,} bytes"
                raise InputError(f"{path}: the column {title}: values of {size}; leave it out")
        self._lists = {title for title in self.types if is_list_type(self.types[title])}
        self._numbers = {title for title in self.types if is_number_type(self.types[title])}
        self._leaves: dict[str, list[int]] = {title: [] for title in self.types}
        for i, leaf in enumerate(layout.columns):
            title = leaf
            while title not in self.types and "." in title:  # embedding.list.element
                title = title.rpartition(".")[0]
            self._leaves.setdefault(title, []).append(i)

    @functools.cache  # noqa: B019  (an object lives no longer than its file is read)
    def pages(self, title: str, group: int) -> list[parquet_pages.Pages]:
        """Return what the pages of a column in a row group hold, after checking them."""
        has_pages = self.layout.rows_per_group[group] > 0
        leaves = self._leaves[title] if has_pages else []
        return [
            parquet_pages.check_pages(
                self.path, title, self.layout.spans[group][i],
                is_list=title in self._lists, is_number=title in self._numbers,
            )
            for i in leaves
        ]  # fmt: skip

    def batches(
        self, titles: Sequence[str], max_rows: int, groups: Sequence[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield columns as Arrow's arrays of at most `max_rows` rows, by title."""
        import pyarrow as pa

        groups = range(len(self.layout.rows_per_group)) if groups is None else groups
        for group in groups:
            for title in titles:
                self.pages(title, group)
        # Arrow's own threads would take processors from scoring, and twice the time.
        arrow_options = {"columns": [*titles], "row_groups": [*groups], "use_threads": False}
        for batch in self.file.iter_batches(max_rows, **arrow_options) if groups else ():
            table = _flatten_structs(pa.Table.from_batches([batch]))
            yield {title: table.column(title).chunk(0) for title in titles}

    def head(self, title: str) -> Any:
        """Return the first rows of a column as Arrow's array, or None without rows."""
        groups = [i for i, rows in enumerate(self.layout.rows_per_group) if rows][:1]
        first = next(self.batches([title], SAMPLE_ROWS, groups), None)
        return first and first[title]

    def choose_batch_size(self, columns: Columns) -> int:
        """Return how many rows a batch may have, so that its decoded values fit into memory."""
        # Batches of 512 columns cost more than those of one, so they have more rows.
        size = chunks.CHUNK_ROWS if columns.holds_vectors else 4 * chunks.CHUNK_ROWS
        used = {*columns.used_columns()} - self._numbers
        for title in used:
            for group, rows in enumerate(self.layout.rows_per_group):
                for pages in self.pages(title, group):
                    if title in self._lists:
                        row_values = max(1, pages.values // max(1, rows))
                        size = min(size, max(1, parquet_pages.MAX_LIST_VALUES // row_values))
                    else:
                        largest = max(1, pages.value_bytes, pages.largest_entry)
                        with contextlib.suppress(ValueError):  # the type has no fixed width
                            largest = max(largest, self.types[title].byte_width)
                        size = min(size, max(1, BATCH_BYTES // largest))
        return size


def _flatten_structs(table: Any) -> Any:
    """Return an Arrow table with the fields of structs as columns, titled by their paths."""
    import pyarrow.types

    while any(map(pyarrow.types.is_struct, table.schema.types)):
        table = table.flatten()
    return table


def is_number_type(arrow_type: Any) -> bool:
    """Return whether an Arrow type is a number."""
    import pyarrow.types as types

    return any(test(arrow_type) for test in (types.is_floating, types.is_integer, types.is_decimal))


def is_list_type(arrow_type: Any) -> bool:
    """Return whether an Arrow type is a list of any kind."""
    import pyarrow.types as types

    tests = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view,
             types.is_large_list_view)  # fmt: skip
    return any(test(arrow_type) for test in tests)


def is_name_column(arrow_type: Any, title: str) -> bool:
    """Return whether a column surely holds names: texts, but not images as base64."""
    import pyarrow.types as types

    is_text = types.is_string(arrow_type) or types.is_large_string(arrow_type)
    return is_text and "image" not in title.casefold()


def _choose_columns(file: _CheckedFile, options: ReadOptions) -> Columns:
    """Return the columns to read; values are read only if types and titles do not suffice."""
    # Summarise the columns by types, titles and values
    summaries = {title: _summarise_by_type(file, title) for title in file.types}
    columns_of_numbers = sum(summary.is_number for summary in summaries.values())
    has_vectors = any(summary.width for summary in summaries.values())
    has_vectors = has_vectors or columns_of_numbers >= MIN_WIDTH
    plurals = {f"{name}s" for name in NAME_COLUMNS}
    for title, summary in summaries.items():
        last = title.casefold().rpartition(".")[2].lstrip("_")
        titles = {options.name_column, options.embedding_column, last}
        has_name_title = title in titles or titles & {*NAME_COLUMNS, *plurals}
        is_name = title != options.embedding_column and is_name_column(file.types[title], title)
        if summary.width:
            continue
        if not summary.is_number and has_vectors and is_name:
            summaries[title] = ColumnSummary()
        elif has_name_title or (not summary.is_number and not has_vectors):
            summaries[title] = _summarise_by_values(file, title, options)

    # Choose
    is_fixed = any(hasattr(arrow_type, "list_size") for arrow_type in file.types.values())
    values = [*summaries.values()]
    try:
        return choose_columns(
            file.path, [*summaries], values, options, by_title=True, accept_other_width=not is_fixed
        )
    except RowError as error:
        raise InputError(f"{file.path}: {error}") from None


def _summarise_by_type(file: _CheckedFile, title: str) -> ColumnSummary:
    """Return a column's summary by its type, and by the lengths of its first lists of numbers."""
    arrow_type = file.types[title]
    if is_number_type(arrow_type):
        return ColumnSummary(is_number=True, may_be_name=False)
    if not is_list_type(arrow_type) or not is_number_type(arrow_type.value_type):
        return ColumnSummary(may_be_name=False)
    head = file.head(title)
    lengths = [] if head is None else head.value_lengths().drop_null().to_pylist()
    claimed = getattr(arrow_type, "list_size", 0)
    width = max({*lengths}, key=lengths.count, default=claimed)
    return ColumnSummary(width, vector_format=vectors.LIST if width else None, may_be_name=False)


def _summarise_by_values(file: _CheckedFile, title: str, options: ReadOptions) -> ColumnSummary:
    """Return a column's summary by its first values."""
    head = file.head(title)
    values = [] if head is None else [value for value in _to_list(head) if value is not None]
    return summarise_column(values, options) if values else ColumnSummary()


def _read_table(file: _CheckedFile, columns: Columns) -> Iterator[chunks.Chunk]:
    """Yield chunks of arrays if Arrow holds numbers, else of Python objects."""
    used = dict.fromkeys(columns.used_columns())
    embedding = file.types[columns.embedding[0]]
    is_nested = is_list_type(embedding) and not is_number_type(embedding.value_type)
    has_values = columns.holds_vectors and (is_nested or not is_list_type(embedding))
    if not columns.holds_vectors:
        _check_numbers(file, columns.embedding)
    for arrays in file.batches([*used], file.choose_batch_size(columns)):
        if has_values:
            values = [_to_list(arrays[title]) for title in used]
            rows = [dict(zip(used, row, strict=True)) for row in zip(*values, strict=True)]
            size = sum(array.nbytes for array in arrays.values())
            yield chunks.Chunk(file.path, object_rows.parse, rows, columns, input_bytes=size)
        else:
            yield from _read_numbers(file.path, columns, arrays)


def _check_numbers(file: _CheckedFile, titles: Sequence[str]) -> None:
    """Raise InputError unless all columns of an embedding's numbers hold numbers."""
    import pyarrow as pa

    for title in titles:
        arrow_type = file.types[title]
        if not is_number_type(arrow_type) and not pa.types.is_null(arrow_type):
            raise InputError(
                f"{file.path}: the column {title} of the embedding has the type {arrow_type}; "
                "write it as numbers, or drop it"
            )


def _read_numbers(path: str, columns: Columns, arrays: dict[str, Any]) -> Iterator[chunks.Chunk]:
    """Yield chunks of a batch's rows, whose numbers are in one column of lists or in columns."""
    bad_rows: list[BadRow] = []
    if columns.holds_vectors:
        arrays, rows, bad_rows = _stack_lists(path, arrays, columns)
    else:
        rows = np.stack([_to_numpy(arrays[title]) for title in columns.embedding]).T
    metadata = {role: _to_list(arrays[title]) for role, title in columns.metadata_columns.items()}
    for start in range(0, len(rows) or 1, chunks.CHUNK_ROWS):  # batches of lists give one chunk
        part = slice(start, start + chunks.CHUNK_ROWS)
        values = {role: column[part] for role, column in metadata.items()}
        data = rows[part]
        yield chunks.Chunk(
            path, parse_array, data, columns, values, bad_rows, input_bytes=data.nbytes
        )


def _stack_lists(
    path: str, arrays: dict[str, Any], columns: Columns
) -> tuple[dict[str, Any], np.ndarray, list[BadRow]]:
    """Return a batch without lists of a wrong length, its embeddings (n, W), and the bad rows."""
    import pyarrow as pa

    title, width = columns.embedding[0], columns.width
    lengths = _to_numpy(arrays[title].value_lengths().fill_null(-1))
    bad_rows = []
    for row, length in enumerate(lengths.tolist(), 1):
        if length != width:
            reason = f"{counted(length, 'number')}, not {width:,}"
            bad_rows.append(BadRow(path, row, 0, reason if length >= 0 else MISSING_EMBEDDING))
    if bad_rows:
        good = pa.array(lengths == width)
        arrays = {word: array.filter(good) for word, array in arrays.items()}
    return arrays, _to_numpy(arrays[title].flatten()).reshape(-1, width), bad_rows


def _to_list(array: Any) -> list:
    """Return the values of an array of names, labels, or embeddings in any format."""
    import pyarrow as pa

    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    elif pa.types.is_boolean(array.type):
        array = array.cast(pa.string())
    elif pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    values = array.to_pylist()
    return [*map(limit_size, values)] if array.nbytes > MAX_VALUE_BYTES else values


def _to_numpy(numbers: Any) -> np.ndarray:
    """Return an Arrow array as a NumPy array, with NaN for missing numbers."""
    import pyarrow as pa

    if pa.types.is_decimal(numbers.type) or pa.types.is_null(numbers.type):
        numbers = numbers.cast(pa.float64())
    if numbers.null_count:
        return numbers.to_numpy(zero_copy_only=False)
    return np.from_dlpack(numbers)  # unlike to_numpy, this does not import pandas
