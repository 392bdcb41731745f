"""Turn Ctrl-C, TERM and HUP into KeyboardInterrupt, so that temporary files are removed.

`cli.report_error` then prints "interrupted" and the script ends with 130. The signals are deferred
while a process forks. Until `cli.run` calls main(), startup.py handles them.
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

from age_gender.processes import startup

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # Windows has no HUP
# Time after an interrupt in which C code must return to Python, or the process is ended
RESPONSE_SECONDS = 3
# Time after an interrupt in which further ones are ignored, so that cleanup finishes
CLEANUP_SECONDS = 2
# Plain variables, since a signal handler must not wait for a lock
_last_raised: float | None = None  # time of the last KeyboardInterrupt
_last_signal: int  # number of the last signal


def raise_keyboard_interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread on an interrupt from now on.

    Where Python ignores exceptions, as in a weak reference's callback, the interrupt is sent again.
    """
    _install_handler(_handle_interrupt)
    sys.unraisablehook = _send_again_if_ignored


def ignore() -> None:
    """Ignore interrupts from now on: the process prints its last line and ends."""
    _install_handler(signal.SIG_IGN)


def was_interrupted() -> bool:
    """Return whether an interrupt has arrived: a library may have replaced its exception."""
    return _last_raised is not None


def start_interrupt_watchdog() -> None:
    """Start a thread that ends the process, without cleanup, if an interrupt has no effect.

    Python raises KeyboardInterrupt only once C code returns to it, which a library may never do.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not _handle_interrupt:
        return  # another program uses this package
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # a signal writes to it at once

    def watch() -> None:
        while os.read(reader, 1):
            time.sleep(RESPONSE_SECONDS)
            if not was_interrupted():
                startup.exit_interrupted()

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Hold back interrupts until the block ends: a fork would lose them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread
        return
    received: list[int] = []
    handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
    _install_handler(lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received[:1]:
            signal.raise_signal(number)


@contextlib.contextmanager
def blocked_in_children() -> Iterator[None]:
    """Block Ctrl-C in child processes of threads that start within the block.

    This process receives it after the block.
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

    io.BufferedReader reads a pipe many times to fill a large buffer, and handles an interrupt
    between two reads only after the next data. Here each call reads once.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def readable(self) -> bool:
        """Return True, as io.RawIOBase asks of a stream that can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:
        """Read into the buffer once, and return the number of bytes."""
        return self.stream.readinto1(buffer)


def set_up_worker() -> None:
    """Have this worker process end at an interrupt, and when its parent ends."""
    import multiprocessing

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _install_handler(handler: Callable) -> None:
    """Install the handler for each signal that is not ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores HUP
            signal.signal(number, handler)


def _handle_interrupt(number: int, frame: object) -> None:
    """Raise KeyboardInterrupt, unless one was raised less than CLEANUP_SECONDS ago."""
    global _last_raised, _last_signal
    now, _last_signal = time.monotonic(), number
    if _last_raised is None or now - _last_raised > CLEANUP_SECONDS:
        _last_raised = now
        raise KeyboardInterrupt


def _send_again_if_ignored(unraisable: Any) -> None:
    """Send an interrupt again if Python ignores its exception; print others as Python does."""
    global _last_raised
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
    else:
        _last_raised = None
        threading.Timer(0.01, os.kill, [os.getpid(), _last_signal]).start()  # after the callback
