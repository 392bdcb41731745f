"""Write labelled face embeddings as TFRecords for training and testing.

Reads ages and genders from the columns age and gender (sex, Male, female), else from UTKFace's file
names, shuffles, and puts some faces aside for testing: train.tfrecords and test.tfrecords. Faces
under --min-age go to children.tfrecords, a tenth of them to children_test.tfrecords. Rows with
the same name, age and gender count as views of one face: a training face keeps all of them, a test
face only the first. Counts the test faces that have a copy in training; --split identity
keeps copies on one side.

examples:
  python prepare.py
  python prepare.py --features data/mine.npz
  python prepare.py --features "csv_folder/*.csv" --output my_records --test-size 500
  python prepare.py --features my.csv --gender-codes 1=male,2=female
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
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from age_gender import cli, copies, embedding_space, files, label_columns, paths
from age_gender.cli import InputError, counted, printable
from age_gender.label_columns import gender_codes_option as as_option
from age_gender.labels import GENDERS
from age_gender.readers import tables
from age_gender.scoring import choice, label_checks

RECORDS = (paths.TRAIN_RECORDS, paths.TEST_RECORDS, paths.CHILDREN_RECORDS,
           paths.CHILDREN_TEST_RECORDS)  # fmt: skip
CHILDREN_TEST_FRACTION = 0.1  # of the faces under --min-age, for testing


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    inputs = [*tables.expand(args.features), *filter(None, [args.names])]
    output = files.make_folder(args.output)
    for path in RECORDS:
        files.check_overwrites_none(output / path.name, inputs)
    table = tables.read_labelled(args.features, tables.read_options(args, labels=True))
    notes = [f"columns left out: {', '.join(table.left_out)}"] * bool(table.left_out)
    notes.append(describe_embeddings(table))
    unit = embedding_space.unit(table.features)

    # Labels, and the faces that have both.
    age = label_columns.read_ages(table.ages, args.min_age)
    gender, warning = read_genders(table, age, args.gender_codes)
    notes += [f"genders: {as_option(table.genders, gender)}", *filter(None, [warning])]
    is_labelled = (age >= 0) & (gender >= 0)
    is_child = is_labelled & (age < args.min_age)
    face = group_views(table, age, gender, is_labelled)
    is_first = is_labelled & (face == np.arange(len(face)))

    # The split. The other views of a face follow it into training.
    faces, children = np.flatnonzero(is_first & ~is_child), np.flatnonzero(is_first & is_child)
    if not args.gender_codes and len({*gender[faces]}) == 1:
        raise InputError(
            f"all {len(faces):,} faces to train and test on are {GENDERS[gender[faces[0]]]}; if "
            f"that is right, say so: --gender-codes {as_option(table.genders, gender)}"
        )
    test, train, group = split_faces(faces, unit, args.test_size, args.split, args.seed)
    children = np.random.default_rng([args.seed, 1]).permutation(children)
    children, children_test = np.split(
        children, [round((1 - CHILDREN_TEST_FRACTION) * len(children))]
    )
    other_views = np.flatnonzero(is_labelled & ~is_first)
    views_of_train = other_views[np.isin(face[other_views], train)]
    views_of_children = other_views[np.isin(face[other_views], children)]
    parts = {
        paths.TEST_RECORDS: test,
        paths.TRAIN_RECORDS: np.append(train, views_of_train),
        paths.CHILDREN_TEST_RECORDS: children_test,
        paths.CHILDREN_RECORDS: np.append(children, views_of_children),
    }
    write_records({output / path.name: rows for path, rows in parts.items()}, table, age, gender)

    # What was read, and what became of every row.
    for note in notes:
        cli.say(printable(note))
    counts = {
        "train": len(parts[paths.TRAIN_RECORDS]),
        "test": len(test),
        "children": len(parts[paths.CHILDREN_RECORDS]) + len(children_test),
        "without labels": int((~is_labelled).sum()),
        "repeated": len(other_views) - len(views_of_train) - len(views_of_children),
    }
    copied = np.isin(group[test], group[train]).sum()
    report(table, age, gender, counts)
    print(f"test faces with a copy in training: {copied}")


def report(
    table: tables.Table, age: np.ndarray, gender: np.ndarray, counts: dict[str, int]
) -> None:
    """Print what became of every row: rows without labels one by one, the others by `counts`."""
    is_labelled = (age >= 0) & (gender >= 0)
    for row, (path, number) in enumerate(label_columns.sources(table.ages)):
        if not is_labelled[row]:
            missing = " and no gender" * int(gender[row] < 0)
            missing = f"no age{missing}" if age[row] < 0 else "no gender"
            cli.say(printable(f"{path}: row {number}: {missing}: {table.names[row]}"))
    if sum(counts.values()) != len(age):
        raise RuntimeError(f"{len(age)} rows were read, and {counts} written or left out")
    men, women = ((gender[is_labelled] == code).sum() for code in range(len(GENDERS)))
    print(f"read {len(age)}")
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    print(f"men: {men}, women: {women}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--features", nargs="+", default=[paths.EMBEDDINGS], metavar="FILE",
        help="tables of embeddings (NPZ, CSV, NPY, Parquet, JSON, SQLite), globs or "
        "folders")  # fmt: skip
    tables.add_options(parser)
    add("--output", type=Path, default=paths.DATA, metavar="DIR",
        help="folder for the records")  # fmt: skip
    add("--gender-codes", type=label_columns.parse_gender_codes, action="append",
        default=[], metavar="VALUE=male,VALUE=female",
        help="meaning of the values in the gender column, such as 1=male,2=female; VALUE=unknown "
        "for a missing one; given twice, also against a trained model's estimates")  # fmt: skip
    add("--min-age", type=cli.whole_number(0), default=10, metavar="YEARS",
        help="faces below this age go to children.tfrecords")  # fmt: skip
    add("--test-size", type=cli.whole_number(1), default=1500, metavar="N",
        help="faces put aside for testing")  # fmt: skip
    add("--seed", type=cli.whole_number(0, 2**32 - 1), default=0, metavar="N",
        help="seed of the shuffle")  # fmt: skip
    add("--split", choices=("random", "identity"), default="random",
        help="random, as the original experiment; identity keeps copies of a face on one "
        "side")  # fmt: skip
    return parser.parse_args(join_gender_codes(sys.argv[1:] if argv is None else argv))


def join_gender_codes(arguments: list[str]) -> list[str]:
    """Return the arguments with --gender-codes joined to its value by an equals sign.

    The value may begin with a minus (-1=female,1=male), which argparse takes for an option.
    """
    joined = [*arguments]
    for index in reversed(range(len(joined) - 1)):
        if joined[index] == "--gender-codes":
            joined[index : index + 2] = ["=".join(joined[index : index + 2])]
    return joined


def describe_embeddings(table: tables.Table) -> str:
    """Return a line on the embeddings. Raises InputError where some are of another network."""
    model, is_ood = choice.find_out_of_distribution(table.features)
    network = f", of the network of models/{model}" if model else ""
    length = embedding_space.median_length(table.features)
    if is_ood.any():
        first = int(is_ood.argmax())
        path, number = next(itertools.islice(label_columns.sources(table.ages), first, None))
        raise InputError(
            f"{path}: row {number}: {printable(table.names[first])} is an embedding of another "
            f"network than most of the rows, as are {is_ood.sum():,} of {len(is_ood):,} in "
            "all; leave these out or embed all faces with one network"
        )
    return f"embeddings of {table.features.shape[1]} numbers, median length {length:.3g}{network}"


def read_genders(
    table: tables.Table, age: np.ndarray, given: list[dict[str, int]]
) -> tuple[np.ndarray, str]:
    """Return genders (n,), 0 male, 1 female, -1 where it is missing, and a warning of the ages.

    `given` are the codes of each --gender-codes. Raises InputError where the column may mean two
    things, or where a trained model sees the other gender in most faces. The user insists by codes
    that are what the column means without them, or that are given twice.
    """
    codes = {value: code for part in given for value, code in part.items()}
    for value, _ in (code for part in given for code in part.items() - codes.items()):
        raise InputError(f"--gender-codes: {value!r} is given two genders; give it one")
    gender = label_columns.read_genders(table.genders, codes)
    insists = len(given) > 1
    if codes and not insists:
        with contextlib.suppress(InputError):
            plain = label_columns.read_genders(table.genders, {})
            insists = np.array_equal(gender, plain)
    rows = np.flatnonzero((age >= 0) & (gender >= 0))
    doubts = label_checks.check(table.features[rows], age[rows], gender[rows])
    if doubts.genders and not insists:
        as_read = as_option(table.genders, gender)
        other_way = as_option(table.genders, np.where(gender >= 0, 1 - gender, -1))
        twice = " given twice" * bool(codes)
        raise InputError(
            f"{doubts.genders}; if they are the wrong way round: --gender-codes {other_way}; if "
            f"they are right: --gender-codes {as_read}{twice}"
        )
    return gender, doubts.ages and f"warning: {doubts.ages}"


def group_views(
    table: tables.Table, age: np.ndarray, gender: np.ndarray, is_labelled: np.ndarray
) -> np.ndarray:
    """Return the first row of the face of each row (n,): labelled rows of one name are of one face.

    Raises InputError where their labels differ, with the name and both rows.
    """
    first: dict[str, int] = {}
    face = np.arange(len(age))
    for row in np.flatnonzero(is_labelled).tolist():
        name = table.names[row]
        face[row] = other = first.setdefault(name, row)
        if (age[row], gender[row]) == (age[other], gender[other]):
            continue
        sources = [*label_columns.sources(table.ages)]
        both = []
        for same in (other, row):
            path, number = sources[same]
            both.append(f"{path}: row {number} ({GENDERS[gender[same]]}, {age[same]})")
        is_one_file = sources[other][0] == sources[row][0]
        names, rows = len({*table.names}), len(table.names)
        remedy = "rows with one name are views of one face: name each photograph"
        if not is_one_file:
            remedy = "name the faces of the two files differently, or prepare the files separately"
        elif 2 * names <= rows:
            remedy = f"{counted(names, 'name')} for {rows:,} rows: persons', not photographs'?"
        remedy += "; another column of names: --name-column NAME" * is_one_file
        raise InputError(
            f"{both[0]} and {both[1]} have one name, {printable(name)}, but other labels; {remedy}"
        )
    return face


def split_faces(
    faces: np.ndarray, unit: np.ndarray, test_size: int, split: str, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows for the test, those for training, and the group of copies of each row (n,).

    Raises InputError where there are too few faces, or their groups cannot be split that way.
    """
    if len(faces) == 0:
        raise InputError(
            "no face of --min-age or older has both an age and a gender; give the table columns "
            "age and gender, or names like UTKFace's: [age]_[gender]_[race]_[date&time].jpg"
        )
    if test_size >= len(faces):
        count = counted(len(faces), "face")
        raise InputError(f"--test-size {test_size} leaves none of {count} to train on; lower it")
    shuffled = np.random.default_rng(seed).permutation(faces)
    by_group = split == "identity"
    group = copies.find_copies(unit, faces, faces if by_group else shuffled[:test_size])
    test = whole_groups(shuffled, group, test_size) if by_group else shuffled[:test_size]
    return test, shuffled[~np.isin(shuffled, test)], group


def whole_groups(shuffled: np.ndarray, group: np.ndarray, size: int) -> np.ndarray:
    """Return `size` faces for the test: the first whose groups of copies fit in whole.

    Raises InputError where none such are enough.
    """
    members: dict[int, list[int]] = {}
    for face in shuffled.tolist():
        members.setdefault(group[face], []).append(face)
    test: list[int] = []
    for group_members in members.values():  # in the order of their first member
        if len(test) + len(group_members) <= size:
            test += group_members
    if len(test) < size:
        raise InputError(
            f"--test-size {size} cannot be filled with whole groups of copies; choose another "
            "size, or --split random"
        )
    return np.array(test)


def write_records(
    parts: dict[Path, np.ndarray], table: tables.Table, age: np.ndarray, gender: np.ndarray
) -> None:
    """Write the rows of each file, with a progress bar; a file without rows goes.

    An earlier run's children may be of another network.
    """
    cli.import_tensorflow()
    from age_gender import records

    def faces(rows: np.ndarray, title: str) -> Iterator[tuple[np.ndarray, int, int, str]]:
        for i in tqdm(rows.tolist(), title, unit="face", disable=None):
            yield table.features[i], int(age[i]), int(gender[i]), table.names[i]

    records.write_all(
        {path: faces(rows, path.name) if len(rows) else None for path, rows in parts.items()}
    )


if __name__ == "__main__":
    cli.run(main)
