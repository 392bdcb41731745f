"""Coverage-guided fuzzing of the readers with atheris: csv, lists (in cells), jsonl, sqlite, npz.

Whatever the bytes, the readers return or raise InputError. What is read of a text does not
depend on where it is cut nor on whether its numbers are parsed at once; what is read of an NPZ is
what numpy.load reads, of JSON what json reads, of BLOBs what NumPy reads. The width is 3 instead
of 512, so that mutations reach every cell.

examples:
  python tests/readers/fuzz_readers.py csv -max_total_time=60
  python tests/readers/fuzz_readers.py npz -max_total_time=60
  python tests/readers/fuzz_readers.py csv corpus/ -max_total_time=1200
"""

import contextlib
import inspect
import io
import json
import os
import sqlite3
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
import corpora  # noqa: E402

warnings.simplefilter("ignore")

WIDTH = 3


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["age_gender.readers"]):
        from age_gender.readers import sqlite_files, tables  # noqa: F401
    for module in (np.lib._format_impl, zipfile):  # imported long before
        for function in filter(inspect.isfunction, vars(module).values()):
            atheris.instrument_func(function)

    target = TARGETS[sys.argv.pop(1)]
    corpora.fuzz(target, seeds(target))


def seeds(target) -> list[bytes]:
    """Return a small corpus: tables in the accepted layouts, and some that are refused."""
    name = next(name for name, check in TARGETS.items() if check is target)
    if name in ("csv", "lists", "jsonl"):
        return [bytes([size]) + text for text in corpora.TEXTS[name] for size in (0, 9)]
    return corpora.SQLITE if name == "sqlite" else corpora.npz_files(WIDTH)


# --------------------------------------------------------------------------------- CSV


def check_csv(data: bytes) -> None:
    """The first byte is the size of the chunks; the rest is the CSV."""
    check_text(data, ".csv")


def check_lists(data: bytes) -> None:
    check_text(data, ".csv")


def check_jsonl(data: bytes) -> None:
    """The same of JSON; and a line that json reads as a row of good numbers is read so."""
    from age_gender.readers import tables

    check_text(data, ".json")
    for line in data[1:].split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and list(row) == ["e"] and is_embedding(row["e"]):
                reader = tables.read_json_chunks
                _, features, bad = read_text(line, 1 << 20, fast=True, reader=reader)
                with np.errstate(over="ignore"):
                    expected = np.float32([*map(float, row["e"])])
                good = np.isfinite(expected).all() and np.abs(expected).max() >= 1e-37
                assert len(features) == good == (not bad)
                assert not good or np.array_equal(features[0], expected)


def is_embedding(value) -> bool:
    return isinstance(value, list) and len(value) == WIDTH and {*map(type, value)} == {float}


def check_text(data: bytes, suffix: str) -> None:
    from age_gender.readers import tables

    reader = tables.READERS[suffix]
    size, text = 5 + (data[0] if data else 0), data[1:]
    good, unassigned, of_cut = [], [], []
    whole = read_text(text, 1 << 20, reader=reader, places=(good, []))
    fast = read_text(text, 1 << 20, fast=True, reader=reader)
    assert same(whole, fast), (whole, fast)
    cut = read_text(text, size, reader=reader, places=(of_cut, unassigned))
    read_text(text, size, record=64, reader=reader)
    bad = [row.reason for table in (whole, cut) if table for row in table[2]]
    if not any("quote" in reason or "CSV" in reason for reason in bad):
        # Rows in chunks before the first that shows the columns are bad where it is cut.
        whole, cut = without(whole, good, unassigned), without(cut, of_cut, unassigned)
        # A table without a good row is refused, at its first lines or row by row.
        assert same(whole, cut) or not (good or of_cut), (whole, cut)


def without(table, good: list[int], rows: list[int]):
    """Return what `read_text` returned but for these rows; `good` are the rows of its names."""
    if table is None:
        return None
    kept = [i for i, row in enumerate(good) if row not in rows]
    bad = [fault for fault in table[2] if fault.row not in rows]
    return [table[0][i] for i in kept], table[1][kept], bad


def read_text(
    data: bytes, chunk: int, fast=False, record=1 << 20, width=WIDTH, reader=None, places=None
):
    """(names, features, bad rows), or None where the file is refused.

    `places` take the numbers of the good rows, and of those in chunks that came before any row
    that shows the columns.
    """
    from age_gender.errors import InputError
    from age_gender.readers import chunks, tables, text_chunks
    from age_gender.readers.columns import ReadOptions

    reader = reader or tables.read_csv_chunks
    with contextlib.suppress(InputError):
        text_chunks.check_is_text("fuzz.csv", data)
    changed = {
        (text_chunks, "check_is_text"): lambda path, start: (
            None
        ),  # which looks at the first chunk alone
        (chunks, "CHUNK_BYTES"): chunk,
        (chunks, "MAX_ROW_BYTES"): record,
        (chunks, "SMALL_BYTES"): 0 if fast else 1 << 30,
        (text_chunks, "DENSE_BYTES"): chunk,
    }
    before = {(module, name): getattr(module, name) for module, name in changed}
    for (module, name), value in changed.items():
        setattr(module, name, value)
    try:
        names, blocks, faults, numbering = [], [], [], chunks.RowNumbering()
        stream = io.BufferedReader(io.BytesIO(data))
        parts = reader("fuzz.csv", stream, ReadOptions(width=width))
        for chunk in tables.mark_last("fuzz.csv", parts):
            block = tables.parse(chunk)
            good_names, bad = numbering.number(block)
            assert len(good_names) == len(block.features) == len(block.row_indices)
            assert np.isfinite(block.features).all()
            assert [row.row for row in bad] == sorted(row.row for row in bad)
            names += good_names
            faults += bad
            blocks.append(block.features)
            first = numbering.file_rows - block.row_count + 1
            if places:
                places[0].extend((first + block.row_indices).tolist())
            if places and not chunk.columns.width:
                places[1].extend(range(first, first + block.row_count))
        return names, np.concatenate([np.empty((0, width)), *filter(len, blocks)]), faults
    except InputError:
        return None
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)


def same(first, second) -> bool:
    if first is None or second is None:
        return first is second
    one_row = len(first[0]) == 1  # may take the file's name, or not where it is cut
    return (
        (first[0] == second[0] or one_row)
        and np.array_equal(first[1], second[1])
        and [row[:3] for row in first[2]] == [row[:3] for row in second[2]]
    )


# ------------------------------------------------------------------------------ SQLite


def check_sqlite(data: bytes) -> None:
    """The first byte: 0 and 1, the rest are BLOBs of float32 or float64; 2, lists as text, one a
    line; 3, the rest overwrites a database.
    """
    from age_gender.errors import InputError
    from age_gender.readers import tables
    from age_gender.readers.columns import ReadOptions

    how, rest = data[0] % 4 if data else 0, data[1:]
    step = WIDTH * (4, 8)[how] if how < 2 else 1
    if how == 2:
        values = [line.decode("utf-8", "replace") for line in rest.split(b"\n")]
    else:
        values = [rest[i : i + step] for i in range(0, min(len(rest), 50 * step), step)]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder, "fuzz.db")
        with sqlite3.connect(path) as connection:
            connection.execute("create table faces (id, vector)")
            rows = enumerate([bytes(step)] if how == 3 else values)
            connection.executemany("insert into faces values (?, ?)", rows)
        connection.close()
        if how == 3:
            with open(path, "r+b") as stream:
                stream.seek(int.from_bytes(rest[:2], "little") % path.stat().st_size)
                stream.write(rest[2:])
        options = ReadOptions(width=WIDTH, query="select id, vector from faces")
        try:
            blocks = [tables.parse(chunk) for chunk in tables.read_chunks([str(path)], options)]
        except InputError:
            return
    read = {
        row: vector for b in blocks for row, vector in zip(b.row_indices, b.features, strict=True)
    }
    if how > 1 or any(value.isascii() and value.decode().isprintable() for value in values):
        return  # texts, and BLOBs that hold text, may be any form of a vector
    dtypes = [np.dtype(order + name) for order in "<>" for name in ("f2", "f4", "f8")]
    assert not read or any(_holds(read, values, dtype) for dtype in dtypes)


def _holds(read: dict[int, np.ndarray], values: list[bytes], dtype: np.dtype) -> bool:
    """Return whether the rows that were read are the good ones among BLOBs of this dtype."""
    for row, value in enumerate(values):
        with np.errstate(all="ignore"):
            fits = len(value) == WIDTH * dtype.itemsize
            expected = np.frombuffer(value, dtype if fits else "u1").astype(np.float32)
            good = fits and np.isfinite(expected).all() and np.abs(expected).max() >= 1e-37
        if (row in read) != good or (good and not np.array_equal(read[row], expected)):
            return False
    return True


# --------------------------------------------------------------------------------- NPZ


def check_npz(data: bytes) -> None:
    """The first byte: 0 stores two arrays, 1 deflates them, 2 takes the rest as the file.

    The second is the length of the first array. Only so do mutations get past the checksums.
    """
    if len(data) < 2:
        return
    if data[0] % 3 == 2:
        archive = data[1:]
    else:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED * (data[0] % 3)) as members:
            members.writestr("filenames.npy", data[2 : 2 + data[1]])
            members.writestr("embeddings.npy", data[2 + data[1] :])
        archive = stream.getvalue()
    file = os.memfd_create("fuzz.npz")
    try:
        os.write(file, archive)
        compare_npz(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def compare_npz(path: str) -> None:
    from age_gender.errors import InputError
    from age_gender.readers import chunks, tables
    from age_gender.readers.columns import ReadOptions

    try:
        names, blocks, bad, numbering = [], [], [], chunks.RowNumbering()
        parts = tables.read_numpy_chunks(path, None, ReadOptions(width=WIDTH))
        for chunk in tables.mark_last(path, tables.translate_errors(path, parts)):
            block = tables.parse(chunk)
            good_names, faults = numbering.number(block)
            names += good_names
            bad += faults
            blocks.append(block.features)
    except InputError:
        return
    with (
        np.load(path, allow_pickle=False) as saved,
        contextlib.suppress(UnicodeDecodeError, SystemError),
    ):
        with np.errstate(all="ignore"):
            expected = saved["embeddings"].astype(np.float32)
        kept = np.delete(np.arange(len(expected)), [row.row - 1 for row in bad])
        assert np.array_equal(np.concatenate(blocks), expected[kept])
        options = [saved["filenames"].tolist()[i] for i in kept]
        texts = [name.decode() if isinstance(name, bytes) else name for name in options]
        assert names == [text or str(row + 1) for text, row in zip(texts, kept, strict=True)]


TARGETS = {
    "csv": check_csv, "lists": check_lists, "jsonl": check_jsonl, "sqlite": check_sqlite,
    "npz": check_npz,
}  # fmt: skip

if __name__ == "__main__":
    main()
