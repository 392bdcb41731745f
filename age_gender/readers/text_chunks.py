"""Text cut at the ends of its rows, in bounded memory whatever the length of a line."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from age_gender.cli import InputError
from age_gender.readers import chunks
from age_gender.readers.errors import BadRow

DENSE_BYTES = 64 << 10  # a chunk where rows are far too short: each costs memory of its own
DENSE_ROW = 512  # bytes; 512 numbers need a thousand
TOO_LONG = "longer than %s bytes: a quote, a bracket or the line end is missing"

BOM = b"\xef\xbb\xbf"
_CONTROL = bytes(set(range(32)) - set(b"\t\r\n"))
_QUOTED = re.compile(rb'"(?:[^"]+|"")*+("?)')  # "" stands for a quote


def parts(
    start: chunks.Chunk, stream: BinaryIO, row_end: Callable[[bytes], int], row_mark: bytes = b"\n"
) -> Iterator[chunks.Chunk]:
    """Yield `start` with the text up to the last row that ends, which `row_end` finds in what was
    read so far; rows end with `row_mark`.

    A row that is too long costs its first line, in case a quote there was never closed. If that
    does not help, or there is no line end, it costs what has been read.
    """
    offset = len(BOM) if stream.peek(len(BOM)).startswith(BOM) else 0  # of the end of what was read
    rest, needed, pieces = b"", 0, _read(start.path, stream, row_mark)
    for piece in pieces:
        rest += piece
        offset += len(piece)
        if len(rest) < needed:  # where no row ended so far; not to look at it again and again
            continue
        for attempt in range(2):
            cut = row_end(rest)
            if cut:
                place = offset - len(rest)
                yield replace(start, data=rest[:cut], offset=place, input_bytes=cut)
                rest = rest[cut:]
            needed = 0 if cut else min(2 * len(rest), chunks.RECORD_BYTES + 1)
            if len(rest) <= chunks.RECORD_BYTES:
                break
            end = (rest.rfind if attempt else rest.find)(b"\n") + 1
            lines = rest.count(b"\n", 0, end) or 1
            bad = [BadRow(start.path, 1, 1, TOO_LONG % chunks.RECORD_BYTES)]
            yield replace(start, bad=bad, lines=lines)
            while not end:  # bounded memory whatever the length of a line
                rest = next(pieces, None)
                if rest is None:
                    return
                offset += len(rest)
                end = rest.find(b"\n") + 1
            rest = rest[end:]
    if rest:
        yield replace(start, data=rest, offset=offset - len(rest), input_bytes=len(rest))


class Joined(io.RawIOBase):
    """What was read of a stream, and the rest of it."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self.head, self.rest = memoryview(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self.head[: len(buffer)] or self.rest.read1(len(buffer))
        self.head = self.head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def head_of(stream: BinaryIO, size: int) -> tuple[bytes, BinaryIO]:
    """Return the first bytes of a stream, and the stream, in which they still are."""
    if stream.seekable():  # a new stream round it would copy everything once more
        start = stream.tell()
        head = stream.read(size)
        stream.seek(start)
        return head, stream
    head = stream.read(size)
    return head, io.BufferedReader(Joined(head, stream))


def first_mark(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """Return the first character that is no space and no mark of an encoding, and the stream.

    A pipe may pause before it: the stream is a new one where something was read of it.
    """
    mark = stream.peek(64).removeprefix(BOM).lstrip()[:1]
    if mark and mark not in BOM:
        return mark, stream
    head = bytearray()
    while len(head) < chunks.RECORD_BYTES and (byte := stream.read(1)):
        head += byte
        if not BOM.startswith(head) and not byte.isspace():
            break
    mark = bytes(head).removeprefix(BOM).lstrip()[:1] or b" "
    return mark, io.BufferedReader(Joined(head, stream))


def _read(path: str, stream: BinaryIO, row_mark: bytes) -> Iterator[bytes]:
    """Yield what the stream holds, up to line ends where that is not far; in smaller pieces where
    rows, which end with `row_mark`, are so short that they cost memory.
    """
    piece = stream.read(chunks.CHUNK_BYTES)
    check_is_text(path, piece)
    piece = piece.removeprefix(BOM) or stream.read(chunks.CHUNK_BYTES)
    while piece:
        piece += stream.readline(chunks.RECORD_BYTES)
        ends, at = 0, piece.find(row_mark)
        while at >= 0 and ends * DENSE_ROW <= len(piece):
            ends, at = ends + 1, piece.find(row_mark, at + 1)
        size = len(piece) if at < 0 else DENSE_BYTES
        yield from (piece[i : i + size] for i in range(0, len(piece), size))
        piece = stream.read(chunks.CHUNK_BYTES)


def check_is_text(path: str, start: bytes) -> None:
    """Raise InputError where a file that begins like this is no UTF-8 text."""
    formats = {
        b"\xff\xfe": "UTF-16 text; save it as UTF-8",
        b"\xfe\xff": "UTF-16 text; save it as UTF-8",
        b"PK\x03\x04": "a ZIP file; give an NPZ the suffix .npz, or unpack it",
        b"\x93NUMPY": "an NPY file; give it the suffix .npy",
        b"PAR1": "a Parquet file; give it the suffix .parquet",
        b"\x1f\x8b": "compressed twice; unpack it",
        b"SQLite format 3\0": "an SQLite database; give it the suffix .sqlite",
    }
    for magic, format in formats.items():
        if start.startswith(magic):
            raise InputError(f"{path}: not CSV but {format}")
    start = start[:4096]
    if len(start.translate(None, _CONTROL)) < 0.95 * len(start):
        raise InputError(f"{path}: not CSV but binary data; save the embeddings as UTF-8 CSV")


def last_row_end(data: bytes, delimiter: bytes = b",") -> int:
    """Return the offset behind the last row of CSV that ends in `data`, outside quotes."""
    position, end, starts = 0, 0, delimiter + b"\r\n"
    quote = data.find(b'"')
    while quote >= 0:
        if quote and data[quote - 1] not in starts:  # not at the start of a cell
            quote = data.find(b'"', quote + 1)
            continue
        cell = _QUOTED.match(data, quote)
        end = max(end, data.rfind(b"\n", position, quote) + 1)
        if not cell[1]:  # it is still open
            return end
        position = cell.end()
        quote = data.find(b'"', position)
    return max(end, data.rfind(b"\n", position) + 1)
