"""Read tables of embeddings of any format: find the files, split them into chunks, parse these."""

import argparse
import contextlib
import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from age_gender import cli, files
from age_gender.errors import InputError, error_line, is_resource_shortage, is_user_error
from age_gender.files import COMPRESSED_SUFFIXES, without_compressed_suffix
from age_gender.processes import interrupts
from age_gender.readers import blobs, compressed, text_chunks, unsupported_formats
from age_gender.readers.chunks import STDIN, Batch, Chunk, RowNumbering, make_batch
from age_gender.readers.columns import DEFAULT_OPTIONS, ReadOptions


class ChunkReader(Protocol):
    """Yield the chunks of a file, from the open `stream` of it.

    Raises InputError for a file that is not a table of embeddings. A format's module is imported
    with the first such file, since all modules together take 20 ms.
    """

    def __call__(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[Chunk]: ...


def read_csv_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[Chunk]:
    from age_gender.readers import csv_files

    return csv_files.read_chunks(path, stream, options)


def read_json_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[Chunk]:
    from age_gender.readers import json_files

    return json_files.read_chunks(path, stream, options)


def read_numpy_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[Chunk]:
    from age_gender.readers import numpy_files

    return numpy_files.read_chunks(path, stream, options)


def read_parquet_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[Chunk]:
    from age_gender.readers import parquet_files

    return parquet_files.read_chunks(path, stream, options)


def read_sqlite_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[Chunk]:
    from age_gender.readers import sqlite_files

    return sqlite_files.read_chunks(path, stream, options)


READERS: dict[str, ChunkReader] = {  # by suffix; a file with any other is CSV
    ".csv": read_csv_chunks, ".npz": read_numpy_chunks, ".npy": read_numpy_chunks,
    ".parquet": read_parquet_chunks, ".tsv": read_csv_chunks, ".jsonl": read_json_chunks,
    ".ndjson": read_json_chunks, ".json": read_json_chunks, ".db": read_sqlite_chunks,
    ".sqlite": read_sqlite_chunks, ".sqlite3": read_sqlite_chunks,
}  # fmt: skip
# Files of text may be compressed, and come through a pipe.
TEXT_READERS = (read_csv_chunks, read_json_chunks)
# Suffixes of the files that are read from a folder
SUFFIXES = (*READERS, *(
    suffix + compressed_suffix
    for suffix, reader in READERS.items() if reader in TEXT_READERS
    for compressed_suffix in COMPRESSED_SUFFIXES
))  # fmt: skip
LONG_TEXT_BYTES = 32 << 20  # least size of text for which starting worker processes pays


# ------------------------------------------------------------------------------ options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the tables of `--features` are read."""
    add = parser.add_argument
    add("--embedding-column", type=cli.utf8, metavar="NAME",
        help="the column (in an NPZ: the array) of embeddings; if each number has a column, the "
        "first of these")  # fmt: skip
    add("--name-column", type=cli.utf8, metavar="NAME",
        help="the column (in an NPZ: the array) of names")  # fmt: skip
    add("--names", metavar="FILE",
        help="text file of names, one per line, for an NPY or for an NPZ without "
        "names")  # fmt: skip
    add("--blob-type", choices=blobs.DTYPES, metavar="TYPE",
        help="the type of numbers stored as bytes: float16, float32, float64, with -be "
        "big-endian; otherwise inferred from their size")  # fmt: skip
    add("--query", type=cli.utf8, metavar="SELECT",
        help='query for an SQLite file, such as "select path, embedding from faces"')  # fmt: skip


def make_read_options(args: argparse.Namespace, **more) -> ReadOptions:
    """Return the ReadOptions of the parsed arguments; `more` are fields that the script sets."""
    return ReadOptions(
        embedding_column=args.embedding_column, name_column=args.name_column,
        names_file=args.names, query=args.query, blob_type=args.blob_type, **more,
    )  # fmt: skip


# -------------------------------------------------------------------------------- files


def list_files(features: Sequence[str | Path]) -> list[str]:
    """Return the files that paths, globs, folders and "-" (standard input) name, each once.

    Raises InputError for a path that does not exist and for a folder without tables.
    """
    paths: list[str] = []
    for pattern in map(str, features):
        path = Path(pattern)
        if path.is_dir():
            unsupported_formats.refuse_folder(pattern)
            # A .partial folder is what embed.py keeps of unfinished work
            inside = sorted(files.walk_files(pattern, SUFFIXES, (".partial",)))
            if not inside:
                raise InputError(
                    f"{pattern}: no {', '.join(READERS)} file in this folder; name another"
                )
            paths += inside
        elif pattern == "-" or path.exists():
            paths.append(pattern)
        elif glob.has_magic(pattern) and (matches := sorted(files.expand_glob(pattern))):
            paths += list_files(matches)
        else:
            raise InputError(f"{pattern}: no such file; give a table of embeddings or a folder")
    return files.without_duplicates(paths)


def find_reader(path: str, options: ReadOptions) -> ChunkReader:
    """Return the reader that suits the suffix of a file, or SQLite's with `--query`."""
    suffix = os.path.splitext(without_compressed_suffix(path))[1].lower()
    return read_sqlite_chunks if options.query else READERS.get(suffix, read_csv_chunks)


def estimate_input_bytes(
    paths: Iterable[str], options: ReadOptions = DEFAULT_OPTIONS
) -> int | None:
    """Return the approximate sum of `input_bytes` of the files' chunks; None if unknown."""
    total = 0
    for path in paths:
        is_unknown = find_reader(path, options) in (read_parquet_chunks, read_sqlite_chunks)
        if path == "-" or is_unknown or without_compressed_suffix(path) != path:
            return None
        size = os.path.getsize(path)
        if path.lower().endswith(".npz"):
            import zipfile

            with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
                size = max(info.file_size for info in archive.infolist())  # the embeddings
        total += size
    return total


def is_long_text(paths: Iterable[str], options: ReadOptions = DEFAULT_OPTIONS) -> bool:
    """Return whether it pays to start worker processes that parse these files.

    The processes read their chunks from the files, so no file may be a pipe, compressed, or one
    JSON array.
    """
    only_text = all(find_reader(path, options) in TEXT_READERS for path in paths)
    is_long = only_text and (estimate_input_bytes(paths, options) or 0) >= LONG_TEXT_BYTES
    return is_long and all(map(_is_plain_rows, paths))


def _is_plain_rows(path: str) -> bool:
    """Return whether a text file is not compressed and holds rows, not one JSON array."""
    with open(path, "rb") as stream:
        text = compressed.decompress(path, stream)
        return text is stream and text_chunks.first_character(text)[0] != b"["


# ------------------------------------------------------------------------------- chunks


def read_chunks(paths: Sequence[str], options: ReadOptions = DEFAULT_OPTIONS) -> Iterator[Chunk]:
    """Yield chunks of bounded size of the files ("-" is standard input), in order.

    Where the options give no width, the first file sets it. Raises InputError for a file that is
    not a table of embeddings, and for options that do not suit the files.
    """
    readers = [find_reader(path, options) for path in paths]
    if options.names_file and readers != [read_numpy_chunks]:
        raise InputError(
            "--names needs exactly one NPY or NPZ file; in other tables names are a column"
        )
    for path, reader in zip(paths, readers, strict=True):
        _check_file(path, reader)
        for chunk in _read_file(path, reader, options):
            if chunk.columns.width and not options.width:
                options = replace(options, width=chunk.columns.width, width_source=path)
            yield chunk


def _check_file(path: str, reader: ChunkReader) -> None:
    """Raise InputError for a file that its reader cannot read."""
    is_text = reader in TEXT_READERS
    if not is_text and without_compressed_suffix(path) != path:
        raise InputError(
            f"{path}: this format cannot be read compressed, as CSV and JSON can; decompress it"
        )
    if not is_text and not os.path.isfile(path):
        raise InputError(f"{path}: not a regular file; a pipe can hold only CSV or JSON")
    if os.path.splitext(path)[1].lower() not in READERS:
        unsupported_formats.refuse_unsupported(path)


def _read_file(path: str, reader: ChunkReader, options: ReadOptions) -> Iterator[Chunk]:
    """Yield the chunks of one file; text that begins with { or [ is JSON, except in a .csv."""
    with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as stream:
        source, content = STDIN if path == "-" else path, stream
        is_text = reader in TEXT_READERS
        if is_text:
            stream = io.BufferedReader(interrupts.Interruptible(stream))
            content = compressed.decompress(source, stream)
            character, content = text_chunks.first_character(content)
            is_csv = without_compressed_suffix(path).lower().endswith(".csv")
            reader = read_json_chunks if character in b"{[" and not is_csv else reader
        chunks = reader(source, content, options)
        if not is_text:
            chunks = translate_errors(path, chunks)
        for chunk in mark_last(source, chunks):
            # Offsets in decompressed or joined text are not those in the file
            yield chunk if content is stream else replace(chunk, file_range=None)


def mark_last(path: str, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks of a file, the last one marked; an empty chunk if there is none."""
    previous = None
    for chunk in chunks:
        if previous:
            yield previous
        previous = chunk
    yield replace(previous or Chunk(path), is_last=True)


def translate_errors(path: str, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks of a file; a library's error over broken data becomes InputError."""
    try:
        yield from chunks
    except Exception as error:  # zipfile, zlib, NumPy, Arrow, SQLite raise many types
        if is_user_error(error) or is_resource_shortage(error):
            raise
        unsupported_formats.refuse_unsupported(path)
        reason = error_line(error).rstrip(".") or type(error).__name__
        suffix = Path(path).suffix
        raise InputError(
            f"{path}: not a readable {suffix} file ({reason}); copy or write it again"
        ) from None


def parse(chunk: Chunk) -> Batch:
    """Return the batch of a chunk; this pure function runs in any thread, process or machine."""
    chunk = chunk.with_data()
    return chunk.parser(chunk) if len(chunk.data) else make_batch(chunk, [], {})


# ------------------------------------------------------------------------- whole tables


class NumberedBatch(NamedTuple):
    """Hold a batch whose rows are all good, their names, and their numbers in their file."""

    batch: Batch
    names: list[str]
    row_numbers: list[int]  # from 1
    line_numbers: list[int]  # from 1; empty where the format has none


def read_batches(paths: Sequence[str | Path], options: ReadOptions) -> Iterator[NumberedBatch]:
    """Yield each batch of tables. Raises InputError that names the first bad row."""
    numbering = RowNumbering()
    for batch in map(parse, read_chunks(list_files(paths), options)):
        names, bad_rows = numbering.number(batch)
        if bad_rows:
            raise InputError(f"{bad_rows[0]}; {bad_rows[0].remedy or 'correct or remove this row'}")
        row_numbers = numbering.file_rows - batch.row_count + 1 + batch.row_indices
        lines_before = numbering.file_lines - batch.line_count
        line_numbers = [lines_before + line for line in batch.line_numbers if line]
        yield NumberedBatch(batch, names, row_numbers.tolist(), line_numbers)


def read(
    paths: Sequence[str | Path], options: ReadOptions = DEFAULT_OPTIONS
) -> tuple[list[str], np.ndarray]:
    """Return all names, and all features float32 (n, W); raises as `read_batches` does."""
    batches = [*read_batches(paths, options)]
    return [name for part in batches for name in part.names], join_features(batches)


def join_features(batches: Sequence[NumberedBatch]) -> np.ndarray:
    """Return the features (n, W) of all batches; the width of a batch without rows may be wrong."""
    features = [numbered.batch.features for numbered in batches]
    return np.concatenate([rows for rows in features if len(rows)])
