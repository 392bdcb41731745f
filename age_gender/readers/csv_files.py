"""CSV: cut at the ends of rows; the numbers of a chunk are parsed at once where that is safe."""

import contextlib
import csv
import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

from age_gender.readers import chunks, numbers, text_chunks, vectors
from age_gender.readers.columns import (
    LABELS,
    UNKNOWN,
    Columns,
    ReadOptions,
    Sample,
    choose,
    samples_of,
    wrong_width,
)
from age_gender.readers.csv_dialects import HEAD_BYTES, Dialect, find_dialect
from age_gender.readers.errors import RowError

COMMAS = Dialect()
MOST_CELLS = 1 << 16  # of a row: far more than an embedding and what stands beside it


@dataclass(frozen=True)
class CsvReader:
    """Reads CSV, and other text with a row a line."""

    dialect: Dialect = COMMAS
    is_text = True

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
        return cut(path, stream, options)

    def parse(self, chunk: chunks.Chunk) -> chunks.Batch:
        return chunks.parse(chunk, at_once, one_by_one)


def cut(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of whole rows of CSV; a header is a chunk without data."""
    head, stream = text_chunks.head_of(stream, HEAD_BYTES)
    dialect = find_dialect(head.removeprefix(text_chunks.BOM))
    start = chunks.Chunk(path, CsvReader(dialect))
    row_end = functools.partial(text_chunks.last_row_end, delimiter=dialect.delimiter)
    columns, header, is_first, sep_lines = UNKNOWN, None, True, int(dialect.sep_line)
    for chunk in text_chunks.parts(start, stream, row_end):
        if columns is UNKNOWN:
            # The first row may be a header, below a line that says the separator.
            lines = io.BytesIO(chunk.data).readlines()
            header_lines, sep_lines = sep_lines if lines else 0, 0
            rows = _csv_rows(lines[header_lines:], dialect)
            for row in itertools.islice(rows, is_first):
                is_first = False
                if row.fault is None and _is_header(row.cells, options.width):
                    header, header_lines = row.cells, header_lines + row.last_line
            is_first = is_first and not chunk.bad
            # The first row that shows which column is what.
            rows = _csv_rows(lines[header_lines:], dialect)
            choices = (
                (window[0].line, functools.partial(_columns, path, header, window, options))
                for window in chunks.windows(rows)
            )
            chunk = replace(chunk, data=b"".join(lines[header_lines:]), offset=None)
            chunk = chunk.with_columns(choices)
            columns = chunk.columns
            if header_lines:
                yield replace(start, lines=header_lines, columns=columns)
        yield replace(chunk, columns=columns)


def _is_header(cells: list[str], width: int | None) -> bool:
    """Return whether no cell after the first is a number, or pandas counted the columns."""
    if len(cells) == 1:  # a line of text is a row, whatever separates its cells
        return re.fullmatch(r"[^\W\d][\w .-]{0,60}", cells[0].strip()) is not None
    found = [cell for cell in cells[1:] if numbers.is_number(cell)]
    for counted in (found, [cells[0], *found]):
        count = len(counted)
        enough = count == width if width else count >= numbers.FEWEST
        if enough and any(counted == [*map(str, range(i, i + count))] for i in (0, 1)):
            return True
    return not found and not any(vectors.find_form([cell], width) for cell in cells)


def _columns(
    path: str, header: list[str] | None, rows: Sequence["_CsvRow"], options: ReadOptions
) -> Columns:
    """Return which cell of the first of these rows is what. Raises RowError."""
    cells = rows[0].read()
    if len(cells) > MOST_CELLS:
        raise RowError(f"{len(cells):,} cells, more than {MOST_CELLS:,}")
    count, has_end = len(cells), len(cells) > 2 and not cells[-1].strip()
    if has_end and (not header or not header[-1].strip() or len(header) == count - 1):
        cells, header = cells[:-1], header and header[: count - 1]  # a separator behind the row
    if header and len(header) != len(cells):
        raise RowError(f"{len(cells)} cells, not {len(header)} as in the header")
    following = [row.cells[: len(cells)] for row in rows[1:] if row.fault is None]
    samples = samples_of([cells, *following][: 1 + 4 * MOST_CELLS // count], options)
    sizes = [sample.size for sample in samples]
    unnamed = _titles(cells, sizes, options.width_of(count))
    titles = header or unnamed
    if not header and max(sizes) <= 0:  # then the row must be a good one, to be sure
        named = unnamed.count("filename")
        if not options.fits(len(cells) - named):
            raise wrong_width(len(cells) - named, options)
        numbers.float32(cells[named:], "cell", 1 + named)
    columns = _choose(path, header, unnamed, samples, options)
    is_rest = columns.embedding == tuple(range(1, len(cells)))
    if is_rest and "name" not in columns.metadata and titles[0].strip().casefold() not in LABELS:
        columns = replace(columns, metadata=columns.metadata | {"name": 0}, left_out=())
    return replace(columns, count=count)


def _choose(
    path: str, header: list[str] | None, unnamed: list[str],
    samples: Sequence[Sample], options: ReadOptions,
) -> Columns:  # fmt: skip
    """Return the columns by the header, or, under any other names, by a width that is known."""
    try:
        return choose(path, header or unnamed, samples, options)
    except RowError:
        if header and (options.width or options.widths) and not options.embedding:
            with contextlib.suppress(RowError):
                return choose(path, unnamed, samples, options)
        raise


def _titles(cells: list[str], sizes: list[int], width: int | None) -> list[str]:
    """Return the names of columns that have none: a list, or numbers, maybe behind a name."""
    count = len(cells)
    if max(sizes) > 0:
        named = ["filename"] if sizes[0] <= 0 else []
        return named + [f"column {place + 1}" for place in range(len(named), count)]
    if width:
        named = count > width
    else:
        # 513 cells are a name and 512 numbers, also where the name looks like a number.
        numbered = cells[0].isdecimal() and not any(map(str.isdecimal, cells[1:]))
        named = sizes[0] < 0 or count % 16 == 1 or numbered
    return ["filename"] * named + [*map(str, range(count - named))]


# -------------------------------------------------------------------------- all at once


@functools.cache
def _cell(delimiter: bytes) -> bytes:
    return rb'(?:([^"%s\n]*)|"((?:[^"\n]|"")*+)")' % re.escape(delimiter)


def at_once(chunk: chunks.Chunk) -> chunks.Parsed | None:
    """Return the chunk's numbers and metadata; None where rows may read otherwise one by one."""
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
    before = re.compile((_cell(delimiter) + re.escape(delimiter)) * start)
    behind = re.compile((re.escape(delimiter) + _cell(delimiter)) * (columns.count - end))
    rows, cells, at, view = [], [], 0, memoryview(data)  # a row is no copy
    while at < len(data):
        stop = data.find(b"\n", at)
        stop = len(data) if stop < 0 else stop
        start_cells = before.match(data, at, stop)
        if start_cells is None or stop - at >= chunks.RECORD_BYTES:
            return None
        first, last = start_cells.end(), stop
        if columns.is_list:
            quote = data[first : first + 1] == b'"'
            last = data.find(b']"' if quote else b"]", first, stop)
            if data[first + quote : first + quote + 1] != b"[" or last < 0:
                return None
            if not quote and delimiter == b",":
                return None
            rows.append(view[first + 1 + quote : last])
            last += 1 + quote
        else:
            for _ in range(columns.count - end):
                last = data.rfind(delimiter, first, max(last, first))
            rows.append(view[first:last] if last >= 0 else b"")
        groups = start_cells.groups()
        if last < stop:
            others = behind.fullmatch(data, last, stop) if last >= first else None
            if others is None:
                return None
            groups += others.groups()
        elif columns.count > end:
            return None
        cells.append(groups)
        at = stop + 1
    if not columns.is_list and delimiter != b",":
        rows = [_with_commas(bytes(row), dialect) for row in rows]
    values = numbers.parse(rows, columns.width)
    if values is None:
        return None
    metadata = {}
    for word, column in columns.metadata.items():
        place = 2 * (column if column < start else column - end + start)
        try:
            metadata[word] = [_text(*row[place : place + 2]) for row in cells]
        except UnicodeDecodeError:
            return None
    return values, metadata


def _with_commas(row: bytes, dialect: Dialect) -> bytes:
    if dialect.decimal_comma:
        row = row.replace(b",", b".")
    elif b"," in row:
        return b""  # no row of numbers: it is read by itself
    return row.replace(dialect.delimiter, b",")


def _text(cell: bytes, quoted: bytes | None) -> str:
    return cell.decode() if quoted is None else quoted.decode().replace('""', '"')


# --------------------------------------------------------------------------- one by one


def one_by_one(chunk: chunks.Chunk) -> Iterator[chunks.Row]:
    """Yield the rows of a chunk, each with as many cells as the first one has."""
    for row in _csv_rows(io.BytesIO(chunk.data).readlines(), chunk.reader.dialect):
        yield chunks.Row(row.line, functools.partial(_getter, row, chunk.columns))


def _getter(row: "_CsvRow", columns: Columns) -> Callable[[int], str]:
    cells = row.read()
    if len(cells) != columns.count:
        raise _wrong_count(cells, columns)
    return cells.__getitem__


def _wrong_count(cells: list[str], columns: Columns) -> RowError:
    named = columns.count - columns.width
    if columns.is_list or named not in (0, 1) or columns.metadata.get("name"):
        return RowError(f"{len(cells)} cells, not {columns.count}")
    reason = f"{len(cells) - named} numbers{' after the name' * named}, not {columns.width}"
    return RowError(reason)


class _CsvRow(NamedTuple):
    """A row that is not blank, its lines counted from 1: its cells, or what is wrong with it."""

    line: int
    last_line: int
    cells: list[str]
    fault: RowError | None = None

    def read(self) -> list[str]:
        if self.fault:
            raise self.fault
        return self.cells


def _csv_rows(lines: list[bytes], dialect: Dialect) -> Iterator[_CsvRow]:
    """Yield the rows of a text. One that is not CSV costs its first line only, in case a quote
    there was never closed; but not without end.
    """
    csv.field_size_limit(chunks.RECORD_BYTES)  # here, so that it holds on a Dask worker too
    at, attempts, delimiter = 0, 100, dialect.delimiter.decode()
    while at < len(lines):
        first, fault, cells = at + 1, None, []
        rest = map(lines.__getitem__, range(at, len(lines)))
        texts = (dialect.prepared(line).decode("utf-8", "surrogateescape") for line in rest)
        reader = csv.reader(texts, delimiter=delimiter, strict=True)
        try:
            cells = next(reader)
            at += reader.line_num
            if sum(map(len, lines[first - 1 : at])) > chunks.RECORD_BYTES:
                fault = RowError(f"longer than {chunks.RECORD_BYTES:,} bytes")
        except csv.Error as error:
            fault = RowError(_csv_fault(error))
            attempts -= 1
            at = first if attempts > 0 else at + reader.line_num
        if dialect.decimal_comma:
            cells = [_with_point(cell) for cell in cells]
        if fault or len(cells) > 1 or "".join(cells).strip():
            yield _CsvRow(first, at, cells, fault)


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if cell.count(",") == 1 and cell[-1:].isdigit() else cell


def _csv_fault(error: csv.Error) -> str:
    # The module has one exception for all faults; its words are all that tells them apart.
    if "new-line" in str(error):
        return "a lone carriage return outside quotes; end lines with a line feed"
    if "end of data" in str(error):
        return "a quote is not closed"
    return f"not CSV: {error}"
