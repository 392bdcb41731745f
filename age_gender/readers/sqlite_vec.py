"""Read `vec0` tables of the SQLite extension sqlite-vec from the tables in which it keeps them.

Rows lie in chunks. `T_chunks` has for each a bit for each slot that is taken, and the rowids;
`T_vector_chunks00` the vectors of the first vector column; `T_metadatachunks00` numbers and the
beginnings of texts, `T_metadatatext00` the long ones; `T_auxiliary` the columns marked `+`, and
`T_rowids` keys that are text (https://github.com/asg017/sqlite-vec, sqlite-vec.c).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from age_gender.readers.sqlite_database import Database, quote_sql

_SHADOWS = r"info|rowids|chunks|auxiliary|(vector_chunks|metadatachunks|metadatatext)\d\d"
_VECTOR = re.compile(r"(\w+)\s+(float|f32|int8|i8)\s*\[\s*(\d+)\s*\]", re.ASCII | re.IGNORECASE)
_BITS = re.compile(r"\w+\s+bit\s*\[", re.ASCII | re.IGNORECASE)
_COLUMN = re.compile(r"(\+?)(\w+)\s+(\w+)(\s+partition\s+key|\s+primary\s+key)?", re.ASCII | re.I)
_SHORT_TEXT = 12  # bytes of a text that lie beside its length


@dataclass
class Vec0Table:
    """Describe and read what a `create virtual table … using vec0(…)` declares."""

    name: str
    titles: list[str]
    sources: list[tuple[str, str]]  # by column: the table that holds it, or "rowids"; its type

    @classmethod
    def declared(cls, name: str, sql: str) -> "Vec0Table | None":
        """Return the table that the statement `sql` made, or None where that is another's."""
        match = re.search(r"\busing\s+vec0\s*\((.*)\)", sql, re.DOTALL | re.IGNORECASE)
        if not match:
            return None
        columns: list[tuple[str, tuple[str, str]]] = []
        counts = dict.fromkeys(("vector_chunks", "metadatachunks", "value", "partition"), -1)

        def add(title: str, where: str, dtype: str) -> None:
            counts[where] += 1
            columns.append((title, (f"{where}{counts[where]:02}", dtype)))

        for definition in match[1].split(","):
            definition = definition.strip()
            if vector := _VECTOR.match(definition):
                dtype = "<f4" if vector[2][0] in "fF" else "i1"
                add(vector[1], "vector_chunks", f"({vector[3]},){dtype}")
            elif _BITS.match(definition):
                counts["vector_chunks"] += 1  # bits are no embedding
            elif column := _COLUMN.match(definition):
                mark, title, dtype, key = column.groups()
                if key and "primary" in key.lower():
                    columns.insert(0, (title, ("rowids", "")))
                elif key or mark:
                    add(title, "partition" if key else "value", "")
                else:
                    add(title, "metadatachunks", dtype.lower())
        if not any(source == "rowids" for _, (source, _) in columns):
            columns.insert(0, ("id", ("rowids", "")))
        return cls(name, [title for title, _ in columns], [source for _, source in columns])

    def has_shadow(self, table: str) -> bool:
        """Return whether a table of the database is one in which this one is kept."""
        return bool(re.fullmatch(rf"{re.escape(self.name)}_({_SHADOWS})", table))

    def rows(self, database: Database) -> Iterator[tuple]:
        """Yield the rows, chunk by chunk, as sqlite-vec does; vectors as bytes of float32."""
        shadows = [source for source, _ in self.sources if source.startswith(("vector", "meta"))]
        partitions = [source for source, _ in self.sources if source.startswith("partition")]
        selected = [f"c.{quote_sql(source)}" for source in ("rowids", "validity", *partitions)]
        selected += [f"{source}.{'vectors' if source[0] == 'v' else 'data'}" for source in shadows]
        query = f"select {', '.join(selected)} from {self._shadow('chunks')} c"
        for source in shadows:
            query += f" join {self._shadow(source)} {source} on {source}.rowid = c.chunk_id"
        chunks = database.select(f"{query} order by c.chunk_id")
        next(chunks)
        for rowids, validity, *cells in chunks:
            taken = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little") > 0
            keys = np.frombuffer(rowids, "<i8")[taken].tolist()
            by_source = dict(zip([*partitions, *shadows], cells, strict=True))
            by_key = self._key_columns(database, keys)
            columns = [
                self._column(database, source, dtype, by_source.get(source), taken, keys, by_key)
                for source, dtype in self.sources
            ]
            yield from zip(*columns, strict=True)

    def _column(self, database, source, dtype, cell, taken, keys, by_key) -> list:
        """Return what the taken slots of a chunk hold in a column."""
        if source.startswith("partition"):
            return [cell] * len(keys)
        if source == "rowids" or source.startswith("value"):
            return [by_key[key][source] for key in keys]
        if source.startswith("vector"):
            vectors = np.frombuffer(cell, np.dtype(dtype))[taken].astype(np.float32)
            return [vector.tobytes() for vector in vectors]
        if dtype.startswith("bool"):
            bits = np.unpackbits(np.frombuffer(cell, np.uint8), bitorder="little")
            return bits[taken].tolist()
        if dtype == "text":
            texts = [cell[i * 16 : i * 16 + 16] for i in np.flatnonzero(taken).tolist()]
            long = self._long_texts(database, source, keys)
            return [
                long.get(key)
                if size > _SHORT_TEXT
                else text[4 : 4 + size].decode("utf-8", "surrogateescape")
                for key, text in zip(keys, texts, strict=True)
                for size in (int.from_bytes(text[:4], "little"),)
            ]
        return np.frombuffer(cell, "<i8" if dtype.startswith("int") else "<f8")[taken].tolist()

    def _key_columns(self, database: Database, keys: list[int]) -> dict[int, dict[str, object]]:
        """Return the key and the auxiliary columns of rows."""
        by_key: dict[int, dict[str, object]] = {key: {"rowids": key} for key in keys}
        values = [source for source, _ in self.sources if source.startswith("value")]
        for shadow, columns in (("rowids", ["id"]), ("auxiliary", values)):
            for rowid, *cells in self._by_rowid(database, shadow, columns, keys) if columns else ():
                sources = ["rowids"] if shadow == "rowids" else columns
                values_of = zip(sources, cells, strict=True)
                by_key[rowid] |= {source: cell for source, cell in values_of if cell is not None}
        for row in by_key.values():
            for source in values:
                row.setdefault(source, None)
        return by_key

    def _long_texts(self, database: Database, source: str, keys: list[int]) -> dict[int, str]:
        shadow = source.replace("chunks", "text")
        return dict(self._by_rowid(database, shadow, ["data"], keys))

    def _by_rowid(self, database, shadow: str, columns: list[str], keys: list[int]) -> Iterator:
        rowids = ", ".join(map(str, keys))
        query = f"select rowid, {', '.join(columns)} from {self._shadow(shadow)}"
        rows = database.select(f"{query} where rowid in ({rowids})")
        next(rows)
        return rows

    def _shadow(self, suffix: str) -> str:
        return quote_sql(f"{self.name}_{suffix}")
