"""Image files to embeddings, wherever that is done: in a thread, a process, another machine."""

import dataclasses
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender.photographs import facenet, faces
from age_gender.photographs.chips import png
from age_gender.photographs.images import CHIP, Skipped, fixed_crop, read_image, resize
from age_gender.script import InputError, error_line
from age_gender.tables.names import text_name
from age_gender.tables.pieces import DIMENSIONS


class Part(NamedTuple):
    """What a batch of images gave."""

    names: list[str]
    embeddings: np.ndarray  # float32 (n, 512)
    chips: list[bytes]  # PNG, where they are asked for
    skipped: list[tuple[str, str, str]]  # name, reason, "unreadable" or "without a face"


@dataclasses.dataclass
class Embedder:
    """Names of images below `root` to a Part, in any thread; what it needs it loads once."""

    root: str
    graph: bytes
    graph_path: Path
    aligned: bool
    crop: tuple[int, int, int, int] | None
    margin: float
    largest: bool
    chips: bool
    batch_size: int

    def __post_init__(self) -> None:
        self.loading, self.facenet, self.thread = threading.Lock(), None, threading.local()

    def __reduce__(self):  # the settings travel; locks and networks cannot
        return type(self), dataclasses.astuple(self)

    def load(self) -> None:
        """Load the network; harmless if it is there."""
        import cv2

        with self.loading:
            if self.facenet is None:
                cv2.setNumThreads(1)  # batches on several threads use the processors better
                self.facenet = facenet.load_facenet(self.graph, self.graph_path)

    def __call__(self, images: Sequence[str]) -> Part:
        self.load()
        names, chips, skipped = [], [], []
        for image in images:
            name = text_name(image)
            try:
                found = self.chips_of(os.path.join(self.root, image))
            except Skipped as reason:
                skipped.append((name, str(reason), "unreadable"))
                continue
            if not found:
                skipped.append((name, "no face found", "without a face"))
            chips += found
            names += [name] if len(found) == 1 else [f"{name}#{i + 1}" for i in range(len(found))]
        embeddings = [np.empty((0, DIMENSIONS), np.float32)]
        for start in range(0, len(chips), self.batch_size):
            embeddings.append(self.facenet(np.stack(chips[start : start + self.batch_size])))
        pngs = [png(chip) for chip in chips] if self.chips else []
        return Part(names, np.concatenate(embeddings), pngs, skipped)

    def chips_of(self, path: str) -> list[np.ndarray]:
        """The chips, uint8 RGB (160, 160, 3), of the faces in one image. Raises Skipped."""
        try:
            image = read_image(path)
        except Skipped as reason:
            if Path(self.root).is_dir():
                raise
            raise InputError(
                f"{self.root}: not seen where the work is done ({reason}); put the images "
                "where every Dask worker has them under this path"
            ) from None
        if self.aligned:
            return [resize(image, CHIP, CHIP)]
        if self.crop:
            return [fixed_crop(image, self.crop)]
        if not hasattr(self.thread, "detector"):
            self.thread.detector = faces.make_detector()
        try:
            found = faces.find_faces(image, self.thread.detector, self.largest)
            return [faces.align(image, landmarks, self.margin) for landmarks in found]
        except Exception as error:  # an unmaintained library on any picture in the world
            raise Skipped(f"the face detector failed: {error_line(error)}") from error
