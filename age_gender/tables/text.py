"""CSV: cut at the ends of rows; the numbers of a piece are parsed at once where that is safe."""

import contextlib
import csv
import importlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from age_gender.tables import cutting, numbers, pieces
from age_gender.tables.columns import Columns, Wanted, choose, wrong_width
from age_gender.tables.numbers import is_number

_CELL = rb'(?:([^",\n]*)|"((?:[^"\n]|"")*+)")'


def cut(path: str, wanted: Wanted, only: bool) -> Iterator[pieces.Piece]:
    """Pieces of a CSV file, or of standard input ("-"), in order; `only` if there is no other.

    What begins with a brace or bracket is JSON, but not in a file that ends in .csv.
    """
    with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as stream:
        is_json = cutting.first_mark(stream) in b"{[" and not path.lower().endswith(".csv")
        reader = (
            importlib.import_module("age_gender.tables.objects").cut_stream
            if is_json
            else cut_stream
        )
        yield from reader(pieces.STDIN if path == "-" else path, stream, wanted, only)


def input_bytes(path: str) -> int | None:
    """How many bytes the pieces of the file have in all; None if unknown."""
    return None if path == "-" else Path(path).stat().st_size


def cut_stream(
    path: str, stream: BinaryIO, wanted: Wanted, only: bool = False
) -> Iterator[pieces.Piece]:
    """Pieces of whole rows of CSV."""
    layout = _Layout(path, wanted)
    start = pieces.Piece(path, "text", b"", wanted=wanted, first=True)
    return cutting.cut_parts(start, cutting.parts(path, stream), layout, only)


class _Layout:
    """Finds out, part by part, whether there is a header and which column is what."""

    def __init__(self, path: str, wanted: Wanted) -> None:
        self.path, self.wanted = path, wanted
        self.header: list[str] | None = None
        self.may_be_header = True

    def __call__(self, part: bytes | cutting.Bad) -> tuple[int, Columns | None, list[str] | None]:
        if isinstance(part, cutting.Bad):
            self.may_be_header = False
            return 0, None, self.header
        lines = io.BytesIO(part).readlines()
        before = len(lines) if self.may_be_header else 0
        for _, last, cells in _csv_rows(lines):
            if self.may_be_header:
                self.may_be_header, before = False, 0
                if isinstance(cells, list) and _is_header(cells, self.wanted.width):
                    self.header, before = cells, last
                    continue
            if isinstance(cells, list):
                columns = _columns(self.path, self.header, cells, self.wanted)
                if isinstance(columns, Columns):
                    return before, columns, None
        return before, None, self.header


def _is_header(cells: list[str], width: int | None) -> bool:
    """Whether no cell after the first is a number, or pandas counted the columns."""
    if len(cells) == 1:  # a line of text is a row, whatever separates its cells
        return re.fullmatch(r"[^\W\d][\w .-]{0,60}", cells[0].strip()) is not None
    found = [cell for cell in cells[1:] if is_number(cell)]
    for counted in (found, [cells[0], *found]):
        count = len(counted)
        enough = count == width if width else count >= numbers.FEWEST
        if enough and any(counted == [*map(str, range(i, i + count))] for i in (0, 1)):
            return True
    return not found and not any(map(numbers.in_list, cells))


def _columns(
    path: str, header: list[str] | None, cells: list[str], wanted: Wanted
) -> Columns | str:
    """Which cell of a row is what, or why it does not tell."""
    count, width = len(cells), wanted.width
    if header is None:
        return _positional(path, cells, wanted)
    if len(header) != count:
        return f"{count} cells, not {len(header)} as in the header"
    sizes = [numbers.size(cell, width) for cell in cells]
    found = choose(path, header, sizes, wanted)
    if isinstance(found, str) and width and 0 <= count - width <= 1 and not wanted.embedding:
        found = _plain(count, width, wanted.whose)  # columns of any names
    first = header[0].strip().casefold()
    if isinstance(found, Columns) and found.embedding == tuple(range(1, count)) and (
        found.name is None and wanted.name is None and first not in ("age", "gender")
    ):  # fmt: skip
        found = replace(found, name=0, left_out=())
    return found


def _positional(path: str, cells: list[str], wanted: Wanted) -> Columns | str:
    """Of a row without a header: numbers or a list, with a name before them or without."""
    count, width, whose = len(cells), wanted.width, wanted.whose
    sizes = [numbers.size(cell, width) for cell in cells]
    if any(size > 0 for size in sizes):
        titles = [f"column {place}" for place in range(1, count + 1)]
        found = choose(path, titles, sizes, wanted)
        if isinstance(found, Columns) and found.is_list and found.embedding != (0,):
            found = replace(found, name=0, left_out=found.left_out[1:])
        return found
    if width is None:
        first = is_number(cells[0])
        # 513 cells are a name and 512 numbers, also where the name looks like a number.
        numbered = cells[0].isdecimal() and not any(map(str.isdecimal, cells[1:]))
        named = not first or count % 16 == 1 or numbered
        width, whose = count - named, path
        if reason := wrong_separator(cells):
            return reason
        if not numbers.FEWEST <= width <= numbers.MOST:
            return wrong_width(width, None, "")
    named = count == width + 1
    if count != width + named:
        return wrong_separator(cells) or wrong_width(
            count - (not is_number(cells[0])), width, whose
        )
    _, reason = numbers.numbers(cells[named:], "cell", 1 + named)
    return reason or _plain(count, width, whose)


def _plain(count: int, width: int, whose: str) -> Columns:
    named = count > width
    return Columns(width, whose, tuple(range(named, count)), name=0 if named else None, count=count)


def parse(piece: pieces.Piece) -> pieces.Block:
    """The block of a piece of CSV."""
    if pieces.is_worth_a_parser(piece):
        block = _parse_fast(piece)
        if block is not None:
            return block
    return _parse_carefully(piece)


def _parse_fast(piece: pieces.Piece) -> pieces.Block | None:
    """All numbers of the piece in one go; None where `_parse_carefully` might read otherwise."""
    columns, data = piece.columns, piece.data
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    found = _rows(data, columns) if b"\r" not in data else None
    if found is None:
        return None
    told, rows = found
    values = numbers.parse(rows, columns.width)
    if values is None:
        return None
    block = pieces.check_rows(piece, values, len(rows), **told)
    return None if block.faults else block


def _rows(data: bytes, columns: Columns) -> tuple[dict[str, list], list[memoryview]] | None:
    """Names, ages and genders, and the text of each row's numbers; None for no plain CSV."""
    start_column, end_column = columns.embedding[0], columns.embedding[-1] + 1
    if columns.embedding != tuple(range(start_column, end_column)):
        return None
    before = re.compile((_CELL + b",") * start_column)
    behind = re.compile((b"," + _CELL) * (columns.count - end_column))
    cells_behind = columns.count - end_column
    rows, cells, start, view = [], [], 0, memoryview(data)
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        found = before.match(data, start, end)
        if found is None or end - start >= pieces.RECORD_BYTES:
            return None
        first, last = found.end(), end
        if columns.is_list:
            last = data.find(b']"', first, end)
            if data[first : first + 2] != b'"[' or last < 0:
                return None
            rows.append(view[first + 2 : last])
            last += 2
        else:
            for _ in range(cells_behind):
                last = data.rfind(b",", first, last)
                if last < 0:
                    return None
            rows.append(view[first:last])
        groups = found.groups()
        if last < end or cells_behind:
            found = behind.fullmatch(data, last, end)
            if found is None:
                return None
            groups += found.groups()
        cells.append(groups)
        start = end + 1
    told = {}
    for word, column in columns.told():
        place = 2 * (column if column < start_column else column - end_column + start_column)
        try:
            told[word] = [
                row[place].decode() if row[place + 1] is None
                else row[place + 1].decode().replace('""', '"')
                for row in cells
            ]  # fmt: skip
        except UnicodeDecodeError:
            return None
    return told, rows


def _parse_carefully(piece: pieces.Piece) -> pieces.Block:
    """Row by row: small pieces, and whatever is not plain."""
    lines = io.BytesIO(piece.data).readlines()
    return pieces.collect(piece, _careful_rows(piece, lines), len(lines))


def _careful_rows(piece: pieces.Piece, lines: list[bytes]) -> Iterator[pieces.Row]:
    for line, _, cells in _csv_rows(lines):
        line += piece.header_lines
        if isinstance(cells, str):
            yield pieces.Row(line, cells)
        elif piece.columns is None:
            reason = _columns(piece.path, piece.header, cells, piece.wanted)
            yield pieces.Row(line, reason if isinstance(reason, str) else "not a row of numbers")
        elif len(cells) != piece.columns.count:
            yield pieces.Row(line, _wrong_count(cells, piece.columns))
        else:
            yield pieces.row_of(line, piece.columns, cells.__getitem__)


def _wrong_count(cells: list[str], columns: Columns) -> str:
    named = columns.count - columns.width
    if columns.is_list or named not in (0, 1) or columns.name not in (None, 0):
        return f"{len(cells)} cells, not {columns.count}"
    found = f"{len(cells) - named} numbers{' after the name' * named}, not {columns.width}"
    return wrong_separator(cells) or found


def _csv_rows(lines: list[bytes]) -> Iterator[tuple[int, int, list[str] | str]]:
    """(first line, last line, cells) of each row that is not blank, lines counted from 1.

    In place of the cells of a row that is not CSV: what is wrong. Such a row costs its first
    line only, in case a quote there was never closed; but not without end.
    """
    csv.field_size_limit(pieces.RECORD_BYTES)  # here, so that it holds on a Dask worker too
    first, attempts = 0, 100
    while first < len(lines):
        text = (line.decode("utf-8", "surrogateescape") for line in lines[first:])
        reader = csv.reader(text, strict=True)
        while True:
            line = first + reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, line, _csv_fault(error)
                attempts -= 1
                if attempts > 0 and first + reader.line_num > line:
                    first = line
                    break
                continue
            last = first + reader.line_num
            if sum(map(len, lines[line - 1 : last])) > pieces.RECORD_BYTES:
                yield line, last, f"longer than {pieces.RECORD_BYTES:,} bytes"
            elif cells and (len(cells) > 1 or cells[0].strip()):
                yield line, last, cells


def _csv_fault(error: csv.Error) -> str:
    if "new-line" in str(error):
        return "a lone carriage return outside quotes; end lines with a line feed"
    if "end of data" in str(error):
        return "a quote is not closed"
    return f"not CSV: {error}"


def wrong_separator(cells: list[str]) -> str:
    """What separates the cells of a row in place of commas, as a reason; "" for nothing."""
    row = ",".join(cells)
    for mark, word in ((";", "semicolons"), ("\t", "tabs"), (" ", "spaces")):
        if row.count(mark) >= 15 and (mark == ";" or len(cells) < 15):
            return f"cells are separated by {word}; separate them by commas"
    return ""
