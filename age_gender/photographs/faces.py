"""Find the faces of a photograph and align them like the chips of a network's training."""

from collections.abc import Callable

import numpy as np

from age_gender.photographs.images import resize

# Positions of eyes, nose and corners of the mouth, and the side of their chip, in pixels: UTKFace's
# mean landmarks, and the template of ArcFace (Deng et al., insightface), the field's standard.
TEMPLATES = {
    "utkface": (np.array([[63, 62], [142, 62], [103, 110], [67, 142], [138, 141]], float), 200),
    "arcface": (np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366],
                          [41.5493, 92.3655], [70.7299, 92.2041]]), 112),
}  # fmt: skip
UTKFACE_LANDMARKS, UTKFACE_SIZE = TEMPLATES["utkface"]
DETECTION_PIXELS = 1280  # longer side to which larger photographs are shrunk for detection


def find_landmarks(image: np.ndarray, detector: Callable, choice: str) -> list[np.ndarray]:
    """Return the landmarks (5, 2) of the faces in an image, in pixels, from left to right.

    `detector` maps a picture as `detector.Detector` does. `choice` is "all", "largest" or
    "central": the face with the largest area minus twice its centre's squared distance from the
    picture's centre, in pixels (David Sandberg's rule for FaceNet).
    """
    scale = min(1.0, DETECTION_PIXELS / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    rectangles, landmarks = detector(resize(image, width, height) if scale < 1 else image)
    order = np.argsort(rectangles[:, 0], kind="stable")
    if choice != "all" and len(order):
        score = rectangles[:, 2] * rectangles[:, 3]
        if choice == "central":
            centres = rectangles[:, :2] + rectangles[:, 2:] / 2
            offsets = centres - np.array([width, height]) / 2
            score = score - 2 * (offsets**2).sum(axis=1)
        order = order[[score[order].argmax()]]
    return list(landmarks[order] * (image.shape[1] / width))


def fit_similarity(points: np.ndarray, target: np.ndarray) -> tuple[complex, complex]:
    """Return a and b of the similarity w = a z + b that fits points to targets best.

    It is the least-squares fit. Points and targets are (n, 2) in pixels, taken as complex numbers
    x + iy.
    """
    z, w = points @ [1, 1j], target @ [1, 1j]
    centred = z - z.mean()
    a = np.vdot(centred, w) / np.vdot(centred, centred)
    return a, w.mean() - a * z.mean()


def warp(image: np.ndarray, a: complex, b: complex, size: int) -> np.ndarray:
    """Return the image moved by w = a z + b (complex pixel positions), cropped to `size` pixels."""
    import cv2

    if abs(a) < 0.7:  # warpAffine samples 2 x 2 pixels only: shrink by area averaging first
        height, width = (max(1, round(side * abs(a))) for side in image.shape[:2])
        a, image = a * (image.shape[1] / width), resize(image, width, height)
    matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    return cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)


def align(
    image: np.ndarray, landmarks: np.ndarray, template: str, margin: float, size: int
) -> np.ndarray:
    """Return a chip of `size` pixels with its landmarks (5, 2) as near the template's as possible.

    The sides of the chip are `margin` percent longer than those of the template's chip.
    """
    points, side = TEMPLATES[template]
    chip_side = side * (1 + margin / 100)
    target = (points + (chip_side - side) / 2) * (size / chip_side)
    return warp(image, *fit_similarity(landmarks, target), size)


def align_utkface(image: np.ndarray, template: str, size: int) -> np.ndarray:
    """Return one of UTKFace's chips aligned to a template, by UTKFace's mean landmarks."""
    if template == "utkface":
        return resize(image, size, size)
    landmarks = UTKFACE_LANDMARKS * (np.array(image.shape[1::-1]) / UTKFACE_SIZE)
    return align(image, landmarks, template, 0, size)
