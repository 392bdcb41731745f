"""Tables of face embeddings in and out: CSV, NPZ, NPY and Parquet, in bounded blocks, checked.

Reading has two steps, so that the slow one can run anywhere: `pieces` cuts the input into
parts of bounded size, in order, and `parse` turns a piece into a `Block` of names and
features. `Numbering` puts blocks, in order, back into their places in the input.
"""

import contextlib
import csv
import glob
import importlib.util
import io
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

import files
from files import InputError

DIMENSIONS = 512
AGES = 117  # 0-116 years, the range of UTKFace's labels
GENDERS = ("male", "female")  # 0 and 1, as the data sets label them
FORMATS = (".csv", ".npz", ".npy", ".parquet")
BLOCK_ROWS = 2048  # of arrays
_STDIN = "standard input"
CHUNK_BYTES = 1 << 20  # of CSV: about 150 rows, which stay in the processor's cache
DENSE_BYTES = 64 << 10  # the same where lines are far too short: each costs memory of its own
RECORD_BYTES = 1 << 20  # the longest row of a CSV: 512 numbers and a name need far less
NPY_HEADER_BYTES = 10_000  # NumPy's own bound on what it evaluates
FORTRAN_BYTES = 64 << 20  # of an array in column order that are held at a time
PARQUET_BUFFER = 64 << 10  # bytes a column
SMALL_BYTES = 64 << 10  # a piece below this is parsed before pandas has set up its parser

_BOM = b"\xef\xbb\xbf"
_CONTROL = bytes(set(range(32)) - set(b"\t\r\n"))
_TO_QUOTE = ',"\r\n\ufeff'
_QUOTED = re.compile(rb'"(?:[^"]+|"")*+("?)')  # "" stands for a quote
_NUMBERS = re.compile(r"[0-9eE+\-. \t]*")
_TINY = 1e-37  # float32 has no accuracy left below
_MARK = b"3e38"  # stands for the end of a row: a number that is in no embedding
_ZEROS = "a row of zeros is no embedding (all numbers are under 1e-37)"


@dataclass(frozen=True)
class Piece:
    """A part of one file that `parse` can read by itself, in another process too."""

    path: str
    kind: str  # "csv", "array", or "fault": a row that cannot even be cut out
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


# ------------------------------------------------------------------------------- names


def text_name(name: str) -> str:
    """A file's name or path as text that any table can hold, also where it is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def base_name(name: str) -> str:
    """The last path component of a face's name: what names are compared and read by."""
    return re.split(r"[/\\]", name)[-1]


def quoted(name: str) -> str:
    """A name as a cell of CSV. (Before Python 3.13, csv.writer leaves a carriage return bare.)"""
    return '"' + name.replace('"', '""') + '"' if any(mark in name for mark in _TO_QUOTE) else name


def all_quoted(names: Sequence[str]) -> Sequence[str]:
    """Names as cells of CSV."""
    text = "".join(names)  # to look for each mark takes less than a regular expression
    return [*map(quoted, names)] if any(mark in text for mark in _TO_QUOTE) else names


def utkface_labels(name: str) -> tuple[int, int, int | None] | None:
    """Age in years, gender (0 male, 1 female) and race (0-4) from a UTKFace file name.

    The convention is `[age]_[gender]_[race]_[date&time].jpg` (susanqq.github.io/UTKFace).
    Three of its names lack the race field: their race is None. None for any other name.
    """
    match = re.match(r"([0-9]{1,3})_([01])_(?:([0-4])_)?", base_name(name))
    if not match or int(match[1]) >= AGES:
        return None
    return int(match[1]), int(match[2]), int(match[3]) if match[3] else None


# ------------------------------------------------------------------- inputs and pieces


def expand(features: Sequence[str | Path]) -> list[str]:
    """Files, globs, folders and "-" (standard input) as a list of files, in order.

    Raises InputError for what does not exist and for a folder without features.
    """
    found: list[str] = []
    for given in map(str, features):
        path = Path(given)
        if path.is_dir():
            inside = sorted(_files_below(given))
            if not inside:
                raise InputError(
                    f"{given}: no {', '.join(FORMATS)} file in this folder; name another"
                )
            found += inside
        elif given == "-" or path.exists():
            found.append(given)
        elif glob.has_magic(given) and (matches := sorted(glob.glob(given, recursive=True))):
            found += expand(matches)
        else:
            raise InputError(f"{given}: no such file; give a table of embeddings or a folder")
    return found


def _files_below(folder: str) -> Iterator[str]:
    """Tables in a folder, without what is hidden or what embed.py keeps until it is done."""

    def fail(error: OSError) -> None:
        raise error  # a folder that cannot be read would be a silent gap

    for where, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [f for f in folders if not f.startswith(".") and not f.endswith(".partial")]
        for name in names:
            if name.lower().endswith(FORMATS) and not name.startswith("."):
                yield os.path.join(where, name)


def pieces(paths: Sequence[str]) -> Iterator[Piece]:
    """Cut the files ("-": CSV on standard input) into pieces of bounded size, in order.

    Raises InputError for a file that is not a table of embeddings at all.
    """
    for path in paths:
        suffix = Path(path).suffix.lower()
        if suffix in (".npz", ".npy", ".parquet") and not Path(path).is_file():
            raise InputError(f"{path}: not a regular file; only CSV can be read from a pipe")
        if path == "-":
            yield from _csv_pieces(_STDIN, sys.stdin.buffer, len(paths) == 1)
        elif suffix == ".npz":
            yield from _array_pieces(path, _npz_blocks(path))
        elif suffix == ".npy":
            yield from _array_pieces(path, _npy_blocks(path))
        elif suffix == ".parquet":
            yield from _array_pieces(path, _parquet_blocks(path))
        else:
            with open(path, "rb") as stream:
                yield from _csv_pieces(path, stream, len(paths) == 1)


def input_bytes(paths: Iterable[str]) -> int | None:
    """About how many `input_bytes` the pieces of these files have in all; None if unknown."""
    total = 0
    for path in paths:
        suffix = Path(path).suffix.lower()
        if path == "-" or suffix == ".parquet":
            return None
        if suffix != ".npz":
            total += Path(path).stat().st_size
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                total += archive.getinfo("embeddings.npy").file_size
        except Exception:  # whoever reads it says what is wrong
            return None
    return total


def _csv_pieces(path: str, stream: BinaryIO, only: bool = False) -> Iterator[Piece]:
    """Pieces of whole rows, one part behind, since the last one must say that it is."""
    waiting, may_be_header = Piece(path, "csv", b"", first=True), True
    for part in _csv_parts(path, stream):
        if waiting.data:
            yield waiting
            waiting = replace(waiting, kind="csv", data=b"", header_lines=0, first=False)
        if isinstance(part, _TooLong):
            may_be_header = False
            reason = f"longer than {RECORD_BYTES:,} bytes: a quote or the line end is missing"
            lines = waiting.header_lines + part.lines - 1
            waiting = replace(waiting, kind="fault", data=reason, header_lines=lines, input_bytes=0)
            continue
        if waiting.named is None:
            lines = io.BytesIO(part).readlines()
            header, may_be_header, named = _layout(lines, may_be_header)
            header_lines = waiting.header_lines + header
            waiting = replace(waiting, named=named, header_lines=header_lines)
            part = b"".join(lines[header:])
        waiting = replace(waiting, data=part, input_bytes=len(part))
    yield replace(waiting, last=True, only=only and waiting.first)


class _TooLong(NamedTuple):
    lines: int


def _csv_parts(path: str, stream: BinaryIO) -> Iterator[bytes | _TooLong]:
    """Cut CSV at the ends of rows; a name in quotes may hold line breaks.

    A row that is too long costs its first line, in case a quote there was never closed.
    If that does not help, or there is no line end, it costs what has been read.
    """
    rest, wanted, chunks = b"", 0, _chunks(path, stream)
    for chunk in chunks:
        rest += chunk
        if len(rest) < wanted:  # where no row ended so far; not to look at it again and again
            continue
        for attempt in range(2):
            cut = _last_row_end(rest)
            if cut:
                yield rest[:cut]
                rest = rest[cut:]
            wanted = 0 if cut else min(2 * len(rest), RECORD_BYTES + 1)
            if len(rest) <= RECORD_BYTES:
                break
            end = (rest.rfind if attempt else rest.find)(b"\n") + 1
            yield _TooLong(rest.count(b"\n", 0, end) or 1)
            while not end:  # bounded memory whatever the length of a line
                rest = next(chunks, None)
                if rest is None:
                    return
                end = rest.find(b"\n") + 1
            rest = rest[end:]
    if rest:
        yield rest


def _chunks(path: str, stream: BinaryIO) -> Iterator[bytes]:
    """What the stream holds, up to line ends where that is not far; in smaller chunks where
    lines are so short that they cost memory.
    """
    chunk = stream.read(CHUNK_BYTES)
    _check_is_csv(path, chunk)
    chunk = chunk.removeprefix(_BOM) or stream.read(CHUNK_BYTES)
    while chunk:
        chunk += stream.readline(RECORD_BYTES)
        dense = _count(chunk, b"\n") * DIMENSIONS > len(chunk)
        size = DENSE_BYTES if dense else len(chunk)
        yield from (chunk[i : i + size] for i in range(0, len(chunk), size))
        chunk = stream.read(CHUNK_BYTES)


def _check_is_csv(path: str, start: bytes) -> None:
    kinds = {
        b"\xff\xfe": "UTF-16 text; save it as UTF-8",
        b"\xfe\xff": "UTF-16 text; save it as UTF-8",
        b"PK\x03\x04": "a ZIP file; give an NPZ the suffix .npz, or unpack it",
        b"\x93NUMPY": "an NPY file; give it the suffix .npy",
        b"PAR1": "a Parquet file; give it the suffix .parquet",
        b"\x1f\x8b": "compressed; pipe it through gzip -dc into --features -",
    }
    for magic, kind in kinds.items():
        if start.startswith(magic):
            raise InputError(f"{path}: not CSV but {kind}")
    start = start[:4096]
    if len(start.translate(None, _CONTROL)) < 0.95 * len(start):
        raise InputError(f"{path}: not CSV but binary data; save the embeddings as UTF-8 CSV")


def _last_row_end(data: bytes) -> int:
    """The offset behind the last row that ends in `data`: at a line end outside quotes."""
    position = end = 0
    quote = data.find(b'"')
    while quote >= 0:
        if quote and data[quote - 1] not in b",\r\n":  # not at the start of a cell
            quote = data.find(b'"', quote + 1)
            continue
        cell = _QUOTED.match(data, quote)
        end = max(end, data.rfind(b"\n", position, quote) + 1)
        if not cell[1]:  # it is still open
            return end
        position = cell.end()
        quote = data.find(b'"', position)
    return max(end, data.rfind(b"\n", position) + 1)


def _count(data: bytes, character: bytes) -> int:
    """What data.count(character) returns, ten times as fast."""
    return np.count_nonzero(np.frombuffer(data, np.uint8) == ord(character))


def _npz_blocks(path: str) -> Iterator[tuple[list[str], np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info.compress_type for info in archive.infolist()}
        wanted = ("filenames.npy", "embeddings.npy")
        if not set(wanted) <= members.keys():
            keys = ", ".join(sorted(name.removesuffix(".npy") for name in members)[:5])
            raise InputError(
                f"{path}: needs the arrays filenames and embeddings, has {keys or 'none'}; "
                "save it with numpy.savez(path, filenames=..., embeddings=...)"
            )
        if not {members[name] for name in wanted} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            # zipfile unpacks these in pieces of any size
            raise InputError(f"{path}: not compressed as NPZ is; save it with numpy.savez")
        with archive.open(wanted[0]) as name_stream, archive.open(wanted[1]) as stream:
            names = _Array(path, name_stream, columns=None)
            features = _Array(path, stream, columns=DIMENSIONS)
            if names.rows != features.rows:
                raise InputError(
                    f"{path}: {names.rows} filenames for {features.rows} embeddings; write it again"
                )
            size = max(1, min(BLOCK_ROWS, CHUNK_BYTES // names.row_bytes))
            for name_block, block in zip(names.blocks(size), features.blocks(size), strict=True):
                yield _as_text(name_block), block


def _npy_blocks(path: str) -> Iterator[tuple[None, np.ndarray]]:
    with open(path, "rb") as stream:
        yield from ((None, block) for block in _Array(path, stream, DIMENSIONS).blocks(BLOCK_ROWS))


class _Array:
    """An .npy stream that is read block by block: the file's claims allocate nothing.

    `columns` is None for names (N,), else the number of columns of an array of numbers.
    """

    def __init__(self, path: str, stream: BinaryIO, columns: int | None) -> None:
        self.path, self.stream = path, stream
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise InputError(f"{path}: NPY version {version} is not known; save it with numpy.save")
        length = stream.read(2 * version[0])
        if (size := int.from_bytes(length, "little")) > NPY_HEADER_BYTES:
            raise InputError(f"{path}: an NPY header of {size:,} bytes; save it with numpy.save")
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2, which are read
            shape, self.fortran, self.dtype = read_header(io.BytesIO(length + stream.read(size)))
        if self.dtype.hasobject:
            raise InputError(
                f"{path}: holds Python objects, which are never unpickled; save strings and numbers"
            )
        wanted = "(N,)" if columns is None else f"(N, {columns})"
        if len(shape) != 1 + bool(columns) or shape[0] < 0:
            raise InputError(f"{path}: an array of shape {shape}, not {wanted}; save it as that")
        if columns and shape[1] != columns:
            raise InputError(f"{path}: {_other_dimensions(shape[1])}")
        kinds = "fiu" if columns else "US"
        if self.dtype.kind not in kinds and shape[0]:
            what = "embeddings" if columns else "filenames"
            needed = "numbers" if columns else "strings"
            raise InputError(f"{path}: {what} of type {self.dtype}; save them as {needed}")
        self.rows, self.columns = shape[0], columns or 1
        self.row_bytes = max(1, self.columns * self.dtype.itemsize)
        if self.row_bytes > RECORD_BYTES:
            raise InputError(f"{path}: {self.row_bytes:,} bytes a row; shorten the filenames")

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """(n, columns), or (n,) of names, with n at most `size`."""
        if self.fortran and self.columns > 1 and self.rows > 1:
            yield from self._bands(size)
        else:
            for start in range(0, self.rows, size):
                yield self._read(min(size, self.rows - start), self.columns)
        if self.stream.read(1):  # reading to the end also has the checksum compared
            raise InputError(f"{self.path}: more data than its header says; write it again")

    def _read(self, rows: int, columns: int) -> np.ndarray:
        data = self.stream.read(rows * columns * self.dtype.itemsize)
        if len(data) != rows * columns * self.dtype.itemsize:
            raise InputError(f"{self.path}: the file is cut off; copy or write it again")
        values = np.frombuffer(data, self.dtype)
        return values if self.columns == 1 else values.reshape(rows, columns)

    def _bands(self, size: int) -> Iterator[np.ndarray]:
        """Of an array that lies column after column: a band of rows at a time."""
        start, item = self.stream.tell(), self.dtype.itemsize
        height = max(size, FORTRAN_BYTES // self.row_bytes)
        for top in range(0, self.rows, height):
            rows = min(height, self.rows - top)
            band = np.empty((self.columns, rows), self.dtype)
            for column in range(self.columns):
                self.stream.seek(start + (column * self.rows + top) * item)
                band[column] = self._read(rows, 1)[:, 0]
            yield from (band[:, i : i + size].T for i in range(0, rows, size))


def _as_text(names: np.ndarray) -> list[str]:
    if names.dtype.kind == "S":
        return [name.decode("utf-8", "surrogateescape") for name in names.tolist()]
    return names.tolist()


def _parquet_blocks(path: str) -> Iterator[tuple[list[str] | None, np.ndarray]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow: pip install -r requirements-extra.txt"
        ) from None
    # A small buffer a column: otherwise Arrow holds a whole row group. Of 512 columns it still
    # holds a page and a dictionary each, some 2 MB.
    with pa.parquet.ParquetFile(path, buffer_size=PARQUET_BUFFER, pre_buffer=False) as table:
        columns = [c for c in table.schema_arrow if not c.name.startswith("__index_level_")]
        fields = [column for column in columns if column.name != "filename"]  # not pandas' index
        named = len(fields) < len(columns)
        as_list = len(fields) == 1 and pa.types.is_fixed_size_list(fields[0].type)
        types = [fields[0].type.value_type] if as_list else [column.type for column in fields]
        for kind in types:
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                raise InputError(
                    f"{path}: a column of type {kind}; give it a column filename and either "
                    f"{DIMENSIONS} columns of numbers or one of fixed-size lists"
                )
        width = fields[0].type.list_size if as_list else len(fields)
        if width != DIMENSIONS:
            raise InputError(f"{path}: {_other_dimensions(width)}")
        numbers = [column.name for column in fields]
        size = BLOCK_ROWS if as_list else 4 * BLOCK_ROWS  # a batch of 512 columns costs more
        # Threads of Arrow's own would take the processors from scoring, and twice the time.
        indexed = len(columns) < len(table.schema_arrow)
        wanted = [column.name for column in columns] if indexed else None
        for batch in table.iter_batches(size, columns=wanted, use_threads=False):
            names = batch.column("filename").cast(pa.string()).to_pylist() if named else None
            if as_list:
                lists = batch.column(numbers[0])
                lists = lists.fill_null([None] * width) if lists.null_count else lists
                rows = _numpy(lists.flatten()).reshape(-1, width)
            else:
                rows = np.stack([_numpy(batch.column(name)) for name in numbers]).T
            for block in range(0, len(rows), BLOCK_ROWS):
                end = block + BLOCK_ROWS
                yield names and names[block:end], rows[block:end]


def _numpy(numbers) -> np.ndarray:
    """An Arrow array as NumPy's; missing numbers are NaN. Where none is, pandas stays away."""
    if numbers.null_count:
        return numbers.to_numpy(zero_copy_only=False)
    return np.from_dlpack(numbers)


def _array_pieces(path: str, blocks: Iterable[tuple[list[str] | None, np.ndarray]]):
    """Pieces of arrays, one block behind, since the last one must say that it is."""
    waiting = Piece(path, "array", np.empty((0, DIMENSIONS)), first=True)
    try:
        for names, rows in blocks:
            if len(waiting.data):
                yield waiting
                waiting = replace(waiting, first=False)
            waiting = replace(waiting, data=rows, names=names, input_bytes=rows.nbytes)
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # zipfile, zlib, NumPy and Arrow raise many kinds on broken files
        reason = files.error_line(error).rstrip(".") or type(error).__name__
        raise InputError(
            f"{path}: not a readable {Path(path).suffix} file ({reason}); copy or write it again"
        ) from None
    yield replace(waiting, last=True)


# ----------------------------------------------------------------------------- parsing


def parse(piece: Piece) -> Block:
    """Read one piece: a pure function, for any thread, process or machine."""
    if piece.kind == "fault":
        return _block(piece, None, [], [Fault(1, 1, piece.data)], rows=1, lines=1)
    if piece.kind == "array":
        return _checked(piece, piece.names, piece.data, lines=0)
    at_once = piece.only and "pandas" not in sys.modules  # before it would be imported
    if piece.named is not None and len(piece.data) >= SMALL_BYTES and not at_once:
        block = _parse_fast(piece)
        if block is not None:
            return block
    return _parse_carefully(piece)


def _parse_fast(piece: Piece) -> Block | None:
    """pandas' C parser; None where it fails or might read otherwise than `_parse_carefully`.

    The numbers go through it as one long column, with a mark where a row ends: one column costs
    a hundredth of what pandas does for each of 512.
    """
    import pandas as pd

    data = piece.data
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    found = _rows(data, piece.named)
    if found is None:
        return None
    names, rows = found
    column = (b",%s," % _MARK).join([*rows, b""])
    if column.startswith(_BOM):  # which pandas would skip
        return None
    if b"+" in column and column.count(b"+") > column.count(b"e+") + column.count(b"E+"):
        return None  # pandas reads "+1e 5"
    try:
        with np.errstate(over="ignore"):
            values = pd.read_csv(
                io.BytesIO(column),
                header=None,
                dtype=np.float32,
                lineterminator=",",
                quoting=csv.QUOTE_NONE,
                na_filter=False,
                skip_blank_lines=False,
                low_memory=False,
            ).to_numpy()
    except ValueError:  # ParserError and UnicodeError are such too
        return None
    ends = np.flatnonzero(values == np.float32(_MARK.decode()))
    if values.size != len(rows) * (DIMENSIONS + 1) or not np.array_equal(
        ends, np.arange(DIMENSIONS, values.size, DIMENSIONS + 1)
    ):
        return None
    features = values.reshape(len(rows), DIMENSIONS + 1)[:, :DIMENSIONS]
    block = _checked(piece, names, features, len(rows))
    return None if block.faults else block


def _rows(data: bytes, named: bool) -> tuple[list[str] | None, list[memoryview]] | None:
    """Names and the text of each row's numbers; None for what might be no plain CSV."""
    names, rows, quotes, start, view = [], [], 0, 0, memoryview(data)
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        numbers = start
        if named:
            quoted_name = data[start] == ord('"')
            name_end = data.find(b'",' if quoted_name else b",", start + quoted_name, end)
            names.append(data[start + quoted_name : name_end])
            numbers = name_end + quoted_name + 1
            quotes += 2 * quoted_name
            if name_end < 0:
                return None
        if end - start >= RECORD_BYTES:
            return None
        rows.append(view[numbers:end])
        start = end + 1
    lines = len(rows) - (not data.endswith(b"\n"))
    if np.count_nonzero(np.frombuffer(data, np.uint8) < ord(" ")) != lines:
        return None  # control characters
    if b'"' in data and data.count(b'"') != quotes:
        return None
    try:
        return [name.decode() for name in names] if named else None, rows
    except UnicodeDecodeError:
        return None


def _parse_carefully(piece: Piece) -> Block:
    """Row by row: small pieces, and whatever pandas' parser stumbled over."""
    names, rows, good, faults, row = [], [], [], [], 0
    lines = io.BytesIO(piece.data).readlines()
    for line, _, cells in _csv_rows(lines):
        row += 1
        values, reason = _numbers_of(cells, piece.named) if isinstance(cells, list) else ([], cells)
        if reason:
            faults.append(Fault(row, line + piece.header_lines, reason))
        else:
            rows.append(values)
            good.append(row - 1)
            names.append(cells[0])
    named = names if piece.named else None
    return _block(piece, named, rows, faults, row, len(lines), good)


def _csv_rows(lines: list[bytes]) -> Iterator[tuple[int, int, list[str] | str]]:
    """(first line, last line, cells) of each row that is not blank, lines counted from 1.

    In place of the cells of a row that is not CSV: what is wrong. Such a row costs its first
    line only, in case a quote there was never closed; but not without end.
    """
    csv.field_size_limit(RECORD_BYTES)  # here, so that it holds on a Dask worker too
    first, attempts = 0, 100
    while first < len(lines):
        text = (line.decode("utf-8", "surrogateescape") for line in lines[first:])
        reader = csv.reader(text, strict=True)
        while True:
            line = first + reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, line, _csv_fault(error)
                attempts -= 1
                if attempts > 0 and first + reader.line_num > line:
                    first = line
                    break
                continue
            last = first + reader.line_num
            if sum(map(len, lines[line - 1 : last])) > RECORD_BYTES:
                yield line, last, f"longer than {RECORD_BYTES:,} bytes"
            elif cells and (len(cells) > 1 or cells[0].strip()):
                yield line, last, cells


def _csv_fault(error: csv.Error) -> str:
    if "new-line" in str(error):
        return "a lone carriage return outside quotes; end lines with a line feed"
    if "end of data" in str(error):
        return "a quote is not closed"
    return f"not CSV: {error}"


def _numbers_of(cells: list[str], named: bool | None) -> tuple[np.ndarray, str]:
    """The 512 numbers of a row, and what is wrong with it ("" if nothing is)."""
    none = np.empty(0, np.float32)
    if named is None:  # no row of this file was good so far
        named = len(cells) == DIMENSIONS + 1 or not _is_number(cells[0])
        if len(cells) != DIMENSIONS + named:
            return none, _wrong_separator(cells) or _other_dimensions(len(cells) - named)
    if len(cells) != DIMENSIONS + named:
        count = f"{len(cells) - named} numbers{' after the name' * named}, not {DIMENSIONS}"
        return none, _wrong_separator(cells) or count
    if named and (reason := _name_fault(cells[0])):
        return none, reason
    numbers = cells[named:]
    if _NUMBERS.fullmatch(" ".join(numbers)):
        try:
            values = _float32(list(map(float, numbers)))
        except ValueError:
            pass
        else:
            if np.isfinite(values).all():
                return values, "" if abs(values).max() >= _TINY else _ZEROS
    for place, cell in enumerate(numbers, 1 + named):
        shown = ascii(cell if len(cell) <= 20 else cell[:20] + "...")
        if not cell.strip():
            return none, f"cell {place} is empty"
        if not (_NUMBERS.fullmatch(cell) and _is_number(cell)):
            return none, f"cell {place} is {shown}, not a finite number"
        if not np.isfinite(_float32(float(cell))):
            return none, f"cell {place} is {shown}, too large a number"
    return none, "not a row of numbers"


def _float32(values: float | np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


def _wrong_separator(cells: list[str]) -> str:
    row = ",".join(cells)
    for mark, word in ((";", "semicolons"), ("\t", "tabs"), (" ", "spaces")):
        if row.count(mark) >= 60 and (mark == ";" or len(cells) < 60):
            return f"cells are separated by {word}; separate them by commas"
    return ""


def _name_fault(name: str | None) -> str:
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


def _name_faults(names: list[str | None]) -> dict[int, str]:
    """What is wrong with which of the names."""
    with contextlib.suppress(TypeError, UnicodeEncodeError):  # one look at all of them
        if b"\0" not in "".join(names).encode():
            return {}
    return {i: reason for i, name in enumerate(names) if (reason := _name_fault(name))}


def _layout(lines: list[bytes], may_be_header: bool) -> tuple[int, bool, bool | None]:
    """How many lines come before the data, whether a header may still come, and whether rows
    have names: None until there is a good row, which tells.
    """
    header = len(lines) if may_be_header else 0
    for _, last, cells in _csv_rows(lines):
        header_here = may_be_header and isinstance(cells, list) and _is_header(cells)
        if may_be_header:
            may_be_header, header = False, last if header_here else 0
        if not header_here and isinstance(cells, list) and not _numbers_of(cells, None)[1]:
            return header, False, len(cells) > DIMENSIONS
    return header, may_be_header, None


def _is_header(cells: list[str]) -> bool:
    """Whether no cell after the first is a number, or pandas counted the columns."""
    if len(cells) == 1:
        return False
    if any(
        [str(n) for n in range(start, start + DIMENSIONS)] == cells[-DIMENSIONS:]
        and len(cells) <= DIMENSIONS + 1
        for start in (0, 1)
    ):
        return True
    return not any(_is_number(cell) for cell in cells[1:])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which Python takes for a number's


def _other_dimensions(count: int) -> str:
    return (
        f"{count} number{'s' * (count != 1)}, not {DIMENSIONS}: these scripts take FaceNet "
        f"embeddings of {DIMENSIONS}; embeddings of another model need a model of their own"
    )


def _checked(piece: Piece, names: list[str] | None, rows: np.ndarray, lines: int) -> Block:
    """A block of numbers, its bad rows taken out."""
    with np.errstate(over="ignore", invalid="ignore"):
        features = _row_after_row(rows)
        squares = np.einsum("ij,ij->i", features, features)
        odd = np.flatnonzero(~((squares > _TINY) & (squares < np.inf)))  # to be looked at
        largest = np.abs(features[odd]).max(axis=1, initial=0)
    faulty = odd[~((largest >= _TINY) & (largest < np.inf))]
    reasons = {i: _row_fault(rows[i]) for i in faulty}
    if names is not None and piece.kind == "array":  # those of CSV were looked at there
        reasons |= _name_faults(names)
    good = np.delete(np.arange(len(features)), list(reasons))
    if reasons:
        features = features[good]
        names = names and [names[i] for i in good]
    faults = [Fault(int(i) + 1, int(i) + 1, reasons[i]) for i in sorted(reasons)]
    return _block(piece, names, features, faults, len(rows), lines, good)


def _row_after_row(rows: np.ndarray) -> np.ndarray:
    """`rows` as float32, C-contiguous, where it may lie column after column."""
    if rows.strides[0] >= rows.strides[1]:
        return np.ascontiguousarray(rows, np.float32)
    features = np.empty(rows.shape, np.float32)
    for column in range(0, rows.shape[1], 16):  # a cache line: in one go takes three times as long
        features[:, column : column + 16] = rows[:, column : column + 16]
    return features


def _row_fault(row: np.ndarray) -> str:
    bad = np.flatnonzero(~np.isfinite(_float32(row)))
    if not len(bad):
        return _ZEROS
    what = "too large a number" if np.isfinite(row[bad[0]]) else "not a finite number"
    return f"number {bad[0] + 1} is {row[bad[0]]:g}, {what}"


def _block(piece, names, features, faults, rows, lines, good=()) -> Block:
    features = np.asarray(features, np.float32).reshape(-1, DIMENSIONS)
    origin = replace(piece, data=b"", names=None)
    lines += piece.header_lines
    return Block(origin, names, features, np.asarray(good, int), rows, lines, faults)


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
            if names and piece.first and piece.last and block.rows == 1 and piece.path != _STDIN:
                names = [text_name(Path(piece.path).name.removesuffix(".csv"))]
        bad = [
            BadRow(piece.path, self.rows + fault.row,
                   0 if piece.kind == "array" else self.lines + fault.line, fault.reason)
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


def read(features: Sequence[str | Path]) -> tuple[list[str], np.ndarray]:
    """All names and features, float32 (n, 512), of tables that fit into memory.

    Raises InputError that names the file and the row of the first fault.
    """
    names, blocks, numbering = [], [], Numbering()
    for piece in pieces(expand(features)):
        block = parse(piece)
        block_names, bad = numbering.place(block)
        if bad:
            raise InputError(f"{bad[0]}; correct or remove this row")
        names += block_names
        blocks.append(block.features)
    return names, np.concatenate(blocks)


# ----------------------------------------------------------------------------- writing


def write(path: str | Path, names: Sequence[str], blocks: Iterable[np.ndarray]) -> None:
    """Write a table as its suffix says: .npz, .csv or .parquet, whole or not at all.

    `blocks` are arrays (n, 512) that hold len(names) rows together. CSV carries 9
    significant digits, which is all that float32 has.
    """
    check_output(path)
    writers = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}
    with files.whole_file(path) as stream:
        writers[Path(path).suffix.lower()](stream, names, blocks)


def check_output(path: str | Path) -> None:
    """Raise InputError unless a table can be written at `path`: before the work, not after it."""
    if Path(path).suffix.lower() not in (".npz", ".csv", ".parquet"):
        raise InputError(f"{path}: give an output that ends in .npz, .csv or .parquet")
    if Path(path).suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError("Parquet needs pyarrow: pip install -r requirements-extra.txt")
    files.check_writable(path)


def _write_npz(stream: BinaryIO, names: Sequence[str], blocks: Iterable[np.ndarray]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(names), DIMENSIONS)}
    with zipfile.ZipFile(stream, "w") as archive:
        with archive.open(zipfile.ZipInfo("filenames.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.array(names, dtype=np.str_), allow_pickle=False)
        with archive.open(zipfile.ZipInfo("embeddings.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(np.ascontiguousarray(block, "<f4").data)


def _write_csv(stream: BinaryIO, names: Sequence[str], blocks: Iterable[np.ndarray]) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    remaining = iter(names)
    for block in blocks:
        for row in np.asarray(block).tolist():
            text.write(",".join([quoted(next(remaining)), *map("%.9g".__mod__, row)]) + "\n")
    text.detach()


def _write_parquet(stream: BinaryIO, names: Sequence[str], blocks: Iterable[np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    # Read back twice as fast where no number can be missing.
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), DIMENSIONS)
    schema = pa.schema([("filename", pa.string()), pa.field("embedding", vector, nullable=False)])
    start = 0
    # Random numbers: a dictionary or compression costs time and saves nothing.
    plain = {"use_dictionary": False, "compression": "none"}
    with pa.parquet.ParquetWriter(stream, schema, **plain) as writer:
        for block in blocks:
            values = pa.array(np.ascontiguousarray(block, np.float32).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(values, type=vector)
            part = pa.array(names[start : start + len(block)], pa.string())
            writer.write_batch(pa.record_batch([part, column], schema=schema))
            start += len(block)
