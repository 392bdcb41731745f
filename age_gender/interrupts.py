"""Turn Ctrl-C, TERM and HUP into KeyboardInterrupt, so that temporary files are removed.

`cli.report` then prints "interrupted" and the script ends with 130. While a process forks they
wait. During a script's imports startup.py handles them.
"""

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
           if hasattr(signal, name)]  # fmt: skip
TIDYING_SECONDS = 2  # a second Ctrl-C within these does not disturb the tidying after the first
_raised_at: float | None = None  # a plain variable: a lock in a signal handler may block it


def raise_keyboard_interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread on an interrupt from now on."""
    _handle(_raise)


def ignore() -> None:
    """Ignore interrupts from now on: the process prints its last line and ends."""
    _handle(signal.SIG_IGN)


def was_interrupted() -> bool:
    """Return whether an interrupt has arrived: a library may have made another exception of it."""
    return _raised_at is not None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Deliver interrupts that arrive within the block after it: a fork would lose them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread
        return
    received: list[int] = []
    handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in NUMBERS}
    _handle(lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received[:1]:
            signal.raise_signal(number)


@contextlib.contextmanager
def blocked_in_children() -> Iterator[None]:
    """Have processes that threads start that start in the block never get a Ctrl-C.

    This process gets it after the block.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interruptible(io.RawIOBase):
    """What a stream holds. Each read of a pipe lets an interrupt through.

    io.BufferedReader makes many to fill a large buffer; an interrupt between two of them would
    wait for more data.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        return self.stream.readinto1(buffer)


def end_with_parent() -> None:
    """Set up a worker process: interrupts end it, and so does the end of its parent."""
    import multiprocessing

    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _handle(handler: Callable) -> None:
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, handler)


def _raise(*_) -> None:
    global _raised_at
    now = time.monotonic()
    if _raised_at is None or now - _raised_at > TIDYING_SECONDS:
        _raised_at = now
        raise KeyboardInterrupt
