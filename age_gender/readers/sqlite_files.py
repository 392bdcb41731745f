"""SQLite, opened for reading alone: vectors are BLOBs of floats or lists as JSON text."""

import contextlib
import functools
import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import numpy as np

from age_gender.cli import InputError
from age_gender.readers import chunks, vectors
from age_gender.readers.columns import Columns, ReadOptions, of_row, two_answers
from age_gender.readers.errors import RowError

PIECE_BYTES = 8 << 20  # of the values of a chunk's rows
LOOKED_AT = 20  # rows that tell which column is what
# What a query may do; everything else is refused.
_ALLOWED = (
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE
)  # fmt: skip


class SqliteReader:
    """Reads SQLite."""

    is_text = False

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
        return cut(path, options)

    def parse(self, chunk: chunks.Chunk) -> chunks.Batch:
        return chunks.parse(chunk, at_once, one_by_one)


def cut(path: str, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of what the query gives, or of the one table that holds embeddings."""
    Path(path).open("rb").close()  # whether it may be read
    with contextlib.closing(_open(path)) as database:
        try:
            start, query = chunks.Chunk(path, SqliteReader()), options.query
            if query is None:
                query, columns = _find(path, database, options)
                start = replace(start, columns=columns)
            rows = _run(path, database, query)
            titles = next(rows)
            if options.query is not None:
                head = [*itertools.islice(rows, LOOKED_AT)]
                start = start.with_columns(
                    (0, functools.partial(of_row, path, titles, row, options)) for row in head
                )
                for row in start.bad:
                    raise InputError("; ".join(filter(None, [str(row), row.remedy])))
                rows = itertools.chain(head, rows)
            yield from _cut_rows(start, rows)
        except sqlite3.OperationalError as error:
            if not _is_locked(error):
                raise
            raise InputError(
                f"{path}: this database is locked; close what writes to it, or copy the file"
            ) from None


def _open(path: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(Path(path).absolute()))}?mode=ro"
    database = sqlite3.connect(uri, uri=True, timeout=2, isolation_level=None)
    database.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, chunks.RECORD_BYTES)
    return database


def _is_locked(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _run(path: str, database: sqlite3.Connection, query: str) -> Iterator[tuple]:
    """The names of the columns, then the rows of one SELECT; anything else does not run."""
    database.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY
    )
    row = 0
    try:
        found = database.execute(query)
        if found.description is None:
            raise sqlite3.Warning("not authorized")
        yield tuple(column[0] for column in found.description)
        for row, values in enumerate(found, 1):  # noqa: B007
            yield values
    except sqlite3.DataError:
        raise InputError(
            f"{path}: row {row + 1}: a value of over {chunks.RECORD_BYTES:,} bytes; leave such "
            "columns or rows out of --query"
        ) from None
    except (sqlite3.Warning, sqlite3.DatabaseError) as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_AUTH)  # none: two statements
        if code == sqlite3.SQLITE_AUTH:
            raise InputError(f"{path}: --query runs one SELECT and nothing else") from None
        if code == sqlite3.SQLITE_ERROR:
            remedy = "name columns and tables as they are"
            raise InputError(f"{path}: --query: {error}; {remedy}") from None
        raise


def _find(path: str, database: sqlite3.Connection, options: ReadOptions) -> tuple[str, Columns]:
    """The query that reads the one table with a column of embeddings, NULL for other columns."""
    master = "select name from sqlite_master where type in ('table', 'view') order by name"
    tables = [name for (name,) in database.execute(master) if not name.startswith("sqlite_")]
    looks = {table: _look(database, table) for table in tables}
    for strict in (True, False):  # then also those of another width, whose rows say so
        found = {}
        for table, (titles, rows) in looks.items():
            for row in rows:
                with contextlib.suppress(RowError):
                    found[table] = of_row(path, titles, row, options, strict=strict)
                    break
        if len(found) > 1:
            raise two_answers(path, "tables", [*found], "hold embeddings", "--query")
        for table, columns in found.items():
            used = {*columns.embedding, *columns.metadata.values()}
            titles = enumerate(looks[table][0])
            shown = (_quoted(title) if place in used else "null" for place, title in titles)
            return f"select {', '.join(shown)} from {_quoted(table)}", columns
    shown = ", ".join(tables[:8]) or "none"
    raise InputError(
        f"{path}: no table with a column of embeddings (tables: {shown}); name the columns: "
        '--query "select path, embedding from faces"'
    )


def _look(database: sqlite3.Connection, table: str) -> tuple[list[str], list[tuple]]:
    """The columns of a table, and some rows; what is too large for an embedding is None."""
    try:
        description = database.execute(f"select * from {_quoted(table)} limit 0").description
        titles = [title for title, *_ in description]
        small = f"iif(length({{0}}) < {chunks.RECORD_BYTES // 4}, {{0}}, null)"  # UTF-8: 4 bytes
        columns = ", ".join(small.format(_quoted(title)) for title in titles)
        query = f"select {columns} from {_quoted(table)} limit {LOOKED_AT}"
        return titles, database.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if _is_locked(error):
            raise
        return [], []  # a table of an extension that is not there


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cut_rows(start: chunks.Chunk, rows: Iterator[tuple]) -> Iterator[chunks.Chunk]:
    part, size = [], 0
    for row in rows:
        part.append(row)
        size += sum(len(value) if isinstance(value, bytes | str) else 8 for value in row)
        if len(part) == chunks.BLOCK_ROWS or size >= PIECE_BYTES:
            yield replace(start, data=part, input_bytes=size)
            part, size = [], 0
    yield replace(start, data=part, input_bytes=size)


def at_once(chunk: chunks.Chunk) -> tuple[np.ndarray, dict[str, list]] | None:
    """BLOBs of one length, or lists as text, and the names; None for others."""
    columns, values = chunk.columns, None
    cells = [row[columns.embedding[0]] for row in chunk.data]
    kinds = {*map(type, cells)} if columns.is_list else set()
    kind = vectors.blob_type(cells[0], columns.width) if kinds == {bytes} else None
    if kind and {*map(len, cells)} == {columns.width * kind.itemsize}:
        values = np.frombuffer(b"".join(cells), kind).reshape(len(cells), columns.width)
    if kinds == {str} and all(cell[:1] == "[" and cell[-1:] == "]" for cell in cells):
        with contextlib.suppress(UnicodeEncodeError):
            values = vectors.parse([cell[1:-1].encode() for cell in cells], columns.width)
    metadata = {
        word: [row[column] for row in chunk.data] for word, column in columns.metadata.items()
    }
    return None if values is None else (values, metadata)


def one_by_one(chunk: chunks.Chunk) -> Iterator[chunks.Row]:
    """Yield the rows of a chunk."""
    return (chunks.Row(0, functools.partial(getattr, row, "__getitem__")) for row in chunk.data)
