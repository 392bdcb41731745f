"""What the readers share: a chunk of input, the block that is read from it, and its bad rows.

Reading has two steps, so that the slow one can run anywhere: a format's `cut` cuts a file into
chunks of bounded size, in order, and `tables.parse` turns a chunk into a `Batch` of names and
features. `Numbering` puts blocks, in order, back into their places in the input.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender.cli import InputError, printable, say
from age_gender.readers import names, vectors
from age_gender.readers.columns import UNKNOWN, Columns

DIMENSIONS = 512  # numbers of FaceNet's embeddings, which the shipped data and model hold
BLOCK_ROWS = 2048  # of arrays
CHUNK_BYTES = 2 << 20  # of text: about 300 rows; of fewer, each costs more
SMALL_BYTES = 64 << 10  # of text: read one by one before a parser has been set up
RECORD_BYTES = 1 << 20  # the longest row of a text: 4,096 numbers and a name need far less
STDIN = "standard input"


class BadRow(NamedTuple):
    """A row that cannot be used, in its block or its file: rows and lines count from 1."""

    path: str
    row: int
    line: int  # 0 where the format has no lines
    reason: str

    def __str__(self) -> str:
        line = f" (line {self.line})" if self.line else ""
        return f"{self.path}: row {self.row}{line}: {self.reason}"


@dataclass(frozen=True)
class Chunk:
    """A part of one file that `parse` can read by itself, in another process too."""

    path: str
    kind: str  # the module that parses it
    data: bytes | np.ndarray | list = b""
    columns: Columns = UNKNOWN  # until a row tells which column is what: rows before it are bad
    metadata: dict[str, list] = field(default_factory=dict)  # of an array's rows: names, labels
    bad: Sequence[BadRow] = ()  # rows that are not in the data
    lines: int = 0  # of text, besides those of the data
    has_lines: bool = True  # whether rows are metadata by lines of the file too, if it is text
    last: bool = False  # of its file
    input_bytes: int = 0
    offset: int | None = None  # of the data in the file, if it is there as it is here
    unread: int = 0  # bytes there that stand for the data

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

    def with_columns(self, found: Iterable[tuple[int, Columns | str]]) -> "Chunk":
        """The chunk with the columns by the first row that tells; else with bad rows alone.

        `found` has, of each row, its line and the columns, or why it does not tell.
        """
        bad = [*self.bad]
        for line, columns in found:
            if isinstance(columns, Columns):
                return replace(self, columns=columns)
            bad.append(BadRow(self.path, len(bad) + 1, line, columns))
        return replace(self, data=b"", bad=bad, lines=self.lines + self.data.count(b"\n"))


@dataclass
class Batch:
    """What was read of a chunk: the features of its good rows, and what is metadata of them.

    `features` is float32 (n, width), finite, none all zeros. `good` (n,) holds each row's
    0-based place among the `rows` data rows, which include the bad ones. `metadata` are the columns
    "name" (as text), and "age" and "gender" as they are written, where they are options and there.
    """

    chunk: Chunk  # without its data
    features: np.ndarray
    good: np.ndarray
    rows: int
    bad: list[BadRow]
    metadata: dict[str, list]


def read_carefully(chunk: Chunk, rows: Iterable[tuple[int, Callable | ValueError]]) -> Batch:
    """A block of rows read one by one: of each its line, and what gives the value of a column,
    or what is wrong with it.
    """
    metadata: dict[str, list] = {word: [] for word in chunk.columns.metadata}
    values, lines, bad = [], [], []
    for number, (line, get) in enumerate(rows, 1):
        try:
            if isinstance(get, ValueError):
                raise get
            values.append(chunk.columns.vector(get))
        except ValueError as error:
            bad.append(BadRow(chunk.path, number, line, str(error)))
            continue
        lines.append(line)
        for word, found in metadata.items():
            found.append(get(chunk.columns.metadata[word]))
    return make_batch(chunk, values, metadata, chunk.data.count(b"\n"), bad, lines)


def make_batch(
    chunk: Chunk, table: Sequence, metadata: dict[str, list],
    data_lines: int = 0, bad: Sequence[BadRow] = (), lines: Sequence[int] = (),
) -> Batch:  # fmt: skip
    """A block of a table (n, width), without the rows that turn out to be bad; `bad` are rows
    that are not in it. `metadata` and `lines`, if the format has any, are of the rows of the table.
    """
    bad = [*chunk.bad, *bad]
    count = len(table) + len(bad)
    places = np.delete(np.arange(count), [row.row - 1 for row in bad])
    features, reasons = _checked(np.asarray(table).reshape(len(table), chunk.columns.width))
    if "name" in metadata:
        found, of_names = names.as_text(metadata["name"])
        metadata, reasons = metadata | {"name": found}, of_names | reasons
    if reasons:
        for i, reason in reasons.items():
            line = lines[i] if lines else 0
            bad.append(BadRow(chunk.path, int(places[i]) + 1, line, reason))
        good = np.delete(np.arange(len(table)), [*reasons])
        features, places = features[good], places[good]
        metadata = {word: [values[i] for i in good] for word, values in metadata.items()}
    origin = replace(chunk, data=b"", metadata={}, bad=(), lines=chunk.lines + data_lines)
    return Batch(origin, features, places, count, sorted(bad), metadata)


def _checked(rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Rows of numbers as float32, and what is wrong with which of them."""
    with np.errstate(over="ignore", invalid="ignore"):
        features = _row_after_row(rows)
        squares = np.einsum("ij,ij->i", features, features)
        odd = np.flatnonzero(~((squares > vectors.TINY) & (squares < np.inf)))  # to be looked at
        largest = np.abs(features[odd]).max(axis=1, initial=0)
    reasons = {}
    for i in odd[~((largest >= vectors.TINY) & (largest < np.inf))].tolist():
        reasons[i] = "a row of zeros is no embedding (all numbers are under 1e-37)"
        for place in np.flatnonzero(~np.isfinite(features[i]))[:1]:
            what = "too large a number" if np.isfinite(rows[i, place]) else "not a finite number"
            reasons[i] = f"number {place + 1} is {rows[i, place]:g}, {what}"
    return features, reasons


def _row_after_row(rows: np.ndarray) -> np.ndarray:
    """`rows` as float32, C-contiguous, where it may lie column after column."""
    if rows.strides[0] >= rows.strides[1]:
        return np.ascontiguousarray(rows, np.float32)
    features = np.empty(rows.shape, np.float32)
    for column in range(0, rows.shape[1], 16):  # a cache line: in one go takes three times as long
        features[:, column : column + 16] = rows[:, column : column + 16]
    return features


class Numbering:
    """Puts blocks, given in input order, back into their places in the input."""

    def __init__(self) -> None:
        self.total = self.rows = self.lines = 0
        self.at_end = False  # of a file
        self.left_out: dict[str, None] = {}  # columns, in the order in which they were met

    def place(self, block: Batch) -> tuple[list[str], list[BadRow]]:
        """The names of the block's good rows, and its bad rows' places.

        A row without a name is called by its number over the whole input, or, if it is its
        file's only row, by the file's name. Raises InputError for a file without any row.
        """
        chunk = block.chunk
        if self.at_end:
            self.rows = self.lines = 0
        self.at_end = chunk.last
        self.left_out |= dict.fromkeys(chunk.columns.left_out)
        found = block.metadata.get("name")
        if found is None:
            found = [str(self.total + 1 + i) for i in block.good.tolist()]
            if found and chunk.last and self.rows + block.rows == 1 and chunk.path != STDIN:
                found = [names.text_name(Path(chunk.path).name.removesuffix(".csv"))]
        bad = [
            BadRow(path, self.rows + row, self.lines + line if line else 0, reason)
            for path, row, line, reason in block.bad
        ]
        self.total += block.rows
        self.rows += block.rows
        self.lines += chunk.lines
        if chunk.last and not self.rows:
            raise InputError(
                f"{chunk.path}: no row of embeddings in this file; write it again or leave it out"
            )
        return found, bad

    def say_left_out(self) -> None:
        """Name the columns that were not read: once, and only where all went well."""
        if self.left_out:
            say(printable(f"columns left out: {', '.join(self.left_out)}"))
