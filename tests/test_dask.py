"""Dask: workers that come and go, over loopback, on blocks of real embeddings."""

import contextlib
import importlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import start as start_script

import run
from age_gender import dask_cluster, parallel, paths
from age_gender.cli import InputError
from age_gender.readers import chunks, tables, writing


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Scheduler(NamedTuple):
    address: str
    process: subprocess.Popen
    workers: list[subprocess.Popen]
    add_worker: Callable[[int], subprocess.Popen]  # with so many threads


@pytest.fixture
def scheduler(tmp_path):
    """A real scheduler's address and two worker processes, where no project is seen."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    address = f"tcp://127.0.0.1:{free_port()}"
    folder = tmp_path / "empty"
    folder.mkdir()
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        process = start("scheduler", "--host", address, "--no-dashboard")
        options = ("--no-dashboard", "--no-nanny", "--death-timeout", "30", "--nthreads")

        def add_worker(threads: int) -> subprocess.Popen:
            return start("worker", address, *options, str(threads))

        yield Scheduler(address, process, [add_worker(1), add_worker(1)], add_worker)


def test_workers_without_the_project_parse_embeddings(scheduler, tmp_path):
    features = np.random.default_rng(0).normal(size=(3000, 512)).astype(np.float32)
    path = tmp_path / "features.npz"
    writing.write(path, [f"face {i}" for i in range(3000)], [features])

    def parse(chunk: chunks.Chunk) -> chunks.Batch:
        assert re.search(r"age_gender-.*\.zip/age_gender/readers", chunks.__file__), (
            "the worker's own"
        )
        return tables.parse(chunk)

    blocks = list(parallel.map_in_order(parse, tables.cut([str(path)]), dask=scheduler.address))

    count = -(-len(features) // chunks.CHUNK_ROWS)
    assert [type(block) for block in blocks] == [chunks.Batch] * count
    np.testing.assert_array_equal(np.concatenate([block.features for block in blocks]), features)


def test_an_error_on_a_worker_is_the_same_error_here(scheduler):
    def fail(item: int) -> int:
        raise InputError("photos: this folder is not seen here")

    with pytest.raises(InputError, match="not seen here"):
        list(parallel.map_in_order(fail, range(3), dask=scheduler.address))


def test_the_function_travels_once_to_each_worker_and_is_loaded_once(scheduler):
    weights = bytes(30_000_000)  # Dask warns from 10 MB when such a load goes with each task

    class Counting:
        def __init__(self) -> None:
            self.weights, self.calls = weights, 0

        def __call__(self, item: int) -> tuple[int, int, int]:
            self.calls += 1
            return os.getpid(), self.calls, len(self.weights)

    results = list(parallel.map_in_order(Counting(), range(20), dask=scheduler.address))

    calls = {}
    for process, count, size in results:
        assert size == len(weights)
        calls[process] = max(calls.get(process, 0), count)
    assert sum(calls.values()) == 20


def test_a_killed_worker_costs_its_block_only(scheduler, tmp_path):
    log = tmp_path / "calls"

    def work(item: int) -> int:
        with open(log, "a") as stream:
            stream.write(f"{item}\n")
        time.sleep(0.05)
        if item == 7 and log.read_text().split().count("7") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    results = list(parallel.map_in_order(work, range(30), dask=scheduler.address))

    assert results == list(range(30))
    assert len(log.read_text().split()) <= 30 + 4, "much more was done again than was lost"


def test_a_worker_that_joins_later_gets_its_share(scheduler, monkeypatch):
    monkeypatch.setattr(dask_cluster, "COUNT_SECONDS", 1e-3)
    read = joined = 0

    def items():
        nonlocal read
        for _ in range(10_000):
            read += 1
            # once there are ten threads, submitting must be faster than they are
            yield 1 if joined else 0.05

    results = parallel.map_in_order(time.sleep, items(), dask=scheduler.address)
    ahead = []
    for number, _ in enumerate(results):
        ahead.append(read - number)
        if number == 5:
            scheduler.add_worker(8)
            joined = 1
        if ahead[-1] > 2 * 10:  # two items for each of 1 + 1 + 8 threads
            break
    results.close()

    assert max(ahead[:6]) <= 2 * 2 + 2
    assert ahead[-1] > 2 * 10


@pytest.fixture
def other_version(tmp_path) -> Path:
    """A copy of the package in which arrays are cut into other blocks."""
    package = tmp_path / "copy" / "age_gender"
    shutil.copytree(dask_cluster.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    source = package / "readers" / "chunks.py"
    text = source.read_text()
    source.write_text(text.replace(f"CHUNK_ROWS = {chunks.CHUNK_ROWS}", "CHUNK_ROWS = 1"))
    assert source.read_text() != text
    return package


def test_workers_change_to_the_version_of_the_package_that_is_run(
    scheduler, other_version, monkeypatch
):
    def block_rows(module: str) -> tuple[int, int]:
        return os.getpid(), importlib.import_module(module).CHUNK_ROWS

    def on_workers() -> set[tuple[int, int]]:
        modules = ["age_gender.readers.chunks"] * 8
        return {*parallel.map_in_order(block_rows, modules, dask=scheduler.address)}

    runs = []
    for package in (dask_cluster.PACKAGE, other_version) * 2:
        monkeypatch.setattr(dask_cluster, "PACKAGE", package)
        runs.append(on_workers())

    processes = {process for process, _ in set.union(*runs)}
    assert len(processes) <= 2, "a worker began anew"
    for rows, of_run in zip((chunks.CHUNK_ROWS, 1) * 2, runs, strict=True):
        assert {found_rows for _, found_rows in of_run} == {rows}


def test_two_versions_at_once_are_refused(scheduler, other_version, monkeypatch):
    under_way = parallel.map_in_order(abs, range(100), dask=scheduler.address)
    assert next(under_way) == 0
    again = parallel.map_in_order(abs, range(3), dask=scheduler.address)
    assert list(again) == [0, 1, 2], "the same version may be at work twice"

    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"another version .*wait"):
        patch.setattr(dask_cluster, "PACKAGE", other_version)
        next(parallel.map_in_order(abs, range(3), dask=scheduler.address))

    assert list(under_way) == list(range(1, 100))


def test_a_killed_run_of_another_version_is_forgotten(scheduler, other_version):
    (other_version.parent / "at_work.py").write_text(
        "import sys, time\nfrom age_gender import parallel\n"
        "for _ in parallel.map_in_order(time.sleep, [0] + [0.2] * 1000, dask=sys.argv[1]):\n"
        "    print(flush=True)\n"
    )
    command = [sys.executable, other_version.parent / "at_work.py", scheduler.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"\n"
        other.kill()
    time.sleep(1)  # for the scheduler to see that it is gone

    modules = ["age_gender.readers.chunks"] * 8
    rows = parallel.map_in_order(
        lambda module: importlib.import_module(module).CHUNK_ROWS, modules, dask=scheduler.address
    )

    assert set(rows) == {chunks.CHUNK_ROWS}


def test_run_on_a_cluster_writes_the_same_bytes_though_a_worker_is_killed(
    scheduler, faces, tmp_path, monkeypatch
):
    names, features = faces
    table, bare = tmp_path / "a.csv", tmp_path / "b.npy"
    writing.write(table, [f'{name} "{i}"' for i, name in enumerate(names)], [features])
    np.save(bare, features)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 400_000)  # 14 chunks of CSV
    inputs = [
        "--features",
        str(table),
        str(bare),
        "--model",
        str(paths.FACENET),
        "--output",
    ]
    run.main([*inputs, str(tmp_path / "here.csv")])
    add, added = run.Writer.add, []

    def add_and_kill(writer: run.Writer, block: chunks.Batch) -> None:
        added.append(block)
        if len(added) == 3:
            scheduler.workers[0].kill()
        add(writer, block)

    monkeypatch.setattr(run.Writer, "add", add_and_kill)
    run.main([*inputs, str(tmp_path / "there.csv"), "--dask", scheduler.address])

    assert len(added) > 10
    assert [worker.poll() is None for worker in scheduler.workers] == [False, True]
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def test_local_starts_a_cluster_and_leaves_nothing_behind():
    processes = set(parallel.map_in_order(lambda _: os.getpid(), range(8), dask="local"))

    assert os.getpid() not in processes
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{process}/cmdline").exists() for process in processes):
        assert time.monotonic() < deadline, "a worker outlived the run"
        time.sleep(0.05)


@pytest.mark.parametrize("address", ["nonsense", "ftp://127.0.0.1:1"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(InputError, match=r"no Dask scheduler answers.*give its address"):
        next(parallel.map_in_order(int, range(3), dask=address))


def test_a_scheduler_that_does_not_answer_is_refused_soon(monkeypatch):
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 1)
    start = time.monotonic()

    with pytest.raises(InputError, match=r"no Dask scheduler answers.*give its address"):
        next(parallel.map_in_order(int, range(3), dask=f"tcp://127.0.0.1:{free_port()}"))

    assert time.monotonic() - start < 10


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 99, bytes(5000)])
def test_a_port_that_is_no_scheduler_is_refused_soon(monkeypatch, answer):
    """It accepts, says something else or nothing, and never hangs up."""
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 2)
    connections = []

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(listener.accept()[0])
                connections[-1].sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        began = time.monotonic()
        with pytest.raises(InputError, match="no Dask scheduler answers"):
            next(
                parallel.map_in_order(
                    int, range(3), dask=f"tcp://127.0.0.1:{listener.getsockname()[1]}"
                )
            )
        assert time.monotonic() - began < 10


def test_a_scheduler_that_is_stopped_is_refused_soon(scheduler, monkeypatch):
    under_way = parallel.map_in_order(time.sleep, [0.1] * 1000, dask=scheduler.address)
    next(under_way)
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(dask_cluster, "ANSWER_SECONDS", 1)
    began = time.monotonic()
    scheduler.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(InputError, match="no longer answers; restart it"):
            list(under_way)
        with pytest.raises(InputError, match="no Dask scheduler answers"):
            next(parallel.map_in_order(int, range(3), dask=scheduler.address))
    finally:
        scheduler.process.send_signal(signal.SIGCONT)
    assert time.monotonic() - began < 20


def test_a_worker_that_is_stopped_does_not_hold_back_ctrl_c(scheduler, table, tmp_path):
    scheduler.workers[1].kill()
    process = start_script(
        "run.py", "--features", "-", "--output", tmp_path / "out.csv", "--model", paths.FACENET,
        "--dask", scheduler.address, stdin=subprocess.PIPE,
    )  # fmt: skip
    names, features = tables.read([table])
    row = names[0] + "," + ",".join(map(str, features[0].tolist())) + "\n"
    process.stdin.write(row.encode() * 2000)
    process.stdin.flush()
    time.sleep(3)
    scheduler.workers[0].send_signal(signal.SIGSTOP)
    try:
        process.stdin.write(row.encode() * 20)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(timeout=60) == 130
        assert time.monotonic() - began < 10
        said = process.stderr.read().decode().splitlines()
        assert said[-1] == "run.py: interrupted" and len(said) == 2, said
    finally:
        scheduler.workers[0].send_signal(signal.SIGCONT)


@pytest.mark.parametrize("seconds", [1.2, 2.4, 3.6])
def test_ctrl_c_is_not_lost_while_a_local_cluster_starts(tmp_path, seconds):
    process = start_script(
        "run.py", "--features", "-", "--output", tmp_path / "out.csv", "--model", paths.FACENET,
        "--dask", "local", stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    process.stdin.write(b"half a row")
    process.stdin.flush()
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: its workers, too
    assert process.wait(timeout=60) == 130
    said = process.stderr.read().decode().splitlines()
    assert said[-1] == "run.py: interrupted" and len(said) <= 2, said
