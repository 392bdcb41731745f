"""Write tables of embeddings: NPZ, CSV and Parquet."""

import itertools
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from age_gender import files
from age_gender.cli import require
from age_gender.embeddings import MIN_WIDTH
from age_gender.errors import InputError

_QUOTED_CHARACTERS = ',"\r\n\ufeff'  # characters that need quotes in a CSV cell


def write(path: str | Path, names: Sequence[str], batches: Iterable[np.ndarray]) -> None:
    """Write a table in the format of its suffix, .npz, .csv or .parquet, whole or not at all.

    `batches` are arrays (n, width) with len(names) rows in all. CSV has 9 significant digits,
    which keep every float32 exactly.
    """
    check_output(path)
    batches = iter(batches)
    first = next(batches, np.empty((0, MIN_WIDTH), np.float32))
    width, batches = first.shape[1], itertools.chain([first], batches)
    writers = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}
    with files.atomic_file(path) as stream:
        writers[Path(path).suffix.lower()](stream, names, batches, width)


def check_output(path: str | Path) -> None:
    """Raise InputError unless a table can be written at `path`; call it before long work."""
    if Path(path).suffix.lower() not in (".npz", ".csv", ".parquet"):
        raise InputError(f"{path}: give an output that ends in .npz, .csv or .parquet")
    if Path(path).suffix.lower() == ".parquet":
        require("Parquet needs", pyarrow="pyarrow")
    files.check_writable(path)


def _write_npz(stream: BinaryIO, names: Sequence[str], batches: Iterable, width: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(names), width)}
    with zipfile.ZipFile(stream, "w") as archive:
        with archive.open(zipfile.ZipInfo("filenames.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.array(names, dtype=np.str_), allow_pickle=False)
        with archive.open(zipfile.ZipInfo("embeddings.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for batch in batches:
                member.write(np.ascontiguousarray(batch, "<f4").data)


def _write_csv(stream: BinaryIO, names: Sequence[str], batches: Iterable, width: int) -> None:
    remaining = iter(names)
    for batch in batches:
        for row in np.asarray(batch).tolist():
            line = ",".join([quote_csv(next(remaining)), *map("%.9g".__mod__, row)])
            stream.write(line.encode() + b"\n")


def _write_parquet(stream: BinaryIO, names: Sequence[str], batches: Iterable, width: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    # A schema without missing numbers is read twice as fast.
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), width)
    schema = pa.schema([("filename", pa.string()), pa.field("embedding", vector, nullable=False)])
    remaining = iter(names)
    # A dictionary or compression costs time and saves nothing, since the numbers look random.
    plain = {"use_dictionary": False, "compression": "none"}
    with pa.parquet.ParquetWriter(stream, schema, **plain) as writer:
        for batch in batches:
            values = pa.array(np.ascontiguousarray(batch, np.float32).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(values, type=vector)
            name_column = pa.array([*itertools.islice(remaining, len(batch))], pa.string())
            writer.write_batch(pa.record_batch([name_column, column], schema=schema))


def quote_csv(name: str) -> str:
    """Return a name as a CSV cell. (Before Python 3.13 csv.writer leaves \\r without quotes.)"""
    return (
        '"' + name.replace('"', '""') + '"'
        if any(mark in name for mark in _QUOTED_CHARACTERS)
        else name
    )


def quote_csv_cells(names: Sequence[str]) -> Sequence[str]:
    """Return names as cells of CSV."""
    text = "".join(names)  # searching for each mark is faster than a regular expression
    return [*map(quote_csv, names)] if any(mark in text for mark in _QUOTED_CHARACTERS) else names
