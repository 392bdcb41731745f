"""Provide `estimate`, for programs, and the code that the scripts share."""

TYPE_CHECKING = False  # importing typing takes 3 ms, in which Ctrl-C would give a traceback
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
    """Return a DataFrame with the age and gender of each embedding, in the order given.

    `embeddings` (n, W), or (W,) for one face, need not be of unit length. `model` is a folder that
    train.py wrote; None chooses the model in models/ that fits the embeddings. The columns are
    run.py's: gender (0 male, 1 female), age, age_low and age_high (whole years; the 90 % interval),
    female_probability.

    Raises EmbeddingError, a ValueError, for the first unusable embedding; with `skip_bad_rows` its
    row holds missing values instead. Embeddings that look rounded give a UserWarning, or
    EmbeddingError where that changes ages by more than 2.5 years. Threads may call it; models are
    loaded once.
    """
    from age_gender.errors import InputError
    from age_gender.scoring import estimation

    try:
        return estimation.estimate(embeddings, model, skip_bad_rows)
    except InputError as error:
        raise EmbeddingError(str(error)) from None
