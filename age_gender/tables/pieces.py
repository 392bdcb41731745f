"""What the readers share: a piece of input, the block that is read from it, and its faults.

Reading has two steps, so that the slow one can run anywhere: a format's `cut` cuts a file into
pieces of bounded size, in order, and its `parse` turns a piece into a `Block` of names and
features. `Numbering` puts blocks, in order, back into their places in the input.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender.script import InputError, error_line, printable, say
from age_gender.tables import numbers
from age_gender.tables.columns import ANY, Columns, Wanted, wrong_width
from age_gender.tables.names import text_name

DIMENSIONS = 512  # numbers of FaceNet's embeddings, which the shipped data and model hold
BLOCK_ROWS = 2048  # of arrays
CHUNK_BYTES = 1 << 20  # of text: about 150 rows, which stay in the processor's cache
SMALL_BYTES = 64 << 10  # of text: read carefully before a parser has been set up
STDIN = "standard input"
RECORD_BYTES = 1 << 20  # the longest row of a text: 4,096 numbers and a name need far less


@dataclass(frozen=True)
class Piece:
    """A part of one file that `parse` can read by itself, in another process too."""

    path: str
    kind: str  # the module that parses it, or "fault": a row that cannot even be cut out
    data: bytes | np.ndarray | list | str
    columns: Columns | None = None  # None: no row so far told which column is what
    wanted: Wanted = ANY  # by which a row may still tell
    header: list[str] | None = None  # CSV: the names of columns, where they are still needed
    names: list | None = None  # of an array's rows, like the next two
    age: list | None = None
    gender: list | None = None
    faults: dict[int, str] = field(default_factory=dict)  # found in rows of an array
    header_lines: int = 0  # text: lines that were cut off before the data
    has_lines: bool = True  # whether rows are told by lines of the file too
    first: bool = False  # of its file
    last: bool = False
    only: bool = False  # of the whole input
    input_bytes: int = 0


class Fault(NamedTuple):
    """A row that cannot be used; `row` and `line` count from 1 within the block."""

    row: int
    line: int
    reason: str


class Row(NamedTuple):
    """A row that was read carefully; `reason` says what is wrong with it ("" if nothing is)."""

    line: int
    reason: str
    values: np.ndarray | None = None
    name: object = None
    age: object = None
    gender: object = None


@dataclass
class Block:
    """What `parse` read: names (None where rows have none) and features of the good rows.

    `features` is float32 (n, width), finite, none all zeros. `good` (n,) holds each row's
    0-based place among the `rows` data rows, which include the bad ones. `age` and `gender`
    are the columns of these names as they are written, where they are wanted and there.
    """

    piece: Piece  # without its data
    features: np.ndarray
    good: np.ndarray
    rows: int
    lines: int
    faults: list[Fault] = field(default_factory=list)
    names: list[str] | None = None
    age: list | None = None
    gender: list | None = None


class BadRow(NamedTuple):
    """A bad row's place in the input: data rows and lines count from 1 in each file."""

    path: str
    row: int
    line: int  # 0 where the format has no lines
    reason: str

    def __str__(self) -> str:
        line = f" (line {self.line})" if self.line else ""
        return f"{self.path}: row {self.row}{line}: {self.reason}"


def name_of(value: object) -> tuple[str | None, str]:
    """A name as text, and what is wrong with it ("" if nothing is): it must come through CSV."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value), ""
    if value is None:
        return None, "the name is missing"
    if not isinstance(value, str):
        return None, f"the name is {numbers.shown(value)}, not text"
    if "\0" in value:
        return None, "the name holds a NUL byte"
    try:
        value.encode()
    except UnicodeEncodeError:
        return None, "the name is not UTF-8; save the file as UTF-8"
    return value, ""


def _names_of(values: list) -> tuple[list[str | None], dict[int, str]]:
    """Names as text, and what is wrong with which of them."""
    with contextlib.suppress(TypeError, UnicodeEncodeError):  # one look at all of them
        if b"\0" not in "".join(values).encode():
            return values, {}
    found = [name_of(value) for value in values]
    return [name for name, _ in found], {i: reason for i, (_, reason) in enumerate(found) if reason}


def is_worth_a_parser(piece: Piece) -> bool:
    """Whether a piece of text is so long that a parser of its numbers pays for its start."""
    at_once = piece.only and "simdjson" not in sys.modules  # before it would be imported
    return piece.columns is not None and len(piece.data) >= SMALL_BYTES and not at_once


def check_rows(piece: Piece, rows: np.ndarray, lines: int, **told: list | None) -> Block:
    """A block of numbers (n, width), its bad rows taken out; `told`: names, age and gender."""
    with np.errstate(over="ignore", invalid="ignore"):
        features = _row_after_row(rows)
        squares = np.einsum("ij,ij->i", features, features)
        odd = np.flatnonzero(~((squares > numbers.TINY) & (squares < np.inf)))  # to be looked at
        largest = np.abs(features[odd]).max(axis=1, initial=0)
    faulty = odd[~((largest >= numbers.TINY) & (largest < np.inf))]
    reasons = {i: _row_fault(rows[i]) for i in faulty} | piece.faults
    if told.get("names") is not None:
        told["names"], of_names = _names_of(told["names"])
        reasons = of_names | reasons
    good = np.delete(np.arange(len(features)), list(reasons))
    if reasons:
        features = features[good]
        told = {k: values and [values[i] for i in good] for k, values in told.items()}
    faults = [Fault(int(i) + 1, int(i) + 1, reasons[i]) for i in sorted(reasons)]
    return make_block(piece, features, faults, len(rows), lines, good, **told)


def _row_after_row(rows: np.ndarray) -> np.ndarray:
    """`rows` as float32, C-contiguous, where it may lie column after column."""
    if rows.strides[0] >= rows.strides[1]:
        return np.ascontiguousarray(rows, np.float32)
    features = np.empty(rows.shape, np.float32)
    for column in range(0, rows.shape[1], 16):  # a cache line: in one go takes three times as long
        features[:, column : column + 16] = rows[:, column : column + 16]
    return features


def _row_fault(row: np.ndarray) -> str:
    bad = np.flatnonzero(~np.isfinite(numbers.float32(row)))
    if not len(bad):
        return numbers.ZEROS
    what = "too large a number" if np.isfinite(row[bad[0]]) else "not a finite number"
    return f"number {bad[0] + 1} is {row[bad[0]]:g}, {what}"


def row_of(line: int, columns: Columns, get) -> Row:
    """A row of a table, read carefully; `get(column)` is what it holds in a column."""
    if columns.is_list:
        values, reason, count = numbers.vector(get(columns.embedding[0]), columns.width)
        if not reason and count != columns.width:
            reason = wrong_width(count, columns.width, columns.whose)
    else:
        cells = [get(column) for column in columns.embedding]
        first = columns.embedding[0] + 1 if isinstance(columns.embedding[0], int) else 1
        values, reason = numbers.numbers(cells, "cell", first)
    told = (None if c is None else get(c) for c in (columns.name, columns.age, columns.gender))
    return Row(line, reason, values, *told)


def collect(piece: Piece, rows: Iterable[Row], lines: int) -> Block:
    """A block of rows that were read carefully, one by one."""
    columns, good, faults, names, row = piece.columns, [], [], [], 0
    for row, found in enumerate(rows, 1):
        name, reason = None, found.reason
        if not reason and columns.name is not None:
            name, reason = name_of(found.name)
        if reason:
            faults.append(Fault(row, found.line, reason))
        else:
            good.append((row - 1, found))
            names.append(name)
    told = {}
    for word, _ in columns.told() if columns else ():
        told[word] = names if word == "names" else [getattr(found, word) for _, found in good]
    features = [found.values for _, found in good]
    return make_block(piece, features, faults, row, lines, [place for place, _ in good], **told)


def make_block(piece: Piece, features, faults, rows: int, lines: int, good=(), **told) -> Block:
    width = piece.columns.width if piece.columns else piece.wanted.width or 0
    features = np.asarray(features, np.float32).reshape(len(good), width)
    origin = replace(piece, data=b"", names=None, age=None, gender=None, header=None)
    lines += piece.header_lines
    return Block(origin, features, np.asarray(good, int), rows, lines, faults, **told)


def one_behind(waiting: Piece, found: Iterable[Piece]) -> Iterator[Piece]:
    """Pieces of an array, one behind, since the last one must say that it is.

    `waiting` is an empty one, of a file without rows. What a library raises on a broken file
    becomes InputError.
    """
    waiting = replace(waiting, first=True, has_lines=False)
    try:
        for piece in found:
            if len(waiting.data):
                yield waiting
            first = waiting.first and not len(waiting.data)
            waiting = replace(piece, first=first, has_lines=False)
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # zipfile, zlib, NumPy, Arrow, SQLite raise many kinds
        reason = error_line(error).rstrip(".") or type(error).__name__
        raise InputError(
            f"{waiting.path}: not a readable {Path(waiting.path).suffix} file ({reason}); copy or "
            "write it again"
        ) from None
    yield replace(waiting, last=True)


class Numbering:
    """Puts blocks, given in input order, back into their places in the input."""

    def __init__(self) -> None:
        self.total = self.rows = self.lines = 0
        self.path = ""
        self.left_out: dict[str, None] = {}  # columns, in the order in which they were met

    def place(self, block: Block) -> tuple[list[str], list[BadRow]]:
        """The names of the block's good rows, and its bad rows' places.

        A row without a name is called by its number over the whole input, or, if it is its
        file's only row, by the file's name. Raises InputError for a file without any row.
        """
        piece = block.piece
        self.path = piece.path
        if piece.first:
            self.rows = self.lines = 0
        if piece.columns:
            self.left_out |= dict.fromkeys(piece.columns.left_out)
        names = block.names
        if names is None:
            names = [str(self.total + 1 + i) for i in block.good.tolist()]
            if names and piece.first and piece.last and block.rows == 1 and piece.path != STDIN:
                names = [text_name(Path(piece.path).name.removesuffix(".csv"))]
        bad = [
            BadRow(piece.path, self.rows + fault.row,
                   self.lines + fault.line if piece.has_lines else 0, fault.reason)
            for fault in block.faults
        ]  # fmt: skip
        self.total += block.rows
        self.rows += block.rows
        self.lines += block.lines
        if piece.last and not self.rows:
            raise InputError(
                f"{piece.path}: no row of embeddings in this file; write it again or leave it out"
            )
        return names, bad

    def say_left_out(self) -> None:
        """Name the columns that were not read: once, and only where all went well."""
        if self.left_out:
            say(printable(f"columns left out: {', '.join(self.left_out)}"))
