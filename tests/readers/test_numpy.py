"""NumPy's files: a vector a file, a vector a key, names of texts alone."""

import errno
import io
import os
import subprocess
import zipfile

import numpy as np
import pytest
from conftest import MODEL, refusal

import run
from age_gender.errors import InputError
from age_gender.readers import tables
from age_gender.readers.columns import ReadOptions


def read(*paths, **options) -> tuple[list[str], np.ndarray]:
    return tables.read(paths, ReadOptions(width=512, **options))


def bad_rows(*paths) -> list[str]:
    chunks = tables.read_chunks(tables.list_files(paths), ReadOptions(width=512))
    return [str(bad) for batch in map(tables.parse, chunks) for bad in batch.bad_rows]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


# ------------------------------------------------------------------------ a face a file


def test_a_folder_of_an_npy_a_face_is_a_table_named_by_the_files(tmp_path, faces):
    rows = faces[1][:6].astype(np.float64)
    for name, row in zip("abcdef", rows, strict=True):  # (W,) and (1, W), as DeepFace has it
        np.save(tmp_path / f"{name}.jpg.npy", row[None] if name in "ace" else row)
    names, features = read(tmp_path)
    assert names == [f"{name}.jpg" for name in "abcdef"]
    assert np.array_equal(features, faces[1][:6])


def test_a_vector_of_another_length_in_such_a_folder_is_a_bad_row(tmp_path, faces):
    np.save(tmp_path / "a.npy", faces[1][0])
    np.save(tmp_path / "b.npy", faces[1][1, :128])
    (bad,) = bad_rows(tmp_path)
    assert bad == f"{tmp_path / 'b.npy'}: row 1: 128 numbers, not 512, which this model takes"
    assert "need a model of their own" in refusal(tmp_path)


def test_a_face_a_file_may_be_an_npz_or_have_its_name_in_a_text_file(tmp_path, faces):
    np.savez(tmp_path / "a.jpg.npz", embedding=faces[1][0])
    np.savez(tmp_path / "b.jpg.npz", faces[1][1][None])
    assert read(tmp_path)[0] == ["a.jpg", "b.jpg"]
    np.save(tmp_path / "c.npy", faces[1][2])
    (tmp_path / "names.txt").write_text("Zoë.jpg\n", encoding="utf-8")
    assert read(tmp_path / "c.npy", names_file=str(tmp_path / "names.txt"))[0] == ["Zoë.jpg"]


# ------------------------------------------------------------------------- a face a key


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("one_row", [False, True])
def test_an_npz_of_a_key_a_face_is_read_by_its_keys(tmp_path, faces, save, one_row):
    names = [f"folder/{name}" for name in faces[0]]
    rows = faces[1][:, None] if one_row else faces[1]
    save(tmp_path / "t.npz", **dict(zip(names, rows, strict=True)))
    names_read, features = read(tmp_path / "t.npz")
    assert names_read == names and np.array_equal(features, faces[1])


def test_keys_of_another_width_or_with_bad_numbers_are_bad_rows(tmp_path, faces):
    rows = {"a": faces[1][0], "b": faces[1][1, :100], "c": faces[1][2] * np.nan, "d": faces[1][3]}
    np.savez(tmp_path / "t.npz", **rows)
    second, third = bad_rows(tmp_path / "t.npz")
    assert "row 2: 100 numbers, not 512" in second and "row 3: number 1 is nan" in third
    np.savez(tmp_path / "t.npz", a=faces[1][0], note=np.array("of 2019"))
    assert "no two-dimensional array of numbers" in refusal(tmp_path / "t.npz")


def test_one_array_of_one_row_called_embeddings_is_a_table(tmp_path, faces):
    np.savez(tmp_path / "t.npz", embeddings=faces[1][:1], filenames=["a.jpg"])
    assert read(tmp_path / "t.npz")[0] == ["a.jpg"]
    np.savez(tmp_path / "t.npz", embeddings=faces[1][:1], others=faces[1][1:2])
    assert np.array_equal(read(tmp_path / "t.npz")[1], faces[1][:1])


# -------------------------------------------------------------------------------- names


@pytest.mark.parametrize("code", [0x110000, 0xFFFFFFFF])
def test_a_name_of_numbers_that_are_no_text_is_a_bad_row(tmp_path, faces, code):
    codes = np.full((3, 40), ord("x"), np.uint32)
    codes[1, 30] = code
    for order in "<>":
        names = np.frombuffer(codes.astype(f"{order}u4").tobytes(), f"{order}U40")
        np.savez(tmp_path / "t.npz", filenames=names, embeddings=faces[1][:3])
        (bad,) = bad_rows(tmp_path / "t.npz")
        assert "row 2: the name is not UTF-8" in bad


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["embeddings.npy", "embeddings"])  # to numpy.load the same
def test_two_arrays_of_one_name_are_refused(tmp_path, faces, second):
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("filenames.npy", npy(np.array(["a", "b"])))
        archive.writestr("embeddings.npy", npy(faces[1][:2]))
        archive.writestr(second, npy(faces[1][2:4]))
    assert "two arrays are called embeddings; save it again" in refusal(tmp_path / "t.npz")


def test_names_come_through_a_pipe(tmp_path, faces):
    """--names <(cut -d, -f1 my.csv)"""
    np.save(tmp_path / "t.npy", faces[1])
    fifo, output = tmp_path / "names", tmp_path / "out.csv"
    os.mkfifo(fifo)
    with subprocess.Popen(["dd", f"of={fifo}", "status=none"], stdin=subprocess.PIPE) as writer:
        writer.stdin.write("\n".join(faces[0]).encode())
        writer.stdin.close()
        run.main(
            ["--features", str(tmp_path / "t.npy"), "--names", str(fifo), "--model", MODEL,
             "--output", str(output)]
        )  # fmt: skip
    lines = output.read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == faces[0]


def test_names_that_do_not_go_with_the_table_are_refused(tmp_path, faces):
    np.save(tmp_path / "t.npy", faces[1][:2])
    np.savez(tmp_path / "t.npz", paths=["a", "b"], embeddings=faces[1][:2])
    names = tmp_path / "names.txt"
    for text, word in [
        ("a\n" + "x" * 10_001, "line 2: over 10,000 bytes; shorten this name"),
        ("a\n", "1 name for 2 rows; give one name per line"),
    ]:
        names.write_text(text)
        assert word in refusal(tmp_path / "t.npy", "--names", str(names))
    names.write_text("a\nb\n")
    said = refusal(tmp_path / "t.npz", "--names", str(names))
    assert "it has names of its own, in the array paths; leave out --names" in said
    said = refusal(tmp_path / "t.npy", "--names", str(tmp_path))
    assert said == f"{tmp_path}: is a directory"  # and not the NPY is to blame


# ------------------------------------------------------------------------ the machine's


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "too many open files")])
def test_what_the_machine_lacks_does_not_blame_the_file(tmp_path, faces, monkeypatch, error):
    np.savez(tmp_path / "t.npz", filenames=["a"], embeddings=faces[1][:1])

    def fail(*arguments):
        raise error

    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    with pytest.raises(type(error)) as caught:
        read(tmp_path / "t.npz")
    assert not isinstance(caught.value, InputError)


def test_one_row_of_an_npy_has_the_name_that_is_given(tmp_path, faces):
    np.save(tmp_path / "one.npy", faces[1][:1])
    (tmp_path / "names.txt").write_text("given\n")
    options = ReadOptions(names_file=str(tmp_path / "names.txt"))
    assert tables.read([tmp_path / "one.npy"], options)[0] == ["given"]
