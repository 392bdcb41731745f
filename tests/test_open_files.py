"""Outputs that are open files of a shell, which are written to and never replaced."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MODEL, Run, refused, with_cell

from age_gender import paths, trained_models


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


def test_an_open_file_that_cannot_be_written_is_refused(tmp_path, rows):
    (tmp_path / "a.csv").write_text("\n".join(rows))
    for name in ("/dev/fd/9", "/dev/fd/0"):
        done = redirected(tmp_path, f"$R --features a.csv --output {name} < a.csv")
        refused(done, name, "cannot be written to")
    done = redirected(tmp_path, "$R --features a.csv --output /proc/$$/fd/1")
    refused(done, "belongs to another process")


def test_standard_output_is_no_input_too(tmp_path, rows):
    (tmp_path / "a.csv").write_text("\n".join(rows))
    for output in ("-", "/dev/stdout"):
        done = redirected(tmp_path, f"$R --features a.csv --output {output} >> a.csv")
        refused(done, "would overwrite this input")
    assert (tmp_path / "a.csv").read_text() == "\n".join(rows)


def test_in_a_folder_that_was_deleted_absolute_paths_work(tmp_path, rows):
    (tmp_path / "a.csv").write_text("\n".join(rows))
    (tmp_path / "gone").mkdir()
    line = f'cd gone && rmdir "$PWD" && $R --features {tmp_path}/a.csv --output {tmp_path}/o.csv'
    done = redirected(tmp_path, line)
    assert done.code == 0, done.err
    assert len((tmp_path / "o.csv").read_text().splitlines()) == len(rows) + 1


def test_bad_rows_beside_an_open_file_are_listed_on_standard_error(tmp_path, rows):
    (tmp_path / "a.csv").write_text("\n".join([*rows, with_cell(rows[0], "x")]))
    line = "$R --features a.csv --skip-bad-rows --output /dev/stdout > out.csv"
    done = redirected(tmp_path, line)
    assert done.code == 0 and "file,row,line,reason\na.csv,7,7," in done.err
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "out.csv"]
    assert not os.path.exists("/dev/stdout.errors.csv")
