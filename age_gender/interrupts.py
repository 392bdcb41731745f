"""Turn Ctrl-C, TERM and HUP into KeyboardInterrupt, so that temporary files are removed.

`cli.report` then prints "interrupted" and the script ends with 130. While a process forks they
are deferred. Until `cli.run` calls main(), during the imports of a script's first lines,
startup.py handles them; TensorFlow is imported within main().
"""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from age_gender import startup

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # Windows has no HUP
HEED_SECONDS = 3  # after an interrupt; C code that has not returned by then ends with the process
TIDYING_SECONDS = 2  # after an interrupt, in which others are ignored, so that cleanup finishes
# Plain variables: a lock in a signal handler may block it
_raise_time: float | None = None  # of the last KeyboardInterrupt
_number: int  # of the last signal


def raise_keyboard_interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread on an interrupt from now on.

    Where Python would ignore it, as in a weak reference's callback, it is raised again.
    """
    _handle(_raise)
    sys.unraisablehook = _raise_ignored


def ignore() -> None:
    """Ignore interrupts from now on: the process prints its last line and ends."""
    _handle(signal.SIG_IGN)


def was_interrupted() -> bool:
    """Return whether an interrupt has arrived: a library may have made another exception of it."""
    return _raise_time is not None


def watch_for_stuck_interrupts() -> None:
    """Start to end the script, without cleanup, where an interrupt is not heeded in HEED_SECONDS.

    For a library in C that may never return to Python, where alone KeyboardInterrupt is raised.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not _raise:
        return  # in another program
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # written to whatever the code at work

    def watch() -> None:
        while os.read(reader, 1):
            time.sleep(HEED_SECONDS)
            if not was_interrupted():
                startup.exit_interrupted()

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Deliver interrupts that arrive within the block after it: a fork would lose them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread
        return
    received: list[int] = []
    handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
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
    """Block Ctrl-C in the processes that are started from threads which start within the block.

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
    """Read a buffered binary stream so that an interrupt ends the wait for a pipe.

    io.BufferedReader reads a pipe many times to fill a large buffer; an interrupt between two reads
    would wait for more data. Here each call reads once.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def readable(self) -> bool:
        """Return True, as io.RawIOBase asks of a stream that can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:
        """Read into the buffer once, and return the number of bytes."""
        return self.stream.readinto1(buffer)


def end_with_parent() -> None:
    """Set up a worker process that ends at an interrupt, or when its parent does."""
    import multiprocessing

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _handle(handler: Callable) -> None:
    """Install the handler for each signal that is not ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, handler)


def _raise(number: int, frame: object) -> None:
    global _raise_time, _number
    now, _number = time.monotonic(), number
    if _raise_time is None or now - _raise_time > TIDYING_SECONDS:
        _raise_time = now
        raise KeyboardInterrupt


def _raise_ignored(unraisable: Any) -> None:
    """Send an interrupt once more whose exception Python ignores; print others as Python does."""
    global _raise_time
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
    else:
        _raise_time = None
        threading.Timer(0.01, os.kill, [os.getpid(), _number]).start()  # after the callback
