"""Map a function over input items in order, on threads, processes or a Dask cluster.

Only a few items are processed at a time, so that memory stays bounded whatever the input's length.
Long text is parsed by processes, since parsing holds the GIL (`tables.is_long_text`): each process
opens the file and reads the bytes of its chunk itself (`Chunk.without_data`, `with_data`).
"""

import contextlib
import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from age_gender.processes import interrupts
from age_gender.processes.memory_limit import address_space_limit

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

THREADS_MB = 600  # address space of a scorer's threads; two need 380 MB

# A function that submits an item and returns its future, and one that counts the workers.
Workers = tuple[Callable, Callable[[], int]]


def count_processors() -> int:
    """Return how many processors this process may use."""
    with contextlib.suppress(AttributeError):  # macOS and Windows do not say
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable, items: Iterable, dask: str | None = None, processes: bool = False
) -> Iterator:
    """Yield `function(item)` for each item, in order; it may be called from several threads.

    `dask` is None for one thread per processor, "local" for a Dask cluster of worker processes on
    this machine, or the address of a scheduler. With `processes`, processes replace the threads:
    for a function that holds the GIL, and items and results that are small when pickled. At most
    two items for each worker are read ahead of the result that is waited for.
    Raises what `function` raises, and InputError for a cluster that does not answer.
    """
    # No pool for a single item (its import takes 5 ms), nor where the address space is too small
    # for threads: glibc aborts a process that cannot allocate their thread-local data
    items = iter(items)
    first_items = [*itertools.islice(items, 2)]
    if dask is None and (len(first_items) < 2 or address_space_limit() < THREADS_MB):
        yield from map(function, itertools.chain(first_items, items))
        return

    # Submit items ahead of the result that is waited for
    with _start_workers(function, dask, processes) as (submit, count_workers):
        futures: deque = deque()
        for item in itertools.chain(first_items, items):
            futures.append(submit(item))
            if len(futures) > 2 * count_workers():
                yield futures.popleft().result()
            while futures and futures[0].done():
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()


def _start_workers(
    function: Callable, dask: str | None, processes: bool
) -> AbstractContextManager[Workers]:
    """Return the workers: a Dask cluster, processes or threads."""
    if dask is not None:
        from age_gender.processes import dask_cluster

        return dask_cluster.connect(function, dask)
    if processes and count_processors() > 1 and hasattr(os, "fork"):
        with contextlib.suppress(OSError, ImportError):  # no semaphores here (no /dev/shm)
            return _start_processes(function)
    return _start_threads(function)


@contextlib.contextmanager
def _start_threads(function: Callable) -> Iterator[Workers]:
    """Start a thread for each processor."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(count_processors())
    try:
        yield functools.partial(pool.submit, function), count_processors
    finally:  # without waiting: after Ctrl-C or an error, started items are not needed
        pool.shutdown(wait=False, cancel_futures=True)


def _start_processes(function: Callable) -> AbstractContextManager[Workers]:
    """Start a process for each processor. Raises OSError or ImportError without semaphores."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # A forked process has the function, and what it has loaded, from the beginning
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(count_processors(), fork, _initialize_worker, (function,))
    return _open_pool(pool)


@contextlib.contextmanager
def _open_pool(pool: "ProcessPoolExecutor") -> Iterator[Workers]:
    """Fork the pool's processes, and end them with the block."""
    from concurrent.futures.process import BrokenProcessPool

    try:
        with interrupts.deferred():
            pool.submit(os.getpid)  # the first call forks all workers
        yield functools.partial(pool.submit, _call_function), count_processors
        pool.shutdown()  # at Python's exit it may collide with the pool's thread
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process was killed, perhaps because memory ran out; free some, then run "
            "the same command again"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_function: Callable  # what a worker process calls


def _initialize_worker(function: Callable) -> None:
    global _function
    _function = function
    interrupts.set_up_worker()


def _call_function(item: object) -> object:
    return _function(item)
