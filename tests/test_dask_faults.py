"""Dask workers and schedulers that come late, die, stop, or are none."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import start
from schedulers import Scheduler, free_port, running_scheduler

import run
from age_gender import paths, table_writing
from age_gender.errors import InputError
from age_gender.processes import dask_cluster, parallel
from age_gender.readers import chunks, tables


@pytest.fixture
def scheduler(tmp_path_factory) -> Iterator[Scheduler]:
    with running_scheduler(tmp_path_factory.mktemp("workers")) as scheduler:
        yield scheduler


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


def test_run_on_a_cluster_writes_the_same_bytes_though_a_worker_is_killed(
    scheduler, faces, tmp_path, monkeypatch
):
    names, features = faces
    table, bare = tmp_path / "a.csv", tmp_path / "b.npy"
    table_writing.write(table, [f'{name} "{i}"' for i, name in enumerate(names)], [features])
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
    add, added = run.PredictionWriter.add, []

    def add_and_kill(writer: run.PredictionWriter, block: chunks.Batch) -> None:
        added.append(block)
        if len(added) == 3:
            scheduler.workers[0].kill()
        add(writer, block)

    monkeypatch.setattr(run.PredictionWriter, "add", add_and_kill)
    run.main([*inputs, str(tmp_path / "there.csv"), "--dask", scheduler.address])

    assert len(added) > 10
    assert [worker.poll() is None for worker in scheduler.workers] == [False, True]
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


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


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 99, bytes(5000), b"\xff" * 5000]
)
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
    process = start(
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


@pytest.mark.parametrize("seconds", [1.2, 2.8])
def test_ctrl_c_is_not_lost_while_a_local_cluster_starts(tmp_path, seconds):
    process = start(
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
