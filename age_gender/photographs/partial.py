"""What embed.py has done so far: a folder OUTPUT.partial/ with a file for each batch of images."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from age_gender import outputs
from age_gender.photographs.embedder import Part
from age_gender.script import InputError


@contextlib.contextmanager
def batches(
    output: Path, images: Sequence[str], size: int, settings: dict[str, Any]
) -> Iterator[dict[Path, Sequence[str]]]:
    """Where the part of each batch of `size` images belongs; removed when all went well.

    Raises InputError if parts are there that were made with other settings, by their options.
    """
    folder = outputs.make_folder(f"{output}.partial")
    card, parts = folder / "settings.json", sorted(folder.glob("[0-9]*.npz"))
    if not card.exists():  # a removal was interrupted: nothing says what these are
        for part in parts:
            part.unlink()
        before = {}
    else:
        try:
            before = dict(json.loads(card.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise InputError(f"{card}: cannot be read; remove {folder} to start anew") from None
        other = [f"--{key}" for key in settings if settings[key] != before.get(key)]
        if other and parts:
            raise InputError(
                f"{folder}: begun with other {', '.join(other)}; give the same command to go on, "
                "or remove this folder to start anew"
            )
    if before != settings:
        with outputs.whole_file(card, "w", encoding="utf-8") as stream:
            json.dump(settings, stream)
    starts = range(0, len(images), size)
    yield {folder / f"{start:010}.npz": images[start : start + size] for start in starts}
    card.unlink()
    shutil.rmtree(folder)


def write(path: Path, part: Part) -> None:
    with outputs.whole_file(path) as stream:
        np.savez(
            stream,
            names=np.array(part.names, np.str_),
            embeddings=part.embeddings,
            skipped=np.array(part.skipped, np.str_).reshape(-1, 3),
        )


def read(path: Path, key: str) -> np.ndarray:
    """An array of a part: "names" (n,), "embeddings" (n, W) or (n, C, W), "skipped" (m, 3)."""
    try:
        with np.load(path, allow_pickle=False) as part:
            return part[key]
    except Exception:  # NumPy and zipfile raise many kinds on broken files
        raise InputError(
            f"{path}: cannot be read (is another embed.py at work here?); remove it and give the "
            "same command: its images are done again"
        ) from None
