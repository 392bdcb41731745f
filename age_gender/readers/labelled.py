"""Read whole tables with the ages and genders of their faces, for training."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from age_gender.label_columns import LabelColumn
from age_gender.labels import GENDER_COLUMNS, utkface_labels
from age_gender.readers import tables
from age_gender.readers.chunks import Batch
from age_gender.readers.columns import ReadOptions


class Table(NamedTuple):
    """Names (n,), features float32 (n, W), and the columns of ages and genders, one a file.

    `other_genders` are further columns of genders by their titles, of the same rows. A row that
    `has_name` (n,) not is called by its number.
    """

    names: list[str]
    features: np.ndarray
    ages: list[LabelColumn]
    genders: list[LabelColumn]
    other_genders: dict[str, list[LabelColumn]]
    has_name: np.ndarray
    left_out: list[str]  # titles of columns that were not read


def read_table(paths: Sequence[str | Path], options: ReadOptions) -> Table:
    """Return all rows of tables that fit into memory, with the labels that they hold.

    Raises InputError that names the file and the row of the first fault.
    """
    all_names, parts, ages, genders, left_out, has_name = [], [], [], [], {}, []
    all_genders: dict[str, list[LabelColumn]] = {title: [] for title in GENDER_COLUMNS}
    total = 0  # rows before a batch, bad ones included
    for batch, names, first_row in tables.read_batches(paths, options):
        all_names += names
        parts += [batch.features] if len(batch.features) else []
        rows = first_row + batch.row_indices
        ages.append(_label_column(batch, ("age",), names, rows))
        genders.append(_label_column(batch, GENDER_COLUMNS, names, rows))
        for title, columns in all_genders.items():
            values = batch.metadata.get(title)
            is_other = values is not None and title != genders[-1].title
            values = values if is_other else [None] * len(rows)
            columns.append(LabelColumn(batch.chunk.path, title * is_other, [*values], rows))
        given = batch.metadata.get("name") or [None] * len(names)
        numbers = (str(total + 1 + index) for index in batch.row_indices.tolist())
        has_name += [
            cell is not None or name != number
            for cell, name, number in zip(given, names, numbers, strict=True)
        ]
        total += batch.rows
        left_out |= dict.fromkeys(batch.chunk.columns.unread_columns)
    other_genders = {
        title: _join_files(columns)
        for title, columns in all_genders.items()
        if any(column.title for column in columns)
    }
    return Table(
        all_names, np.concatenate(parts), _join_files(ages), _join_files(genders), other_genders,
        np.array(has_name, bool), [*left_out],
    )  # fmt: skip


def _label_column(
    batch: Batch, titles: Sequence[str], names: list[str], rows: np.ndarray
) -> LabelColumn:
    """Return the batch's values of the first column of `titles`, or else the labels in its names.

    `rows` (n,) are the rows' numbers in the file, from 1.
    """
    title = next((title for title in titles if title in batch.metadata), "")
    if title:
        values = batch.metadata[title]
    else:
        field = 0 if "age" in titles else 1
        values = [labels and labels[field] for labels in map(utkface_labels, names)]
    return LabelColumn(batch.chunk.path, title, [*values], rows)


def _join_files(columns: list[LabelColumn]) -> list[LabelColumn]:
    """Return the columns, those of consecutive batches of one file joined."""
    joined = []
    columns = [column for column in columns if len(column.rows)]
    for (path, title), group in itertools.groupby(columns, lambda column: column[:2]):
        parts = [*group]
        values = [value for part in parts for value in part.values]
        joined.append(LabelColumn(path, title, values, np.concatenate([p.rows for p in parts])))
    return joined
