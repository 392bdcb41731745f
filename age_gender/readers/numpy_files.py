"""NPZ and NPY, read block by block whatever their headers claim."""

import contextlib
import io
import itertools
import sys
import warnings
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from age_gender.cli import InputError
from age_gender.readers import chunks
from age_gender.readers.columns import LABELS, Columns, ReadOptions, fits, two_answers, wrong_width

NPY_HEADER_BYTES = 10_000  # NumPy's own bound on what it evaluates
FORTRAN_BYTES = 64 << 20  # of an array in column order that are held at a time


class ArrayReader:
    """Reads NPZ and NPY, and parses the rows of any array, also of Parquet's."""

    is_text = False

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
        return cut(path, options)

    def parse(self, chunk: chunks.Chunk) -> chunks.Batch:
        return chunks.make_batch(chunk, chunk.data, chunk.metadata)


def cut(path: str, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of the embeddings of an NPZ or NPY, with the metadata of their rows."""
    with contextlib.ExitStack() as stack:
        found = _open(path, stack)
        embedding, metadata = _choose(path, found, options)
        array, others = found[embedding], {word: found[name] for word, name in metadata.items()}
        if not fits(array.columns, options.width):
            raise InputError(f"{path}: {wrong_width(array.columns, options)}")
        row_bytes = max([array.row_bytes // 4, *(other.row_bytes for other in others.values())])
        size = max(1, min(chunks.BLOCK_ROWS, chunks.CHUNK_BYTES * 4 // row_bytes))
        blocks = {word: map(_as_list, other.blocks(size)) for word, other in others.items()}
        left_out = tuple(name for name in found if name not in (embedding, *metadata.values()))
        if options.names and "name" not in metadata:
            lines = _lines(options.names)
            if (count := sum(1 for _ in _lines(options.names))) != array.rows:
                raise InputError(
                    f"{options.names}: {count} names for {array.rows} rows; give one name a line"
                )
            blocks["name"] = iter(lambda: [*itertools.islice(lines, size)], [])
        columns = Columns(array.columns, left_out=left_out)
        for block in array.blocks(size):
            of_rows = {word: next(found) for word, found in blocks.items()}
            yield chunks.Chunk(
                path, ArrayReader(), block, columns, of_rows, input_bytes=block.nbytes
            )
        for rest in blocks.values():
            next(rest, None)  # the end, where checksums are compared


def _open(path: str, stack: contextlib.ExitStack) -> dict[str, "_Array"]:
    if path.lower().endswith(".npy"):
        return {"embeddings": _Array(path, stack.enter_context(open(path, "rb")))}
    found = {}
    archive = stack.enter_context(zipfile.ZipFile(path))
    for info in archive.infolist():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile unpacks these in chunks of any size
            raise InputError(f"{path}: not compressed as NPZ is; save it with numpy.savez")
        stream = stack.enter_context(archive.open(info))  # which also has its name compared
        if info.filename.endswith(".npy"):
            found[info.filename.removesuffix(".npy")] = _Array(path, stream)
    return found


def _choose(
    path: str, found: dict[str, "_Array"], options: ReadOptions
) -> tuple[str, dict[str, str]]:
    """Which array holds the embeddings, and which the names, ages and genders."""
    tables = [word for word, array in found.items() if array.is_table]
    tables = [word for word in tables if found[word].columns == options.width] or tables
    texts = [w for w, array in found.items() if array.dtype.kind in "US" and w not in LABELS]
    embedding = _the_one(path, tables, found, options.embedding, "embeddings", "--embedding-column")
    if embedding is None:
        raise InputError(
            f"{path}: no two-dimensional array of numbers, has {_listed(found)}; save it with "
            "numpy.savez(path, filenames=..., embeddings=...)"
        )
    rows = found[embedding].rows
    found[embedding].check(embedding, options, 2)
    metadata = {word: word for word in LABELS if options.labels and word in found}
    name = _the_one(path, texts, found, options.name, "filenames", "--name-column")
    metadata |= {"name": name} if name is not None else {}
    for word, array in found.items():
        of_objects = array.dtype.hasobject and array.shape == (rows,)  # names, most likely
        if word in metadata.values() or of_objects:
            array.check(word, options, 1)
        if word in metadata.values() and array.rows != rows:
            raise InputError(f"{path}: {array.rows} {word} for {rows} {embedding}; write it again")
    return embedding, metadata


def _the_one(path, candidates, found, named: str | None, usual: str, option: str) -> str | None:
    if named is not None and named not in found:
        raise InputError(f"{path}: no array {named}, has {_listed(found)}")
    if named is not None or usual in found:
        return named or usual
    if len(candidates) > 1:
        raise two_answers(path, "arrays", candidates, f"fit as {usual}", option)
    return candidates[0] if candidates else None


def _listed(found: dict[str, "_Array"]) -> str:
    return ", ".join(sorted(found)[:5]) or "none"


def _lines(path: str) -> Iterator[str]:
    """The lines of a text file, in bounded memory."""
    text = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": "\n"}
    with open(path, **text) as stream:
        while line := stream.readline(10_000):
            yield line.rstrip("\r\n")


def _as_list(values: np.ndarray) -> list:
    return as_texts(values) if values.dtype.kind in "US" else values.tolist()


def as_texts(values: np.ndarray) -> list[str]:
    """Return an array (n,) of strings as a list.

    What is no text has a lone surrogate, which no encoder takes: bytes that are not UTF-8, and
    numbers that are no code point, of which Python would make a string that breaks all output.
    """
    if values.dtype.kind == "S":
        return [value.decode("utf-8", "surrogateescape") for value in values.tolist()]
    codes = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).view(np.uint32)
    if codes.max(initial=0) > sys.maxunicode:
        codes = np.where(codes > sys.maxunicode, np.uint32(0xD800), codes)
        values = codes.reshape(len(values), -1).view(f"U{values.dtype.itemsize // 4}")[:, 0]
    return values.tolist()


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

    def check(self, name: str, options: ReadOptions, dimensions: int) -> None:
        """Raise InputError unless it is an array of numbers (N, width), or of values (N,)."""
        path, shape = self.path, self.shape
        if self.dtype.hasobject:
            raise InputError(
                f"{path}: {name} holds Python objects, which are never unpickled; save strings "
                "and numbers"
            )
        if len(shape) != dimensions or min(shape) < 0:
            needed = "(N,)" if dimensions == 1 else f"(N, {options.width or 'W'})"
            raise InputError(f"{path}: an array of shape {shape}, not {needed}; save it as that")
        kinds = "fiu" if dimensions == 2 else "USfiu" if name in LABELS else "US"
        if self.dtype.kind not in kinds and self.rows:
            needed = "numbers" if dimensions == 2 else "strings"
            raise InputError(f"{path}: {name} of type {self.dtype}; save them as {needed}")
        if self.row_bytes > chunks.RECORD_BYTES:
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
