"""Check Parquet's pages before Arrow decodes them, since a few bytes may claim gigabytes.

The format: parquet.thrift of https://github.com/apache/parquet-format, in the compact protocol.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from age_gender.errors import InputError
from age_gender.readers import thrift

MAX_PAGE_BYTES = 128 << 20  # size of a decompressed page; DuckDB writes up to 100 MB, others 1 MB
MAX_PAGE_HEADER_BYTES = 16 << 20  # Arrow has the same bound
MAX_LIST_VALUES = 1 << 22  # numbers in lists that are decoded however few bytes they take
# Arrow's names of parquet.thrift's compression codecs, by their numbers
_CODECS = ("", "snappy", "gzip", "", "brotli", "", "zstd", "lz4_raw")
_read_path = thrift.make_list_reader(thrift.read_text)
# Bytes of a dictionary page up to which its entries are not measured: repeating them is harmless
SMALL_DICTIONARY_BYTES = 32 << 10
# Numbers per compressed byte above which lists are refused; a run of zeros may claim any number
MAX_VALUES_PER_BYTE = 8
# Field numbers of FileMetaData, RowGroup and ColumnChunk in parquet.thrift
ROW_GROUPS, GROUP_COLUMNS, GROUP_ROWS, COLUMN_METADATA = 4, 1, 3, 3
# Of ColumnMetaData
PATH, CODEC, COMPRESSED_SIZE, DATA_OFFSET, DICTIONARY_OFFSET = 3, 4, 7, 9, 11
# Of PageHeader
PAGE_TYPE, DECOMPRESSED_SIZE, PAGE_SIZE, DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 1, 2, 3, 5, 7, 8
_PAGES_BY_TYPE = {0: DATA_PAGE, 2: DICTIONARY_PAGE, 3: DATA_PAGE_V2}
_PAGE_FIELDS = dict.fromkeys(_PAGES_BY_TYPE.values(), thrift.read_struct)
_unpack_length = struct.Struct("<I").unpack_from  # length of a text in a dictionary


class Span(NamedTuple):
    """Say where the pages of a column in a row group are."""

    start: int  # offset in the file
    size: int
    codec: int  # number of the compression codec in parquet.thrift


class Layout(NamedTuple):
    """Say where the columns of a file are; leaves of nested ones have titles as `image.path`."""

    columns: list[str]
    rows_per_group: list[int]
    spans: list[list[Span]]  # by row group and column


class Pages(NamedTuple):
    """Say what a column's pages in a row group claim to hold in all."""

    values: int
    value_bytes: int  # mean size of a value in the page where it is largest
    largest_entry: int  # bytes of the dictionary's largest entry, which any number of rows may have


def read_layout(path: str) -> Layout:
    """Return where the columns of a file are. Raises InputError if its metadata is broken.

    Arrow 26 crashes the process over some broken metadata (statistics of sizes that do not fit
    the schema), so it is parsed here; Arrow's decoders do not crash.
    """
    with open(path, "rb") as stream:
        stream.seek(-8, os.SEEK_END)
        size = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - size, os.SEEK_END)
        data = stream.read(size)
    try:
        parsers = {ROW_GROUPS: thrift.make_list_reader(_read_row_group)}
        groups = thrift.read_struct(data, 0, parsers)[0].get(ROW_GROUPS, [])
        columns = [column for column, _ in groups[0].columns] if groups else []
        if any(len(group.columns) != len(columns) for group in groups):
            raise ValueError
        spans = [[span for _, span in group.columns] for group in groups]
        return Layout(columns, [group.row_count for group in groups], spans)
    except (LookupError, ValueError, TypeError, RecursionError, OverflowError):
        raise _metadata_error(path) from None


class _RowGroup(NamedTuple):
    columns: list[tuple[str, Span]]  # with their paths
    row_count: int


def _read_row_group(data: bytes, offset: int) -> tuple[_RowGroup, int]:
    readers = {GROUP_COLUMNS: thrift.make_list_reader(_read_column)}
    fields, offset = thrift.read_struct(data, offset, readers)
    return _RowGroup(fields[GROUP_COLUMNS], fields[GROUP_ROWS]), offset


def _read_column(data: bytes, offset: int) -> tuple[tuple[str, Span], int]:
    fields, offset = thrift.read_struct(data, offset, {COLUMN_METADATA: _read_column_metadata})
    metadata = fields[COLUMN_METADATA]
    start = metadata[DATA_OFFSET]
    start = min(start, metadata.get(DICTIONARY_OFFSET) or start)  # a dictionary comes first
    span = Span(start, metadata[COMPRESSED_SIZE], metadata[CODEC])
    return (".".join(metadata[PATH]), span), offset


def _read_column_metadata(data: bytes, offset: int) -> tuple[dict, int]:
    return thrift.read_struct(data, offset, {PATH: _read_path})


def check_pages(path: str, name: str, span: Span, is_list: bool, is_number: bool = False) -> Pages:
    """Return what a column's pages in a row group hold.

    Raises InputError if they are too large to decode. Numbers (`is_number`) are decoded batch by
    batch, however many a page claims to have.
    """
    values = value_bytes = largest_entry = 0
    for page in _read_headers(path, span.start, span.start + span.size):
        if not 0 <= page.decompressed <= MAX_PAGE_BYTES:
            raise InputError(
                f"{path}: the column {name}: a page of {page.decompressed:,} bytes; write it "
                f"again, in pages of at most {MAX_PAGE_BYTES >> 20} MB"
            )
        if page.is_dictionary:
            if page.values > page.decompressed:
                raise _metadata_error(path)
            largest_entry = page.decompressed
            if largest_entry > SMALL_DICTIONARY_BYTES and not (is_list or is_number):
                largest_entry = _largest_entry(path, page, span.codec)
        else:
            values += page.values
            value_bytes = max(value_bytes, page.decompressed // max(1, page.values))
    if is_list and values > max(MAX_LIST_VALUES, MAX_VALUES_PER_BYTE * span.size):
        raise InputError(
            f"{path}: the column {name}: {values:,} numbers in {span.size:,} bytes; write lists of "
            "one embedding each"
        )
    return Pages(values, value_bytes, largest_entry)


class _PageHeader(NamedTuple):
    is_dictionary: bool
    decompressed: int  # size of the decompressed page
    size: int  # size in the file
    values: int
    start: int  # offset in the file


def _read_headers(path: str, offset: int, end: int) -> Iterator[_PageHeader]:
    """Yield the headers of a column's pages."""
    file = os.open(path, os.O_RDONLY)
    try:
        if not 0 < offset <= end <= os.fstat(file).st_size:
            raise _metadata_error(path)
        while offset < end:
            header = _read_header(path, file, offset)
            offset = header.start + header.size
            if header.size < 0 or offset > end:
                raise _metadata_error(path)
            yield header
    finally:
        os.close(file)


def _read_header(path: str, file: int, offset: int) -> _PageHeader:
    """Read a page's header, of up to MAX_PAGE_HEADER_BYTES, in growing pieces."""
    size = 256
    while size <= MAX_PAGE_HEADER_BYTES:
        try:
            fields, end = thrift.read_struct(os.pread(file, size, offset), 0, _PAGE_FIELDS)
            page = _PAGES_BY_TYPE.get(fields[PAGE_TYPE], DATA_PAGE)
            values = fields[page][1]
            sizes = fields[DECOMPRESSED_SIZE], fields[PAGE_SIZE]
            return _PageHeader(page == DICTIONARY_PAGE, *sizes, values, offset + end)
        except IndexError:  # the header is longer
            size *= 16
        except (KeyError, ValueError, TypeError, RecursionError):
            break
    raise _metadata_error(path)


def _largest_entry(path: str, page: _PageHeader, codec: int) -> int:
    """Return an upper bound of the longest entry's length in a dictionary page, mostly exact."""
    import pyarrow as pa

    with open(path, "rb") as stream:
        stream.seek(page.start)
        data = stream.read(page.size)
    try:
        if codec > 0:
            data = pa.decompress(data, page.decompressed, _CODECS[codec], asbytes=True)
    except (pa.ArrowException, OSError, ValueError, IndexError):
        return page.decompressed  # no entry is longer than the page
    offset = largest = 0
    with contextlib.suppress(struct.error):  # at the end
        while True:  # each entry follows its length
            (size,) = _unpack_length(data, offset)
            offset += 4 + size
            if size > largest:
                largest = size
    return largest


def _metadata_error(path: str) -> InputError:
    return InputError(f"{path}: not a readable .parquet file (broken metadata); write it again")
