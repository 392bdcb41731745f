"""Coverage-guided fuzzing of the CSV and NPZ readers with atheris.

Whatever the bytes, the readers return or raise InputError. What is read of a CSV does not
depend on where it is cut nor on which of the two parsers reads it; what is read of an NPZ is
what numpy.load reads. The width is 3 instead of 512, so that mutations reach every cell.

examples:
  python tests/tables/fuzz_readers.py csv -max_total_time=60
  python tests/tables/fuzz_readers.py npz -max_total_time=60
  python tests/tables/fuzz_readers.py csv corpus/ -max_total_time=1200
"""

import contextlib
import inspect
import io
import os
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
warnings.simplefilter("ignore")

WIDTH = 3
SEEDS = {
    "csv": [
        b"a.jpg,1,-0.5,3e-2\nb.jpg,4,5,6\n",
        b"filename,e1,e2,e3\r\na,1,2,3\r\n\r\nb,4,5,6",
        b"0,1,2\n.1,+.2,3.e5\n1e-40, 1 ,0\n",
        b"\xef\xbb\xbf,0,1,2\n0,0.1,0.2,0.3\n",
        b'"a,b ""c""\r\nd",1,2,3\n"e",4,5,6\nf,"7",8,9\n',
        b'"a",1,2,3\n"b,4,5,6\n"c",7,8,9\n',
        b"a,1,2\na,1,2,3,4\na,nan,2,3\na,0,0,0\na,1e300,2,3\na,,2,3\n",
        b"a\0,1,2,3\nb\r,1,2,3\n\xff,1,2,3\nTrue,True,1,0\n",
        b"a;1;2;3\n1\t2\t3\n",
        b"name,1,2,3\n" + b"\n" * 70 + b"b,1,2,3",
    ],
    "npz": [],
}


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["age_gender.tables"]):
        from age_gender.tables import arrays, cutting, numbers, pieces, text  # noqa: F401
    for module in (np.lib._format_impl, zipfile):  # imported long before
        for function in filter(inspect.isfunction, vars(module).values()):
            atheris.instrument_func(function)

    target = {"csv": check_csv, "npz": check_npz}[sys.argv.pop(1)]
    folder = tempfile.mkdtemp(prefix="seeds-")
    for number, seed in enumerate(seeds(target)):
        Path(folder, str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, folder], target)
    atheris.Fuzz()


def seeds(target) -> list[bytes]:
    """A small corpus: tables in the accepted layouts, and some that are refused."""
    if target is check_csv:
        return [bytes([size]) + text for text in SEEDS["csv"] for size in (0, 9)]
    found = []
    for dtype in ("<f4", ">f8", "<f2", "<i4"):
        for order in "CF":
            arrays = []
            for array in (np.array(["a", "b"]), np.ones((2, WIDTH), dtype, order)):
                stream = io.BytesIO()
                np.save(stream, array)
                arrays.append(stream.getvalue())
            found += [bytes([how, len(arrays[0])]) + b"".join(arrays) for how in (0, 1)]
    return [*found, b"\x02PK"]


# --------------------------------------------------------------------------------- CSV


def check_csv(data: bytes) -> None:
    """The first byte is the size of the chunks; the rest is the CSV."""
    size, text = 5 + (data[0] if data else 0), data[1:]
    whole = read_csv(text, chunk=1 << 20)
    fast = read_csv(text, chunk=1 << 20, fast=True)
    assert same(whole, fast), (whole, fast)
    cut = read_csv(text, chunk=size)
    read_csv(text, chunk=size, record=64)
    if not any("quote" in row.reason or "CSV" in row.reason for row in (whole or [[]] * 3)[2]):
        assert same(whole, cut), (whole, cut)


def read_csv(data: bytes, chunk: int, fast: bool = False, record: int = 1 << 20, width=WIDTH):
    """(names, features, bad rows), or None where the file is refused."""
    from age_gender.script import InputError
    from age_gender.tables import cutting, pieces, reading, text
    from age_gender.tables.columns import Wanted

    with contextlib.suppress(InputError):
        cutting.check_is_text("fuzz.csv", data)
    changed = {
        (cutting, "check_is_text"): lambda path, start: (
            None
        ),  # which looks at the first chunk alone
        (pieces, "CHUNK_BYTES"): chunk,
        (pieces, "RECORD_BYTES"): record,
        (pieces, "SMALL_BYTES"): 0 if fast else 1 << 30,
        (cutting, "DENSE_BYTES"): chunk,
    }
    before = {(module, name): getattr(module, name) for module, name in changed}
    for (module, name), value in changed.items():
        setattr(module, name, value)
    try:
        names, blocks, faults, numbering = [], [], [], pieces.Numbering()
        for piece in text.cut_stream("fuzz.csv", io.BytesIO(data), Wanted(width=width)):
            block = reading.parse(piece)
            found, bad = numbering.place(block)
            assert len(found) == len(block.features) == len(block.good)
            assert np.isfinite(block.features).all()
            assert [row.row for row in bad] == sorted(row.row for row in bad)
            names += found
            faults += bad
            blocks.append(block.features)
        return names, np.concatenate(blocks), faults
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
    from age_gender.script import InputError
    from age_gender.tables import arrays, pieces, reading
    from age_gender.tables.columns import Wanted

    empty = pieces.Piece(path, "arrays", np.empty((0, 0)))
    try:
        names, blocks, bad, numbering = [], [], [], pieces.Numbering()
        for piece in pieces.one_behind(empty, arrays.npz_pieces(path, Wanted(width=WIDTH))):
            block = reading.parse(piece)
            found, faults = numbering.place(block)
            names += found
            bad += faults
            blocks.append(block.features)
    except InputError:
        return
    with np.load(path, allow_pickle=False) as saved, contextlib.suppress(UnicodeDecodeError):
        with np.errstate(all="ignore"):
            expected = saved["embeddings"].astype(np.float32)
        kept = np.delete(np.arange(len(expected)), [row.row - 1 for row in bad])
        assert np.array_equal(np.concatenate(blocks), expected[kept])
        wanted = [saved["filenames"].tolist()[i] for i in kept]
        assert names == [name.decode() if isinstance(name, bytes) else name for name in wanted]


if __name__ == "__main__":
    main()
