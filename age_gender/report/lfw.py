"""LFW's genders: predictions against the two published lists of names, faults and all, and without.

The published convention: of the predictions of a gender, those whose name stands in that
gender's list are correct, the others wrong; the recall divides by the list's length. A
prediction is a pair here: the last component of a face's name, and its gender, 0 or 1.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from age_gender.cli import InputError, printable
from age_gender.labels import GENDERS


def read_labels(path: Path) -> str:
    """The text of a label file. Raises InputError where there is none, or no name in it."""
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
    return [line.strip() for line in text.splitlines() if line.strip()]


def published(predicted: list[tuple[str, int]], labels: list[str]) -> Iterator[str]:
    """The two lines of the published convention; `labels` of male and female, as below."""
    for gender, names in enumerate(map(names_in, labels)):
        listed = set(names)
        right = [name in listed for name, guess in predicted if guess == gender]
        yield score(GENDERS[gender], right, len(names))


def without_faults(predicted: list[tuple[str, int]], labels: list[str]) -> Iterator[str]:
    """The faults of the label files, and the figures over images with exactly one label."""
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
    yield "Images with exactly one label:"
    all_right = []
    for gender, names in enumerate(lists):
        right = [guess == gender for name, guess in guesses.items() if name in names]
        yield "  " + score(GENDERS[gender], right, len(right))
        all_right += right
    yield "  " + score("all", all_right, len(all_right))


def score(title: str, right: list[bool], of: int) -> str:
    share = sum(right) / of if of else float("nan")
    return f"{title.capitalize()} {share:.4f}, correct {sum(right)}, wrong {right.count(False)}"


def listing(names: Iterable[str]) -> str:
    """How many, and the first few."""
    names = sorted(names)
    shown = printable(", ".join(names[:5]) + (", ..." if len(names) > 5 else ""))
    return f"{len(names)} ({shown})" if names else "0"
