"""Run a function on a Dask cluster; every call to the cluster has a deadline.

The function travels with its data and with this package as a zip: workers need the requirements
installed and nothing else.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import logging
import os
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from age_gender import interrupts
from age_gender.cli import InputError, environment, error_line, require

PACKAGE = Path(__file__).resolve().parent
CONNECT_SECONDS = 10  # for a scheduler to answer, and for it to have a worker
SEND_SECONDS = 30  # for the package and the function to be loaded by all workers
SEND_RATE = 1e6  # bytes a second, which they travel at least
ANSWER_SECONDS = 10  # for a scheduler that answered before
FETCH_ATTEMPTS = 6  # of ANSWER_SECONDS, to get from a worker what it has done
CLOSE_SECONDS = 2  # for a cluster to take notice of the end
END_SECONDS = 20  # for the processes of one that was started here to end
WIDTH_SECONDS = 2  # between two questions how many workers there are
_SILENT = (
    "%s: this Dask scheduler, or one of its workers, no longer answers; restart it, then run the "
    "same command again"
)


@contextlib.contextmanager
def connect(function: Callable, given: str) -> Iterator[tuple[Callable, Callable[[], int]]]:
    """Connect to a scheduler's address, or to a cluster that is started here for "local".

    Yields a function that submits an item to `function` there, and one that counts the threads.
    Raises InputError for a cluster that does not answer.
    """
    require("--dask needs", distributed="dask[distributed]")
    import cloudpickle
    import distributed

    with contextlib.ExitStack() as stack:
        # The threads that watch over workers would log over the progress bar.
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        client, address = _connect(stack, given)
        name, apply = _send(client, function, address)
        stack.callback(_close, client.unregister_worker_plugin, name)

        @functools.lru_cache(1)
        def count_threads(moment: float) -> int:  # workers join later, too
            return max(1, sum(_ask(address, client.nthreads).values()))

        def submit(item: Any) -> _Result:
            data = cloudpickle.dumps(item)
            return _Result(client, address, client.submit(apply, name, data, pure=False))

        try:
            yield submit, lambda: count_threads(time.monotonic() // WIDTH_SECONDS)
        except CancelledError:
            raise InputError(
                f"{given}: lost the connection to this Dask scheduler; run the same command again"
            ) from None
        except distributed.KilledWorker as error:
            raise InputError(
                f"{address}: {error.allowed_failures + 1} workers died over the same chunk; "
                "check their logs; give them more memory if it ran out"
            ) from None


class _Result:
    """A future whose `result` raises InputError when the scheduler stops answering."""

    def __init__(self, client: Any, address: str, future: Any) -> None:
        self.client, self.address, self.future = client, address, future

    def done(self) -> bool:
        return self.future.done()

    def result(self) -> Any:
        for unanswered in itertools.count():
            try:
                return self.future.result(ANSWER_SECONDS)
            except TimeoutError:
                if self.future.status == "error":  # what the function raised
                    raise
                if self.future.done() and unanswered >= FETCH_ATTEMPTS:
                    raise InputError(_SILENT % self.address) from None
            _ask(self.address, self.client.nthreads)


def _within(seconds: float, ask: Callable, *arguments: Any) -> Any:
    """Return what `ask` returns. Raises TimeoutError and leaves it to a thread if it takes longer.

    Dask's own time limits do not cover a peer that accepts a connection and falls silent.
    """
    answer: Future = Future()

    def run() -> None:
        try:
            answer.set_result(ask(*arguments))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)


def _ask(address: str, ask: Callable, *arguments: Any, seconds: float = ANSWER_SECONDS) -> Any:
    """Return what a scheduler answers. Raises InputError where it no longer does."""
    try:
        return _within(seconds, ask, *arguments)
    except (OSError, CancelledError):  # TimeoutError is an OSError
        raise InputError(_SILENT % address) from None


def _close(end: Callable, *arguments: Any, seconds: float = CLOSE_SECONDS) -> None:
    with contextlib.suppress(Exception):  # the cluster may be gone, or a worker on its way up
        _within(seconds, end, *arguments)


def _connect(stack: contextlib.ExitStack, address: str) -> tuple[Any, str]:
    """Return a client, and the address of its scheduler; for "local" one is started here."""
    from multiprocessing import resource_tracker

    import distributed

    # A cluster on this machine
    if address == "local":
        # Python's tracker of semaphores unblocks Ctrl-C when it starts, and is loud after one.
        with environment(PYTHONWARNINGS="ignore"):
            resource_tracker.ensure_running()
        with interrupts.blocked_in_children():
            cluster = distributed.LocalCluster(
                silence_logs=logging.CRITICAL, dashboard_address=":0",
                scheduler_kwargs={"dashboard": 0},
                env={"DASK_LOGGING__DISTRIBUTED": "critical"},
            )  # fmt: skip
        stack.callback(_close, cluster.close, seconds=END_SECONDS)
        address = cluster.scheduler_address

    # The client
    open_client = functools.partial(distributed.Client, address, timeout=CONNECT_SECONDS)
    try:
        client = _within(CONNECT_SECONDS + 1, open_client)
    except Exception as error:  # an address that is none, or whatever another server's bytes cause
        reason = "something else does" if isinstance(error, MemoryError) else error_line(error)
        reason = reason or f"within {CONNECT_SECONDS} seconds"
        raise InputError(
            f"{address}: no Dask scheduler answers ({reason}); start one with "
            "`dask scheduler` and give its address, such as tcp://HOST:8786"
        ) from None
    stack.callback(_close, client.close)

    # A worker
    try:
        _within(CONNECT_SECONDS + 1, client.wait_for_workers, 1, CONNECT_SECONDS)
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

    # The package as a zip, named by its content.
    sources = sorted(PACKAGE.rglob("*.py"))
    version = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    package = f"age_gender-{version}-{client.id}.zip"
    zipped, pickled = io.BytesIO(), cloudpickle.dumps(function)
    with zipfile.ZipFile(zipped, "w", strict_timestamps=False) as archive:
        for path in sources:
            archive.write(path, path.relative_to(PACKAGE.parent))
    code = zipped.getvalue()

    # What runs there.
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

    # One version at a time: modules of two would be mixed.
    for run, alive in _ask(address, client.run_on_scheduler, runs).items():
        if not alive:  # killed
            _ask(address, client.unregister_worker_plugin, run)
        elif version not in run:
            raise InputError(
                f"{address}: another version of these scripts is at work on this cluster; wait "
                "until it is done, or take another cluster"
            )
    register = functools.partial(client.register_plugin, Carrier(), name=package)
    _ask(address, register, seconds=SEND_SECONDS + len(pickled) / SEND_RATE)
    return package, apply
