"""Split the text of a CSV into rows of cells, one by one, and find what is wrong with a row."""

import csv
from collections.abc import Iterator
from typing import NamedTuple

from age_gender.readers import chunks
from age_gender.readers.bad_rows import RowError
from age_gender.readers.csv_dialects import Dialect

# Number of broken rows in a text from which on reading resumes after all lines that the parser
# consumed; this bounds the time
MAX_BROKEN_ROWS = 100


class CsvRow(NamedTuple):
    """Hold the cells of a row that is not blank, or its error; lines count from 1."""

    line: int
    last_line: int
    cells: list[str]
    error: RowError | None = None


def read_rows(lines: list[bytes], dialect: Dialect) -> Iterator[CsvRow]:
    """Yield the rows of a text.

    A row that is not CSV may have swallowed good rows by an unclosed quote, so reading resumes at
    the next line. From the MAX_BROKEN_ROWS-th such row on, it resumes after all lines that the
    parser has consumed.
    """
    csv.field_size_limit(chunks.MAX_ROW_BYTES)  # here, so that Dask workers have it too
    line_index, attempts, delimiter = 0, MAX_BROKEN_ROWS, dialect.delimiter.decode()
    while line_index < len(lines):
        if lines[line_index] in (b"\n", b"\r\n"):  # a parser takes 15 microseconds per line
            line_index += 1
            continue
        first, error, cells = line_index + 1, None, []
        rest = map(lines.__getitem__, range(line_index, len(lines)))
        texts = (dialect.to_csv(line).decode("utf-8", "surrogateescape") for line in rest)
        reader = csv.reader(texts, delimiter=delimiter, strict=True)
        try:
            cells = next(reader)
            line_index += reader.line_num
            if sum(map(len, lines[first - 1 : line_index])) > chunks.MAX_ROW_BYTES:
                error = RowError(f"longer than {chunks.MAX_ROW_BYTES:,} bytes")
        except csv.Error as csv_error:
            error = RowError(_describe_fault(csv_error))
            attempts -= 1
            line_index = first if attempts > 0 else line_index + reader.line_num
        if dialect.decimal_comma:
            cells = [_with_point(cell) for cell in cells]
        if error or len(cells) > 1 or "".join(cells).strip():
            yield CsvRow(first, line_index, cells, error)


def _with_point(cell: str) -> str:
    """Return a number's text with a decimal point for its comma; other text unchanged."""
    return cell.replace(",", ".") if cell.count(",") == 1 and cell[-1:].isdigit() else cell


def _describe_fault(error: csv.Error) -> str:
    """Return what is wrong with a row, for a message."""
    # The csv module raises one exception for all faults; only its words tell them apart.
    if "new-line" in str(error):
        return "a lone carriage return outside quotes; end lines with a line feed"
    if "end of data" in str(error):
        return "a quote is not closed"
    return f"not CSV: {error}"
