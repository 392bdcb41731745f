"""JSON: an object a line, or an array of objects, which is cut into such lines."""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from age_gender.cli import InputError
from age_gender.readers import chunks, text_chunks, vectors
from age_gender.readers.columns import UNKNOWN, Columns, ReadOptions, of_row

_LIST = re.compile(rb"\s*:\s*\[")
_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)  # one that is still open, too
_BETWEEN = b", \t\r\n"  # objects of an array
_ONE_LINE = bytes.maketrans(b"\r\n", b"\t\t")  # a space in JSON, but where it is none in a string
_CUT_OFF = "the array does not end here, but the file does: it is cut off"


def cut_stream(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Pieces of whole lines, an object each."""
    start, columns = chunks.Chunk(path, "json_files"), UNKNOWN
    if text_chunks.first_mark(stream) == b"[":
        found = _as_lines(text_chunks.parts(start, stream, _end_of_objects, b"}"))
    else:
        found = text_chunks.parts(start, stream, lambda data: data.rfind(b"\n") + 1)
    for chunk in found:
        if columns is UNKNOWN:
            rows = _objects(chunk)
            chunk = chunk.with_columns((line, _columns(path, row, options)) for line, row in rows)
            columns = chunk.columns
        yield replace(chunk, columns=columns)


def _as_lines(found: Iterable[chunks.Chunk]) -> Iterator[chunks.Chunk]:
    """What a JSON array holds, a line each, whatever the line breaks in the file."""
    count, begin, is_open, path = 0, b"[", True, ""
    for chunk in found:
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
    """Where the objects of an array that end in `data` begin and end."""
    masked = _STRING.sub(lambda string: b" " * len(string[0]), data)
    marks = np.frombuffer(masked, np.uint8)
    braces = np.flatnonzero((marks == ord("{")) | (marks == ord("}")))
    steps = np.where(marks[braces] == ord("{"), 1, -1)
    depth = np.cumsum(steps)
    starts, ends = braces[(steps > 0) & (depth == 1)], braces[(steps < 0) & (depth == 0)] + 1
    return [*zip(starts.tolist(), ends.tolist(), strict=False)]  # the last may still be open


def _columns(path: str, found: dict | ValueError, options: ReadOptions) -> Columns | str:
    """Which key of an object is what, or why it does not tell."""
    if isinstance(found, ValueError):
        return str(found)
    return of_row(path, [*found], found.values(), options, by_name=True)


def at_once(chunk: chunks.Chunk) -> tuple[np.ndarray, dict[str, list]] | None:
    """All numbers of the chunk and what is metadata of them; None for what is not plain.

    Without its numbers, an object is short, and is read as any JSON.
    """
    columns = chunk.columns
    if len(chunk.data) < chunks.SMALL_BYTES or not columns.is_list:
        return None
    key = columns.embedding[0]
    word, rows, found = json.dumps(key, ensure_ascii=False).encode(), [], []
    for line in chunk.data.removesuffix(b"\n").split(b"\n"):
        first = _LIST.match(line, line.find(word) + len(word))
        last = line.find(b"]", first.end()) if first else -1
        if last < 0 or line.find(word, last) >= 0:
            return None
        try:
            short = _DECODER.decode((line[: first.end()] + line[last:]).decode())
        except (ValueError, RecursionError):
            return None
        if not isinstance(short, dict) or short.get(key) != []:  # taken from within it
            return None
        rows.append(line[first.end() : last])
        found.append(short)
    values = vectors.parse(rows, columns.width)
    metadata = {w: [short.get(column) for short in found] for w, column in columns.metadata.items()}
    return None if values is None else (values, metadata)


def one_by_one(chunk: chunks.Chunk) -> Iterator[tuple[int, Callable | ValueError]]:
    """Of each row its line, and what gives the value of a key, or what is wrong with it."""
    return ((line, row.get if isinstance(row, dict) else row) for line, row in _objects(chunk))


def _objects(chunk: chunks.Chunk) -> Iterator[tuple[int, dict | ValueError]]:
    """Of each line that is not blank its number, and the object or what is wrong with it."""
    lines = enumerate(io.BytesIO(chunk.data), 1)
    return ((n * chunk.has_lines, _object(line)) for n, line in lines if line.strip())


def _object(line: bytes) -> dict | ValueError:
    if len(line) > chunks.RECORD_BYTES:
        return ValueError(text_chunks.TOO_LONG % chunks.RECORD_BYTES)
    try:
        found = _DECODER.decode(line.decode())
    except UnicodeDecodeError:
        return ValueError("not UTF-8; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return ValueError(f"not JSON: {error}")
    return found if isinstance(found, dict) else ValueError("not a JSON object, {...}")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {vectors.shown(twice)} is given twice")
    return found


def _whole(text: str) -> int | float:
    """A whole number; one that is no count or name of anything as `float` gives it."""
    return float(text) if text == "-0" or len(text) > 20 else int(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole)
