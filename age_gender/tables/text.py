"""CSV: cut at the ends of rows, and parsed by pandas where that is safe, else row by row."""

import csv
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from age_gender.tables import cutting, pieces

SMALL_BYTES = 64 << 10  # a piece below this is parsed before pandas has set up its parser

_NUMBERS = re.compile(r"[0-9eE+\-. \t]*")
_MARK = b"3e38"  # stands for the end of a row: a number that is in no embedding


def cut(path: str, only: bool) -> Iterator[pieces.Piece]:
    """Pieces of a CSV file, or of standard input ("-"), in order; `only` if there is no other."""
    if path == "-":
        yield from cut_stream(pieces.STDIN, sys.stdin.buffer, only)
    else:
        with open(path, "rb") as stream:
            yield from cut_stream(path, stream, only)


def input_bytes(path: str) -> int | None:
    """How many bytes the pieces of the file have in all; None if unknown."""
    return None if path == "-" else Path(path).stat().st_size


def cut_stream(path: str, stream: BinaryIO, only: bool = False) -> Iterator[pieces.Piece]:
    """Pieces of whole rows, one part behind, since the last one must say that it is."""
    waiting, may_be_header = pieces.Piece(path, "text", b"", first=True), True
    for part in cutting.parts(path, stream):
        if waiting.data:
            yield waiting
            waiting = replace(waiting, kind="text", data=b"", header_lines=0, first=False)
        if isinstance(part, cutting.TooLong):
            may_be_header = False
            reason = (
                f"longer than {pieces.RECORD_BYTES:,} bytes: a quote or the line end is missing"
            )
            lines = waiting.header_lines + part.lines - 1
            waiting = replace(waiting, kind="fault", data=reason, header_lines=lines, input_bytes=0)
            continue
        if waiting.named is None:
            lines = io.BytesIO(part).readlines()
            header, may_be_header, named = _layout(lines, may_be_header)
            header_lines = waiting.header_lines + header
            waiting = replace(waiting, named=named, header_lines=header_lines)
            part = b"".join(lines[header:])
        waiting = replace(waiting, data=part, input_bytes=len(part))
    yield replace(waiting, last=True, only=only and waiting.first)


def _layout(lines: list[bytes], may_be_header: bool) -> tuple[int, bool, bool | None]:
    """How many lines come before the data, whether a header may still come, and whether rows
    have names: None until there is a good row, which tells.
    """
    header = len(lines) if may_be_header else 0
    for _, last, cells in _csv_rows(lines):
        header_here = may_be_header and isinstance(cells, list) and _is_header(cells)
        if may_be_header:
            may_be_header, header = False, last if header_here else 0
        if not header_here and isinstance(cells, list) and not _numbers_of(cells, None)[1]:
            return header, False, len(cells) > pieces.DIMENSIONS
    return header, may_be_header, None


def _is_header(cells: list[str]) -> bool:
    """Whether no cell after the first is a number, or pandas counted the columns."""
    if len(cells) == 1:
        return False
    if any(
        [str(n) for n in range(start, start + pieces.DIMENSIONS)] == cells[-pieces.DIMENSIONS :]
        and len(cells) <= pieces.DIMENSIONS + 1
        for start in (0, 1)
    ):
        return True
    return not any(_is_number(cell) for cell in cells[1:])


def parse(piece: pieces.Piece) -> pieces.Block:
    """The block of a piece of CSV."""
    at_once = piece.only and "pandas" not in sys.modules  # before it would be imported
    if piece.named is not None and len(piece.data) >= SMALL_BYTES and not at_once:
        block = _parse_fast(piece)
        if block is not None:
            return block
    return _parse_carefully(piece)


def _parse_fast(piece: pieces.Piece) -> pieces.Block | None:
    """pandas' C parser; None where it fails or might read otherwise than `_parse_carefully`.

    The numbers go through it as one long column, with a mark where a row ends: one column costs
    a hundredth of what pandas does for each of 512.
    """
    import pandas as pd

    data = piece.data
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    found = _rows(data, piece.named)
    if found is None:
        return None
    names, rows = found
    column = (b",%s," % _MARK).join([*rows, b""])
    if column.startswith(cutting.BOM):  # which pandas would skip
        return None
    if b"+" in column and column.count(b"+") > column.count(b"e+") + column.count(b"E+"):
        return None  # pandas reads "+1e 5"
    try:
        with np.errstate(over="ignore"):
            values = pd.read_csv(
                io.BytesIO(column),
                header=None,
                dtype=np.float32,
                lineterminator=",",
                quoting=csv.QUOTE_NONE,
                na_filter=False,
                skip_blank_lines=False,
                low_memory=False,
            ).to_numpy()
    except ValueError:  # ParserError and UnicodeError are such too
        return None
    ends = np.flatnonzero(values == np.float32(_MARK.decode()))
    if values.size != len(rows) * (pieces.DIMENSIONS + 1) or not np.array_equal(
        ends, np.arange(pieces.DIMENSIONS, values.size, pieces.DIMENSIONS + 1)
    ):
        return None
    features = values.reshape(len(rows), pieces.DIMENSIONS + 1)[:, : pieces.DIMENSIONS]
    block = pieces.check_rows(piece, names, features, len(rows))
    return None if block.faults else block


def _rows(data: bytes, named: bool) -> tuple[list[str] | None, list[memoryview]] | None:
    """Names and the text of each row's numbers; None for what might be no plain CSV."""
    names, rows, quotes, start, view = [], [], 0, 0, memoryview(data)
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        numbers = start
        if named:
            quoted_name = data[start] == ord('"')
            name_end = data.find(b'",' if quoted_name else b",", start + quoted_name, end)
            names.append(data[start + quoted_name : name_end])
            numbers = name_end + quoted_name + 1
            quotes += 2 * quoted_name
            if name_end < 0:
                return None
        if end - start >= pieces.RECORD_BYTES:
            return None
        rows.append(view[numbers:end])
        start = end + 1
    lines = len(rows) - (not data.endswith(b"\n"))
    if np.count_nonzero(np.frombuffer(data, np.uint8) < ord(" ")) != lines:
        return None  # control characters
    if b'"' in data and data.count(b'"') != quotes:
        return None
    try:
        return [name.decode() for name in names] if named else None, rows
    except UnicodeDecodeError:
        return None


def _parse_carefully(piece: pieces.Piece) -> pieces.Block:
    """Row by row: small pieces, and whatever pandas' parser stumbled over."""
    names, rows, good, faults, row = [], [], [], [], 0
    lines = io.BytesIO(piece.data).readlines()
    for line, _, cells in _csv_rows(lines):
        row += 1
        values, reason = _numbers_of(cells, piece.named) if isinstance(cells, list) else ([], cells)
        if reason:
            faults.append(pieces.Fault(row, line + piece.header_lines, reason))
        else:
            rows.append(values)
            good.append(row - 1)
            names.append(cells[0])
    named = names if piece.named else None
    return pieces.make_block(piece, named, rows, faults, row, len(lines), good)


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


def _numbers_of(cells: list[str], named: bool | None) -> tuple[np.ndarray, str]:
    """The 512 numbers of a row, and what is wrong with it ("" if nothing is)."""
    none = np.empty(0, np.float32)
    if named is None:  # no row of this file was good so far
        named = len(cells) == pieces.DIMENSIONS + 1 or not _is_number(cells[0])
        if len(cells) != pieces.DIMENSIONS + named:
            return none, _wrong_separator(cells) or pieces.other_dimensions(len(cells) - named)
    if len(cells) != pieces.DIMENSIONS + named:
        count = f"{len(cells) - named} numbers{' after the name' * named}, not {pieces.DIMENSIONS}"
        return none, _wrong_separator(cells) or count
    if named and (reason := pieces.name_fault(cells[0])):
        return none, reason
    numbers = cells[named:]
    if _NUMBERS.fullmatch(" ".join(numbers)):
        try:
            values = pieces.float32(list(map(float, numbers)))
        except ValueError:
            pass
        else:
            if np.isfinite(values).all():
                return values, "" if abs(values).max() >= pieces.TINY else pieces.ZEROS
    for place, cell in enumerate(numbers, 1 + named):
        shown = ascii(cell if len(cell) <= 20 else cell[:20] + "...")
        if not cell.strip():
            return none, f"cell {place} is empty"
        if not (_NUMBERS.fullmatch(cell) and _is_number(cell)):
            return none, f"cell {place} is {shown}, not a finite number"
        if not np.isfinite(pieces.float32(float(cell))):
            return none, f"cell {place} is {shown}, too large a number"
    return none, "not a row of numbers"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which Python takes for a number's


def _wrong_separator(cells: list[str]) -> str:
    row = ",".join(cells)
    for mark, word in ((";", "semicolons"), ("\t", "tabs"), (" ", "spaces")):
        if row.count(mark) >= 60 and (mark == ";" or len(cells) < 60):
            return f"cells are separated by {word}; separate them by commas"
    return ""
