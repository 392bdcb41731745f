"""Define what the readers share: a chunk of input, the batch parsed from it, and its bad rows.

Reading has two steps, so that the slow one can run anywhere: `read_chunks` of a format's module
splits a file into chunks of bounded size, in order, and a chunk's `parser` turns it into a `Batch`
of names and features. A reader makes a template chunk with the path and the parser, and yields
copies of it that hold data. `RowNumbering` numbers the rows of batches in their file and the whole
input.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from age_gender.cli import say
from age_gender.embeddings import MIN_MAGNITUDE
from age_gender.errors import InputError, printable
from age_gender.readers import names
from age_gender.readers.bad_rows import BadRow, RowError
from age_gender.readers.columns import SAMPLE_ROWS, UNKNOWN_COLUMNS, Columns
from age_gender.readers.numbers import describe_not_finite

CHUNK_ROWS = 2048  # rows in a chunk of an array
CHUNK_BYTES = 2 << 20  # bytes of text in a chunk, 300 rows of 512; smaller ones cost more per row
SMALL_BYTES = 64 << 10  # bytes of text below which parsing row by row is faster
MAX_ROW_BYTES = 1 << 20  # bytes of the longest row of text: 4,096 numbers and a name need far less
STDIN = "standard input"


class Row(NamedTuple):
    """Hold a row of a chunk: a function that returns its value in a column, or its error."""

    line: int  # line number in the chunk, from 1; 0 where the format has no lines
    get: Callable[[Hashable], object] | None = None
    error: RowError | None = None


@dataclass(frozen=True)
class Chunk:
    """Hold a part of one file that can be parsed by itself, also in another process."""

    path: str
    parser: Callable[["Chunk"], "Batch"] | None = None  # a pure function; None without data
    data: bytes | np.ndarray | list | None = b""  # None: `with_data` reads it from `file_range`
    columns: Columns = UNKNOWN_COLUMNS  # unknown until a row shows them; rows before it are bad
    metadata: dict[str, list] = field(default_factory=dict)  # names and labels of an array's rows
    bad_rows: Sequence[BadRow] = ()  # rows that are not in the data
    lines_above_count: int = 0  # lines of text above the data
    has_lines: bool = False  # whether messages give lines of the file
    is_last: bool = False  # whether it is the last chunk of its file
    input_bytes: int = 0
    # Offset and size of the data in the file; None for decompressed text, pipes and arrays
    file_range: tuple[int, int] | None = None

    def without_data(self) -> "Chunk":
        """Return the chunk without data that `with_data` can read again, so that it is small."""
        return replace(self, data=None) if self.file_range else self

    def with_data(self) -> "Chunk":
        """Return the chunk with its data. Raises InputError if the file became shorter."""
        if self.data is not None:
            return self
        offset, size = self.file_range
        with open(self.path, "rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
        if len(data) < size:
            raise InputError(f"{self.path}: became shorter while it was read; try again")
        return replace(self, data=data)

    def with_columns(
        self, rows: Iterable[tuple[int, Any]], choose: Callable[[list], Columns]
    ) -> "Chunk":
        """Return the chunk with the Columns that its first usable row shows.

        If no row shows them, the chunk has no data, and all its rows are bad. `rows` are pairs of
        a line and a row; `choose` takes a row and some that follow it, and may raise RowError.
        """
        bad_rows = [*self.bad_rows]
        for window in row_windows(rows):
            try:
                return replace(self, columns=choose([row for _, row in window]))
            except RowError as error:
                row, line = len(bad_rows) + 1, window[0][0]
                bad_rows.append(BadRow(self.path, row, line, error.reason, error.remedy))
        line_count = self.lines_above_count + self.data.count(b"\n")
        return replace(self, data=b"", bad_rows=bad_rows, lines_above_count=line_count)


@dataclass
class Batch:
    """Hold what was parsed from a chunk: features and metadata of its good rows, and its bad rows.

    `features` is float32 (n, width), finite, without rows of zeros. `row_indices` (n,) are the
    good rows' indices among all rows of the chunk. `metadata` maps "name" to the names as text,
    None for a row without one, and, where labels are read, titles of labels.LABEL_COLUMNS to their
    values as written. `scores` are a model's, float32 (n, 6), in the order of scorer.OUTPUTS; None
    before the batch is scored, after which `features` are (n, 0).
    """

    chunk: Chunk  # without its data
    features: np.ndarray
    row_indices: np.ndarray
    row_count: int  # good rows and bad ones
    line_count: int  # lines of text, including those above the rows
    bad_rows: list[BadRow]
    metadata: dict[str, list]
    line_numbers: Sequence[int] = ()  # good rows' lines in the chunk, from 1; () without lines
    scores: np.ndarray | None = None

    def keep(self, kept: np.ndarray) -> "Batch":
        """Return the batch with only the good rows of these indices (k,)."""
        return replace(
            self, features=self.features[kept], row_indices=self.row_indices[kept],
            metadata={role: [column[i] for i in kept] for role, column in self.metadata.items()},
            line_numbers=[self.line_numbers[i] for i in kept] if self.line_numbers else (),
            scores=None if self.scores is None else self.scores[kept],
        )  # fmt: skip


ParsedRows = tuple[Sequence, dict[str, list]]  # rows (n, width) and their metadata


def assign_columns(
    unassigned: Iterable[Chunk],
    find_rows: Callable[[Chunk], Iterable[tuple[int, Any]]],
    choose: Callable[[list], Columns],
) -> Iterator[Chunk]:
    """Yield chunks with the Columns that the first usable row shows, as `Chunk.with_columns` does.

    `find_rows` returns the rows of a chunk.
    """
    columns = UNKNOWN_COLUMNS
    for chunk in unassigned:
        if columns is UNKNOWN_COLUMNS:
            chunk = chunk.with_columns(find_rows(chunk), choose)
            columns = chunk.columns
        yield replace(chunk, columns=columns)


def row_windows(rows: Iterable) -> Iterator[list]:
    """Yield each row with the SAMPLE_ROWS - 1 rows after it, which help to infer types."""
    rows = iter(rows)
    window = [*itertools.islice(rows, SAMPLE_ROWS)]
    while window:
        yield window
        window = [*window[1:], *itertools.islice(rows, 1)]


def parse_chunk(
    chunk: Chunk,
    parse_in_bulk: Callable[[Chunk], ParsedRows | None],
    split_rows: Callable[[Chunk], Iterable[Row]],
) -> Batch:
    """Return the batch of a chunk, parsed in bulk, or else row by row.

    `parse_in_bulk` returns None if that could give other values than parsing row by row. A chunk
    with a bad row is parsed row by row, to find the reason.
    """
    if parsed := parse_in_bulk(chunk):
        count = len(parsed[0])
        line_numbers = range(1, count + 1) if chunk.has_lines else ()
        batch = make_batch(chunk, *parsed, data_lines=count, line_numbers=line_numbers)
        if not batch.bad_rows:
            return batch
    return _parse_row_by_row(chunk, split_rows(chunk))


def _parse_row_by_row(chunk: Chunk, rows: Iterable[Row]) -> Batch:
    """Return the batch of a chunk with these rows, and the reason why each bad row is bad."""
    metadata: dict[str, list] = {role: [] for role in chunk.columns.metadata_columns}
    embeddings, line_numbers, bad_rows = [], [], []
    for number, row in enumerate(rows, 1):
        try:
            if row.error:
                raise row.error
            embeddings.append(chunk.columns.read_vector(row.get))
        except RowError as error:
            bad_rows.append(BadRow(chunk.path, number, row.line, error.reason, error.remedy))
            continue
        line_numbers.append(row.line)
        for role, values in metadata.items():
            values.append(row.get(chunk.columns.metadata_columns[role]))
    data_lines = chunk.data.count(b"\n") if chunk.has_lines else 0
    return make_batch(chunk, embeddings, metadata, data_lines, bad_rows, line_numbers)


def make_batch(
    chunk: Chunk, table: Sequence, metadata: dict[str, list],
    data_lines: int = 0, bad_rows: Sequence[BadRow] = (), line_numbers: Sequence[int] = (),
) -> Batch:  # fmt: skip
    """Return the batch of a table (n, width), whose unusable rows become bad rows.

    `bad_rows` are rows that are not in the table. `metadata` and `line_numbers` describe the
    table's rows; `line_numbers` is empty where the format has no lines.
    """
    bad_rows = [*chunk.bad_rows, *bad_rows]
    count = len(table) + len(bad_rows)
    row_indices = np.delete(np.arange(count), [row.row - 1 for row in bad_rows])
    features, reasons = _check_rows(np.asarray(table).reshape(len(table), chunk.columns.width))
    if "name" in metadata:
        texts, name_reasons = names.to_text(metadata["name"])
        metadata, reasons = metadata | {"name": texts}, name_reasons | reasons
    for i, reason in reasons.items():
        line = line_numbers[i] if line_numbers else 0
        bad_rows.append(BadRow(chunk.path, int(row_indices[i]) + 1, line, reason))
    origin = replace(chunk, data=b"", metadata={}, bad_rows=())
    line_count = chunk.lines_above_count + data_lines
    batch = Batch(
        origin, features, row_indices, count, line_count, sorted(bad_rows), metadata, line_numbers
    )
    return batch.keep(np.delete(np.arange(len(table)), [*reasons])) if reasons else batch


def _check_rows(rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Return rows of numbers as float32, and the reasons of bad rows by their indices."""
    with np.errstate(over="ignore", invalid="ignore"):
        features = _as_c_order(rows)
        # The sum of squares, which is fast, also under- or overflows for some good rows: these
        # are judged by their largest number.
        squares = np.einsum("ij,ij->i", features, features)
        suspects = np.flatnonzero(~((squares > MIN_MAGNITUDE) & (squares < np.inf)))
        largest = np.abs(features[suspects]).max(axis=1, initial=0)
        is_good = (largest >= MIN_MAGNITUDE) & (largest < np.inf)
    reasons = {}
    for i in suspects[~is_good].tolist():
        fault = describe_not_finite(rows[i])
        reasons[i] = (
            fault or f"a row of zeros is no embedding (all numbers are under {MIN_MAGNITUDE:g})"
        )
    return features, reasons


def _as_c_order(rows: np.ndarray) -> np.ndarray:
    """Return rows as C-contiguous float32, quickly where they are stored column by column."""
    if rows.strides[0] >= rows.strides[1]:
        return np.ascontiguousarray(rows, np.float32)
    features = np.empty(rows.shape, np.float32)
    for column in range(0, rows.shape[1], 16):  # a cache line: all at once takes thrice the time
        features[:, column : column + 16] = rows[:, column : column + 16]
    return features


class RowNumbering:
    """Number the rows of batches, which come in input order, in their file and the whole input."""

    def __init__(self) -> None:
        self.input_rows = 0
        self.file_rows = self.file_lines = 0  # those of the file that were numbered so far
        self.has_ended = False  # whether the last batch ended its file
        self.unread_columns: dict[str, None] = {}  # titles, in the order of the input

    def number(self, batch: Batch) -> tuple[list[str], list[BadRow]]:
        """Return the names of the batch's good rows, and its bad rows, numbered in their file.

        A row without a name gets its number in the whole input as its name, or, if it is its
        file's only row, the file's name. Raises InputError for a file without any row.
        """
        chunk = batch.chunk
        if self.has_ended:
            self.file_rows = self.file_lines = 0
        self.has_ended = chunk.is_last
        self.unread_columns |= dict.fromkeys(chunk.columns.unread_columns)

        # Give rows without a name their number, or a file's only row the file's name
        row_names = batch.metadata.get("name") or [None] * len(batch.row_indices)
        if None in row_names:
            numbers = (str(self.input_rows + 1 + index) for index in batch.row_indices.tolist())
            if chunk.is_last and self.file_rows + batch.row_count == 1 and chunk.path != STDIN:
                numbers = iter([names.name_of_file(chunk.path)])
            row_names = [
                number if name is None else name
                for name, number in zip(row_names, numbers, strict=False)
            ]

        bad_rows = [row.numbered_in_file(self.file_rows, self.file_lines) for row in batch.bad_rows]
        self.input_rows += batch.row_count
        self.file_rows += batch.row_count
        self.file_lines += batch.line_count
        if chunk.is_last and not self.file_rows:
            raise InputError(f"{chunk.path}: this file has no rows; leave it out or write it again")
        return row_names, bad_rows

    def say_unread_columns(self) -> None:
        """Print the titles of the columns that were not read."""
        if self.unread_columns:
            say(printable(f"columns left out: {', '.join(self.unread_columns)}"))
