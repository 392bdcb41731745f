"""Find the header of a CSV, and choose the columns that are read."""

import contextlib
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from age_gender.embeddings import MAX_WIDTH, MIN_WIDTH
from age_gender.labels import LABEL_COLUMNS
from age_gender.readers import numbers, vectors
from age_gender.readers.bad_rows import RowError
from age_gender.readers.chunks import MAX_ROW_BYTES
from age_gender.readers.column_choice import choose_columns, width_error
from age_gender.readers.columns import Columns, ColumnSummary, ReadOptions, summarise_columns
from age_gender.readers.csv_dialects import Dialect
from age_gender.readers.csv_rows import CsvRow, read_rows

MAX_CELLS = 1 << 16  # cells in a row: far more than an embedding and its metadata
MAX_SAMPLED_CELLS = 1 << 18  # cells in the rows by which columns are chosen


class Header(NamedTuple):
    """Hold the titles of the columns, or None, and the size of the text above the rows."""

    titles: list[str] | None
    line_count: int
    byte_count: int


def find_header(lines: list[bytes], dialect: Dialect, width: int | None) -> Header:
    """Return the header of a table, which may follow other lines.

    If pandas wrote two levels of titles, the second is used where it numbers the columns.
    """
    skipped = lines[: dialect.skipped_lines]
    rows = read_rows(lines[len(skipped) :], dialect)
    first, second = next(rows, None), next(rows, None)
    titles, line_count = None, len(skipped)
    if first and not first.error and _is_header(first.cells, width):
        is_wide = second is not None and len(second.cells) > MIN_WIDTH
        header = second if is_wide and _are_column_numbers(second.cells, width) else first
        titles, line_count = header.cells, line_count + header.last_line
    elif first and not first.error and skipped:
        titles = _find_titles_in_comment(skipped[-1], len(first.cells), dialect)
    return Header(titles, line_count, sum(map(len, lines[:line_count])))


def _find_titles_in_comment(line: bytes, count: int, dialect: Dialect) -> list[str] | None:
    """Return `count` titles from the comment that numpy.savetxt writes above a table, or None."""
    row = next(read_rows([line.lstrip(b"# ")], dialect), None) if line.startswith(b"#") else None
    return row.cells if row and not row.error and len(row.cells) == count else None


def _is_header(cells: list[str], width: int | None) -> bool:
    """Return whether a row is a header: pandas' column numbers, or no numbers and no vectors.

    The first cell may be a number.
    """
    if len(cells) == 1:  # only a short word is a title; a line of text is a row
        return re.fullmatch(r"[^\W\d][\w .-]{0,60}", cells[0].strip()) is not None
    if _are_column_numbers(cells, width):
        return True
    number_cells = [cell for cell in cells[1:] if numbers.is_number_text(cell)]
    return not number_cells and not any(vectors.find_format([cell], width) for cell in cells)


def _are_column_numbers(cells: list[str], width: int | None) -> bool:
    """Return whether a row's numbers count up from 0 or 1, as pandas numbers columns."""
    number_cells = [cell for cell in cells[1:] if numbers.is_number_text(cell)]
    for titles in (number_cells, [*cells[:1], *number_cells]):
        count = len(titles)
        is_embedding = count == width if width else count >= MIN_WIDTH
        if is_embedding and any(titles == [*map(str, range(i, i + count))] for i in (0, 1)):
            return True
    return False


def choose_csv_columns(
    path: str, header: list[str] | None, options: ReadOptions, rows: Sequence[CsvRow]
) -> Columns:
    """Return the columns to read, chosen by the first of these rows. Raises RowError."""
    # Summarise the columns
    if rows[0].error:
        raise rows[0].error
    cells = rows[0].cells
    count = len(cells)
    if count > MAX_CELLS:
        raise RowError(f"{count:,} cells, more than {MAX_CELLS:,}")
    cells, header = _align_titles(cells, header)
    below = [row.cells[: len(cells)] for row in rows[1:] if row.error is None]
    summaries = summarise_columns([cells, *below][: 1 + MAX_SAMPLED_CELLS // count], options)
    placeholders = _make_placeholders_around(summaries, options)
    placeholders = placeholders or _make_placeholders(cells, summaries, options)
    if not header and not any(summary.width for summary in summaries):
        _check_numbers(cells, placeholders, summaries, options)

    # Choose columns; before the embedding, a single column that is no label holds names
    columns = _choose_by_titles(path, header, placeholders, summaries, options)
    has_one_column_before = columns.embedding == tuple(range(1, len(cells)))
    first_title = (header or placeholders)[0].strip().casefold()
    if (
        has_one_column_before
        and "name" not in columns.metadata_columns
        and first_title not in LABEL_COLUMNS
    ):
        metadata_columns = columns.metadata_columns | {"name": 0}
        columns = replace(columns, metadata_columns=metadata_columns, unread_columns=())
    return replace(columns, column_count=count)


def _align_titles(cells: list[str], header: list[str] | None) -> tuple[list[str], list[str] | None]:
    """Return the first row's cells and as many titles, or None. Raises RowError if they differ."""
    # Drop the empty cell after a separator that ends each row
    ends_empty = len(cells) > 2 and not cells[-1].strip()
    if ends_empty and (not header or not header[-1].strip() or len(header) == len(cells) - 1):
        cells = cells[:-1]
        header = header and header[: len(cells)]

    # Add the title that R's write.table does not give to row names
    has_row_name = not numbers.is_number_text(cells[0]) or cells[0] == "1"
    if header and len(header) == len(cells) - 1 and has_row_name:
        header = ["", *header]
    if header and len(header) != len(cells):
        raise RowError(f"{len(cells)} cells, not {len(header)} as in the header")
    return cells, header


def _check_numbers(
    cells: list[str], placeholders: list[str], summaries: Sequence[ColumnSummary],
    options: ReadOptions,
) -> None:  # fmt: skip
    """Raise RowError unless all cells but a name are the numbers of an embedding.

    Without a header, only these cells show what the row is, so all of them must be good.
    """
    name_count = sum(not title.isdecimal() for title in placeholders)
    if not options.fits(len(cells) - name_count):
        if not any(summary.is_number for summary in summaries):
            raise RowError(f"{numbers.excerpt(cells[0])} begins a row without any numbers")
        raise width_error(len(cells) - name_count, options)
    if name_count <= 1 and placeholders[-1].isdecimal():
        numbers.parse_cells(cells[name_count:], "cell", 1 + name_count)


def is_transposed(path: str, header_lines: int, dialect: Dialect, options: ReadOptions) -> bool:
    """Return whether a file has as many rows as an embedding has numbers; False for a pipe."""
    if not os.path.isfile(path):
        return False
    rows, last_line = -header_lines, b""
    with open(path, "rb") as stream:
        while rows <= MAX_WIDTH and (line := stream.readline(MAX_ROW_BYTES)):
            rows, last_line = rows + 1, line
    counts = [len(row.cells) for row in read_rows([last_line], dialect)]
    counts += [count - 1 for count in counts if count > 1]  # the first cell may be a title
    return all(options.looks_transposed(rows, count) for count in counts)


def _choose_by_titles(
    path: str, header: list[str] | None, placeholders: list[str],
    summaries: Sequence[ColumnSummary], options: ReadOptions,
) -> Columns:  # fmt: skip
    """Return the columns by the header, or, if its titles do not help, by a known width."""
    try:
        return choose_columns(path, header or placeholders, summaries, options)
    except RowError:
        if header and (options.width or options.widths) and not options.embedding_column:
            with contextlib.suppress(RowError):
                return choose_columns(path, placeholders, summaries, options)
        raise


def _make_placeholders(
    cells: list[str], summaries: Sequence[ColumnSummary], options: ReadOptions
) -> list[str]:
    """Return titles for a headerless table of vectors or numbers, with or without names."""
    count, width = len(cells), options.find_row_width(len(cells))
    if any(summary.width for summary in summaries):
        titles = [f"column {number}" for number in range(1, count + 1)]
        return titles if summaries[0].width else ["filename", *titles[1:]]
    if width:
        has_name = count > width
    else:
        # 513 cells are a name and 512 numbers, even if the name looks like a number.
        is_row_number = cells[0].isdecimal() and not any(map(str.isdecimal, cells[1:]))
        has_name = not summaries[0].is_number or count % 16 == 1 or is_row_number
    return ["filename"] * has_name + [*map(str, range(count - has_name))]


def _make_placeholders_around(
    summaries: Sequence[ColumnSummary], options: ReadOptions
) -> list[str] | None:
    """Return titles for a headerless table whose embedding is among other cells.

    The embedding is a run of as many numbers as a model takes. The cell before the run is the
    name, or else the cell after it. None if there is no such run.
    """
    if not (options.width or options.widths) or any(summary.width for summary in summaries):
        return None
    runs = itertools.groupby(range(len(summaries)), lambda index: summaries[index].is_number)
    run = max(([*indices] for is_run, indices in runs if is_run), key=len, default=[])
    if not options.fits(len(run)) or len(run) == len(summaries):
        return None
    titles = [f"column {index + 1}" for index in range(len(summaries))]
    titles[run[0] : run[-1] + 1] = map(str, range(len(run)))
    titles[run[0] - 1 if run[0] else run[-1] + 1] = "filename"
    return titles
