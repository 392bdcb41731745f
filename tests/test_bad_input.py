"""Paths, arguments and bad rows: exit code 2 and one line; bounded memory; nothing is left."""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import HEADER, MODEL, Run, refused, script, start, with_cell

import run
from age_gender import checkpoints, files, paths, trained_models
from age_gender.cli import InputError, error_line, is_user_error
from age_gender.readers import tables, writing
from age_gender.readers.columns import ReadOptions

# ------------------------------------------------------------------------------- paths


def as_nobody(folder: Path, *arguments) -> Run:
    """run.py as a user who is not root."""
    if os.geteuid():
        return script("run.py", *arguments)
    # The scripts, and Python, may lie where nobody else may enter: all is imported before.
    code = (
        "import os, sys; sys.path.insert(0, sys.argv.pop(1));"
        "from age_gender import cli; import run;"
        "given = ['--model', 'model.tflite', '--output', os.devnull, '--features'];"
        "run.main([*given, 'warm.csv']); run.main([*given, 'warm.npz']);"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); cli.run(run.main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(paths.ROOT), *map(str, arguments)],
        capture_output=True, cwd=folder, timeout=100,
    )  # fmt: skip
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def open_folder(faces):
    """A folder that every user may enter, unlike tmp_path, with a model and two good tables."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copy(Path(MODEL, trained_models.LITERT_MODEL), Path(folder, "model.tflite"))
        for name in ("warm.csv", "warm.npz"):
            writing.write(Path(folder, name), faces[0][:3], [faces[1][:3]])
        for path in Path(folder).iterdir():
            path.chmod(0o644)
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
        assert is_user_error(caught.value)
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
    card = model / trained_models.DESCRIPTION
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
        command = [sys.executable, "-S", str(paths.ROOT / name)]  # -S: only Python's own
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "No module named" in done.stderr and ".venv/bin/activate" in done.stderr


def test_an_argument_that_is_empty_is_a_mistake(tmp_path):
    refused(script("run.py", "--features", ""), "argument 2 is empty", "variable")


def test_a_folder_is_read_without_what_is_half_done_or_only_named_like_a_table(tmp_path, rows):
    (tmp_path / "good.csv").write_text("\n".join(rows))
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "o.npz.partial").mkdir()
    (tmp_path / "o.npz.partial" / "0000000000.npz").write_bytes(b"part")
    assert tables.expand([tmp_path]) == [str(tmp_path / "good.csv")]


def test_one_row_in_a_file_of_any_name_is_called_by_it(tmp_path, rows):
    path = os.path.join(os.fsencode(tmp_path), b"one\xff.csv")
    with open(path, "w") as stream:
        stream.write(rows[0].partition(",")[2] + "\n")
    names, _ = tables.read([os.fsdecode(path)])
    assert names == ["one\\xff"]


def test_a_header_of_names_that_python_takes_for_numbers_is_a_header(tmp_path, rows):
    path = tmp_path / "my.csv"
    path.write_text(
        "\n".join([",".join(["name", *(f"{i // 32}_{i % 32}" for i in range(512))]), *rows])
    )
    assert tables.read([path], ReadOptions(width=512))[0] == [row.partition(",")[0] for row in rows]


def test_the_index_of_a_filtered_pandas_table_is_no_embedding(tmp_path, faces):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(faces[1][:9], columns=[f"e{i}" for i in range(512)])
    table.insert(0, "filename", faces[0][:9])
    table.iloc[[0, 1, 4]].to_parquet(tmp_path / "t.parquet")
    names, features = tables.read([tmp_path / "t.parquet"])
    assert names == [faces[0][i] for i in (0, 1, 4)]
    np.testing.assert_array_equal(features, faces[1][[0, 1, 4]])


def test_neither_the_list_of_bad_rows_nor_the_output_replaces_an_input(tmp_path, rows):
    path = tmp_path / "my.errors.csv"
    path.write_text("\n".join(rows))
    model = tmp_path / trained_models.LITERT_MODEL
    shutil.copy(Path(MODEL, trained_models.LITERT_MODEL), model)
    for output, features in [("my.csv", path), (model.name, path)]:
        with pytest.raises(InputError, match="would overwrite this input"):
            run.main(["--features", str(features), "--output", str(tmp_path / output),
                      "--skip-bad-rows", "--model", str(model)])  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, model.name])


def test_one_row_of_an_npy_has_the_name_that_is_given(tmp_path, faces):
    np.save(tmp_path / "one.npy", faces[1][:1])
    (tmp_path / "names.txt").write_text("given\n")
    options = ReadOptions(names=str(tmp_path / "names.txt"))
    assert tables.read([tmp_path / "one.npy"], options)[0] == ["given"]


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
    assert said[1].startswith(f"{path},2,2,") and said[2] == "skipped 1 bad row, scored 1"
    assert os.listdir(tmp_path) == ["my.csv"]


def test_where_no_row_is_good_there_is_the_list_but_no_output(tmp_path, rows):
    path, output = tmp_path / "my.csv", tmp_path / "out.csv"
    path.write_text("\n".join(with_cell(row, "NaN") for row in rows))
    done = script(
        "run.py", "--features", path, "--output", output, "--skip-bad-rows", "--model", MODEL
    )
    refused(done, "no row can be scored: all 6 are bad", "the list")
    assert not output.exists()
    assert len(list(csv.DictReader((tmp_path / "out.errors.csv").open()))) == 6
    done = script("run.py", "--features", path, "--skip-bad-rows", "--model", MODEL)
    assert (done.code, done.out) == (2, "")


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
            [*command, str(paths.ROOT / "run.py"), "--model", MODEL, *arguments],
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


@pytest.mark.parametrize("is_array", [False, True])
@pytest.mark.parametrize("part", [b"1," * (1 << 19), b'"' + b"x" * (1 << 20), b"[" * (1 << 20)])
def test_memory_stays_bounded_whatever_an_object_is_like(tmp_path, rows, part, is_array):
    """The same of JSON: lines, and an array."""
    lists = [json.loads(f"[{row.partition(',')[2]}]") for row in rows]
    good = [json.dumps({"embedding": row}).encode() for row in lists]
    good = b"[" + b", ".join(good) + b", " if is_array else b"\n".join(good) + b"\n"
    _, usual = peak_memory(tmp_path, [good], "--features", "-")
    endless = [good, b'{"embedding": [', *[part] * 60]
    done, peak = peak_memory(tmp_path, endless, "--features", "-")
    refused(done, "standard input: row 7", "longer than")
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


# ------------------------------------------------------------------ where outputs may go


def redirected(tmp_path: Path, shell: str, *arguments) -> Run:
    """Run a line of shell; its $R is run.py with a model, "$@" are the arguments."""
    environment = {**os.environ, "R": f"{sys.executable} {paths.ROOT}/run.py --model {MODEL}"}
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *map(str, arguments)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("output", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_an_output_that_is_an_open_file_is_written_to_and_never_replaced(tmp_path, rows, output):
    (tmp_path / "a.csv").write_text("\n".join(rows))
    (tmp_path / "link").symlink_to("/dev/stdout")
    (tmp_path / "all.csv").write_text("before\n")
    assert redirected(tmp_path, f"$R --features a.csv --output {output} >> all.csv").code == 0
    assert redirected(tmp_path, f"(echo h; $R --features a.csv --output {output}; echo f) > x") == (
        0, "", f"model: {MODEL}/{trained_models.LITERT_MODEL}\n"
    )  # fmt: skip
    for name, first, last in [("all.csv", "before", ""), ("x", "h", "f")]:
        lines = (tmp_path / name).read_text().split("\n")
        assert lines[0] == first and lines[1].startswith("filename,gender")
        assert len(lines) == 1 + 1 + len(rows) + (2 if last else 1) and last in lines[-2:]


def test_bad_rows_beside_an_open_file_are_listed_on_standard_error(tmp_path, rows):
    (tmp_path / "a.csv").write_text("\n".join([*rows, with_cell(rows[0], "x")]))
    line = "$R --features a.csv --skip-bad-rows --output /dev/stdout > out.csv"
    done = redirected(tmp_path, line)
    assert done.code == 0 and "file,row,line,reason\na.csv,7,7," in done.err
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "out.csv"]
    assert not os.path.exists("/dev/stdout.errors.csv")


def test_an_open_file_that_cannot_be_written_is_refused(tmp_path, rows):
    (tmp_path / "a.csv").write_text("\n".join(rows))
    for name in ("/dev/fd/9", "/dev/fd/0"):
        done = redirected(tmp_path, f"$R --features a.csv --output {name} < a.csv")
        refused(done, name, "cannot be written to")
    done = redirected(tmp_path, "$R --features a.csv --output /proc/$$/fd/1")
    refused(done, "open file of another process")


def test_standard_output_is_no_input_too(tmp_path, rows):
    (tmp_path / "a.csv").write_text("\n".join(rows))
    for output in ("-", "/dev/stdout"):
        done = redirected(tmp_path, f"$R --features a.csv --output {output} >> a.csv")
        refused(done, "would overwrite this input")
    assert (tmp_path / "a.csv").read_text() == "\n".join(rows)


def test_an_output_for_few_eyes_is_never_readable_by_more(tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("old")
    for mode in (0o600, 0o640):
        output.chmod(mode)
        with files.whole_file(output) as stream:
            assert [path.stat().st_mode & 0o077 for path in tmp_path.glob(".out*")] == [0]
            stream.write(b"new")
        assert output.stat().st_mode & 0o777 == mode
    with files.whole_file(tmp_path / "new.csv") as stream:
        stream.write(b"new")
    assert (tmp_path / "new.csv").stat().st_mode & 0o777 == 0o666 & ~UMASK


UMASK = os.umask(0o22)
os.umask(UMASK)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes another user's file")
def test_another_users_output_in_a_sticky_folder_is_refused_before_the_work(open_folder, faces):
    writing.write(open_folder / "my.csv", faces[0][:3], [faces[1][:3]])
    os.chmod(open_folder / "my.csv", 0o644)
    sticky = open_folder / "sticky"
    sticky.mkdir()
    os.chmod(sticky, 0o1777)
    (sticky / "out.csv").write_text("root's")
    for output in ("out.csv", "link.csv"):
        done = as_nobody(
            open_folder, "--features", open_folder / "my.csv", "--output", sticky / output,
            "--model", open_folder / "model.tflite",
        )  # fmt: skip
        if output == "out.csv":
            refused(done, "out.csv", "belongs to another user")
            assert f"model: {open_folder}" not in done.err
            (sticky / "link.csv").symlink_to("out.csv")
        else:
            refused(done, "link.csv", "belongs to another user")


def test_in_a_folder_that_was_deleted_absolute_paths_work(tmp_path, rows):
    (tmp_path / "a.csv").write_text("\n".join(rows))
    (tmp_path / "gone").mkdir()
    line = f'cd gone && rmdir "$PWD" && $R --features {tmp_path}/a.csv --output {tmp_path}/o.csv'
    done = redirected(tmp_path, line)
    assert done.code == 0, done.err
    assert len((tmp_path / "o.csv").read_text().splitlines()) == len(rows) + 1


# ------------------------------------------------------------------ folders of unfinished work


SETTINGS = {"images": "x", "seed": 1}


def work_begun(folder: Path) -> None:
    checkpoints.open_folder(folder, SETTINGS, False, "")
    (folder / "0.npz").write_bytes(b"part")


def test_a_folder_of_unfinished_work_is_ours_only_with_our_settings_in_it(tmp_path):
    ours = tmp_path / "ours.partial"
    work_begun(ours)
    assert ours.stat().st_mode & 0o077 == 0
    checkpoints.open_folder(ours, SETTINGS, False, "")
    assert os.listdir(ours) == ["settings.json"], "work of other settings goes"

    work_begun(ours)
    (tmp_path / "link.partial").symlink_to(ours)
    (tmp_path / "file.partial").write_text("mine")
    for name, content in [("theirs.partial", "thesis.txt"), ("code.partial", "settings.json")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_text('{"editor.tabSize": 4}')
    for name in ("link", "file", "theirs", "code"):
        for resume in (False, True):
            with pytest.raises(InputError, match=rf"{name}\.partial: .*move"):
                checkpoints.open_folder(tmp_path / f"{name}.partial", SETTINGS, resume, "")
    assert (ours / "0.npz").read_bytes() == b"part"
    assert (tmp_path / "theirs.partial" / "thesis.txt").exists()


def test_what_others_put_into_our_folder_stays(tmp_path):
    work_begun(tmp_path / "o.partial")
    (tmp_path / "o.partial" / "notes.txt").write_text("mine")
    checkpoints.remove_folder(tmp_path / "o.partial")
    assert os.listdir(tmp_path / "o.partial") == ["notes.txt"]


def test_settings_of_unfinished_work_that_no_script_wrote_are_refused(tmp_path):
    work_begun(tmp_path / "o.partial")
    for text in ("[" * 100_000, "{", '"\\ud800"', "\x00"):
        (tmp_path / "o.partial" / "settings.json").write_text(text)
        with pytest.raises(InputError, match=r"settings\.json: cannot be read; start anew"):
            checkpoints.open_folder(tmp_path / "o.partial", SETTINGS, True, "start anew")


# ------------------------------------------------------------------ a locale without letters


def test_names_are_utf_8_whatever_the_locale(tmp_path, rows):
    (tmp_path / "größe.csv").write_text("\n".join(["größe" + HEADER[8:], *rows]))
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for column, code in [("größe".encode(), 0), (b"gr\xf6\xdfe", 2)]:
        command = [sys.executable, paths.ROOT / "run.py", "--model", MODEL, "--name-column", column,
                   "--features", "größe.csv".encode()]  # fmt: skip
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
        assert done.returncode == code and b"Traceback" not in done.stderr
    assert b"is not UTF-8" in done.stderr
