"""Score embeddings in memory, for `age_gender.estimate`."""

import functools
import threading
import warnings
from typing import TYPE_CHECKING

import numpy as np

from age_gender import rounding
from age_gender.cli import InputError
from age_gender.readers import chunks, numpy_files, tables
from age_gender.readers.columns import Columns
from age_gender.scoring import choice, predictions
from age_gender.scoring.litert import OUTPUTS, ROUNDING

if TYPE_CHECKING:
    import pandas as pd

_load = functools.cache(choice.load)
_loading = threading.Lock()  # standard error is silenced meanwhile


def estimate(embeddings, model, skip_bad_rows: bool) -> "pd.DataFrame":
    """Return what `age_gender.estimate` does; raises InputError in place of its error."""
    import pandas as pd

    # A table without names, of which the first bad row ends the work.
    rows = as_rows(embeddings)
    chunk = chunks.Chunk(
        "embeddings", numpy_files.ArrayReader(), rows, Columns(rows.shape[1]), last=True
    )
    batch = tables.parse(chunk)
    scores = np.empty((0, len(OUTPUTS)), np.float32)  # without a good row nothing is scored
    if not (batch.bad and not skip_bad_rows) and len(batch.features):
        with _loading:
            if model is not None:
                scorer = _load(str(model))
            else:
                scorer = choice.choose_model(batch.features, must_fit=not skip_bad_rows, load=_load)
        if scorer.width != rows.shape[1]:
            raise InputError(
                f"embeddings of {rows.shape[1]} numbers; this model takes {scorer.width}"
            )
        batch = scorer(batch)
        scores = batch.scores
    if batch.bad and not skip_bad_rows:
        raise InputError(f"{batch.bad[0]}; correct this row or give skip_bad_rows=True")
    if warning := rounding.judge("embeddings", scores[:, ROUNDING]):
        warnings.warn(warning, stacklevel=3)

    # A row of the table for every embedding.
    table = pd.DataFrame(predictions.output_columns(scores), index=batch.row_indices)
    if skip_bad_rows:  # whose whole numbers may be missing
        whole = [name for name in table if name != "female_probability"]
        table = table.astype(dict.fromkeys(whole, "Int64")).reindex(range(len(rows)))
    return table


def as_rows(embeddings) -> np.ndarray:
    """Return embeddings (n, W) or (W,) of any type of number as an array (n, W).

    Raises InputError for anything else.
    """
    try:
        rows = np.asarray(embeddings)
        if rows.dtype == object:  # such as a column of lists
            rows = np.array([np.asarray(row, float) for row in rows])
        if rows.dtype.kind in "fiu" and rows.ndim in (1, 2) and rows.size:
            return np.atleast_2d(rows)
        what = f"an array of shape {rows.shape} and type {rows.dtype}"
    except (ValueError, TypeError):
        what = "rows of different lengths, or no numbers"
    raise InputError(f"embeddings: {what}; give numbers of shape (n, W) or (W,)")
