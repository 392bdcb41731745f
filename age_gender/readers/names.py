"""Names of faces: as text, and as cells of CSV."""

import contextlib
import os
import re
from collections.abc import Sequence

from age_gender.readers.vectors import shown

_TO_QUOTE = ',"\r\n\ufeff'


def text_name(name: str) -> str:
    """Return a file's name or path as text that any table can hold, also where it is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def as_text(values: list) -> tuple[list[str | None], dict[int, str]]:
    """Return names as they come through CSV, and what is wrong with which of them."""
    with contextlib.suppress(TypeError, UnicodeEncodeError):  # one look at all of them
        if b"\0" not in "".join(values).encode():
            return values, {}
    texts = [str(v) if type(v) is int else v for v in values]
    return texts, {i: reason for i, name in enumerate(texts) if (reason := _name_fault(name))}


def _name_fault(name: object) -> str:
    """Return what is wrong with a name, or an empty text."""
    if name is None:
        return "the name is missing"
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
