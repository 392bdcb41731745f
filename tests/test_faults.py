"""Killed, interrupted, out of space, in parallel: a file is whole under its name or not there.

KILLS=50 pytest -k killed -s    the long version, which tells its figures
"""

import contextlib
import csv
import json
import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    KILLS,
    Run,
    kill_at_random,
    mobile_training,
    program,
    script,
    start,
    training,
    wait_until,
)  # fmt: skip

import train
from age_gender import checkpoints, paths, trained_models
from age_gender.readers import writing

MODEL = str(paths.FACENET)


def visible(folder: Path) -> list[str]:
    """What lies in a folder, but for hidden files: those that a kill may leave half-written."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


@pytest.fixture
def many(tmp_path, faces) -> Path:
    """4,500 rows in 22 MB: run.py takes about a second."""
    path = tmp_path / "in" / "many.csv"
    path.parent.mkdir()
    rows = [",".join(map("%.8f".__mod__, row)) for row in faces[1].tolist()]
    with open(path, "w") as stream:
        for i in range(4500):
            stream.write(f"face {i},{rows[i % len(rows)]}\n")
    return path


# ------------------------------------------------------------------------------ killed


def test_run_killed_at_any_moment_leaves_the_old_output_or_the_whole_new_one(many, tmp_path):
    output = tmp_path / "out" / "out.csv"
    output.parent.mkdir()
    arguments = ["--features", many, "--output", output, "--model", MODEL, "--skip-bad-rows"]
    began = time.monotonic()
    assert program("run.py", *arguments).code == 0
    seconds, whole = time.monotonic() - began, output.read_bytes()
    assert whole.count(b"\n") == 4501
    killed = replaced = 0
    for _ in range(KILLS or 5):
        output.write_bytes(b"old")
        killed += kill_at_random("run.py", *arguments, within=seconds * 1.1)
        assert output.read_bytes() in (b"old", whole)
        replaced += output.read_bytes() == whole
        assert visible(output.parent) == ["out.csv", "out.errors.csv"]
    print(f"\nrun.py: {killed} killed while running, {replaced} had replaced the output")
    assert program("run.py", *arguments).code == 0 and output.read_bytes() == whole


def test_prepare_killed_at_any_moment_leaves_whole_record_files_or_none(
    table, record_folder, tmp_path
):
    arguments = ["--features", table, "--test-size", "150", "--output"]
    whole = {path.name: path.read_bytes() for path in record_folder.iterdir()}
    assert len(whole) == 4
    finished = 0
    for number in range(KILLS or 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = start("prepare.py", *arguments, folder, stderr=subprocess.DEVNULL)
        wait_until(lambda folder=folder: os.listdir(folder))  # it has begun to write
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.wait()
        for name in visible(folder):
            assert (folder / name).read_bytes() == whole[name]
        finished += len(visible(folder)) == 4
    print(f"\nprepare.py: {finished} of {KILLS or 2} had written all files when they were killed")


def test_a_training_killed_and_interrupted_and_resumed_ends_as_if_it_had_not_been(
    mobile_folder, tmp_path, monkeypatch
):
    """Killed after its first epoch, and with KILLS at random moments of a longer training."""
    whole, folder, work = (
        mobile_folder / "model",
        tmp_path / "models",
        tmp_path / "models/.training",
    )
    arguments, more = mobile_training(mobile_folder, folder), []
    if KILLS:
        whole, more = tmp_path / "whole", ["--epochs", "8"]
        began = time.monotonic()
        assert program("train.py", *mobile_training(mobile_folder, whole), *more).code == 0
        within = time.monotonic() - began
    process = start("train.py", *arguments, *more, stderr=subprocess.DEVNULL)
    wait_until((work / "validation.npz").exists, 100)
    process.kill()
    killed, resumed = process.wait() == -signal.SIGKILL, 1
    for _ in range(KILLS):
        killed += kill_at_random("train.py", *arguments, *more, "--resume", within=within)
        if (folder / trained_models.DESCRIPTION).exists():  # finished: the next one starts anew
            assert trained_models.find_model(folder, trained_models.LITERT_MODEL)
            assert described(folder) == described(whole)
        resumed += any(work.glob("[!.]*.npz"))
    print(f"\ntrain.py: {killed} killed while running, {resumed} times there was a state to resume")
    for state in work.glob("[!.]*.npz"):
        with np.load(state) as arrays:
            assert all(arrays[name] is not None for name in arrays)

    def save_and_interrupt(state: Path, trainer) -> None:
        save(state, trainer)
        if state.stem == "final":
            raise KeyboardInterrupt

    save = checkpoints.save
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "save", save_and_interrupt)
        train.main([*arguments, *more, "--resume"])
    assert not (folder / trained_models.DESCRIPTION).exists()
    train.main([*arguments, *more, "--resume"])
    assert described(folder) == described(whole)
    assert visible(folder) == visible(whole) and not work.exists()


def described(folder: Path) -> tuple:
    """A model's figures, and the hash of what scores."""
    card = json.loads((folder / trained_models.DESCRIPTION).read_text())
    return (
        card["validation"],
        card["calibration"],
        card["epochs"],
        card["files"][trained_models.LITERT_MODEL],
    )


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
        assert os.listdir(tmp_path) == ["in"]
        interrupted += 1
    print(f"\nrun.py: {interrupted} interrupted, {count} times each")


def test_interrupted_while_processes_work_it_ends_with_them(tmp_path, many):
    """Long text: three files of 22 MB, which processes parse."""
    copies = [tmp_path / "in" / f"{number}.csv" for number in range(3)]
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
        assert code == 0 or os.listdir(tmp_path) == ["in"]
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
    writing.write(other, faces[0], [faces[1]])
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
    writing.write(path, faces[0], [faces[1]])
    limits = [(resource.RLIMIT_AS, size << 20) for size in (50, 100, 130, 200, 300)]
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
