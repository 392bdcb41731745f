"""NPZ and NPY, read block by block whatever their headers claim."""

import contextlib
import io
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from age_gender.script import InputError
from age_gender.tables import numbers, pieces
from age_gender.tables.columns import Columns, Wanted, wrong_width

NPY_HEADER_BYTES = 10_000  # NumPy's own bound on what it evaluates
FORTRAN_BYTES = 64 << 20  # of an array in column order that are held at a time


def cut(path: str, wanted: Wanted, only: bool) -> Iterator[pieces.Piece]:
    """Pieces of an NPZ or NPY, in order."""
    blocks = npz_pieces if path.lower().endswith(".npz") else _npy_pieces
    empty = pieces.Piece(path, "arrays", np.empty((0, 0)))
    return pieces.one_behind(empty, blocks(path, wanted))


def parse(piece: pieces.Piece) -> pieces.Block:
    """The block of a piece of any array, also of Parquet's."""
    told = {word: getattr(piece, word) for word, _ in piece.columns.told()}
    return pieces.check_rows(piece, piece.data, lines=0, **told)


def input_bytes(path: str) -> int | None:
    """About how many bytes the pieces of the file have in all; None if unknown."""
    if path.lower().endswith(".npy"):
        return Path(path).stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            return max(info.file_size for info in archive.infolist())  # that of the embeddings
    except Exception:  # whoever reads it says what is wrong
        return None


def npz_pieces(path: str, wanted: Wanted) -> Iterator[pieces.Piece]:
    with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
        found = {}
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    # zipfile unpacks these in pieces of any size
                    raise InputError(f"{path}: not compressed as NPZ is; save it with numpy.savez")
                array = _Array(path, stack.enter_context(archive.open(info)))
                found[info.filename.removesuffix(".npy")] = array
        columns = _choose(path, found, wanted)
        told = {"names": found.get(columns.name)}
        told |= {word: found[word] for word, _ in columns.told() if word != "names"}
        if told["names"] is None and wanted.names:
            told["names"] = _NameFile(wanted.names)
            columns = replace(columns, name="filename")
        features = found[columns.embedding[0]]
        yield from _blocks(features, {k: v for k, v in told.items() if v is not None}, columns)


def _npy_pieces(path: str, wanted: Wanted) -> Iterator[pieces.Piece]:
    with open(path, "rb") as stream:
        array = _Array(path, stream)
        array.check("embeddings", wanted, 2)
        named = wanted.names is not None
        columns = _columns(path, array, wanted, name="filename" if named else None)
        told = {"names": _NameFile(wanted.names)} if named else {}
        yield from _blocks(array, told, columns)


def _choose(path: str, found: dict[str, "_Array"], wanted: Wanted) -> Columns:
    """Which array is what, by their names where there are several."""
    tables = [name for name, array in found.items() if array.is_table]
    tables = [name for name in tables if found[name].shape[1] == wanted.width] or tables
    texts = [name for name, array in found.items() if array.dtype.kind in "US"]
    embedding = _the_one(path, tables, found, wanted.embedding, "embeddings", "--embedding-column")
    if embedding is None:
        shown = ", ".join(sorted(found)[:5]) or "none"
        raise InputError(
            f"{path}: no two-dimensional array of numbers, has {shown}; save it with "
            "numpy.savez(path, filenames=..., embeddings=...)"
        )
    array = found[embedding]
    array.check(embedding, wanted, 2)
    texts = [name for name in texts if name not in ("age", "gender")]
    name = _the_one(path, texts, found, wanted.name, "filenames", "--name-column")
    told = [word for word in ("age", "gender") if wanted.labels and word in found]
    for word in [*told, *([] if name is None else [name])]:
        found[word].check(word, wanted, 1)
        if found[word].rows != array.rows:
            raise InputError(
                f"{path}: {found[word].rows} {word} for {array.rows} {embedding}; write it again"
            )
    for word, other in found.items():
        if other.dtype.hasobject and other.shape == (array.rows,) and word not in told:
            other.check(word, wanted, 1)  # names, most likely
    columns = _columns(path, array, wanted, embedding, name, **{word: word for word in told})
    used = {embedding, name, *told}
    return replace(columns, left_out=tuple(word for word in found if word not in used))


def _the_one(path, candidates, found, named: str | None, usual: str, option: str) -> str | None:
    if named is not None and named not in found:
        raise InputError(f"{path}: no array {named}, has {', '.join(sorted(found)[:5])}")
    if named is not None or usual in found:
        return usual if named is None else named
    if len(candidates) > 1:
        raise InputError(
            f"{path}: the arrays {candidates[0]} and {candidates[1]} both fit as {usual}; say "
            f"which is meant: {option} {candidates[0]}"
        )
    return candidates[0] if candidates else None


def _columns(
    path: str, array: "_Array", wanted: Wanted, embedding="", name=None, **told
) -> Columns:
    width = array.shape[1]
    if width != (wanted.width or width) or not (
        wanted.width or numbers.FEWEST <= width <= numbers.MOST
    ):
        raise InputError(f"{path}: {wrong_width(width, wanted.width, wanted.whose)}")
    whose = wanted.whose if wanted.width else path
    return Columns(width, whose, (embedding,), name=name, **told)


def _blocks(features: "_Array", told: dict, columns: Columns) -> Iterator[pieces.Piece]:
    """Pieces of the features, each with the names, ages and genders of its rows."""
    rows = max([features.row_bytes // 4, *(other.row_bytes for other in told.values())])
    size = max(1, min(pieces.BLOCK_ROWS, pieces.CHUNK_BYTES * 8 // rows))
    blocks = {word: other.blocks(size) for word, other in told.items()}
    start = 0
    for block in features.blocks(size):
        values = {word: _as_list(next(of_rows)) for word, of_rows in blocks.items()}
        start += len(block)
        for word, of_rows in values.items():
            if len(of_rows) != len(block):
                raise InputError(f"{told[word].path}: {start - len(block) + len(of_rows)} names "
                                 f"for {features.rows} rows; give one name a line")  # fmt: skip
        yield pieces.Piece(
            features.path, "arrays", block, columns, input_bytes=block.nbytes, **values
        )
    for word, of_rows in blocks.items():  # to the end, where checksums are compared
        if rest := sum(map(len, of_rows)):
            raise InputError(f"{told[word].path}: {start + rest} names for {features.rows} rows; "
                             "give one name a line")  # fmt: skip


class _NameFile:
    """A text file of names, one a line, read in blocks like an array."""

    row_bytes = 1

    def __init__(self, path: str) -> None:
        self.path = path

    def blocks(self, size: int) -> Iterator[list[str]]:
        with open(self.path, "rb") as stream:
            stream.seek(3 * (stream.read(3) == b"\xef\xbb\xbf"))
            while True:
                lines = [line for _ in range(size) if (line := stream.readline(10_000))]
                yield [line.rstrip(b"\r\n").decode("utf-8", "surrogateescape") for line in lines]
                if not lines:
                    return


class _Array:
    """An .npy stream that is read block by block: the file's claims allocate nothing."""

    def __init__(self, path: str, stream: BinaryIO) -> None:
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
            header = read_header(io.BytesIO(length + stream.read(size)))
        self.shape, self.fortran, self.dtype = header
        self.is_table = len(self.shape) == 2 and self.dtype.kind in "fiu"
        self.rows = self.shape[0] if self.shape else 0
        self.columns = self.shape[1] if len(self.shape) == 2 else 1
        self.row_bytes = max(1, self.columns * self.dtype.itemsize)

    def check(self, name: str, wanted: Wanted, dimensions: int) -> None:
        """Raise InputError unless it is an array of numbers (N, width), or of values (N,)."""
        path, shape = self.path, self.shape
        if self.dtype.hasobject:
            raise InputError(
                f"{path}: {name} holds Python objects, which are never unpickled; save strings "
                "and numbers"
            )
        if len(shape) != dimensions or min(shape) < 0:
            needed = "(N,)" if dimensions == 1 else f"(N, {wanted.width or 'W'})"
            raise InputError(f"{path}: an array of shape {shape}, not {needed}; save it as that")
        kinds = "fiu" if dimensions == 2 else "USfiu" if name in ("age", "gender") else "US"
        if self.dtype.kind not in kinds and self.rows:
            needed = "numbers" if dimensions == 2 else "strings"
            raise InputError(f"{path}: {name} of type {self.dtype}; save them as {needed}")
        if self.row_bytes > pieces.RECORD_BYTES:
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
        return values if len(self.shape) == 1 else values.reshape(rows, columns)

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


def _as_list(values: np.ndarray | list[str]) -> list:
    if isinstance(values, list):
        return values
    if values.dtype.kind == "S":
        return [value.decode("utf-8", "surrogateescape") for value in values.tolist()]
    return values.tolist()
