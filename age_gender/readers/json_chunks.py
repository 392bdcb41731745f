"""Cut JSON of any shape into one row per line, in bounded memory where its shape allows it."""

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from age_gender.errors import InputError
from age_gender.readers import chunks, json_documents, json_faces, numbers, text_chunks
from age_gender.readers.bad_rows import RowError
from age_gender.readers.schema import ReadOptions

HEAD_BYTES = 1 << 20  # the first bytes, which show the shape of JSON
SHAPE_BYTES = 1 << 18  # the part of them that is parsed where they are not a whole document
MAX_DOCUMENT_BYTES = 1 << 30  # the longest document that cannot be read in parts

_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)  # one that is still open, too
_KEY = re.compile(rb'("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
_COMMA = re.compile(b",")
_SEPARATORS = b", \t\r\n"  # between elements of an array
_GAP = re.compile(r"[ \t\r\n,:]*")  # between keys and values, and documents behind each other
_ONE_LINE = bytes.maketrans(b"\r\n", b"\t\t")  # both are white space outside strings
_BRACKETS = "a bracket is missing, or one too many"
# How text begins that only looks like JSON.
_NEARLY_JSON = (
    (rb"""[\[({\s]*(?:b?'|\()""", "Python's print of objects, not JSON", "write it with json.dump"),
    (rb"[\s\[]*[-+.\de]+\s+[-+.\d]", "NumPy's print, not JSON",
     "write it with numpy.savetxt, or its tolist() with json.dump"),
)  # fmt: skip
_CUT_OFF = "the array does not end here, but the file does: it is cut off"


def cut_lines(
    start: chunks.Chunk, stream: BinaryIO, options: ReadOptions
) -> Iterator[chunks.Chunk]:
    """Yield `start` with the rows of JSON in any shape, one per line. Raises InputError."""
    path = start.path
    head, stream = text_chunks.read_head(stream, HEAD_BYTES)
    text_chunks.check_is_text(path, head)
    text = head.removeprefix(text_chunks.BOM).lstrip()
    for beginning, description, remedy in _NEARLY_JSON:
        if re.match(beginning, text):
            raise InputError(f"{path}: {description}; {remedy}")
    if text.startswith(b"[") and not _is_lists(text):
        stream.read(head.find(b"[") + 1)
        yield from _cut_entries(start, stream, b"]", is_whole_file=True)
    elif text.startswith(b"[") or _is_lines(text):
        yield from text_chunks.cut_rows(start, stream, lambda data: data.rfind(b"\n") + 1)
    elif len(head) < HEAD_BYTES or (offset := _find_rows_offset(head)) is None:
        yield from _read_document(start, stream, options)
    else:
        stream.read(offset)
        closing = b"]" if head[offset - 1 : offset] == b"[" else b"}"
        yield from _cut_entries(start, stream, closing, is_whole_file=False)


def _is_lists(text: bytes) -> bool:
    """Return whether text that begins with a list has a list on each line."""
    line, _, rest = text.partition(b"\n")
    if not line.rstrip().endswith(b"]") or rest.lstrip()[:1] != b"[":
        return False
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(line)
        return True
    return False


def _is_lines(text: bytes) -> bool:
    """Return whether text that begins with an object has an object on each line."""
    line, _, rest = text.partition(b"\n")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line.rstrip()[-1:] not in (b"{", b"[", b",", b":") and bool(rest.strip())
    return bool(rest.strip()) or not isinstance(value, dict)


# ------------------------------------------------------------------- arrays, in parts


def _cut_entries(
    start: chunks.Chunk, stream: BinaryIO, closing: bytes, is_whole_file: bool
) -> Iterator[chunks.Chunk]:
    """Yield the entries of an array, or of an object whose keys are names, one per line.

    The stream is behind its first bracket; `closing` is its last one. What a document has behind
    that is passed over; behind an array that is the whole file, there must be nothing.
    """
    count, is_open, path = 0, True, start.path

    def find_end(data: bytes) -> int:
        ends, close = _find_ends(data) if is_open else ([], 0)
        return ends[-1] if close is None else len(data)

    for chunk in text_chunks.cut_rows(start, stream, find_end, b"]"):
        for row in chunk.bad:
            raise InputError(f"{path}: row {count + 1}: {row.reason}; write the file again")

        # Entries, and what stands behind the last of them
        entries, bracket, behind = [], closing, chunk.data
        if is_open:
            entries, bracket, behind = _split_entries(chunk.data)
            is_open = not bracket
            count += len(entries)
        if bracket not in (b"", closing):
            raise InputError(f"{path}: row {count}: {_BRACKETS}; write the file again")
        if is_whole_file and behind.strip(_SEPARATORS):
            raise InputError(f"{path}: there is more behind the end of the array; write one array")
        if entries:
            lines = map(_row_of_name, entries) if closing == b"}" else entries
            data = b"".join(line.translate(_ONE_LINE) + b"\n" for line in lines)
            yield replace(chunk, data=data, file_range=None, has_lines=False)
    if is_open:
        raise InputError(f"{path}: row {count + 1}: {_CUT_OFF}; write the file again")


def _split_entries(data: bytes) -> tuple[list[bytes], bytes, bytes]:
    """Return the entries that end in `data`, the bracket that closes them, and what is behind it.

    Both are empty where that bracket is still to come.
    """
    ends, close = _find_ends(data)
    parts = (data[start:end].strip(_SEPARATORS) for start, end in itertools.pairwise(ends))
    entries = [part for part in parts if part]
    return (entries, b"", b"") if close is None else (entries, data[close:][:1], data[close + 1 :])


def _find_ends(data: bytes) -> tuple[list[int], int | None]:
    """Return 0 and where the entries of an array end in `data`, and its closing bracket or None.

    An entry ends behind its own last bracket, or, a text or number, behind the comma after it.
    """
    masked = _mask_strings(data)
    codes = np.frombuffer(masked, np.uint8) | 32  # which makes braces of brackets
    positions = np.flatnonzero((codes == ord("{")) | (codes == ord("}")))
    steps = np.where(codes[positions] == ord("{"), np.int8(1), np.int8(-1))
    depth = np.cumsum(steps, dtype=np.int32)
    count = next(iter(np.flatnonzero(depth < 0).tolist()), None)  # of brackets before the closing
    close = None if count is None else int(positions[count])
    positions, steps, depth = positions[:count], steps[:count], depth[:count]

    # Between two entries with brackets, and behind the last one unless it is still open
    starts = [*positions[(steps > 0) & (depth == 1)].tolist(), close or len(data)]
    ends: list[int] = []
    for end, start in zip([0, *(positions[depth == 0] + 1).tolist()], starts, strict=False):
        ends += [end, *(comma.end() for comma in _COMMA.finditer(masked, end, start))]
    return ends if close is None else [*ends, close], close


def _mask_strings(data: bytes) -> bytes:
    return _STRING.sub(lambda string: b" " * len(string[0]), data)


def _row_of_name(entry: bytes) -> bytes:
    """Return the row of a key, which is a name, and its value: vectors, or a row."""
    key = _KEY.match(entry)
    if key is None:
        return entry
    value = entry[key.end() :]
    if value.startswith(b"{"):
        with contextlib.suppress(ValueError, RecursionError, RowError):
            row = json_documents.row_of_name(json.loads(key[1]), DECODER.decode(value.decode()))
            return json.dumps(row).encode()
    return b'{"%s": %s, "%s": %s}' % (_NAME, key[1], _EMBEDDING, value)


_NAME, _EMBEDDING = json_faces.NAME.encode(), json_faces.EMBEDDING.encode()


# ------------------------------------------------------------------------- documents


def _find_rows_offset(head: bytes) -> int | None:
    """Return the offset of a document's rows, behind their bracket; None: it must be read whole."""
    try:
        path = json_documents.find_path_to_rows(_parse_beginning(head[:SHAPE_BYTES]))
        if path is None:
            return None
        text = head.decode("utf-8", "replace")
        at = text.index("{") + 1
        for key in path:
            at = _find_value(text, at, key) + 1
        return len(text[:at].encode())
    except (ValueError, RecursionError, IndexError, RowError):
        return None


def _find_value(text: str, at: int, key: str) -> int:
    """Return the index of a key's value in an object, from `at` on. Raises ValueError."""
    other, decoder = None, json.JSONDecoder()
    while other != key:
        if other is not None:
            at = decoder.raw_decode(text, at)[1]  # its value
        other, at = decoder.raw_decode(text, _GAP.match(text, at).end())
        at = _GAP.match(text, at).end()
    return at


def _parse_beginning(head: bytes) -> dict:
    """Return a document as far as its beginning shows it. Raises ValueError."""
    opened: list[bytes] = []
    commas: dict[int, tuple[int, bytes]] = {}  # by depth: the last comma, and what closes it
    for mark in re.finditer(rb"[\[\]{},]", _mask_strings(head)):
        if mark[0] in b"[{":
            opened.append(b"]" if mark[0] == b"[" else b"}")
        elif mark[0] in b"]}":
            opened.pop()
        else:
            commas[len(opened)] = mark.start(), b"".join(reversed(opened))
    commas.pop(max(commas, default=0), None)  # those between numbers: no list is cut
    last, closing = max(commas.values(), default=(0, b""))
    return json.loads(head[:last] + closing)


def _read_document(
    start: chunks.Chunk, stream: BinaryIO, options: ReadOptions
) -> Iterator[chunks.Chunk]:
    """Yield the rows of a document, or of several behind each other, that is read whole."""
    data = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InputError(
            f"{start.path}: JSON of this shape must be read whole, and is over 1 GB; write an "
            "object per line"
        )
    input_bytes, rows, lines, size = len(data), _document_rows(start.path, data, options), [], 0
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


def _document_rows(path: str, data: bytes, options: ReadOptions) -> Iterator[object]:
    """Yield the rows of documents behind each other; raw text where there is none at all."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save the file as UTF-8") from None
    at, documents = _GAP.match(text).end(), 0
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
        at = _GAP.match(text, at).end()
        yield from json_documents.iterate_rows(document, options.fits)


# What databases write around a value to say its type (MongoDB, DynamoDB, Firestore): by its key,
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
