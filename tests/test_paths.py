"""Paths and arguments that cannot be used: exit code 2 and one line; no input is overwritten."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HEADER, MODEL, program, refused, script, start

import run
from age_gender import paths, trained_models
from age_gender.errors import InputError, error_line, is_user_error
from age_gender.readers import tables


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
        (["--features", path, "--output", tmp_path], ["this is a folder"]),
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
    with open(path, "rb") as stdin:
        done = program(
            "run.py", "--features", "-", "--model", MODEL, "--output", path, stdin=stdin
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
    assert tables.list_files([tmp_path]) == [str(tmp_path / "good.csv")]


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_not_read_again_for_another_model(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["sh", "-c", 'echo "1,2,3" > "$0"', str(pipe)])
    refused(script("run.py", "--features", pipe), "pipe", "row 1")
    assert writer.wait() == 0


def test_names_are_utf_8_whatever_the_locale(tmp_path, rows):
    (tmp_path / "größe.csv").write_text("\n".join(["größe" + HEADER[8:], *rows]))
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for column, code in [("größe".encode(), 0), (b"gr\xf6\xdfe", 2)]:
        command = [sys.executable, paths.ROOT / "run.py", "--model", MODEL, "--name-column", column,
                   "--features", "größe.csv".encode()]  # fmt: skip
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
        assert done.returncode == code and b"Traceback" not in done.stderr
    assert b"is not UTF-8" in done.stderr
