"""Paths, whole-or-nothing writes, and the errors that end a script with one line.

Every script runs as `files.run_script(main)`: exit code 0 when done, 2 when the
input, the arguments or a path are at fault, 130 when interrupted, 1 for anything else.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NoReturn

ROOT = Path(__file__).resolve().parent
EMBEDDINGS = ROOT / "data" / "utkface.npz"
DATA = ROOT / "data"
TRAIN_RECORDS = DATA / "train.tfrecords"
TEST_RECORDS = DATA / "test.tfrecords"
MODELS = ROOT / "models"
PRETRAINED = MODELS / "pretrained"
LOGS = ROOT / "logs"

KERAS_MODEL = "age_gender.keras"
LITERT_MODEL = "age_gender.tflite"
FLOAT16_MODEL = "age_gender_float16.tflite"
DESCRIPTION = "age_gender.json"
_SILENCE = threading.Lock()  # file descriptor 2 is one for all threads
MODEL_FORMAT = 1  # raised when the outputs of the exported model change


def _excepthook(kind: type[BaseException], error: BaseException, traceback) -> None:
    """Ctrl-C while a script still imports ends in one line too, where it imports this first."""
    if not issubclass(kind, KeyboardInterrupt) and not isinstance(
        error.__cause__, KeyboardInterrupt
    ):
        return sys.__excepthook__(kind, error, traceback)
    print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


sys.excepthook = _excepthook  # why scripts import this module first


class InputError(Exception):
    """The input, the arguments or a path are at fault: one line for the user, exit code 2."""


# ---------------------------------------------------------------------------- scripts


class ArgumentParser(argparse.ArgumentParser):
    """argparse with the script's docstring as its text, defaults shown, errors of one line."""

    def __init__(self, docstring: str) -> None:
        description, _, examples = docstring.partition("\nexamples:")
        super().__init__(
            description=description,
            epilog="examples:" + examples,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, args: list[str] | None = None) -> argparse.Namespace:
        given = sys.argv[1:] if args is None else args
        if any(not text or (text.startswith("--") and text.endswith("=")) for text in given):
            self.error("an argument is empty; was a variable of the shell not set?")
        return super().parse_args(given)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:  # argparse's own hook
        if action.default is None or action.nargs == 0:
            return action.help
        values = action.default if isinstance(action.default, list) else [action.default]
        shown = [display_path(v) if isinstance(v, Path) else str(v) for v in values]
        return f"{action.help} (default: {' '.join(shown)})"


def whole_number(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `least`."""

    def parse(text: str) -> int:
        if not text.strip().lstrip("+-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} up")
        return int(text)

    return parse


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run `main` and leave the process with the project's exit codes; never a traceback.

    AGE_GENDER_TRACEBACK=1 in the environment shows the traceback all the same.
    """
    if os.environ.get("AGE_GENDER_TRACEBACK"):
        main()
        sys.exit(0)
    script = Path(sys.argv[0]).name
    sys.stderr = _Messages(sys.stderr)
    if sys.stdin is None or sys.stdout is None:
        say(f"{script}: error: standard input or output is closed; redirect it to /dev/null")
        os._exit(2)
    interrupted = threading.Event()  # libraries may make another exception of the interrupt

    def interrupt(*_) -> NoReturn:
        interrupted.set()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as tidily as Ctrl-C
            if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(ending, interrupt)
    try:
        main()
        sys.stdout.flush()
        code = 0
    except BrokenPipeError:  # the reader of standard output went away: nobody is left to tell
        code = 0
    except KeyboardInterrupt:
        say(f"{script}: interrupted")
        code = 130
    except (InputError, OSError) as error:
        say(f"{script}: error: {error_line(error)}")
        code = 2 if _is_users(error) else 1
    except Exception as error:
        if interrupted.is_set():
            say(f"{script}: interrupted")
        else:
            say(
                f"{script}: error: unexpected {type(error).__name__}: {error_line(error)} "
                "(AGE_GENDER_TRACEBACK=1 shows where)"
            )
        code = 130 if interrupted.is_set() else 1
    if code == 0:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
    # TensorFlow's and LiteRT's threads take up to a second to wind down; nothing is left to do.
    os._exit(code)


class _Messages:
    """Standard error whose reader may leave, or which was never open: no work ends with it."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def error_line(error: BaseException) -> str:
    """What happened, in one line of at most 500 characters."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        remedy = {
            errno.ENOSPC: "; free some space or choose another disk",
            errno.EFBIG: "; raise the file-size limit or choose another place",
            errno.EDQUOT: "; free some space or choose another disk",
            errno.EACCES: "; check the permissions",
            errno.EROFS: "; choose another folder",
            errno.ENOENT: "; check the path",
        }.get(error.errno or 0, "")
        return printable(f"{where}{error.strerror.lower()}{remedy}")
    return printable(str(error))


def printable(text: str) -> str:
    """Text from a file in one line of at most 500 characters, without a terminal's commands."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= 500 else line[:247] + "..." + line[-250:]


def _is_users(error: BaseException) -> bool:
    users = (
        InputError,
        FileNotFoundError,
        PermissionError,
        IsADirectoryError,
        NotADirectoryError,
        FileExistsError,
    )
    return isinstance(error, users) or getattr(error, "errno", None) in (
        errno.EROFS,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    )


def say(message: str) -> None:
    """A message for a person: standard error, so that standard output stays data."""
    print(message, file=sys.stderr, flush=True)


def display_path(path: Path) -> str:
    """`path` relative to the current folder where it lies below it, else as it is."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep what C++ libraries write straight to file descriptor 2 from the user.

    TensorFlow's first lines (absl, oneDNN) and LiteRT's XNNPACK line heed no setting. If the
    block fails, what was kept back is shown beside the traceback, where that is asked for.
    """
    with _SILENCE, tempfile.TemporaryFile() as silence:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(silence.fileno(), 2)
        try:
            yield
        except Exception:
            if os.environ.get("AGE_GENDER_TRACEBACK"):
                silence.seek(0)
                os.write(kept, silence.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def import_tensorflow() -> None:
    """Import TensorFlow, with its first operation, without its start-up chatter."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with quiet_stderr():
        import tensorflow as tf

        tf.constant(0.0)


# ---------------------------------------------------------------------------- writing


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], mode: str = "wb", **options) -> Iterator[IO]:
    """Open a new file beside `path` that takes its name when the block ends well.

    Whatever happens in between (an error, a kill, a full disk), `path` holds what it held
    before. A device or a pipe is written to directly. Raises InputError where the folder is
    missing or can't be written.
    """
    if is_device(path):
        with open(path, mode, **options) as stream:
            yield stream
        return
    with whole_path(path) as temporary, open(temporary, mode, **options) as stream:
        yield stream


@contextlib.contextmanager
def whole_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Like `whole_file`, for libraries that want a name: yields the temporary path."""
    path = Path(os.path.realpath(path))  # a symbolic link stays one; its target is replaced
    check_writable(path)
    temporary = path.with_name(f".{path.name[:30]}.{secrets.token_hex(4)}.part{path.suffix[:20]}")
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        if path.exists():
            os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) and not error.filename:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_device(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is there, but neither a file nor a folder: /dev/stdout, a named pipe."""
    return Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless a file can be made at `path`: before the work, not after it."""
    path = Path(path)
    if is_device(path):
        return  # whoever opens it says what is wrong
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file in it")
    folder = path.parent
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder for {path.name}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: this folder cannot be written to; choose another")


def check_overwrites_none(output: str | os.PathLike[str], inputs: Iterable) -> None:
    """Raise InputError where `output` is one of the `inputs`, of which "-" is standard input."""
    if not os.path.exists(output) or is_device(output):
        return
    of_output = os.stat(output)
    for path in inputs:
        if path == "-" or os.path.exists(path):
            of_input = os.fstat(0) if path == "-" else os.stat(path)
            if os.path.samestat(of_output, of_input):
                raise InputError(f"{output}: the output would overwrite this input; choose another")


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make an output folder with its parents, or raise InputError with the reason."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if not _is_users(error):
            raise
        raise InputError(f"{folder}: cannot make this folder: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: this folder cannot be written to; choose another")
    return folder


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ------------------------------------------------------------------------------ model


def find_model(model: str | os.PathLike[str] | None, wanted: str) -> Path:
    """The path of the `wanted` file (KERAS_MODEL or LITERT_MODEL) of a trained model.

    `model` is a folder, one of the three files, or None for what train.py wrote in models/
    and else models/pretrained/. The files are checked against the hashes that
    age_gender.json holds, where it lies beside them. Raises InputError.
    """
    if model is None:
        trained = (MODELS / DESCRIPTION).exists()
        folder, chosen = (MODELS if trained else PRETRAINED), None
    else:
        chosen = Path(model)
        if not chosen.exists():
            raise InputError(f"{chosen}: no such model; give a folder that train.py wrote")
        folder = chosen if chosen.is_dir() else chosen.parent
        if chosen.is_dir() or chosen.suffix != Path(wanted).suffix:
            if chosen.is_file() and chosen.suffix not in (".keras", ".tflite", ".json"):
                raise InputError(f"{chosen}: not a model; give a folder that train.py wrote")
            chosen = None
    path = chosen or folder / wanted
    if not path.exists():
        raise InputError(f"{path}: no such model file; train.py writes it (python train.py)")
    card_path = folder / DESCRIPTION
    if card_path.exists():
        _check_card(card_path, path)
    return path


def _check_card(card_path: Path, path: Path) -> None:
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        version, hashes = card["format"], dict(card["files"])
        if not hashes.keys() <= {KERAS_MODEL, LITERT_MODEL, FLOAT16_MODEL}:
            raise ValueError("other files")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{card_path}: not a model description; run train.py again") from None
    if version != MODEL_FORMAT:
        raise InputError(
            f"{card_path}: model of format {version}, these scripts read format {MODEL_FORMAT}; "
            "run train.py again"
        )
    for name in hashes:
        file = card_path.with_name(name)
        if file.exists() and hashes.get(name) != sha256(file):
            raise InputError(f"{file}: not the file that {card_path.name} describes; train again")
    if sha256(path) not in hashes.values():
        raise InputError(f"{path}: not a file that {card_path.name} describes; train again")
