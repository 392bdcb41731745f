"""Write labelled face embeddings as TFRecords for training and testing.

Reads ages and genders from the columns age and gender (sex, Male, female), else from UTKFace's file
names, shuffles, and puts some faces aside for testing: train.tfrecords and test.tfrecords. Faces
under --min-age go to children.tfrecords, a tenth of them to children_test.tfrecords. Rows with the
same name, age and gender belong to one face: a training face keeps all of them, a test face only
the first. Test faces with a near-duplicate in training are counted; --split identity avoids them.

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
    sys.path.append(os.path.dirname(__file__))  # python -P leaves it out
    from age_gender.processes import startup

    startup.begin()  # errors and Ctrl-C take one line from here on, during the imports too
# isort: split
import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from tqdm import tqdm

from age_gender import cli, files, paths
from age_gender.cli import counted, display_path
from age_gender.embeddings import median_norm, to_unit_length
from age_gender.errors import InputError, printable
from age_gender.labels import ADULT_AGE, GENDER_COLUMNS, GENDERS
from age_gender.processes.tensorflow_import import import_tensorflow, require_memory
from age_gender.readers import label_parsing, tables
from age_gender.readers.labelled_tables import LabelledTable, read_table
from age_gender.scoring import label_comparison, model_choice
from age_gender.training import near_duplicates

# Names of the files of records
TRAIN, TEST = paths.TRAIN_RECORDS.name, paths.TEST_RECORDS.name
CHILDREN, CHILDREN_TEST = paths.CHILDREN_RECORDS.name, paths.CHILDREN_TEST_RECORDS.name
CHILDREN_TEST_FRACTION = 0.1  # fraction of the faces under --min-age that are for testing


class Labels(NamedTuple):
    """Hold the age in years and the gender (0 male, 1 female) of each row (n,); -1 if missing."""

    age: np.ndarray
    gender: np.ndarray

    def are_complete(self) -> np.ndarray:
        """Return whether each row has both: (n,)."""
        return (self.age >= 0) & (self.gender >= 0)


class Split(NamedTuple):
    """Hold the rows of each file of records, by file name, and two counts."""

    rows: dict[str, np.ndarray]
    repeated_count: int  # further rows of test faces, which are in no file
    near_duplicate_count: int  # test faces with a near-duplicate in training


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    require_memory()  # for TensorFlow in the last step
    inputs = [*tables.list_files(args.features), *filter(None, [args.names])]
    output = files.make_folder(args.output)
    for name in (TRAIN, TEST, CHILDREN, CHILDREN_TEST):
        files.refuse_overwriting(output / name, inputs)

    # Read embeddings, names and labels
    table = read_table(args.features, tables.make_read_options(args, reads_labels=True))
    model_scores = model_choice.score_by_fitting_model(table.features)
    embeddings = describe_embeddings(table, model_scores)
    codes = label_parsing.merge_gender_codes(args.gender_codes)
    age = label_parsing.read_ages(table.ages, args.min_age)
    labels = Labels(age, label_parsing.read_genders(table.genders, codes))

    # Check the labels
    unread = [*table.unread_columns]
    for title, others in table.other_genders.items():
        if not label_parsing.check_agreement(others, table.genders, labels.gender, codes):
            unread.append(title)
    notes = [f"columns left out: {', '.join(unread)}"] if unread else []
    genders = label_parsing.gender_codes_option(table.genders, labels.gender)
    notes += [embeddings, f"genders: {genders}"]
    is_confirmed = len(args.gender_codes) > 1
    notes += label_comparison.compare_with_model(table, *labels, model_scores, codes, is_confirmed)

    # Write the records first, so that progress bars do not separate the lines
    split = split_rows(table, labels, args, codes)
    write_records({output / name: rows for name, rows in split.rows.items()}, table, labels)
    for note in notes:
        cli.say(printable(note))
    print_counts(table, labels, split)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    # fmt: off
    add = parser.add_argument
    add("--features", nargs="+", default=[paths.EMBEDDINGS], metavar="FILE",
        help="tables of embeddings (NPZ, CSV, NPY, Parquet, JSON, SQLite), globs or folders")
    tables.add_options(parser)
    add("--output", type=Path, default=paths.DATA, metavar="DIR", help="folder for the records")
    add("--gender-codes", type=label_parsing.parse_gender_codes, action="append",
        default=[], metavar="VALUE=male,VALUE=female",
        help="meaning of the values in the gender column, such as 1=male,2=female; VALUE=unknown "
        "is a missing label; give the option twice to skip the check against a trained model")
    add("--min-age", type=cli.whole_number(0), default=ADULT_AGE, metavar="YEARS",
        help="faces below this age go to children.tfrecords")
    add("--test-size", type=cli.whole_number(1), default=1500, metavar="N",
        help="faces put aside for testing")
    add("--seed", type=cli.whole_number(0, 2**32 - 1), default=0, metavar="N",
        help="seed of the shuffle")
    add("--split", choices=("random", "identity"), default="random",
        help="random, as in the original experiment; identity: also keep near-duplicates of a face "
        "(not all faces of a person) on one side, in training or in test")
    # fmt: on
    return parser.parse_args(attach_gender_codes(sys.argv[1:] if argv is None else argv))


def attach_gender_codes(arguments: list[str]) -> list[str]:
    """Return the arguments with --gender-codes joined to its value by an equals sign.

    The value may begin with a minus (-1=female,1=male), which argparse takes for an option.
    """
    joined = [*arguments]
    for index in reversed(range(len(joined) - 1)):
        if joined[index] == "--gender-codes":
            joined[index : index + 2] = ["=".join(joined[index : index + 2])]
    return joined


def describe_embeddings(table: LabelledTable, model_scores: model_choice.ModelScores | None) -> str:
    """Return a line on the embeddings. Raises InputError where some are of another network."""
    network = ""
    if model_scores:
        is_ood, model = model_scores.is_ood, display_path(model_scores.folder)
        network = f", of the network of {model}"
        if is_ood.any():
            first = int(is_ood.argmax())
            source = next(itertools.islice(label_parsing.row_sources(table.ages), first, None))
            raise InputError(
                f"{source}: {printable(table.names[first])} is an embedding of another network "
                f"than that of {model}, or rounded too coarsely; leave out all such rows, or "
                f"embed them again ({is_ood.sum():,} of {len(is_ood):,})"
            )
    norm = median_norm(table.features)
    return f"embeddings of {table.features.shape[1]} numbers, median norm {norm:.3g}{network}"


def split_rows(
    table: LabelledTable, labels: Labels, args: argparse.Namespace, codes: dict[str, int]
) -> Split:
    """Return the rows of each file of records. Raises InputError where they cannot be split."""
    # Group the rows of a face under its first
    is_labelled, first_row = labels.are_complete(), find_first_rows(table, labels)
    is_first = is_labelled & (first_row == np.arange(len(first_row)))
    is_child = labels.age < args.min_age
    adults, children = np.flatnonzero(is_first & ~is_child), np.flatnonzero(is_first & is_child)
    check_adults(adults, table, labels, codes)

    # Split the adults, then the children
    unit_features = to_unit_length(table.features)
    test, train, duplicate_group = split_adults(
        adults, unit_features, args.test_size, args.split, args.seed
    )
    children = np.random.default_rng([args.seed, 1]).permutation(children)
    test_start = round((1 - CHILDREN_TEST_FRACTION) * len(children))
    children, children_test = np.split(children, [test_start])

    # Add the other rows of each training face
    other_rows = np.flatnonzero(is_labelled & ~is_first)
    rows_of_train = other_rows[np.isin(first_row[other_rows], train)]
    rows_of_children = other_rows[np.isin(first_row[other_rows], children)]
    rows = {
        TEST: test,
        TRAIN: np.append(train, rows_of_train),
        CHILDREN_TEST: children_test,
        CHILDREN: np.append(children, rows_of_children),
    }
    repeated_count = len(other_rows) - len(rows_of_train) - len(rows_of_children)
    has_near_duplicate = np.isin(duplicate_group[test], duplicate_group[train])
    return Split(rows, repeated_count, near_duplicate_count=int(has_near_duplicate.sum()))


def find_first_rows(table: LabelledTable, labels: Labels) -> np.ndarray:
    """Return the index of the first row of each row's face (n,).

    Labelled rows with one name belong to one face; a row without a name is a face of its own.
    Raises InputError where rows with one name have different labels.
    """
    first_row_by_name: dict[str, int] = {}
    first_row = np.arange(len(labels.age))
    for row in np.flatnonzero(labels.are_complete() & table.has_name).tolist():
        first_row[row] = first_row_by_name.setdefault(table.names[row], row)
    for label in labels:
        differs = label != label[first_row]
        if differs.any():
            row = int(differs.argmax())
            refuse_two_labels(table, labels, int(first_row[row]), row)
    return first_row


def refuse_two_labels(table: LabelledTable, labels: Labels, first: int, second: int) -> NoReturn:
    """Raise InputError that names two rows with one name and different labels."""
    sources = [*label_parsing.row_sources(table.ages)]
    both = [
        f"{sources[row]}, {GENDERS[labels.gender[row]]} aged {labels.age[row]},"
        for row in (first, second)
    ]
    # Guess why they have the same name
    names, rows = len({*table.names}), len(table.names)
    if sources[first].path != sources[second].path:
        remedy = "name the faces of the two files differently, or prepare the files separately"
    elif 2 * names <= rows:
        remedy = f"there are only {counted(names, 'name')} for {rows:,} rows, probably of persons: "
        remedy += "choose the column of photograph names with --name-column NAME"
    else:
        remedy = "rows with one name count as one face: give each photograph its own name, or "
        remedy += "choose another column with --name-column NAME"
    name = printable(table.names[second])
    raise InputError(
        f"{both[0]} and {both[1]} have the same name, {name}, but different labels; {remedy}"
    )


def check_adults(
    adults: np.ndarray, table: LabelledTable, labels: Labels, codes: dict[str, int]
) -> None:
    """Raise InputError unless the `adults` (row numbers) have both genders.

    One gender is accepted if --gender-codes names codes of that gender alone.
    """
    if len(adults) == 0:
        ages, genders = (labels.age >= 0).sum(), (labels.gender >= 0).sum()
        unread = ", ".join(table.unread_columns[:8])
        unread = f"; columns left out: {unread}" if unread else ""
        raise InputError(
            "no face of --min-age or older has both an age and a gender "
            f"({counted(len(labels.age), 'row')}, {ages:,} with an age, {genders:,} with a gender"
            f"{printable(unread)}); give the table columns age and gender (or "
            f"{', '.join(GENDER_COLUMNS[1:])}), or names like UTKFace's: "
            "[age]_[gender]_[race]_[date&time].jpg"
        )
    genders = {*labels.gender[adults].tolist()}
    coded = {gender for gender in codes.values() if gender >= 0}
    if len(genders) == 1 and coded != genders:
        option = label_parsing.gender_codes_option(table.genders, labels.gender)
        raise InputError(
            f"{counted(len(adults), 'face')} to train and test on, all {GENDERS[genders.pop()]}; "
            f"if that is right, say so: --gender-codes {option}"
        )


def split_adults(
    adults: np.ndarray, unit_features: np.ndarray, test_size: int, split: str, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows for testing and for training, and each row's group of near-duplicates (n,).

    Raises InputError where there are too few faces, or whole groups cannot fill the test.
    """
    if test_size >= len(adults):
        count = counted(len(adults), "face")
        raise InputError(f"--test-size {test_size} leaves none of {count} to train on; lower it")
    shuffled = np.random.default_rng(seed).permutation(adults)
    if split == "identity":
        duplicate_group = near_duplicates.group_near_duplicates(unit_features, adults, adults)
        test = near_duplicates.choose_whole_groups(shuffled, duplicate_group, test_size)
    else:
        test = shuffled[:test_size]
        duplicate_group = near_duplicates.group_near_duplicates(unit_features, adults, test)
    return test, shuffled[~np.isin(shuffled, test)], duplicate_group


def write_records(
    rows_by_file: dict[Path, np.ndarray], table: LabelledTable, labels: Labels
) -> None:
    """Write the records of each file, with a progress bar; delete a file that gets no rows.

    Such a file may hold an earlier run's embeddings of another network.
    """
    import_tensorflow()
    from age_gender.training import records

    def yield_faces(path: Path, rows: np.ndarray) -> Iterator[records.LabelledFace]:
        for i in tqdm(rows.tolist(), path.name, unit="face", disable=None):
            yield table.features[i], int(labels.age[i]), int(labels.gender[i]), table.names[i]

    records.write_all(
        {
            path: yield_faces(path, rows) if len(rows) else None
            for path, rows in rows_by_file.items()
        }
    )


def print_counts(table: LabelledTable, labels: Labels, split: Split) -> None:
    """Print each row without labels, and the numbers of the other rows."""
    # Name the rows without labels
    is_labelled = labels.are_complete()
    for row, source in enumerate(label_parsing.row_sources(table.ages)):
        if not is_labelled[row]:
            missing = [name for name, values in labels._asdict().items() if values[row] < 0]
            name = table.names[row]
            cli.say(printable(f"{source}: no {' and no '.join(missing)}: {name}"))

    # Count all rows
    written = {name: len(rows) for name, rows in split.rows.items()}
    counts = {
        "train": written[TRAIN],
        "test": written[TEST],
        "children": written[CHILDREN] + written[CHILDREN_TEST],
        "without labels": int((~is_labelled).sum()),
        "repeated": split.repeated_count,
    }
    if sum(counts.values()) != len(is_labelled):
        raise RuntimeError(f"{len(is_labelled)} rows were read, and {counts} written or left out")
    men, women = np.bincount(labels.gender[is_labelled], minlength=len(GENDERS))
    print(f"read {len(is_labelled)}")
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    print(f"men: {men}, women: {women}")
    print(f"test faces with a near-duplicate in training: {split.near_duplicate_count}")


if __name__ == "__main__":
    cli.run(main)
