"""Define the error of a user's mistake, classify other errors, and write errors as one line."""

import errno

MAX_MESSAGE = 500  # characters of a message
_REMEDIES = {
    errno.ENOSPC: "; free some space or choose another disk",
    errno.EFBIG: "; raise the file-size limit (ulimit -f)",
    errno.EDQUOT: "; free some space or choose another disk",
    errno.EACCES: "; check the permissions",
    errno.EROFS: "; choose another folder",
    errno.ENOENT: "; check the path",
    errno.ENOMEM: "; free some memory, or raise its limit (ulimit -v)",
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
}
_SHORTAGES = (  # texts of libraries whose errors have no number
    "cannot allocate memory",
    "unable to allocate",
    "out of memory",
    "bad_alloc",
    "failed to map segment",
    "can't start new thread",
    "too many open files",
)


class InputError(Exception):
    """Raised when the input, an argument or a path is at fault; shown as one line, exit code 2."""


def is_user_error(error: BaseException) -> bool:
    """Return whether the input, the arguments or a path are at fault, and not the machine."""
    of_paths = FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError
    if isinstance(error, (InputError, PermissionError, *of_paths)):
        return True
    return getattr(error, "errno", None) in (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


def is_resource_shortage(error: BaseException) -> bool:
    """Return whether the machine lacks memory, threads or open files: no input is at fault."""
    numbers = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in numbers:
        return True
    # TensorFlow, the dynamic linker and threading give no number, only a text
    is_of_library = isinstance(error, (RuntimeError, ImportError, OSError))
    if not is_of_library or getattr(error, "filename", None):
        return False
    return _names_shortage(str(error))


def _names_shortage(text: str) -> bool:
    return any(words in text.lower() for words in _SHORTAGES)


def error_line(error: BaseException) -> str:
    """Return an error's message and its remedy, in one line of at most MAX_MESSAGE characters."""
    if isinstance(error, MemoryError):
        cause = f" ({error})" if str(error) else ""
        return printable(f"not enough memory{cause}{_REMEDIES[errno.ENOMEM]}")
    if is_resource_shortage(error) and not getattr(error, "strerror", None):
        reason = next(line for line in str(error).splitlines() if _names_shortage(line))
        return printable(f"not enough memory, threads or open files (see ulimit -a): {reason}")
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return printable(where + error.strerror.lower() + _REMEDIES.get(error.errno, ""))
    return printable(str(error))


def printable(text: str) -> str:
    """Return a text as one line of at most MAX_MESSAGE characters, without control characters."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    half = MAX_MESSAGE // 2
    return line if len(line) <= MAX_MESSAGE else line[: half - 3] + "..." + line[-half:]
