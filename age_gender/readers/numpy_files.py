"""Read NPZ and NPY block by block, whatever their headers claim."""

import contextlib
import functools
import io
import itertools
import os
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from age_gender.cli import counted
from age_gender.embeddings import MAX_WIDTH, MIN_WIDTH
from age_gender.errors import InputError
from age_gender.labels import LABEL_COLUMNS
from age_gender.readers import chunks
from age_gender.readers.bad_rows import BadRow
from age_gender.readers.column_choice import ambiguity_error, find_label_columns, width_error
from age_gender.readers.columns import Columns, ReadOptions
from age_gender.readers.names import text_name

MAX_NPY_HEADER_BYTES = 10_000  # NumPy evaluates no longer headers either
FORTRAN_BYTES = 64 << 20  # bytes of an array in column order that are in memory at a time
MAX_NAME_BYTES = 10_000  # bytes of the longest name in the file of --names
# Titles of a file's only array that are not the name of a face
GENERIC_TITLES = {
    "embeddings", "embedding", "arr_0", "vector", "features", "encoding", "descriptor",
}  # fmt: skip


def parse_array(chunk: chunks.Chunk) -> chunks.Batch:
    """Return the batch of a chunk of an array, with its metadata."""
    return chunks.make_batch(chunk, chunk.data, chunk.metadata)


def read_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of a file's embeddings, with the metadata of their rows."""
    with contextlib.ExitStack() as stack:
        arrays = _open_arrays(path, stack)
        are_vectors = all(array.is_vector for array in arrays.values()) and bool(arrays)
        if are_vectors and len(arrays) == 1 and {*arrays} <= GENERIC_TITLES:
            default = text_name(os.path.splitext(os.path.basename(path))[0])
            names = [*_read_names(options.names_file, 1)] if options.names_file else [default]
            arrays = dict(zip(names, arrays.values(), strict=True))
            yield from _read_face_arrays(path, arrays, options)
        elif are_vectors and not {"embeddings", options.embedding_column} & {*arrays}:
            if options.names_file:
                raise InputError(f"{path}: its names are those of its arrays; leave out --names")
            yield from _read_face_arrays(path, arrays, options)
        else:
            yield from _read_table(path, arrays, options)


def _open_arrays(path: str, stack: contextlib.ExitStack) -> dict[str, "_NpyArray"]:
    """Return the arrays of a file by title; those of an NPZ are readable until the stack closes."""
    if path.lower().endswith(".npy"):
        return {"embeddings": _NpyArray(path, functools.partial(open, path, "rb"))}
    arrays: dict[str, _NpyArray] = {}
    titles = set()  # of all members; NumPy leaves out the suffix .npy
    archive = stack.enter_context(zipfile.ZipFile(path))
    for info in archive.infolist():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # The module zipfile does not bound the memory for other methods
            raise InputError(
                f"{path}: compressed by a method that NPZ does not use; save it with "
                "numpy.savez_compressed"
            )
        title = info.filename.removesuffix(".npy")
        if title in titles:
            raise InputError(f"{path}: two arrays are called {title}; save it again")
        titles.add(title)
        if info.filename.endswith(".npy"):
            arrays[title] = _NpyArray(path, functools.partial(archive.open, info))
        else:
            archive.open(info).close()  # raises an error if a damaged name would hide an array
    return arrays


def _read_face_arrays(
    path: str, arrays: dict[str, "_NpyArray"], options: ReadOptions
) -> Iterator[chunks.Chunk]:
    """Yield chunks of a file with one array, (W,) or (1, W), for each face, named by its key."""
    width = options.width or next(iter(arrays.values())).width
    if not options.fits(width):
        raise InputError(f"{path}: {width_error(width, options)}")
    columns, faces = Columns(width, metadata_columns={"name": "name"}), iter(arrays.items())
    while part := [*itertools.islice(faces, chunks.CHUNK_ROWS)]:
        names, rows, bad_rows = [], [], []
        for number, (name, array) in enumerate(part, 1):
            if array.width == width:
                names.append(name)
                rows += [block.reshape(1, -1) for block in array.blocks(width)]
            else:
                error = width_error(array.width, replace(options, width=width))
                bad_rows.append(BadRow(path, number, 0, error.reason, error.remedy))
        table = np.concatenate(rows) if rows else np.empty((0, width))
        yield chunks.Chunk(
            path, parse_array, table, columns, {"name": names}, bad_rows, input_bytes=table.nbytes
        )


def _read_table(
    path: str, arrays: dict[str, "_NpyArray"], options: ReadOptions
) -> Iterator[chunks.Chunk]:
    """Yield chunks of the array that holds all embeddings, with their names and labels."""
    # Choose the arrays
    embedding, titles = _choose_arrays(path, arrays, options)
    array, metadata = arrays[embedding], {role: arrays[title] for role, title in titles.items()}
    if not options.fits(array.column_count):
        raise InputError(f"{path}: {width_error(array.column_count, options, array.row_count)}")
    unread_columns = tuple(title for title in arrays if title not in (embedding, *titles.values()))
    columns = Columns(array.column_count, unread_columns=unread_columns)

    # Read blocks of the same rows from all arrays
    row_bytes = max([array.row_bytes // 4, *(values.row_bytes for values in metadata.values())])
    size = max(1, min(chunks.CHUNK_ROWS, chunks.CHUNK_BYTES * 4 // row_bytes))
    blocks = {role: map(_to_list, values.blocks(size)) for role, values in metadata.items()}
    if options.names_file:
        if "name" in titles:
            raise InputError(
                f"{path}: it has names of its own, in the array {titles['name']}; leave out --names"
            )
        names = _read_names(options.names_file, array.row_count)
        blocks["name"] = iter(lambda: [*itertools.islice(names, size)], [])
    for block in array.blocks(size):
        values = {role: next(lists) for role, lists in blocks.items()}
        yield chunks.Chunk(path, parse_array, block, columns, values, input_bytes=block.nbytes)
    for rest in blocks.values():
        next(rest, None)  # reads to the end, where zipfile compares checksums


def _choose_arrays(
    path: str, arrays: dict[str, "_NpyArray"], options: ReadOptions
) -> tuple[str, dict[str, str]]:
    """Return the title of the array of embeddings, and the titles of names and labels by role.

    Raises InputError if no array or several fit, or if their numbers of rows differ.
    """
    # Choose the embeddings
    tables = [title for title, array in arrays.items() if array.is_table]
    tables = [title for title in tables if options.fits(arrays[title].column_count)] or tables
    embedding = _choose_array(
        path, arrays, tables, options.embedding_column, "embeddings", "--embedding-column"
    )
    if embedding is None:
        raise InputError(
            f"{path}: no two-dimensional array of numbers, has {_listed(arrays)}; save it with "
            "numpy.savez(path, filenames=..., embeddings=...)"
        )
    rows = arrays[embedding].row_count
    arrays[embedding].check(embedding, options, 2)

    # Choose labels and names
    labels = find_label_columns(path, [*arrays], options) if options.reads_labels else {}
    metadata = {role: [*arrays][index] for role, index in labels.items()}
    texts = [title for title, array in arrays.items() if array.dtype.kind in "US"]
    texts = [title for title in texts if title.casefold() not in LABEL_COLUMNS]
    name = _choose_array(path, arrays, texts, options.name_column, "filenames", "--name-column")
    metadata |= {"name": name} if name is not None else {}

    # Check that they have one value per row
    for title, array in arrays.items():
        are_objects = array.dtype.hasobject and array.shape == (rows,)  # most likely names
        if title in metadata.values() or are_objects:
            array.check(title, options, 1)
        if title in metadata.values() and array.row_count != rows:
            raise InputError(
                f"{path}: {array.row_count} {title} for {rows} {embedding}; write it again"
            )
    return embedding, metadata


def _choose_array(
    path: str, arrays: dict[str, "_NpyArray"], candidates: list[str], title: str | None,
    usual: str, option: str,
) -> str | None:  # fmt: skip
    """Return the user's `title`, else the usual one, else the only candidate, else None."""
    if title is not None and title not in arrays:
        raise InputError(f"{path}: no array {title}, has {_listed(arrays)}")
    if title is not None or usual in arrays:
        return title or usual
    if len(candidates) > 1:
        raise ambiguity_error(path, "arrays", candidates, f"fit as {usual}", option)
    return candidates[0] if candidates else None


def _listed(arrays: dict[str, "_NpyArray"]) -> str:
    return ", ".join(sorted(arrays)[:5]) or "none"


def _read_names(path: str, row_count: int) -> Iterator[str]:
    """Return the names in a text file or pipe, one per line.

    Raises InputError unless there are `row_count` of them.
    """
    import shutil
    import tempfile

    stream = open(path, "rb")  # noqa: SIM115  (open until the names are read)
    if not stream.seekable():
        stream, pipe = tempfile.TemporaryFile(), stream  # noqa: SIM115
        with pipe:
            shutil.copyfileobj(pipe, stream)
        stream.seek(0)
    if (count := sum(1 for _ in _read_lines(path, stream))) != row_count:
        names, rows = counted(count, "name"), counted(row_count, "row")
        raise InputError(f"{path}: {names} for {rows}; give one name per line")
    stream.seek(0)
    return _read_lines(path, stream)


def _read_lines(path: str, stream: BinaryIO) -> Iterator[str]:
    """Yield the lines of a text, in bounded memory."""
    for number in itertools.count(1):
        line = stream.readline(MAX_NAME_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_NAME_BYTES:
            raise InputError(
                f"{path}: line {number}: over {MAX_NAME_BYTES:,} bytes; shorten this name"
            )
        text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        yield text.removeprefix("\ufeff") if number == 1 else text


def _to_list(values: np.ndarray) -> list:
    return to_texts(values) if values.dtype.kind in "US" else values.tolist()


def to_texts(values: np.ndarray) -> list[str]:
    """Return an array (n,) of strings as a list.

    Bytes that are not UTF-8 and numbers that are no code point become lone surrogates, so that the
    name is refused; NumPy would return strings that no output can take.
    """
    if values.dtype.kind == "S":
        return [value.decode("utf-8", "surrogateescape") for value in values.tolist()]
    codes = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).view(np.uint32)
    if codes.max(initial=0) > sys.maxunicode:
        codes = np.where(codes > sys.maxunicode, np.uint32(0xD800), codes)
        values = codes.reshape(len(values), -1).view(f"U{values.dtype.itemsize // 4}")[:, 0]
    return values.tolist()


class _NpyArray:
    """Read an array in the NPY format in blocks; no memory is taken for what its header claims."""

    def __init__(self, path: str, open_stream: Callable[[], BinaryIO]) -> None:
        self.path, self.open_stream = path, open_stream
        with open_stream() as stream:
            self.shape, self.fortran, self.dtype, self.start = _read_header(path, stream)
        is_numbers = self.dtype.kind in "fiu"
        self.is_table = len(self.shape) == 2 and is_numbers
        self.row_count = self.shape[0] if self.shape else 0
        self.column_count = self.shape[1] if len(self.shape) == 2 else 1
        self.row_bytes = max(1, self.column_count * self.dtype.itemsize)
        self.width = self.shape[-1] if self.shape else 0
        self.is_vector = is_numbers and self.shape in ((self.width,), (1, self.width))
        self.is_vector = self.is_vector and MIN_WIDTH <= self.width <= MAX_WIDTH

    def check(self, name: str, options: ReadOptions, dimensions: int) -> None:
        """Raise InputError unless the array is (N, W) of numbers, or (N,) of metadata.

        `name` is its title, `dimensions` 2 or 1.
        """
        path, shape = self.path, self.shape
        if self.dtype.hasobject:
            raise InputError(
                f"{path}: {name} holds Python objects, which are never unpickled; save strings "
                "and numbers"
            )
        if len(shape) != dimensions or min(shape) < 0:
            needed = "(N,)" if dimensions == 1 else f"(N, {options.width or 'W'})"
            raise InputError(
                f"{path}: {name} has shape {shape}, not {needed}; save it in that shape"
            )
        allowed_metadata = "USfiub" if name.casefold() in LABEL_COLUMNS else "US"
        allowed = "fiu" if dimensions == 2 else allowed_metadata
        if self.dtype.kind not in allowed and self.row_count:
            needed = "numbers" if dimensions == 2 or allowed_metadata != "US" else "strings"
            raise InputError(f"{path}: {name} of type {self.dtype}; save them as {needed}")
        if self.row_bytes > chunks.MAX_ROW_BYTES:
            remedy = "give embeddings" if dimensions == 2 else "shorten these texts"
            raise InputError(f"{path}: {name}: {self.row_bytes:,} bytes per row; {remedy}")

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield blocks of at most `size` rows: (n, columns), or (n,) of a one-dimensional array."""
        with self.open_stream() as stream:
            stream.seek(self.start)
            if self.fortran and self.column_count > 1 and self.row_count > 1:
                yield from self._column_order_blocks(stream, size)
            else:
                for start in range(0, self.row_count, size):
                    count = min(size, self.row_count - start)
                    values = self._read(stream, count * self.column_count)
                    yield (
                        values if len(self.shape) == 1 else values.reshape(count, self.column_count)
                    )
            if stream.read(1):  # at the end, zipfile also compares the checksum
                raise InputError(f"{self.path}: more data than its header says; write it again")

    def _read(self, stream: BinaryIO, count: int) -> np.ndarray:
        data = stream.read(count * self.dtype.itemsize)
        if len(data) != count * self.dtype.itemsize:
            raise InputError(f"{self.path}: the file is cut off; copy or write it again")
        return np.frombuffer(data, self.dtype)

    def _column_order_blocks(self, stream: BinaryIO, size: int) -> Iterator[np.ndarray]:
        """Yield the blocks of an array in column order, FORTRAN_BYTES of which are read at once."""
        part_rows = max(size, FORTRAN_BYTES // self.row_bytes)
        for first_row in range(0, self.row_count, part_rows):
            rows = min(part_rows, self.row_count - first_row)
            part = np.empty((self.column_count, rows), self.dtype)
            for column in range(self.column_count):
                stream.seek(
                    self.start + (column * self.row_count + first_row) * self.dtype.itemsize
                )
                part[column] = self._read(stream, rows)
            yield from (part[:, i : i + size].T for i in range(0, rows, size))


def _read_header(path: str, stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return the shape, whether it is in column order, the type, and the offset of the numbers."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{path}: NPY version {version} is not known; save it with numpy.save")
    length = stream.read(2 * version[0])
    if (size := int.from_bytes(length, "little")) > MAX_NPY_HEADER_BYTES:
        raise InputError(f"{path}: an NPY header of {size:,} bytes; save it with numpy.save")
    header = stream.read(size)
    return *_parse_header(version[0], length + header), 8 + len(length) + len(header)


@functools.lru_cache(16)  # a folder may have thousands of files with the same header
def _parse_header(version: int, text: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    read_header = getattr(np.lib.format, f"read_array_header_{version}_0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers that Python 2 wrote, which are fine
        return read_header(io.BytesIO(text))
