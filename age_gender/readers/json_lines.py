"""JSON of any shape cut into a row a line, in bounded memory where its shape allows it."""

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from age_gender.cli import InputError
from age_gender.readers import chunks, json_shapes, numbers, text_chunks
from age_gender.readers.errors import RowError

HEAD_BYTES = 1 << 20  # that show the shape of JSON
BEGUN_BYTES = 1 << 18  # of a document that is not whole in them
WHOLE_BYTES = 1 << 30  # of a document that cannot be read in parts

_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)  # one that is still open, too
_KEY = re.compile(rb'("(?:[^"\\]|\\.)*")\s*:\s*\Z', re.DOTALL)
_BETWEEN = b", \t\r\n"  # elements of an array
_ONE_LINE = bytes.maketrans(b"\r\n", b"\t\t")  # a space in JSON, but where it is none in a string
_CUT_OFF = "the array does not end here, but the file does: it is cut off"


def lines_of(start: chunks.Chunk, stream: BinaryIO) -> Iterator[chunks.Chunk]:
    """Yield `start` with the rows of JSON in any shape, a line each. Raises InputError."""
    path = start.path
    head, stream = text_chunks.head_of(stream, HEAD_BYTES)
    text_chunks.check_is_text(path, head)
    text = head.removeprefix(text_chunks.BOM).lstrip()
    if text.startswith(b"["):
        stream.read(head.find(b"[") + 1)
        is_objects = text[1:].lstrip()[:1] in b"{"
        yield from _elements(start, stream, b"{}" if is_objects else b"[]{}")
    elif _is_lines(text):
        yield from text_chunks.parts(start, stream, lambda data: data.rfind(b"\n") + 1)
    elif len(head) < HEAD_BYTES or (place := _find_rows(head)) is None:
        yield from _whole_document(start, stream)
    else:
        stream.read(place)
        yield from _elements(start, stream, b"[]{}", head[place - 1 : place])


def _is_lines(text: bytes) -> bool:
    """Return whether text that begins with an object has an object a line."""
    line, _, rest = text.partition(b"\n")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line.rstrip()[-1:] not in (b"{", b"[", b",", b":") and bool(rest.strip())
    return bool(rest.strip()) or not isinstance(json.loads(line), dict)


# ------------------------------------------------------------------- arrays, in parts


def _elements(
    start: chunks.Chunk, stream: BinaryIO, marks: bytes, inside: bytes = b""
) -> Iterator[chunks.Chunk]:
    """Yield what the array holds that the stream is in, a line each.

    `marks` are the brackets of its elements. `inside`, if not empty, is what opened the list or
    object of rows in a document, the rest of which is passed over.
    """
    count, is_open, path = 0, True, start.path

    def row_end(data: bytes) -> int:
        places, end = _places(data, marks)
        return len(data) if end >= 0 and inside else max((b for _, b in places), default=0)

    for chunk in text_chunks.parts(start, stream, row_end, marks[1:2]):
        for row in chunk.bad:
            raise InputError(f"{path}: row {count + 1}: {row.reason}; write the file again")
        if inside and not is_open:
            continue
        places, close = _places(chunk.data, marks)
        text = chunk.data if close < 0 or not inside else chunk.data[: close + 1]
        lines, end = [], 0
        for begin, behind in places:
            lines += _element(text[end:begin], text[begin:behind], inside)
            end = behind
        rest = text[end:].strip(_BETWEEN)
        closing = b"}" if inside == b"{" else b"]"
        last = rest.removesuffix(closing).strip(_BETWEEN)
        if inside != b"{":
            lines = [*filter(None, [*lines, last])]
        if not inside and (any(ln.startswith(b"]") for ln in lines) or (lines and not is_open)):
            raise InputError(f"{path}: there is more behind the end of the array; write one array")
        if rest.endswith(closing) and b"{" not in last:
            is_open = False
        elif last and inside != b"{":
            lines.pop()  # which is cut off
        count += len(lines)
        if lines:
            data = b"".join(line.translate(_ONE_LINE) + b"\n" for line in lines)
            yield replace(chunk, data=data, offset=None, has_lines=False)
    if is_open:
        raise InputError(f"{path}: row {count + 1}: {_CUT_OFF}; write the file again")


def _element(between: bytes, value: bytes, inside: bytes) -> list[bytes]:
    """Return the lines of an element and of what stands before it, or of a name and its value."""
    if inside != b"{":
        return [between.strip(_BETWEEN), value]
    if key := _KEY.search(between):
        return [b'{"%s": %s, "%s": %s}' % (_NAME, key[1], _EMBEDDING, value)]
    return []


_NAME, _EMBEDDING = json_shapes.NAME.encode(), json_shapes.EMBEDDING.encode()


def _places(data: bytes, marks: bytes) -> tuple[list[tuple[int, int]], int]:
    """Return where the elements that end in `data` begin and end, and where it closes, or -1."""
    masked = _STRING.sub(lambda string: b" " * len(string[0]), data)
    codes = np.frombuffer(masked, np.uint8)
    codes = codes if len(marks) == 2 else codes | 32  # which makes braces of brackets
    brackets = np.flatnonzero((codes == ord("{")) | (codes == ord("}")))
    steps = np.where(codes[brackets] == ord("{"), 1, -1)
    depth = np.cumsum(steps)
    closed = brackets[depth < 0][:1].tolist()
    if closed:
        inner = brackets < closed[0]
        brackets, steps, depth = brackets[inner], steps[inner], depth[inner]
    starts, ends = brackets[(steps > 0) & (depth == 1)], brackets[(steps < 0) & (depth == 0)] + 1
    places = [*zip(starts.tolist(), ends.tolist(), strict=False)]  # the last may still be open
    return places, closed[0] if closed else -1


# ------------------------------------------------------------------------- documents


def _find_rows(head: bytes) -> int | None:
    """Return the offset behind what opens the rows of a document; None: it must be read whole."""
    try:
        document = _begun(head[:BEGUN_BYTES])
        path = json_shapes.find_rows(document)
        if path is None or (path and not _is_begun_list(document, path)):
            return None
        text, decoder = head.decode("utf-8", "replace"), json.JSONDecoder()
        at = text.index("{") + 1
        for key in path:
            while (found := decoder.raw_decode(text, _behind(text, at, ", \t\r\n")))[0] != key:
                at = decoder.raw_decode(text, _behind(text, found[1], ": \t\r\n"))[1]
            at = _behind(text, found[1], ": \t\r\n") + 1
        return len(text[:at].encode())
    except (ValueError, RecursionError, KeyError, IndexError, RowError):
        return None


def _is_begun_list(document: dict, path: json_shapes.Path) -> bool:
    return isinstance(functools.reduce(lambda value, key: value[key], path, document), list)


def _behind(text: str, at: int, passed: str) -> int:
    while text[at] in passed:
        at += 1
    return at


def _begun(head: bytes) -> dict:
    """Return a document as far as its beginning shows it. Raises ValueError."""
    masked = _STRING.sub(lambda string: b" " * len(string[0]), head)
    opened: list[bytes] = []
    commas: dict[int, tuple[int, bytes]] = {}  # the last one of each depth
    for mark in re.finditer(rb"[\[\]{},]", masked):
        if mark[0] in b"[{":
            opened.append(b"]" if mark[0] == b"[" else b"}")
        elif mark[0] in b"]}":
            opened.pop()
        else:
            commas[len(opened)] = mark.start(), b"".join(reversed(opened))
    commas.pop(max(commas, default=0), None)  # those between numbers: no list is cut
    last, closing = max(commas.values(), default=(0, b""))
    return json.loads(head[:last] + closing)


def _whole_document(start: chunks.Chunk, stream: BinaryIO) -> Iterator[chunks.Chunk]:
    """Yield the rows of a document, or of several behind each other, that is read whole."""
    data = stream.read(WHOLE_BYTES + 1)
    if len(data) > WHOLE_BYTES:
        raise InputError(
            f"{start.path}: JSON of this shape must be read whole, and is over 1 GB; write an "
            "object a line"
        )
    size, rows, lines = len(data), _rows_of_text(start.path, data), []
    del data
    for row in rows:
        lines.append(row if isinstance(row, bytes) else json.dumps(row).encode())
        if sum(map(len, lines[-1:])) * len(lines) > chunks.CHUNK_BYTES:
            yield _chunk_of(start, lines)
            lines = []
    yield replace(_chunk_of(start, lines), input_bytes=size)


def _chunk_of(start: chunks.Chunk, lines: list[bytes]) -> chunks.Chunk:
    return replace(start, data=b"".join(line + b"\n" for line in lines), has_lines=False)


def _rows_of_text(path: str, data: bytes) -> Iterator[object]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save the file as UTF-8") from None
    at, documents = 0, 0
    while text[at:].strip() if at else text.strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            document, at = DECODER.raw_decode(text, at)
        except RowError as error:
            raise InputError(f"{path}: {error}; write the file again") from None
        except (ValueError, RecursionError) as error:
            if documents or not isinstance(error, ValueError):
                raise InputError(f"{path}: not JSON: {error}; write the file again") from None
            yield text[at : at + chunks.RECORD_BYTES].replace("\n", " ").encode()  # one bad row
            return
        documents += 1
        yield from json_shapes.rows_of(document)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in pairs:
        if key in values:
            raise RowError(f"the key {numbers.shown(key)} is given twice")
        values[key] = value
    return values


def _whole(text: str) -> int | float:
    """Return a whole number; one that is no count or name of anything as `float` gives it."""
    return float(text) if text == "-0" or len(text) > 20 else int(text)


DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole)
