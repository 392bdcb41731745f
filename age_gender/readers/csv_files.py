"""Read CSV: cut it at row ends, and parse a chunk's numbers at once where that is safe."""

import functools
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from age_gender.cli import InputError
from age_gender.readers import chunks, csv_columns, numbers, text_chunks, vectors
from age_gender.readers.columns import UNKNOWN, Columns, ReadOptions
from age_gender.readers.csv_dialects import HEAD_BYTES, Dialect, find_dialect, is_printed
from age_gender.readers.csv_rows import CsvRow, read_rows
from age_gender.readers.errors import RowError

COMMAS = Dialect()  # plain CSV


@dataclass(frozen=True)
class CsvReader:
    """Read CSV, and other text with a row a line."""

    dialect: Dialect = COMMAS

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
        """Yield chunks of whole rows; a header is a chunk without data."""
        # The dialect
        head, stream = text_chunks.read_head(stream, HEAD_BYTES)
        if is_printed(head):
            raise InputError(
                f"{path}: a table as it is printed, with rules between its lines; export it as "
                "CSV: psql --csv, mysql --batch, sqlite3 -csv, table.to_csv()"
            )
        dialect = find_dialect(head.removeprefix(text_chunks.BOM))
        start = chunks.Chunk(path, CsvReader(dialect))
        find_end = functools.partial(text_chunks.last_row_end, delimiter=dialect.delimiter)
        columns, header, skipped = UNKNOWN, None, dialect.skipped_lines
        comments: list[bytes] = []  # the lines that are skipped
        for chunk in text_chunks.cut_rows(start, stream, find_end):
            if columns is UNKNOWN:
                # The header, perhaps below other lines
                lines = io.BytesIO(chunk.data).readlines()
                header_lines = min(skipped, len(lines))
                skipped -= header_lines
                comments += lines[:header_lines]
                if header is None:
                    rest = lines[header_lines:]
                    header = csv_columns.find_header(rest, comments, dialect, options.width)
                    header_lines += header.lines if header else 0
                    if chunk.bad:  # a first row that is too long: there is none to come
                        header = header or csv_columns.Header(None)

                # The first row that shows which column is what
                titles = header and header.titles
                choose = functools.partial(csv_columns.choose, path, titles, options)
                candidates = (
                    (rows[0].line, functools.partial(choose, rows))
                    for rows in chunks.row_windows(read_rows(lines[header_lines:], dialect))
                )
                chunk = replace(chunk, data=b"".join(lines[header_lines:]), offset=None)
                chunk = chunk.with_columns(candidates)
                columns = chunk.columns
                if header_lines:
                    yield replace(start, lines=header_lines, columns=columns)
            yield replace(chunk, columns=columns)

    def parse(self, chunk: chunks.Chunk) -> chunks.Batch:
        """Return the batch of a chunk's rows."""
        return chunks.parse_rows(chunk, _parse_at_once, _split_rows)


# ------------------------------------------------------------------------ a chunk at once


@functools.cache
def _cell_pattern(delimiter: bytes) -> bytes:
    """Return a pattern with two groups: a plain cell, or what a quoted one holds."""
    return rb'(?:([^"%s\n]*)|"((?:[^"\n]|"")*+)")' % re.escape(delimiter)


def _parse_at_once(chunk: chunks.Chunk) -> chunks.Parsed | None:
    """Return the chunk's numbers and metadata; None where rows may read otherwise one by one."""
    # The embedding must be neighbouring cells, or a list in brackets; a line must be a row
    columns, data, dialect = chunk.columns, chunk.data, chunk.reader.dialect
    start, end = columns.embedding[0], columns.embedding[-1] + 1
    if len(data) < chunks.SMALL_BYTES or columns.embedding != tuple(range(start, end)):
        return None
    if columns.is_list and columns.form.name != vectors.LIST.name:
        return None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
        if b"\r" in data:
            return None
    data, delimiter = dialect.prepared(data), dialect.delimiter

    # Split each line: cells before the embedding, its text, cells behind it
    separator, cell = re.escape(delimiter), _cell_pattern(delimiter)
    before = re.compile((cell + separator) * start)
    behind = re.compile((separator + cell) * (columns.count - end))
    texts, other_cells, at, view = [], [], 0, memoryview(data)  # a row of a view is no copy
    while at < len(data):
        stop = data.find(b"\n", at)
        stop = len(data) if stop < 0 else stop
        cells_before = before.match(data, at, stop)
        if cells_before is None or stop - at >= chunks.MAX_ROW_BYTES:
            return None
        first, last = cells_before.end(), stop
        if columns.is_list:
            quote = data[first : first + 1] == b'"'
            last = data.find(b']"' if quote else b"]", first, stop)
            if data[first + quote : first + quote + 1] != b"[" or last < 0:
                return None
            if not quote and delimiter == b",":
                return None
            texts.append(view[first + 1 + quote : last])
            last += 1 + quote
        else:
            for _ in range(columns.count - end):
                last = data.rfind(delimiter, first, max(last, first))
            texts.append(view[first:last] if last >= 0 else b"")
        groups = cells_before.groups()
        if last < stop:
            cells_behind = behind.fullmatch(data, last, stop) if last >= first else None
            if cells_behind is None:
                return None
            groups += cells_behind.groups()
        elif columns.count > end:
            return None
        other_cells.append(groups)
        at = stop + 1

    # Parse the numbers, and decode the cells that are metadata
    if not columns.is_list and delimiter != b",":
        texts = [_with_commas(bytes(text), dialect) for text in texts]
    values = numbers.parse_rows(texts, columns.width)
    if values is None:
        return None
    metadata = {}
    for role, column in columns.metadata.items():
        group = 2 * (column if column < start else column - end + start)
        cells = (groups[group : group + 2] for groups in other_cells)
        try:
            metadata[role] = [_decode(*cell) for cell in cells]
        except UnicodeDecodeError:
            return None
    return values, metadata


def _with_commas(row: bytes, dialect: Dialect) -> bytes:
    """Return a row with points in its numbers and commas between them."""
    if dialect.decimal_comma:
        row = row.replace(b",", b".")
    elif b"," in row:
        return b""  # not a row of numbers: the chunk is parsed row by row
    return row.replace(dialect.delimiter, b",")


def _decode(cell: bytes, quoted: bytes | None) -> str:
    return cell.decode() if quoted is None else quoted.decode().replace('""', '"')


# ---------------------------------------------------------------------------- row by row


def _split_rows(chunk: chunks.Chunk) -> Iterator[chunks.Row]:
    """Yield the rows of a chunk; each must have as many cells as the columns."""
    for row in read_rows(io.BytesIO(chunk.data).readlines(), chunk.reader.dialect):
        yield chunks.Row(row.line, functools.partial(_parse_row, row, chunk.columns))


def _parse_row(row: CsvRow, columns: Columns) -> Callable[[int], str]:
    """Return the function from a column to its cell. Raises RowError."""
    cells = row.checked_cells()
    if len(cells) == columns.count:
        return cells.__getitem__
    name_count = columns.count - columns.width
    if columns.is_list or name_count not in (0, 1) or columns.metadata.get("name"):
        raise RowError(f"{len(cells)} cells, not {columns.count}")
    after_name = " after the name" * name_count
    raise RowError(f"{len(cells) - name_count} numbers{after_name}, not {columns.width}")
