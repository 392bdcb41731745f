"""Split JSON of any shape into one row per line, in bounded memory if its shape allows it."""

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
from age_gender.readers.columns import ReadOptions

JSON_HEAD_BYTES = 1 << 20  # first bytes, which show the shape of JSON
SHAPE_BYTES = 1 << 18  # bytes of these that are parsed if they are not a whole document
MAX_DOCUMENT_BYTES = 1 << 30  # size of the longest document that is read as a whole

_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)  # also one that is still open
_KEY = re.compile(rb'("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
_COMMA = re.compile(b",")
_SEPARATORS = b", \t\r\n"  # between elements of an array
_GAP = re.compile(r"[ \t\r\n,:]*")  # between keys and values, and between documents
_ONE_LINE = bytes.maketrans(b"\r\n", b"\t\t")  # outside strings both are white space
_BRACKETS = "a bracket is missing, or one too many"
# Beginnings of text that only looks like JSON, what it is, and the remedy
_NEARLY_JSON = (
    (rb"""[\[({\s]*(?:b?'|\()""", "Python's print of objects, not JSON", "write it with json.dump"),
    (rb"[\s\[]*[-+.\de]+\s+[-+.\d]", "NumPy's print, not JSON",
     "write it with numpy.savetxt, or its tolist() with json.dump"),
)  # fmt: skip
_CUT_OFF = "the file ends here, but the array does not: it is cut off"


def split_into_lines(
    template: chunks.Chunk, stream: BinaryIO, options: ReadOptions
) -> Iterator[chunks.Chunk]:
    """Yield `template` with the rows of JSON in any shape, one per line. Raises InputError."""
    path = template.path
    head, stream = text_chunks.read_head(stream, JSON_HEAD_BYTES)
    text_chunks.check_is_text(path, head)
    text = head.removeprefix(text_chunks.BOM).lstrip()
    for beginning, description, remedy in _NEARLY_JSON:
        if re.match(beginning, text):
            raise InputError(f"{path}: {description}; {remedy}")
    if text.startswith(b"[") and not _has_list_per_line(text):
        stream.read(head.find(b"[") + 1)
        yield from _read_entries(template, stream, b"]", is_whole_file=True)
    elif text.startswith(b"[") or _has_object_per_line(text):
        yield from text_chunks.split_into_chunks(
            template, stream, lambda data: data.rfind(b"\n") + 1
        )
    elif len(head) < JSON_HEAD_BYTES or (offset := _find_rows_offset(head)) is None:
        yield from _read_document(template, stream, options)
    else:
        stream.read(offset)
        closing_bracket = b"]" if head[offset - 1 : offset] == b"[" else b"}"
        yield from _read_entries(template, stream, closing_bracket, is_whole_file=False)


def _has_list_per_line(text: bytes) -> bool:
    """Return whether text that begins with a list has a list on each line."""
    line, _, rest = text.partition(b"\n")
    if not line.rstrip().endswith(b"]") or rest.lstrip()[:1] != b"[":
        return False
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(line)
        return True
    return False


def _has_object_per_line(text: bytes) -> bool:
    """Return whether text that begins with an object has an object on each line."""
    line, _, rest = text.partition(b"\n")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line.rstrip()[-1:] not in (b"{", b"[", b",", b":") and bool(rest.strip())
    return bool(rest.strip()) or not isinstance(value, dict)


# ------------------------------------------------------------------- arrays, in parts


def _read_entries(
    template: chunks.Chunk, stream: BinaryIO, closing_bracket: bytes, is_whole_file: bool
) -> Iterator[chunks.Chunk]:
    """Yield the entries of an array, or of an object whose keys are names, one per line.

    The stream is positioned after the opening bracket; `closing_bracket` ends the entries. Text
    after it is ignored, but is an error if the array `is_whole_file`.
    """
    count, is_open, path = 0, True, template.path

    def find_end(data: bytes) -> int:
        ends, closing_offset = _find_ends(data) if is_open else ([], 0)
        return ends[-1] if closing_offset is None else len(data)

    for chunk in text_chunks.split_into_chunks(template, stream, find_end, b"]"):
        for row in chunk.bad_rows:
            raise InputError(f"{path}: row {count + 1}: {row.reason}; write the file again")

        # Find the entries, and what follows the last of them
        entries, found_bracket, remainder = [], closing_bracket, chunk.data
        if is_open:
            entries, found_bracket, remainder = _split_entries(chunk.data)
            is_open = not found_bracket
            count += len(entries)
        if found_bracket not in (b"", closing_bracket):
            raise InputError(f"{path}: row {count}: {_BRACKETS}; write the file again")
        if is_whole_file and remainder.strip(_SEPARATORS):
            raise InputError(
                f"{path}: there is more text after the end of the array; write one array, or one "
                "object per line"
            )
        if entries:
            lines = map(_entry_to_row, entries) if closing_bracket == b"}" else entries
            data = b"".join(line.translate(_ONE_LINE) + b"\n" for line in lines)
            yield replace(chunk, data=data, file_range=None, has_lines=False)
    if is_open:
        raise InputError(f"{path}: row {count + 1}: {_CUT_OFF}; write the file again")


def _split_entries(data: bytes) -> tuple[list[bytes], bytes, bytes]:
    """Return the entries that end in `data`, the array's closing bracket and what follows it.

    Both are empty if that bracket is still to come.
    """
    ends, closing_offset = _find_ends(data)
    parts = (data[start:end].strip(_SEPARATORS) for start, end in itertools.pairwise(ends))
    entries = [part for part in parts if part]
    return (
        (entries, b"", b"")
        if closing_offset is None
        else (entries, data[closing_offset:][:1], data[closing_offset + 1 :])
    )


def _find_ends(data: bytes) -> tuple[list[int], int | None]:
    """Return 0 and the ends of an array's entries in `data`, and the closing bracket's offset.

    An object or list ends after its last bracket, a text or number after the comma that follows
    it. The offset is None if the closing bracket is still to come.
    """
    masked = _mask_strings(data)
    codes = np.frombuffer(masked, np.uint8) | 32  # this turns brackets into braces
    positions = np.flatnonzero((codes == ord("{")) | (codes == ord("}")))
    steps = np.where(codes[positions] == ord("{"), np.int8(1), np.int8(-1))
    depth = np.cumsum(steps, dtype=np.int32)
    count = next(iter(np.flatnonzero(depth < 0).tolist()), None)  # brackets before the closing one
    closing_offset = None if count is None else int(positions[count])
    positions, steps, depth = positions[:count], steps[:count], depth[:count]

    # Find commas between entries with brackets, and after the last of these unless one is open
    starts = [*positions[(steps > 0) & (depth == 1)].tolist(), closing_offset or len(data)]
    ends: list[int] = []
    for end, start in zip([0, *(positions[depth == 0] + 1).tolist()], starts, strict=False):
        ends += [end, *(comma.end() for comma in _COMMA.finditer(masked, end, start))]
    return ends if closing_offset is None else [*ends, closing_offset], closing_offset


def _mask_strings(data: bytes) -> bytes:
    return _STRING.sub(lambda string: b" " * len(string[0]), data)


def _entry_to_row(entry: bytes) -> bytes:
    """Return an entry `"name": value` as a row.

    The value is a row without a name, or one or more vectors.
    """
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
    """Return the offset of a document's first row, or None if the document must be read whole."""
    try:
        path = json_documents.find_path_to_rows(_parse_beginning(head[:SHAPE_BYTES]))
        if path is None:
            return None
        text = head.decode("utf-8", "replace")
        offset = text.index("{") + 1
        for key in path:
            offset = _find_value(text, offset, key) + 1
        return len(text[:offset].encode())
    except (ValueError, RecursionError, IndexError, RowError):
        return None


def _find_value(text: str, offset: int, key: str) -> int:
    """Return the offset of a key's value in an object, from `offset` on; or raise ValueError."""
    other, decoder = None, json.JSONDecoder()
    while other != key:
        if other is not None:
            offset = decoder.raw_decode(text, offset)[1]  # its value
        other, offset = decoder.raw_decode(text, _GAP.match(text, offset).end())
        offset = _GAP.match(text, offset).end()
    return offset


def _parse_beginning(head: bytes) -> dict:
    """Return a document's beginning as an object, its open brackets closed; or raise ValueError."""
    opened: list[bytes] = []
    commas: dict[int, tuple[int, bytes]] = {}  # by depth: last comma, and what closes it
    for mark in re.finditer(rb"[\[\]{},]", _mask_strings(head)):
        if mark[0] in b"[{":
            opened.append(b"]" if mark[0] == b"[" else b"}")
        elif mark[0] in b"]}":
            opened.pop()
        else:
            commas[len(opened)] = mark.start(), b"".join(reversed(opened))
    commas.pop(max(commas, default=0), None)  # the innermost, so that no list of numbers is cut
    last, closing_bracket = max(commas.values(), default=(0, b""))
    return json.loads(head[:last] + closing_bracket)


def _read_document(
    template: chunks.Chunk, stream: BinaryIO, options: ReadOptions
) -> Iterator[chunks.Chunk]:
    """Yield the rows of a document, or of consecutive ones, after reading all of it."""
    data = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InputError(
            f"{template.path}: JSON of this shape must be read whole, and this is over 1 GB; write "
            "one object per line"
        )
    input_bytes, rows, lines, size = len(data), _document_rows(template.path, data, options), [], 0
    del data
    for row in rows:
        lines.append(row if isinstance(row, bytes) else json.dumps(row).encode())
        size += len(lines[-1])
        if size > chunks.CHUNK_BYTES:
            yield _join_lines(template, lines)
            lines, size = [], 0
    yield replace(_join_lines(template, lines), input_bytes=input_bytes)


def _join_lines(template: chunks.Chunk, lines: list[bytes]) -> chunks.Chunk:
    return replace(template, data=b"".join(line + b"\n" for line in lines), has_lines=False)


def _document_rows(path: str, data: bytes, options: ReadOptions) -> Iterator[object]:
    """Yield the rows of consecutive documents; text that is no JSON at all is one bad row."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save the file as UTF-8") from None
    offset, documents = _GAP.match(text).end(), 0
    while offset < len(text):
        try:
            document, offset = DECODER.raw_decode(text, offset)
        except RowError as error:
            raise InputError(f"{path}: {error}; write the file again") from None
        except (ValueError, RecursionError) as error:
            if documents or not isinstance(error, ValueError):
                raise InputError(f"{path}: not JSON: {error}; write the file again") from None
            yield (
                text[offset : offset + chunks.MAX_ROW_BYTES].replace("\n", " ").encode()
            )  # one bad row
            return
        documents += 1
        offset = _GAP.match(text, offset).end()
        yield from json_documents.iterate_rows(document, options.fits)


# Keys by which databases (MongoDB, DynamoDB, Firestore) say the type of a value, with the type
# that the value has in JSON, and what converts it to a plain value.
_TYPE_KEYS: dict[str, tuple[type, Callable]] = {
    "$oid": (str, str), "$numberDouble": (str, float), "$numberDecimal": (str, float),
    "$numberInt": (str, int), "$numberLong": (str, int), "S": (str, str), "N": (str, float),
    "B": (str, str), "L": (list, list), "M": (dict, dict), "stringValue": (str, str),
    "doubleValue": (float, float), "integerValue": (str, int), "mapValue": (dict, dict),
    "arrayValue": (dict, lambda value: value.get("values", value)),
}  # fmt: skip


def _make_object(pairs: list[tuple[str, object]]) -> object:
    """Return an object, or the value inside one that only says its type; or raise RowError."""
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
    """Return a whole number; -0 and numbers of over 20 characters as `float` reads them."""
    return float(text) if text == "-0" or len(text) > 20 else int(text)


DECODER = json.JSONDecoder(object_pairs_hook=_make_object, parse_int=_parse_int)
