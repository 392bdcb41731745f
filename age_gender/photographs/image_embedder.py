"""Embed the faces in image files, in a thread, a process or on another machine."""

import functools
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from age_gender.errors import InputError, error_line, is_resource_shortage
from age_gender.photographs import faces
from age_gender.photographs.batch_results import BatchResult
from age_gender.photographs.chips import encode_png
from age_gender.photographs.images import NoFace, Skipped, crop_rectangle, is_one_colour, read_image
from age_gender.photographs.networks import EmbeddingNetwork, EmbedFunction
from age_gender.photographs.views import make_views
from age_gender.readers.names import text_name


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """Hold the crop options of embed.py, resolved for a network."""

    faces: str  # "all", "largest" or "central"
    aligned: bool
    crop: list[int] | None  # top, bottom, left, right
    margin: float  # percent
    template: str  # a key of faces.TEMPLATES
    views: bool


@dataclass
class ImageEmbedder:
    """Map names of images below `root` to their faces and embeddings, in any thread."""

    root: str
    network: EmbeddingNetwork
    options: CropOptions
    batch_size: int  # chips that the network takes at a time
    keeps_chips: bool = False
    embed_chips: EmbedFunction | None = None  # the loaded network, which cannot be pickled

    def load_network(self) -> EmbedFunction:
        """Return the network, loaded by the first call."""
        if self.embed_chips is None:
            import cv2

            cv2.setNumThreads(1)  # batches on several threads use the processors better
            self.embed_chips = self.network.load()
        return self.embed_chips

    @functools.cached_property
    def detector(self) -> Callable:
        """Return the detector, loaded when it is first used."""
        from age_gender.photographs.detector import Detector

        return Detector()

    def __call__(self, images: Sequence[str]) -> tuple[BatchResult, list[bytes]]:
        """Return the faces of a batch of images and, with `keeps_chips`, their chips as PNG."""
        # Crop the chips of all faces, and note why an image has none
        names, chips, skipped = [], [], []
        for image in images:
            name = text_name(image)
            try:
                face_chips = self.crop_faces(os.path.join(self.root, image), name)
            except Skipped as reason:
                skipped.append((name, str(reason), reason.category))
                continue
            numbered = [f"{name}#{number}" for number in range(1, len(face_chips) + 1)]
            names += numbered if len(face_chips) > 1 else [name]
            chips += itertools.chain(*face_chips)

        # Embed them
        embed_chips, size = self.load_network(), self.batch_size
        starts = range(0, len(chips), size)
        rows = [embed_chips(np.stack(chips[start : start + size])) for start in starts]
        embeddings = np.concatenate(rows) if rows else np.empty((0, 0), np.float32)
        if not np.isfinite(embeddings).all():
            raise InputError(
                f"{self.network.path}: returned NaN or infinity for one of the faces {names[0]} to "
                f"{names[-1]}; give another network"
            )
        if self.options.views and names:
            embeddings = embeddings.reshape(len(names), -1, embeddings.shape[1])
        skipped_texts = np.array(skipped, np.str_).reshape(-1, 3)
        result = BatchResult(np.array(names, np.str_), embeddings, skipped_texts)
        return result, [encode_png(chip) for chip in chips] if self.keeps_chips else []

    def crop_faces(self, path: str, name: str) -> list[list[np.ndarray]]:
        """Return the chips, RGB (size, size, 3), of each face in one image.

        A face has one chip or, with `views`, one through each crop. Raises Skipped for an image
        without a face.
        """
        try:
            image = read_image(path)
            all_faces = self._crop_all(image, name)
            face_chips = [chips for chips in all_faces if not is_one_colour(chips[0])]
            if not face_chips:
                is_blank = all_faces or is_one_colour(image)
                raise NoFace("no face found" + (": all of one colour" if is_blank else ""))
            return face_chips
        except Skipped as reason:
            if Path(self.root).is_dir():
                raise
            raise InputError(
                f"{self.root}: this folder does not exist on the worker ({reason}); with --dask, "
                "every worker needs the images under this path"
            ) from None
        except Exception as error:  # OpenCV may raise any type on an unusual picture
            if is_resource_shortage(error):
                raise
            raise Skipped(f"this image could not be processed: {error_line(error)}") from error

    def _crop_all(self, image: np.ndarray, name: str) -> list[list[np.ndarray]]:
        """Return the chips of each face in an image, cropped by the options; blank ones too."""
        options, size = self.options, self.network.chip_size
        if options.views:
            return [[*make_views(image, name, options.template, size, self.detector)]]
        if options.aligned:
            return [[faces.align_utkface(image, options.template, size)]]
        if options.crop:
            return [[crop_rectangle(image, options.crop, size)]]
        landmarks = faces.find_landmarks(image, self.detector, options.faces)
        template = options.template, options.margin, size
        return [[faces.align(image, points, *template)] for points in landmarks]
