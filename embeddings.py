"""Tables of face embeddings in and out: CSV, NPZ, NPY and Parquet, in bounded blocks, checked.

Reading has two steps, so that the slow one can run anywhere: `pieces` cuts the input into
parts of bounded size, in order, and `parse` turns a piece into a `Block` of names and
features. `Numbering` puts blocks, in order, back into their places in the input.
"""

import csv
import glob
import importlib.util
import io
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

import files
from files import InputError

DIMENSIONS = 512
FORMATS = (".csv", ".npz", ".npy", ".parquet")
BLOCK_ROWS = 1024
_STDIN = "standard input"
CHUNK_BYTES = 8 << 20  # of CSV: about 1,300 rows; large enough that a call's cost vanishes
RECORD_BYTES = 1 << 20  # the longest row of a CSV: 512 numbers and a name need far less
PANDAS_BYTES = 4 << 20  # a first piece below this is parsed before pandas would be imported
SMALL_BYTES = 64 << 10  # a piece below this is parsed before pandas has set up its parser

csv.field_size_limit(RECORD_BYTES)
_NUMBERS = re.compile(r"[0-9eE+\-. \t,]*")
_BROKEN_FILE = (
    ValueError, KeyError, EOFError, OSError, NotImplementedError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


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
    input_bytes: int = 0


class Fault(NamedTuple):
    """A row that cannot be used; `row` and `line` count from 1 within the block."""

    row: int
    line: int
    reason: str


@dataclass
class Block:
    """What `parse` read: names (None where rows have none) and features of the good rows.

    `features` is float32 (n, 512), finite, without a row of zeros. `good` (n,) holds each
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


def base_name(name: str) -> str:
    """The last path component of a face's name: what names are compared and read by."""
    return re.split(r"[/\\]", name)[-1]


def utkface_labels(name: str) -> tuple[int, int, int | None] | None:
    """Age in years, gender (0 male, 1 female) and race (0-4) from a UTKFace file name.

    The convention is `[age]_[gender]_[race]_[date&time].jpg` (susanqq.github.io/UTKFace).
    Three of its names lack the race field: their race is None. None for any other name.
    """
    match = re.match(r"([0-9]{1,3})_([01])_(?:([0-4])_)?", base_name(name))
    if not match or int(match[1]) > 116:
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
            inside = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in FORMATS)
            if not inside:
                raise InputError(f"{given}: no {', '.join(FORMATS)} file in this folder")
            found += inside
        elif given == "-" or path.exists():
            found.append(given)
        elif glob.has_magic(given) and (matches := sorted(glob.glob(given, recursive=True))):
            found += expand(matches)
        else:
            raise InputError(f"{given}: no such file; give a table of embeddings or a folder")
    return found


def pieces(paths: Iterable[str]) -> Iterator[Piece]:
    """Cut the files ("-": CSV on standard input) into pieces of bounded size, in order.

    Raises InputError for a file that is not a table of embeddings at all.
    """
    for path in paths:
        suffix = Path(path).suffix.lower()
        if path == "-":
            yield from _csv_pieces(_STDIN, sys.stdin.buffer)
        elif suffix == ".npz":
            yield from _array_pieces(path, _npz_blocks(path))
        elif suffix == ".npy":
            yield from _array_pieces(path, _npy_blocks(path))
        elif suffix == ".parquet":
            yield from _array_pieces(path, _parquet_blocks(path))
        else:
            with open(path, "rb") as stream:
                yield from _csv_pieces(path, stream)


def input_bytes(paths: Iterable[str]) -> int | None:
    """How many `input_bytes` the pieces of these files have in all; None if unknown."""
    total = 0
    for path in paths:
        if path == "-" or Path(path).suffix.lower() in (".npz", ".parquet"):
            return None
        total += Path(path).stat().st_size
    return total


def _csv_pieces(path: str, stream: BinaryIO) -> Iterator[Piece]:
    """Cut CSV at the ends of rows; a name in quotes may hold line breaks."""
    rest = chunk = stream.read(CHUNK_BYTES)
    _check_is_csv(path, rest)
    rest = rest.removeprefix(b"\xef\xbb\xbf")
    piece = Piece(path, "csv", b"", first=True, last=not chunk)
    while chunk:
        following = stream.read(CHUNK_BYTES)
        cut = _last_row_end(rest) if following else len(rest)
        data, rest = rest[:cut], rest[cut:]
        piece = replace(piece, input_bytes=len(chunk), last=not following, header_lines=0)
        if data and piece.named is None:
            header, named = _layout(data, may_be_header=piece.first)
            piece = replace(piece, named=named, header_lines=data[:header].count(b"\n"))
            data = data[header:]
        if data or piece.last:
            yield replace(piece, data=data)
            piece = replace(piece, first=False)
        if len(rest) > RECORD_BYTES:
            reason = f"longer than {RECORD_BYTES:,} bytes, or its quotes are not closed"
            yield replace(piece, kind="fault", data=reason, last=False)
            piece = replace(piece, first=False)
            while following and b"\n" not in following:
                following = stream.read(CHUNK_BYTES)
            rest, following = b"", following[following.find(b"\n") + 1 :]
            if not following:
                following = stream.read(CHUNK_BYTES)
        rest, chunk = rest + following, following
    if piece.first or not piece.last:
        yield replace(piece, data=b"", last=True)


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


def _last_row_end(data: bytes) -> int:
    """The offset behind the last row that ends in `data`: at a line end outside quotes."""
    position = end = 0
    while (quote := data.find(b'"', position)) >= 0:
        end = max(end, data.rfind(b"\n", position, quote) + 1)
        if quote and data[quote - 1] not in b",\r\n":  # a quote within a cell is a character
            position = quote + 1
            continue
        close = data.find(b'"', quote + 1)
        while close >= 0 and data[close + 1 : close + 2] == b'"':  # "" stands for a quote
            close = data.find(b'"', close + 2)
        if close < 0:
            return end
        position = close + 1
    return max(end, data.rfind(b"\n", position) + 1)


def _npz_blocks(path: str) -> Iterator[tuple[list[str] | None, np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
        if not {"filenames.npy", "embeddings.npy"} <= members:
            keys = ", ".join(sorted(name.removesuffix(".npy") for name in members)[:5])
            raise InputError(f"{path}: needs the arrays filenames and embeddings, has {keys}")
        with archive.open("filenames.npy") as names, archive.open("embeddings.npy") as features:
            name_blocks = _rows(path, names, 1)
            for block in _rows(path, features, 2):
                yield _as_text(path, next(name_blocks, np.array([]))), block
            if next(name_blocks, None) is not None:
                raise InputError(f"{path}: more filenames than embeddings; write it again")


def _rows(path: str, stream, dimensions: int) -> Iterator[np.ndarray]:
    """Blocks of rows of an .npy stream, without ever holding the whole array."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{path}: NPY version {version} is not known")
    read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise InputError(f"{path}: holds Python objects, which are never unpickled; save strings")
    if len(shape) != dimensions or min(shape, default=-1) < 0:
        raise InputError(f"{path}: an array of shape {shape}; needs (N, {DIMENSIONS}) and (N,)")
    if fortran and dimensions > 1:  # column after column: there are no rows to stream
        whole = np.frombuffer(stream.read(), dtype).reshape(shape, order="F")
        yield from (whole[i : i + BLOCK_ROWS] for i in range(0, len(whole), BLOCK_ROWS))
        return
    width = shape[1] if dimensions > 1 else 1
    if width == 0 or width > 1 << 16 or dtype.itemsize == 0 or dtype.itemsize > RECORD_BYTES:
        raise InputError(f"{path}: an array of shape {shape} and type {dtype}")
    for start in range(0, shape[0], BLOCK_ROWS):
        wanted = min(BLOCK_ROWS, shape[0] - start) * width * dtype.itemsize
        data = stream.read(wanted)
        if len(data) != wanted:
            raise InputError(f"{path}: the file is cut off; copy or write it again")
        block = np.frombuffer(data, dtype)
        yield block.reshape(-1, width) if dimensions > 1 else block


def _npy_blocks(path: str) -> Iterator[tuple[list[str] | None, np.ndarray]]:
    with open(path, "rb") as stream:
        for block in _rows(path, stream, 2):
            yield None, block


def _as_text(path: str, names: np.ndarray) -> list[str]:
    if names.dtype.kind == "S":
        return [name.decode("utf-8") for name in names.tolist()]
    if names.dtype.kind != "U" and names.size:
        raise InputError(f"{path}: filenames are {names.dtype}, not strings")
    return names.tolist()


def _parquet_blocks(path: str) -> Iterator[tuple[list[str] | None, np.ndarray]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow: pip install -r requirements-extra.txt"
        ) from None
    with pa.parquet.ParquetFile(path, memory_map=True) as table:
        for batch in table.iter_batches(batch_size=BLOCK_ROWS):
            names = None
            if "filename" in batch.schema.names:
                names = [str(name) for name in batch.column("filename").to_pylist()]
                batch = batch.drop_columns(["filename"])
            columns = batch.columns
            if len(columns) == 1 and pa.types.is_fixed_size_list(columns[0].type):
                width = columns[0].type.list_size
                values = columns[0].fill_null([None] * width).flatten()
                yield names, _numeric(path, values).reshape(-1, width)
            else:
                yield names, np.stack([_numeric(path, c) for c in columns] or [[]], axis=-1)


def _numeric(path: str, column) -> np.ndarray:
    import pyarrow as pa

    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InputError(
            f"{path}: a column of type {column.type}; needs filename and {DIMENSIONS} numbers"
        )
    return column.to_numpy(zero_copy_only=False)


def _array_pieces(path: str, blocks: Iterable[tuple[list[str] | None, np.ndarray]]):
    """Pieces of arrays, one block behind, since the last one must say that it is."""
    waiting = Piece(path, "array", np.empty((0, DIMENSIONS)), first=True)
    try:
        for names, rows in blocks:
            if rows.dtype.kind not in "fiu":
                raise InputError(f"{path}: embeddings of type {rows.dtype}; needs numbers")
            if rows.shape[1] != DIMENSIONS:
                raise InputError(f"{path}: {_other_dimensions(rows.shape[1])}")
            if names is not None and len(names) != len(rows):
                raise InputError(f"{path}: fewer filenames than embeddings; write it again")
            if len(waiting.data):
                yield waiting
                waiting = replace(waiting, first=False)
            waiting = replace(waiting, data=rows, names=names, input_bytes=rows.nbytes)
    except (FileNotFoundError, PermissionError):
        raise
    except _BROKEN_FILE as error:
        reason = files.error_line(error) or type(error).__name__
        raise InputError(f"{path}: not a readable {Path(path).suffix} file: {reason}") from None
    yield replace(waiting, last=True)


# ----------------------------------------------------------------------------- parsing


def parse(piece: Piece) -> Block:
    """Read one piece: a pure function, for any thread, process or machine."""
    if piece.kind == "fault":
        return _block(piece, None, [], [Fault(1, 1, piece.data)], rows=1, lines=1)
    if piece.kind == "array":
        return _checked(piece, piece.names, piece.data, lines=0)
    worth_pandas = SMALL_BYTES if "pandas" in sys.modules else PANDAS_BYTES
    if piece.named is not None and len(piece.data) >= worth_pandas:
        block = _parse_fast(piece)
        if block is not None:
            return block
    return _parse_carefully(piece)


def _parse_fast(piece: Piece) -> Block | None:
    """pandas' C parser; None where it fails or might have read what is not a number."""
    import pandas as pd

    data, lines = piece.data, piece.data.count(b"\n") + (not piece.data.endswith(b"\n"))
    quotes = data.count(b'"')
    if b"\0" in data or data.startswith(b"\xef\xbb\xbf"):
        return None
    if quotes and not (quotes == 2 * lines == 2 * data.count(b'",')):  # R quotes every name
        return None
    try:
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                io.BytesIO(data),
                header=None,
                dtype={i: object if i == 0 and piece.named else np.float32 for i in range(513)},
                na_filter=False,
                skip_blank_lines=False,
                low_memory=False,
                encoding="utf-8",
            )
    except (ValueError, pd.errors.ParserWarning):  # ParserError and UnicodeError are ValueErrors
        return None
    if table.shape != (lines, DIMENSIONS + piece.named):
        return None
    names = table.pop(0).tolist() if piece.named else None
    features = table.to_numpy(np.float32)
    words = (features[0] == 0) | (features[0] == 1)  # a column of True reads as ones
    if words.any() and np.isin(features[:, words], (0, 1)).all(axis=0).any():
        return None
    if names and max(map(len, names)) > RECORD_BYTES // 4:
        return None
    block = _checked(piece, names, features, lines)
    return None if block.faults else block


def _parse_carefully(piece: Piece) -> Block:
    """Row by row: small pieces, and whatever pandas' parser stumbled over."""
    names, rows, good, faults, row = [], [], [], [], 0
    lines = piece.data.splitlines(keepends=True)
    for line, cells in _csv_rows(lines):
        row += 1
        values, reason = _numbers_of(cells, piece.named) if isinstance(cells, list) else ([], cells)
        if reason:
            faults.append(Fault(row, line + piece.header_lines, reason))
        else:
            rows.append(values)
            good.append(row - 1)
            names.append(cells[0])
    named = names if piece.named else None
    return _block(piece, named, rows, faults, row, len(lines), np.array(good, int))


def _csv_rows(lines: list[bytes]) -> Iterator[tuple[int, list[str] | str]]:
    """(first line, cells) of each row that is not blank; in place of cells, what is wrong."""
    reader = csv.reader((line.decode("utf-8", "surrogateescape") for line in lines), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, f"not CSV: {error}"
            continue
        if cells and (len(cells) > 1 or cells[0].strip()):
            yield line, cells


def _numbers_of(cells: list[str], named: bool | None) -> tuple[np.ndarray, str]:
    """The 512 numbers of a row, and what is wrong with it ("" if nothing is)."""
    none = np.empty(0, np.float32)
    if len(cells) != DIMENSIONS + bool(named):
        for mark, word in ((";", "semicolons"), ("\t", "tabs")):
            if cells[0].count(mark) > 10:
                return none, f"cells are separated by {word}; separate them by commas"
        wrong = len(cells) - bool(named)
        if named is None and wrong - 1 in (64, 128, 256, 1024, 2048):
            wrong -= 1
        return none, _other_dimensions(wrong)
    if named:
        try:
            cells[0].encode("utf-8")
        except UnicodeEncodeError:
            return none, "the name is not UTF-8; save the file as UTF-8"
        if "\0" in cells[0]:
            return none, "the name holds a NUL byte"
        cells = cells[1:]
    if _NUMBERS.fullmatch(",".join(cells)):
        try:
            with np.errstate(over="ignore"):
                values = np.array(list(map(float, cells)), np.float32)
        except ValueError:
            pass
        else:
            if np.isfinite(values).all():
                return values, "" if values.any() else "a row of zeros is no embedding"
    for number, cell in enumerate(cells, 1 + bool(named)):
        if not cell.strip():
            return none, f"cell {number} is empty"
        try:
            value = np.float32(cell) if _NUMBERS.fullmatch(cell) else None
        except ValueError:
            value = None
        if value is None:
            shown = ascii(cell if len(cell) <= 20 else cell[:20] + "...")
            return none, f"cell {number} is {shown}, not a finite number"
        if not np.isfinite(value):
            return none, f"cell {number} is {cell.strip()[:20]}, too large a number"
    return none, "not a row of numbers"


def _layout(data: bytes, may_be_header: bool) -> tuple[int, bool | None]:
    """The header's length in bytes, and whether rows have names, by the first good row."""
    lines, header = data.splitlines(keepends=True), 0
    for number, (line, cells) in enumerate(_csv_rows(lines)):
        if isinstance(cells, str):
            continue
        if number == 0 and may_be_header and _is_header(cells):
            end = line  # of a header with line breaks in its cells: up to the next row
            while end < len(lines) and len(list(_csv_rows(lines[:end]))[0][1]) != len(cells):
                end += 1
            header = sum(map(len, lines[:end]))
            continue
        for named in (False, True):
            if not _numbers_of(cells, named)[1]:
                return header, named
    return header, None


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
    return True


def _other_dimensions(count: int) -> str:
    return (
        f"{count} number{'s' * (count != 1)}, not {DIMENSIONS}: these scripts take FaceNet "
        f"embeddings of {DIMENSIONS}; embeddings of another model need a model of their own"
    )


def _checked(piece: Piece, names: list[str] | None, rows: np.ndarray, lines: int) -> Block:
    """A block of numbers, its bad rows taken out."""
    with np.errstate(over="ignore", invalid="ignore"):
        features = np.ascontiguousarray(rows, np.float32)
        largest = np.maximum(features.max(axis=1, initial=0), -features.min(axis=1, initial=0))
    usable = np.isfinite(largest) & (largest > 0)
    good = np.flatnonzero(usable)
    faults = []
    if len(good) < len(features):
        for i in np.flatnonzero(~usable):
            zeros = largest[i] == 0
            reason = "a row of zeros is no embedding" if zeros else "a number that is not finite"
            faults.append(Fault(int(i) + 1, int(i) + 1, reason))
        features = features[good]
        names = names and [names[i] for i in good]
    return _block(piece, names, features, faults, len(rows), lines, good)


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
                names = [Path(piece.path).name.removesuffix(".csv")]
        bad = [
            BadRow(piece.path, self.rows + fault.row,
                   0 if piece.kind == "array" else self.lines + fault.line, fault.reason)
            for fault in block.faults
        ]  # fmt: skip
        self.total += block.rows
        self.rows += block.rows
        self.lines += block.lines
        if piece.last and not self.rows:
            raise InputError(f"{piece.path}: no row of embeddings in this file")
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
    writer = csv.writer(text, lineterminator="\n")
    remaining = iter(names)
    for block in blocks:
        writer.writerows(
            [next(remaining), *map("%.9g".__mod__, row)] for row in np.asarray(block).tolist()
        )
    text.detach()


def _write_parquet(stream: BinaryIO, names: Sequence[str], blocks: Iterable[np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    vector = pa.list_(pa.float32(), DIMENSIONS)
    schema = pa.schema([("filename", pa.string()), ("embedding", vector)])
    start = 0
    with pa.parquet.ParquetWriter(stream, schema) as writer:
        for block in blocks:
            values = pa.array(np.ascontiguousarray(block, np.float32).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(values, DIMENSIONS)
            part = pa.array(names[start : start + len(block)], pa.string())
            writer.write_batch(pa.record_batch([part, column], schema=schema))
            start += len(block)
