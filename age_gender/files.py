"""Write outputs atomically, check where they may go, find input files, and shorten their names."""

import contextlib
import errno
import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from age_gender.errors import InputError, is_user_error
from age_gender.processes import startup

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_DESCRIPTORS = re.compile(r"/dev/fd|/proc/(\d+)(?:/task/\d+)?/fd")


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], mode: str = "wb", **options) -> Iterator[IO]:
    """Open a new file beside `path` that takes its name when the block ends without an error.

    Whatever happens before (an error, a kill, a full disk), `path` keeps its previous content. A
    device, a pipe or an open file (/dev/stdout) is written to directly.
    Raises InputError where the folder cannot be written to.
    """
    if (number := find_descriptor(path)) is not None:
        target = contextlib.nullcontext(os.dup(number))  # continues at its file position
    else:
        target = contextlib.nullcontext(path) if is_stream(path) else atomic_path(path)
    with target as name, open(name, mode, **options) as stream:
        yield stream


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path for an atomic write, for libraries that open files themselves.

    What is there when the block ends without an error takes the name `path`, as in `atomic_file`.
    """
    if is_stream(path):
        raise InputError(f"{path}: this output must be a regular file; give another path")
    path = Path(os.path.realpath(path))  # a symbolic link stays; its target is replaced
    check_writable(path)
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    unique = os.urandom(4).hex()
    temporary = path.with_name(f".{path.name[:30]}.{unique}.part{path.suffix[:20]}")
    startup.temporary_files.add(temporary)  # removed if a signal ends the process
    try:
        # At no time readable by more people than the file that it replaces
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        os.close(os.open(temporary, flags, 0o666 if mode is None else mode & 0o600))
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) and not error.filename:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
        startup.temporary_files.discard(temporary)


def find_descriptor(path: str | os.PathLike[str]) -> int | None:
    """Return the file descriptor that `path` stands for, as /dev/stdout does, or None.

    Raises InputError for an open file of another process.
    """
    path = os.fspath(path)
    for _ in range(40):  # links to links, as many as Linux follows
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder)
        descriptors = _DESCRIPTORS.fullmatch(folder)
        if descriptors and name.isdecimal():
            if descriptors[1] not in (None, str(os.getpid())):
                raise InputError(
                    f"{path}: belongs to another process; give the path of the file itself"
                )
            return int(name)
        path = os.path.join(folder, name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` cannot be replaced: a device, a pipe or an open file."""
    path = Path(path)
    if find_descriptor(path) is not None:
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless a file can be written at `path`."""
    text, path = os.fspath(path), Path(path)
    folder = path.parent
    # An open file, a device, a pipe
    if (number := find_descriptor(path)) is not None:
        try:
            os.write(number, b"")
        except OSError as error:
            raise InputError(f"{path}: cannot be written to: {error.strerror.lower()}") from None
    if is_stream(path):
        return  # opening it says what is wrong
    # A file in its folder
    if path.is_dir() or text.endswith("/"):
        raise InputError(f"{path}: this is a folder; name a file in it")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder for {path.name}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: this folder cannot be written to; choose another")
    # In a folder like /tmp, only the owners of the folder and of the file can replace it
    target = Path(os.path.realpath(path))
    if target.exists() and hasattr(os, "geteuid"):
        parent, owner = target.parent.stat(), target.stat().st_uid
        if parent.st_mode & stat.S_ISVTX and os.geteuid() not in (0, parent.st_uid, owner):
            raise InputError(f"{path}: belongs to another user; choose another name or folder")


def refuse_overwriting(output: str | os.PathLike[str], inputs: Iterable) -> None:
    """Raise InputError where `output` is one of the `inputs`; "-" is standard output or input."""
    output_status = _status(1 if output == "-" else output)
    if output_status is None or not stat.S_ISREG(output_status.st_mode):
        return
    for path in inputs:
        input_status = _status(0 if path == "-" else path)
        if input_status is not None and os.path.samestat(output_status, input_status):
            name = "standard output" if output == "-" else output
            raise InputError(f"{name}: the output would overwrite this input; choose another")


def _status(path: int | str | os.PathLike[str]) -> os.stat_result | None:
    """Return the status of a path or a file descriptor, or None if there is none."""
    with contextlib.suppress(OSError):
        return os.stat(path)
    return None


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make an output folder with its parents, or raise InputError with the reason."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if not is_user_error(error):
            raise
        is_file = isinstance(error, FileExistsError)
        reason = "a file of this name exists" if is_file else error.strerror.lower()
        message = f"{folder}: cannot make this folder: {reason}; choose another folder"
        raise InputError(message) from None
    check_writable(folder / "file")
    return folder


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def walk_files(
    folder: str, suffixes: tuple[str, ...], excluded: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield the files in a folder and below whose names end in one of the suffixes.

    Skips hidden files and folders, folders whose names end in one of `excluded`, and links to
    folders: following a link to a folder above would never end.
    """

    def fail(error: OSError) -> None:
        raise error  # os.walk would silently skip a folder that cannot be read

    for where, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [f for f in folders if not f.startswith(".") and not f.endswith(excluded)]
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield os.path.join(where, name)


def expand_glob(pattern: str) -> Iterator[str]:
    """Yield the paths that a glob matches, as glob.iglob does; `**` follows no links to folders."""
    before, *after = re.split(r"(?<![^/])\*\*(?:/|$)", pattern, maxsplit=1)
    if not after:
        yield from glob.iglob(pattern)
        return
    for top in glob.iglob(before) if before else [""]:
        for where, folders, _ in os.walk(top or os.curdir):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            below = where if top else where.removeprefix(os.curdir).removeprefix(os.sep)
            yield from expand_glob(os.path.join(glob.escape(below), after[0] or "*"))


def without_duplicates(paths: Iterable[str]) -> list[str]:
    """Return the paths, each file once; a link is dropped in favour of the file itself."""
    real = {path: os.path.realpath(path) for path in paths}
    chosen: dict[str, str] = {}
    for path in sorted(real, key=lambda path: real[path] != os.path.abspath(path)):
        chosen.setdefault(real[path], path)
    return [path for path in real if chosen[real[path]] == path]


def base_name(name: str) -> str:
    """Return the last path component of a face's name: faces are compared and labels read by it."""
    return re.split(r"[/\\]", name)[-1]


def without_compressed_suffix(path: str) -> str:
    """Return a path without the suffix of a compressed file."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in COMPRESSED_SUFFIXES else path
