"""Start real Dask schedulers and workers over loopback."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Scheduler(NamedTuple):
    address: str
    process: subprocess.Popen
    workers: list[subprocess.Popen]
    add_worker: Callable[[int], subprocess.Popen]  # with so many threads


@contextlib.contextmanager
def running_scheduler(folder: Path) -> Iterator[Scheduler]:
    """Start a scheduler and two workers in a folder where no project is seen; end them after."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    address = f"tcp://127.0.0.1:{free_port()}"
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
