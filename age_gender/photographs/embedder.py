"""Image files to embeddings, wherever that is done: in a thread, a process, another machine."""

import dataclasses
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender.photographs import facenet, faces, litert
from age_gender.photographs.chips import png
from age_gender.photographs.detector import Detector
from age_gender.photographs.images import Skipped, fixed_crop, read_image
from age_gender.photographs.views import CROPS, views
from age_gender.script import InputError, error_line
from age_gender.tables.names import text_name


class Part(NamedTuple):
    """What a batch of images gave."""

    names: list[str]
    embeddings: np.ndarray  # float32 (n, width), with views (n, crops, width)
    chips: list[bytes]  # PNG, where they are asked for
    skipped: list[tuple[str, str, str]]  # name, reason, "unreadable" or "without a face"


@dataclasses.dataclass
class Embedder:
    """Names of images below `root` to a Part, in any thread; what it needs it loads once."""

    root: str
    network: bytes
    network_path: Path
    litert: bool  # or a frozen FaceNet graph
    size: int  # of the network's chips, in pixels
    template: str
    aligned: bool
    crop: tuple[int, int, int, int] | None
    margin: float
    faces: str
    chips: bool
    views: bool
    batch_size: int

    def __post_init__(self) -> None:
        self.loading, self.embed, self.thread = threading.Lock(), None, threading.local()

    def __reduce__(self):  # the settings travel; locks and networks cannot
        return type(self), dataclasses.astuple(self)

    def load(self) -> None:
        """Load the network; harmless if it is there."""
        import cv2

        with self.loading:
            if self.embed is None:
                cv2.setNumThreads(1)  # batches on several threads use the processors better
                load = litert.load_embedder if self.litert else facenet.load_facenet
                self.embed = load(self.network, self.network_path)

    def __call__(self, images: Sequence[str]) -> Part:
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
            chips += found
            count = len(found) // (len(CROPS[self.template]) if self.views else 1)
            names += [name] if count == 1 else [f"{name}#{i + 1}" for i in range(count)]
        embeddings = [np.empty((0, 0), np.float32)] if not chips else []
        for start in range(0, len(chips), self.batch_size):
            embeddings.append(self.embed(np.stack(chips[start : start + self.batch_size])))
        embeddings = np.concatenate(embeddings)
        if self.views and names:
            embeddings = embeddings.reshape(len(names), -1, embeddings.shape[1])
        pngs = [png(chip) for chip in chips] if self.chips else []
        return Part(names, embeddings, pngs, skipped)

    def chips_of(self, path: str, name: str) -> list[np.ndarray]:
        """The chips, RGB (size, size, 3), of the faces in one image. Raises Skipped."""
        try:
            image = read_image(path)
        except Skipped as reason:
            if Path(self.root).is_dir():
                raise
            raise InputError(
                f"{self.root}: not seen where the work is done ({reason}); put the images "
                "where every Dask worker has them under this path"
            ) from None
        try:
            if self.views:
                how = name, self.template, self.size, self.detector()
                return list(views(image, *how))
            if self.aligned:
                return [faces.from_utkface(image, self.template, self.size)]
            if self.crop:
                return [fixed_crop(image, self.crop, self.size)]
            found = faces.find_faces(image, self.detector(), self.faces)
            how = self.template, self.margin, self.size
            return [faces.align(image, landmarks, *how) for landmarks in found]
        except (Skipped, MemoryError):
            raise
        except Exception as error:  # OpenCV's, on any picture in the world
            raise Skipped(f"the face detector failed: {error_line(error)}") from error

    def detector(self) -> Detector:
        """This thread's."""
        if not hasattr(self.thread, "detector"):
            self.thread.detector = Detector()
        return self.thread.detector
