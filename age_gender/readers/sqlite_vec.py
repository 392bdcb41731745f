"""Read `vec0` tables of the SQLite extension sqlite-vec from its shadow tables.

The rows of a table T are in chunks. For each chunk, `T_chunks` has the rowids, and a bit for each
slot that is in use; `T_vector_chunks00` has the vectors of the first vector column;
`T_metadatachunks00` numbers and the beginnings of texts. `T_metadatatext00` has long texts,
`T_auxiliary` the columns marked `+`, and `T_rowids` keys that are text (sqlite-vec.c of
https://github.com/asg017/sqlite-vec).
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from age_gender.readers.sqlite_database import Database, quote_sql

# Ends of the names of shadow tables, after the table's name and _
_SHADOWS = r"info|rowids|chunks|auxiliary|(vector_chunks|metadatachunks|metadatatext)\d\d"
# Definitions of columns: of vectors, of vectors of bits, and of anything else
_VECTOR = re.compile(r"(\w+)\s+(float|f32|int8|i8)\s*\[\s*(\d+)\s*\]", re.ASCII | re.IGNORECASE)
_BITS = re.compile(r"\w+\s+bit\s*\[", re.ASCII | re.IGNORECASE)
_COLUMN = re.compile(r"(\+?)(\w+)\s+(\w+)(\s+partition\s+key|\s+primary\s+key)?", re.ASCII | re.I)
# A text has a slot of 16 bytes: 4 for its length, 12 for its beginning
_TEXT_SLOT, _TEXT_LENGTH = 16, 4


class _ColumnSource(NamedTuple):
    """Describe the storage of a column.

    `storage` is the end of a shadow table's name, or a column in a shadow table.
    """

    storage: str
    dtype: str = ""


class _Vec0Chunk(NamedTuple):
    """Hold a chunk's slots in use, the rowids in them, and the chunk's contents by storage."""

    slots: np.ndarray
    keys: list[int]
    contents: dict[str, object]


@dataclass
class Vec0Table:
    """Describe and read a table that `create virtual table … using vec0(…)` made."""

    name: str
    titles: list[str]
    sources: list[_ColumnSource]  # one for each title

    @classmethod
    def from_sql(cls, name: str, sql: str) -> "Vec0Table | None":
        """Return the table that the statement `sql` made, or None if it is not sqlite-vec's."""
        match = re.search(r"\busing\s+vec0\s*\((.*)\)", sql, re.DOTALL | re.IGNORECASE)
        if not match:
            return None
        columns = [*_parse_definitions(match[1])]
        if not any(source.storage == "rowids" for _, source in columns):
            columns.insert(0, ("id", _ColumnSource("rowids")))
        return cls(name, *map(list, zip(*columns, strict=True)))

    def owns_shadow(self, table: str) -> bool:
        """Return whether a table of the database is a shadow table of this one."""
        return bool(re.fullmatch(rf"{re.escape(self.name)}_({_SHADOWS})", table))

    def rows(self, database: Database) -> Iterator[tuple]:
        """Yield the rows in sqlite-vec's order, with vectors as bytes of float32."""
        for chunk in self._chunks(database):
            yield from zip(
                *(self._read_column(database, chunk, source) for source in self.sources),
                strict=True,
            )

    def _chunks(self, database: Database) -> Iterator[_Vec0Chunk]:
        """Yield the table's chunks, joined with their shadow tables."""
        storages = [source.storage for source in self.sources]
        shadows = [storage for storage in storages if storage.startswith(("vector", "meta"))]
        partitions = [storage for storage in storages if storage.startswith("partition")]
        selected = [f"c.{column}" for column in ("rowids", "validity", *partitions)]
        selected += [f"{table}.{'vectors' if table[0] == 'v' else 'data'}" for table in shadows]
        query = f"select {', '.join(selected)} from {self._shadow('chunks')} c"
        for table in shadows:
            query += f" join {self._shadow(table)} {table} on {table}.rowid = c.chunk_id"
        rows = database.select(f"{query} order by c.chunk_id")
        next(rows)
        for rowids, validity, *contents in rows:
            slots = np.flatnonzero(_unpack_bits(validity))
            keys = np.frombuffer(rowids, "<i8")[slots].tolist()
            yield _Vec0Chunk(slots, keys, dict(zip([*partitions, *shadows], contents, strict=True)))

    def _read_column(self, database: Database, chunk: _Vec0Chunk, source: _ColumnSource) -> list:
        """Return a column's values in the used slots of a chunk."""
        storage, dtype = source
        content = chunk.contents.get(storage)
        if storage == "rowids":  # or the user's own keys
            keys = self._select(database, "rowids", "id", chunk.keys)
            return [key if keys.get(key) is None else keys[key] for key in chunk.keys]
        if storage.startswith("value"):
            values = self._select(database, "auxiliary", storage, chunk.keys)
            return [values.get(key) for key in chunk.keys]
        if storage.startswith("partition"):
            return [content] * len(chunk.keys)
        if storage.startswith("vector"):
            vectors = np.frombuffer(content, np.dtype(dtype))[chunk.slots].astype(np.float32)
            return [vector.tobytes() for vector in vectors]
        if dtype == "text":
            shadow = storage.replace("chunks", "text")
            long_texts = self._select(database, shadow, "data", chunk.keys)
            texts = (_read_short_text(content, slot) for slot in chunk.slots.tolist())
            pairs = zip(chunk.keys, texts, strict=True)
            return [long_texts.get(key) if text is None else text for key, text in pairs]
        if dtype.startswith("bool"):
            return _unpack_bits(content)[chunk.slots].tolist()
        return np.frombuffer(content, "<i8" if dtype[:3] == "int" else "<f8")[chunk.slots].tolist()

    def _select(self, database: Database, shadow: str, column: str, keys: list[int]) -> dict:
        """Return the values of a column for the rowids `keys`, by rowid."""
        rows = database.select(
            f"select rowid, {column} from {self._shadow(shadow)} "
            f"where rowid in ({', '.join(map(str, keys))})"
        )
        next(rows)
        return dict(rows)

    def _shadow(self, suffix: str) -> str:
        return quote_sql(f"{self.name}_{suffix}")


def _parse_definitions(text: str) -> Iterator[tuple[str, _ColumnSource]]:
    """Yield the title and the source of each column; each kind of storage is numbered from 00."""
    counts: Counter[str] = Counter()

    def number(storage: str) -> str:
        counts[storage] += 1
        return f"{storage}{counts[storage] - 1:02}"

    for definition in map(str.strip, text.split(",")):
        if vector := _VECTOR.match(definition):
            dtype = "<f4" if vector[2][0] in "fF" else "i1"
            yield vector[1], _ColumnSource(number("vector_chunks"), f"({vector[3]},){dtype}")
        elif _BITS.match(definition):
            number("vector_chunks")  # bits are no embedding
        elif column := _COLUMN.match(definition):
            mark, title, dtype, key = column.groups()
            if key and "primary" in key.lower():
                yield title, _ColumnSource("rowids")
            elif key or mark:
                yield title, _ColumnSource(number("partition" if key else "value"))
            else:
                yield title, _ColumnSource(number("metadatachunks"), dtype.lower())


def _unpack_bits(data: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")


def _read_short_text(data: bytes, slot: int) -> str | None:
    """Return the text of a slot, or None if the slot holds only its beginning."""
    start = slot * _TEXT_SLOT
    size = int.from_bytes(data[start : start + _TEXT_LENGTH], "little")
    if size > _TEXT_SLOT - _TEXT_LENGTH:
        return None
    text = data[start + _TEXT_LENGTH : start + _TEXT_LENGTH + size]
    return text.decode("utf-8", "surrogateescape")
