"""Start and end a script's process: with one line if it fails or is interrupted before main().

Only built-in modules are imported here: `signal` would take 4 ms, during which Ctrl-C would print a
traceback. Importing this module changes nothing.
"""

import _signal
import atexit
import os
import sys

temporary_files = set()  # paths that are removed when the process ends
_exit_code: int | None = None


def begin() -> None:
    """Set up the process of a script before its imports; `cli.run` takes over from there.

    AGE_GENDER_TRACEBACK=1 in the environment shows tracebacks instead.
    """
    if not os.environ.get("AGE_GENDER_TRACEBACK"):
        exit_on_interrupt()
        sys.excepthook = _report_import_error
        atexit.register(_exit_without_finalization)


def exit_on_interrupt() -> None:
    """Have Ctrl-C, TERM and HUP end the process from now on, by `exit_interrupted`."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(_signal, name, None)  # Windows has no HUP
        if number and _signal.getsignal(number) is not _signal.SIG_IGN:  # nohup ignores HUP
            _signal.signal(number, exit_interrupted)


def exit_script(code: int) -> None:
    """Raise SystemExit with this exit code, so that profilers can finish their work."""
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

    They are left over if an interrupt falls between creating a file and entering its `with` block.
    """
    try:
        for path in [*temporary_files]:
            path.unlink(missing_ok=True)
    except OSError:
        pass  # contextlib.suppress would take time to import
    finally:
        os._exit(code)


def _report_import_error(
    error_type: type[BaseException], error: BaseException, traceback: object
) -> None:
    """Print one line about the error that ended the imports."""
    from age_gender import cli

    exit_script(cli.report_error(error))


def _exit_without_finalization() -> None:
    """End the process as the last exit handler, after that of a profiler, for example.

    TensorFlow's threads would take 1.6 seconds more to end.
    """
    if _exit_code is not None:
        import contextlib

        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError, ValueError):  # it is closed, or its reader is
                stream.flush()
        os._exit(_exit_code)
