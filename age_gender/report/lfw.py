"""Check predicted genders against LFW's two lists, as published and without the lists' errors.

The published convention: of the predictions of a gender, those whose name stands in that
gender's list are correct, the others wrong; the recall divides by the list's length. A
prediction is a pair here: the last component of a face's name, and its gender, 0 or 1.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from age_gender.errors import InputError, printable
from age_gender.labels import GENDERS


def read_labels(path: Path) -> str:
    """Return the text of a label file. Raises InputError if it is missing or has no names."""
    if not path.is_file():
        raise InputError(f"{path}: no such label file; --lfw-labels names the folder of both")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text of names; download the label file again") from None
    if not text.strip():
        raise InputError(f"{path}: no names in this file; download the label file again")
    return text


def split_names(text: str) -> list[str]:
    """Return the names in the text of a label file, one per line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def report_published(predicted: list[tuple[str, int]], label_texts: list[str]) -> Iterator[str]:
    """Yield the two lines of the published convention, from the texts of both label files."""
    for label, names in enumerate(map(split_names, label_texts)):
        listed = set(names)
        right = [name in listed for name, gender in predicted if gender == label]
        yield format_score(GENDERS[label], right, len(names))


def report_without_faults(
    predicted: list[tuple[str, int]], label_texts: list[str]
) -> Iterator[str]:
    """Yield the label files' faults, then the figures over images with exactly one label."""
    # Count the faults
    written = [set(split_names(text)) for text in label_texts]
    lists = [{name.removesuffix(".jpg") + ".jpg" for name in names} for names in written]
    as_written, both = set.intersection(*written), set.intersection(*lists)
    gender_by_name = {name: gender for name, gender in predicted if name not in both}
    crlf = sum(text.count("\r\n") for text in label_texts)
    blank = sum(not line.strip() for text in label_texts for line in text.splitlines())
    bare = [name for text in label_texts for name in split_names(text) if not name.endswith(".jpg")]
    yield "Faults of the label files:"
    yield f"  lines that end in CR LF: {crlf}"
    yield f"  blank lines: {blank}"
    yield f"  names without .jpg: {format_names(bare)}"
    yield f"  names in both lists: {format_names(as_written)}"
    if both > as_written:
        yield f"  names in both lists once .jpg is added: {format_names(both - as_written)}"
    unlisted = gender_by_name.keys() - lists[0] - lists[1]
    yield f"  predictions in neither list: {format_names(unlisted)}"
    if unseen := (lists[0] ^ lists[1]) - gender_by_name.keys():
        yield f"  names without a prediction: {format_names(unseen)}"

    # Score the images without them
    yield "Images with exactly one label:"
    all_right = []
    for label, names in enumerate(lists):
        right = [gender == label for name, gender in gender_by_name.items() if name in names]
        yield "  " + format_score(GENDERS[label], right, len(right))
        all_right += right
    yield "  " + format_score("all", all_right, len(all_right))


def format_score(title: str, right: list[bool], total: int) -> str:
    """Return a line: the fraction of `total` images that are right, and the counts."""
    fraction = sum(right) / total if total else float("nan")
    return f"{title.capitalize()} {fraction:.4f}, correct {sum(right)}, wrong {right.count(False)}"


def format_names(names: Iterable[str]) -> str:
    """Return a count and the first five names."""
    names = sorted(names)
    first_names = printable(", ".join(names[:5]) + (", ..." if len(names) > 5 else ""))
    return f"{len(names)} ({first_names})" if names else "0"
