"""Embeddings of UTKFace images to TFRecords for training and testing.

Takes age and gender from the UTKFace file names, leaves out faces that are too young, shuffles,
and puts some aside for testing. Writes train.tfrecords and test.tfrecords.

examples:
  python prepare.py
  python prepare.py --features data/mine.npz
  python prepare.py --features "csv_folder/*.csv" --output my_records --test-size 500
"""

from pathlib import Path

import numpy as np
from tqdm import tqdm

import embeddings
import files
from files import InputError


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    output = files.make_folder(args.output)
    names, features = embeddings.read(args.features)
    faces, age, gender, too_young, unreadable = label(names, args.min_age)
    check_counts(len(faces), args.test_size)
    order = faces[np.random.default_rng(args.seed).permutation(len(faces))]
    parts = {
        output / files.TEST_RECORDS.name: order[: args.test_size],
        output / files.TRAIN_RECORDS.name: order[args.test_size :],
    }
    write_records(parts, names, features, age, gender)
    for name in unreadable:
        files.say(f"no age and gender in this name: {name}")
    print(f"read {len(names)}")
    print(f"dropped as under {args.min_age}: {too_young}")
    print(f"skipped as unreadable names: {len(unreadable)}")
    print(f"train: {len(order) - args.test_size}, test: {args.test_size}")


def parse_arguments(argv: list[str] | None):
    parser = files.ArgumentParser(__doc__)
    parser.add_argument(
        "--features", nargs="+", default=[files.EMBEDDINGS], metavar="FILE",
        help="tables of embeddings (NPZ, CSV, NPY, Parquet), globs or folders",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=files.DATA, metavar="DIR", help="folder for the records"
    )
    parser.add_argument(
        "--min-age", type=files.whole_number(0), default=10, metavar="YEARS",
        help="faces below this age are left out",
    )  # fmt: skip
    parser.add_argument(
        "--test-size", type=files.whole_number(1), default=1500, metavar="N",
        help="faces put aside for testing",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=files.whole_number(0), default=0, metavar="N", help="seed of the shuffle"
    )
    return parser.parse_args(argv)


def label(names: list[str], min_age: int):
    """Places of the usable faces (n,), all ages and genders, and what was left out."""
    labels = [embeddings.utkface_labels(name) for name in names]
    unreadable = [name for name, found in zip(names, labels, strict=True) if found is None]
    age = np.array([found[0] if found else -1 for found in labels])
    gender = np.array([found[1] if found else -1 for found in labels])
    faces = np.flatnonzero(age >= min_age)
    too_young = int(((age >= 0) & (age < min_age)).sum())
    return faces, age, gender, too_young, unreadable


def check_counts(faces: int, test_size: int) -> None:
    if faces == 0:
        raise InputError(
            "no face has an age and gender in its name and is old enough; names follow UTKFace: "
            "[age]_[gender]_[race]_[date&time].jpg"
        )
    if test_size >= faces:
        raise InputError(f"--test-size {test_size} leaves nothing of {faces} faces to train on")


def write_records(parts: dict[Path, np.ndarray], names, features, age, gender) -> None:
    """Write each file's faces, with a progress bar."""
    files.import_tensorflow()
    import records

    for path, order in parts.items():
        bar = tqdm(order, path.name, unit="face", disable=None)  # on a terminal only
        records.write(path, ((features[i], int(age[i]), int(gender[i]), names[i]) for i in bar))


if __name__ == "__main__":
    files.run_script(main)
