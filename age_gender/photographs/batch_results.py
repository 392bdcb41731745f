"""Keep the result of each batch of images on disk until the output is written."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender import files
from age_gender.cli import InputError, is_resource_shortage


class BatchResult(NamedTuple):
    """The result of a batch of images: its n faces, and the m images without one."""

    names: np.ndarray  # (n,) text
    embeddings: np.ndarray  # (n, width) float32; of augmented views (n, crops, width)
    skipped: np.ndarray  # (m, 3) text: name, reason, and group in the summary


def write_result(path: Path, result: BatchResult) -> None:
    """Write the result of a batch as NPZ, atomically."""
    with files.whole_file(path) as stream:
        np.savez(stream, **result._asdict())


def read_result(path: Path) -> BatchResult:
    """Return the result that `write_result` wrote. Raises InputError for a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            result = BatchResult(*(arrays[field] for field in BatchResult._fields))
    except Exception as error:  # NumPy, zipfile and zlib raise many types
        if is_resource_shortage(error):
            raise
        raise damaged_error(path) from None
    names, embeddings, skipped = result
    is_whole = (
        names.dtype.kind == skipped.dtype.kind == "U"
        and (names.ndim, skipped.shape[1:]) == (1, (3,))
        and embeddings.dtype == np.float32
        and embeddings.ndim in (2, 3)
        and len(embeddings) == len(names)
    )
    if not is_whole:
        raise damaged_error(path)
    return result


def read_embeddings(paths: Iterable[Path], names: list[str]) -> Iterator[np.ndarray]:
    """Yield the embeddings of each batch; together they are those of the faces `names`.

    Raises InputError for a file with other faces or of another width, before a table has them.
    """
    done, shape = 0, None
    for path in paths:
        result = read_result(path)
        if not len(result.names):
            continue
        shape = shape or result.embeddings.shape[1:]
        expected = names[done : done + len(result.names)]
        if result.names.tolist() != expected or result.embeddings.shape[1:] != shape:
            raise damaged_error(path)
        done += len(expected)
        yield result.embeddings


def damaged_error(path: Path) -> InputError:
    """Return the InputError for a damaged result."""
    return InputError(
        f"{path}: damaged, or of other images (is another embed.py at work here?); remove this "
        "file and run the same command again"
    )
