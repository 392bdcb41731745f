"""The front door: which reader a file gets, its chunks, and whole tables."""

import argparse
import contextlib
import glob
import io
import itertools
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from age_gender import cli, files, interrupts
from age_gender.cli import InputError, error_line, is_resource_shortage
from age_gender.label_columns import GENDER_COLUMNS, LabelColumn
from age_gender.labels import utkface_labels
from age_gender.readers import blobs, compressed, foreign_files, text_chunks
from age_gender.readers.chunks import STDIN, Batch, Chunk, Numbering, Reader, make_batch
from age_gender.readers.columns import ANY, ReadOptions
from age_gender.readers.csv_files import CsvReader
from age_gender.readers.numpy_files import ArrayReader
from age_gender.readers.parquet_files import ParquetReader


class SqliteReader:
    """Reads SQLite; imported where a database is met, for what sqlite3 takes to start."""

    is_text = False

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[Chunk]:
        from age_gender.readers import sqlite_files

        return sqlite_files.SqliteReader().cut(path, stream, options)

    def parse(self, chunk: Chunk) -> Batch:
        raise NotImplementedError  # its chunks have the reader of sqlite_files


class JsonReader:
    """Reads JSON; imported where JSON is met, for the same reason."""

    is_text = True

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[Chunk]:
        from age_gender.readers import json_files

        return json_files.JsonReader().cut(path, stream, options)

    def parse(self, chunk: Chunk) -> Batch:
        raise NotImplementedError  # its chunks have the reader of json_files


CSV, JSON, SQLITE = CsvReader(), JsonReader(), SqliteReader()
READERS: dict[str, Reader] = {  # by the suffix of a file; CSV has any other
    ".csv": CSV, ".npz": ArrayReader(), ".npy": ArrayReader(), ".parquet": ParquetReader(),
    ".tsv": CSV, ".jsonl": JSON, ".ndjson": JSON, ".json": JSON,
    ".db": SQLITE, ".sqlite": SQLITE, ".sqlite3": SQLITE,
}  # fmt: skip
SUFFIXES = (*READERS, *(  # of tables in a folder
    suffix + packed for suffix, reader in READERS.items() if reader.is_text
    for packed in compressed.SUFFIXES
))  # fmt: skip
LONG_BYTES = 32 << 20


class Table(NamedTuple):
    """Names, features float32 (n, width), and, of each file, ages and genders as written."""

    names: list[str]
    features: np.ndarray
    ages: list[LabelColumn]
    genders: list[LabelColumn]
    left_out: list[str]  # columns that were not read


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is what in `--features`."""
    add = parser.add_argument
    add("--embedding-column", type=cli.utf8, metavar="NAME",
        help="the column (in an NPZ: the array) of embeddings; of a run of number columns the "
        "first")  # fmt: skip
    add(
        "--name-column",
        type=cli.utf8,
        metavar="NAME",
        help="the column (in an NPZ: the array) of names",
    )
    add("--names", metavar="FILE", help="the names of an NPY: a text file, one a line")
    add("--blob-type", choices=blobs.DTYPES, metavar="TYPE",
        help="the numbers that bytes hold: float16, float32, float64, with -be big-endian; else "
        "told from their size")  # fmt: skip
    add("--query", type=cli.utf8, metavar="SELECT",
        help='what to read of SQLite, such as "select path, embedding from faces"')  # fmt: skip


def read_options(args: argparse.Namespace, **more) -> ReadOptions:
    """Return the values of these options, and `more` that the script says itself."""
    return ReadOptions(
        embedding=args.embedding_column, name=args.name_column, names=args.names,
        query=args.query, blob_type=args.blob_type, **more,
    )  # fmt: skip


def expand(features: Sequence[str | Path]) -> list[str]:
    """Files, globs, folders and "-" (standard input) as a list of files, each once, in order.

    Raises InputError for what does not exist and for a folder without features.
    """
    found: list[str] = []
    for given in map(str, features):
        path = Path(given)
        if path.is_dir():
            foreign_files.refuse_folder(given)
            inside = sorted(files.find_below(given, SUFFIXES, (".partial",)))  # embed.py's
            if not inside:
                raise InputError(
                    f"{given}: no {', '.join(READERS)} file in this folder; name another"
                )
            found += inside
        elif given == "-" or path.exists():
            found.append(given)
        elif glob.has_magic(given) and (matches := sorted(files.find_matches(given))):
            found += expand(matches)
        else:
            raise InputError(f"{given}: no such file; give a table of embeddings or a folder")
    return files.without_duplicates(found)


def cut(paths: Sequence[str], options: ReadOptions = ANY) -> Iterator[Chunk]:
    """Cut the files ("-": standard input) into chunks of bounded size, in order.

    Where the options give no width, it is that of the first file. Raises InputError for a file that
    is not a table of embeddings at all, and where an option does not go with the files.
    """
    if options.names and (
        len(paths) > 1 or not isinstance(_reader(paths[0], options), ArrayReader)
    ):
        raise InputError("--names goes with one NPY file; other tables hold their names")
    for path in paths:
        reader = _reader(path, options)
        if not reader.is_text and path.lower().endswith(compressed.SUFFIXES):
            raise InputError(f"{path}: only text is read compressed; unpack it")
        if not reader.is_text and not Path(path).is_file():
            raise InputError(f"{path}: not a regular file; only CSV and JSON come from a pipe")
        foreign_files.refuse(path)
        for chunk in _cut(path, reader, options):
            if chunk.columns.width and not options.width:
                options = replace(options, width=chunk.columns.width, first_table=path)
            yield chunk


def _cut(path: str, reader: Reader, options: ReadOptions) -> Iterator[Chunk]:
    """Yield chunks of one file. Text is JSON where it begins like it, but for files called .csv."""
    with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as stream:
        if reader.is_text:
            stream = io.BufferedReader(interrupts.Interruptible(stream))
        source, text = STDIN if path == "-" else path, stream
        if reader.is_text:
            text = compressed.unpacked(source, stream)
            mark, text = text_chunks.first_mark(text)
            is_csv = compressed.without_suffix(path).lower().endswith(".csv")
            reader = JSON if mark in b"{[" and not is_csv else reader
        for chunk in end_marked(Chunk(source, reader), reader.cut(source, text, options)):
            is_as_in_file = text is stream  # where another process finds it again
            yield chunk if is_as_in_file else replace(chunk, offset=None)


def end_marked(empty: Chunk, parts: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks of a file, the last one marked: at least one, which may be `empty`.

    What a library raises on a broken file becomes InputError.
    """
    waiting = None
    try:
        for chunk in parts:
            if waiting:
                yield waiting
            waiting = chunk
    except Exception as error:  # zipfile, zlib, NumPy, Arrow, SQLite raise many
        known = isinstance(error, InputError | FileNotFoundError | PermissionError)
        if known or empty.reader.is_text or is_resource_shortage(error):
            raise
        reason = error_line(error).rstrip(".") or type(error).__name__
        raise InputError(
            f"{empty.path}: not a readable {Path(empty.path).suffix} file ({reason}); copy or "
            "write it again"
        ) from None
    yield replace(waiting or empty, last=True)


def parse(chunk: Chunk) -> Batch:
    """Return what a chunk holds: a pure function, for any thread, process or machine."""
    chunk = chunk.with_data()
    return chunk.reader.parse(chunk) if len(chunk.data) else make_batch(chunk, [], {})


def input_bytes(paths: Iterable[str], options: ReadOptions = ANY) -> int | None:
    """Return about how many `input_bytes` these files' chunks have in all; None if unknown."""
    total = 0
    for path in paths:
        is_binary = isinstance(_reader(path, options), ParquetReader | SqliteReader)
        if path == "-" or is_binary or path.lower().endswith(compressed.SUFFIXES):
            return None
        size = os.path.getsize(path)
        if path.lower().endswith(".npz"):  # whoever reads it says what is wrong
            with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
                size = max(info.file_size for info in archive.infolist())  # the embeddings
        total += size
    return total


def is_long_text(paths: Iterable[str], options: ReadOptions = ANY) -> bool:
    """Return whether there is so much text that processes which parse it are worth their start.

    They read it from the files as it stands there: not from a pipe, nor unpacked, nor an array.
    """
    only_text = all(_reader(path, options).is_text for path in paths)
    is_long = only_text and (input_bytes(paths, options) or 0) >= LONG_BYTES
    return is_long and all(map(_is_read_as_it_stands, paths))


def _is_read_as_it_stands(path: str) -> bool:
    with open(path, "rb") as stream:
        text = compressed.unpacked(path, stream)
        return text is stream and text_chunks.first_mark(text)[0] != b"["


def _reader(path: str, options: ReadOptions) -> Reader:
    reader = READERS.get(Path(compressed.without_suffix(path)).suffix.lower(), CSV)
    return SQLITE if options.query else reader


def read_labelled(paths: Sequence[str | Path], options: ReadOptions = ANY) -> Table:
    """Return all rows of tables that fit into memory, with the labels that they hold.

    Raises InputError that names the file and the row of the first fault.
    """
    all_names, features_read, ages, genders, numbering = [], [], [], [], Numbering()
    for batch in map(parse, cut(expand(paths), options)):
        row_names, bad = numbering.place(batch)
        if bad:
            raise InputError(f"{bad[0]}; {bad[0].remedy or 'correct or remove this row'}")
        all_names += row_names
        features_read += [batch.features] if len(batch.features) else []
        if options.labels:
            rows = numbering.rows - batch.rows + batch.good + 1
            ages.append(_label_column(batch, ("age",), row_names, rows))
            genders.append(_label_column(batch, GENDER_COLUMNS, row_names, rows))
    features = np.concatenate(features_read)
    left_out = [*numbering.left_out]
    return Table(all_names, features, _of_files(ages), _of_files(genders), left_out)


def _label_column(
    batch: Batch, titles: Sequence[str], row_names: list[str], rows: np.ndarray
) -> LabelColumn:
    """Return the values of the column of labels that the batch has, or those in its names."""
    title = next((title for title in titles if title in batch.metadata), "")
    if title:
        values = batch.metadata[title]
    else:
        place = 0 if "age" in titles else 1
        labels = map(utkface_labels, row_names)
        values = [of_name and of_name[place] for of_name in labels]
    return LabelColumn(batch.chunk.path, title, [*values], rows)


def _of_files(batches: list[LabelColumn]) -> list[LabelColumn]:
    """Return the columns of batches, those of one file joined."""
    columns = []
    for (path, title), group in itertools.groupby(batches, lambda column: column[:2]):
        parts = [*group]
        values = [value for column in parts for value in column.values]
        columns.append(LabelColumn(path, title, values, np.concatenate([c.rows for c in parts])))
    return columns


def read(
    features: Sequence[str | Path], options: ReadOptions = ANY
) -> tuple[list[str], np.ndarray]:
    """Return all names and features, float32 (n, width); raises as `read_labelled` does."""
    return read_labelled(features, options)[:2]
