"""Find columns of names by titles and values, and turn names into text."""

import contextlib
import os
import re

from age_gender.files import without_compressed_suffix
from age_gender.readers.numbers import excerpt

# Titles of columns of names, best first; a plural, a nested title (image.path) and a leading
# underscore (_id) count as the same.
NAME_COLUMNS = ("filename", "file", "path", "image", "name", "identity", "id", "label")
# Compound titles such as img_path or face_id rank like their last word, after all single words.
_COMPOUND_TITLE = re.compile(
    r"(?:known_)?(?:img|image|file|photo|picture|face|person|source)s?_?(path|file|name|id)s?"
    r"|(?:img|photo|picture)()"
)
# Index columns of pandas and of R's jsonlite
_INDEX_TITLE = re.compile(r"|__index_level_\d+__|Unnamed: \d+|_row")
INDEX_RANK = 2 * len(NAME_COLUMNS)  # rank of an index column, after all other titles
MAX_NAME = 1000  # characters; a longer text is an image as base64, or a list
# Beginnings of base64 images, lists and objects, with which hardly any name begins
_NOT_NAME_PREFIXES = ("/9j/", "iVBORw0KGgo", "UklGR", "data:image", "[", "{", "b'\\x")
MAX_DOUBTFUL_NAME = 100  # characters of a name with such a beginning


def text_name(name: str) -> str:
    """Return a file name or path as valid UTF-8 text; other bytes are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def name_of_file(path: str) -> str:
    """Return the name of a file's only face: the file's, without the suffixes of a table."""
    return text_name(without_compressed_suffix(os.path.basename(path)).removesuffix(".csv"))


def may_be_name(value: object) -> bool:
    """Return whether a value may be a name: text, a whole number, a UUID, or missing."""
    if isinstance(value, bytes):
        value = _decode(value)
    if isinstance(value, str):
        return len(value) < (
            MAX_DOUBTFUL_NAME if value.startswith(_NOT_NAME_PREFIXES) else MAX_NAME
        )
    is_whole = isinstance(value, float) and value.is_integer()
    return value is None or is_whole or type(value) is int or _is_uuid(value)


def rank_title(title: str) -> int | None:
    """Return how well a title suits a column of names (0 is best), or None if not at all."""
    last = title.casefold().rpartition(".")[2]
    word = last.lstrip("_")
    word = word if word in NAME_COLUMNS else word.removesuffix("s")
    if word in NAME_COLUMNS:
        return NAME_COLUMNS.index(word)
    if compound := _COMPOUND_TITLE.fullmatch(last):
        return len(NAME_COLUMNS) + NAME_COLUMNS.index(compound[1] or "image")
    return INDEX_RANK if _INDEX_TITLE.fullmatch(title) else None


def to_text(values: list) -> tuple[list[str | None], dict[int, str]]:
    """Return names as text, None for missing ones, and the faults of bad names by their indices.

    Names may be text, whole numbers, UUIDs or bytes of UTF-8.
    """
    with contextlib.suppress(TypeError, UnicodeEncodeError):  # fast: all names are text
        if b"\0" not in "".join(values).encode() and "" not in values:
            return values, {}
    texts = [_to_text(value) for value in values]
    return texts, {i: fault for i, name in enumerate(texts) if (fault := _find_fault(name))}


def _to_text(value: object) -> object:
    """Return a name as text, and any other value unchanged."""
    if isinstance(value, float):
        return None if value != value else str(int(value)) if value.is_integer() else value
    if type(value) is int or _is_uuid(value):
        return str(value)
    text = _decode(value) if isinstance(value, bytes) else value
    return None if text == "" else text  # an empty cell of CSV


def _is_uuid(value: object) -> bool:
    return type(value).__module__ == "uuid"  # importing uuid takes a millisecond


def _decode(value: bytes) -> object:
    """Return bytes as text if they are UTF-8 or the 16 of a UUID, else unchanged."""
    text: object = value
    with contextlib.suppress(UnicodeDecodeError):
        text = value.decode()
    is_printable = isinstance(text, str) and text.isprintable()
    if len(value) != 16 or is_printable:  # bytes of a UUID may be UTF-8 by chance
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
