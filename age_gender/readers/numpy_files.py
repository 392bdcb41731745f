"""NPZ and NPY, read block by block whatever their headers claim."""

import contextlib
import functools
import io
import itertools
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from age_gender.cli import InputError
from age_gender.readers import chunks
from age_gender.readers.columns import (
    LABELS,
    Columns,
    ReadOptions,
    label_columns,
    two_answers,
    wrong_width,
)  # fmt: skip
from age_gender.readers.errors import BadRow
from age_gender.readers.names import text_name
from age_gender.readers.numbers import FEWEST, MOST

NPY_HEADER_BYTES = 10_000  # NumPy's own bound on what it evaluates
FORTRAN_BYTES = 64 << 20  # of an array in column order that are in memory at a time
# What the one array of a file is called that holds the vector of one face: the file has its name.
NO_NAMES = {"embeddings", "embedding", "arr_0", "vector", "features", "encoding", "descriptor"}
NAME_BYTES = 10_000  # the longest name of --names


class ArrayReader:
    """Reads NPZ and NPY, and parses the rows of any array, also of Parquet's."""

    is_text = False

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
        """Yield chunks of the embeddings of a file, with the metadata of their rows."""
        with contextlib.ExitStack() as stack:
            arrays = _open(path, stack)
            is_faces = all(array.is_vector for array in arrays.values()) and bool(arrays)
            if is_faces and len(arrays) == 1 and {*arrays} <= NO_NAMES:
                of_file = text_name(Path(path).stem)
                names = [*_names(options.names, 1)] if options.names else [of_file]
                yield from _cut_faces(path, dict(zip(names, arrays.values(), strict=True)), options)
            elif is_faces and not {"embeddings", options.embedding} & {*arrays}:
                if options.names:
                    raise InputError(
                        f"{path}: its names are those of its arrays; leave out --names"
                    )
                yield from _cut_faces(path, arrays, options)
            else:
                yield from _cut_table(path, arrays, options)

    def parse(self, chunk: chunks.Chunk) -> chunks.Batch:
        """Return the batch of a chunk's rows."""
        return chunks.make_batch(chunk, chunk.data, chunk.metadata)


def _open(path: str, stack: contextlib.ExitStack) -> dict[str, "_Array"]:
    """Return the arrays of a file by their names; those of an NPZ as long as the stack is open."""
    if path.lower().endswith(".npy"):
        return {"embeddings": _Array(path, functools.partial(open, path, "rb"))}
    arrays: dict[str, _Array] = {}
    archive = stack.enter_context(zipfile.ZipFile(path))
    for info in archive.infolist():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile unpacks these in chunks of any size
            raise InputError(f"{path}: not compressed as NPZ is; save it with numpy.savez")
        if info.filename.endswith(".npy"):
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise InputError(f"{path}: two arrays are called {name}; save it again")
            arrays[name] = _Array(path, functools.partial(archive.open, info))
        else:
            archive.open(info).close()  # which compares its name: a changed one loses an array
    return arrays


def _cut_faces(
    path: str, arrays: dict[str, "_Array"], options: ReadOptions
) -> Iterator[chunks.Chunk]:
    """Yield chunks of faces of an array each, (W,) or (1, W), which is called by the face."""
    width = options.width or next(iter(arrays.values())).size
    if not options.fits(width):
        raise InputError(f"{path}: {wrong_width(width, options)}")
    columns, faces = Columns(width, metadata={"name": "name"}), iter(arrays.items())
    while part := [*itertools.islice(faces, chunks.BLOCK_ROWS)]:
        names, rows, bad = [], [], []
        for number, (name, array) in enumerate(part, 1):
            if array.size == width:
                names.append(name)
                rows += [block.reshape(1, -1) for block in array.blocks(width)]
            else:
                error = wrong_width(array.size, replace(options, width=width))
                bad.append(BadRow(path, number, 0, error.reason, error.remedy))
        table = np.concatenate(rows) if rows else np.empty((0, width))
        yield chunks.Chunk(
            path, ArrayReader(), table, columns, {"name": names}, bad, input_bytes=table.nbytes
        )


def _cut_table(
    path: str, arrays: dict[str, "_Array"], options: ReadOptions
) -> Iterator[chunks.Chunk]:
    """Yield chunks of the one array that holds all embeddings, with names and labels."""
    # Which array is what
    embedding, metadata = _choose(path, arrays, options)
    array, others = arrays[embedding], {word: arrays[name] for word, name in metadata.items()}
    if not options.fits(array.columns):
        raise InputError(f"{path}: {wrong_width(array.columns, options)}")
    left_out = tuple(name for name in arrays if name not in (embedding, *metadata.values()))
    columns = Columns(array.columns, left_out=left_out)

    # Blocks of all of them, side by side
    row_bytes = max([array.row_bytes // 4, *(other.row_bytes for other in others.values())])
    size = max(1, min(chunks.BLOCK_ROWS, chunks.CHUNK_BYTES * 4 // row_bytes))
    blocks = {word: map(_as_list, other.blocks(size)) for word, other in others.items()}
    if options.names:
        if "name" in metadata:
            raise InputError(f"{path}: its names are in {metadata['name']}; leave out --names")
        names = _names(options.names, array.rows)
        blocks["name"] = iter(lambda: [*itertools.islice(names, size)], [])
    for block in array.blocks(size):
        of_rows = {word: next(values) for word, values in blocks.items()}
        yield chunks.Chunk(path, ArrayReader(), block, columns, of_rows, input_bytes=block.nbytes)
    for rest in blocks.values():
        next(rest, None)  # the end, where checksums are compared


def _choose(
    path: str, arrays: dict[str, "_Array"], options: ReadOptions
) -> tuple[str, dict[str, str]]:
    """Return which array holds the embeddings, and which the names, ages and genders."""
    tables = [word for word, array in arrays.items() if array.is_table]
    tables = [word for word in tables if options.fits(arrays[word].columns)] or tables
    texts = [w for w, array in arrays.items() if array.dtype.kind in "US"]
    texts = [word for word in texts if word.casefold() not in LABELS]
    embedding = _the_one(
        path, tables, arrays, options.embedding, "embeddings", "--embedding-column"
    )
    if embedding is None:
        raise InputError(
            f"{path}: no two-dimensional array of numbers, has {_listed(arrays)}; save it with "
            "numpy.savez(path, filenames=..., embeddings=...)"
        )
    rows = arrays[embedding].rows
    arrays[embedding].check(embedding, options, 2)
    labels = label_columns(path, [*arrays], options) if options.labels else {}
    metadata = {word: [*arrays][place] for word, place in labels.items()}
    name = _the_one(path, texts, arrays, options.name, "filenames", "--name-column")
    metadata |= {"name": name} if name is not None else {}
    for word, array in arrays.items():
        of_objects = array.dtype.hasobject and array.shape == (rows,)  # names, most likely
        if word in metadata.values() or of_objects:
            array.check(word, options, 1)
        if word in metadata.values() and array.rows != rows:
            raise InputError(f"{path}: {array.rows} {word} for {rows} {embedding}; write it again")
    return embedding, metadata


def _the_one(path, candidates, arrays, named: str | None, usual: str, option: str) -> str | None:
    if named is not None and named not in arrays:
        raise InputError(f"{path}: no array {named}, has {_listed(arrays)}")
    if named is not None or usual in arrays:
        return named or usual
    if len(candidates) > 1:
        raise two_answers(path, "arrays", candidates, f"fit as {usual}", option)
    return candidates[0] if candidates else None


def _listed(arrays: dict[str, "_Array"]) -> str:
    return ", ".join(sorted(arrays)[:5]) or "none"


def _names(path: str, rows: int) -> Iterator[str]:
    """Return the lines of a text file of a name a row, which may come through a pipe."""
    import shutil
    import tempfile

    stream = open(path, "rb")  # noqa: SIM115  (as long as names are read)
    if not stream.seekable():
        stream, pipe = tempfile.TemporaryFile(), stream  # noqa: SIM115
        with pipe:
            shutil.copyfileobj(pipe, stream)
        stream.seek(0)
    if (count := sum(1 for _ in _lines(path, stream))) != rows:
        raise InputError(
            f"{path}: {_plural(count, 'name')} for {_plural(rows, 'row')}; give one name a line"
        )
    stream.seek(0)
    return _lines(path, stream)


def _lines(path: str, stream: BinaryIO) -> Iterator[str]:
    """Yield the lines of a text, in bounded memory."""
    for number in itertools.count(1):
        line = stream.readline(NAME_BYTES + 1)
        if not line:
            return
        if len(line) > NAME_BYTES:
            raise InputError(f"{path}: line {number}: over {NAME_BYTES:,} bytes; shorten this name")
        text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        yield text.removeprefix("\ufeff") if number == 1 else text


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


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
    """An array in the NPY format that is read block by block: its claims allocate nothing."""

    def __init__(self, path: str, open_stream: Callable[[], BinaryIO]) -> None:
        self.path, self.open_stream = path, open_stream
        with open_stream() as stream:
            self.shape, self.fortran, self.dtype, self.start = _header(path, stream)
        is_numbers = self.dtype.kind in "fiu"
        self.is_table = len(self.shape) == 2 and is_numbers
        self.rows = self.shape[0] if self.shape else 0
        self.columns = self.shape[1] if len(self.shape) == 2 else 1
        self.row_bytes = max(1, self.columns * self.dtype.itemsize)
        # One vector, of at most MOST numbers
        self.size = self.shape[-1] if self.shape else 0
        self.is_vector = is_numbers and self.shape in ((self.size,), (1, self.size))
        self.is_vector = self.is_vector and FEWEST <= self.size <= MOST

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
        kinds = "fiu" if dimensions == 2 else "USfiub" if name.casefold() in LABELS else "US"
        if self.dtype.kind not in kinds and self.rows:
            needed = "numbers" if dimensions == 2 else "strings"
            raise InputError(f"{path}: {name} of type {self.dtype}; save them as {needed}")
        if self.row_bytes > chunks.RECORD_BYTES:
            raise InputError(f"{path}: {self.row_bytes:,} bytes a row; shorten the filenames")

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield (n, columns), or (n,) of names, with n at most `size`."""
        with self.open_stream() as stream:
            stream.seek(self.start)
            if self.fortran and self.columns > 1 and self.rows > 1:
                yield from self._bands(stream, size)
            else:
                for start in range(0, self.rows, size):
                    count = min(size, self.rows - start)
                    values = self._read(stream, count * self.columns)
                    yield values if len(self.shape) == 1 else values.reshape(count, self.columns)
            if stream.read(1):  # reading to the end also has the checksum compared
                raise InputError(f"{self.path}: more data than its header says; write it again")

    def _read(self, stream: BinaryIO, count: int) -> np.ndarray:
        data = stream.read(count * self.dtype.itemsize)
        if len(data) != count * self.dtype.itemsize:
            raise InputError(f"{self.path}: the file is cut off; copy or write it again")
        return np.frombuffer(data, self.dtype)

    def _bands(self, stream: BinaryIO, size: int) -> Iterator[np.ndarray]:
        """Yield the rows of an array that lies column after column, from a band of them each."""
        height = max(size, FORTRAN_BYTES // self.row_bytes)
        for top in range(0, self.rows, height):
            rows = min(height, self.rows - top)
            band = np.empty((self.columns, rows), self.dtype)
            for column in range(self.columns):
                stream.seek(self.start + (column * self.rows + top) * self.dtype.itemsize)
                band[column] = self._read(stream, rows)
            yield from (band[:, i : i + size].T for i in range(0, rows, size))


def _header(path: str, stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return the shape, whether in column order, the type, and where the numbers begin."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{path}: NPY version {version} is not known; save it with numpy.save")
    length = stream.read(2 * version[0])
    if (size := int.from_bytes(length, "little")) > NPY_HEADER_BYTES:
        raise InputError(f"{path}: an NPY header of {size:,} bytes; save it with numpy.save")
    header = stream.read(size)
    return *_parsed_header(version[0], length + header), 8 + len(length) + len(header)


@functools.lru_cache(16)  # a folder has thousands of the same
def _parsed_header(version: int, text: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    read_header = getattr(np.lib.format, f"read_array_header_{version}_0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers of Python 2, which are read
        return read_header(io.BytesIO(text))
