"""Ctrl-C while a script works, and TERM and HUP, which count as Ctrl-C.

They raise KeyboardInterrupt, so that what is half done is tidied up; not while a process forks.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
           if hasattr(signal, name)]  # fmt: skip
TIDYING_SECONDS = 2  # in which a second Ctrl-C does not disturb what the first one set off
_raised_at: float | None = None  # a plain variable: a lock in a signal handler may block it


def raise_keyboard_interrupt() -> None:
    """Have an interrupt raise KeyboardInterrupt in the main thread from now on."""
    _handle(_raise)


def came() -> bool:
    """Return whether an interrupt came: a library may have made another exception of it."""
    return _raised_at is not None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Deliver interrupts that come within the block behind it: a fork would lose them."""
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
def ignored_by_children() -> Iterator[None]:
    """Have processes that start within the block ignore Ctrl-C, which this one gets after it.

    Blocked as well as ignored, it is kept.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


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
