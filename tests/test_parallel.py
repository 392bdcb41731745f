"""parallel.py on this machine: order, bounds, processes that are killed; and the progress bar."""

import contextlib
import gzip
import multiprocessing.synchronize
import os
import pty
import re
import shutil
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

from age_gender import paths, table_writing
from age_gender.cli import Progress
from age_gender.errors import InputError
from age_gender.processes import parallel
from age_gender.readers import tables


def test_threads_keep_the_order_whatever_each_item_takes(monkeypatch):
    monkeypatch.setattr(parallel, "count_processors", lambda: 4)

    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % 4 == 0 else 0)
        return item * item

    results = list(parallel.map_in_order(slow_first, range(40)))

    assert results == [i * i for i in range(40)]


several_processors = pytest.mark.skipif(
    parallel.count_processors() < 2 or not hasattr(os, "fork"), reason="needs two processors"
)


@several_processors
def test_processes_keep_the_order_and_do_the_work():
    def slow_first(item: int) -> tuple[int, int]:
        time.sleep(0.02 if item % 4 == 0 else 0)
        return item * item, os.getpid()

    results = list(parallel.map_in_order(slow_first, range(60), processes=True))

    assert [square for square, _ in results] == [i * i for i in range(60)]
    workers = {process for _, process in results}
    assert os.getpid() not in workers
    assert len(workers) == parallel.count_processors()


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


def test_without_semaphores_threads_do_the_work_of_processes(monkeypatch):
    """Some containers and AWS Lambda have no /dev/shm, or none that can be written."""

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", deny)
    pids = [*parallel.map_in_order(lambda _: os.getpid(), range(9), processes=True)]
    assert {*pids} == {os.getpid()} and len(pids) == 9


@several_processors
def test_a_process_that_is_killed_ends_the_work_with_one_line():
    def fall(item: int) -> int:
        if item == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(ChildProcessError, match="was killed, perhaps because memory ran out"):
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

    with pytest.raises(ChildProcessError, match="was killed, perhaps because memory ran out"):
        list(parallel.map_in_order(str, items(), processes=True))


@pytest.fixture(scope="module")
def long_csv(tmp_path_factory) -> Path:
    """7,000 rows in so many bytes that processes parse them."""
    features = tables.read(["data/utkface.npz"])[1]
    path = tmp_path_factory.mktemp("long") / "long.csv"
    table_writing.write(path, [*map(str, range(7000))], [np.tile(features[:1000], (7, 1))])
    assert path.stat().st_size > tables.LONG_TEXT_BYTES and tables.is_long_text([str(path)])
    return path


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"a,1,2\n" * 3])
def test_long_text_is_scored_by_processes_as_by_threads(tmp_path, long_csv, start):
    text = tmp_path / "text.csv"
    text.write_bytes(start + long_csv.read_bytes())
    assert not tables.is_long_text(["-"])
    more = ["--skip-bad-rows"]
    for given, output in [([str(text)], "processes.csv"), (["-"], "threads.csv")]:
        command = [sys.executable, "run.py", "--features", *given, *more]
        with open(text) as stream:
            subprocess.run([*command, "--output", tmp_path / output], stdin=stream, check=True,
                           stderr=subprocess.DEVNULL)  # fmt: skip

    scored = (tmp_path / "processes.csv").read_bytes()
    assert scored == (tmp_path / "threads.csv").read_bytes()
    assert scored.count(b"\n") == 7001


def test_text_that_processes_cannot_find_in_the_file_goes_by_threads(tmp_path, monkeypatch, table):
    monkeypatch.setattr(tables, "LONG_TEXT_BYTES", 1)
    for name, content, is_long in [
        ("a.csv", b"a,1,2\n", True),
        ("a.csv.gz", gzip.compress(b"a,1,2\n"), False),
        ("a.jsonl", b'{"embedding": [1, 2]}\n', True),
        ("a.json", b'[{"embedding": [1, 2]}]', False),
    ]:
        (tmp_path / name).write_bytes(content)
        assert tables.is_long_text([str(tmp_path / name)]) == is_long
    assert not tables.is_long_text(["-"])
    assert not tables.is_long_text([str(table)])


def test_text_that_becomes_shorter_while_it_is_read_ends_the_work(tmp_path, long_csv):
    long_csv = shutil.copy(long_csv, tmp_path)
    chunk = [chunk.without_data() for chunk in tables.read_chunks([str(long_csv)])][-1]
    assert not chunk.data
    os.truncate(long_csv, os.path.getsize(long_csv) - 10)
    with pytest.raises(InputError, match=r"long\.csv: became shorter while it was read"):
        tables.parse(chunk)


@several_processors
def test_the_processes_of_a_run_that_is_killed_end_too(tmp_path, long_csv):
    process = start("run.py", "--features", long_csv, "--output", tmp_path / "out.csv")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: len(children.read_text().split()) == parallel.count_processors())
    workers = children.read_text().split()
    process.kill()
    process.wait()

    wait_until(lambda: not any(Path("/proc", worker).exists() for worker in workers))


def test_threads_work_at_the_same_time(monkeypatch):
    monkeypatch.setattr(parallel, "count_processors", lambda: 3)
    together = threading.Barrier(3, timeout=10)  # breaks unless three arrive

    list(parallel.map_in_order(lambda _: together.wait(), range(6)))


def test_input_is_not_read_far_ahead_of_the_results(monkeypatch):
    monkeypatch.setattr(parallel, "count_processors", lambda: 2)
    read = []

    def items():
        for i in range(100):
            read.append(i)
            yield i

    def first_late(item: int) -> int:
        time.sleep(0.2 if item == 0 else 0)
        return item

    results = parallel.map_in_order(first_late, items())
    ahead = [len(read) - result for result in results]

    assert max(ahead) <= 2 * 2 + 2


def test_an_error_in_the_function_is_raised_here(monkeypatch):
    monkeypatch.setattr(parallel, "count_processors", lambda: 2)

    def fail(item: int) -> int:
        if item == 3:
            raise InputError("item 3 is bad; leave it out")
        return item

    results = parallel.map_in_order(fail, range(10))

    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="item 3 is bad"):
        list(results)


def test_no_progress_bar_where_nobody_watches(capsys):
    with Progress(10, "images") as progress:
        progress.update(5)
        progress.say("a.jpg: no face")

    assert capsys.readouterr().err == "a.jpg: no face\n"


def test_a_bar_with_the_rate_where_somebody_watches(tmp_path, table):
    try:
        theirs, ours = pty.openpty()
    except OSError:
        pytest.skip("there are no pseudo-terminals here")
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
