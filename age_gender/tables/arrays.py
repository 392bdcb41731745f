"""NPZ and NPY, read block by block whatever their headers claim."""

import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from age_gender.script import InputError
from age_gender.tables import pieces

NPY_HEADER_BYTES = 10_000  # NumPy's own bound on what it evaluates
FORTRAN_BYTES = 64 << 20  # of an array in column order that are held at a time


def cut(path: str, only: bool) -> Iterator[pieces.Piece]:
    """Pieces of an NPZ or NPY, in order."""
    blocks = npz_blocks if path.lower().endswith(".npz") else _npy_blocks
    return pieces.array_pieces(path, blocks(path))


def parse(piece: pieces.Piece) -> pieces.Block:
    """The block of a piece of any array, also of Parquet's."""
    return pieces.check_rows(piece, piece.names, piece.data, lines=0)


def input_bytes(path: str) -> int | None:
    """About how many bytes the pieces of the file have in all; None if unknown."""
    if path.lower().endswith(".npy"):
        return Path(path).stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.getinfo("embeddings.npy").file_size
    except Exception:  # whoever reads it says what is wrong
        return None


def npz_blocks(path: str) -> Iterator[tuple[list[str], np.ndarray]]:
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
            features = _Array(path, stream, columns=pieces.DIMENSIONS)
            if names.rows != features.rows:
                raise InputError(
                    f"{path}: {names.rows} filenames for {features.rows} embeddings; write it again"
                )
            size = max(1, min(pieces.BLOCK_ROWS, pieces.CHUNK_BYTES // names.row_bytes))
            for name_block, block in zip(names.blocks(size), features.blocks(size), strict=True):
                yield _as_text(name_block), block


def _npy_blocks(path: str) -> Iterator[tuple[None, np.ndarray]]:
    with open(path, "rb") as stream:
        yield from (
            (None, block)
            for block in _Array(path, stream, pieces.DIMENSIONS).blocks(pieces.BLOCK_ROWS)
        )


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
            raise InputError(f"{path}: {pieces.other_dimensions(shape[1])}")
        kinds = "fiu" if columns else "US"
        if self.dtype.kind not in kinds and shape[0]:
            what = "embeddings" if columns else "filenames"
            needed = "numbers" if columns else "strings"
            raise InputError(f"{path}: {what} of type {self.dtype}; save them as {needed}")
        self.rows, self.columns = shape[0], columns or 1
        self.row_bytes = max(1, self.columns * self.dtype.itemsize)
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
