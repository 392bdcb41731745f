"""Start and end a script's process: with one line if it fails or is interrupted before main().

Only built-in modules are imported here (`signal` would take 4 ms, in which Ctrl-C is a traceback),
and importing this module changes nothing.
"""

import _signal
import atexit
import os
import sys

unfinished = set()  # paths of temporary files, removed where the process ends
_exit_code: int | None = None


def begin() -> None:
    """Set up the process of a script before its imports; `cli.run` takes over from there.

    AGE_GENDER_TRACEBACK=1 in the environment shows tracebacks instead.
    """
    if not os.environ.get("AGE_GENDER_TRACEBACK"):
        exit_on_interrupt()
        sys.excepthook = _report
        atexit.register(_exit_without_finalization)


def exit_on_interrupt() -> None:
    """Have Ctrl-C, TERM and HUP end the process from now on, by `exit_interrupted`."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(_signal, name, None)  # Windows has no HUP
        if number and _signal.getsignal(number) is not _signal.SIG_IGN:  # as nohup has it
            _signal.signal(number, exit_interrupted)


def exit_script(code: int) -> None:
    """End the script with this exit code, by SystemExit, which profilers wait for."""
    global _exit_code
    _exit_code = code
    raise SystemExit(code)


def exit_interrupted(*_) -> None:
    """Say that the script is interrupted, and end the process; a signal handler."""
    try:
        os.write(2, os.fsencode(f"{os.path.basename(sys.argv[0])}: interrupted\n"))
    finally:
        exit_at_once(130)


def exit_at_once(code: int) -> None:
    """Remove the temporary files, and end the process with this exit code and no other cleanup.

    An interrupt between the lines of a `with` statement leaves it without removing them.
    """
    try:
        for path in [*unfinished]:
            path.unlink(missing_ok=True)
    except OSError:
        pass  # contextlib, for suppress, takes time to import
    finally:
        os._exit(code)


def _report(error_type: type[BaseException], error: BaseException, traceback: object) -> None:
    """Print one line about the error that ended the imports."""
    from age_gender import cli

    exit_script(cli.report(error))


def _exit_without_finalization() -> None:
    """End the process as the last exit handler: a profiler, say, has written its file by then.

    TensorFlow's threads would take 1.6 seconds more to wind down.
    """
    if _exit_code is not None:
        import contextlib

        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError, ValueError):  # its reader has gone; it is closed
                stream.flush()
        os._exit(_exit_code)
