"""Which reader a path gets, and reading whole tables."""

import glob
import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from age_gender.script import InputError
from age_gender.tables.pieces import Block, Fault, Numbering, Piece, make_block

# The file of this folder that cuts and parses a suffix's tables; text for all other suffixes.
READERS = {".csv": "text", ".npz": "arrays", ".npy": "arrays", ".parquet": "parquet"}


def expand(features: Sequence[str | Path]) -> list[str]:
    """Files, globs, folders and "-" (standard input) as a list of files, in order.

    Raises InputError for what does not exist and for a folder without features.
    """
    found: list[str] = []
    for given in map(str, features):
        path = Path(given)
        if path.is_dir():
            inside = sorted(_files_below(given))
            if not inside:
                raise InputError(
                    f"{given}: no {', '.join(READERS)} file in this folder; name another"
                )
            found += inside
        elif given == "-" or path.exists():
            found.append(given)
        elif glob.has_magic(given) and (matches := sorted(glob.glob(given, recursive=True))):
            found += expand(matches)
        else:
            raise InputError(f"{given}: no such file; give a table of embeddings or a folder")
    return found


def _files_below(folder: str) -> Iterator[str]:
    """Tables in a folder, without what is hidden or what embed.py keeps until it is done."""

    def fail(error: OSError) -> None:
        raise error  # a folder that cannot be read would be a silent gap

    for where, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [f for f in folders if not f.startswith(".") and not f.endswith(".partial")]
        for name in names:
            if name.lower().endswith(tuple(READERS)) and not name.startswith("."):
                yield os.path.join(where, name)


def cut(paths: Sequence[str]) -> Iterator[Piece]:
    """Cut the files ("-": CSV on standard input) into pieces of bounded size, in order.

    Raises InputError for a file that is not a table of embeddings at all.
    """
    for path in paths:
        module = _reader(path)
        if module != "text" and not Path(path).is_file():
            raise InputError(f"{path}: not a regular file; only CSV can be read from a pipe")
        yield from _module(module).cut(path, only=len(paths) == 1)


def parse(piece: Piece) -> Block:
    """Read one piece: a pure function, for any thread, process or machine."""
    if piece.kind == "fault":
        return make_block(piece, None, [], [Fault(1, 1, piece.data)], rows=1, lines=1)
    return _module(piece.kind).parse(piece)


def input_bytes(paths: Iterable[str]) -> int | None:
    """About how many `input_bytes` the pieces of these files have in all; None if unknown."""
    sizes = [_module(_reader(path)).input_bytes(path) for path in paths]
    return None if None in sizes else sum(sizes)


def _reader(path: str) -> str:
    return READERS.get(Path(path).suffix.lower(), "text")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"age_gender.tables.{name}")  # as late as it is needed


def read(features: Sequence[str | Path]) -> tuple[list[str], np.ndarray]:
    """All names and features, float32 (n, 512), of tables that fit into memory.

    Raises InputError that names the file and the row of the first fault.
    """
    names, blocks, numbering = [], [], Numbering()
    for piece in cut(expand(features)):
        block = parse(piece)
        block_names, bad = numbering.place(block)
        if bad:
            raise InputError(f"{bad[0]}; correct or remove this row")
        names += block_names
        blocks.append(block.features)
    return names, np.concatenate(blocks)
