"""Keep the result of each batch of images on disk until the output is written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender import files
from age_gender.errors import InputError, is_resource_shortage
from age_gender.readers.names import text_name


class BatchResult(NamedTuple):
    """Hold the result of a batch of images: its n faces, and the m images without one."""

    names: np.ndarray  # (n,) text
    embeddings: np.ndarray  # (n, width) float32; of augmented views (n, crops, width)
    skipped: np.ndarray  # (m, 3) text: name, reason, and category in the summary


def write_result(path: Path, result: BatchResult) -> None:
    """Write the result of a batch as NPZ, atomically."""
    with files.atomic_file(path) as stream:
        np.savez(stream, **result._asdict())


def read_result(path: Path, images: Sequence[str], width: int) -> BatchResult:
    """Return the result that `write_result` wrote for these images.

    Raises InputError for a damaged file, and for one of other images or of another width.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            result = BatchResult(*(arrays[field] for field in BatchResult._fields))
    except Exception as error:  # NumPy, zipfile and zlib raise many types
        if is_resource_shortage(error):
            raise
        raise make_damaged_error(path) from None
    names, embeddings, skipped = result
    is_valid = (
        names.dtype.kind == skipped.dtype.kind == "U"
        and (names.ndim, skipped.shape[1:]) == (1, (3,))
        and embeddings.dtype == np.float32
        and embeddings.ndim in (2, 3)
        and len(embeddings) == len(names)
        and (embeddings.shape[-1] == width or not len(names))
        and np.isfinite(embeddings).all()
    )
    if not is_valid or not _covers(result, map(text_name, images)):
        raise make_damaged_error(path)
    return result


def _covers(result: BatchResult, images: Iterable[str]) -> bool:
    """Return whether a result has a face, or the reason for none, of these images and no others."""
    names, images = {*result.names.tolist()}, {*images}
    skipped = {*result.skipped[:, 0].tolist()}
    has_all = all({image, f"{image}#1"} & names or image in skipped for image in images)
    return has_all and all({name, name.rpartition("#")[0]} & images for name in names | skipped)


def read_embeddings(
    batches: Mapping[Path, Sequence[str]], names: list[str], width: int
) -> Iterator[np.ndarray]:
    """Yield the embeddings of each batch of images, in the order of the faces `names`.

    Raises InputError for a file with other faces before it yields them.
    """
    done, shape = 0, None
    for path, images in batches.items():
        result = read_result(path, images, width)
        if not len(result.names):
            continue
        shape = shape or result.embeddings.shape[1:]
        expected = names[done : done + len(result.names)]
        if result.names.tolist() != expected or result.embeddings.shape[1:] != shape:
            raise make_damaged_error(path)
        done += len(expected)
        yield result.embeddings


def make_damaged_error(path: Path) -> InputError:
    """Return the InputError for a damaged result."""
    return InputError(
        f"{path}: damaged, or from other images (is another embed.py writing here?); remove this "
        "file and run the same command again"
    )
