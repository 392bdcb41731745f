"""JSON: an object a line, or an array of objects, which is cut into such lines."""

import functools
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from age_gender.cli import InputError
from age_gender.readers import chunks, numbers, text_chunks
from age_gender.readers.columns import UNKNOWN, Columns, ReadOptions, of_rows
from age_gender.readers.errors import RowError

_LIST = re.compile(rb"\s*:\s*\[")
_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)  # one that is still open, too
_BETWEEN = b", \t\r\n"  # objects of an array
_ONE_LINE = bytes.maketrans(b"\r\n", b"\t\t")  # a space in JSON, but where it is none in a string
_CUT_OFF = "the array does not end here, but the file does: it is cut off"


class JsonReader:
    """Reads JSON and JSON lines."""

    is_text = True

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
        return cut(path, stream, options)

    def parse(self, chunk: chunks.Chunk) -> chunks.Batch:
        return chunks.parse(chunk, at_once, one_by_one)


def cut(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of whole lines, an object each."""
    start, columns = chunks.Chunk(path, JsonReader()), UNKNOWN
    if text_chunks.first_mark(stream) == b"[":
        parts = _as_lines(text_chunks.parts(start, stream, _end_of_objects, b"}"))
    else:
        parts = text_chunks.parts(start, stream, lambda data: data.rfind(b"\n") + 1)
    for chunk in parts:
        if columns is UNKNOWN:
            lines = _lines(chunk)
            choices = ((n, functools.partial(_columns, path, line, options)) for n, line in lines)
            chunk = chunk.with_columns(choices)
            columns = chunk.columns
        yield replace(chunk, columns=columns)


def _as_lines(parts: Iterable[chunks.Chunk]) -> Iterator[chunks.Chunk]:
    """Yield what a JSON array holds, a line each, whatever the line breaks in the file."""
    count, begin, is_open, path = 0, b"[", True, ""
    for chunk in parts:
        text, path = chunk.data[chunk.data.find(begin) + len(begin) :], chunk.path
        for row in chunk.bad:
            raise InputError(f"{path}: row {count + 1}: {row.reason}; write the file again")
        lines, end, begin = [], 0, b""
        for start, behind in _places(text):
            lines += [text[end:start].strip(_BETWEEN), text[start:behind]]  # no object, an object
            end = behind
        rest = text[end:].strip(_BETWEEN)
        last = rest.removesuffix(b"]").strip(_BETWEEN)
        lines = [*filter(None, [*lines, last])]
        if any(line.startswith(b"]") for line in lines) or (lines and not is_open):
            raise InputError(f"{path}: there is more behind the end of the array; write one array")
        if rest.endswith(b"]") and b"{" not in last:
            is_open = False
        elif last:
            lines.pop()  # which is cut off
        count += len(lines)
        if lines:
            data = b"".join(line.translate(_ONE_LINE) + b"\n" for line in lines)
            yield replace(chunk, data=data, offset=None, has_lines=False)
    if is_open:
        raise InputError(f"{path}: row {count + 1}: {_CUT_OFF}; write the file again")


def _end_of_objects(data: bytes) -> int:
    return max((end for _, end in _places(data)), default=0)


def _places(data: bytes) -> list[tuple[int, int]]:
    """Return where the objects of an array that end in `data` begin and end."""
    masked = _STRING.sub(lambda string: b" " * len(string[0]), data)
    marks = np.frombuffer(masked, np.uint8)
    braces = np.flatnonzero((marks == ord("{")) | (marks == ord("}")))
    steps = np.where(marks[braces] == ord("{"), 1, -1)
    depth = np.cumsum(steps)
    starts, ends = braces[(steps > 0) & (depth == 1)], braces[(steps < 0) & (depth == 0)] + 1
    return [*zip(starts.tolist(), ends.tolist(), strict=False)]  # the last may still be open


def _columns(path: str, line: bytes, options: ReadOptions) -> Columns:
    """Return which key of an object is what. Raises RowError where it does not show that."""
    row = _object(line)
    return of_rows(path, [*row], [[*row.values()]], options, by_name=True)


def at_once(chunk: chunks.Chunk) -> chunks.Parsed | None:
    """Return the chunk's numbers and metadata; None where rows may read otherwise one by one.

    Without its numbers, an object is short, and is read as any JSON.
    """
    columns = chunk.columns
    if len(chunk.data) < chunks.SMALL_BYTES or not columns.is_list:
        return None
    key = columns.embedding[0]
    word, rows, objects = json.dumps(key, ensure_ascii=False).encode(), [], []
    for line in chunk.data.removesuffix(b"\n").split(b"\n"):
        first = _LIST.match(line, line.find(word) + len(word))
        last = line.find(b"]", first.end()) if first else -1
        if last < 0 or line.find(word, last) >= 0:
            return None
        try:
            short = _DECODER.decode((line[: first.end()] + line[last:]).decode())
        except (ValueError, RecursionError, RowError):
            return None
        if not isinstance(short, dict) or short.get(key) != []:  # taken from within it
            return None
        rows.append(line[first.end() : last])
        objects.append(short)
    values = numbers.parse(rows, columns.width)
    metadata = {
        w: [short.get(column) for short in objects] for w, column in columns.metadata.items()
    }
    return None if values is None else (values, metadata)


def one_by_one(chunk: chunks.Chunk) -> Iterator[chunks.Row]:
    """Yield the rows of a chunk."""
    for number, line in _lines(chunk):
        yield chunks.Row(number, functools.partial(_getter, line))


def _getter(line: bytes) -> Callable[[str], object]:
    return _object(line).get


def _lines(chunk: chunks.Chunk) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, with its number where the file has such lines, else 0."""
    lines = enumerate(io.BytesIO(chunk.data), 1)
    return ((n * chunk.has_lines, line) for n, line in lines if line.strip())


def _object(line: bytes) -> dict[str, object]:
    """Return the object that a line holds. Raises RowError."""
    if len(line) > chunks.RECORD_BYTES:
        raise RowError(text_chunks.TOO_LONG % chunks.RECORD_BYTES)
    try:
        value = _DECODER.decode(line.decode())
    except UnicodeDecodeError:
        raise RowError("not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowError("not a JSON object, {...}")
    return value


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


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole)
