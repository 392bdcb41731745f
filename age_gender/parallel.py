"""A function over blocks of input, in order: on threads or processes here, or a Dask cluster.

At most a few blocks are under way at a time, so that memory stays bounded whatever the input's
length. To a cluster the function travels with its data and with this package as a zip: workers
need the requirements installed and nothing else.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import logging
import mmap
import os
import pickle
import signal
import sys
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from age_gender.cli import InputError, error_line, require

PACKAGE = Path(__file__).resolve().parent
CONNECT_SECONDS = 10  # for a scheduler to answer, and for it to have a worker
FEW_ITEMS = 16  # done here, while a process gets ready
SHARED_BYTES = 128 << 20  # of addresses: memory is what an item needs
WIDTH_SECONDS = 2  # between two questions how many workers there are


def processors() -> int:
    """How many processors this process may use."""
    with contextlib.suppress(AttributeError):  # macOS and Windows do not tell
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable, items: Iterable, dask: str | None = None,
    bursts: bool = False, processes: bool = False,
) -> Iterator:  # fmt: skip
    """Yield `function(item)` for each item, in order; it may be called from several threads.

    `dask` is None for threads here, one a processor, "local" for a Dask cluster of worker
    processes on this machine, or the address of a scheduler. At most two items a thread are
    read ahead of the result that is waited for; with `bursts` four, and half of them are waited
    for at once, so that the calling thread seldom takes a processor, and its cache, from the
    others. With `processes` each thread has one that does its items, all but the first few: for
    a function that keeps Python's lock. Raises what `function` raises, and InputError for a
    cluster that does not answer.
    """
    if processes and dask is None and processors() > 1 and hasattr(os, "fork"):
        function = _in_processes(function)
    connection = _threads(function) if dask is None else _dask(function, dask)
    with connection as (submit, width):  # width: how many threads work, which may change
        waiting: deque = deque()
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


@contextlib.contextmanager
def _threads(function: Callable) -> Iterator[tuple[Callable, Callable]]:
    pool = ThreadPoolExecutor(processors())
    try:
        yield functools.partial(pool.submit, function), processors
    finally:  # without waiting: after Ctrl-C or an error nobody wants the blocks under way
        pool.shutdown(wait=False, cancel_futures=True)


def _in_processes(function: Callable) -> Callable:
    """`function`, done by one of as many processes as there are threads that may call it at once.

    They are forked here, before any thread that works, and end with this process: of the pipe to
    each the other end is closed then. What goes through it lies in memory that both share.
    """
    import multiprocessing

    fork, idle, calls = multiprocessing.get_context("fork"), deque(), itertools.count()
    for _ in range(processors()):
        here, there = fork.Pipe()
        memory = mmap.mmap(-1, SHARED_BYTES)
        fork.Process(target=_serve, args=(function, here, there, memory), daemon=True).start()
        there.close()
        idle.append((here, memory))

    def apply(item: Any) -> Any:
        if next(calls) < FEW_ITEMS:
            return function(item)
        pipe, memory = idle.pop()
        memory.seek(0)
        pickle.dump(item, memory)
        try:
            pipe.send_bytes(b"item")
            pipe.recv_bytes()
        except (EOFError, OSError):
            raise ChildProcessError(
                "a process that worked on the input was killed, perhaps for want of memory; start "
                "the same command again"
            ) from None
        memory.seek(0)
        result = pickle.load(memory)
        idle.append((pipe, memory))
        if isinstance(result, Exception):
            raise result
        return result

    return apply


def _serve(function: Callable, other_end: Any, pipe: Any, memory: mmap.mmap) -> None:
    """Do `function` of what lies in the memory, as often as the pipe says so."""
    other_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that forked
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(EOFError, OSError):
        while pipe.recv_bytes():
            memory.seek(0)
            try:
                result = function(pickle.load(memory))
            except Exception as error:
                result = error
            memory.seek(0)
            pickle.dump(result, memory)
            pipe.send_bytes(b"result")


@contextlib.contextmanager
def _dask(function: Callable, given: str) -> Iterator[tuple[Callable, Callable]]:
    require("--dask needs", distributed="dask[distributed]")
    import cloudpickle
    import distributed

    # Worker processes, and the threads that watch over them, would log over the progress bar.
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"
    logging.disable(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        client, address = _connect(stack, given)
        name, apply = _send(client, function, address)
        stack.callback(_try, client.unregister_worker_plugin, name)

        @functools.lru_cache(1)
        def width(moment: float) -> int:  # workers join later, too
            return max(1, sum(client.nthreads().values()))

        try:
            yield (
                lambda item: client.submit(apply, name, cloudpickle.dumps(item), pure=False),
                lambda: width(time.monotonic() // WIDTH_SECONDS),
            )
        except CancelledError:
            raise InputError(
                f"{given}: lost the connection to this Dask scheduler; start the same command again"
            ) from None
        except distributed.KilledWorker as error:
            raise InputError(
                f"{address}: {error.allowed_failures + 1} workers died over the same block; "
                "look at their logs, and give them more memory if that was short"
            ) from None


def _try(end: Callable, *arguments: Any) -> None:
    with contextlib.suppress(Exception):  # the cluster may be gone, or a worker on its way up
        end(*arguments)


def _connect(stack: contextlib.ExitStack, address: str) -> tuple[Any, str]:
    """A client, and the address of its scheduler; for "local" one is started here."""
    import distributed

    if address == "local":  # its workers inherit to leave a Ctrl-C in the terminal to this process
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        cluster = distributed.LocalCluster(
            silence_logs=logging.CRITICAL, dashboard_address=":0", scheduler_kwargs={"dashboard": 0}
        )
        signal.signal(signal.SIGINT, before)
        stack.callback(_try, cluster.close)
        address = cluster.scheduler_address
    try:
        client = stack.enter_context(distributed.Client(address, timeout=CONNECT_SECONDS))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{address}: no Dask scheduler answers ({error_line(error)}); start one with "
            "`dask scheduler` and give its address, such as tcp://HOST:8786"
        ) from None
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError:
        raise InputError(
            f"{address}: this Dask scheduler has no worker; start some with `dask worker {address}`"
        ) from None
    return client, address


def _send(client: Any, function: Callable, address: str) -> tuple[str, Callable]:
    """Put this package and `function` on all workers, also later ones.

    Returns the name of the plugin that holds them there, and what a worker calls with it and
    a pickled item. Raises InputError while a run of another version is under way. What is
    defined in here travels by value: no scheduler or worker has the package when it comes.
    """
    import cloudpickle
    import distributed

    sources = sorted(PACKAGE.rglob("*.py"))
    version = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    package = f"age_gender-{version}-{client.id}.zip"
    zipped, pickled = io.BytesIO(), cloudpickle.dumps(function)
    with zipfile.ZipFile(zipped, "w", strict_timestamps=False) as archive:
        for path in sources:
            archive.write(path, path.relative_to(PACKAGE.parent))
    code = zipped.getvalue()

    class Carrier(distributed.WorkerPlugin):
        async def setup(self, worker: Any) -> None:
            # TensorFlow would take all processors for each of several workers on a machine.
            os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(worker.state.nthreads))
            await worker.upload_file(filename=package, data=code, load=False)
            loaded = getattr(sys.modules.get("age_gender"), "__file__", None)
            if version not in str(loaded):  # reloading the package would leave its modules old
                for name in [name for name in sys.modules if name.split(".")[0] == "age_gender"]:
                    del sys.modules[name]
                sys.path.insert(0, os.path.join(worker.local_directory, package))
            self.function = cloudpickle.loads(pickled)

    def apply(name: str, item: bytes) -> Any:
        return distributed.get_worker().plugins[name].function(cloudpickle.loads(item))

    def runs(dask_scheduler: Any) -> dict[str, bool]:  # and whether the client is still there
        names = [name for name in dask_scheduler.worker_plugins if name.startswith("age_gender-")]
        return {name: name[:-4].split("-", 2)[2] in dask_scheduler.clients for name in names}

    for run, alive in client.run_on_scheduler(runs).items():
        if not alive:  # killed
            client.unregister_worker_plugin(run)
        elif version not in run:
            raise InputError(
                f"{address}: another version of these scripts is at work on this cluster; wait "
                "until it is done, or take another cluster"
            )
    client.register_plugin(Carrier(), name=package)
    return package, apply
