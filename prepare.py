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
  python prepare.py --split identity --report-duplicates duplicates.csv
"""

import argparse
import contextlib
import csv
from pathlib import Path

from age_gender import script

# isort: split
import numpy as np
from tqdm import tqdm

from age_gender import kinds, model_files, outputs
from age_gender.script import InputError
from age_gender.tables import reading

COPY = 0.98  # cosine above which two embeddings are of the same face in the same photograph
AXES = 100  # principal axes that carry the embeddings: enough to look for neighbours in
QUERIES, FACES = 2048, 65_536  # how many are compared with how many at a time
CHILDREN_TESTED = 0.1  # share of the faces under --min-age that is put aside for testing
FILES = [path.name for path in (
    model_files.TEST_RECORDS, model_files.TRAIN_RECORDS,
    model_files.CHILDREN_TEST_RECORDS, model_files.CHILDREN_RECORDS,
)]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    output = outputs.make_folder(args.output)
    if args.report_duplicates:
        outputs.check_writable(args.report_duplicates)
        inputs = reading.expand(args.features)
        records = [output / name for name in FILES]
        outputs.check_overwrites_none(args.report_duplicates, [*inputs, *records])
    table = reading.read_labelled(args.features, reading.wanted(args, labels=True))
    names, features, age, gender, _ = table
    unit = kinds.unit(features)
    kind = kinds.measure(unit)
    script.say(f"embeddings: {kinds.describe(features, kind)}")
    kinds.refuse_mixture(unit, kind, "the features", lambda place: names[place])
    unlabelled = (age < 0) | (gender < 0)
    is_child, is_grown = (
        ~unlabelled & young for young in (age < args.min_age, age >= args.min_age)
    )
    face = first_rows(names)
    is_face = face == np.arange(len(names))
    faces = np.flatnonzero(is_face & is_grown)
    check_counts(len(faces), args.test_size)
    shuffled = faces[np.random.default_rng(args.seed).permutation(len(faces))]
    by_group = args.split == "identity" or args.report_duplicates
    queries = faces if by_group else shuffled[: args.test_size]
    group = find_copies(unit, faces, queries, kind)
    del unit
    test = choose_test(shuffled, group, args.test_size, args.split)
    train = shuffled[~np.isin(shuffled, test)]
    children = np.random.default_rng([args.seed, 1]).permutation(np.flatnonzero(is_face & is_child))
    children, children_test = np.split(children, [round((1 - CHILDREN_TESTED) * len(children))])
    # The other views of a face follow it into training; a test has each face once.
    parts = (test, with_views(train, face, is_grown),
             children_test, with_views(children, face, is_child))  # fmt: skip
    write_records(output, parts, names, features, age, gender)
    if args.report_duplicates:
        report_duplicates(args.report_duplicates, faces, group, names, age, gender)
    where = "row" if table.has_columns else "name"
    unreadable = [names[place] for place in np.flatnonzero(unlabelled)]
    for name in unreadable:
        script.say(f"no age and gender in this {where}: {script.printable(name)}")
    print(f"read {len(names)}")
    print(f"dropped as under {args.min_age}: {is_child.sum()}")
    print(f"skipped as unreadable names: {len(unreadable)}")
    print(f"train: {len(train)}, test: {len(test)}")
    print(f"test faces with a copy in training: {np.isin(group[test], group[train]).sum()}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = script.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--features", nargs="+", default=[model_files.EMBEDDINGS], metavar="FILE",
        help="tables of embeddings (NPZ, CSV, NPY, Parquet, JSON, SQLite), globs or "
        "folders")  # fmt: skip
    reading.add_options(parser)
    add("--output", type=Path, default=model_files.DATA, metavar="DIR",
        help="folder for the records")  # fmt: skip
    add("--min-age", type=script.whole_number(0), default=10, metavar="YEARS",
        help="faces below this age go to children.tfrecords")  # fmt: skip
    add("--test-size", type=script.whole_number(1), default=1500, metavar="N",
        help="faces put aside for testing")  # fmt: skip
    add("--seed", type=script.whole_number(0), default=0, metavar="N", help="seed of the shuffle")
    add("--split", choices=("random", "identity"), default="random",
        help="random, as the original experiment; identity keeps copies of a face on one "
        "side")  # fmt: skip
    add("--report-duplicates", type=Path, metavar="CSV",
        help="list the groups of copies with their labels, and the conflicts among "
        "them")  # fmt: skip
    return parser.parse_args(argv)


def first_rows(names: list[str]) -> np.ndarray:
    """Of each row, the first row of its name (n,): rows of one name are views of one face."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(name, row) for row, name in enumerate(names)])


def with_views(faces: np.ndarray, face: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The rows `faces`, and behind them all other usable rows that are views of the same faces."""
    others = usable & (face != np.arange(len(face))) & np.isin(face, faces)
    return np.concatenate([faces, np.flatnonzero(others)])


def check_counts(faces: int, test_size: int) -> None:
    if faces == 0:
        raise InputError(
            "no face has an age and gender in its name and is old enough; names follow UTKFace: "
            "[age]_[gender]_[race]_[date&time].jpg (or give the table columns age and gender)"
        )
    if test_size >= faces:
        raise InputError(f"--test-size {test_size} leaves nothing of {faces} faces to train on")


def find_copies(
    unit: np.ndarray, faces: np.ndarray, queries: np.ndarray, kind: kinds.Kind
) -> np.ndarray:
    """A group number for each row of unit-length features (n, width): copies share one, (n,).

    Groups are the connected components of the pairs of `queries` and `faces` (row numbers)
    whose cosine is above COPY. Neighbours are looked for in the first AXES principal axes,
    where no pair is further apart than in all, in tiles, so that memory stays bounded.
    """
    from sklearn.neighbors import NearestNeighbors

    axes, group = kind.axes[:, :AXES], np.arange(len(unit))
    principal = (unit @ axes - kind.mean @ axes).astype(np.float32)
    search = NearestNeighbors(radius=np.sqrt(2 - 2 * COPY), algorithm="brute")
    tiles = range(0, len(faces), FACES)
    blocks = range(0, len(queries), QUERIES)
    with tqdm(total=len(tiles) * len(blocks), desc="copies", unit="block", disable=None) as bar:
        for tile in tiles:
            among = faces[tile : tile + FACES]
            search.fit(principal[among])
            for block in blocks:
                bar.update()
                if queries is faces and block >= tile + FACES:
                    continue  # the tile's faces have been compared with these
                rows = queries[block : block + QUERIES]
                found = search.radius_neighbors(principal[rows], return_distance=False)
                left = np.repeat(rows, [len(row) for row in found])
                right = among[np.concatenate(found)]
                group = join_copies(unit, left, right, group)
    return group


def join_copies(
    unit: np.ndarray, left: np.ndarray, right: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """The group numbers (n,) after joining those of each pair of rows that are copies."""
    from scipy.sparse import coo_array  # SciPy comes with scikit-learn
    from scipy.sparse.csgraph import connected_components

    apart = np.flatnonzero(group[left] != group[right])
    for start in range(0, len(apart), FACES):
        pairs = apart[start : start + FACES]
        a, b = left[pairs], right[pairs]
        alike = np.einsum("ij,ij->i", unit[a], unit[b]) > COPY
        if alike.any():
            ends = group[a[alike]], group[b[alike]]
            links = coo_array((np.ones(alike.sum(), bool), ends), shape=(len(group), len(group)))
            group = connected_components(links, directed=False)[1][group]
    return group


def choose_test(shuffled: np.ndarray, group: np.ndarray, size: int, split: str) -> np.ndarray:
    """The `size` test faces: the first, or the first whose groups fit in whole."""
    if split == "random":
        return shuffled[:size]
    test: list[int] = []
    members: dict[int, list[int]] = {}
    for face in shuffled.tolist():
        members.setdefault(int(group[face]), []).append(face)
    for group_members in members.values():  # in the order of their first member
        if len(test) + len(group_members) <= size:
            test += group_members
    if len(test) < size:
        raise InputError(f"--test-size {size}: the groups of copies cannot be split that way")
    return np.array(test)


def report_duplicates(path: Path, faces, group, names, age, gender) -> None:
    """A row a face that has copies: its group, labels, and whether the group's labels differ."""
    order = faces[np.argsort(group[faces], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    groups = [part for part in parts if len(part) > 1]
    with outputs.whole_file(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["group", "filename", "age", "gender", "age_conflict", "gender_conflict"])
        for number, part in enumerate(groups, 1):
            conflicts = [int(len(set(labels[part].tolist())) > 1) for labels in (age, gender)]
            for face in part.tolist():
                writer.writerow([number, names[face], age[face], gender[face], *conflicts])
    conflicting = [
        sum(len(set(labels[part].tolist())) > 1 for part in groups) for labels in (age, gender)
    ]
    print(
        f"groups of copies: {len(groups)}, with {sum(map(len, groups))} faces; "
        f"{conflicting[0]} carry different ages, {conflicting[1]} different genders"
    )


def write_records(output: Path, parts: tuple[np.ndarray, ...], names, features, age, gender):
    """Write the rows of each of FILES, with a progress bar; all take their names at the end.

    Killed in between, it must not leave a new test file beside an old training file. Where there
    is no child, an earlier run's children go: they may be of another kind.
    """
    script.import_tensorflow()
    from age_gender import records

    with contextlib.ExitStack() as together:
        for name, order in zip(FILES, parts, strict=True):
            if not len(order):
                (output / name).unlink(missing_ok=True)
                continue
            bar = tqdm(order.tolist(), name, unit="face", disable=None)  # on a terminal only
            records.write(
                together.enter_context(outputs.whole_path(output / name)),
                ((features[i], int(age[i]), int(gender[i]), names[i]) for i in bar),
            )


if __name__ == "__main__":
    script.run(main)
