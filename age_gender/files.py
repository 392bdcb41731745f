"""Outputs that appear whole or not at all, where they may go, and finding files."""

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from age_gender.cli import InputError, is_users


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], mode: str = "wb", **options) -> Iterator[IO]:
    """Open a new file beside `path` that takes its name when the block ends well.

    Whatever happens before (an error, a kill, a full disk), `path` holds what it held. A device
    or a pipe is written to directly. Raises InputError where the folder can't be written.
    """
    place = contextlib.nullcontext(path) if is_device(path) else whole_path(path)
    with place as name, open(name, mode, **options) as stream:
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
    given, path = os.fspath(path), Path(path)
    folder = path.parent
    if is_device(path):
        return  # whoever opens it says what is wrong
    if path.is_dir() or given.endswith("/"):
        raise InputError(f"{path} is a folder: name a file in it")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder for {path.name}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: this folder cannot be written to; choose another")


def check_overwrites_none(output: str | os.PathLike[str], inputs: Iterable) -> None:
    """Raise InputError where `output` is one of the `inputs`, of which "-" is standard input."""
    if not os.path.exists(output) or is_device(output):
        return
    for path in inputs:
        source = 0 if path == "-" else path  # the number of an open file is as good as its name
        if os.path.exists(source) and os.path.samefile(output, source):
            raise InputError(f"{output}: the output would overwrite this input; choose another")


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make an output folder with its parents, or raise InputError with the reason."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if not is_users(error):
            raise
        raise InputError(f"{folder}: cannot make this folder: {error.strerror}") from None
    check_writable(folder / "file")
    return folder


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_below(
    folder: str, suffixes: tuple[str, ...], excluded: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield the files in a folder and below whose names end in one of the suffixes.

    Hidden files are left out, and so are hidden folders, those whose names end in one of
    `excluded`, and links to folders: a link to a folder above would have no end.
    """

    def fail(error: OSError) -> None:
        raise error  # a folder that cannot be read would be a silent gap

    for where, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [f for f in folders if not f.startswith(".") and not f.endswith(excluded)]
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield os.path.join(where, name)


def find_matches(pattern: str) -> Iterator[str]:
    """Yield what a glob matches, as glob.iglob does, but `**` does not follow links to folders."""
    before, *after = re.split(r"(?<![^/])\*\*(?:/|$)", pattern, maxsplit=1)
    if not after:
        yield from glob.iglob(pattern)
        return
    for top in glob.iglob(before) if before else [""]:
        for where, folders, _ in os.walk(top or os.curdir):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            place = where if top else where.removeprefix(os.curdir).removeprefix(os.sep)
            yield from find_matches(os.path.join(glob.escape(place), after[0] or "*"))


def each_once(paths: Iterable[str]) -> list[str]:
    """Return the paths without those that lead to a file again: links after the file itself."""
    real = {path: os.path.realpath(path) for path in paths}
    firsts: dict[str, str] = {}
    for path in sorted(real, key=lambda path: real[path] != os.path.abspath(path)):
        firsts.setdefault(real[path], path)
    return [path for path in real if firsts[real[path]] == path]
