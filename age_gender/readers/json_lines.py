"""Cut JSON of any shape into one row per line, in bounded memory where its shape allows it."""

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from age_gender.cli import InputError
from age_gender.readers import chunks, json_shapes, numbers, text_chunks
from age_gender.readers.errors import RowError

HEAD_BYTES = 1 << 20  # the first bytes, which show the shape of JSON
SHAPE_BYTES = 1 << 18  # the part of them that is parsed where they are not a whole document
MAX_DOCUMENT_BYTES = 1 << 30  # the longest document that cannot be read in parts

_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)  # one that is still open, too
_KEY = re.compile(rb'("(?:[^"\\]|\\.)*")\s*:\s*\Z', re.DOTALL)
_SEPARATORS = b", \t\r\n"  # between elements of an array
_BETWEEN = re.compile(r"[ \t\r\n,]*")  # between documents behind each other
_ONE_LINE = bytes.maketrans(b"\r\n", b"\t\t")  # both are white space outside strings
_CUT_OFF = "the array does not end here, but the file does: it is cut off"


def cut_lines(start: chunks.Chunk, stream: BinaryIO) -> Iterator[chunks.Chunk]:
    """Yield `start` with the rows of JSON in any shape, a line each. Raises InputError."""
    path = start.path
    head, stream = text_chunks.read_head(stream, HEAD_BYTES)
    text_chunks.check_is_text(path, head)
    text = head.removeprefix(text_chunks.BOM).lstrip()
    if text.startswith(b"[") and not _is_lists(text):
        stream.read(head.find(b"[") + 1)
        is_objects = text[1:].lstrip()[:1] in b"{"
        yield from _cut_elements(start, stream, b"{}" if is_objects else b"[]{}")
    elif text.startswith(b"[") or _is_lines(text):
        yield from text_chunks.cut_rows(start, stream, lambda data: data.rfind(b"\n") + 1)
    elif len(head) < HEAD_BYTES or (offset := _find_rows(head)) is None:
        yield from _read_document(start, stream)
    else:
        stream.read(offset)
        yield from _cut_elements(start, stream, b"[]{}", head[offset - 1 : offset])


def _is_lists(text: bytes) -> bool:
    """Return whether text that begins with a list has a list a line."""
    line, _, rest = text.partition(b"\n")
    if not line.rstrip().endswith(b"]") or rest.lstrip()[:1] != b"[":
        return False
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(line)
        return True
    return False


def _is_lines(text: bytes) -> bool:
    """Return whether text that begins with an object has an object a line."""
    line, _, rest = text.partition(b"\n")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line.rstrip()[-1:] not in (b"{", b"[", b",", b":") and bool(rest.strip())
    return bool(rest.strip()) or not isinstance(json.loads(line), dict)


# ------------------------------------------------------------------- arrays, in parts


def _cut_elements(
    start: chunks.Chunk, stream: BinaryIO, brackets: bytes, opening: bytes = b""
) -> Iterator[chunks.Chunk]:
    """Yield the elements of the array that the stream is in, a line each.

    `brackets` are those of its elements. `opening`, if not empty, is the bracket before the list or
    object of rows in a document, the rest of which is passed over.
    """
    count, is_open, path = 0, True, start.path
    closing = b"}" if opening == b"{" else b"]"

    def find_end(data: bytes) -> int:
        spans, close = _find_elements(data, brackets)
        is_over = close >= 0 and opening
        return len(data) if is_over else max((end for _, end in spans), default=0)

    for chunk in text_chunks.cut_rows(start, stream, find_end, brackets[1:2]):
        for row in chunk.bad:
            raise InputError(f"{path}: row {count + 1}: {row.reason}; write the file again")
        if opening and not is_open:
            continue

        # Whole elements, and what stands between them
        spans, close = _find_elements(chunk.data, brackets)
        text = chunk.data if close < 0 or not opening else chunk.data[: close + 1]
        lines, end = [], 0
        for element_start, element_end in spans:
            between, element = text[end:element_start], text[element_start:element_end]
            lines += _element_lines(between, element, opening)
            end = element_end

        # The last one, which may be no object, and the end of the array
        rest = text[end:].strip(_SEPARATORS)
        last = rest.removesuffix(closing).strip(_SEPARATORS)
        if opening != b"{":
            lines = [*filter(None, [*lines, last])]
        is_behind = any(line.startswith(b"]") for line in lines) or (lines and not is_open)
        if not opening and is_behind:
            raise InputError(f"{path}: there is more behind the end of the array; write one array")
        if rest.endswith(closing) and b"{" not in last:
            is_open = False
        elif last and opening != b"{":
            lines.pop()  # which is cut off
        count += len(lines)
        if lines:
            data = b"".join(line.translate(_ONE_LINE) + b"\n" for line in lines)
            yield replace(chunk, data=data, offset=None, has_lines=False)
    if is_open:
        raise InputError(f"{path}: row {count + 1}: {_CUT_OFF}; write the file again")


def _element_lines(between: bytes, element: bytes, opening: bytes) -> list[bytes]:
    """Return the lines of an element and of what stands before it, or of a name and its value."""
    if opening != b"{":
        return [between.strip(_SEPARATORS), element]
    if key := _KEY.search(between):
        return [b'{"%s": %s, "%s": %s}' % (_NAME, key[1], _EMBEDDING, element)]
    return []


_NAME, _EMBEDDING = json_shapes.NAME.encode(), json_shapes.EMBEDDING.encode()


def _find_elements(data: bytes, brackets: bytes) -> tuple[list[tuple[int, int]], int]:
    """Return where elements that end in `data` start and end, and where the array closes, or -1."""
    masked = _STRING.sub(lambda string: b" " * len(string[0]), data)
    codes = np.frombuffer(masked, np.uint8)
    codes = codes if len(brackets) == 2 else codes | 32  # which makes braces of brackets
    positions = np.flatnonzero((codes == ord("{")) | (codes == ord("}")))
    steps = np.where(codes[positions] == ord("{"), 1, -1)
    depth = np.cumsum(steps)
    closed = positions[depth < 0][:1].tolist()
    if closed:
        is_inside = positions < closed[0]
        positions, steps, depth = positions[is_inside], steps[is_inside], depth[is_inside]
    starts = positions[(steps > 0) & (depth == 1)]
    ends = positions[(steps < 0) & (depth == 0)] + 1
    spans = [*zip(starts.tolist(), ends.tolist(), strict=False)]  # the last may still be open
    return spans, closed[0] if closed else -1


# ------------------------------------------------------------------------- documents


def _find_rows(head: bytes) -> int | None:
    """Return the offset of a document's rows, behind their bracket; None: it must be read whole."""
    try:
        document = _parse_beginning(head[:SHAPE_BYTES])
        path = json_shapes.find_rows(document)
        rows = None if path is None else _value_at(document, path)
        if path is None or (path and not isinstance(rows, list)) or json_shapes.are_photos(rows):
            return None
        text, decoder = head.decode("utf-8", "replace"), json.JSONDecoder()
        at = text.index("{") + 1
        for key in path:
            while True:
                other_key, at = decoder.raw_decode(text, _skip(text, at, ", \t\r\n"))
                at = _skip(text, at, ": \t\r\n")
                if other_key == key:
                    break
                at = decoder.raw_decode(text, at)[1]
            at += 1
        return len(text[:at].encode())
    except (ValueError, RecursionError, KeyError, IndexError, RowError):
        return None


def _value_at(document: dict, path: json_shapes.Path) -> object:
    return functools.reduce(lambda value, key: value[key], path, document)


def _skip(text: str, at: int, characters: str) -> int:
    """Return the index of the first other character from `at` on."""
    while text[at] in characters:
        at += 1
    return at


def _parse_beginning(head: bytes) -> dict:
    """Return a document as far as its beginning shows it. Raises ValueError."""
    masked = _STRING.sub(lambda string: b" " * len(string[0]), head)
    opened: list[bytes] = []
    commas: dict[int, tuple[int, bytes]] = {}  # by depth: the last comma, and what closes it
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


def _read_document(start: chunks.Chunk, stream: BinaryIO) -> Iterator[chunks.Chunk]:
    """Yield the rows of a document, or of several behind each other, that is read whole."""
    data = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InputError(
            f"{start.path}: JSON of this shape must be read whole, and is over 1 GB; write an "
            "object a line"
        )
    input_bytes, rows, lines, size = len(data), _document_rows(start.path, data), [], 0
    del data
    for row in rows:
        lines.append(row if isinstance(row, bytes) else json.dumps(row).encode())
        size += len(lines[-1])
        if size > chunks.CHUNK_BYTES:
            yield _join_lines(start, lines)
            lines, size = [], 0
    yield replace(_join_lines(start, lines), input_bytes=input_bytes)


def _join_lines(start: chunks.Chunk, lines: list[bytes]) -> chunks.Chunk:
    return replace(start, data=b"".join(line + b"\n" for line in lines), has_lines=False)


def _document_rows(path: str, data: bytes) -> Iterator[object]:
    """Yield the rows of documents behind each other; raw text where there is none at all."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save the file as UTF-8") from None
    at, documents = _BETWEEN.match(text).end(), 0
    while at < len(text):
        try:
            document, at = DECODER.raw_decode(text, at)
        except RowError as error:
            raise InputError(f"{path}: {error}; write the file again") from None
        except (ValueError, RecursionError) as error:
            if documents or not isinstance(error, ValueError):
                raise InputError(f"{path}: not JSON: {error}; write the file again") from None
            yield text[at : at + chunks.MAX_ROW_BYTES].replace("\n", " ").encode()  # one bad row
            return
        documents += 1
        at = _BETWEEN.match(text, at).end()
        yield from json_shapes.iterate_rows(document)


# What databases write round a value to say its type (MongoDB, DynamoDB, Firestore): by its key,
# the types of the value and what makes a plain one of it.
_TYPE_KEYS: dict[str, tuple[type, Callable]] = {
    "$oid": (str, str), "$numberDouble": (str, float), "$numberDecimal": (str, float),
    "$numberInt": (str, int), "$numberLong": (str, int), "S": (str, str), "N": (str, float),
    "B": (str, str), "L": (list, list), "M": (dict, dict), "stringValue": (str, str),
    "doubleValue": (float, float), "integerValue": (str, int), "mapValue": (dict, dict),
    "arrayValue": (dict, lambda value: value.get("values", value)),
}  # fmt: skip


def _make_object(pairs: list[tuple[str, object]]) -> object:
    """Return an object, or the value of one that only says its type. Raises RowError."""
    values = dict(pairs)
    if len(pairs) == 1 and (known := _TYPE_KEYS.get(pairs[0][0])):
        value_type, convert = known
        if isinstance(value := pairs[0][1], value_type):
            with contextlib.suppress(ValueError):
                return convert(value)
    if len(values) < len(pairs):
        keys = set()
        repeated = next(key for key, _ in pairs if key in keys or keys.add(key))
        raise RowError(f"the key {numbers.excerpt(repeated)} is given twice")
    return values


def _parse_int(text: str) -> int | float:
    """Return a whole number; one that is no count or name of anything as `float` gives it."""
    return float(text) if text == "-0" or len(text) > 20 else int(text)


DECODER = json.JSONDecoder(object_pairs_hook=_make_object, parse_int=_parse_int)
