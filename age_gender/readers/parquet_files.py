"""Parquet: what reads it is imported where a file is met, for the time that it takes."""

from collections.abc import Iterator
from typing import BinaryIO

from age_gender.cli import require
from age_gender.readers.chunks import Batch, Chunk
from age_gender.readers.columns import ReadOptions


class ParquetReader:
    """Reads Parquet."""

    is_text = False

    def cut(self, path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[Chunk]:
        """Yield chunks of the rows of a file."""
        require(f"{path}: Parquet needs", pyarrow="pyarrow")
        from age_gender.readers import parquet_tables

        yield from parquet_tables.cut(path, options)

    def parse(self, chunk: Chunk) -> Batch:
        raise NotImplementedError  # its chunks have the reader of arrays, or of rows
