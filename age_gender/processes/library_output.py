"""Silence what libraries print, and set the environment variables that they read."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

_stderr_lock = threading.Lock()  # all threads share file descriptor 2


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence what C++ libraries write directly to file descriptor 2.

    No setting turns off TensorFlow's first lines (absl, oneDNN) and LiteRT's XNNPACK line.
    AGE_GENDER_TRACEBACK shows them.
    """
    with _stderr_lock, open(os.devnull, "wb") as null:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(2 if shows_traceback() else null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables within the block, for libraries that read them at their start."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def shows_traceback() -> bool:
    """Return whether AGE_GENDER_TRACEBACK asks for tracebacks and for what libraries print."""
    return bool(os.environ.get("AGE_GENDER_TRACEBACK"))
