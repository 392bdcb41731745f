"""The rows of a Parquet file, by Arrow's batches, once its pages are checked."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from age_gender.cli import InputError
from age_gender.readers import chunks, parquet_pages, vectors
from age_gender.readers.columns import NAMES, Columns, ReadOptions, Sample, choose, count_of, sample
from age_gender.readers.errors import BadRow, RowError
from age_gender.readers.numbers import FEWEST
from age_gender.readers.numpy_files import ArrayReader
from age_gender.readers.value_rows import LARGE_BYTES, RowsReader, shortened

BUFFER_BYTES = 64 << 10  # a column
BATCH_BYTES = 64 << 20  # of the names of a batch, and of embeddings that are texts or bytes
MISSING = "the embedding is missing"
LOOKED_AT = 20  # rows that show the length of lists, and what texts and bytes are


def cut(path: str, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of the rows of a file."""
    import pyarrow.parquet

    # A small buffer a column: otherwise Arrow holds a whole row group. Of 512 columns it still
    # holds a page and a dictionary each, some 2 MB.
    with pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
        table = _Table(path, file, parquet_pages.layout(path))
        yield from _cut(table, _choose(table, options))


class _Table:
    """A Parquet file whose pages are checked before they are decoded.

    The fields of a struct are columns: `image.path`.
    """

    def __init__(self, path: str, file: Any, layout: parquet_pages.Layout) -> None:
        self.path, self.file, self.layout = path, file, layout
        self.types = dict(fields := [*_flat_fields(file.schema_arrow, "")])
        if len(self.types) < len(fields):
            raise InputError(f"{path}: two columns of one name; give each its own")
        self._lists = {title for title, of_type in fields if is_list(of_type)}
        self._numbers = {title for title, of_type in fields if is_number(of_type)}
        self._leaves: dict[str, list[int]] = {title: [] for title in self.types}
        for i, leaf in enumerate(layout.columns):
            title = leaf
            while title not in self.types and "." in title:  # embedding.list.element
                title = title.rpartition(".")[0]
            self._leaves.setdefault(title, []).append(i)

    @functools.cache  # noqa: B019  (a table is open as long as its file is read)
    def pages(self, title: str, group: int) -> list[parquet_pages.Pages]:
        """Return what the pages of a column hold, once they are checked; none of plain numbers."""
        leaves = self._leaves[title] if self.layout.rows[group] else []  # no rows have no pages
        places = [self.layout.places[group, i] for i in leaves]
        if title in self._numbers:  # decoded a batch at a time, however many a page claims to have
            places = [place for place in places if place[2] > parquet_pages.PAGE_BYTES]
        is_list = title in self._lists
        return [parquet_pages.check_pages(self.path, title, place, is_list) for place in places]

    def batches(
        self, titles: Sequence[str], rows: int, groups: Sequence[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield Arrow's arrays of at most `rows` rows of columns, by their titles."""
        groups = range(len(self.layout.rows)) if groups is None else groups
        for group in groups:
            for title in titles:
                self.pages(title, group)
        # Threads of Arrow's own would take the processors from scoring, and twice the time.
        how = {"columns": [*titles], "row_groups": [*groups], "use_threads": False}
        for batch in self.file.iter_batches(rows, **how) if groups else ():
            yield dict(_flat_columns(batch, titles))

    def head(self, title: str) -> Any:
        """Return the first rows of a column as Arrow's array, or None where there are none."""
        groups = [i for i, rows in enumerate(self.layout.rows) if rows][:1]
        first = next(self.batches([title], LOOKED_AT, groups), None)
        return first and first[title]

    def batch_rows(self, columns: Columns) -> int:
        """Return how many rows a batch may have for what they are decoded to."""
        # A batch of 512 columns costs more, so there are fewer of them.
        size = chunks.BLOCK_ROWS if columns.is_list else 4 * chunks.BLOCK_ROWS
        used = {*columns.embedding, *columns.metadata.values()} - self._numbers
        for title in used:
            for group, rows in enumerate(self.layout.rows):
                for pages in self.pages(title, group):
                    if title in self._lists:
                        a_row = pages.values // max(1, rows)
                        size = min(size, max(1, parquet_pages.MOST_VALUES // max(1, a_row)))
                    else:
                        largest = max(1, pages.value_bytes, pages.largest_entry)
                        with contextlib.suppress(ValueError):  # of a type without a fixed width
                            largest = max(largest, self.types[title].byte_width)
                        size = min(size, max(1, BATCH_BYTES // largest))
        return size


def _flat_fields(fields: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and the type of each column, those of structs by their path."""
    import pyarrow.types

    for field in fields:
        title = prefix + field.name
        if pyarrow.types.is_struct(field.type) and field.type.num_fields:
            yield from _flat_fields(field.type, f"{title}.")
        else:
            yield title, field.type


def _flat_columns(batch: Any, titles: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the columns of a batch by their titles; a missing struct has missing fields."""
    names = batch.schema.names
    for title in titles:
        if title in names:
            yield title, batch.column(title)
            continue
        name = next(n for n in names if title.startswith(f"{n}."))
        array, rest = batch.column(name), title.removeprefix(f"{name}.")
        while rest:
            fields = [field.name for field in array.type]
            name = next(n for n in fields if rest == n or rest.startswith(f"{n}."))
            array, rest = array.flatten()[fields.index(name)], rest.removeprefix(name)[1:]
        yield title, array


def is_number(of_type: Any) -> bool:
    """Return whether a type of Arrow's is a number."""
    import pyarrow.types as types

    return any(test(of_type) for test in (types.is_floating, types.is_integer, types.is_decimal))


def is_list(of_type: Any) -> bool:
    """Return whether a type of Arrow's is a list of any of its types."""
    import pyarrow.types as types

    tests = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view,
             types.is_large_list_view)  # fmt: skip
    return any(test(of_type) for test in tests)


def is_path(of_type: Any, title: str) -> bool:
    """Return whether a column of texts holds names for sure, and no images as base64."""
    import pyarrow.types as types

    is_text = types.is_string(of_type) or types.is_large_string(of_type)
    return is_text and "image" not in title.casefold()


def _choose(table: _Table, options: ReadOptions) -> Columns:
    """Return which column is what; texts and bytes are looked into where nothing else fits."""
    samples = {title: _sample_of_type(table, title) for title in table.types}
    sizes = [sample.size for sample in samples.values()]
    has_numbers = max(sizes, default=0) > 0 or sizes.count(0) >= FEWEST
    for title, of_type in samples.items():
        names = {options.name, options.embedding, title.casefold().rpartition(".")[2].lstrip("_")}
        may_name = title in names or names & {*NAMES, *(f"{name}s" for name in NAMES)}
        is_name = title != options.embedding and is_path(table.types[title], title)
        if of_type.size < 0 and has_numbers and is_name:
            samples[title] = Sample(-1)
        elif of_type.size <= 0 and (may_name or (of_type.size < 0 and not has_numbers)):
            samples[title] = _sample_of_values(table, title, options)
    fixed = any(hasattr(of_type, "list_size") for of_type in table.types.values())
    shown = [*samples.values()]
    try:
        return choose(table.path, [*samples], shown, options, by_name=True, strict=fixed)
    except RowError as error:
        raise InputError(f"{table.path}: {error}") from None


def _sample_of_type(table: _Table, title: str) -> Sample:
    """Return what a column's type says of it, and the lengths of its first lists of numbers."""
    of_type = table.types[title]
    if is_number(of_type):
        return Sample(0, None, can_name=False)
    if not is_list(of_type) or not is_number(of_type.value_type):
        return Sample(-1, None, can_name=False)
    head = table.head(title)
    lengths = [] if head is None else head.value_lengths().drop_null().to_pylist()
    claimed = getattr(of_type, "list_size", -1)
    size = max({*lengths}, key=lengths.count, default=claimed)
    return Sample(size, vectors.OBJECTS[0] if size > 0 else None, can_name=False)


def _sample_of_values(table: _Table, title: str, options: ReadOptions) -> Sample:
    """Return what the first values of a column say of it."""
    head = table.head(title)
    values = [] if head is None else [value for value in _values(head) if value is not None]
    return sample(values, options) if values else Sample(-1)


def _cut(table: _Table, columns: Columns) -> Iterator[chunks.Chunk]:
    """Yield chunks of numbers where Arrow has them as such, else of Python's values."""
    used = dict.fromkeys([*columns.embedding, *columns.metadata.values()])
    embedding = table.types[columns.embedding[0]]
    is_nested = is_list(embedding) and not is_number(embedding.value_type)
    is_values = columns.is_list and (is_nested or not is_list(embedding))
    for arrays in table.batches([*used], table.batch_rows(columns)):
        if is_values:
            values = [_values(arrays[title]) for title in used]
            rows = [dict(zip(used, row, strict=True)) for row in zip(*values, strict=True)]
            size = sum(array.nbytes for array in arrays.values())
            yield chunks.Chunk(table.path, RowsReader(), rows, columns, input_bytes=size)
        else:
            yield from _of_numbers(table.path, columns, arrays)


def _of_numbers(path: str, columns: Columns, arrays: dict[str, Any]) -> Iterator[chunks.Chunk]:
    """Yield chunks of the rows of a batch, whose numbers Arrow has in a list or in columns."""
    bad: list[BadRow] = []
    if columns.is_list:
        arrays, rows, bad = _lists(path, arrays, columns)
    else:
        rows = np.stack([_numpy(arrays[title]) for title in columns.embedding]).T
    metadata = {word: _values(arrays[title]) for word, title in columns.metadata.items()}
    for start in range(0, len(rows) or 1, chunks.BLOCK_ROWS):  # of lists there is one part
        part = slice(start, start + chunks.BLOCK_ROWS)
        of_rows = {word: values[part] for word, values in metadata.items()}
        size = rows[part].nbytes
        yield chunks.Chunk(path, ArrayReader(), rows[part], columns, of_rows, bad, input_bytes=size)


def _lists(
    path: str, arrays: dict[str, Any], columns: Columns
) -> tuple[dict[str, Any], np.ndarray, list[BadRow]]:
    """Return a batch without lists of another length, its embeddings, and the rows without one."""
    import pyarrow as pa

    title, width = columns.embedding[0], columns.width
    lengths = _numpy(arrays[title].value_lengths().fill_null(-1))
    bad = [
        BadRow(path, i + 1, 0, f"{count_of(length)}, not {width}" if length >= 0 else MISSING)
        for i, length in enumerate(lengths.tolist()) if length != width
    ]  # fmt: skip
    if bad:
        good = pa.array(lengths == width)
        arrays = {word: array.filter(good) for word, array in arrays.items()}
    return arrays, _numpy(arrays[title].flatten()).reshape(-1, width), bad


def _values(array: Any) -> list:
    """Return the values of an array of names, ages, genders, or of embeddings in any form."""
    import pyarrow as pa

    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    elif pa.types.is_boolean(array.type):
        array = array.cast(pa.string())
    elif pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    values = array.to_pylist()
    return [*map(shortened, values)] if array.nbytes > LARGE_BYTES else values


def _numpy(numbers: Any) -> np.ndarray:
    """Return an Arrow array as NumPy's; missing numbers are NaN. Without any, pandas stays away."""
    import pyarrow as pa

    if pa.types.is_decimal(numbers.type):
        numbers = numbers.cast(pa.float64())
    if numbers.null_count:
        return numbers.to_numpy(zero_copy_only=False)
    return np.from_dlpack(numbers)
