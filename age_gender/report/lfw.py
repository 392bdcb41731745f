"""Check predicted genders against LFW's two published lists, with their faults and without.

The published convention: of the predictions of a gender, those whose name stands in that
gender's list are correct, the others wrong; the recall divides by the list's length. A
prediction is a pair here: the last component of a face's name, and its gender, 0 or 1.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from age_gender.cli import InputError, printable
from age_gender.labels import GENDERS


def read_labels(path: Path) -> str:
    """Return the text of a label file. Raises InputError where there is none, or no name in it."""
    if not path.is_file():
        raise InputError(f"{path}: no such label file; --lfw-labels names the folder of both")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text of names; get the label file again") from None
    if not text.strip():
        raise InputError(f"{path}: no names in this file; get the label file again")
    return text


def names_in(text: str) -> list[str]:
    """Return the names in the text of a label file, one per line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def published(predicted: list[tuple[str, int]], labels: list[str]) -> Iterator[str]:
    """Yield the two lines of the published convention; `labels` are the two files' texts."""
    for gender, names in enumerate(map(names_in, labels)):
        listed = set(names)
        right = [name in listed for name, guess in predicted if guess == gender]
        yield score(GENDERS[gender], right, len(names))


def without_faults(predicted: list[tuple[str, int]], labels: list[str]) -> Iterator[str]:
    """Yield the label files' faults, then the figures over images with exactly one label."""
    # The faults
    written = [set(names_in(text)) for text in labels]
    lists = [{name.removesuffix(".jpg") + ".jpg" for name in names} for names in written]
    as_written, both = set.intersection(*written), set.intersection(*lists)
    guesses = {name: guess for name, guess in predicted if name not in both}
    crlf = sum(text.count("\r\n") for text in labels)
    blank = sum(not line.strip() for text in labels for line in text.splitlines())
    bare = [name for text in labels for name in names_in(text) if not name.endswith(".jpg")]
    yield "Faults of the label files:"
    yield f"  lines that end in CR LF: {crlf}"
    yield f"  blank lines: {blank}"
    yield f"  names without .jpg: {listing(bare)}"
    yield f"  names in both lists: {listing(as_written)}"
    if both > as_written:
        yield f"  names in both lists once .jpg is added: {listing(both - as_written)}"
    yield f"  predictions in neither list: {listing(guesses.keys() - lists[0] - lists[1])}"
    if unseen := (lists[0] ^ lists[1]) - guesses.keys():
        yield f"  names without a prediction: {listing(unseen)}"

    # The figures without them
    yield "Images with exactly one label:"
    all_right = []
    for gender, names in enumerate(lists):
        right = [guess == gender for name, guess in guesses.items() if name in names]
        yield "  " + score(GENDERS[gender], right, len(right))
        all_right += right
    yield "  " + score("all", all_right, len(all_right))


def score(title: str, right: list[bool], of: int) -> str:
    """Return a line: the fraction of `of` images that are right, and the counts."""
    fraction = sum(right) / of if of else float("nan")
    return f"{title.capitalize()} {fraction:.4f}, correct {sum(right)}, wrong {right.count(False)}"


def listing(names: Iterable[str]) -> str:
    """Return a count and the first five names."""
    names = sorted(names)
    shown = printable(", ".join(names[:5]) + (", ..." if len(names) > 5 else ""))
    return f"{len(names)} ({shown})" if names else "0"
