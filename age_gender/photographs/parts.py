"""Keep the result of each batch of images on disk until the output is written."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender import files
from age_gender.cli import InputError, is_resource_shortage


class Part(NamedTuple):
    """The result of a batch of images: its n faces, and the m images without one."""

    names: np.ndarray  # (n,) text
    embeddings: np.ndarray  # (n, width) float32; of augmented views (n, crops, width)
    skipped: np.ndarray  # (m, 3) text: name, reason, and what it counts as


def write_part(path: Path, part: Part) -> None:
    """Write a part as NPZ, whole or not at all."""
    with files.whole_file(path) as stream:
        np.savez(stream, **part._asdict())


def read_part(path: Path) -> Part:
    """Return a part that `write_part` wrote. Raises InputError for a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names, embeddings, skipped = part = Part(*(arrays[field] for field in Part._fields))
    except Exception as error:  # NumPy, zipfile and zlib raise many
        if is_resource_shortage(error):
            raise
        raise damaged(path) from None
    is_whole = (
        names.dtype.kind == skipped.dtype.kind == "U"
        and (names.ndim, skipped.shape[1:]) == (1, (3,))
        and embeddings.dtype == np.float32
        and embeddings.ndim in (2, 3)
        and len(embeddings) == len(names)
    )
    if not is_whole:
        raise damaged(path)
    return part


def read_embeddings(paths: Iterable[Path], names: list[str]) -> Iterator[np.ndarray]:
    """Yield the embeddings of each part, which together are those of the faces `names`.

    Raises InputError for a part that holds others, so that no table is written of them.
    """
    done, shape = 0, None
    for path in paths:
        part = read_part(path)
        if not len(part.names):
            continue
        shape = shape or part.embeddings.shape[1:]
        expected = names[done : done + len(part.names)]
        if part.names.tolist() != expected or part.embeddings.shape[1:] != shape:
            raise damaged(path)
        done += len(expected)
        yield part.embeddings


def damaged(path: Path) -> InputError:
    """Return the InputError for a damaged part."""
    return InputError(
        f"{path}: damaged, or of other images (is another embed.py at work here?); remove this "
        "file and run the same command again"
    )
