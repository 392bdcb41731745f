"""Tables that cannot be used are refused in one line with file, row and remedy; names come back."""

import contextlib
import csv
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import HEADER, MODEL, line, program, refusal, refused, script, with_cell

import run
from age_gender.readers import chunks, csv_files

# ------------------------------------------------------------------------- whole files

TEXTS = {  # content of a CSV: words of the message
    "empty": ("", ["this file has no rows", "write it again"]),
    "blank lines": ("\n\n  \n\r\n", ["this file has no rows", "write it again"]),
    "only a header": (HEADER + "\n", ["this file has no rows"]),
    "only a header, no line end": (HEADER, ["this file has no rows"]),
    "only a byte-order mark": ("\ufeff", ["this file has no rows"]),
    "NUL bytes": ("\0" * 3000, ["binary data", "save the embeddings as UTF-8 CSV"]),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_csv_without_rows_is_refused(tmp_path, case):
    path = tmp_path / "my.csv"
    path.write_bytes(TEXTS[case][0].encode())
    said = refusal(path)
    for word in (str(path), *TEXTS[case][1]):
        assert word in said


def test_a_csv_that_is_none_is_refused(tmp_path, rows):
    text = "\n".join(rows) + "\n"
    generator = np.random.default_rng(0)
    for content, word in [
        (text.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (text.encode("utf-16-le"), "save the embeddings as UTF-8"),
        (text.encode("utf-32"), "save it as UTF-8"),
        (generator.bytes(30_000), "binary data"),
        (text.replace("\n", "\r").encode(), "end lines with a line feed"),
        (b"PK\x03\x04" + text.encode(), "suffix .npz"),
        (b"\x93NUMPY" + text.encode(), "suffix .npy"),
        (b"PAR1" + text.encode(), "suffix .parquet"),
        (b"\x1f\x8b" + text.encode(), "broken gzip data"),
    ]:
        (tmp_path / "my.csv").write_bytes(content)
        assert word in refusal(tmp_path / "my.csv")


@pytest.mark.parametrize("count", [64, 128, 256, 1024])
@pytest.mark.parametrize("named", [False, True])
def test_embeddings_of_another_length_are_refused_with_their_length(tmp_path, count, named):
    rows = [line(np.full(count, 0.1), "a.jpg" if named else None)] * 3
    (tmp_path / "my.csv").write_text("\n".join(rows))
    said = refusal(tmp_path / "my.csv")
    assert "row 1 (line 1)" in said and f"{count:,} numbers, not 512" in said
    assert "need a model of their own" in said


# -------------------------------------------------------------------------------- rows

CELLS = {
    "hello": "'hello', not a finite number",
    "": "is empty",
    "  ": "is empty",
    "NaN": "not a finite number",
    "-inf": "not a finite number",
    "1e300": "too large a number",
    "NA": "not a finite number",
    "True": "not a finite number",
    "0x1p3": "not a finite number",
    "1_000": "not a finite number",
    "0.1\0": "not a finite number",
    "\x1b[2J": r"'\x1b[2J', not a finite number",  # no commands to the terminal
    "1,5": "513 numbers after the name",
    '"1,5"': "'1,5', not a finite number",
    "9" * 3000: "too large a number",
    '"0.5': "a quote is not closed",
}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: repr(cell[:10]))
@pytest.mark.parametrize("header", [True, False])
def test_a_bad_cell_is_refused_with_its_row_and_line(tmp_path, rows, cell, header):
    path = tmp_path / "my.csv"
    lines = [HEADER] * header + [rows[0], with_cell(rows[1], cell), *rows[2:]]
    path.write_text("\n".join(lines) + "\n")
    said = refusal(path)
    assert f"{path}: row 2 (line {2 + header}): " in said
    assert CELLS[cell] in said and "correct this row or use --skip-bad-rows" in said


def test_a_row_of_another_kind_is_refused_with_its_row_and_line(tmp_path, rows):
    cut = rows[3][: len(rows[3]) // 2]
    for bad, word in [
        (rows[3].rpartition(",")[0], "511 numbers after the name, not 512"),
        (rows[3] + ",0.5", "513 numbers after the name, not 512"),
        (line([0.0] * 512, "zeros.jpg"), "a row of zeros is no embedding"),
        (line([1e-40] * 512, "tiny.jpg"), "a row of zeros is no embedding"),
        (cut, "numbers after the name, not 512"),
        ('"face"x' + rows[3], "not CSV"),
        (rows[3].replace("face3", "\udcff"), "not UTF-8; save the file as UTF-8"),
        (rows[3].replace("face3", "\0"), "NUL"),
    ]:
        content = "\n".join([HEADER, *rows[:3], bad]).encode("utf-8", "surrogateescape")
        (tmp_path / "my.csv").write_bytes(content)
        said = refusal(tmp_path / "my.csv")
        assert "row 4 (line 5): " in said and word in said


def test_a_bad_row_far_down_in_a_large_file_is_found(tmp_path, rows):
    """1,800 rows are more than 2 MB: pandas parses the first part, the second has the fault."""
    path = tmp_path / "my.csv"
    path.write_text("\n".join([HEADER, *rows * 300, with_cell(rows[0], "1e300")]) + "\n")
    assert path.stat().st_size > chunks.CHUNK_BYTES
    assert "row 1801 (line 1802): cell 8 is '1e300', too large" in refusal(path)


def test_what_is_wrong_with_a_whole_table_is_not_blamed_on_its_first_row(tmp_path):
    path = tmp_path / "my.csv"
    for content, remedy in (
        ("path,score,note\na,1,x\nb,2,y\n", "--embedding-column NAME"),
        ((",".join(["0.5"] * 128) + "\n") * 3, "python prepare.py --features YOURS"),
    ):
        path.write_text(content)
        said = refusal(path)
        assert remedy in said and "correct this row" not in said


def test_the_script_says_one_line_and_leaves_no_file(tmp_path, rows):
    path, output = tmp_path / "my.csv", tmp_path / "out.csv"
    path.write_text("\n".join([rows[0], with_cell(rows[1], "1e300")]))
    done = script("run.py", "--features", path, "--output", output, "--model", MODEL)
    refused(done, str(path), "row 2 (line 2)", "too large", "correct this row")
    done = program("run.py", "--features", "-", "--model", MODEL, input=b"")
    refused(done, "standard input", "this file has no rows")
    refused(
        script("run.py", "--features", tmp_path / "none.csv", "--model", MODEL),
        "none.csv",
        "no such file",
    )
    assert sorted(os.listdir(tmp_path)) == ["my.csv"]


# ------------------------------------------------------------------- arrays and tables


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_object_arrays_are_never_unpickled(tmp_path, faces):
    trap = np.empty(4, object)
    trap[:] = [Trap(tmp_path / "sprung")] * 4
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "a.npz", filenames=trap, embeddings=faces[1][:4])
    np.savez(tmp_path / "b.npz", filenames=np.array(faces[0][:4]), embeddings=trap)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(trap[0]))
    for name in ("a.npy", "a.npz", "b.npz"):
        assert "Python objects, which are never unpickled" in refusal(tmp_path / name)
    assert "a pickle, which is never opened" in refusal(tmp_path / "c.npy")
    assert not (tmp_path / "sprung").exists()
    with contextlib.suppress(Exception):
        np.load(tmp_path / "c.npy", allow_pickle=True)
    assert (tmp_path / "sprung").exists()  # the trap works


def test_arrays_of_another_shape_or_type_are_refused(tmp_path, faces):
    names, table = np.array(faces[0][:4]), faces[1][:4]
    nan = table.copy()
    nan[2, 5] = np.nan
    for arrays, word in [
        ({"x": names}, "no two-dimensional array of numbers, has x"),
        ({"x": table, "y": table}, "the arrays x and y both fit as embeddings; say which is meant: "
         "--embedding-column x"),
        ({"embeddings": table, "a": names, "b": names}, "the arrays a and b both fit as filenames"),
        ({"filenames": names, "embeddings": table[:, :128]}, "128 numbers, not 512"),
        ({"filenames": names[:2], "embeddings": table}, "2 filenames for 4 embeddings"),
        ({"filenames": names, "embeddings": table[:2]}, "4 filenames for 2 embeddings"),
        ({"filenames": np.arange(4), "embeddings": table}, "save them as strings"),
        ({"filenames": names, "embeddings": table.astype(str)}, "save them as numbers"),
        ({"filenames": names, "embeddings": table + 0j}, "save them as numbers"),
        ({"filenames": names, "embeddings": table[None]}, "shape (1, 4, 512), not (N, 512)"),
        ({"filenames": names, "embeddings": nan}, "row 3: number 6 is nan, not a finite number"),
        ({"filenames": names, "embeddings": table.astype(float) * 1e300}, "row 1: number 1 is"),
        ({"filenames": names[:0], "embeddings": table[:0]}, "this file has no rows"),
        ({"filenames": np.array(["a", "\udcff", "b", "c"]), "embeddings": table}, "row 2: the"),
    ]:  # fmt: skip
        np.savez(tmp_path / "t.npz", **arrays)
        assert word in refusal(tmp_path / "t.npz")
    for array, word in [
        (table[0, 0], "not (N, 512)"),
        (table[0, :5], "not (N, 512)"),
        (nan, "row 3: number 6 is nan"),
    ]:
        np.save(tmp_path / "t.npy", array)
        assert word in refusal(tmp_path / "t.npy")


def test_broken_binary_files_are_refused(tmp_path, faces):
    good = tmp_path / "good.npz"
    np.savez_compressed(good, filenames=np.array(faces[0][:9]), embeddings=faces[1][:9])
    content = good.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    generator = np.random.default_rng(0)
    for suffix in ("npz", "npy", "parquet"):
        cases = [b"", b"PK\x03\x04" + generator.bytes(3000), generator.bytes(3000)]
        for case in cases + [content[:3000], bytes(flipped)] * (suffix == "npz"):
            (tmp_path / f"t.{suffix}").write_bytes(case)
            said = refusal(tmp_path / f"t.{suffix}")
            assert "not a readable" in said and "copy or write it again" in said


def npy(header: str, version: bytes = b"\x01\x00", data: bytes = b"") -> bytes:
    size = len(header).to_bytes(2 * version[0], "little")
    return b"\x93NUMPY" + version + size + header.encode() + data


def test_a_header_that_claims_anything_costs_nothing(tmp_path):
    shape = "{'descr': '%s', 'fortran_order': %s, 'shape': %s}\n"
    for header in (
        shape % ("<f4", False, (2**60, 512)),
        shape % ("<f4", True, (2**60, 512)),
        shape % ("<f4", False, (-1, 512)),
        shape % ("<f4", False, (2**60, 2**60)),
        shape % ("<f4", False, (10**400, 512)),
        shape % ("|V512", False, (1, 512)),
        shape % ("<M8[s]", False, (1, 512)),
        shape % ("<f4", False, "(" * 5000),
        "{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os')}",
        "",
    ):
        (tmp_path / "t.npy").write_bytes(npy(header, data=b"\1" * 4096))
        assert str(tmp_path / "t.npy") in refusal(tmp_path / "t.npy")
    (tmp_path / "t.npy").write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 20_000)
    assert "header of 4,294,967,295 bytes" in refusal(tmp_path / "t.npy")


def test_other_ways_to_compress_an_npz_are_refused(tmp_path, faces):
    """zipfile unpacks bzip2 and LZMA without a bound on memory."""
    good = tmp_path / "good.npz"
    np.savez(good, filenames=np.array(faces[0][:9]), embeddings=faces[1][:9])
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(tmp_path / "t.npz", "w", method) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        assert "save it with numpy.savez" in refusal(tmp_path / "t.npz")


def test_other_parquet_tables_are_refused(tmp_path, faces):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table, vector = faces[1][:3], pa.list_(pa.float32(), 512)
    holes = [table[0].tolist(), None, table[2].tolist()]
    for columns, word in [
        ({"a": [1, 2], "b": ["x", "y"]}, "no column of lists and no run of number columns"),
        ({f"c{i}": table[:, i] for i in range(500)}, "500 numbers, not 512"),
        ({"e": pa.array([[1.0] * 128], pa.list_(pa.float32(), 128))}, "128 numbers, not 512"),
        ({"e": pa.array([row[:7] for row in table.tolist()])}, "row 1: 7 numbers, not 512"),
        ({"e": pa.array([["x"]])}, "1 number, not 512"),
        ({"e": pa.array(holes, vector)}, "row 2: the embedding is missing"),
        ({"filename": [], "e": pa.array([], vector)}, "this file has no rows"),
    ]:
        parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
        assert word in refusal(tmp_path / "t.parquet")


# ------------------------------------------------------------------------------- names

NAMES = [
    "a,b.jpg", 'say "x"', "two\nlines", "cr\r\nlf", "lone\rcr", "Zoë 李.jpg", "x" * 10_000, "same",
    "same", " spaces ", "0.5", "NA", '"', "=1+1", "\ufeffmark", "../up",
]  # fmt: skip


def test_an_empty_name_is_the_row_s_number(tmp_path, faces):
    path, output = tmp_path / "my.csv", tmp_path / "out.csv"
    rows = zip(["a", "b", ""], faces[1][:3].tolist(), strict=True)
    path.write_text("".join(f"{name},{line(row)}\n" for name, row in rows))
    run.main(["--features", str(path), "--output", str(output), "--model", MODEL])
    with open(output, newline="") as stream:
        assert [row["filename"] for row in csv.DictReader(stream)] == ["a", "b", "3"]


@pytest.mark.parametrize("repeat", [1, 80])  # 80: above 2 MB, where a chunk is parsed at once
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_any_name_comes_through_as_it_was(tmp_path, faces, repeat, quoting):
    path, output = tmp_path / "my.csv", tmp_path / "out.csv"
    names = NAMES * repeat
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=quoting)  # \r\n ends its lines
        for i, name in enumerate(names):
            writer.writerow([name, *map("%.8f".__mod__, faces[1][i % 900].tolist())])
    assert (path.stat().st_size > chunks.CHUNK_BYTES) == (repeat > 1)
    run.main(["--features", str(path), "--output", str(output), "--model", MODEL])
    with open(output, newline="", encoding="utf-8") as stream:
        assert [row["filename"] for row in csv.DictReader(stream)] == names
    assert sorted(os.listdir(tmp_path)) == ["my.csv", "out.csv"]


def test_quoted_names_of_a_large_file_are_parsed_at_once(tmp_path, faces, monkeypatch):
    """Every name in quotes, as R writes them, and chunks that end anywhere."""
    path, output = tmp_path / "my.csv", tmp_path / "out.csv"
    names = [f"face, {i}" for i in range(900)]
    path.write_text(
        "".join(f'"{n}",{line(row)}\n' for n, row in zip(names, faces[1].tolist(), strict=True))
    )
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 300_007)
    one_by_one, careful = csv_files._split_rows, []
    monkeypatch.setattr(
        csv_files, "_split_rows", lambda chunk: careful.append(chunk) or one_by_one(chunk)
    )
    run.main(["--features", str(path), "--output", str(output), "--model", MODEL])
    with open(output, newline="") as stream:
        assert [row["filename"] for row in csv.DictReader(stream)] == names
    assert len(careful) < 5  # the first, smaller chunks
