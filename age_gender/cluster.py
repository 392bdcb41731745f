"""A function over blocks of input, in order: on the threads of this process or a Dask cluster.

`map_in_order` is what run.py and embed.py share: at most a few blocks are under way at a
time, so memory stays bounded whatever the input's length, and results come in input order.
On a cluster the function travels to the workers with its data and with the code of this
project's modules, by value: workers need the requirements installed and nothing else.
"""

import contextlib
import importlib.util
import logging
import os
import pickle
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from age_gender.model_files import ROOT
from age_gender.script import InputError, error_line

Item, Result = TypeVar("Item"), TypeVar("Result")
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
                full = len(waiting) > (4 if bursts else 2) * width()
                if full and bursts:
                    waiting[2 * width()].exception()  # waits for it, raises nothing
                if full:
                    yield waiting.popleft().result()
                while waiting and waiting[0].done():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except CancelledError:
            raise InputError(
                f"{dask}: lost the connection to this Dask scheduler; start the same command again"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


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
    import dask
    import distributed

    # Worker processes, and the threads that watch over them, would log over the progress bar.
    dask.config.set({"logging": {"distributed": "critical", "distributed.client": "critical"}})
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with contextlib.ExitStack() as stack:
        if address == "local":
            address = stack.enter_context(_local_cluster()).scheduler_address
        client = stack.enter_context(_client(address))
        for module in filter(_is_ours, list(sys.modules.values())):
            cloudpickle.register_pickle_by_value(module)
            stack.callback(cloudpickle.unregister_pickle_by_value, module)
        dumps, carrier, apply = _for_workers(function)
        name = f"age-gender-{secrets.token_hex(8)}"
        client.register_plugin(carrier, name=name)
        stack.callback(_quietly, client.unregister_worker_plugin, name)
        executor = client.get_executor(pure=False)
        stack.callback(_quietly, executor.shutdown, wait=False)

        def submit(item: Item) -> _Unpickled:
            return _Unpickled(executor.submit(apply, name, dumps(item)))

        found, asked = sum(client.nthreads().values()), time.monotonic()

        def width() -> int:  # workers join later, too
            nonlocal found, asked
            if time.monotonic() > asked + WIDTH_SECONDS:
                found, asked = sum(client.nthreads().values()), time.monotonic()
            return max(1, found)

        try:
            yield submit, width
        except distributed.KilledWorker as error:
            raise InputError(
                f"{address}: {error.allowed_failures + 1} workers died over the same block; "
                "look at their logs, and give them more memory if that was short"
            ) from None


class _Unpickled:
    """A future whose result or exception was pickled by the worker."""

    def __init__(self, future: Future) -> None:
        self.done, self.cancel, self.exception = future.done, future.cancel, future.exception
        self.future = future

    def result(self) -> Any:
        result, error = pickle.loads(self.future.result())
        if error is not None:
            raise error
        return result


def _quietly(function: Callable, *arguments: Any, **options: Any) -> None:
    """Call what cleans up a cluster that may be gone."""
    with contextlib.suppress(Exception):
        function(*arguments, **options)


@contextlib.contextmanager
def _local_cluster() -> Iterator[Any]:
    """Worker processes on this machine that leave a Ctrl-C in the terminal to this process."""
    import distributed

    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main_thread else None
    try:  # processes inherit what is ignored
        started = distributed.LocalCluster(silence_logs=logging.CRITICAL, dashboard_address=None)
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, before)
    with started:
        yield started


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    import distributed

    remedy = "start one with `dask scheduler` and give its address, such as tcp://HOST:8786"
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError) as error:
        reason = error_line(error)
        raise InputError(f"{address}: no Dask scheduler answers ({reason}); {remedy}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise InputError(
                f"{address}: this Dask scheduler has no worker; start some with "
                f"`dask worker {address}`"
            ) from None
        yield client


def _is_ours(module: Any) -> bool:
    """Whether a module lies beside this one: no worker has it installed."""
    path = getattr(module, "__file__", None)
    if not path or module.__name__ == "__main__":
        return False
    return Path(path).resolve().parent == ROOT  # the scripts' folder may be a link


def _for_workers(function: Callable) -> tuple[Callable, Any, Callable]:
    """How to pickle, what holds the pickled function on every worker, and what applies it there.

    As a plugin of the workers, the function, which may hold 90 MB of weights, travels once to
    each, also to one that joins later. All of this is local to here, as Dask would otherwise
    pickle it by the name of a module that workers do not have.
    """
    import cloudpickle
    import distributed

    def dumps(value: Any) -> bytes:
        import io
        import threading

        class Pickler(cloudpickle.Pickler):  # without type hints: their names would not travel
            def reducer_override(self, value):
                if isinstance(value, type(threading.Lock())):  # a module's: one a process
                    return threading.Lock, ()
                return super().reducer_override(value)

        stream = io.BytesIO()
        Pickler(stream).dump(value)
        return stream.getvalue()

    class Carrier(distributed.WorkerPlugin):
        pickled = b""

        def setup(self, worker: Any) -> None:
            import os
            import threading

            # TensorFlow would take all processors for each of several workers on a machine.
            os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(worker.state.nthreads))
            self.lock, self.function = threading.Lock(), None

    def apply(name: str, item: bytes) -> bytes:
        carrier = distributed.get_worker().plugins[name]
        try:
            with carrier.lock:
                if carrier.function is None:
                    carrier.function = cloudpickle.loads(carrier.pickled)
            return dumps((carrier.function(cloudpickle.loads(item)), None))
        except Exception as error:
            return dumps((None, error))

    carrier = Carrier()
    carrier.pickled = dumps(function)
    return dumps, carrier, apply
