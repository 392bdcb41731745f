"""JSON: an object a line, an array, or a document that holds rows in another shape."""

import functools
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from age_gender.readers import chunks, json_lines, json_shapes, numbers, text_chunks, vectors
from age_gender.readers.columns import UNKNOWN, Columns, ReadOptions, of_rows
from age_gender.readers.errors import RowError

_LIST = re.compile(rb"\s*:\s*\[")


class JsonReader:
    """Reads JSON and JSON lines."""

    is_text = True

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
        return cut(path, stream, options)

    def parse(self, chunk: chunks.Chunk) -> chunks.Batch:
        return chunks.parse(chunk, at_once, one_by_one)


def cut(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of whole lines, a row each."""
    columns = UNKNOWN
    for chunk in json_lines.lines_of(chunks.Chunk(path, JsonReader()), stream):
        if columns is UNKNOWN:
            lines = ((number, line) for number, line in _lines(chunk))
            choices = (
                (window[0][0], functools.partial(_columns, path, window, options))
                for window in chunks.windows(lines)
            )
            chunk = chunk.with_columns(choices)
            columns = chunk.columns
        yield replace(chunk, columns=columns)


def _columns(path: str, lines: list[tuple[int, bytes]], options: ReadOptions) -> Columns:
    """Return which key of the objects of the first line is what. Raises RowError."""
    row, following = _faces(lines[0][1])[0], []
    for _, line in lines[1:]:
        try:
            following += _faces(line)
        except RowError:
            continue
    titles = [title for title in row if title != json_shapes.FACE]
    rows = [[face.get(title) for title in titles] for face in (row, *following)]
    return of_rows(path, titles, rows, options, by_name=True)


def at_once(chunk: chunks.Chunk) -> chunks.Parsed | None:
    """Return the chunk's numbers and metadata; None where rows may read otherwise one by one.

    Without its numbers, an object is short, and is read as any JSON.
    """
    columns = chunk.columns
    if len(chunk.data) < chunks.SMALL_BYTES or not columns.is_list:
        return None
    if columns.form.name != vectors.OBJECTS[0].name:
        return None
    key, is_nested = columns.embedding[0], any(map(_has_path, columns.names()))
    last = key.rpartition(".")[2] if is_nested else key
    word, rows, objects = json.dumps(last, ensure_ascii=False).encode(), [], []
    for line in chunk.data.removesuffix(b"\n").split(b"\n"):
        first = _LIST.match(line, line.find(word) + len(word))
        last = line.find(b"]", first.end()) if first else -1
        if last < 0 or line.find(word, last) >= 0:
            return None
        try:
            short = json_lines.DECODER.decode((line[: first.end()] + line[last:]).decode())
        except (ValueError, RecursionError, RowError):
            return None
        if not isinstance(short, dict):
            return None
        if is_nested:
            (short,) = json_shapes.faces_of(short)
        if short.get(key) != []:  # taken from within it
            return None
        rows.append(line[first.end() : last])
        objects.append(short)
    values = numbers.parse(rows, columns.width)
    metadata = {
        word: [short.get(column) for short in objects] for word, column in columns.metadata.items()
    }
    return None if values is None else (values, metadata)


def _has_path(key: str) -> bool:
    return "." in key


def one_by_one(chunk: chunks.Chunk) -> Iterator[chunks.Row]:
    """Yield the rows of a chunk: the faces of each line."""
    for number, line in _lines(chunk):
        try:
            faces = _faces(line)
        except RowError as error:
            yield chunks.Row(number, functools.partial(_fail, error))
            continue
        for face in faces:
            yield chunks.Row(number, functools.partial(_getter, face, chunk.columns))


def _fail(error: RowError) -> Callable:
    raise error


def _getter(face: dict, columns: Columns) -> Callable[[str], object]:
    """Return what looks a key up; the name of one of several faces has its number behind it."""
    number, name = face.get(json_shapes.FACE), columns.metadata.get("name")

    def get(key: str) -> object:
        value = face.get(key)
        return f"{value}#{number}" if number and key == name and value is not None else value

    return get


def _lines(chunk: chunks.Chunk) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, with its number where the file has such lines, else 0."""
    lines = enumerate(io.BytesIO(chunk.data), 1)
    return ((n * chunk.has_lines, line) for n, line in lines if line.strip())


def _faces(line: bytes) -> list[dict[str, object]]:
    """Return the faces of the row that a line holds. Raises RowError."""
    if len(line) > chunks.RECORD_BYTES:
        raise RowError(text_chunks.TOO_LONG % chunks.RECORD_BYTES)
    try:
        value = json_lines.DECODER.decode(line.decode())
    except UnicodeDecodeError:
        raise RowError("not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"not JSON: {error}") from None
    if not isinstance(value, dict | list) or not value:
        raise RowError("not a JSON object, {...}, or list of numbers")
    return json_shapes.faces_of(value)
