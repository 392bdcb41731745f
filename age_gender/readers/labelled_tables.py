"""Read whole tables with the ages and genders of their faces, for training."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender.labels import GENDER_COLUMNS, utkface_labels
from age_gender.readers import tables
from age_gender.readers.columns import ReadOptions
from age_gender.readers.label_parsing import LabelColumn


class LabelledTable(NamedTuple):
    """Hold names (n,), features float32 (n, W), and columns of ages and genders, one per file.

    `other_genders` are the same rows' further columns of genders, by title. `has_name` (n,) is
    False for rows without a name, which `names` calls by their number.
    """

    names: list[str]
    features: np.ndarray
    ages: list[LabelColumn]
    genders: list[LabelColumn]
    other_genders: dict[str, list[LabelColumn]]
    has_name: np.ndarray
    unread_columns: list[str]  # their titles


def read_table(paths: Sequence[str | Path], options: ReadOptions) -> LabelledTable:
    """Return all rows of tables, which must fit into memory, with their labels.

    Raises InputError that names the file and the number of the first bad row.
    """
    # Read all rows, and find which of them have names
    numbered_batches = [*tables.read_batches(paths, options)]
    names = [name for numbered in numbered_batches for name in numbered.names]
    cells = [
        cell for numbered in numbered_batches
        for cell in numbered.batch.metadata.get("name") or [None] * len(numbered.names)
    ]  # fmt: skip
    named_cells = enumerate(zip(cells, names, strict=True), 1)
    has_name = [cell is not None or name != str(number) for number, (cell, name) in named_cells]
    unread = (numbered.batch.chunk.columns.unread_columns for numbered in numbered_batches)

    # Find each file's columns of labels; `genders` are its first column of genders
    with_rows = (numbered for numbered in numbered_batches if numbered.names)
    files = [
        _label_columns(path, [*parts])
        for path, parts in itertools.groupby(with_rows, lambda numbered: numbered.batch.chunk.path)
    ]
    ages = [columns.pop("age") for columns in files]
    genders = [columns.pop(next(iter(columns))) for columns in files]
    others = {
        title: [
            columns.get(title)
            or first_column._replace(title="", values=[None] * len(first_column.values))
            for columns, first_column in zip(files, genders, strict=True)
        ]
        for title in GENDER_COLUMNS if any(title in columns for columns in files)
    }  # fmt: skip
    return LabelledTable(
        names, tables.join_features(numbered_batches), ages, genders, others,
        np.array(has_name, bool), [*dict.fromkeys(itertools.chain.from_iterable(unread))],
    )  # fmt: skip


def _label_columns(
    path: str, numbered_batches: list[tables.NumberedBatch]
) -> dict[str, LabelColumn]:
    """Return a file's columns of ages and of genders by title, in the order of their titles.

    Ages or genders without a column are read from the rows' names.
    """
    rows, lines = [], []
    for numbered in numbered_batches:
        rows += numbered.row_numbers
        lines += numbered.line_numbers
    columns = {}
    for title in ("age", *GENDER_COLUMNS):
        if title in numbered_batches[0].batch.metadata:
            values = [
                value for numbered in numbered_batches for value in numbered.batch.metadata[title]
            ]
            columns[title] = LabelColumn(path, title, values, rows, lines)
    in_names = [utkface_labels(name) for numbered in numbered_batches for name in numbered.names]
    for index, titles in enumerate((("age",), GENDER_COLUMNS)):
        if not columns.keys() & {*titles}:
            values = [labels and labels[index] for labels in in_names]
            columns[titles[0]] = LabelColumn(path, "", values, rows, lines)
    return columns
