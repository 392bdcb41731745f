"""Every bad input ends in exit code 2 and one line with file, row and remedy; nothing is left."""

import contextlib
import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import Run, refused, script, start, training

import run
import test
import train
from age_gender import model_files, outputs, records
from age_gender.script import InputError, error_line, is_users
from age_gender.tables import pieces, reading, text, writing
from age_gender.tables.columns import Wanted

MODEL = str(model_files.PRETRAINED)


def line(values, name: str | None = None) -> str:
    return ",".join([*([name] if name else []), *map("%.9g".__mod__, values)])


@pytest.fixture(scope="module")
def rows(faces) -> list[str]:
    """Six good rows of CSV with names."""
    return [line(values, f"face{i}.jpg") for i, values in enumerate(faces[1][:6].tolist())]


HEADER = line([], "filename") + "," + ",".join(f"e{i}" for i in range(512))


def with_cell(row: str, cell: str) -> str:
    """The row with another eighth cell, which is the seventh number."""
    cells = row.split(",")
    return ",".join([*cells[:7], cell, *cells[8:]])


def refusal(path, *more: str) -> str:
    """What run.py says about this input. Nothing may be left of its output."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out.csv")
        with pytest.raises((InputError, OSError)) as caught:
            run.main(["--features", str(path), "--output", str(output), "--model", MODEL, *more])
        assert is_users(caught.value)
        assert os.listdir(folder) == []
    said = error_line(caught.value)
    assert "\n" not in said and len(said) <= 500
    return said


# ------------------------------------------------------------------------- whole files

TEXTS = {  # content of a CSV: words of the message
    "empty": ("", ["no row of embeddings", "write it again"]),
    "blank lines": ("\n\n  \n\r\n", ["no row of embeddings", "write it again"]),
    "only a header": (HEADER + "\n", ["no row of embeddings"]),
    "only a header, no line end": (HEADER, ["no row of embeddings"]),
    "only a byte-order mark": ("\ufeff", ["no row of embeddings"]),
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
        (text.replace(",", ";").encode(), "row 1 (line 1): cells are separated by semicolons"),
        (text.replace(",", "\t").encode(), "row 1 (line 1): cells are separated by tabs"),
        (text.replace(",", " ").encode(), "row 1 (line 1): cells are separated by spaces"),
        (text.replace(",", ";").replace(".", ",").encode(), "separated by semicolons"),
        (text.replace("\n", "\r").encode(), "end lines with a line feed"),
        (b"PK\x03\x04" + text.encode(), "suffix .npz"),
        (b"\x93NUMPY" + text.encode(), "suffix .npy"),
        (b"PAR1" + text.encode(), "suffix .parquet"),
        (b"\x1f\x8b" + text.encode(), "gzip -dc"),
    ]:
        (tmp_path / "my.csv").write_bytes(content)
        assert word in refusal(tmp_path / "my.csv")


@pytest.mark.parametrize("count", [64, 128, 256, 1024])
@pytest.mark.parametrize("named", [False, True])
def test_embeddings_of_another_length_are_refused_with_their_length(tmp_path, count, named):
    rows = [line(np.full(count, 0.1), "a.jpg" if named else None)] * 3
    (tmp_path / "my.csv").write_text("\n".join(rows))
    said = refusal(tmp_path / "my.csv")
    assert "row 1 (line 1)" in said and f"{count} numbers, not 512" in said
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
    assert path.stat().st_size > pieces.CHUNK_BYTES
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
    done = script("run.py", "--features", "-", "--model", MODEL, stdin=b"")
    refused(done, "standard input", "no row of embeddings")
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
    assert "not a readable .npy file" in refusal(tmp_path / "c.npy")
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
        ({"filenames": names[:0], "embeddings": table[:0]}, "no row of embeddings"),
        ({"filenames": np.array(["a", "\udcff", "b", "c"]), "embeddings": table}, "row 2: the"),
    ]:  # fmt: skip
        np.savez(tmp_path / "t.npz", **arrays)
        assert word in refusal(tmp_path / "t.npz")
    for array, word in [(table[0], "not (N, 512)"), (nan, "row 3: number 6 is nan")]:
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
        ({"e": pa.array([[["x"]]])}, "no column of lists"),
        ({"e": pa.array(holes, vector)}, "row 2: number 1 is nan"),
        ({"filename": ["a", None, "b"], "e": pa.array(table.tolist(), vector)}, "row 2: the name"),
        ({"filename": [], "e": pa.array([], vector)}, "no row of embeddings"),
    ]:
        parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
        assert word in refusal(tmp_path / "t.parquet")


# ------------------------------------------------------------------------------- paths


def as_nobody(folder: Path, *arguments) -> Run:
    """run.py as a user who is not root."""
    if os.geteuid():
        return script("run.py", *arguments)
    code = (
        "import locale, os, sys; sys.path.insert(0, sys.argv.pop(1));"
        "from age_gender import script; from age_gender.tables import arrays, text; import run;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); script.run(run.main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model_files.ROOT), *map(str, arguments)],
        capture_output=True, cwd=folder, timeout=100,
    )  # fmt: skip
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def open_folder():
    """A folder that every user may enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copy(Path(MODEL, model_files.LITERT_MODEL), Path(folder, "model.tflite"))
        os.chmod(Path(folder, "model.tflite"), 0o644)
        yield Path(folder)


def test_without_permission_to_read_the_file_is_named(open_folder, faces):
    for name in ("my.csv", "my.npz"):
        path = open_folder / name
        writing.write(path, faces[0][:3], [faces[1][:3]])
        os.chmod(path, 0)
        done = as_nobody(open_folder, "--features", path, "--model", open_folder / "model.tflite")
        refused(done, name, "permission")


def test_without_permission_to_write_the_folder_is_named(open_folder, faces):
    path, shut = open_folder / "my.csv", open_folder / "shut"
    writing.write(path, faces[0][:3], [faces[1][:3]])
    shut.mkdir()
    os.chmod(path, 0o644)
    os.chmod(shut, 0o555)
    done = as_nobody(
        open_folder, "--features", path, "--model", open_folder / "model.tflite",
        "--output", shut / "out.csv",
    )  # fmt: skip
    refused(done, str(shut), "cannot be written", "choose another")


def test_paths_that_cannot_be_used_are_refused(tmp_path, rows):
    path = tmp_path / "my.csv"
    path.write_text("\n".join(rows))
    (tmp_path / "empty").mkdir()
    before = path.read_bytes()
    for arguments, words in [
        (["--features", tmp_path / "none.csv"], ["none.csv", "no such file"]),
        (["--features", tmp_path / "*.nothing"], ["no such file"]),
        (["--features", tmp_path / "empty"], ["empty", "no .csv, .npz", "name another"]),
        (["--features", path, "--output", tmp_path / "none" / "o.csv"], ["no such folder"]),
        (["--features", path, "--output", path], ["my.csv", "would overwrite this input"]),
        (["--features", path, "--output", tmp_path], ["is a folder"]),
        (["--features", path, "--output", tmp_path / ("x" * 300)], ["name too long"]),
        (["--features", path, "--model", tmp_path], ["no such model file", "train.py"]),
        (["--features", path, "--model", path], ["my.csv: not a model"]),
    ]:
        with pytest.raises((InputError, OSError)) as caught:
            run.main(["--model", MODEL, *map(str, arguments)])
        assert is_users(caught.value)
        for word in words:
            assert word in error_line(caught.value)
    assert path.read_bytes() == before


def test_no_script_overwrites_what_it_reads(tmp_path, rows, table, capfd):
    path = tmp_path / "my.csv"
    path.write_text("\n".join(rows))
    done = script(
        "run.py", "--features", "-", "--model", MODEL, "--output", path, stdin_file=path
    )  # fmt: skip
    refused(done, "my.csv", "would overwrite this input")
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    card = model / model_files.DESCRIPTION
    with pytest.raises(InputError, match="would overwrite this input"):
        run.main(["--features", str(path), "--model", str(model), "--output", str(card)])
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    with pytest.raises(InputError, match=r"names\.txt: the output would overwrite this input"):
        run.main(["--features", str(path), "--names", str(names), "--output", str(names)])
    assert path.read_text() == "\n".join(rows)


def test_a_reader_of_messages_that_leaves_ends_no_work(tmp_path, rows):
    path, output = tmp_path / "my.csv", tmp_path / "out.csv"
    path.write_text("\n".join(rows))
    for content, code in (("\n".join(rows), 0), ("hello", 2)):
        path.write_text(content)
        reader, writer = os.pipe()
        os.close(reader)
        process = start("run.py", "--features", path, "--model", MODEL, "--output", output,
                        stderr=writer)  # fmt: skip
        os.close(writer)
        assert process.wait() == code
    assert len(output.read_text().splitlines()) == len(rows) + 1


def test_without_the_packages_one_line_names_the_environment():
    for name in ("run.py", "prepare.py", "train.py", "test.py", "embed.py"):
        command = [sys.executable, "-S", str(model_files.ROOT / name)]  # -S: only Python's own
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "No module named" in done.stderr and ".venv/bin/activate" in done.stderr


def test_an_argument_that_is_empty_is_a_mistake(tmp_path):
    refused(script("run.py", "--features", ""), "empty", "variable")


def test_a_folder_is_read_without_what_is_half_done_or_only_named_like_a_table(tmp_path, rows):
    (tmp_path / "good.csv").write_text("\n".join(rows))
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "o.npz.partial").mkdir()
    (tmp_path / "o.npz.partial" / "0000000000.npz").write_bytes(b"part")
    assert reading.expand([tmp_path]) == [str(tmp_path / "good.csv")]


def test_one_row_in_a_file_of_any_name_is_called_by_it(tmp_path, rows):
    path = os.path.join(os.fsencode(tmp_path), b"one\xff.csv")
    with open(path, "w") as stream:
        stream.write(rows[0].partition(",")[2] + "\n")
    names, _ = reading.read([os.fsdecode(path)])
    assert names == ["one\\xff"]


def test_a_header_of_names_that_python_takes_for_numbers_is_a_header(tmp_path, rows):
    path = tmp_path / "my.csv"
    path.write_text(
        "\n".join([",".join(["name", *(f"{i // 32}_{i % 32}" for i in range(512))]), *rows])
    )
    assert reading.read([path], Wanted(width=512))[0] == [row.partition(",")[0] for row in rows]


def test_the_index_of_a_filtered_pandas_table_is_no_embedding(tmp_path, faces):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(faces[1][:9], columns=[f"e{i}" for i in range(512)])
    table.insert(0, "filename", faces[0][:9])
    table.iloc[[0, 1, 4]].to_parquet(tmp_path / "t.parquet")
    names, features = reading.read([tmp_path / "t.parquet"])
    assert names == [faces[0][i] for i in (0, 1, 4)]
    np.testing.assert_array_equal(features, faces[1][[0, 1, 4]])


def test_neither_the_list_of_bad_rows_nor_the_output_replaces_an_input(tmp_path, rows):
    path = tmp_path / "my.errors.csv"
    path.write_text("\n".join(rows))
    model = tmp_path / model_files.LITERT_MODEL
    shutil.copy(Path(MODEL, model_files.LITERT_MODEL), model)
    for output, features in [("my.csv", path), (model.name, path)]:
        with pytest.raises(InputError, match="would overwrite this input"):
            run.main(["--features", str(features), "--output", str(tmp_path / output),
                      "--skip-bad-rows", "--model", str(model)])  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, model.name])


# --------------------------------------------------------------------- --skip-bad-rows


def test_skipping_scores_the_others_and_lists_file_row_line_and_reason(tmp_path, rows):
    good, mixed = tmp_path / "good.csv", tmp_path / "mixed.csv"
    good.write_text("\n".join(rows[:2]))
    bad = [with_cell(rows[1], "x"), '"open' + rows[2], rows[3].rpartition(",")[0]]
    mixed.write_text("\n".join([HEADER, rows[0], bad[0], "", bad[1], rows[4], bad[2], rows[5]]))
    output = tmp_path / "out.csv"
    done = script(
        "run.py", "--features", good, mixed, "--output", output, "--skip-bad-rows", "--model", MODEL
    )
    assert done.code == 0, done.err
    assert "skipped 3 bad rows, scored 5" in done.err
    scored = list(csv.DictReader(output.open()))
    expected = ["face0.jpg", "face1.jpg", "face0.jpg", "face4.jpg", "face5.jpg"]
    assert [row["filename"] for row in scored] == expected
    listed = list(csv.DictReader((tmp_path / "out.errors.csv").open()))
    assert [(row["file"], row["row"], row["line"]) for row in listed] == [
        (str(mixed), "2", "3"), (str(mixed), "3", "5"), (str(mixed), "5", "7")
    ]  # fmt: skip
    assert "'x', not a finite number" in listed[0]["reason"]
    assert "quote" in listed[1]["reason"] and "511 numbers" in listed[2]["reason"]


def test_skipping_with_standard_output_lists_on_standard_error(tmp_path, rows):
    path = tmp_path / "my.csv"
    path.write_text("\n".join([rows[0], with_cell(rows[1], "NaN")]))
    done = script("run.py", "--features", path, "--skip-bad-rows", "--model", MODEL)
    assert done.code == 0 and len(done.out.splitlines()) == 2
    said = [text for text in done.err.splitlines() if not text.startswith("model: ")]
    assert said[0] == "file,row,line,reason"
    assert said[1].startswith(f"{path},2,2,") and said[2] == "skipped 1 bad rows, scored 1"
    assert os.listdir(tmp_path) == ["my.csv"]


def test_where_no_row_is_good_there_is_the_list_but_no_output(tmp_path, rows):
    path, output = tmp_path / "my.csv", tmp_path / "out.csv"
    path.write_text("\n".join(with_cell(row, "NaN") for row in rows))
    done = script(
        "run.py", "--features", path, "--output", output, "--skip-bad-rows", "--model", MODEL
    )
    refused(done, "none of the 6 rows is good", "the list")
    assert not output.exists()
    assert len(list(csv.DictReader((tmp_path / "out.errors.csv").open()))) == 6
    done = script("run.py", "--features", path, "--skip-bad-rows", "--model", MODEL)
    assert (done.code, done.out) == (2, "")


# ------------------------------------------------------------------------------- names

NAMES = [
    "a,b.jpg", 'say "x"', "two\nlines", "cr\r\nlf", "lone\rcr", "Zoë 李.jpg", "x" * 10_000, "same",
    "same", " spaces ", "", "0.5", "NA", '"', "=1+1", "\ufeffmark", "../up",
]  # fmt: skip


@pytest.mark.parametrize("repeat", [1, 80])  # 80: above 2 MB, where pandas parses
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_any_name_comes_through_as_it_was(tmp_path, faces, repeat, quoting):
    path, output = tmp_path / "my.csv", tmp_path / "out.csv"
    names = NAMES * repeat
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=quoting)  # \r\n ends its lines
        for i, name in enumerate(names):
            writer.writerow([name, *map("%.8f".__mod__, faces[1][i % 900].tolist())])
    assert (path.stat().st_size > pieces.CHUNK_BYTES) == (repeat > 1)
    run.main(["--features", str(path), "--output", str(output), "--model", MODEL])
    with open(output, newline="", encoding="utf-8") as stream:
        assert [row["filename"] for row in csv.DictReader(stream)] == names
    assert sorted(os.listdir(tmp_path)) == ["my.csv", "out.csv"]


def test_quoted_names_of_a_large_file_come_through_pandas_parser(tmp_path, faces, monkeypatch):
    """Every name in quotes, as R writes them, and chunks that end anywhere."""
    path, output = tmp_path / "my.csv", tmp_path / "out.csv"
    names = [f"face, {i}" for i in range(900)]
    path.write_text(
        "".join(f'"{n}",{line(row)}\n' for n, row in zip(names, faces[1].tolist(), strict=True))
    )
    monkeypatch.setattr(pieces, "CHUNK_BYTES", 300_007)
    one_by_one, careful = text.one_by_one, []
    monkeypatch.setattr(
        text, "one_by_one", lambda piece: careful.append(piece) or one_by_one(piece)
    )
    run.main(["--features", str(path), "--output", str(output), "--model", MODEL])
    with open(output, newline="") as stream:
        assert [row["filename"] for row in csv.DictReader(stream)] == names
    assert len(careful) < 5  # before pandas is imported


# ------------------------------------------------------------------------ other scripts


def test_prepare_refuses_what_it_cannot_read_and_leaves_no_records(tmp_path, rows):
    path = tmp_path / "my.csv"
    path.write_text("\n".join([rows[0], with_cell(rows[1], "NaN")]))
    done = script("prepare.py", "--features", path, "--output", tmp_path / "out")
    refused(done, str(path), "row 2 (line 2)", "not a finite number", "correct or remove this row")
    assert list((tmp_path / "out").iterdir()) == []
    path.write_text("\n".join(rows))
    refused(script("prepare.py", "--features", path, "--output", path), "my.csv")


def corrupt(path: Path, target: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    return target


def write_examples(path: Path, *features: dict) -> Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for feature in features:
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    return path


def example(count: int = 512, age: int = 30, gender: int = 0, **more) -> dict:
    return {
        "features": tf.train.Feature(float_list=tf.train.FloatList(value=[0.1] * count)),
        "age": tf.train.Feature(int64_list=tf.train.Int64List(value=[age])),
        "gender": tf.train.Feature(int64_list=tf.train.Int64List(value=[gender])),
        "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a.jpg"])),
    } | more


def test_records_that_cannot_be_used_are_refused_with_the_record(tmp_path, record_folder):
    good = record_folder / "test.tfrecords"
    empty, cut = tmp_path / "empty", tmp_path / "cut"
    empty.touch()
    cut.write_bytes(good.read_bytes()[:-100])
    path = tmp_path / "t"
    for bad, words in [
        (tmp_path / "none", ["no such file of records", "prepare.py"]),
        (empty, ["no records in this file", "prepare.py"]),
        (corrupt(good, path), ["corrupt", "checksum", "prepare.py"]),
        (cut, ["corrupt", "cut off"]),
    ]:
        with pytest.raises(InputError) as caught:
            records.read(bad)
        for word in (str(bad), *words):
            assert word in str(caught.value)
    for bad, words in [
        ([example(), example(128)], ["record 2", "not of this schema", "float[512]"]),
        ([example(), {}], ["record 2", "not of this schema"]),
        ([example(), example(), example(age=117)], ["record 3", "age of 0-116"]),
        ([example(gender=2)], ["record 1", "gender of 0 or 1"]),
    ]:
        with pytest.raises(InputError) as caught:
            records.read(write_examples(path, *bad))
        for word in (str(path), *words):
            assert word in str(caught.value)


def test_train_and_test_name_the_records_that_are_corrupt(tmp_path, record_folder):
    bad = corrupt(record_folder / "test.tfrecords", tmp_path / "bad.tfrecords")
    refused(script("test.py", "--test", bad, "--model", MODEL), str(bad), "checksum", "prepare.py")
    done = script("train.py", "--train", bad, "--models", tmp_path / "models")
    refused(done, str(bad), "checksum", "prepare.py")
    assert not list((tmp_path / "models").glob("age_gender*"))


def test_a_mistyped_path_of_records_costs_no_interrupted_training(tmp_path, record_folder):
    work = tmp_path / ".training"
    work.mkdir()
    (work / "final.npz").write_text("hours of work")
    with pytest.raises(InputError, match="no such file of records"):
        train.main(training(tmp_path / "typo", tmp_path))
    assert (work / "final.npz").read_text() == "hours of work"


def test_a_state_that_cannot_be_resumed_is_refused(tmp_path, record_folder):
    work = tmp_path / ".training"
    work.mkdir()
    arguments = training(record_folder, tmp_path, "--resume")
    (work / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings\.json.*without --resume"):
        train.main(arguments)
    settings = {
        "train": outputs.sha256(record_folder / "train.tfrecords"),
        "children": outputs.sha256(record_folder / "children.tfrecords"), "views": None,
        "epochs": 2, "batch_size": 64, "learning_rate": 2e-2, "whitening": 0.5,
        "crop_share": 0.5, "seed": 0,
    }  # fmt: skip
    (work / "settings.json").write_text(json.dumps(settings))
    (work / "validation.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"validation\.npz.*without --resume"):
        train.main(arguments)


def test_models_that_cannot_be_used_are_refused(tmp_path, rows):
    path = tmp_path / "my.csv"
    path.write_text("\n".join(rows))
    model = tmp_path / "model"
    for name, change, words in [
        ("age_gender.json", b'{"format": 99, "files": {}}', ["format 99", "run train.py again"]),
        ("age_gender.json", b"{", ["not a model description"]),
        ("age_gender.tflite", b"TFL3 nothing", ["age_gender.tflite", "train"]),
    ]:
        shutil.copytree(MODEL, model)
        (model / name).write_bytes(change)
        with pytest.raises(InputError) as caught:
            run.main(["--features", str(path), "--model", str(model)])
        for word in words:
            assert word in str(caught.value)
        shutil.rmtree(model)
    alone = tmp_path / "alone.tflite"
    for content in (b"", b"TFL3 nothing", np.random.default_rng(0).bytes(5000)):
        alone.write_bytes(content)
        refused(script("run.py", "--features", path, "--model", alone), "alone.tflite", "train")


def test_label_files_and_predictions_that_cannot_be_used_are_refused(tmp_path):
    predictions, labels = tmp_path / "p.csv", tmp_path / "labels"
    labels.mkdir()

    def said() -> str:
        with pytest.raises(InputError) as caught:
            test.main(["--lfw", str(predictions), "--lfw-labels", str(labels)])
        return str(caught.value)

    predictions.write_text("filename,gender\na.jpg,0\n")
    assert "male_names.txt: no such label file" in said()
    (labels / "male_names.txt").write_text("a.jpg\n")
    assert "female_names.txt: no such label file" in said()
    (labels / "female_names.txt").write_text("\n\n")
    assert "no names in this file" in said()
    (labels / "female_names.txt").write_bytes(b"\xff\xfe\x00")
    assert "not a text of names" in said()
    (labels / "female_names.txt").write_text("b.jpg\n")
    for content, word in [
        ("", "needs the columns filename and gender"),
        ("filename,gender\n", "no predictions"),
        ("filename,gender\na.jpg,0\nb.jpg,male\n", "row 2 (line 3): gender is 'male'"),
        ("filename,gender\na.jpg\n", "row 1 (line 2)"),
    ]:
        predictions.write_text(content)
        assert word in said()
    predictions.write_bytes(b"filename,gender\n\xff,0\n")
    assert "not a CSV of predictions" in said()


# ----------------------------------------------------------------------- bounded memory


MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss / 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""  # in a small process: a child's peak counts from its parent's size


def peak_memory(folder: Path, stream, *arguments) -> tuple[Run, float]:
    """Run run.py on a stream of bytes; also its peak memory in MB."""
    command = [sys.executable, "-c", MEASURE, str(folder / "peak"), sys.executable]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [*command, str(model_files.ROOT / "run.py"), "--model", MODEL, *arguments],
            stdin=subprocess.PIPE, stdout=out, stderr=err,
        )  # fmt: skip
        with contextlib.suppress(BrokenPipeError), process.stdin:
            for part in stream:
                process.stdin.write(part)
        code = process.wait(timeout=100)
        texts = [file.seek(0) or file.read().decode() for file in (out, err)]
    return Run(code, *texts), float((folder / "peak").read_text())


@pytest.mark.parametrize(
    "part", [b"x" * (1 << 20), b'"' + b"1," * (1 << 19), b'x","\n' * (1 << 18)]
)
def test_memory_stays_bounded_whatever_a_line_is_like(tmp_path, rows, part):
    """60 MB without a row; all of it in memory even once, as text, would pass the bound."""
    good = ("\n".join(rows) + "\n").encode()
    _, usual = peak_memory(tmp_path, [good], "--features", "-")
    done, peak = peak_memory(tmp_path, [good, *[part] * 60], "--features", "-")
    refused(done, "standard input: row 7 (line 7)", "correct this row")
    assert peak < usual + 120, (peak, usual)


def test_a_zip_bomb_is_read_in_blocks(tmp_path, rows):
    """600 MB of one number in a file of 0.6 MB, and a name of a megabyte for each row."""
    for order in (False, True):
        count = 300_000
        header = {"descr": "<f4", "fortran_order": order, "shape": (count, 512)}
        path = tmp_path / "bomb.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("filenames.npy", "w") as member:
                np.lib.format.write_array(member, np.full(count, "x"))
            with archive.open("embeddings.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for _ in range(count // 1000):
                    member.write(bytes(1000 * 512 * 4))
        assert path.stat().st_size < 5e6
        done, peak = peak_memory(tmp_path, [], "--features", str(path))
        refused(done, "bomb.npz: row 1: a row of zeros")
        assert peak < 400, peak


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_not_read_again_for_another_model(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["sh", "-c", 'echo "1,2,3" > "$0"', str(pipe)])
    refused(script("run.py", "--features", pipe), "pipe", "row 1")
    assert writer.wait() == 0
