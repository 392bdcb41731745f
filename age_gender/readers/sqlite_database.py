"""Read an SQLite database without changing it, in bounded time, memory and temporary space."""

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from age_gender.errors import InputError
from age_gender.processes import interrupts
from age_gender.readers.chunks import MAX_ROW_BYTES
from age_gender.readers.columns import SAMPLE_ROWS

SQLITE_LIMIT_BYTES = 1 << 30  # SQLite's default; with less, a row of larger values is unreadable
HEAP_BYTES = 128 << 20  # SQLite's memory, for a row of wide BLOBs and for sorting
TEMPORARY_BYTES = 256 << 20  # size of SQLite's temporary files, besides twice the database's size
CHECK_STEPS = 1000  # steps of SQLite's virtual machine between two checks for an interrupt
CHECK_SECONDS = 0.2  # time between two checks of the temporary files
VIEW_SECONDS = 1.0  # processor time for the sample rows of all views together
SAMPLE_BYTES = 8 << 20  # greatest size of a sample row, and of a table's sample rows
# Actions that a query may take; all others are refused
_ALLOWED = (
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE
)  # fmt: skip


class Database:
    """Read an SQLite database without changing it.

    A statement ends at an interrupt, which SQLite alone would ignore, and when its temporary files
    exceed TEMPORARY_BYTES plus twice the database. Raises InputError, sqlite3.Error for a broken
    file, or, where the machine lacks something, OSError or MemoryError.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fault = ""  # why a statement was ended
        self._view_seconds = VIEW_SECONDS
        self._deadline: float | None = None  # thread time at which a view is given up
        self._next_check = 0.0  # time of the next check of the temporary files
        self._temporary_bytes = TEMPORARY_BYTES + 2 * os.path.getsize(path)
        try:
            self._connection = _connect(path)
        except sqlite3.Error as error:
            raise self._to_user_error(error) from None
        self._connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY
        )
        self._connection.set_progress_handler(self._must_stop, CHECK_STEPS)
        interrupts.start_interrupt_watchdog()  # one step, printf('%.*c', 1e9, 'a'), takes minutes

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def select(self, query: str) -> Iterator[tuple]:
        """Yield the titles, then the rows, of one SELECT; any other statement is refused."""
        try:
            cursor = self._connection.execute(query)
            if cursor.description is None:
                raise sqlite3.ProgrammingError("not a statement that returns rows")
            yield tuple(column[0] for column in cursor.description)
            yield from cursor
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise self._to_user_error(error) from None
        except MemoryError:
            self._check_memory()
            raise InputError(
                f"{self.path}: a step or a row of this query takes over {HEAP_BYTES >> 20} MB; "
                "leave wide columns out of --query"
            ) from None

    def find_titles(self, query: str) -> tuple[str, ...]:
        """Return the titles of one SELECT's columns without reading its rows."""
        next(self.select(f"explain {query}"))  # its errors quote what the user wrote
        return next(self.select(f"select * from ({query}\n) limit 0"))

    def rows(self, source: str, titles: Sequence[str], used: Container[int]) -> Iterator[tuple]:
        """Return the rows of a table or of a query in brackets, with NULL in unused columns.

        A value over MAX_ROW_BYTES is returned as that many zero bytes and one, so that its row is
        bad.
        """
        columns = (
            f"iif(length({name}) > {MAX_ROW_BYTES}, zeroblob({MAX_ROW_BYTES + 1}), {name})"
            if i in used else "null"
            for i, name in enumerate(map(quote_sql, titles))
        )  # fmt: skip
        rows = self.select(f"select {', '.join(columns)} from {source}")
        next(rows)
        return rows

    def inspect(self, table: str, is_view: bool) -> tuple[list[str], list[tuple]] | None:
        """Return the titles and some rows of a table, or None if they cannot be read.

        Values too large for an embedding are None in these rows. All views together have
        VIEW_SECONDS, since one may take for ever.
        """
        began = time.thread_time()
        self._deadline = began + self._view_seconds if is_view else None
        try:
            return self._inspect(table)
        except sqlite3.Error as error:
            of_table = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_AUTH)
            if _result_code(error) in of_table or self._fault:
                return None  # a table of a missing extension, or a view without an end
            raise self._to_user_error(error) from None
        except MemoryError:
            self._check_memory()
            return None
        finally:
            self._view_seconds -= time.thread_time() - began if is_view else 0
            self._deadline, self._fault = None, ""

    def _inspect(self, table: str) -> tuple[list[str], list[tuple]]:
        """Return the titles and the sample rows of a table; values too large are None."""
        execute = self._connection.execute
        description = execute(f"select * from {quote_sql(table)} limit 0").description
        titles = [title for title, *_ in description]
        max_characters = SAMPLE_BYTES // max(32, len(titles)) // 4  # UTF-8 has up to 4 bytes each
        columns = ", ".join(
            f"iif(length({name}) <= {max_characters}, {name}, null)"
            for name in map(quote_sql, titles)
        )
        rows: list[tuple] = []
        size = 0
        for row in execute(f"select {columns} from {quote_sql(table)} limit {SAMPLE_ROWS}"):
            rows.append(row)
            size += sum(len(cell) for cell in row if isinstance(cell, bytes | str))
            if size > SAMPLE_BYTES:
                break
        return titles, rows

    def _must_stop(self) -> bool:
        """Return whether SQLite must end its statement; SQLite calls this every CHECK_STEPS.

        Python handles signals in the call, and SQLite takes a KeyboardInterrupt for True.
        """
        if self._deadline is not None and time.thread_time() > self._deadline:
            self._fault = "it takes too long"
        elif (now := time.monotonic()) > self._next_check:
            self._next_check = now + CHECK_SECONDS
            if _temporary_bytes() > self._temporary_bytes:
                self._fault = (
                    f"{self.path}: this query needs over {self._temporary_bytes >> 20:,} MB of "
                    "temporary files; leave out its order by, distinct or group by"
                )
        return bool(self._fault)

    def _check_memory(self) -> None:
        """Raise MemoryError if the machine is out of memory, not only SQLite's own limit."""
        bytearray(HEAP_BYTES)

    def _to_user_error(self, error: sqlite3.Error) -> BaseException:
        """Return the error for the user, or SQLite's own error if the file is broken."""
        code, path = _result_code(error), self.path
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            reason = "this database is locked; close what writes to it, or copy the file"
        elif code == sqlite3.SQLITE_INTERRUPT:
            return InputError(self._fault) if self._fault else KeyboardInterrupt()
        elif code == sqlite3.SQLITE_FULL:
            return OSError(
                errno.ENOSPC, os.strerror(errno.ENOSPC), "temporary files (SQLITE_TMPDIR)"
            )
        elif code == sqlite3.SQLITE_CANTOPEN and (shortage := _find_open_file_shortage(path)):
            return shortage
        elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            reason = (
                "a write to this database was not finished; copy it with its -journal or -wal file "
                "to where you may write, and open it once with sqlite3"
            )
        elif code == sqlite3.SQLITE_TOOBIG:
            reason = (
                f"a value of over {SQLITE_LIMIT_BYTES >> 30} GB; leave such columns or rows out of "
                "--query"
            )
        elif code in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_SCHEMA):  # also two statements
            reason = "--query runs one SELECT and nothing else"
        elif code == sqlite3.SQLITE_ERROR:
            reason = f"--query: {error}; name columns and tables as they are"
        else:
            return error
        return InputError(f"{path}: {reason}")


def quote_sql(name: str) -> str:
    """Return a name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def _connect(path: str) -> sqlite3.Connection:
    """Open a database such that neither it nor its folder changes.

    In WAL mode a reader leaves files beside the database if nobody else has it open. Without a log,
    the option immutable prevents that. With a log, SQLite keeps the log's index in memory if
    nobody else can open the database (https://sqlite.org/wal.html).
    """
    real = os.path.realpath(path)
    with open(real, "rb") as stream:
        is_wal = stream.read(20)[18:] == b"\2\2"  # https://sqlite.org/fileformat.html
    is_alone = is_wal and not os.path.exists(f"{real}-shm")
    has_log = os.path.exists(f"{real}-wal") and os.path.getsize(f"{real}-wal") > 0
    uri_options = ("&vfs=unix-none" if has_log else "&immutable=1") if is_alone else ""
    connection = sqlite3.connect(
        f"{Path(real).as_uri()}?mode=ro{uri_options}", uri=True, timeout=2, isolation_level=None
    )
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, SQLITE_LIMIT_BYTES)
    connection.execute("pragma trusted_schema = off")
    connection.execute(f"pragma hard_heap_limit = {HEAP_BYTES}")
    if is_alone:
        connection.execute("pragma locking_mode = exclusive")
    return connection


def _result_code(error: Exception) -> int:
    """Return SQLite's primary result code; SQLITE_AUTH for sqlite3's own errors (a wrong query)."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_AUTH) & 0xFF


def _find_open_file_shortage(path: str) -> OSError | None:
    """Return the error if this process cannot open the few files that SQLite needs, else None."""
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(open(path, "rb"))
    except OSError as error:
        return error
    return None


def _temporary_bytes() -> int:
    """Return the size of SQLite's temporary files, which are already deleted from their folder."""
    size = 0
    with contextlib.suppress(OSError), os.scandir("/proc/self/fd") as descriptors:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                if "/etilqs_" in os.readlink(descriptor.path):
                    size += os.stat(descriptor.path).st_size
    return size
