"""Compare labels with the estimates of a trained model of the same network."""

import contextlib

import numpy as np

from age_gender import metrics, paths
from age_gender.cli import display_path
from age_gender.errors import InputError
from age_gender.labels import ADULT_AGE
from age_gender.readers import label_parsing
from age_gender.readers.labelled_tables import LabelledTable
from age_gender.scoring import model_choice

# Fewer labels prove nothing
MIN_LABELS_FOR_CLASS_CHECK, MIN_GENDER_LABELS, MIN_AGE_LABELS = 20, 100, 200
MIN_CORRELATION = 0.3  # rank correlation of labelled and estimated ages; UTKFace's is 0.93
MAX_MEDIAN_DIFFERENCE = 15  # median difference of the two; UTKFace's is 4
MAX_CONTRADICTED = 0.4  # fraction of genders; UTKFace's is 0.03, its children's 0.32


def compare_with_model(
    table: LabelledTable, age: np.ndarray, gender: np.ndarray,
    model_scores: model_choice.ModelScores | None, codes: dict[str, int], is_confirmed: bool,
) -> list[str]:  # fmt: skip
    """Return warnings where labels (n,), -1 if missing, differ much from a model's estimates.

    `model_scores` are the table's scores by the model that fits it, or None. The model in models/
    itself, which train.py writes by default, is not used: it may have learnt the same mistake.
    Files are compared one by one.

    Raises InputError where the model sees the other gender in most faces of a file, unless the user
    has confirmed the genders (`is_confirmed`) or the column means the same without `codes`; and
    where all ages are under 10 but most faces look older.
    """
    # Take the labelled faces
    if model_scores and model_scores.folder == paths.MODELS:
        model_scores = model_choice.score_by_fitting_model(table.features, exclude=[paths.MODELS])
    rows = np.flatnonzero((age >= 0) & (gender >= 0))
    if model_scores is None or model_scores.is_ood.mean() >= 0.5 or not len(rows):
        return []
    age, estimate = age[rows], model_scores.scores["age"][rows]
    model = display_path(model_scores.folder)
    files = [column.path for column in table.genders]
    sizes = [len(column.rows) for column in table.genders]
    file_index = np.repeat(np.arange(len(files)), sizes)[rows]

    # Compare ages
    for prefix, is_in_file in _split_by_file(file_index, files, MIN_LABELS_FOR_CLASS_CHECK):
        _refuse_class_numbers(prefix, age[is_in_file], estimate[is_in_file], model)
    doubts = (
        _describe_age_doubt(prefix, age[is_in_file], estimate[is_in_file], model)
        for prefix, is_in_file in _split_by_file(file_index, files, MIN_AGE_LABELS)
    )
    warnings = [doubt for doubt in doubts if doubt][:1]

    # Compare genders
    probability = model_scores.scores["female_probability"][rows]
    is_wrong = ~metrics.is_gender_right(probability, gender[rows])
    parts = _split_by_file(file_index, files, MIN_GENDER_LABELS)
    wrong_parts = [(prefix, is_wrong[is_in_file]) for prefix, is_in_file in parts]
    swapped = [part for part in wrong_parts if np.mean(part[1]) > 0.5]
    are_mixed = 0 < len(swapped) < len(parts)
    are_often_wrong = len(is_wrong) >= MIN_GENDER_LABELS and is_wrong.mean() > MAX_CONTRADICTED
    contradiction = _describe_contradiction(*(swapped[0] if are_mixed else ("", is_wrong)), model)
    if are_mixed:
        contradiction += ", while those of most other files agree; code the genders of all files "
        contradiction += "in the same way"
    if are_often_wrong and not swapped:
        warnings.append(contradiction)
    if not is_confirmed and (are_mixed or (swapped and are_often_wrong)):
        _refuse_swapped(contradiction, are_mixed, table, gender, codes)
    return [f"warning: {warning}" for warning in warnings]


def _refuse_swapped(
    contradiction: str,
    are_mixed: bool,
    table: LabelledTable,
    gender: np.ndarray,
    codes: dict[str, int],
) -> None:
    """Raise InputError unless codes were given, and the columns mean the same without them."""
    with contextlib.suppress(InputError):  # they mean nothing without the codes
        if codes and np.array_equal(gender, label_parsing.read_genders(table.genders, {})):
            return
    as_read, swapped = (
        label_parsing.gender_codes_option(table.genders, genders)
        for genders in (gender, np.where(gender >= 0, 1 - gender, -1))
    )
    remedy = "" if are_mixed else f"; if male and female are swapped, use --gender-codes {swapped}"
    remedy += f"; if they are right, confirm them with --gender-codes {as_read}"
    raise InputError(contradiction + remedy + ", given twice" * bool(codes))


def _split_by_file(
    file_index: np.ndarray, files: list[str], min_rows: int
) -> list[tuple[str, np.ndarray]]:
    """Return the message prefix and row mask (n,) of each file of at least `min_rows` rows.

    If some rows are in smaller files, the whole input comes first.
    """
    sizes = np.bincount(file_index, minlength=len(files))
    large = np.flatnonzero(sizes >= min_rows).tolist()
    parts = [(f"{files[i]}: ", file_index == i) for i in large]
    if sizes[large].sum() < len(file_index):
        parts.insert(0, ("", np.ones(len(file_index), bool)))
    return parts


def _describe_contradiction(prefix: str, is_wrong: np.ndarray, model: str) -> str:
    counts = f"{is_wrong.sum():,} of {len(is_wrong):,}"
    return f"{prefix}{counts} genders contradict the estimates of {model}"


def _refuse_class_numbers(prefix: str, age: np.ndarray, estimate: np.ndarray, model: str) -> None:
    """Raise InputError where ages (n,) are all under 10 and most estimated ones are not."""
    if len(age) >= MIN_LABELS_FOR_CLASS_CHECK and age.max() < ADULT_AGE <= np.median(estimate):
        raise InputError(
            f"{prefix}all ages are from {age.min()} to {age.max()}, but the model {model} "
            f"estimates a median of {np.median(estimate):.0f} years: they look like class numbers; "
            "give ages in years"
        )


def _describe_age_doubt(prefix: str, age: np.ndarray, estimate: np.ndarray, model: str) -> str:
    """Return a warning if the ages (n,) hardly correlate with the estimated ones, else ""."""
    from scipy.stats import spearmanr

    if len(age) < MIN_AGE_LABELS:
        return ""
    varied = age.min() < age.max() and estimate.min() < estimate.max()
    correlation = float(spearmanr(age, estimate).statistic) if varied else 0.0
    difference = float(np.median(metrics.compute_age_error(estimate, age)))
    if correlation >= MIN_CORRELATION and difference <= MAX_MEDIAN_DIFFERENCE:
        return ""
    return (
        f"{prefix}the ages disagree with the estimates of {model} (rank correlation "
        f"{correlation:.2f}, median difference {difference:.0f} years); check that they are in "
        "years and in the order of the embeddings"
    )
