"""Interrupted, out of space or memory, several at once: a file is whole under its name or absent.

KILLS=50 pytest -k interrupted_at_any_moment -s    the long version, which prints its figures
"""

import contextlib
import csv
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from conftest import KILLS, Run, program, script, start, training, visible, wait_until

from age_gender import paths, table_writing

MODEL = str(paths.FACENET)


# ------------------------------------------------------------------------- interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_in_one_line_and_leaves_nothing(tmp_path, faces, number):
    process = start("run.py", "--features", "-", "--output", tmp_path / "out.csv",
                    "--model", MODEL, stdin=subprocess.PIPE)  # fmt: skip
    first = process.stderr.readline()
    process.stdin.write(b"half a row, 0.1")
    process.stdin.flush()
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(timeout=20) == 130
    assert (first + process.stderr.read()).decode().splitlines()[1:] == ["run.py: interrupted"]
    assert os.listdir(tmp_path) == []


# An interrupt that arrives where Python ignores exceptions
IGNORED = """
import signal, time, weakref
from age_gender import cli

class Thing:
    pass

def main():
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGHUP))
    del thing
    time.sleep(30)

cli.run(main)
"""
# One that arrives when a `with` statement has opened a file and has not yet entered its block
BETWEEN_LINES = """
import signal
from age_gender import cli, files

def main():
    output = files.atomic_file("out.csv")
    output.__enter__().write(b"half")
    signal.raise_signal(signal.SIGINT)

cli.run(main)
"""


@pytest.mark.parametrize("program", [IGNORED, BETWEEN_LINES])
def test_an_interrupt_is_not_lost_and_leaves_nothing_wherever_it_arrives(tmp_path, program):
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=20)
    assert (done.returncode, done.stderr) == (130, b"-c: interrupted\n")
    assert os.listdir(tmp_path) == []


def test_an_interrupted_training_says_so_in_one_line(mobile_folder, tmp_path):
    process = start("train.py", *training(mobile_folder, tmp_path / "m", "--epochs", "50"))
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    said = process.stderr.read().decode()
    assert said.splitlines()[-1] == "train.py: interrupted" and "Traceback" not in said
    assert visible(tmp_path / "m") in ([], ["logs"])


def test_a_reader_that_leaves_early_is_no_error(many):
    process = start("run.py", "--features", many, "--model", MODEL, stdout=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"filename,gender,age")
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert [line[:6] for line in process.stderr.read().decode().splitlines()] == ["model:"]


def feed(process: subprocess.Popen, text: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(text)
        process.stdin.flush()


@pytest.mark.parametrize("count", [1, 2])
def test_interrupted_at_any_moment_it_ends_at_once_in_one_line(tmp_path, many, count):
    """Once or twice, by a terminal, which sends to all processes; KILLS=50 says how often."""
    text, interrupted = many.read_bytes(), 0
    for number in range(KILLS or 4):
        signal_number = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)[number % 3]
        process = start("run.py", "--features", "-", "--output", tmp_path / "out.csv",
                        "--model", MODEL, stdin=subprocess.PIPE,
                        start_new_session=True)  # fmt: skip
        assert process.stderr.readline().startswith(b"model: ")
        feeder = threading.Thread(target=feed, args=(process, text))
        feeder.start()
        time.sleep(random.uniform(0, 0.5))
        for _ in range(count):
            os.killpg(process.pid, signal_number)
            time.sleep(random.uniform(0, 0.01))
        assert process.wait(timeout=10) == 130
        assert process.stderr.read() == b"run.py: interrupted\n"
        feeder.join()
        assert os.listdir(tmp_path) == []
        interrupted += 1
    print(f"\nrun.py: {interrupted} interrupted, {count} times each")


def test_interrupted_while_processes_work_it_ends_with_them(tmp_path, tmp_path_factory, many):
    """Long text: three files of 22 MB, which processes parse."""
    inputs = tmp_path_factory.mktemp("inputs")
    copies = [inputs / f"{number}.csv" for number in range(3)]
    for path in copies:
        path.write_bytes(many.read_bytes())
    for number in range(KILLS or 3):
        signal_number = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)[number % 3]
        process = start("run.py", "--features", *copies, "--output", tmp_path / "out.csv",
                        "--model", MODEL, start_new_session=True)  # fmt: skip
        first = process.stderr.readline()
        time.sleep(random.uniform(0, 0.3))
        os.killpg(process.pid, signal_number)
        code, said = process.wait(timeout=20), (first + process.stderr.read()).decode()
        assert (code, said.splitlines()[1:]) in ((130, ["run.py: interrupted"]), (0, [])), said
        assert code == 0 or os.listdir(tmp_path) == []
        with contextlib.suppress(ProcessLookupError):  # no worker is left
            wait_until(lambda group=process.pid: os.killpg(group, 0) is not None)
        (tmp_path / "out.csv").unlink(missing_ok=True)


# -------------------------------------------------------------------------- a full disk


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit the size of files in the block; as a full disk does, but for one file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def failed(done: Run, *words: str) -> None:
    """Exit code 1, and these words in the last line; no other is about an error."""
    *others, last = done.err.splitlines()
    assert done.code == 1 and not any("error" in line for line in others), done
    for word in words:
        assert word in last


def test_without_space_run_says_so_and_leaves_nothing(many, tmp_path):
    output = tmp_path / "out" / "out.csv"
    output.parent.mkdir()
    arguments = ["--features", many, "--model", MODEL]
    with files_of_at_most(40_000):
        failed(script("run.py", *arguments, "--output", output), str(output), "file too large")
    assert os.listdir(output.parent) == []
    with open("/dev/full", "wb") as full:
        process = start("run.py", *arguments, stdout=full)
        said = process.communicate(timeout=100)[1].decode()
    failed(Run(process.returncode, "", said), "no space left on device")


def test_without_space_prepare_says_so_and_leaves_nothing(table, tmp_path):
    with files_of_at_most(1_000_000):
        done = script("prepare.py", "--features", table, "--test-size", 150, "--output", tmp_path)
    failed(done, str(tmp_path), "file too large", "choose another folder")
    assert os.listdir(tmp_path) == []


def test_without_space_train_says_so_and_leaves_no_model(mobile_folder, tmp_path):
    with files_of_at_most(1_000_000):
        done = script("train.py", *training(mobile_folder, tmp_path / "m"))
    failed(done, "file too large")
    assert visible(tmp_path / "m") in ([], ["logs"])


# ---------------------------------------------------------------------------- at once


def test_several_runs_on_one_output_leave_one_whole_result(many, faces, tmp_path):
    other, output = tmp_path / "other.npz", tmp_path / "out" / "out.csv"
    output.parent.mkdir()
    table_writing.write(other, faces[0], [faces[1]])
    wholes = []
    for features in (many, other):
        done = program("run.py", "--features", features, "--model", MODEL, "--output", output)
        assert done.code == 0
        wholes.append(output.read_bytes())
    running = [
        start("run.py", "--features", features, "--model", MODEL, "--output", output)
        for features in (many, other, many, other)
    ]
    assert [process.wait(timeout=100) for process in running] == [0] * 4
    assert output.read_bytes() in wholes
    assert os.listdir(output.parent) == ["out.csv"]
    assert len(list(csv.reader(output.open()))) in (4501, 901)


# ------------------------------------------------------------------------- low limits


@pytest.mark.parametrize("suffix", ["csv", "npz", "parquet"])
def test_with_little_memory_or_few_open_files_the_machine_is_blamed_not_the_file(
    tmp_path, faces, suffix
):
    path = tmp_path / f"my.{suffix}"
    table_writing.write(path, faces[0], [faces[1]])
    limits = [(resource.RLIMIT_AS, size << 20) for size in (50, 100, 130, 200, 230, 300)]
    limits += [(resource.RLIMIT_NOFILE, count) for count in (5, 6)]
    failed = 0
    for limit, value in limits:
        process = start(
            "run.py", "--features", path, "--model", MODEL,
            preexec_fn=lambda limit=limit, value=value: resource.setrlimit(limit, (value, value)),
        )  # fmt: skip
        said = process.communicate(timeout=60)[1].decode()
        assert process.returncode in (0, 1), (limit, value, said)
        failed += process.returncode
        assert "Traceback" not in said and "write it again" not in said, (limit, value, said)
        lines = [line for line in said.splitlines() if not line.startswith("model: ")]
        assert len(lines) == process.returncode, (limit, value, said)
    assert failed >= 3


@pytest.mark.parametrize("megabytes", [250, 300, 600, 1600, 3000])
@pytest.mark.parametrize("name", ["prepare.py", "train.py"])
def test_with_too_little_memory_for_tensorflow_one_line_says_so_at_once(
    table, mobile_folder, tmp_path, name, megabytes
):
    """Else OpenBLAS waits without end, and TensorFlow aborts."""
    size = megabytes << 20
    arguments = {
        "prepare.py": ["--features", table, "--output", tmp_path],
        "train.py": training(mobile_folder, tmp_path),
    }[name]
    process = start(
        name, *arguments,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
    )  # fmt: skip
    said = process.communicate(timeout=60)[1].decode()
    failed(Run(process.returncode, "", said), f"the limit is {megabytes} MB", "ulimit -v")
    assert said.count("\n") == 1
