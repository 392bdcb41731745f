"""Image files to embeddings, wherever that is done: in a thread, a process, another machine."""

import argparse
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from age_gender.cli import InputError, error_line
from age_gender.photographs import faces
from age_gender.photographs.chips import png
from age_gender.photographs.images import Skipped, fixed_crop, read_image
from age_gender.photographs.networks import Network
from age_gender.photographs.views import views
from age_gender.readers.names import text_name


@dataclasses.dataclass
class Embedder:
    """Names of images below `root` to what they give, in any thread; it loads its network once.

    `how` are the arguments of embed.py, with their template and margin settled.
    """

    root: str
    network: Network
    how: argparse.Namespace

    embed, loading = None, threading.Lock()  # of the class: what is not loaded yet can travel

    def load(self) -> None:
        """Load the network; harmless if it is there."""
        import cv2

        with self.loading:
            if self.embed is None:
                cv2.setNumThreads(1)  # batches on several threads use the processors better
                self.embed = self.network.load(self.network.content, self.network.path)

    @functools.cached_property
    def detector(self) -> Callable:
        from age_gender.photographs.detector import Detector

        return Detector()

    def __call__(self, images: Sequence[str]) -> tuple[dict[str, np.ndarray], list[bytes]]:
        """Arrays, and the chips as PNG where they are asked for.

        The arrays are `names` (n,), `embeddings`, float32 (n, width), with views (n, crops,
        width), and `skipped` (m, 3): name, reason, "unreadable" or "without a face".
        """
        self.load()
        names, chips, skipped = [], [], []
        for image in images:
            name = text_name(image)
            try:
                found = self.chips_of(os.path.join(self.root, image), name)
            except Skipped as reason:
                skipped.append((name, str(reason), "unreadable"))
                continue
            if not found:
                skipped.append((name, "no face found", "without a face"))
            count = 1 if self.how.views else len(found)
            names += [name] if count == 1 else [f"{name}#{i + 1}" for i in range(count)]
            chips += found
        size = self.how.batch_size
        rows = [self.embed(np.stack(chips[i : i + size])) for i in range(0, len(chips), size)]
        embeddings = np.concatenate(rows) if rows else np.empty((0, 0), np.float32)
        if self.how.views and names:
            embeddings = embeddings.reshape(len(names), -1, embeddings.shape[1])
        arrays = {"names": np.array(names, np.str_), "embeddings": embeddings,
                  "skipped": np.array(skipped, np.str_).reshape(-1, 3)}  # fmt: skip
        return arrays, [png(chip) for chip in chips] if self.how.chips else []

    def chips_of(self, path: str, name: str) -> list[np.ndarray]:
        """The chips, RGB (size, size, 3), of the faces in one image. Raises Skipped."""
        how, size = self.how, self.network.size
        try:
            image = read_image(path)
            if how.views:
                return [*views(image, name, how.template, size, self.detector)]
            if how.aligned:
                return [faces.from_utkface(image, how.template, size)]
            if how.crop:
                return [fixed_crop(image, how.crop, size)]
            found = faces.find_faces(image, self.detector, how.faces)
            return [faces.align(image, points, how.template, how.margin, size) for points in found]
        except Skipped as reason:
            if Path(self.root).is_dir():
                raise
            raise InputError(
                f"{self.root}: not seen where the work is done ({reason}); put the images "
                "where every Dask worker has them under this path"
            ) from None
        except MemoryError:
            raise
        except Exception as error:  # OpenCV's, on any picture in the world
            raise Skipped(f"the face detector failed: {error_line(error)}") from error
