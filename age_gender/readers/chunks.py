"""Define what the readers share: a chunk of input, the batch parsed from it, and its bad rows.

Reading has two steps, so that the slow one can run anywhere: a reader's `cut` cuts a file into
chunks of bounded size, in order, and its `parse` turns a chunk into a `Batch` of names and
features. `Numbering` counts the rows of batches, in order, over their file and the whole input.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from age_gender.cli import InputError, printable, say
from age_gender.readers import names
from age_gender.readers.columns import SAMPLE_ROWS, UNKNOWN, Columns, ReadOptions
from age_gender.readers.errors import BadRow, RowError
from age_gender.readers.numbers import TINY, find_not_finite

CHUNK_ROWS = 2048  # rows of a chunk of arrays
CHUNK_BYTES = 2 << 20  # bytes of a chunk of text: 300 rows of 512 numbers; fewer cost more a row
SMALL_BYTES = 64 << 10  # bytes of text under which row by row is faster than setting up a parser
MAX_ROW_BYTES = 1 << 20  # bytes of the longest row of text: 4,096 numbers and a name need far less
STDIN = "standard input"


class Reader(Protocol):
    """Read tables of one file format. Stateless, so that a chunk takes its reader along."""

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator["Chunk"]:
        """Yield the chunks of the file that `stream` is open on.

        Raises InputError for a file that is not a table of embeddings.
        """

    def parse(self, chunk: "Chunk") -> "Batch":
        """Return what a chunk holds: a pure function, for any thread, process or machine."""


class Row(NamedTuple):
    """Hold a row that is parsed on demand.

    `get_cells` returns a function from a column to the row's value in it, or raises RowError.
    """

    line: int  # line number in the chunk, from 1; 0 where the format has no lines
    get_cells: Callable[[], Callable[[Hashable], object]]


@dataclass(frozen=True)
class Chunk:
    """Hold a part of one file that its reader can parse by itself, in another process too."""

    path: str
    reader: Reader
    data: bytes | np.ndarray | list = b""
    columns: Columns = UNKNOWN  # until a row shows which column is what: rows before it are bad
    metadata: dict[str, list] = field(default_factory=dict)  # names and labels of an array's rows
    bad: Sequence[BadRow] = ()  # rows that are not in the data
    lines: int = 0  # lines of text besides those of the data
    has_lines: bool = True  # whether messages give lines of the file, if it is text
    last: bool = False  # whether it is the last one of its file
    input_bytes: int = 0
    offset: int | None = None  # byte offset of the data in the file, if it is there unchanged
    unread: int = 0  # bytes at that offset that stand for the data

    def without_data(self) -> "Chunk":
        """Return a chunk that is small when pickled, where `with_data` finds the data again."""
        if self.offset is None:
            return self
        return replace(self, data=b"", unread=len(self.data))

    def with_data(self) -> "Chunk":
        """Return the chunk with its data. Raises InputError for a file that became shorter."""
        if not self.unread:
            return self
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            data = stream.read(self.unread)
        if len(data) < self.unread:
            raise InputError(f"{self.path}: became shorter while it was read; try again")
        return replace(self, data=data, unread=0)

    def with_columns(self, rows: Iterable[tuple[int, Callable[[], Columns]]]) -> "Chunk":
        """Return the chunk with the columns by the first row that shows them, else bad rows alone.

        `rows` has for each row its line, and a function that returns the columns or raises
        RowError.
        """
        bad = [*self.bad]
        for line, choose_columns in rows:
            try:
                return replace(self, columns=choose_columns())
            except RowError as error:
                bad.append(BadRow(self.path, len(bad) + 1, line, error.reason, error.remedy))
        return replace(self, data=b"", bad=bad, lines=self.lines + self.data.count(b"\n"))


@dataclass
class Batch:
    """Hold what was parsed from a chunk: features and metadata of its good rows, and its bad rows.

    `features` is float32 (n, width), finite, none all zeros. `row_indices` (n,) number the good
    rows among all `rows`, from 0. `metadata` has "name" as text, and "age" and "gender" as written,
    where the table has them and they are read. `scores` are a model's, float32 (n, 6), with the
    columns of litert.OUTPUTS; None before it has scored the batch.
    """

    chunk: Chunk  # without its data
    features: np.ndarray
    row_indices: np.ndarray
    rows: int
    bad: list[BadRow]
    metadata: dict[str, list]
    lines: Sequence[int] = ()  # of the good rows in the chunk, from 1, if the format has lines
    scores: np.ndarray | None = None

    def keep(self, kept: np.ndarray) -> "Batch":
        """Return the batch with only these of its good rows, by their indices (k,)."""
        return replace(
            self, features=self.features[kept], row_indices=self.row_indices[kept],
            metadata={role: [column[i] for i in kept] for role, column in self.metadata.items()},
            lines=[self.lines[i] for i in kept] if self.lines else (),
            scores=None if self.scores is None else self.scores[kept],
        )  # fmt: skip


Parsed = tuple[Sequence, dict[str, list]]  # rows (n, width) and their metadata


def row_windows(rows: Iterable) -> Iterator[list]:
    """Yield each row with the SAMPLE_ROWS - 1 that follow it, which help to infer types."""
    rows = iter(rows)
    window = [*itertools.islice(rows, SAMPLE_ROWS)]
    while window:
        yield window
        window = [*window[1:], *itertools.islice(rows, 1)]


def parse_rows(
    chunk: Chunk,
    parse_at_once: Callable[[Chunk], Parsed | None],
    split_rows: Callable[[Chunk], Iterable[Row]],
) -> Batch:
    """Return the batch of a chunk: parsed at once, or row by row where that says which row is bad.

    `parse_at_once` returns None for a chunk that might read otherwise row by row.
    """
    if not len(chunk.data):
        return make_batch(chunk, [], {})
    if parsed := parse_at_once(chunk):
        count = len(parsed[0])
        lines = range(1, count + 1) if chunk.has_lines and isinstance(chunk.data, bytes) else ()
        batch = make_batch(chunk, *parsed, data_lines=count, lines=lines)
        if not batch.bad:
            return batch
    return _parse_row_by_row(chunk, split_rows(chunk))


def _parse_row_by_row(chunk: Chunk, rows: Iterable[Row]) -> Batch:
    """Return the batch of a chunk that has these rows, with the reason of each bad one."""
    metadata: dict[str, list] = {role: [] for role in chunk.columns.metadata}
    embeddings, lines, bad = [], [], []
    for number, (line, get_cells) in enumerate(rows, 1):
        try:
            get = get_cells()
            embeddings.append(chunk.columns.read_vector(get))
        except RowError as error:
            bad.append(BadRow(chunk.path, number, line, error.reason, error.remedy))
            continue
        lines.append(line)
        for role, values in metadata.items():
            values.append(get(chunk.columns.metadata[role]))
    data_lines = chunk.data.count(b"\n") if isinstance(chunk.data, bytes) else 0
    return make_batch(chunk, embeddings, metadata, data_lines, bad, lines)


def make_batch(
    chunk: Chunk, table: Sequence, metadata: dict[str, list],
    data_lines: int = 0, bad: Sequence[BadRow] = (), lines: Sequence[int] = (),
) -> Batch:  # fmt: skip
    """Return the batch of a table (n, width), without the rows that turn out to be bad.

    `bad` are rows that are not in the table; `metadata` and `lines`, if the format has any, are of
    the rows of the table.
    """
    # Number the rows of the table
    bad = [*chunk.bad, *bad]
    count = len(table) + len(bad)
    row_indices = np.delete(np.arange(count), [row.row - 1 for row in bad])

    # Find bad rows
    features, reasons = _check_rows(np.asarray(table).reshape(len(table), chunk.columns.width))
    if "name" in metadata:
        texts, name_reasons = names.to_text(metadata["name"])
        metadata, reasons = metadata | {"name": texts}, name_reasons | reasons
    for i, reason in reasons.items():
        line = lines[i] if lines else 0
        bad.append(BadRow(chunk.path, int(row_indices[i]) + 1, line, reason))
    origin = replace(chunk, data=b"", metadata={}, bad=(), lines=chunk.lines + data_lines)
    batch = Batch(origin, features, row_indices, count, sorted(bad), metadata, lines)
    return batch.keep(np.delete(np.arange(len(table)), [*reasons])) if reasons else batch


def _check_rows(rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Return rows of numbers as float32, and the faults of bad rows by their indices."""
    with np.errstate(over="ignore", invalid="ignore"):
        features = _as_c_order(rows)
        squares = np.einsum("ij,ij->i", features, features)
        suspects = np.flatnonzero(~((squares > TINY) & (squares < np.inf)))
        largest = np.abs(features[suspects]).max(axis=1, initial=0)
    reasons = {}
    for i in suspects[~((largest >= TINY) & (largest < np.inf))].tolist():
        fault = find_not_finite(rows[i])
        reasons[i] = fault or f"a row of zeros is no embedding (all numbers are under {TINY:g})"
    return features, reasons


def _as_c_order(rows: np.ndarray) -> np.ndarray:
    """Return rows as C-contiguous float32, quickly where they are stored column by column."""
    if rows.strides[0] >= rows.strides[1]:
        return np.ascontiguousarray(rows, np.float32)
    features = np.empty(rows.shape, np.float32)
    for column in range(0, rows.shape[1], 16):  # a cache line: in one go takes three times as long
        features[:, column : column + 16] = rows[:, column : column + 16]
    return features


class Numbering:
    """Number the rows of batches, given in input order, in their file and in the whole input."""

    def __init__(self) -> None:
        self.total = self.rows = self.lines = 0
        self.at_end = False  # of a file
        self.unread_columns: dict[str, None] = {}  # titles of columns, in the order of the input

    def locate(self, batch: Batch) -> tuple[list[str], list[BadRow]]:
        """Return the names of the batch's good rows, and its bad rows, numbered in their file.

        A row without a name is called by its number over the whole input, or, if it is its
        file's only row, by the file's name. Raises InputError for a file without any row.
        """
        # A new file
        chunk = batch.chunk
        if self.at_end:
            self.rows = self.lines = 0
        self.at_end = chunk.last
        self.unread_columns |= dict.fromkeys(chunk.columns.unread_columns)

        # Names
        row_names = batch.metadata.get("name") or [None] * len(batch.row_indices)
        if None in row_names:
            numbers = (str(self.total + 1 + index) for index in batch.row_indices.tolist())
            if chunk.last and self.rows + batch.rows == 1 and chunk.path != STDIN:
                numbers = iter([names.name_of_file(chunk.path)])
            row_names = [
                number if name is None else name
                for name, number in zip(row_names, numbers, strict=False)
            ]

        # Bad rows, and the count
        bad = [
            row._replace(row=self.rows + row.row, line=self.lines + row.line if row.line else 0)
            for row in batch.bad
        ]
        self.total += batch.rows
        self.rows += batch.rows
        self.lines += chunk.lines
        if chunk.last and not self.rows:
            raise InputError(
                f"{chunk.path}: no row of embeddings in this file; write it again or leave it out"
            )
        return row_names, bad

    def say_unread_columns(self) -> None:
        """Name the columns that were not read: once, and only where all went well."""
        if self.unread_columns:
            say(printable(f"columns left out: {', '.join(self.unread_columns)}"))
