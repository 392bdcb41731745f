"""Run a function on a Dask cluster; every call to the cluster has a deadline.

The function, its data and this package (as a zip) are sent to the workers, which need only the
requirements installed.
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

from age_gender.cli import counted, require
from age_gender.errors import InputError, error_line
from age_gender.processes import interrupts
from age_gender.processes.library_output import environment

PACKAGE = Path(__file__).resolve().parent.parent
# Deadlines
CONNECT_SECONDS = 10  # until a scheduler answers, and until it has a worker
SEND_SECONDS = 30  # until all workers have loaded the package and the function
SEND_RATE = 1e6  # bytes per second, the lowest expected
ANSWER_SECONDS = 10  # until a connected scheduler answers
FETCH_ATTEMPTS = 6  # attempts of ANSWER_SECONDS each to get a finished result
CLOSE_SECONDS = 2  # until a cluster knows that the client closes
END_SECONDS = 20  # until the processes of a local cluster have ended
COUNT_SECONDS = 2  # interval at which the workers are counted
_NO_ANSWER = (
    "%s: this Dask scheduler, or one of its workers, no longer answers; restart it, then run the "
    "same command again"
)


@contextlib.contextmanager
def connect(function: Callable, address: str) -> Iterator[tuple[Callable, Callable[[], int]]]:
    """Connect to a scheduler's address, or to a cluster that is started here for "local".

    Yields a function that submits an item to `function` there, and one that counts the threads.
    Raises InputError for a cluster that does not answer.
    """
    require("--dask needs", distributed="dask[distributed]")
    import cloudpickle
    import distributed

    with contextlib.ExitStack() as stack:
        # Connect and send the function, without logs, which would break the progress bar
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        client, scheduler = _connect(stack, address)
        name, apply = _send(client, function, scheduler)
        stack.callback(_close_with_deadline, client.unregister_worker_plugin, name)

        @functools.lru_cache(1)
        def count_threads(moment: float) -> int:  # cached by the moment, as workers may join later
            return max(1, sum(_ask_scheduler(scheduler, client.nthreads).values()))

        def submit(item: Any) -> _Result:
            data = cloudpickle.dumps(item)
            return _Result(client, scheduler, client.submit(apply, name, data, pure=False))

        # Submit items, and say why a connection ends
        try:
            yield submit, lambda: count_threads(time.monotonic() // COUNT_SECONDS)
        except CancelledError:
            raise InputError(
                f"{address}: lost the connection to this Dask scheduler; run the same command again"
            ) from None
        except distributed.KilledWorker as error:
            raise InputError(
                f"{scheduler}: {counted(error.allowed_failures + 1, 'worker')} died over the same "
                "chunk; check their logs; give them more memory if it ran out"
            ) from None


class _Result:
    """Wait for a future; `result` raises InputError when the scheduler stops answering."""

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
                    raise InputError(_NO_ANSWER % self.address) from None
            _ask_scheduler(self.address, self.client.nthreads)


def _call_with_deadline(seconds: float, function: Callable, *arguments: Any) -> Any:
    """Return the result of a call. Raises TimeoutError if it takes longer, and does not stop it.

    Dask's own time limits do not cover a peer that accepts a connection and then sends nothing.
    """
    answer: Future = Future()

    def call() -> None:
        try:
            answer.set_result(function(*arguments))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return answer.result(seconds)


def _ask_scheduler(
    address: str, question: Callable, *arguments: Any, seconds: float = ANSWER_SECONDS
) -> Any:
    """Return the result of a call to the scheduler. Raises InputError if none comes in time."""
    try:
        return _call_with_deadline(seconds, question, *arguments)
    except (OSError, CancelledError):  # TimeoutError is an OSError
        raise InputError(_NO_ANSWER % address) from None


def _close_with_deadline(close: Callable, *arguments: Any, seconds: float = CLOSE_SECONDS) -> None:
    """Call `close`, and ignore that it fails or takes longer."""
    with contextlib.suppress(Exception):  # the cluster may be gone, or a worker still starting
        _call_with_deadline(seconds, close, *arguments)


def _connect(stack: contextlib.ExitStack, address: str) -> tuple[Any, str]:
    """Return a client and the address of its scheduler, started here for "local"."""
    from multiprocessing import resource_tracker

    import distributed

    if address == "local":
        # Start Python's tracker of semaphores first, as its start unblocks Ctrl-C; without warnings
        with environment(PYTHONWARNINGS="ignore"):
            resource_tracker.ensure_running()
        try:
            with interrupts.blocked_in_children():
                cluster = distributed.LocalCluster(
                    silence_logs=logging.CRITICAL,
                    dashboard_address=":0",
                    scheduler_kwargs={"dashboard": 0},
                    env={"DASK_LOGGING__DISTRIBUTED": "critical"},
                )
        except (OSError, RuntimeError) as error:  # where there are no semaphores, for example
            raise InputError(
                f"no Dask worker can be started here ({error_line(error)}); leave out --dask"
            ) from None
        stack.callback(_close_with_deadline, cluster.close, seconds=END_SECONDS)
        address = cluster.scheduler_address

    open_client = functools.partial(distributed.Client, address, timeout=CONNECT_SECONDS)
    try:
        client = _call_with_deadline(CONNECT_SECONDS + 1, open_client)
    except Exception as error:  # a wrong address, or any error from another server's bytes
        reason = "something else does" if isinstance(error, MemoryError) else error_line(error)
        reason = reason or f"within {CONNECT_SECONDS} seconds"
        raise InputError(
            f"{address}: no Dask scheduler answers ({reason}); start one with "
            "`dask scheduler` and give its address, such as tcp://HOST:8786"
        ) from None
    stack.callback(_close_with_deadline, client.close)

    try:
        _call_with_deadline(CONNECT_SECONDS + 1, client.wait_for_workers, 1, CONNECT_SECONDS)
    except TimeoutError:
        raise InputError(
            f"{address}: this Dask scheduler has no worker; start some with `dask worker {address}`"
        ) from None
    return client, address


def _zip_package() -> tuple[str, bytes]:
    """Return a hash of this package's sources, and the sources as a zip."""
    sources = sorted(PACKAGE.rglob("*.py"))
    version = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", strict_timestamps=False) as archive:
        for path in sources:
            archive.write(path, path.relative_to(PACKAGE.parent))
    return version, zipped.getvalue()


def _send(client: Any, function: Callable, address: str) -> tuple[str, Callable]:
    """Send this package and `function` to all workers, also those that join later.

    Returns the name of their plugin there, and the function that a worker calls with this name and
    a pickled item. Raises InputError while a run of another version is under way.
    """
    import cloudpickle
    import distributed

    def apply(name: str, item: bytes) -> Any:  # sent by value, as the plugin is
        return distributed.get_worker().plugins[name].function(cloudpickle.loads(item))

    version, code = _zip_package()
    _check_versions(client, address, version)
    name, pickled = f"age_gender-{version}-{client.id}.zip", cloudpickle.dumps(function)
    plugin = _make_plugin(name, version, code, pickled)
    register = functools.partial(client.register_plugin, plugin, name=name)
    _ask_scheduler(address, register, seconds=SEND_SECONDS + len(pickled) / SEND_RATE)
    return name, apply


def _make_plugin(name: str, version: str, code: bytes, function: bytes) -> Any:
    """Return a plugin that loads this package and the pickled function on a worker.

    cloudpickle sends a nested class by value: workers and schedulers may lack this package.
    """
    import cloudpickle
    import distributed

    class FunctionPlugin(distributed.WorkerPlugin):
        async def setup(self, worker: Any) -> None:
            # TensorFlow would take all processors for each of several workers on a machine
            os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(worker.state.nthreads))
            await worker.upload_file(filename=name, data=code, load=False)
            loaded = getattr(sys.modules.get("age_gender"), "__file__", None)
            if version not in str(loaded):  # reloading the package would keep its old modules
                for module in [*sys.modules]:
                    if module.split(".")[0] == "age_gender":
                        del sys.modules[module]
                sys.path.insert(0, os.path.join(worker.local_directory, name))
            self.function = cloudpickle.loads(function)

    return FunctionPlugin()


def _check_versions(client: Any, address: str, version: str) -> None:
    """Raise InputError while another version is at work, since modules of both would be mixed.

    The plugins of runs that were killed are removed.
    """

    def list_runs(dask_scheduler: Any) -> list[tuple[str, str, bool]]:
        """Return each run's plugin, its version, and whether its client is still connected."""
        names = [name for name in dask_scheduler.worker_plugins if name.startswith("age_gender-")]
        parsed = [(name, *name.removesuffix(".zip").split("-", 2)[1:]) for name in names]
        return [(name, run, client in dask_scheduler.clients) for name, run, client in parsed]

    runs = _ask_scheduler(address, client.run_on_scheduler, list_runs)
    for name, run_version, is_connected in runs:
        if not is_connected:
            _ask_scheduler(address, client.unregister_worker_plugin, name)
        elif run_version != version:
            raise InputError(
                f"{address}: another version of these scripts is at work on this cluster; wait "
                "until it is done, or use another cluster"
            )
