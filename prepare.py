"""Labelled face embeddings to TFRecords for training and testing.

Takes age and gender from columns of these names or else from UTKFace's file names, shuffles, and
puts some aside for testing. Writes train.tfrecords and test.tfrecords, and faces under --min-age
apart: children.tfrecords, and a tenth of them in children_test.tfrecords. Counts the test faces
that have a copy in training; --split identity keeps copies on one side. Rows of one name are views
of one face: the test takes the first of them, and no two files share them.

examples:
  python prepare.py
  python prepare.py --features data/mine.npz
  python prepare.py --features "csv_folder/*.csv" --output my_records --test-size 500
  python prepare.py --split identity
"""

import os
import sys

if __name__ == "__main__":
    sys.path[:0] = [os.path.dirname(__file__)] * sys.flags.safe_path  # python -P leaves it out
    from age_gender import startup

    startup.begin()
# isort: split
import argparse
import contextlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from age_gender import cli, copies, embedding_space, files, paths
from age_gender.cli import InputError
from age_gender.readers import tables

CHILDREN_TESTED = 0.1  # share of the faces under --min-age that is put aside for testing


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    output = files.make_folder(args.output)
    table = tables.read_labelled(args.features, tables.read_options(args, labels=True))
    unit, _ = embedding_space.examine(table.features, table.names, "the features", "embeddings: ")
    labelled = (table.age >= 0) & (table.gender >= 0)
    is_child = labelled & (table.age < args.min_age)
    is_grown = labelled & ~is_child
    first: dict[str, int] = {}  # row of a name: rows of one name are views of one face
    face = np.array([first.setdefault(name, row) for row, name in enumerate(table.names)])
    is_first = face == np.arange(len(face))

    faces = np.flatnonzero(is_grown & is_first)
    test, train, group = split_faces(faces, unit, args)
    young = np.random.default_rng([args.seed, 1]).permutation(np.flatnonzero(is_child & is_first))
    children, children_test = np.split(young, [round((1 - CHILDREN_TESTED) * len(young))])
    # The other views of a face follow it into training; a test has each face once.
    views = np.flatnonzero(is_grown & ~is_first & np.isin(face, train))
    young_views = np.flatnonzero(is_child & ~is_first & np.isin(face, children))
    parts = {
        paths.TEST_RECORDS: test,
        paths.TRAIN_RECORDS: np.append(train, views),
        paths.CHILDREN_TEST_RECORDS: children_test,
        paths.CHILDREN_RECORDS: np.append(children, young_views),
    }
    write_records({output / path.name: rows for path, rows in parts.items()}, table)

    where = "row" if table.has_columns else "name"
    for row in np.flatnonzero(~labelled):
        cli.say(f"no age and gender in this {where}: {cli.printable(table.names[row])}")
    print(f"read {len(face)}")
    print(f"dropped as under {args.min_age}: {is_child.sum()}")
    print(f"skipped as unreadable names: {(~labelled).sum()}")
    print(f"train: {len(train)}, test: {len(test)}")
    print(f"test faces with a copy in training: {np.isin(group[test], group[train]).sum()}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--features", nargs="+", default=[paths.EMBEDDINGS], metavar="FILE",
        help="tables of embeddings (NPZ, CSV, NPY, Parquet, JSON, SQLite), globs or "
        "folders")  # fmt: skip
    tables.add_options(parser)
    add("--output", type=Path, default=paths.DATA, metavar="DIR",
        help="folder for the records")  # fmt: skip
    add("--min-age", type=cli.whole_number(0), default=10, metavar="YEARS",
        help="faces below this age go to children.tfrecords")  # fmt: skip
    add("--test-size", type=cli.whole_number(1), default=1500, metavar="N",
        help="faces put aside for testing")  # fmt: skip
    add("--seed", type=cli.whole_number(0), default=0, metavar="N", help="seed of the shuffle")
    add("--split", choices=("random", "identity"), default="random",
        help="random, as the original experiment; identity keeps copies of a face on one "
        "side")  # fmt: skip
    return parser.parse_args(argv)


def split_faces(faces: np.ndarray, unit: np.ndarray, args: argparse.Namespace):
    """Rows for the test and for training, and the group of copies of each row (n,).

    Raises InputError where there are too few faces, or their groups cannot be split that way.
    """
    if len(faces) == 0:
        raise InputError(
            "no face has an age and gender in its name and is old enough; names follow UTKFace: "
            "[age]_[gender]_[race]_[date&time].jpg (or give the table columns age and gender)"
        )
    size = args.test_size
    if size >= len(faces):
        raise InputError(f"--test-size {size} leaves none of {len(faces)} faces; name fewer")
    shuffled = np.random.default_rng(args.seed).permutation(faces)
    by_group = args.split == "identity"
    group = copies.find_copies(unit, faces, faces if by_group else shuffled[:size])
    test = whole_groups(shuffled, group, size) if by_group else shuffled[:size]
    return test, shuffled[~np.isin(shuffled, test)], group


def whole_groups(shuffled: np.ndarray, group: np.ndarray, size: int) -> np.ndarray:
    """The `size` test faces: the first whose groups of copies fit in whole."""
    members: dict[int, list[int]] = {}
    for face in shuffled.tolist():
        members.setdefault(group[face], []).append(face)
    test: list[int] = []
    for group_members in members.values():  # in the order of their first member
        if len(test) + len(group_members) <= size:
            test += group_members
    if len(test) < size:
        raise InputError(f"--test-size {size}: the groups of copies cannot be split that way")
    return np.array(test)


def write_records(parts: dict[Path, np.ndarray], table: tables.Table) -> None:
    """Write the rows of each file, with a progress bar; all take their names at the end.

    Killed in between, it must not leave a new test file beside an old training file. Where there
    is no child, an earlier run's children go: they may be of another kind.
    """
    cli.import_tensorflow()
    from age_gender import records

    names, features, age, gender, _ = table
    with contextlib.ExitStack() as together:
        for path, rows in parts.items():
            if len(rows):
                bar = tqdm(rows.tolist(), path.name, unit="face", disable=None)
                faces = ((features[i], int(age[i]), int(gender[i]), names[i]) for i in bar)
                records.write(together.enter_context(files.whole_path(path)), faces)
            else:
                path.unlink(missing_ok=True)


if __name__ == "__main__":
    cli.run(main)
