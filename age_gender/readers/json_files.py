"""Read JSON: one object per line, an array, or a document with rows in another shape."""

import contextlib
import functools
import io
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from age_gender.readers import chunks, json_chunks, json_faces, numbers, text_chunks, vectors
from age_gender.readers.bad_rows import RowError
from age_gender.readers.column_choice import choose_columns
from age_gender.readers.columns import Columns, ReadOptions, summarise_columns

_LIST = re.compile(rb"\s*:\s*\[")
# The line before a document in Elasticsearch's bulk files
_ACTION = re.compile(rb'\s*\{\s*"(?:index|create)"\s*:\s*\{[^{}]*\}\s*\}\s*\Z')


def read_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of whole lines; each line is a row."""
    template = chunks.Chunk(path, _parse, has_lines=True)
    unassigned = json_chunks.split_into_lines(template, stream, options)
    choose = functools.partial(_choose_columns, path, options)
    return chunks.assign_columns(unassigned, _numbered_lines, choose)


def _parse(chunk: chunks.Chunk) -> chunks.Batch:
    """Return the batch of a chunk's rows."""
    return chunks.parse_chunk(chunk, _parse_in_bulk, _split_rows)


def _choose_columns(path: str, options: ReadOptions, lines: list[bytes]) -> Columns:
    """Return the columns, which are keys of the first line's objects, or raise RowError."""
    faces = _parse_line(lines[0])[:1]
    for line in lines[1:]:
        with contextlib.suppress(RowError):
            faces += _parse_line(line)
    titles = [title for title in faces[0] if title != json_faces.FACE_POSITION]
    rows = [[face.get(title) for title in titles] for face in faces]
    return choose_columns(path, titles, summarise_columns(rows, options), options, by_title=True)


def _parse_in_bulk(chunk: chunks.Chunk) -> chunks.ParsedRows | None:
    """Return the chunk's numbers and metadata, or None if they might differ row by row."""
    columns = chunk.columns
    if len(chunk.data) < chunks.SMALL_BYTES or not columns.has_format(vectors.LIST):
        return None
    key, is_nested = columns.embedding[0], any("." in name for name in columns.used_columns())
    last_key = key.rpartition(".")[2] if is_nested else key
    word, texts, objects = json.dumps(last_key, ensure_ascii=False).encode(), [], []
    for line in chunk.data.removesuffix(b"\n").split(b"\n"):
        start = _LIST.match(line, line.find(word) + len(word))
        end = line.find(b"]", start.end()) if start else -1
        if end < 0 or line.find(word, end) >= 0:
            return None

        # Parse the object without its numbers, which is short, as any JSON
        try:
            short = json_chunks.DECODER.decode((line[: start.end()] + line[end:]).decode())
        except (ValueError, RecursionError, RowError):
            return None
        if not isinstance(short, dict):
            return None
        if is_nested:
            (short,) = json_faces.split_faces(short)
        if short.get(key) != []:  # the list was within this key's value
            return None
        texts.append(line[start.end() : end])
        objects.append(_number_name(short, columns))
    values = numbers.parse_number_table(texts, columns.width)
    metadata = {
        role: [short.get(column) for short in objects]
        for role, column in columns.metadata_columns.items()
    }
    return None if values is None else (values, metadata)


def _split_rows(chunk: chunks.Chunk) -> Iterator[chunks.Row]:
    """Yield the rows of a chunk, which are the faces of each line."""
    columns = chunk.columns
    for number, line in _numbered_lines(chunk):
        try:
            faces = _parse_line(line)
        except RowError as error:
            yield chunks.Row(number, error=error)
            continue
        for face in faces:
            yield chunks.Row(number, _number_name(face, columns).get)


def _number_name(face: dict, columns: Columns) -> dict:
    """Return a face, named `name#1` if it is one of several without names of their own."""
    number, own_keys = face.get(json_faces.FACE_POSITION, (0, []))
    name = columns.metadata_columns.get("name")
    if not number or name in own_keys or face.get(name) is None:
        return face
    return face | {name: f"{face[name]}#{number}"}


def _numbered_lines(chunk: chunks.Chunk) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, with its number, or 0 if it is not a line of the file."""
    lines = enumerate(io.BytesIO(chunk.data), 1)
    return (
        (n * chunk.has_lines, line)
        for n, line in lines if line.strip() and not _ACTION.match(line)
    )  # fmt: skip


def _parse_line(line: bytes) -> list[dict[str, object]]:
    """Return the faces in a line's row, or raise RowError."""
    if len(line) > chunks.MAX_ROW_BYTES:
        raise RowError(text_chunks.TOO_LONG)
    try:
        value = json_chunks.DECODER.decode(line.decode())
    except UnicodeDecodeError:
        raise RowError("not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"not JSON: {error}") from None
    if not isinstance(value, dict | list) or not value:
        raise RowError("not a JSON object, {...}, or list of numbers")
    return json_faces.split_faces(value)
