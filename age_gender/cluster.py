"""A function over blocks of input, in order: on the threads of this process or a Dask cluster.

`map_in_order` is what run.py and embed.py share: at most a few blocks are under way at a
time, so memory stays bounded whatever the input's length, and results come in input order.
On a cluster the function travels to the workers with its data and with this package as a zip:
workers need the requirements installed and nothing else.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import signal
import sys
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from age_gender.script import InputError, error_line

Item, Result = TypeVar("Item"), TypeVar("Result")
PACKAGE = Path(__file__).resolve().parent
CONNECT_SECONDS = 10  # for a scheduler to answer, and for it to have a worker
WIDTH_SECONDS = 2  # between two questions how many workers there are


def processors() -> int:
    """How many processors this process may use."""
    with contextlib.suppress(AttributeError):  # macOS and Windows do not tell
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    dask: str | None = None,
    threads: int | None = None,
    bursts: bool = False,
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, several at a time.

    `dask` is None for threads here (one a processor, or `threads`), "local" for a Dask cluster
    of worker processes on this machine, or the address of a scheduler. At most two items a
    thread are read ahead of the result that is waited for; with `bursts` four, and half of them
    are waited for at once, so that the calling thread seldom takes a processor, and its cache,
    from the others. `function` must be safe to call from several threads at once; what it loads
    lazily, it loads once a process.

    A Dask worker that dies costs the blocks it was working on: they are done again elsewhere.
    What `function` raises is raised here. Raises InputError for a cluster that does not answer.
    """
    connection = _threads(function, threads) if dask is None else _dask(function, dask)
    with connection as (submit, width):  # width: how many threads work, which may change
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(submit(item))
                ahead = 2 * width()
                if len(waiting) > (2 * ahead if bursts else ahead):
                    if bursts:
                        waiting[ahead].exception()  # waits for it, raises nothing
                    yield waiting.popleft().result()
                while waiting and waiting[0].done():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except CancelledError:
            raise InputError(
                f"{dask}: lost the connection to this Dask scheduler; start the same command again"
            ) from None


# ------------------------------------------------------------------------- where it runs


@contextlib.contextmanager
def _threads(function: Callable, threads: int | None) -> Iterator[tuple[Callable, Callable]]:
    width = threads or processors()
    pool = ThreadPoolExecutor(width)
    try:
        yield (lambda item: pool.submit(function, item)), lambda: width
    finally:  # without waiting: after Ctrl-C or an error nobody wants the blocks under way
        pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _dask(function: Callable, address: str) -> Iterator[tuple[Callable, Callable]]:
    if importlib.util.find_spec("distributed") is None:
        raise InputError("--dask needs dask[distributed]: pip install -r requirements-extra.txt")
    import cloudpickle
    import distributed

    # Worker processes, and the threads that watch over them, would log over the progress bar.
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"
    logging.disable(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        if address == "local":
            address = stack.enter_context(_local_cluster()).scheduler_address
        client = stack.enter_context(_client(address))
        name, apply = _send(client, function, address)
        executor = client.get_executor(pure=False)
        found, asked = sum(client.nthreads().values()), time.monotonic()

        def width() -> int:  # workers join later, too
            nonlocal found, asked
            if time.monotonic() > asked + WIDTH_SECONDS:
                found, asked = sum(client.nthreads().values()), time.monotonic()
            return max(1, found)

        try:
            yield (lambda item: executor.submit(apply, name, cloudpickle.dumps(item))), width
        except distributed.KilledWorker as error:
            raise InputError(
                f"{address}: {error.allowed_failures + 1} workers died over the same block; "
                "look at their logs, and give them more memory if that was short"
            ) from None
        finally:
            with contextlib.suppress(Exception):  # the cluster may be gone
                client.unregister_worker_plugin(name)


@contextlib.contextmanager
def _local_cluster() -> Iterator[Any]:
    """Worker processes on this machine that leave a Ctrl-C in the terminal to this process."""
    import distributed

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which processes inherit
    try:
        started = distributed.LocalCluster(
            silence_logs=logging.CRITICAL, dashboard_address=":0", scheduler_kwargs={"dashboard": 0}
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield started
    finally:
        with contextlib.suppress(Exception):  # a worker may be on its way up again
            started.close()


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    import distributed

    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{address}: no Dask scheduler answers ({error_line(error)}); start one with "
            "`dask scheduler` and give its address, such as tcp://HOST:8786"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise InputError(
                f"{address}: this Dask scheduler has no worker; start some with "
                f"`dask worker {address}`"
            ) from None
        yield client


def _send(client: Any, function: Callable, address: str) -> tuple[str, Callable]:
    """Put this package and `function` on all workers, also on those that join later.

    Returns the name of the plugin that holds them there, and what a worker calls with it and
    a pickled item. A worker changes to this version of the package. Raises InputError while a
    run of another version is under way. What is defined in here travels by value: neither the
    scheduler nor a worker has the package when it comes.
    """
    import cloudpickle
    import distributed

    class Carrier(distributed.UploadFile):
        async def setup(self, worker: Any) -> None:
            # TensorFlow would take all processors for each of several workers on a machine.
            os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(worker.state.nthreads))
            await super().setup(worker)
            loaded = getattr(sys.modules.get("age_gender"), "__file__", None)
            if version not in str(loaded):  # reloading the package would leave its modules old
                for name in [name for name in sys.modules if name.split(".")[0] == "age_gender"]:
                    del sys.modules[name]
                others = [path for path in sys.path if not Path(path).match("age_gender-*.zip")]
                sys.path[:] = [os.path.join(worker.local_directory, self.filename), *others]
            self.function = cloudpickle.loads(self.pickled)

    def apply(name: str, item: bytes) -> Any:
        return distributed.get_worker().plugins[name].function(cloudpickle.loads(item))

    def runs(dask_scheduler: Any) -> dict[str, bool]:  # and whether the client is still there
        names = [name for name in dask_scheduler.worker_plugins if name.startswith("age_gender-")]
        return {name: name[:-4].split("-", 2)[2] in dask_scheduler.clients for name in names}

    sources = sorted(PACKAGE.rglob("*.py"))
    version = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, f"age_gender-{version}-{client.id}.zip")
        with zipfile.ZipFile(package, "w", strict_timestamps=False) as archive:
            for path in sources:
                archive.write(path, path.relative_to(PACKAGE.parent))
        carrier = Carrier(package, load=False)
    carrier.pickled = cloudpickle.dumps(function)
    for run, alive in client.run_on_scheduler(runs).items():
        if not alive:  # killed
            client.unregister_worker_plugin(run)
        elif version not in run:
            raise InputError(
                f"{address}: another version of these scripts is at work on this cluster; wait "
                "until it is done, or take another cluster"
            )
    client.register_plugin(carrier, name=package.name)
    return package.name, apply
