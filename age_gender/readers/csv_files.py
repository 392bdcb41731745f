"""Read CSV: split it at row ends, and parse a chunk's numbers in bulk where that is safe."""

import functools
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from age_gender.errors import InputError
from age_gender.readers import chunks, csv_headers, numbers, text_chunks, vectors
from age_gender.readers.bad_rows import RowError
from age_gender.readers.column_choice import TRANSPOSE
from age_gender.readers.columns import UNKNOWN_COLUMNS, Columns, ReadOptions
from age_gender.readers.csv_dialects import Dialect, describe_printed, find_dialect
from age_gender.readers.csv_rows import CsvRow, read_rows


def read_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of whole rows; the lines above the first row are a chunk without data."""
    # Find the separators and the header
    size = chunks.MAX_ROW_BYTES
    head, stream = text_chunks.read_head(stream, size)
    while head.isspace() and len(head) == size < text_chunks.MAX_BLANK_BYTES:
        size *= 8
        head, stream = text_chunks.read_head(stream, size)
    text_chunks.check_is_text(path, head)
    is_cut_off = len(head) == size
    head = head.removeprefix(text_chunks.BOM)
    first_lines = io.BytesIO(head).readlines()
    if description := describe_printed(first_lines):
        raise InputError(f"{path}: {description}")
    dialect = find_dialect(head)
    whole_lines = first_lines[:-1] if is_cut_off else first_lines
    header = csv_headers.find_header(whole_lines, dialect, options.width)
    template = chunks.Chunk(path, functools.partial(_parse, dialect), has_lines=True)
    if header.line_count:
        yield replace(template, lines_above_count=header.line_count)

    # Split the text into chunks, and choose the columns by the first usable row
    find_end = functools.partial(text_chunks.last_row_end, delimiter=dialect.delimiter)
    unassigned = text_chunks.split_into_chunks(
        template, stream, find_end, skipped_bytes=header.byte_count
    )
    choose = functools.partial(csv_headers.choose_csv_columns, path, header.titles, options)
    find_rows = functools.partial(_numbered_rows, dialect)
    is_transposed = functools.cache(  # it reads the file: only once, and if rows show no columns
        functools.partial(csv_headers.is_transposed, path, header.line_count, dialect, options)
    )
    for chunk in chunks.assign_columns(unassigned, find_rows, choose):
        if chunk.columns is UNKNOWN_COLUMNS and is_transposed():
            bad_rows = [row._replace(remedy=TRANSPOSE) for row in chunk.bad_rows]
            chunk = replace(chunk, bad_rows=bad_rows)
        yield chunk


def _numbered_rows(dialect: Dialect, chunk: chunks.Chunk) -> Iterator[tuple[int, CsvRow]]:
    """Yield the rows of a chunk with their line numbers."""
    return ((row.line, row) for row in read_rows(io.BytesIO(chunk.data).readlines(), dialect))


def _parse(dialect: Dialect, chunk: chunks.Chunk) -> chunks.Batch:
    """Return the batch of a chunk's rows."""
    parse_in_bulk = functools.partial(_parse_in_bulk, dialect)
    return chunks.parse_chunk(chunk, parse_in_bulk, functools.partial(_split_rows, dialect))


# ------------------------------------------------------------------------ a chunk in bulk


@functools.cache
def _cell_pattern(delimiter: bytes) -> bytes:
    """Return a pattern with two groups: an unquoted cell, and the contents of a quoted one."""
    return rb'(?:([^"%s\n]*)|"((?:[^"\n]|"")*+)")' % re.escape(delimiter)


def _parse_in_bulk(dialect: Dialect, chunk: chunks.Chunk) -> chunks.ParsedRows | None:
    """Return the chunk's numbers and metadata, or None if they might differ row by row."""
    # Check that the embedding is neighbouring cells, or a list in brackets, and one line per row
    columns, data = chunk.columns, chunk.data
    start, end = columns.embedding[0], columns.embedding[-1] + 1
    if len(data) < chunks.SMALL_BYTES or columns.embedding != tuple(range(start, end)):
        return None
    if columns.holds_vectors and not columns.has_format(vectors.TEXT_LIST):
        return None
    data = data.replace(b"\r\n", b"\n") if b"\r" in data else data
    if b"\r" in data:
        return None

    # Split each line, and parse the numbers
    lines = [*_split_lines(dialect.to_csv(data), columns, dialect.delimiter)]
    if None in lines:
        return None
    texts = [text for text, _ in lines]
    if not columns.holds_vectors and dialect.delimiter != b",":
        texts = [_with_commas(bytes(text), dialect) for text in texts]
    values = numbers.parse_number_table(texts, columns.width)
    if values is None:
        return None

    # Decode the cells of metadata
    metadata = {}
    for role, column in columns.metadata_columns.items():
        first_group = 2 * (column if column < start else column - end + start)
        cells = (groups[first_group : first_group + 2] for _, groups in lines)
        try:
            metadata[role] = [_decode(*cell) for cell in cells]
        except UnicodeDecodeError:
            return None
    return values, metadata


def _split_lines(
    data: bytes, columns: Columns, delimiter: bytes
) -> Iterator[tuple[memoryview, tuple] | None]:
    """Yield the text of each line's embedding, and its other cells, two groups each.

    Yields None for a line that might differ when parsed by itself, and ends there.
    """
    start, end = columns.embedding[0], columns.embedding[-1] + 1
    separator, cell = re.escape(delimiter), _cell_pattern(delimiter)
    before = re.compile((cell + separator) * start)
    after_count = columns.column_count - end
    after = re.compile((separator + cell) * after_count)
    view, line_start = memoryview(data), 0  # slicing a view copies nothing
    while line_start < len(data):
        line_end = data.find(b"\n", line_start)
        line_end = len(data) if line_end < 0 else line_end
        cells_before = before.match(data, line_start, line_end)
        if cells_before is None or line_end - line_start >= chunks.MAX_ROW_BYTES:
            span = None
        elif columns.holds_vectors:
            span = _find_list(data, cells_before.end(), line_end, delimiter)
        else:
            span = _find_cells(data, cells_before.end(), line_end, delimiter, after_count)
        cells_after = span and after.fullmatch(data, span[2], line_end)
        if cells_after is None:
            yield None
            return
        yield view[span[0] : span[1]], cells_before.groups() + cells_after.groups()
        line_start = line_end + 1


Span = tuple[int, int, int]  # start and end of the numbers, and end of the embedding


def _find_list(data: bytes, start: int, stop: int, delimiter: bytes) -> Span | None:
    """Return the span of the list, in quotes or not, that begins at `start`, or None."""
    is_quoted = data.startswith(b'"', start)
    opening, closing = (b'"[', b']"') if is_quoted else (b"[", b"]")
    end = data.find(closing, start, stop)
    is_list = data.startswith(opening, start) and end >= 0
    if not is_list or (delimiter == b"," and not is_quoted):
        return None
    return start + len(opening), end, end + len(closing)


def _find_cells(
    data: bytes, start: int, stop: int, delimiter: bytes, after_count: int
) -> Span | None:
    """Return the span of the cells from `start` on, without the last `after_count`, or None."""
    end = stop
    for _ in range(after_count):
        end = data.rfind(delimiter, start, max(start, end))
    return (start, end, end) if end >= 0 else None


def _with_commas(row: bytes, dialect: Dialect) -> bytes:
    """Return a row with decimal points, and commas between its numbers."""
    if dialect.decimal_comma:
        row = row.replace(b",", b".")
    elif b"," in row:
        return b""  # not a row of numbers, so that the chunk is parsed row by row
    return row.replace(dialect.delimiter, b",")


def _decode(cell: bytes, quoted: bytes | None) -> str:
    return cell.decode() if quoted is None else quoted.decode().replace('""', '"')


# ---------------------------------------------------------------------------- row by row


def _split_rows(dialect: Dialect, chunk: chunks.Chunk) -> Iterator[chunks.Row]:
    """Yield the rows of a chunk, with an error where the number of cells is wrong."""
    for line, row in _numbered_rows(dialect, chunk):
        error = row.error or _find_count_error(len(row.cells), chunk.columns)
        yield chunks.Row(line, row.cells.__getitem__, error)


def _find_count_error(count: int, columns: Columns) -> RowError | None:
    """Return the error of a row with `count` cells, or None if the table has as many columns."""
    if count == columns.column_count:
        return None
    name_count = columns.column_count - columns.width
    if columns.holds_vectors or name_count not in (0, 1) or columns.metadata_columns.get("name"):
        return RowError(f"{count} cells, not {columns.column_count}")
    after_name = " after the name" * name_count
    return RowError(f"{count - name_count} numbers{after_name}, not {columns.width}")
