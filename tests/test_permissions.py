"""Files of other users: what may not be read or written is named, before the work."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import MODEL, Run, program, refused

from age_gender import files, paths, table_writing, trained_models


def as_nobody(folder: Path, *arguments) -> Run:
    """run.py as a user who is not root."""
    if os.geteuid():
        return program("run.py", *arguments)
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
            table_writing.write(Path(folder, name), faces[0][:3], [faces[1][:3]])
        for path in Path(folder).iterdir():
            path.chmod(0o644)
        yield Path(folder)


def test_without_permission_to_read_the_file_is_named(open_folder, faces):
    for name in ("my.csv", "my.npz"):
        path = open_folder / name
        table_writing.write(path, faces[0][:3], [faces[1][:3]])
        os.chmod(path, 0)
        done = as_nobody(open_folder, "--features", path, "--model", open_folder / "model.tflite")
        refused(done, name, "permission")


def test_without_permission_to_write_the_folder_is_named(open_folder, faces):
    path, shut = open_folder / "my.csv", open_folder / "shut"
    table_writing.write(path, faces[0][:3], [faces[1][:3]])
    shut.mkdir()
    os.chmod(path, 0o644)
    os.chmod(shut, 0o555)
    done = as_nobody(
        open_folder, "--features", path, "--model", open_folder / "model.tflite",
        "--output", shut / "out.csv",
    )  # fmt: skip
    refused(done, str(shut), "cannot be written", "choose another")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes another user's file")
def test_another_users_output_in_a_sticky_folder_is_refused_before_the_work(open_folder, faces):
    table_writing.write(open_folder / "my.csv", faces[0][:3], [faces[1][:3]])
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


def test_an_output_for_few_eyes_is_never_readable_by_more(tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("old")
    for mode in (0o600, 0o640):
        output.chmod(mode)
        with files.atomic_file(output) as stream:
            assert [path.stat().st_mode & 0o077 for path in tmp_path.glob(".out*")] == [0]
            stream.write(b"new")
        assert output.stat().st_mode & 0o777 == mode
    with files.atomic_file(tmp_path / "new.csv") as stream:
        stream.write(b"new")
    assert (tmp_path / "new.csv").stat().st_mode & 0o777 == 0o666 & ~UMASK


UMASK = os.umask(0o22)


os.umask(UMASK)
