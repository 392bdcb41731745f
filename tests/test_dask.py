"""Work on a Dask cluster: the same results as here, by the version of the package that is run."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from schedulers import Scheduler, running_scheduler

from age_gender import table_writing
from age_gender.errors import InputError
from age_gender.processes import dask_cluster, parallel
from age_gender.readers import chunks, tables


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory) -> Iterator[Scheduler]:
    with running_scheduler(tmp_path_factory.mktemp("workers")) as scheduler:
        yield scheduler


def test_workers_without_the_project_parse_embeddings(scheduler, tmp_path):
    features = np.random.default_rng(0).normal(size=(3000, 512)).astype(np.float32)
    path = tmp_path / "features.npz"
    table_writing.write(path, [f"face {i}" for i in range(3000)], [features])

    def parse(chunk: chunks.Chunk) -> chunks.Batch:
        assert re.search(r"age_gender-.*\.zip/age_gender/readers", chunks.__file__), (
            "the worker's own"
        )
        return tables.parse(chunk)

    blocks = list(
        parallel.map_in_order(parse, tables.read_chunks([str(path)]), dask=scheduler.address)
    )

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
    assert len(processes) <= 2, "a worker started again"
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
        "import sys, time\nfrom age_gender.processes import parallel\n"
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


def test_local_starts_a_cluster_and_leaves_nothing_behind():
    processes = set(parallel.map_in_order(lambda _: os.getpid(), range(8), dask="local"))

    assert os.getpid() not in processes
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{process}/cmdline").exists() for process in processes):
        assert time.monotonic() < deadline, "a worker outlived the run"
        time.sleep(0.05)
