"""Read CSV: cut it at row ends, and parse a chunk's numbers at once where that is safe."""

import contextlib
import csv
import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

from age_gender.cli import InputError
from age_gender.labels import LABEL_COLUMNS
from age_gender.readers import chunks, numbers, text_chunks, vectors
from age_gender.readers.columns import (
    UNKNOWN,
    Columns,
    ReadOptions,
    Sample,
    choose_columns,
    inspect_columns,
    width_error,
)
from age_gender.readers.csv_dialects import HEAD_BYTES, Dialect, find_dialect, is_printed
from age_gender.readers.errors import RowError

COMMAS = Dialect()  # plain CSV
MAX_CELLS = 1 << 16  # cells of a row: far more than an embedding and what stands beside it
MAX_SAMPLED_CELLS = 1 << 18  # cells of the rows that show which column is what


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
        columns, header, is_first, skipped = UNKNOWN, None, True, dialect.skipped_lines
        comments: list[bytes] = []  # the lines that are skipped
        for chunk in text_chunks.cut_rows(start, stream, find_end):
            if columns is UNKNOWN:
                # The header, perhaps below other lines
                lines = io.BytesIO(chunk.data).readlines()
                header_lines = min(skipped, len(lines))
                skipped -= header_lines
                comments += lines[:header_lines]
                rows = _read_csv_rows(lines[header_lines:], dialect)
                first = next(rows, None) if is_first else None
                if first and first.fault is None:
                    if _is_header(first.cells, options.width):
                        header, header_lines = first.cells, header_lines + first.last_line
                        second = next(rows, None)  # which pandas writes for two levels of titles
                        is_wide = second and len(second.cells) > numbers.MIN_WIDTH
                        if is_wide and _are_numbers_of_columns(second.cells, options.width):
                            header = second.cells
                            header_lines += second.last_line - first.last_line
                    else:
                        header = _header_in_comment(comments, len(first.cells), dialect)
                is_first = is_first and first is None and not chunk.bad

                # The first row that shows which column is what
                candidates = (
                    (rows[0].line, functools.partial(_choose_columns, path, header, rows, options))
                    for rows in chunks.row_windows(_read_csv_rows(lines[header_lines:], dialect))
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


def _header_in_comment(comments: list[bytes], count: int, dialect: Dialect) -> list[str] | None:
    """Return the titles in the last line before the table, as numpy.savetxt writes them, if any."""
    if not comments or not comments[-1].startswith(b"#"):
        return None
    row = next(_read_csv_rows([comments[-1].lstrip(b"# ")], dialect), None)
    return row.cells if row and row.fault is None and len(row.cells) == count else None


def _is_header(cells: list[str], width: int | None) -> bool:
    """Return whether no cell after the first is a number, or they are column numbers of pandas."""
    if len(cells) == 1:  # a line of text is a row, whatever separates its cells
        return re.fullmatch(r"[^\W\d][\w .-]{0,60}", cells[0].strip()) is not None
    if _are_numbers_of_columns(cells, width):
        return True
    number_cells = [cell for cell in cells[1:] if numbers.is_number(cell)]
    return not number_cells and not any(vectors.find_form([cell], width) for cell in cells)


def _are_numbers_of_columns(cells: list[str], width: int | None) -> bool:
    """Return whether all numbers of a row count up from 0 or 1, as pandas numbers columns."""
    number_cells = [cell for cell in cells[1:] if numbers.is_number(cell)]
    for titles in (number_cells, [*cells[:1], *number_cells]):
        count = len(titles)
        is_embedding = count == width if width else count >= numbers.MIN_WIDTH
        if is_embedding and any(titles == [*map(str, range(i, i + count))] for i in (0, 1)):
            return True
    return False


def _choose_columns(
    path: str, header: list[str] | None, rows: Sequence["_CsvRow"], options: ReadOptions
) -> Columns:
    """Return which column is what by the first of these rows. Raises RowError."""
    # Its cells, without an empty one behind a separator at the end of each row
    cells = rows[0].checked_cells()
    if len(cells) > MAX_CELLS:
        raise RowError(f"{len(cells):,} cells, more than {MAX_CELLS:,}")
    count, has_end = len(cells), len(cells) > 2 and not cells[-1].strip()
    if has_end and (not header or not header[-1].strip() or len(header) == count - 1):
        cells, header = cells[:-1], header and header[: count - 1]
    has_row_names = not numbers.is_number(cells[0]) or cells[0] == "1"
    if header and len(header) == len(cells) - 1 and has_row_names:
        header = ["", *header]  # R's write.table gives the names of rows no title
    if header and len(header) != len(cells):
        raise RowError(f"{len(cells)} cells, not {len(header)} as in the header")

    # What they and some rows below show
    below = [row.cells[: len(cells)] for row in rows[1:] if row.fault is None]
    samples = inspect_columns([cells, *below][: 1 + MAX_SAMPLED_CELLS // count], options)
    made_up = _titles_beside(samples, options)
    made_up = made_up or _make_up_titles(cells, samples, options.width_of(count))
    if not header and not any(sample.width for sample in samples):
        # Nothing but its cells says what the row is: all of them must be good.
        name_count = sum(not title.isdecimal() for title in made_up)
        if not options.fits(len(cells) - name_count):
            if not any(sample.is_number for sample in samples):
                raise RowError(f"{numbers.excerpt(cells[0])} begins a row without any numbers")
            raise width_error(len(cells) - name_count, options)
        if name_count <= 1 and made_up[-1].isdecimal():
            numbers.parse_cells(cells[name_count:], "cell", 1 + name_count)

    # The columns; a first one with another title that is not a label holds names
    columns = _choose_by_titles(path, header, made_up, samples, options)
    is_rest = columns.embedding == tuple(range(1, len(cells)))
    first_title = (header or made_up)[0].strip().casefold()
    if is_rest and "name" not in columns.metadata and first_title not in LABEL_COLUMNS:
        columns = replace(columns, metadata=columns.metadata | {"name": 0}, unread_columns=())
    return replace(columns, count=count)


def _choose_by_titles(
    path: str, header: list[str] | None, made_up: list[str],
    samples: Sequence[Sample], options: ReadOptions,
) -> Columns:  # fmt: skip
    """Return the columns by the header, or, where its titles do not help, by a known width."""
    try:
        return choose_columns(path, header or made_up, samples, options)
    except RowError:
        if header and (options.width or options.widths) and not options.embedding:
            with contextlib.suppress(RowError):
                return choose_columns(path, made_up, samples, options)
        raise


def _make_up_titles(cells: list[str], samples: Sequence[Sample], width: int | None) -> list[str]:
    """Return titles of columns without a header: a vector, or numbers, perhaps behind a name."""
    count = len(cells)
    if any(sample.width for sample in samples):
        titles = [f"column {number}" for number in range(1, count + 1)]
        return titles if samples[0].width else ["filename", *titles[1:]]
    if width:
        has_name = count > width
    else:
        # 513 cells are a name and 512 numbers, also where the name looks like a number.
        is_counted = cells[0].isdecimal() and not any(map(str.isdecimal, cells[1:]))
        has_name = not samples[0].is_number or count % 16 == 1 or is_counted
    return ["filename"] * has_name + [*map(str, range(count - has_name))]


def _titles_beside(samples: Sequence[Sample], options: ReadOptions) -> list[str] | None:
    """Return titles where other cells stand beside a run of as many numbers as a model takes.

    The cell next before the run, or else behind it, is the name. None where there is no such run.
    """
    if not (options.width or options.widths) or any(sample.width for sample in samples):
        return None
    runs = itertools.groupby(range(len(samples)), lambda index: samples[index].is_number)
    run = max(([*indices] for is_run, indices in runs if is_run), key=len, default=[])
    if not options.fits(len(run)) or len(run) == len(samples):
        return None
    titles = [f"column {index + 1}" for index in range(len(samples))]
    titles[run[0] : run[-1] + 1] = map(str, range(len(run)))
    titles[run[0] - 1 if run[0] else run[-1] + 1] = "filename"
    return titles


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
        try:
            metadata[role] = [_decode(*groups[group : group + 2]) for groups in other_cells]
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
    for row in _read_csv_rows(io.BytesIO(chunk.data).readlines(), chunk.reader.dialect):
        yield chunks.Row(row.line, functools.partial(_parse_row, row, chunk.columns))


def _parse_row(row: "_CsvRow", columns: Columns) -> Callable[[int], str]:
    """Return the function from a column to its cell. Raises RowError."""
    cells = row.checked_cells()
    if len(cells) == columns.count:
        return cells.__getitem__
    name_count = columns.count - columns.width
    if columns.is_list or name_count not in (0, 1) or columns.metadata.get("name"):
        raise RowError(f"{len(cells)} cells, not {columns.count}")
    after_name = " after the name" * name_count
    raise RowError(f"{len(cells) - name_count} numbers{after_name}, not {columns.width}")


class _CsvRow(NamedTuple):
    """A row that is not blank, its lines counted from 1: its cells, or what is wrong with it."""

    line: int
    last_line: int
    cells: list[str]
    fault: RowError | None = None

    def checked_cells(self) -> list[str]:
        """Return its cells. Raises RowError."""
        if self.fault:
            raise self.fault
        return self.cells


def _read_csv_rows(lines: list[bytes], dialect: Dialect) -> Iterator[_CsvRow]:
    """Yield the rows of a text.

    One that is not CSV costs its first line only, in case a quote there was never closed; after
    100 of these, all that the parser took.
    """
    csv.field_size_limit(chunks.MAX_ROW_BYTES)  # here, so that it holds on a Dask worker too
    at, attempts, delimiter = 0, 100, dialect.delimiter.decode()
    while at < len(lines):
        first, fault, cells = at + 1, None, []
        rest = map(lines.__getitem__, range(at, len(lines)))
        texts = (dialect.prepared(line).decode("utf-8", "surrogateescape") for line in rest)
        reader = csv.reader(texts, delimiter=delimiter, strict=True)
        try:
            cells = next(reader)
            at += reader.line_num
            if sum(map(len, lines[first - 1 : at])) > chunks.MAX_ROW_BYTES:
                fault = RowError(f"longer than {chunks.MAX_ROW_BYTES:,} bytes")
        except csv.Error as error:
            fault = RowError(_describe(error))
            attempts -= 1
            at = first if attempts > 0 else at + reader.line_num
        if dialect.decimal_comma:
            cells = [_with_point(cell) for cell in cells]
        if fault or len(cells) > 1 or "".join(cells).strip():
            yield _CsvRow(first, at, cells, fault)


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if cell.count(",") == 1 and cell[-1:].isdigit() else cell


def _describe(error: csv.Error) -> str:
    # The module has one exception for all faults; its words are all that tells them apart.
    if "new-line" in str(error):
        return "a lone carriage return outside quotes; end lines with a line feed"
    if "end of data" in str(error):
        return "a quote is not closed"
    return f"not CSV: {error}"
