"""Parse arguments, print messages and end a script with the right exit code.

Every script runs as `cli.run(main)`: exit code 0 when done, 2 when the input, the arguments
or a path are at fault, 130 when interrupted, 1 for anything else.
"""

import argparse
import contextlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from age_gender.errors import InputError, error_line, is_resource_shortage, is_user_error, printable
from age_gender.processes import interrupts, startup
from age_gender.processes.library_output import shows_traceback


def run(main: Callable[[], None]) -> NoReturn:
    """Run `main` and end the process with the project's exit codes, without a traceback.

    AGE_GENDER_TRACEBACK=1 in the environment shows tracebacks.
    """
    # Set up interrupts and standard error
    interrupts.raise_keyboard_interrupt()
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  (it was never open)
    sys.stderr.write, sys.stderr.flush = map(
        _ignore_closed_stream, (sys.stderr.write, sys.stderr.flush)
    )
    # Run, and end with a message and an exit code
    try:
        if sys.stdin is None or sys.stdout is None:
            raise InputError("standard input or output is closed; redirect it to /dev/null")
        with contextlib.suppress(AttributeError):  # a test may have replaced it
            sys.stdout.reconfigure(errors="backslashreplace")  # for letters that the locale lacks
        main()
        sys.stdout.flush()
        startup.exit_on_interrupt()
    except SystemExit as ending:  # argparse's
        startup.exit_script(ending.code)
    except BaseException as error:
        if interrupts.was_interrupted():
            interrupts.ignore()
        else:
            startup.exit_on_interrupt()
        if shows_traceback() and not isinstance(error, (BrokenPipeError, KeyboardInterrupt)):
            raise
        code = report_error(error)
        startup.exit_at_once(code)  # does not wait for threads: their results are not needed
    startup.exit_script(0)


def report_error(error: BaseException) -> int:
    """Print a line that says why a script ends, and return its exit code."""
    if isinstance(error, BrokenPipeError):
        return 0  # the reader of standard output has gone, and expects no message
    code, message = 2 if is_user_error(error) else 1, f"error: {error_line(error)}"
    causes = (type(error), type(error.__cause__))
    if interrupts.was_interrupted() or KeyboardInterrupt in causes:
        code, message = 130, "interrupted"
    elif isinstance(error, ModuleNotFoundError):
        code, message = 2, f"error: {error}; activate the environment (source .venv/bin/activate), "
        message += "or install the packages: pip install -r requirements.txt"
    elif code == 1 and not is_resource_shortage(error) and not isinstance(error, OSError):
        message = f"error: unexpected {type(error).__name__}: {error_line(error)}; this is "
        message += "a bug: run again with AGE_GENDER_TRACEBACK=1 and report the traceback"
    say(f"{Path(sys.argv[0]).name}: {message}")
    return code


def _ignore_closed_stream(method: Callable) -> Callable:
    """Return a method of standard error that does nothing once its reader has gone."""

    def write_or_flush(*text: str) -> None:
        with contextlib.suppress(OSError):
            method(*text)

    return write_or_flush


class ArgumentParser(argparse.ArgumentParser):
    """Parse arguments as argparse does, with help from the script's docstring.

    Help shows the defaults, and an error takes one line.
    """

    def __init__(self, docstring: str | None) -> None:  # python -OO leaves none
        description, _, examples = (docstring or "").partition("\nexamples:")
        super().__init__(
            description=description,
            epilog="examples:" + examples,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, args: list[str] | None = None) -> argparse.Namespace:
        """Return the parsed arguments; an empty one, as an unset variable gives, is an error."""
        arguments = sys.argv[1:] if args is None else args
        for number, text in enumerate(arguments, 1):
            if not text or (text.startswith("--") and text.endswith("=")):
                self.error(f"argument {number} is empty ({text!r}); is a shell variable unset?")
        return super().parse_args(arguments)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)  # the width of the docstrings above the options

    def _get_help_string(self, action: argparse.Action) -> str | None:  # argparse's own hook
        if action.default in (None, []) or action.nargs == 0:
            return action.help
        values = action.default if isinstance(action.default, list) else [action.default]
        return f"{action.help} (default: {' '.join(map(display_path, values))})"


def _make_number_type(
    convert: type, description: str, is_valid: Callable
) -> Callable[[str], float]:
    """Return an argparse type that converts a text and refuses numbers that are not valid."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if "_" not in text and is_valid(convert(text)):
                return convert(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a {description}")

    return parse


def whole_number(minimum: int, maximum: float = math.inf) -> Callable[[str], int]:
    """Return an argparse type: a whole number from `minimum` to `maximum`."""
    span = f"whole number from {minimum} " + ("up" if maximum == math.inf else f"to {maximum}")
    return _make_number_type(int, span, lambda value: minimum <= value <= maximum)


# Argparse types of other numbers
positive = _make_number_type(float, "number above 0", lambda value: 0 < value < math.inf)
fraction = _make_number_type(float, "number from 0 to 1", lambda value: 0 <= value <= 1)


def utf8(argument: str) -> str:
    """Return an argument decoded as UTF-8, whatever the locale: an argparse type."""
    with contextlib.suppress(UnicodeEncodeError):  # a test's argument is text already
        try:
            return os.fsencode(argument).decode()
        except UnicodeDecodeError:
            raise argparse.ArgumentTypeError(f"{printable(repr(argument))} is not UTF-8") from None
    return argument


def require(what: str, **packages: str) -> None:
    """Raise InputError that names the `packages` that are not installed, keyed by module.

    `what` begins the message, such as "photographs need".
    """
    missing = [packages[name] for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        listed = ", ".join(missing)
        raise InputError(f"{what} {listed}; install: pip install -r requirements-extra.txt")


def say(message: str) -> None:
    """Print a message for a person to standard error; standard output carries data only."""
    print(message, file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 face" or "2,000 faces"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def display_path(path: object) -> str:
    """Return a path below the current folder as a relative one, any other as it is."""
    with contextlib.suppress(ValueError, FileNotFoundError):  # elsewhere; a deleted folder
        if isinstance(path, Path):
            return str(path.relative_to(Path.cwd()))
    return str(path)


class Progress(contextlib.ExitStack):
    """Show a progress bar on standard error where that is a terminal.

    `total` (None: not known) and `done` count in `unit`; "B" shows bytes as kB, MB, GB.
    """

    def __init__(self, total: int | None, unit: str, done: int = 0) -> None:
        super().__init__()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            is_bytes = unit == "B"
            style = {"unit": unit if is_bytes else f" {unit}", "unit_scale": is_bytes}
            bar = tqdm(total=total, initial=done, dynamic_ncols=True, **style)
            self.bar = self.enter_context(bar)

    def update(self, amount: int, note: str = "") -> None:
        """Advance the bar by `amount`; show `note` after the rate, such as rows per second."""
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(amount)

    def say(self, message: str) -> None:
        """Print a message above the bar."""
        say(message) if self.bar is None else self.bar.write(message, file=sys.stderr)
