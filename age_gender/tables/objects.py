"""JSON: an object a line, or an array of objects, which is cut into such lines."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from age_gender.tables import cutting, numbers, pieces
from age_gender.tables.columns import Columns, Wanted, choose

_LIST = re.compile(rb"\s*:\s*\[")


def cut(path: str, wanted: Wanted, only: bool) -> Iterator[pieces.Piece]:
    """Pieces of a file of JSON, in order."""
    with open(path, "rb") as stream:
        yield from cut_stream(path, stream, wanted, only)


def input_bytes(path: str) -> int:
    """How many bytes the pieces of the file have in all."""
    return Path(path).stat().st_size


def cut_stream(
    path: str, stream: BinaryIO, wanted: Wanted, only: bool = False
) -> Iterator[pieces.Piece]:
    """Pieces of whole lines, an object each."""
    is_array = cutting.first_mark(stream) == b"["
    if is_array:
        parts = cutting.objects(path, stream)
    else:
        parts = cutting.parts(path, stream, lambda data: data.rfind(b"\n") + 1)
    start = pieces.Piece(
        path, "objects", b"", wanted=wanted, has_lines=not is_array, first=True
    )  # fmt: skip

    def layout(part: bytes | cutting.Bad) -> tuple[int, Columns | None, None]:
        for _, found, _ in _objects(part) if isinstance(part, bytes) else ():
            columns = _columns(path, found, wanted)
            if isinstance(columns, Columns):
                return 0, columns, None
        return 0, None, None

    return cutting.cut_parts(start, parts, layout, only)


def _columns(path: str, found: object, wanted: Wanted) -> Columns | str:
    """Which key of an object is what, or why it does not tell."""
    if not isinstance(found, dict):
        return "not a JSON object, {...}"
    sizes = [numbers.size(value, wanted.width) for value in found.values()]
    return choose(path, [*found], sizes, wanted, keys=[*found])


def parse(piece: pieces.Piece) -> pieces.Block:
    """The block of a piece of JSON lines."""
    if pieces.is_worth_a_parser(piece) and piece.columns.is_list:
        found = _rows(piece.data, piece.columns)
        values = found and numbers.parse(found[1], piece.columns.width)
        if values is not None:
            block = pieces.check_rows(piece, values, len(values), **found[0])
            if not block.faults:
                return block
    lines = piece.data.count(b"\n") + (not piece.data.endswith(b"\n"))
    return pieces.collect(piece, _careful_rows(piece), lines)


def _rows(data: bytes, columns: Columns) -> tuple[dict[str, list], list[memoryview]] | None:
    """Names, ages and genders, and the text of each row's numbers; None for what is not plain.

    Without its numbers, an object is short, and is read as any JSON.
    """
    key = columns.embedding[0]
    word, decoder = json.dumps(key, ensure_ascii=False).encode(), _decoder()
    rows, found, start, view = [], [], 0, memoryview(data)
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        first = _LIST.match(data, data.find(word, start, end) + len(word), end)
        last = data.find(b"]", first.end(), end) if first else -1
        if last < 0 or data.find(word, last, end) >= 0:
            return None
        try:
            short = decoder.decode((data[start : first.end()] + data[last:end]).decode())
        except (ValueError, RecursionError):
            return None
        if not isinstance(short, dict) or short.get(key) != []:  # taken from within it
            return None
        rows.append(view[first.end() : last])
        found.append(short)
        start = end + 1
    return {k: [short.get(column) for short in found] for k, column in columns.told()}, rows


def _careful_rows(piece: pieces.Piece) -> Iterator[pieces.Row]:
    for line, found, reason in _objects(piece.data):
        columns = piece.columns
        if not reason and (columns is None or not isinstance(found, dict)):
            reason = _columns(piece.path, found, piece.wanted)
        if reason:
            yield pieces.Row(line, reason)
        else:
            yield pieces.row_of(line, columns, found.get)


def _objects(data: bytes) -> Iterator[tuple[int, object, str]]:
    """(line, object, what is wrong) of each line that is not blank."""
    decoder = _decoder()
    for number, line in enumerate(io.BytesIO(data), 1):
        if not line.strip():
            continue
        found, reason = None, ""
        if len(line) > pieces.RECORD_BYTES:
            reason = cutting.TOO_LONG % pieces.RECORD_BYTES
        else:
            try:
                found = decoder.decode(line.decode())
            except UnicodeDecodeError:
                reason = "not UTF-8; save the file as UTF-8"
            except (ValueError, RecursionError) as error:
                reason = f"not JSON: {error}"
        yield number, found, reason


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {numbers.shown(twice)} is given twice")
    return found


def _whole(text: str) -> int | float:
    """A whole number; one that is no count or name of anything as `float` gives it."""
    return float(text) if text == "-0" or len(text) > 20 else int(text)
