"""Parquet, by Arrow's batches."""

from collections.abc import Iterator

import numpy as np

from age_gender.script import InputError
from age_gender.tables import pieces

PARQUET_BUFFER = 64 << 10  # bytes a column


def cut(path: str, only: bool) -> Iterator[pieces.Piece]:
    """Pieces of a Parquet file, in order."""
    return pieces.array_pieces(path, _blocks(path))


def input_bytes(path: str) -> int | None:
    """None: what the pieces have in all is not known before."""
    return None


def _blocks(path: str) -> Iterator[tuple[list[str] | None, np.ndarray]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow: pip install -r requirements-extra.txt"
        ) from None
    # A small buffer a column: otherwise Arrow holds a whole row group. Of 512 columns it still
    # holds a page and a dictionary each, some 2 MB.
    with pa.parquet.ParquetFile(path, buffer_size=PARQUET_BUFFER, pre_buffer=False) as table:
        columns = [c for c in table.schema_arrow if not c.name.startswith("__index_level_")]
        fields = [column for column in columns if column.name != "filename"]  # not pandas' index
        named = len(fields) < len(columns)
        as_list = len(fields) == 1 and pa.types.is_fixed_size_list(fields[0].type)
        types = [fields[0].type.value_type] if as_list else [column.type for column in fields]
        for kind in types:
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                raise InputError(
                    f"{path}: a column of type {kind}; give it a column filename and either "
                    f"{pieces.DIMENSIONS} columns of numbers or one of fixed-size lists"
                )
        width = fields[0].type.list_size if as_list else len(fields)
        if width != pieces.DIMENSIONS:
            raise InputError(f"{path}: {pieces.other_dimensions(width)}")
        numbers = [column.name for column in fields]
        size = (
            pieces.BLOCK_ROWS if as_list else 4 * pieces.BLOCK_ROWS
        )  # a batch of 512 columns costs more
        # Threads of Arrow's own would take the processors from scoring, and twice the time.
        indexed = len(columns) < len(table.schema_arrow)
        wanted = [column.name for column in columns] if indexed else None
        for batch in table.iter_batches(size, columns=wanted, use_threads=False):
            names = batch.column("filename").cast(pa.string()).to_pylist() if named else None
            if as_list:
                lists = batch.column(numbers[0])
                lists = lists.fill_null([None] * width) if lists.null_count else lists
                rows = _numpy(lists.flatten()).reshape(-1, width)
            else:
                rows = np.stack([_numpy(batch.column(name)) for name in numbers]).T
            for block in range(0, len(rows), pieces.BLOCK_ROWS):
                end = block + pieces.BLOCK_ROWS
                yield names and names[block:end], rows[block:end]


def _numpy(numbers) -> np.ndarray:
    """An Arrow array as NumPy's; missing numbers are NaN. Where none is, pandas stays away."""
    if numbers.null_count:
        return numbers.to_numpy(zero_copy_only=False)
    return np.from_dlpack(numbers)
