"""What the readers share: a piece of input, the block that is read from it, and its faults.

Reading has two steps, so that the slow one can run anywhere: a format's `cut` cuts a file into
pieces of bounded size, in order, and its `parse` turns a piece into a `Block` of names and
features. `Numbering` puts blocks, in order, back into their places in the input.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender.script import InputError, error_line
from age_gender.tables.names import text_name

DIMENSIONS = 512
BLOCK_ROWS = 2048  # of arrays
CHUNK_BYTES = 1 << 20  # of CSV: about 150 rows, which stay in the processor's cache
STDIN = "standard input"
RECORD_BYTES = 1 << 20  # the longest row of a CSV: 512 numbers and a name need far less
TINY = 1e-37  # float32 has no accuracy left below
ZEROS = "a row of zeros is no embedding (all numbers are under 1e-37)"


@dataclass(frozen=True)
class Piece:
    """A part of one file that `parse` can read by itself, in another process too."""

    path: str
    kind: str  # the module that parses it, or "fault": a row that cannot even be cut out
    data: bytes | np.ndarray | str
    names: list[str] | None = None  # of an array's rows
    named: bool | None = None  # CSV: whether a row's first cell is a name; None: no good row yet
    header_lines: int = 0  # CSV: lines that were cut off before the data
    first: bool = False  # of its file
    last: bool = False
    only: bool = False  # of the whole input
    input_bytes: int = 0


class Fault(NamedTuple):
    """A row that cannot be used; `row` and `line` count from 1 within the block."""

    row: int
    line: int
    reason: str


@dataclass
class Block:
    """What `parse` read: names (None where rows have none) and features of the good rows.

    `features` is float32 (n, 512), finite, none all zeros. `good` (n,) holds each
    row's 0-based place among the `rows` data rows, which include the bad ones.
    """

    piece: Piece  # without its data
    names: list[str] | None
    features: np.ndarray
    good: np.ndarray
    rows: int
    lines: int
    faults: list[Fault] = field(default_factory=list)


class BadRow(NamedTuple):
    """A bad row's place in the input: data rows and lines count from 1 in each file."""

    path: str
    row: int
    line: int  # 0 where the format has no lines
    reason: str

    def __str__(self) -> str:
        line = f" (line {self.line})" if self.line else ""
        return f"{self.path}: row {self.row}{line}: {self.reason}"


def other_dimensions(count: int) -> str:
    return (
        f"{count} number{'s' * (count != 1)}, not {DIMENSIONS}: these scripts take FaceNet "
        f"embeddings of {DIMENSIONS}; embeddings of another model need a model of their own"
    )


def float32(values: float | np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


def name_fault(name: str | None) -> str:
    """What is wrong with a name ("" if nothing is): it must come through CSV as it is."""
    if name is None:
        return "the name is missing"
    if "\0" in name:
        return "the name holds a NUL byte"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8; save the file as UTF-8"
    return ""


def name_faults(names: list[str | None]) -> dict[int, str]:
    """What is wrong with which of the names."""
    with contextlib.suppress(TypeError, UnicodeEncodeError):  # one look at all of them
        if b"\0" not in "".join(names).encode():
            return {}
    return {i: reason for i, name in enumerate(names) if (reason := name_fault(name))}


def check_rows(piece: Piece, names: list[str] | None, rows: np.ndarray, lines: int) -> Block:
    """A block of numbers, its bad rows taken out."""
    with np.errstate(over="ignore", invalid="ignore"):
        features = _row_after_row(rows)
        squares = np.einsum("ij,ij->i", features, features)
        odd = np.flatnonzero(~((squares > TINY) & (squares < np.inf)))  # to be looked at
        largest = np.abs(features[odd]).max(axis=1, initial=0)
    faulty = odd[~((largest >= TINY) & (largest < np.inf))]
    reasons = {i: _row_fault(rows[i]) for i in faulty}
    if names is not None and piece.kind == "arrays":  # those of CSV were looked at there
        reasons |= name_faults(names)
    good = np.delete(np.arange(len(features)), list(reasons))
    if reasons:
        features = features[good]
        names = names and [names[i] for i in good]
    faults = [Fault(int(i) + 1, int(i) + 1, reasons[i]) for i in sorted(reasons)]
    return make_block(piece, names, features, faults, len(rows), lines, good)


def _row_after_row(rows: np.ndarray) -> np.ndarray:
    """`rows` as float32, C-contiguous, where it may lie column after column."""
    if rows.strides[0] >= rows.strides[1]:
        return np.ascontiguousarray(rows, np.float32)
    features = np.empty(rows.shape, np.float32)
    for column in range(0, rows.shape[1], 16):  # a cache line: in one go takes three times as long
        features[:, column : column + 16] = rows[:, column : column + 16]
    return features


def _row_fault(row: np.ndarray) -> str:
    bad = np.flatnonzero(~np.isfinite(float32(row)))
    if not len(bad):
        return ZEROS
    what = "too large a number" if np.isfinite(row[bad[0]]) else "not a finite number"
    return f"number {bad[0] + 1} is {row[bad[0]]:g}, {what}"


def make_block(piece, names, features, faults, rows, lines, good=()) -> Block:
    features = np.asarray(features, np.float32).reshape(-1, DIMENSIONS)
    origin = replace(piece, data=b"", names=None)
    lines += piece.header_lines
    return Block(origin, names, features, np.asarray(good, int), rows, lines, faults)


def array_pieces(
    path: str, blocks: Iterable[tuple[list[str] | None, np.ndarray]]
) -> Iterator[Piece]:
    """Pieces of (names, rows), one block behind, since the last one must say that it is."""
    waiting = Piece(path, "arrays", np.empty((0, DIMENSIONS)), first=True)
    try:
        for names, rows in blocks:
            if len(waiting.data):
                yield waiting
                waiting = replace(waiting, first=False)
            waiting = replace(waiting, data=rows, names=names, input_bytes=rows.nbytes)
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # zipfile, zlib, NumPy and Arrow raise many kinds on broken files
        reason = error_line(error).rstrip(".") or type(error).__name__
        raise InputError(
            f"{path}: not a readable {Path(path).suffix} file ({reason}); copy or write it again"
        ) from None
    yield replace(waiting, last=True)


class Numbering:
    """Puts blocks, given in input order, back into their places in the input."""

    def __init__(self) -> None:
        self.total = self.rows = self.lines = 0
        self.path = ""

    def place(self, block: Block) -> tuple[list[str], list[BadRow]]:
        """The names of the block's good rows, and its bad rows' places.

        A row without a name is called by its number over the whole input, or, if it is its
        file's only row, by the file's name. Raises InputError for a file without any row.
        """
        piece = block.piece
        self.path = piece.path
        if piece.first:
            self.rows = self.lines = 0
        names = block.names
        if names is None:
            names = [str(self.total + 1 + i) for i in block.good.tolist()]
            if names and piece.first and piece.last and block.rows == 1 and piece.path != STDIN:
                names = [text_name(Path(piece.path).name.removesuffix(".csv"))]
        bad = [
            BadRow(piece.path, self.rows + fault.row,
                   0 if piece.kind == "arrays" else self.lines + fault.line, fault.reason)
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
