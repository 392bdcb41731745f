"""Split text at the ends of its rows, in bounded memory whatever the length of a line."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from age_gender.errors import InputError
from age_gender.readers import chunks, unsupported_formats
from age_gender.readers.bad_rows import BadRow

DENSE_ROW_BYTES = 512  # mean bytes of a short row; a row of 512 numbers has over 1,000
DENSE_BYTES = 64 << 10  # bytes in a chunk of short rows, as each row takes memory of its own
MAX_BLANK_BYTES = 64 << 20  # bytes of leading white space that are skipped to see what the text is
TOO_LONG = (
    f"longer than {chunks.MAX_ROW_BYTES:,} bytes: a quote, a bracket or the line end is missing"
)

BOM = b"\xef\xbb\xbf"  # the byte-order mark of UTF-8
_CONTROL = bytes(set(range(32)) - set(b"\t\r\n"))
_QUOTED = re.compile(rb'"(?:[^"]+|"")*+("?)')  # "" stands for a quote


def split_into_chunks(
    template: chunks.Chunk,
    stream: BinaryIO,
    find_end: Callable[[bytes], int],
    row_terminator: bytes = b"\n",
    skipped_bytes: int = 0,
) -> Iterator[chunks.Chunk]:
    """Yield copies of `template` that hold the bytes of whole rows, in order.

    `find_end` returns the offset after the last whole row in a text, or 0; rows end with
    `row_terminator`. A row over MAX_ROW_BYTES is reported as bad. Reading resumes after its
    first line, since a quote in it may be unclosed. If the rest is too long as well, or has no line
    end, reading resumes after all bytes read so far. A byte-order mark and the `skipped_bytes`
    after it are left out.
    """
    offset = len(BOM) if stream.peek(len(BOM)).startswith(BOM) else 0  # offset of `rest`
    offset += skipped_bytes
    stream.read(offset)
    rest, needed, pieces = b"", 0, _read_pieces(stream, row_terminator)
    for piece in pieces:
        rest += piece
        if len(rest) < needed:  # without a whole row, twice as much is read before the next search
            continue
        # Resume after too long a row at its first line end, then at the last one read
        for find_line_end in (bytes.find, bytes.rfind):
            if end := find_end(rest):
                yield replace(template, data=rest[:end], file_range=(offset, end), input_bytes=end)
                rest, offset = rest[end:], offset + end
            needed = 0 if end else min(2 * len(rest), chunks.MAX_ROW_BYTES + 1)
            if len(rest) <= chunks.MAX_ROW_BYTES:
                break
            line_count, skipped, rest = _skip_long_row(rest, pieces, find_line_end)
            bad_rows = [BadRow(template.path, 1, 1, TOO_LONG)]
            yield replace(template, bad_rows=bad_rows, lines_above_count=line_count)
            offset += skipped
    if rest:
        size = len(rest)
        yield replace(template, data=rest, file_range=(offset, size), input_bytes=size)


def _skip_long_row(
    rest: bytes, pieces: Iterator[bytes], find_line_end: Callable[[bytes, bytes], int]
) -> tuple[int, int, bytes]:
    """Return how many lines and bytes the first row of `rest` takes, and the bytes after it.

    The row ends at the line end that `find_line_end` finds, or else at the first in `pieces`.
    """
    end, skipped = find_line_end(rest, b"\n") + 1, 0
    line_count = rest.count(b"\n", 0, end) or 1
    while rest and not end:  # keep only one piece in memory
        skipped += len(rest)
        rest = next(pieces, b"")
        end = rest.find(b"\n") + 1
    return line_count, skipped + end, rest[end:]


class JoinedStream(io.RawIOBase):
    """Read the bytes that were already read from a stream again, and then the rest."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self.head, self.rest = memoryview(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self.head[: len(buffer)] or self.rest.read1(len(buffer))
        self.head = self.head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def read_head(stream: BinaryIO, size: int) -> tuple[bytes, BinaryIO]:
    """Return the first bytes of a stream, and a stream that begins with them again."""
    if stream.seekable():  # a JoinedStream would copy all bytes again
        start = stream.tell()
        head = stream.read(size)
        stream.seek(start)
        return head, stream
    head = stream.read(size)
    return head, io.BufferedReader(JoinedStream(head, stream))


def first_character(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """Return the first byte after white space and a byte-order mark, and the whole stream.

    No more is read from a pipe than it takes to see that byte.
    """
    character = stream.peek(64).removeprefix(BOM).lstrip()[:1]
    if character and character not in BOM:
        return character, stream
    head = bytearray()
    while len(head) < MAX_BLANK_BYTES and (piece := stream.read1(chunks.CHUNK_BYTES)):
        head += piece
        if not BOM.startswith(head) and piece.strip():
            break
    character = bytes(head).removeprefix(BOM).lstrip()[:1] or b" "
    return character, io.BufferedReader(JoinedStream(head, stream))


def _read_pieces(stream: BinaryIO, row_terminator: bytes) -> Iterator[bytes]:
    """Yield the bytes of a stream in pieces, smaller ones if rows are short.

    They end at line ends where lines are not too long; rows end with `row_terminator`.
    """
    while piece := stream.read(chunks.CHUNK_BYTES):
        piece += stream.readline(chunks.MAX_ROW_BYTES)
        ends, offset = 0, piece.find(row_terminator)
        while offset >= 0 and ends * DENSE_ROW_BYTES <= len(piece):
            ends, offset = ends + 1, piece.find(row_terminator, offset + 1)
        size = len(piece) if offset < 0 else DENSE_BYTES
        yield from (piece[i : i + size] for i in range(0, len(piece), size))


def check_is_text(path: str, start: bytes) -> None:
    """Raise InputError if the bytes at the start of a file show that it is not UTF-8 text."""
    formats = {
        b"\xff\xfe": "UTF-16 text; save it as UTF-8",
        b"\xfe\xff": "UTF-16 text; save it as UTF-8",
        b"PK\x03\x04": "a ZIP file; give an NPZ the suffix .npz, or unpack it",
        b"\x93NUMPY": "an NPY file; give it the suffix .npy",
        b"PAR1": "a Parquet file; give it the suffix .parquet",
        b"\x1f\x8b": "compressed twice; unpack it",
        b"SQLite format 3\0": "an SQLite database; give it the suffix .sqlite",
    }
    for magic, description in formats.items():
        if start.startswith(magic):
            raise InputError(f"{path}: not UTF-8 text but {description}")
    start = start[:4096]
    text_bytes = len(start.translate(None, _CONTROL))
    if text_bytes < len(start):
        unsupported_formats.refuse_unsupported(path)
    if text_bytes < 0.95 * len(start):
        raise InputError(f"{path}: binary data, not text; save the embeddings as UTF-8 CSV or JSON")


def last_row_end(data: bytes, delimiter: bytes = b",") -> int:
    """Return the offset after the last CSV row that ends in `data`, outside quotes; or 0."""
    position, end, starts = 0, 0, delimiter + b"\r\n"
    quote = data.find(b'"')
    while quote >= 0:
        if quote and data[quote - 1] not in starts:  # not at the start of a cell
            quote = data.find(b'"', quote + 1)
            continue
        cell = _QUOTED.match(data, quote)
        end = max(end, data.rfind(b"\n", position, quote) + 1)
        if not cell[1]:  # the quote is still open
            return end
        position = cell.end()
        quote = data.find(b'"', position)
    return max(end, data.rfind(b"\n", position) + 1)
