"""Define the options of reading a table, the roles of its columns, and summaries of columns."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from age_gender.embeddings import MAX_WIDTH, MIN_WIDTH
from age_gender.readers import names, vectors
from age_gender.readers.bad_rows import RowError
from age_gender.readers.numbers import parse_cells

SAMPLE_ROWS = 20  # rows from which the roles of columns and the type of bytes are inferred


@dataclass(frozen=True)
class ReadOptions:
    """Hold options of reading tables: the width that the caller needs, and the user's options."""

    width: int | None = None  # numbers in an embedding; None: as many as in the first table
    width_source: str | None = None  # the file that set `width`; None: a model set it
    widths: tuple[int, ...] = ()  # if `width` is None, the widths of the models; (): any
    models_description: str = ""  # the models of these widths, for a message
    embedding_column: str | None = None  # title
    name_column: str | None = None  # title
    names_file: str | None = None  # text file of names, for an NPY or an NPZ without names
    query: str | None = None  # a SELECT for SQLite
    blob_type: str | None = None  # type of the numbers in bytes: a key of blobs.DTYPES
    reads_labels: bool = False  # whether ages and genders are read

    def fits(self, count: int) -> bool:
        """Return whether `count` numbers are as many as an embedding to read may have."""
        if self.width or self.widths:
            return count == self.width if self.width else count in self.widths
        return MIN_WIDTH <= count <= MAX_WIDTH

    def is_known_width(self, count: int) -> bool:
        """Return whether a model or an earlier table has this width."""
        return count in (self.width, *self.widths)

    def looks_transposed(self, row_count: int, count: int) -> bool:
        """Return whether a table of `row_count` rows of `count` numbers is probably transposed.

        It has as many rows as an embedding has numbers. A `count` that is a multiple of 64 is
        taken for another network's width instead.
        """
        return self.is_known_width(row_count) and count % 64 > 0

    def find_row_width(self, count: int) -> int | None:
        """Return the known width of a row of `count` cells, one of which may be a name; or None."""
        widths = (self.width,) if self.width else self.widths
        return next((width for width in widths if 0 <= count - width <= 1), None)


DEFAULT_OPTIONS = ReadOptions()  # any width; the roles of columns are inferred


@dataclass(frozen=True)
class Columns:
    """Hold the columns that are read: their indices, or, in JSON and Parquet, their titles."""

    width: int = 0
    embedding: Sequence[Hashable] = ()  # one column of vectors, or columns of one number each
    vector_format: vectors.VectorFormat | None = None  # None: columns of numbers
    # Column by role: "name" or a title of LABEL_COLUMNS
    metadata_columns: dict[str, Hashable] = field(default_factory=dict)
    column_count: int = 0  # of the whole table
    unread_columns: tuple[str, ...] = ()  # titles

    def read_vector(self, get: Callable) -> np.ndarray:
        """Return a row's embedding, float32 (width,); `get` returns the row's value in a column.

        Raises RowError for a row without a usable embedding.
        """
        if self.vector_format is None:
            first = self.embedding[0] + 1 if isinstance(self.embedding[0], int) else 1
            return parse_cells([*map(get, self.embedding)], "cell", first)
        return self.vector_format.read(get(self.embedding[0]), self.width)

    def used_columns(self) -> list[Hashable]:
        """Return the columns of the embedding, the name and the labels."""
        return [*self.embedding, *self.metadata_columns.values()]

    @property
    def holds_vectors(self) -> bool:
        """Return whether one column holds a vector per row, in `vector_format`."""
        return self.vector_format is not None

    def has_format(self, vector_format: vectors.VectorFormat) -> bool:
        """Return whether one column holds vectors in this format."""
        # Compared by name: a format that came from another process is another object
        return self.vector_format is not None and self.vector_format.name == vector_format.name


UNKNOWN_COLUMNS = Columns()


class ColumnSummary(NamedTuple):
    """Summarise a column by its first values."""

    width: int = 0  # numbers in each of its vectors; 0 for other columns
    is_number: bool = False
    vector_format: vectors.VectorFormat | None = None
    may_be_name: bool = True
    error: RowError | None = None  # why the first value is no usable vector, though it is meant so
    text: str = ""  # what the first value seems to be, for a message


def summarise_column(values: Sequence[object], options: ReadOptions) -> ColumnSummary:
    """Return the summary of a column with these values in the first rows."""
    if vectors.is_scalar(values[0]):  # most columns of most tables
        return ColumnSummary(is_number=True, may_be_name=names.may_be_name(values[0]))
    vector_format = vectors.find_format(values, options.width, options.blob_type)
    try:
        width = vectors.count_numbers(values[0], vector_format)
    except RowError as error:
        return ColumnSummary(may_be_name=False, error=error)
    if width and _are_bytes(values[0], vector_format, options):
        reason = f"{width:,} whole numbers from 0 to 255, the bytes of an embedding"
        error = RowError(reason, "decode each row: numpy.frombuffer(bytes(row), numpy.float32)")
        return ColumnSummary(may_be_name=False, error=error)
    if width:
        return ColumnSummary(width, vector_format=vector_format, may_be_name=False)
    value = next((value for value in values if value is not None), None)
    return ColumnSummary(may_be_name=names.may_be_name(value), text=vectors.describe_value(value))


def _are_bytes(value: object, vector_format: vectors.VectorFormat, options: ReadOptions) -> bool:
    """Return whether a list holds an embedding's bytes, each as a number from 0 to 255."""
    cells = vector_format.extract(value)
    sizes = (size for size in (2, 4, 8) if len(cells) % size == 0)
    if not any(options.is_known_width(len(cells) // size) for size in sizes):
        return False
    return all(str(cell).strip().isdecimal() and int(cell) < 256 for cell in cells)


def summarise_columns(rows: Sequence[Sequence], options: ReadOptions) -> list[ColumnSummary]:
    """Return the summary of each column; rows of another length than the first are left out."""
    rows = [row for row in rows if len(row) == len(rows[0])]
    return [summarise_column(values, options) for values in zip(*rows, strict=True)]
