"""Provide `estimate`, for programs, and the code that the scripts share."""

TYPE_CHECKING = False  # to import typing takes 3 ms, in which Ctrl-C would be a traceback
if TYPE_CHECKING:
    import os

    import pandas as pd
    from numpy.typing import ArrayLike


class EmbeddingError(ValueError):
    """Raised when embeddings or a model cannot be used; the message says why and what to do."""


def estimate(
    embeddings: "ArrayLike",
    model: "str | os.PathLike[str] | None" = None,
    skip_bad_rows: bool = False,
) -> "pd.DataFrame":
    """Return a DataFrame with the age and gender of each face embedding, in their order.

    `embeddings` are numbers (n, W), or (W,) for one face, not necessarily of unit length. `model`
    is a folder that train.py wrote; None chooses the shipped one for the network that made them.
    The columns are run.py's: gender (0 male, 1 female), age, age_low, age_high (whole years; 90 %
    of ages lie between these two), female_probability. With `skip_bad_rows`, embeddings that cannot
    be used are rows of missing values; otherwise the first one raises EmbeddingError, a ValueError.
    May be called from threads; models are loaded once.
    """
    from age_gender.errors import InputError
    from age_gender.scoring import estimation

    try:
        return estimation.estimate(embeddings, model, skip_bad_rows)
    except InputError as error:
        raise EmbeddingError(str(error)) from None
