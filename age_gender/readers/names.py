"""Turn names of faces into text, and into cells of CSV."""

import contextlib
import os
import re
from collections.abc import Sequence

from age_gender.readers.numbers import excerpt

# Titles of columns of names, also in the plural, nested (image.path) or with an underscore before
# them (_id). The first of them that a table has is read.
NAME_COLUMNS = ("filename", "file", "path", "image", "name", "identity", "id", "label")
# Compound titles such as img_path or face_id: each ranks as its last word does, behind all words
# alone.
_COMPOUND_TITLE = re.compile(
    r"(?:known_)?(?:img|image|file|photo|picture|face|person|source)s?_?(path|file|name|id)s?"
    r"|(?:img|photo|picture)()"
)
_INDEX_TITLE = re.compile(r"|__index_level_\d+__|Unnamed: \d+|_row")  # of pandas; of jsonlite
INDEX_RANK = 2 * len(NAME_COLUMNS)  # of an index column, behind all other titles
MAX_NAME = 1000  # characters; a longer text is an image as base64, or a list
# How pictures as base64, lists and objects begin, but hardly a name.
_NOT_NAME_PREFIXES = ("/9j/", "iVBORw0KGgo", "UklGR", "data:image", "[", "{", "b'\\x")
MAX_DOUBTFUL_NAME = 100  # characters of a name that begins like one
_QUOTED_CHARACTERS = ',"\r\n\ufeff'  # what a cell of CSV holds in quotes alone


def text_name(name: str) -> str:
    """Return a file's name or path as text that any table can hold, also where it is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def name_of_file(path: str) -> str:
    """Return the name of the one face of a file: the file's own, without a table's suffixes."""
    return text_name(re.sub(r"(\.csv)?(\.(gz|bz2|xz|zst))?\Z", "", os.path.basename(path)))


def is_name(value: object) -> bool:
    """Return whether a value may be a name: text, a whole number, a UUID, or a missing one."""
    if isinstance(value, bytes):
        value = _decode(value)
    if isinstance(value, str):
        return len(value) < (
            MAX_DOUBTFUL_NAME if value.startswith(_NOT_NAME_PREFIXES) else MAX_NAME
        )
    is_whole = isinstance(value, float) and value.is_integer()
    return value is None or is_whole or type(value) is int or _is_uuid(value)


def rank_title(title: str) -> int | None:
    """Return how well a title suits a column of names, 0 is best; None where it says nothing."""
    last = title.casefold().rpartition(".")[2]
    word = last.lstrip("_")
    word = word if word in NAME_COLUMNS else word.removesuffix("s")
    if word in NAME_COLUMNS:
        return NAME_COLUMNS.index(word)
    if compound := _COMPOUND_TITLE.fullmatch(last):
        return len(NAME_COLUMNS) + NAME_COLUMNS.index(compound[1] or "image")
    return INDEX_RANK if _INDEX_TITLE.fullmatch(title) else None


def to_text(values: list) -> tuple[list[str | None], dict[int, str]]:
    """Return names as text, None for missing ones, and the faults of bad ones by their indices.

    Whole numbers, UUIDs and bytes of UTF-8 are written as people would.
    """
    with contextlib.suppress(TypeError, UnicodeEncodeError):  # all of them at once
        if b"\0" not in "".join(values).encode() and "" not in values:
            return values, {}
    texts = [_to_text(value) for value in values]
    return texts, {i: fault for i, name in enumerate(texts) if (fault := _find_fault(name))}


def _to_text(value: object) -> object:
    """Return a name as text; a value that is no name as it is."""
    if isinstance(value, float):
        return None if value != value else str(int(value)) if value.is_integer() else value
    if type(value) is int or _is_uuid(value):
        return str(value)
    text = _decode(value) if isinstance(value, bytes) else value
    return None if text == "" else text  # an empty cell of CSV


def _is_uuid(value: object) -> bool:
    return type(value).__module__ == "uuid"  # which takes a millisecond to import


def _decode(value: bytes) -> object:
    """Return the text of bytes, the text of a UUID's 16, or the bytes if they are neither."""
    text: object = value
    with contextlib.suppress(UnicodeDecodeError):
        text = value.decode()
    is_printable = isinstance(text, str) and text.isprintable()
    if len(value) != 16 or is_printable:  # those of a UUID may be UTF-8 by chance
        return text
    import uuid

    return str(uuid.UUID(bytes=value))


def _find_fault(name: object) -> str:
    """Return what is wrong with a name, or an empty text."""
    if name is None:
        return ""
    if not isinstance(name, str):
        return f"the name is {excerpt(name)}, not text"
    if "\0" in name:
        return "the name holds a NUL byte"
    if re.search("[\ud800-\udfff]", name):
        return "the name is not UTF-8; save the file as UTF-8"
    return ""


def quote_csv(name: str) -> str:
    """Return a name as a cell of CSV. (csv.writer leaves a carriage return bare before 3.13.)"""
    return (
        '"' + name.replace('"', '""') + '"'
        if any(mark in name for mark in _QUOTED_CHARACTERS)
        else name
    )


def quote_csv_cells(names: Sequence[str]) -> Sequence[str]:
    """Return names as cells of CSV."""
    text = "".join(names)  # to look for each mark takes less than a regular expression
    return [*map(quote_csv, names)] if any(mark in text for mark in _QUOTED_CHARACTERS) else names
