"""Text cut at the ends of its rows, in bounded memory whatever the length of a line."""

import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO, NamedTuple

import numpy as np

from age_gender.script import InputError
from age_gender.tables import pieces
from age_gender.tables.columns import Columns

DENSE_BYTES = 64 << 10  # a chunk where rows are far too short: each costs memory of its own
DENSE_ROW = 512  # bytes; 512 numbers need a thousand
TOO_LONG = "longer than %s bytes: a quote, a bracket or the line end is missing"
CUT_OFF = "the array does not end here, but the file does: it is cut off"

BOM = b"\xef\xbb\xbf"
_CONTROL = bytes(set(range(32)) - set(b"\t\r\n"))
_ONE_LINE = bytes.maketrans(b"\r\n", b"\t\t")  # a space in JSON, but where it is none in a string
# Of JSON: a string, whose group is empty where it is still open, or a bracket outside of strings.
_TOKEN = re.compile(rb'"(?:[^"\\]+|\\.)*+("?)|[{}\[\]]', re.DOTALL)
_QUOTED = re.compile(rb'"(?:[^"]+|"")*+("?)')  # "" stands for a quote


class Bad(NamedTuple):
    """In place of a row that cannot be cut out: what is wrong, and over how many lines."""

    reason: str
    lines: int


def parts(
    path: str, stream: BinaryIO, row_end: Callable[[bytes], int] | None = None
) -> Iterator[bytes | Bad]:
    """Cut text behind the last row that ends, which `row_end` finds in what was read so far.

    By default the text is CSV, in which a name in quotes may hold line breaks. A row that is too
    long costs its first line, in case a quote there was never closed. If that does not help, or
    there is no line end, it costs what has been read.
    """
    rest, wanted, found = b"", 0, chunks(path, stream)
    for chunk in found:
        rest += chunk
        if len(rest) < wanted:  # where no row ended so far; not to look at it again and again
            continue
        for attempt in range(2):
            cut = (row_end or _last_row_end)(rest)
            if cut:
                yield rest[:cut]
                rest = rest[cut:]
            wanted = 0 if cut else min(2 * len(rest), pieces.RECORD_BYTES + 1)
            if len(rest) <= pieces.RECORD_BYTES:
                break
            end = (rest.rfind if attempt else rest.find)(b"\n") + 1
            yield Bad(TOO_LONG % pieces.RECORD_BYTES, rest.count(b"\n", 0, end) or 1)
            while not end:  # bounded memory whatever the length of a line
                rest = next(found, None)
                if rest is None:
                    return
                end = rest.find(b"\n") + 1
            rest = rest[end:]
    if rest:
        yield rest


def objects(path: str, stream: BinaryIO) -> Iterator[bytes]:
    """What a JSON array holds, a line each, whatever the line breaks in the file."""
    rest, wanted, count, closed = b"", 0, -1, False
    found = itertools.chain(chunks(path, stream, b"}"), [b""])
    for chunk in found:
        rest += chunk
        if chunk and len(rest) < wanted:
            continue
        lines, end, depth = [], 0, 0
        if count < 0:  # behind the bracket with which the array begins
            count, end = 0, rest.find(b"[") + 1
        for token in _TOKEN.finditer(rest, end):
            mark = token[0]
            if depth == 0 and mark in b"{[]":
                lines.append(rest[end : token.start()].strip(b", \t\r\n"))  # nothing, or no object
                end, closed = token.start(), mark == b"]"
                if closed:
                    break
            if mark in b"{[":
                depth += 1
            elif mark in b"}]":
                depth -= 1
                if depth <= 0:
                    lines.append(rest[end : token.end()])
                    end, depth = token.end(), 0
            elif not token[1]:  # a string that is still open
                break
        rest, lines = rest[end:], [*filter(None, lines)]
        wanted = 0 if lines else 2 * len(rest)
        count += len(lines)
        if lines:
            yield b"".join(line.translate(_ONE_LINE) + b"\n" for line in lines)
        if closed or len(rest) > pieces.RECORD_BYTES:
            break
    if not closed:
        reason = TOO_LONG % pieces.RECORD_BYTES if len(rest) > pieces.RECORD_BYTES else CUT_OFF
        raise InputError(f"{path}: row {count + 1}: {reason}; write the file again")
    if rest[1:].strip() or any(chunk.strip() for chunk in found):
        raise InputError(f"{path}: there is more behind the end of the array; write one array")


def cut_parts(
    waiting: pieces.Piece,
    parts: Iterable[bytes | Bad],
    layout: Callable[[bytes | Bad], tuple[int, Columns | None, list[str] | None]],
    only: bool,
) -> Iterator[pieces.Piece]:
    """Pieces of text, one part behind, since the last one must say that it is.

    `layout` is asked of each part, until it knows, how many lines come before the data, which
    column is what, and for a header that a later part needs.
    """
    kind = waiting.kind
    for part in parts:
        if waiting.data:
            yield waiting
            waiting = replace(waiting, kind=kind, data=b"", header_lines=0, first=False)
        if isinstance(part, Bad):
            lines = waiting.header_lines + part.lines - 1
            waiting = replace(
                waiting, kind="fault", data=part.reason, header_lines=lines, input_bytes=0
            )
            layout(part)
            continue
        size = len(part)
        if waiting.columns is None:
            before, columns, header = layout(part)
            lines = waiting.header_lines + before
            waiting = replace(waiting, columns=columns, header=header, header_lines=lines)
            if before:
                part = b"".join(io.BytesIO(part).readlines()[before:])
        waiting = replace(waiting, data=part, input_bytes=size)
    yield replace(waiting, last=True, only=only and waiting.first)


def first_mark(stream: BinaryIO) -> bytes:
    """The first character of a stream, which stays in it, without a mark of its encoding."""
    return stream.peek(64).removeprefix(BOM).lstrip()[:1] or b" "


def chunks(path: str, stream: BinaryIO, row_mark: bytes = b"\n") -> Iterator[bytes]:
    """What the stream holds, up to line ends where that is not far; in smaller chunks where
    rows, which end with `row_mark`, are so short that they cost memory.
    """
    chunk = stream.read(pieces.CHUNK_BYTES)
    check_is_text(path, chunk)
    chunk = chunk.removeprefix(BOM) or stream.read(pieces.CHUNK_BYTES)
    while chunk:
        chunk += stream.readline(pieces.RECORD_BYTES)
        dense = _count(chunk, row_mark) * DENSE_ROW > len(chunk)
        size = DENSE_BYTES if dense else len(chunk)
        yield from (chunk[i : i + size] for i in range(0, len(chunk), size))
        chunk = stream.read(pieces.CHUNK_BYTES)


def check_is_text(path: str, start: bytes) -> None:
    kinds = {
        b"\xff\xfe": "UTF-16 text; save it as UTF-8",
        b"\xfe\xff": "UTF-16 text; save it as UTF-8",
        b"PK\x03\x04": "a ZIP file; give an NPZ the suffix .npz, or unpack it",
        b"\x93NUMPY": "an NPY file; give it the suffix .npy",
        b"PAR1": "a Parquet file; give it the suffix .parquet",
        b"\x1f\x8b": "compressed; pipe it through gzip -dc into --features -",
        b"SQLite format 3\0": "an SQLite database; give it the suffix .sqlite",
    }
    for magic, kind in kinds.items():
        if start.startswith(magic):
            raise InputError(f"{path}: not CSV but {kind}")
    start = start[:4096]
    if len(start.translate(None, _CONTROL)) < 0.95 * len(start):
        raise InputError(f"{path}: not CSV but binary data; save the embeddings as UTF-8 CSV")


def _last_row_end(data: bytes) -> int:
    """The offset behind the last row that ends in `data`: at a line end outside quotes."""
    position = end = 0
    quote = data.find(b'"')
    while quote >= 0:
        if quote and data[quote - 1] not in b",\r\n":  # not at the start of a cell
            quote = data.find(b'"', quote + 1)
            continue
        cell = _QUOTED.match(data, quote)
        end = max(end, data.rfind(b"\n", position, quote) + 1)
        if not cell[1]:  # it is still open
            return end
        position = cell.end()
        quote = data.find(b'"', position)
    return max(end, data.rfind(b"\n", position) + 1)


def _count(data: bytes, character: bytes) -> int:
    """What data.count(character) returns, ten times as fast."""
    return np.count_nonzero(np.frombuffer(data, np.uint8) == ord(character))
