"""SQLite, opened for reading alone: vectors are BLOBs of floats or lists as JSON text."""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from age_gender.script import InputError
from age_gender.tables import numbers, pieces
from age_gender.tables.columns import Columns, Wanted, choose

PIECE_BYTES = 8 << 20  # of the values of a piece's rows
LOOKED_AT = 20  # rows that tell which column is what
# What a query may do; everything else is refused.
_ALLOWED = (
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE
)  # fmt: skip


def cut(path: str, wanted: Wanted, only: bool) -> Iterator[pieces.Piece]:
    """Pieces of what the query gives, or of the one table that holds embeddings."""
    empty = pieces.Piece(path, "database", [])
    return pieces.one_behind(empty, _pieces(path, wanted))


def input_bytes(path: str) -> int | None:
    """None: what the pieces have in all is not known before."""
    return None


def _pieces(path: str, wanted: Wanted) -> Iterator[pieces.Piece]:
    Path(path).open("rb").close()  # whether it may be read
    with contextlib.closing(_open(path)) as database:
        try:
            query, columns = wanted.query, None
            if query is None:
                query, columns = _find(path, database, wanted)
            rows = _run(path, database, query)
            titles = next(rows)
            if columns is None:
                head = list(itertools.islice(rows, LOOKED_AT))
                if not head:
                    return
                columns = _columns(path, titles, head, wanted)
                if isinstance(columns, str):
                    raise InputError(f"{path}: row 1: {columns}")
                rows = itertools.chain(head, rows)
            yield from _cut_rows(path, rows, columns)
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise InputError(
                    f"{path}: this database is locked; close what writes to it, or copy the file"
                ) from None
            raise


def _open(path: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(Path(path).absolute()))}?mode=ro"
    database = sqlite3.connect(uri, uri=True, timeout=2, isolation_level=None)
    database.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, pieces.RECORD_BYTES)
    return database


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
            f"{path}: row {row + 1}: a value of over {pieces.RECORD_BYTES:,} bytes; leave such "
            "columns or rows out of --query"
        ) from None
    except (sqlite3.Warning, sqlite3.DatabaseError) as error:
        if "authoriz" in str(error) or "one statement" in str(error):
            raise InputError(f"{path}: --query runs one SELECT and nothing else") from None
        if "no such" in str(error) or "syntax" in str(error) or "incomplete" in str(error):
            remedy = "name columns and tables as they are"
            raise InputError(f"{path}: --query: {error}; {remedy}") from None
        raise


def _find(path: str, database: sqlite3.Connection, wanted: Wanted) -> tuple[str, Columns]:
    """The query that reads the one table with a column of embeddings."""
    master = "select name from sqlite_master where type in ('table', 'view') order by name"
    tables = [name for (name,) in database.execute(master) if not name.startswith("sqlite_")]
    for strict in (True, False):  # then also those of another width, whose rows say so
        found = {}
        for table in tables:
            titles, rows = _look(database, table)
            columns = _columns(path, titles, rows, wanted, strict)
            if isinstance(columns, Columns):
                found[table] = titles, columns
        if len(found) > 1:
            both = " and ".join([*found][:2])
            raise InputError(
                f"{path}: the tables {both} both hold embeddings; say which is meant: --query "
                '"select path, embedding from faces"'
            )
        if found:
            table, (titles, columns) = found.popitem()
            used = [*columns.embedding, *(column for _, column in columns.told())]
            told = {"name" if w == "names" else w: used.index(c) for w, c in columns.told()}
            names = ", ".join(_quoted(titles[column]) for column in used)
            embedding = tuple(range(len(columns.embedding)))
            columns = replace(columns, embedding=embedding, **told)
            return f"select {names} from {_quoted(table)}", columns
    shown = ", ".join(tables[:8]) or "none"
    raise InputError(
        f"{path}: no table with a column of embeddings (tables: {shown}); name the columns: "
        '--query "select path, embedding from faces"'
    )


def _look(database: sqlite3.Connection, table: str) -> tuple[list[str], list[tuple]]:
    """The columns of a table, and some rows; what is too large for an embedding is None."""
    try:
        limit = f"from {_quoted(table)} limit {LOOKED_AT}"
        description = database.execute(f"select * from {_quoted(table)} limit 0").description
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise
        return [], []  # a table of an extension that is not there
    columns = []
    for title, *_ in description:
        try:
            columns.append([v for (v,) in database.execute(f"select {_quoted(title)} {limit}")])
        except sqlite3.DataError:
            columns.append([None] * LOOKED_AT)
    return [title for title, *_ in description], list(zip(*columns, strict=False))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _columns(path, titles, rows, wanted: Wanted, strict: bool = False) -> Columns | str:
    """Which column is what, by the first row that tells; else why the first does not."""
    reasons = []
    for row in rows:
        sizes = [numbers.size(value, wanted.width) for value in row]
        found = choose(path, titles, sizes, wanted, strict=strict)
        if isinstance(found, Columns):
            return found
        reasons.append(found)
    return reasons[0] if reasons else "no rows"


def _cut_rows(path: str, rows: Iterator[tuple], columns: Columns) -> Iterator[pieces.Piece]:
    part, size = [], 0
    for row in rows:
        part.append(row)
        size += sum(len(value) if isinstance(value, bytes | str) else 8 for value in row)
        if len(part) == pieces.BLOCK_ROWS or size >= PIECE_BYTES:
            yield pieces.Piece(path, "database", part, columns, input_bytes=size)
            part, size = [], 0
    yield pieces.Piece(path, "database", part, columns, input_bytes=size)


def parse(piece: pieces.Piece) -> pieces.Block:
    """The block of a piece of rows."""
    columns, rows = piece.columns, piece.data
    values = _values([row[columns.embedding[0]] for row in rows], columns)
    if values is not None:
        told = {word: [row[column] for row in rows] for word, column in columns.told()}
        block = pieces.check_rows(piece, values, 0, **told)
        if not block.faults:
            return block
    found = (pieces.row_of(i, columns, row.__getitem__) for i, row in enumerate(rows, 1))
    return pieces.collect(piece, found, 0)


def _values(cells: list, columns: Columns) -> np.ndarray | None:
    """(n, width) of BLOBs of one length, or of lists as text; None for anything else."""
    kinds = set(map(type, cells)) if columns.is_list else set()
    if kinds == {bytes} and len({len(cell) for cell in cells}) == 1:
        kind = numbers.blob_type(cells[0], columns.width)
        if kind is not None and len(cells[0]) == columns.width * kind.itemsize:
            return np.frombuffer(b"".join(cells), kind).reshape(len(cells), columns.width)
    if kinds == {str} and all(cell[:1] == "[" and cell[-1:] == "]" for cell in cells):
        with contextlib.suppress(UnicodeEncodeError):
            return numbers.parse([cell[1:-1].encode() for cell in cells], columns.width)
    return None
