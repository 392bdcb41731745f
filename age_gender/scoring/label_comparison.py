"""Compare labels with the estimates of a trained model of the same network."""

import contextlib

import numpy as np

from age_gender import label_parsing, metrics, paths
from age_gender.cli import display_path
from age_gender.errors import InputError
from age_gender.labels import ADULT_AGE
from age_gender.readers.labelled_tables import LabelledTable
from age_gender.scoring import model_choice

MIN_CLASSES, MIN_GENDER_LABELS, MIN_AGE_LABELS = 20, 100, 200  # fewer labels prove nothing
MIN_CORRELATION = 0.3  # rank correlation of labelled and estimated ages; UTKFace's is 0.93
MAX_YEARS = 15  # median difference of the two; UTKFace's is 4
MAX_CONTRADICTED = 0.4  # fraction of the genders; UTKFace's is 0.03, its children's 0.32


def compare_with_model(
    table: LabelledTable, age: np.ndarray, gender: np.ndarray,
    known: model_choice.KnownScores | None, codes: dict[str, int], is_confirmed: bool,
) -> list[str]:  # fmt: skip
    """Return warnings of labels (n,), -1 if missing, that differ much from a model's estimates.

    `known` are the table's scores by the model in models/ that fits it, None if none does; not by
    train.py's last model, which may have been trained on the same mistake. Raises InputError where
    the model sees the other gender in most faces of a file, unless the genders are confirmed: by
    the user, or as what the column means without --gender-codes (`codes`) too; and where all ages
    are under 10 and most faces are no children. Files are judged one by one.
    """
    # Take the labelled faces
    if known and known.folder == paths.MODELS:
        known = model_choice.score_by_known_model(table.features, exclude=[paths.MODELS])
    rows = np.flatnonzero((age >= 0) & (gender >= 0))
    if known is None or known.is_ood.mean() >= 0.5 or not len(rows):
        return []
    age, estimate = age[rows], known.scores["age"][rows]
    labelled_by = f"the model {display_path(known.folder)} estimates"
    files = [column.path for column in table.genders]
    sizes = [len(column.rows) for column in table.genders]
    file = np.repeat(np.arange(len(files)), sizes)[rows]

    # Compare ages
    for where, part in _split_by_file(file, files, MIN_CLASSES):
        _refuse_classes(where, age[part], estimate[part], labelled_by)
    doubts = (
        _doubt_ages(where, age[part], estimate[part], labelled_by)
        for where, part in _split_by_file(file, files, MIN_AGE_LABELS)
    )
    warnings = [text for text in doubts if text][:1]

    # Compare genders
    wrong = ~metrics.is_gender_right(known.scores["female_probability"][rows], gender[rows])
    parts = _split_by_file(file, files, MIN_GENDER_LABELS)
    swapped = [(where, wrong[part]) for where, part in parts if np.mean(wrong[part]) > 0.5]
    are_mixed = 0 < len(swapped) < len(parts)
    are_many = len(wrong) >= MIN_GENDER_LABELS and wrong.mean() > MAX_CONTRADICTED
    text = _count_wrong("", wrong, labelled_by)
    if are_mixed:
        text = f"{_count_wrong(*swapped[0], labelled_by)}, most of other files are"
        text += "; code all files alike"
    if are_many and not swapped:
        warnings.append(text)
    if not is_confirmed and (are_mixed or (swapped and are_many)):
        _refuse_swapped(text, are_mixed, table, gender, codes)
    return [f"warning: {text}" for text in warnings]


def _refuse_swapped(
    text: str,
    are_mixed: bool,
    table: LabelledTable,
    gender: np.ndarray,
    codes: dict[str, int],
) -> None:
    """Raise InputError unless the columns mean these genders (n,) without the codes too."""
    with contextlib.suppress(InputError):  # they mean nothing without the codes
        if codes and np.array_equal(gender, label_parsing.read_genders(table.genders, {})):
            return
    as_read, turned = (
        label_parsing.gender_codes_option(table.genders, genders)
        for genders in (gender, np.where(gender >= 0, 1 - gender, -1))
    )
    remedy = "" if are_mixed else f"; if they are the wrong way round: --gender-codes {turned}"
    twice = " given twice" if codes else ""
    raise InputError(f"{text}{remedy}; if they are right: --gender-codes {as_read}{twice}")


def _split_by_file(file: np.ndarray, files: list[str], least: int) -> list[tuple[str, np.ndarray]]:
    """Return which rows (n,) each file of at least so many rows has, by the start of a message.

    The whole input comes before them if some rows are of smaller files.
    """
    sizes = np.bincount(file, minlength=len(files))
    large = np.flatnonzero(sizes >= least).tolist()
    parts = [(f"{files[i]}: ", file == i) for i in large]
    if sizes[large].sum() < len(file):
        parts.insert(0, ("", np.ones(len(file), bool)))
    return parts


def _count_wrong(where: str, wrong: np.ndarray, labelled_by: str) -> str:
    return f"{where}{wrong.sum():,} of {len(wrong):,} genders are not those that {labelled_by}"


def _refuse_classes(where: str, age: np.ndarray, estimate: np.ndarray, labelled_by: str) -> None:
    """Raise InputError where ages (n,) are all under 10 and most estimated ones are not."""
    if len(age) >= MIN_CLASSES and age.max() < ADULT_AGE <= np.median(estimate):
        raise InputError(
            f"{where}ages from {age.min()} to {age.max()} alone, of faces of "
            f"{np.median(estimate):.0f} years, as {labelled_by}: they look like numbers of "
            "classes; give years"
        )


def _doubt_ages(where: str, age: np.ndarray, estimate: np.ndarray, labelled_by: str) -> str:
    """Return that ages have little to do with the estimated ones, where it is so."""
    from scipy.stats import spearmanr

    if len(age) < MIN_AGE_LABELS:
        return ""
    varied = age.min() < age.max() and estimate.min() < estimate.max()
    correlation = float(spearmanr(age, estimate).statistic) if varied else 0.0
    difference = float(np.median(metrics.compute_age_error(estimate, age)))
    if correlation >= MIN_CORRELATION and difference <= MAX_YEARS:
        return ""
    return (
        f"{where}the ages are not those that {labelled_by} (rank correlation {correlation:.2f}, "
        f"median difference {difference:.0f} years): are they years, and of these rows?"
    )
