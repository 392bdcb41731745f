"""Names of faces: as text, and as cells of CSV."""

import contextlib
import os
import re
import uuid
from collections.abc import Sequence

from age_gender.readers.numbers import shown

_TO_QUOTE = ',"\r\n\ufeff'


def text_name(name: str) -> str:
    """Return a file's name or path as text that any table can hold, also where it is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def of_file(path: str) -> str:
    """Return the name of the one face of a file: the file's own, without what a table ends in."""
    return text_name(re.sub(r"(\.csv)?(\.(gz|bz2|xz|zst))?\Z", "", os.path.basename(path)))


def can_name(value: object) -> bool:
    """Return whether a value may be a name: text, a whole number, or what is missing."""
    if isinstance(value, bytes):
        value = _decoded(value)
    if isinstance(value, str):
        return not value.startswith(_NO_NAMES) or len(value) < 100
    is_whole = isinstance(value, float) and value.is_integer()
    return value is None or is_whole or type(value) in (int, uuid.UUID)


# How a picture as base64, a list and an object begin.
_NO_NAMES = ("/9j/", "iVBORw0KGgo", "data:image", "[", "{", "b'\\x")


def as_text(values: list) -> tuple[list[str | None], dict[int, str]]:
    """Return names as they come through CSV, None for missing ones, and what is wrong with which.

    Whole numbers, UUIDs and bytes of UTF-8 are written as people would.
    """
    with contextlib.suppress(TypeError, UnicodeEncodeError):  # one look at all of them
        if b"\0" not in "".join(values).encode():
            return values, {}
    texts = [_written(value) for value in values]
    return texts, {i: reason for i, name in enumerate(texts) if (reason := _name_fault(name))}


def _written(value: object) -> object:
    if isinstance(value, float):
        return None if value != value else str(int(value)) if value.is_integer() else value
    if type(value) in (int, uuid.UUID):
        return str(value)
    return _decoded(value) if isinstance(value, bytes) else value


def _decoded(value: bytes) -> object:
    """Return the text of bytes, the text of a UUID's 16, or the bytes if they are neither."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return str(uuid.UUID(bytes=value)) if len(value) == 16 else value


def _name_fault(name: object) -> str:
    """Return what is wrong with a name, or an empty text."""
    if name is None:
        return ""
    if not isinstance(name, str):
        return f"the name is {shown(name)}, not text"
    if "\0" in name:
        return "the name holds a NUL byte"
    if re.search("[\ud800-\udfff]", name):
        return "the name is not UTF-8; save the file as UTF-8"
    return ""


def quoted(name: str) -> str:
    """Return a name as a cell of CSV. (csv.writer leaves a carriage return bare before 3.13.)"""
    return '"' + name.replace('"', '""') + '"' if any(mark in name for mark in _TO_QUOTE) else name


def all_quoted(names: Sequence[str]) -> Sequence[str]:
    """Return names as cells of CSV."""
    text = "".join(names)  # to look for each mark takes less than a regular expression
    return [*map(quoted, names)] if any(mark in text for mark in _TO_QUOTE) else names
