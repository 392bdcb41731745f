"""CSV: cut at the ends of rows; the numbers of a chunk are parsed at once where that is safe."""

import contextlib
import csv
import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO, NamedTuple

from age_gender.readers import chunks, text_chunks, vectors
from age_gender.readers.columns import (
    LABELS,
    UNKNOWN,
    Columns,
    ReadOptions,
    choose,
    fits,
    wrong_width,
)
from age_gender.readers.errors import RowError

_CELL = rb'(?:([^",\n]*)|"((?:[^"\n]|"")*+)")'


class CsvReader:
    """Reads CSV."""

    is_text = True

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
        return cut(path, stream, options)

    def parse(self, chunk: chunks.Chunk) -> chunks.Batch:
        return chunks.parse(chunk, at_once, one_by_one)


def cut(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of whole rows of CSV; a header is a chunk without data."""
    start, columns, header, is_first = chunks.Chunk(path, CsvReader()), UNKNOWN, None, True
    for chunk in text_chunks.parts(start, stream, text_chunks.last_row_end):
        if columns is UNKNOWN:
            lines, header_lines = io.BytesIO(chunk.data).readlines(), 0
            for row in itertools.islice(_csv_rows(lines), is_first):
                is_first = False
                if row.fault is None and _is_header(row.cells, options.width):
                    header, header_lines = row.cells, row.last_line
            is_first = is_first and not chunk.bad
            rows = _csv_rows(lines[header_lines:])
            choices = (
                (row.line, functools.partial(_columns, path, header, row, options)) for row in rows
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
    numbers = [cell for cell in cells[1:] if vectors.is_number(cell)]
    for counted in (numbers, [cells[0], *numbers]):
        count = len(counted)
        enough = count == width if width else count >= vectors.FEWEST
        if enough and any(counted == [*map(str, range(i, i + count))] for i in (0, 1)):
            return True
    return not numbers and not any(map(vectors.in_list, cells))


def _columns(path: str, header: list[str] | None, row: "_CsvRow", options: ReadOptions) -> Columns:
    """Return which cell of a row is what. Raises RowError where it does not show that."""
    cells = row.read()
    if header and len(header) != len(cells):
        raise RowError(f"{len(cells)} cells, not {len(header)} as in the header")
    sizes = [vectors.size(cell, options.width) for cell in cells]
    unnamed = _titles(cells, sizes, options.width)
    titles = header or unnamed
    if not header and max(sizes) <= 0:  # then the row must be a good one, to be sure
        named = unnamed.count("filename")
        if not fits(len(cells) - named, options.width):
            raise _wrong_separator(cells) or wrong_width(len(cells) - named, options)
        vectors.float32(cells[named:], "cell", 1 + named)
    try:
        columns = choose(path, titles, sizes, options)
    except RowError:
        if not header or not options.width or options.embedding:
            raise
        columns = None
        with contextlib.suppress(RowError):
            columns = choose(path, unnamed, sizes, options)  # numbers of any names
        if columns is None:
            raise
    is_rest = columns.embedding == tuple(range(1, len(cells)))
    if is_rest and "name" not in columns.metadata and titles[0].strip().casefold() not in LABELS:
        columns = replace(columns, metadata=columns.metadata | {"name": 0}, left_out=())
    return columns


def _titles(cells: list[str], sizes: list[int], width: int | None) -> list[str]:
    """Return the names of columns that have none: a list, or numbers, maybe behind a name."""
    count = len(cells)
    if max(sizes) > 0:
        named = ["filename"] if sizes[0] <= 0 else []
        return named + [f"column {place + 1}" for place in range(len(named), count)]
    if width and 0 <= count - width <= 1:
        named = count > width
    else:
        # 513 cells are a name and 512 numbers, also where the name looks like a number.
        numbered = cells[0].isdecimal() and not any(map(str.isdecimal, cells[1:]))
        named = sizes[0] < 0 or count % 16 == 1 or numbered
    return ["filename"] * named + [*map(str, range(count - named))]


def at_once(chunk: chunks.Chunk) -> chunks.Parsed | None:
    """Return the chunk's numbers and metadata; None where rows may read otherwise one by one."""
    columns, data = chunk.columns, chunk.data
    start, end = columns.embedding[0], columns.embedding[-1] + 1
    if len(data) < chunks.SMALL_BYTES or columns.embedding != tuple(range(start, end)):
        return None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
        if b"\r" in data:
            return None
    before = re.compile((_CELL + b",") * start)
    behind = re.compile((b"," + _CELL) * (columns.count - end))
    rows, cells, at, view = [], [], 0, memoryview(data)  # a row is no copy
    while at < len(data):
        stop = data.find(b"\n", at)
        stop = len(data) if stop < 0 else stop
        start_cells = before.match(data, at, stop)
        if start_cells is None or stop - at >= chunks.RECORD_BYTES:
            return None
        first, last = start_cells.end(), stop
        if columns.is_list:
            last = data.find(b']"', first, stop)
            if data[first : first + 2] != b'"[' or last < 0:
                return None
            rows.append(view[first + 2 : last])
            last += 2
        else:
            for _ in range(columns.count - end):
                last = data.rfind(b",", first, max(last, first))
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
    values = vectors.parse(rows, columns.width)
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


def _text(cell: bytes, quoted: bytes | None) -> str:
    return cell.decode() if quoted is None else quoted.decode().replace('""', '"')


def one_by_one(chunk: chunks.Chunk) -> Iterator[chunks.Row]:
    """Yield the rows of a chunk, each with as many cells as the first one has."""
    for row in _csv_rows(io.BytesIO(chunk.data).readlines()):
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
    return _wrong_separator(cells) or RowError(reason)


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


def _csv_rows(lines: list[bytes]) -> Iterator[_CsvRow]:
    """Yield the rows of a text. One that is not CSV costs its first line only, in case a quote
    there was never closed; but not without end.
    """
    csv.field_size_limit(chunks.RECORD_BYTES)  # here, so that it holds on a Dask worker too
    at, attempts = 0, 100
    while at < len(lines):
        first, fault, cells = at + 1, None, []
        rest = map(lines.__getitem__, range(at, len(lines)))
        reader = csv.reader((line.decode("utf-8", "surrogateescape") for line in rest), strict=True)
        try:
            cells = next(reader)
            at += reader.line_num
            if sum(map(len, lines[first - 1 : at])) > chunks.RECORD_BYTES:
                fault = RowError(f"longer than {chunks.RECORD_BYTES:,} bytes")
        except csv.Error as error:
            fault = RowError(_csv_fault(error))
            attempts -= 1
            at = first if attempts > 0 else at + reader.line_num
        if fault or len(cells) > 1 or "".join(cells).strip():
            yield _CsvRow(first, at, cells, fault)


def _csv_fault(error: csv.Error) -> str:
    # The module has one exception for all faults; its words are all that tells them apart.
    if "new-line" in str(error):
        return "a lone carriage return outside quotes; end lines with a line feed"
    if "end of data" in str(error):
        return "a quote is not closed"
    return f"not CSV: {error}"


def _wrong_separator(cells: list[str]) -> RowError | None:
    """Return the error where something else than a comma separates the cells of a row."""
    row = ",".join(cells)
    for mark, word in ((";", "semicolons"), ("\t", "tabs"), (" ", "spaces")):
        if row.count(mark) >= 15 and (mark == ";" or len(cells) < 15):
            return RowError(f"cells are separated by {word}", "separate them by commas")
    return None
