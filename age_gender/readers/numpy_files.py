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
from age_gender.errors import InputError
from age_gender.labels import LABEL_COLUMNS
from age_gender.readers import chunks
from age_gender.readers.bad_rows import BadRow
from age_gender.readers.column_choice import ambiguity_error, find_label_columns, width_error
from age_gender.readers.names import text_name
from age_gender.readers.numbers import MAX_WIDTH, MIN_WIDTH
from age_gender.readers.schema import Columns, ReadOptions

MAX_NPY_HEADER_BYTES = 10_000  # of an NPY: NumPy's own bound on what it evaluates
FORTRAN_BYTES = 64 << 20  # size of the part of an array in column order that is in memory
MAX_NAME_BYTES = 10_000  # the longest name of --names
# Titles of an array, the only one of its file, that do not name the face whose vector it is.
GENERIC_TITLES = {
    "embeddings", "embedding", "arr_0", "vector", "features", "encoding", "descriptor",
}  # fmt: skip


def parse_array(chunk: chunks.Chunk) -> chunks.Batch:
    """Return the batch of a chunk of an array, with the metadata beside it."""
    return chunks.make_batch(chunk, chunk.data, chunk.metadata)


def read_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of the embeddings of a file, with the metadata of their rows."""
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
    """Return the arrays of a file by their names; those of an NPZ as long as the stack is open."""
    if path.lower().endswith(".npy"):
        return {"embeddings": _NpyArray(path, functools.partial(open, path, "rb"))}
    arrays: dict[str, _NpyArray] = {}
    titles = set()  # by which NumPy calls all members, with and without their suffix
    archive = stack.enter_context(zipfile.ZipFile(path))
    for info in archive.infolist():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile decompresses these in pieces of any size
            raise InputError(f"{path}: not compressed as NPZ is; save it with numpy.savez")
        title = info.filename.removesuffix(".npy")
        if title in titles:
            raise InputError(f"{path}: two arrays are called {title}; save it again")
        titles.add(title)
        if info.filename.endswith(".npy"):
            arrays[title] = _NpyArray(path, functools.partial(archive.open, info))
        else:
            archive.open(info).close()  # which compares its name: a changed one loses an array
    return arrays


def _read_face_arrays(
    path: str, arrays: dict[str, "_NpyArray"], options: ReadOptions
) -> Iterator[chunks.Chunk]:
    """Yield chunks of faces of an array each, (W,) or (1, W), by their names."""
    width = options.width or next(iter(arrays.values())).width
    if not options.fits(width):
        raise InputError(f"{path}: {width_error(width, options)}")
    columns, faces = Columns(width, metadata={"name": "name"}), iter(arrays.items())
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
    """Yield chunks of the one array that holds all embeddings, with names and labels."""
    # Choose the arrays
    embedding, titles = _choose_arrays(path, arrays, options)
    array, metadata = arrays[embedding], {role: arrays[title] for role, title in titles.items()}
    if not options.fits(array.column_count):
        raise InputError(f"{path}: {width_error(array.column_count, options, array.row_count)}")
    unread_columns = tuple(title for title in arrays if title not in (embedding, *titles.values()))
    columns = Columns(array.column_count, unread_columns=unread_columns)

    # Blocks of all of them, side by side
    row_bytes = max([array.row_bytes // 4, *(values.row_bytes for values in metadata.values())])
    size = max(1, min(chunks.CHUNK_ROWS, chunks.CHUNK_BYTES * 4 // row_bytes))
    blocks = {role: map(_to_list, values.blocks(size)) for role, values in metadata.items()}
    if options.names_file:
        if "name" in titles:
            raise InputError(f"{path}: its names are in {titles['name']}; leave out --names")
        names = _read_names(options.names_file, array.row_count)
        blocks["name"] = iter(lambda: [*itertools.islice(names, size)], [])
    for block in array.blocks(size):
        values = {role: next(lists) for role, lists in blocks.items()}
        yield chunks.Chunk(path, parse_array, block, columns, values, input_bytes=block.nbytes)
    for rest in blocks.values():
        next(rest, None)  # the end, where checksums are compared


def _choose_arrays(
    path: str, arrays: dict[str, "_NpyArray"], options: ReadOptions
) -> tuple[str, dict[str, str]]:
    """Return the title of the array of embeddings, and those of names, ages and genders by role.

    Raises InputError where none or several fit, or where they do not go together.
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

    # Check that they have one value a row
    for title, array in arrays.items():
        of_objects = array.dtype.hasobject and array.shape == (rows,)  # names, most likely
        if title in metadata.values() or of_objects:
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
    """Return the title that the user has given, else the usual one, else the only candidate."""
    if title is not None and title not in arrays:
        raise InputError(f"{path}: no array {title}, has {_listed(arrays)}")
    if title is not None or usual in arrays:
        return title or usual
    if len(candidates) > 1:
        raise ambiguity_error(path, "arrays", candidates, f"fit as {usual}", option)
    return candidates[0] if candidates else None


def _listed(arrays: dict[str, "_NpyArray"]) -> str:
    return ", ".join(sorted(arrays)[:5]) or "none"


def _read_names(path: str, rows: int) -> Iterator[str]:
    """Return the lines of a text file of a name a row, which may come through a pipe."""
    import shutil
    import tempfile

    stream = open(path, "rb")  # noqa: SIM115  (as long as names are read)
    if not stream.seekable():
        stream, pipe = tempfile.TemporaryFile(), stream  # noqa: SIM115
        with pipe:
            shutil.copyfileobj(pipe, stream)
        stream.seek(0)
    if (count := sum(1 for _ in _read_lines(path, stream))) != rows:
        raise InputError(
            f"{path}: {counted(count, 'name')} for {counted(rows, 'row')}; give one name a line"
        )
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

    Bytes that are not UTF-8, and numbers that are no code point, become lone surrogates, which no
    encoder accepts: NumPy would make strings of them that break all output.
    """
    if values.dtype.kind == "S":
        return [value.decode("utf-8", "surrogateescape") for value in values.tolist()]
    codes = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).view(np.uint32)
    if codes.max(initial=0) > sys.maxunicode:
        codes = np.where(codes > sys.maxunicode, np.uint32(0xD800), codes)
        values = codes.reshape(len(values), -1).view(f"U{values.dtype.itemsize // 4}")[:, 0]
    return values.tolist()


class _NpyArray:
    """Read an array in the NPY format block by block: its header allocates nothing."""

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
        allowed_metadata = "USfiub" if name.casefold() in LABEL_COLUMNS else "US"
        allowed = "fiu" if dimensions == 2 else allowed_metadata
        if self.dtype.kind not in allowed and self.row_count:
            needed = "numbers" if dimensions == 2 or allowed_metadata != "US" else "strings"
            raise InputError(f"{path}: {name} of type {self.dtype}; save them as {needed}")
        if self.row_bytes > chunks.MAX_ROW_BYTES:
            remedy = "give embeddings" if dimensions == 2 else "shorten these texts"
            raise InputError(f"{path}: {name}: {self.row_bytes:,} bytes a row; {remedy}")

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield (n, columns), or (n,) of names, with n at most `size`."""
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
            if stream.read(1):  # reading to the end also has the checksum compared
                raise InputError(f"{self.path}: more data than its header says; write it again")

    def _read(self, stream: BinaryIO, count: int) -> np.ndarray:
        data = stream.read(count * self.dtype.itemsize)
        if len(data) != count * self.dtype.itemsize:
            raise InputError(f"{self.path}: the file is cut off; copy or write it again")
        return np.frombuffer(data, self.dtype)

    def _column_order_blocks(self, stream: BinaryIO, size: int) -> Iterator[np.ndarray]:
        """Yield the same of an array that lies column after column, of many rows read at a time."""
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
    """Return the shape, whether in column order, the type, and where the numbers begin."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{path}: NPY version {version} is not known; save it with numpy.save")
    length = stream.read(2 * version[0])
    if (size := int.from_bytes(length, "little")) > MAX_NPY_HEADER_BYTES:
        raise InputError(f"{path}: an NPY header of {size:,} bytes; save it with numpy.save")
    header = stream.read(size)
    return *_parse_header(version[0], length + header), 8 + len(length) + len(header)


@functools.lru_cache(16)  # a folder has thousands of the same
def _parse_header(version: int, text: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    read_header = getattr(np.lib.format, f"read_array_header_{version}_0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers of Python 2, which are read
        return read_header(io.BytesIO(text))
