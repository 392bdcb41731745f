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
    """Names (n,), features float32 (n, W), and the columns of ages and genders, one a file."""

    names: list[str]
    features: np.ndarray
    ages: list[LabelColumn]
    genders: list[LabelColumn]
    left_out: list[str]  # titles of columns that were not read


def read_table(paths: Sequence[str | Path], options: ReadOptions) -> Table:
    """Return all rows of tables that fit into memory, with the labels that they hold.

    Raises InputError that names the file and the row of the first fault.
    """
    all_names, parts, ages, genders, left_out = [], [], [], [], {}
    for batch, names, first_row in tables.read_batches(paths, options):
        all_names += names
        parts += [batch.features] if len(batch.features) else []
        rows = first_row + batch.good
        ages.append(_label_column(batch, ("age",), names, rows))
        genders.append(_label_column(batch, GENDER_COLUMNS, names, rows))
        left_out |= dict.fromkeys(batch.chunk.columns.left_out)
    features = np.concatenate(parts)
    return Table(all_names, features, _join_files(ages), _join_files(genders), [*left_out])


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
    for (path, title), group in itertools.groupby(columns, lambda column: column[:2]):
        parts = [*group]
        values = [value for part in parts for value in part.values]
        joined.append(LabelColumn(path, title, values, np.concatenate([p.rows for p in parts])))
    return joined
