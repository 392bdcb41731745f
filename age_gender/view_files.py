"""Write and read augmented views: an NPZ of faces, each embedded through several crops."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender import files
from age_gender.embeddings import to_unit_length
from age_gender.errors import InputError, is_resource_shortage, printable
from age_gender.readers import numpy_files


class Views(NamedTuple):
    """Hold augmented views: N faces, each embedded through C crops, the plain one first."""

    names: list[str]  # (N,)
    crops: list[str]  # (C,)
    embeddings: np.ndarray  # (N, C, W) of unit length


def read_views(path: Path) -> Views:
    """Return the views in an NPZ of `embed.py --views`.

    Raises InputError for another file, OSError for one that cannot be read.
    """
    open(path, "rb").close()  # raises OSError if it is missing or may not be read
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names, crops = (_texts(arrays[key]) for key in ("filenames", "crops"))
            embeddings = arrays["embeddings"].astype(np.float32)
            if embeddings.shape[:2] == (len(names), len(crops)) and np.isfinite(embeddings).all():
                rows = to_unit_length(embeddings.reshape(-1, embeddings.shape[-1]))
                crops = [*map(printable, crops)]  # they are printed
                return Views(names, crops, rows.reshape(embeddings.shape))
    except Exception as error:  # zipfile, zlib and NumPy raise many types
        if is_resource_shortage(error):
            raise
    raise InputError(
        f"{path}: not a file of augmented views: needs filenames (N,), crops (C,) and finite "
        f"embeddings (N, C, W); write it with: python embed.py --images CHIPS "
        f"--aligned --views --output {path.name}"
    )


def write_views(
    path: Path, names: list[str], crops: Iterable[str], blocks: Iterable[np.ndarray]
) -> None:
    """Write the views that `read_views` reads.

    `blocks` are embeddings (n, crops, width) of the names, in their order.
    """
    embeddings = np.concatenate([block.astype(np.float16) for block in blocks])
    with files.atomic_file(path) as stream:
        np.savez_compressed(stream, filenames=names, crops=crops, embeddings=embeddings)


def _texts(values: np.ndarray) -> list[str]:
    """Return an array (n,) of texts as a list. Raises ValueError where it holds anything else."""
    if values.ndim != 1 or values.dtype.kind not in "US":
        raise ValueError("not a list of texts")
    texts = numpy_files.to_texts(values)
    "".join(texts).encode()  # raises UnicodeEncodeError for a lone surrogate
    return texts
