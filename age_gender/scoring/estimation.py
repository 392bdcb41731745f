"""Score embeddings in memory, for `age_gender.estimate`."""

import functools
import threading
import warnings
from typing import TYPE_CHECKING

import numpy as np

from age_gender import paths, rounding, trained_models
from age_gender.errors import InputError
from age_gender.readers import chunks, numpy_files, tables
from age_gender.readers.columns import Columns
from age_gender.scoring import model_choice, predictions
from age_gender.scoring.scorer import OUTPUTS, ROUNDING, Scorer

if TYPE_CHECKING:
    import os

    import pandas as pd
    from numpy.typing import ArrayLike

_load_cached = functools.cache(model_choice.load)
_load_lock = threading.Lock()  # loading silences standard error


def estimate(
    embeddings: "ArrayLike", model: "str | os.PathLike[str] | None", skip_bad_rows: bool
) -> "pd.DataFrame":
    """Return what `age_gender.estimate` does, with InputError in place of EmbeddingError."""
    import pandas as pd

    # Parse the embeddings as a chunk of a table without names
    rows = to_rows(embeddings)
    chunk = chunks.Chunk(
        "embeddings", numpy_files.parse_array, rows, Columns(rows.shape[1]), is_last=True
    )
    batch = check_rows(tables.parse(chunk), skip_bad_rows)

    # Score the good rows
    scores = np.empty((0, len(OUTPUTS)), np.float32)
    if len(batch.features):
        scorer = find_scorer(model, batch.features, must_fit=not skip_bad_rows)
        batch = check_rows(scorer(batch), skip_bad_rows)
        scores = batch.scores
    if warning := rounding.check("embeddings", scores[:, ROUNDING]):
        warnings.warn(warning, stacklevel=3)

    table = pd.DataFrame(predictions.to_columns(scores), index=batch.row_indices)
    if skip_bad_rows:  # whole numbers may be missing
        integer_columns = [name for name in table if name != "female_probability"]
        table = table.astype(dict.fromkeys(integer_columns, "Int64")).reindex(range(len(rows)))
    return table


def check_rows(batch: chunks.Batch, skip_bad_rows: bool) -> chunks.Batch:
    """Return the batch. Raises InputError for a bad row, unless these are skipped."""
    if batch.bad_rows and not skip_bad_rows:
        raise InputError(f"{batch.bad_rows[0]}; correct this row or give skip_bad_rows=True")
    return batch


def find_scorer(model: "str | os.PathLike[str] | None", rows: np.ndarray, must_fit: bool) -> Scorer:
    """Return the scorer of a `model`, or of the model in models/ that fits the rows (n, W).

    Raises InputError where none takes rows of their width.
    """
    with _load_lock:
        if model is not None:
            scorer = _load_cached(str(model))
        else:
            model_widths = trained_models.find_model_widths(paths.MODELS)
            scorer = model_choice.choose_model(model_widths, rows, must_fit, _load_cached)
    if scorer.width != rows.shape[1]:
        raise InputError(f"embeddings of {rows.shape[1]} numbers; this model takes {scorer.width}")
    return scorer


def to_rows(embeddings: "ArrayLike") -> np.ndarray:
    """Return embeddings (n, W) or (W,) of any type of number as an array (n, W).

    Raises InputError for anything else.
    """
    try:
        rows = np.asarray(embeddings)
        if rows.dtype == object:  # such as a column of lists
            rows = np.array([np.asarray(row, float) for row in rows])
        if rows.dtype.kind in "fiu" and rows.ndim in (1, 2) and rows.size:
            return np.atleast_2d(rows)
        description = f"an array of shape {rows.shape} and type {rows.dtype}"
    except (ValueError, TypeError):
        description = "rows of different lengths, or no numbers"
    raise InputError(f"embeddings: {description}; give numbers of shape (n, W) or (W,)")
