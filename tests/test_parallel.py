"""parallel.py on this machine: order, bounds, processes that are killed; and the progress bar."""

import contextlib
import multiprocessing
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import start, wait_until

import run
from age_gender import parallel, paths
from age_gender.cli import InputError, Progress
from age_gender.readers import tables, writing


@pytest.mark.parametrize("bursts", [False, True])
def test_threads_keep_the_order_whatever_each_item_takes(monkeypatch, bursts):
    monkeypatch.setattr(parallel, "processors", lambda: 4)

    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % 4 == 0 else 0)
        return item * item

    results = list(parallel.map_in_order(slow_first, range(40), bursts=bursts))

    assert results == [i * i for i in range(40)]


several_processors = pytest.mark.skipif(
    parallel.processors() < 2 or not hasattr(os, "fork"), reason="needs two processors"
)


@several_processors
def test_processes_keep_the_order_and_do_the_work():
    def slow_first(item: int) -> tuple[int, int]:
        time.sleep(0.02 if item % 4 == 0 else 0)
        return item * item, os.getpid()

    results = list(parallel.map_in_order(slow_first, range(60), processes=True))

    assert [square for square, _ in results] == [i * i for i in range(60)]
    workers = {process for _, process in results[parallel.FEW_ITEMS :]}
    assert os.getpid() not in workers
    assert len(workers) == parallel.processors()


@several_processors
def test_an_error_in_a_process_is_raised_here():
    def fail(item: int) -> int:
        if item == 30:
            raise InputError("item 30 is bad; leave it out")
        return item

    results = parallel.map_in_order(fail, range(60), processes=True)

    assert [next(results) for _ in range(30)] == [*range(30)]
    with pytest.raises(InputError, match="item 30 is bad"):
        list(results)


@several_processors
def test_a_process_that_is_killed_ends_the_work_with_one_line():
    def fall(item: int) -> int:
        if item == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(ChildProcessError, match="was killed, perhaps for want of memory"):
        list(parallel.map_in_order(fall, range(60), processes=True))


@several_processors
def test_processes_that_are_killed_at_rest_end_the_work_too():
    before = multiprocessing.active_children()

    def items():
        yield from range(40)
        time.sleep(0.3)  # they have done all that they were given
        for process in {*multiprocessing.active_children()} - {*before}:
            process.kill()
            process.join()
        yield from range(20)

    with pytest.raises(ChildProcessError, match="was killed, perhaps for want of memory"):
        list(parallel.map_in_order(str, items(), processes=True))


@pytest.mark.parametrize("how", ["file", "pipe"])
def test_long_text_is_scored_by_processes_as_by_threads(tmp_path, how):
    features = tables.read(["data/utkface.npz"])[1]
    rows = np.tile(features[:1000], (7, 1))
    writing.write(tmp_path / "long.csv", [*map(str, range(7000))], [rows])
    writing.write(tmp_path / "long.npz", [*map(str, range(7000))], [rows])
    assert (tmp_path / "long.csv").stat().st_size > tables.LONG_BYTES
    given = ["-"] if how == "pipe" else [str(tmp_path / "long.csv")]
    assert tables.is_long_text(given) and not tables.is_long_text([str(tmp_path / "long.npz")])

    run.main(["--features", str(tmp_path / "long.npz"), "--output", str(tmp_path / "expected.csv")])
    command = [sys.executable, "run.py", "--features", *given, "--output", tmp_path / "out.csv"]
    with open(tmp_path / "long.csv") as text:
        subprocess.run(command, stdin=text, check=True, stderr=subprocess.DEVNULL)

    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()


@several_processors
def test_the_processes_of_a_run_that_is_killed_end_too(tmp_path):
    line = ",".join(["name", *["0.125"] * 512]) + "\n"
    output = tmp_path / "out.csv"
    arguments = ("--features", "-", "--output", output)
    with start("run.py", *arguments, stdin=subprocess.PIPE, text=True) as process:
        process.stdin.write(line * 400)  # more than two parts of it
        process.stdin.flush()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == parallel.processors())
        found = children.read_text().split()
        process.kill()

    wait_until(lambda: not any(Path("/proc", child).exists() for child in found))


def test_threads_work_at_the_same_time(monkeypatch):
    monkeypatch.setattr(parallel, "processors", lambda: 3)
    together = threading.Barrier(3, timeout=10)  # breaks unless three arrive

    list(parallel.map_in_order(lambda _: together.wait(), range(6)))


@pytest.mark.parametrize("bursts, most", [(False, 2), (True, 4)])
def test_input_is_not_read_far_ahead_of_the_results(monkeypatch, bursts, most):
    monkeypatch.setattr(parallel, "processors", lambda: 2)
    read = []

    def items():
        for i in range(100):
            read.append(i)
            yield i

    def first_late(item: int) -> int:
        time.sleep(0.2 if item == 0 else 0)
        return item

    results = parallel.map_in_order(first_late, items(), bursts=bursts)
    ahead = [len(read) - result for result in results]

    assert max(ahead) <= most * 2 + 2


@pytest.mark.parametrize("bursts", [False, True])
def test_an_error_in_the_function_is_raised_here(monkeypatch, bursts):
    monkeypatch.setattr(parallel, "processors", lambda: 2)

    def fail(item: int) -> int:
        if item == 3:
            raise InputError("item 3 is bad; leave it out")
        return item

    results = parallel.map_in_order(fail, range(10), bursts=bursts)

    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="item 3 is bad"):
        list(results)


def test_no_progress_bar_where_nobody_watches(capsys):
    with Progress(10, "images") as progress:
        progress.update(5)
        progress.say("a.jpg: no face")

    assert capsys.readouterr().err == "a.jpg: no face\n"


def test_a_bar_with_the_rate_where_somebody_watches(tmp_path, table):
    theirs, ours = pty.openpty()
    termios.tcsetwinsize(ours, (40, 100))
    process = start("run.py", "--features", table, "--output", tmp_path / "out.csv",
                    "--model", paths.FACENET, stderr=ours)  # fmt: skip
    os.close(ours)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while read := os.read(theirs, 4096):
            shown += read
    os.close(theirs)
    assert process.wait(timeout=60) == 0
    assert re.search(r"100%\|█+.\| [\d.]+M/[\d.]+M .* rows/s", shown.decode()), shown
