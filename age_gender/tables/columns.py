"""Which column of a table is what: the embedding, the name, the labels; what is left out."""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from age_gender.script import InputError
from age_gender.tables import numbers

NAMES = ("filename", "file", "path", "image", "name", "identity", "id")  # the first one is taken
UNNAMED = re.compile(r"|__index_level_\d+__|Unnamed: \d+")  # a pandas index, written


@dataclass(frozen=True)
class Wanted:
    """What a caller wants of tables, and what the user said about them."""

    width: int | None = None  # numbers of an embedding; None: as many as the first table has
    whose: str = "the model"  # has this width
    embedding: str | None = None  # the column that is the embedding
    name: str | None = None  # the column that is the name
    names: str | None = None  # a text file of the names of an NPY
    query: str | None = None  # to SQLite
    labels: bool = False  # whether ages and genders are read


ANY = Wanted()  # a table of whatever width, all its columns told by their names


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what, each by its place or, in JSON, by its key."""

    width: int
    whose: str
    embedding: Sequence[Hashable] = ()  # the column of lists, or those of a number each
    is_list: bool = False
    name: Hashable | None = None
    age: Hashable | None = None
    gender: Hashable | None = None
    count: int = 0  # of all columns
    left_out: tuple[str, ...] = ()

    def told(self) -> list[tuple[str, Hashable]]:
        """("names", column), and so "age" and "gender", for those that are there."""
        told = {"names": self.name, "age": self.age, "gender": self.gender}
        return [(word, column) for word, column in told.items() if column is not None]


def choose(
    path: str,
    header: Sequence[str],
    sizes: Sequence[int],
    wanted: Wanted,
    keys: Sequence[Hashable] | None = None,
    strict: bool = False,
) -> Columns | str:
    """Which column is what, from their names and the `numbers.size` of a row's values.

    `keys` are what the columns are told by, else their places. A reason where this row does not
    tell, or, `strict`, where no column has the width. Raises InputError, naming `path`, where
    two answers fit, or where a column that the user named is not there.
    """
    titles = [title.strip() for title in header]
    folded = [title.casefold() for title in titles]
    label = {word: folded.index(word) for word in ("age", "gender") if folded.count(word) == 1}
    if wanted.name is not None and wanted.name not in titles:
        return f"no column {wanted.name}; the columns are {_listed(titles)}"
    lists = [(size, (place,)) for place, size in enumerate(sizes) if size > 0]
    runs = [(len(run), run) for run in _runs(titles, sizes)]
    answers = lists + runs
    if wanted.embedding is not None:
        answers = [a for a in answers if wanted.embedding in _called(titles, a)]
        if not answers and wanted.embedding not in titles:
            return f"no column {wanted.embedding}; the columns are {_listed(titles)}"
        if not answers:
            return f"the column {wanted.embedding} holds neither a list nor numbers"
    fitting = [answer for answer in answers if _fits(answer[0], wanted)]
    if not fitting and wanted.embedding is None:
        taken = {*label.values(), _name(path, titles, sizes, (), wanted)}
        rest = tuple(i for i, size in enumerate(sizes) if size == 0 and i not in taken)
        others = len(titles) - len(rest) - len(taken - {None})
        fits = _fits(len(rest), wanted) and not lists and (wanted.width or not others)
        fitting = [(len(rest), rest)] if fits else []
    if len(fitting) > 1 and not any(answer in lists for answer in fitting) and not wanted.width:
        most = max(count for count, _ in fitting)  # the longest run
        fitting = [answer for answer in fitting if answer[0] == most]
    if len(fitting) > 1:
        both = " and ".join(_called(titles, answer)[0] for answer in fitting[:2])
        raise InputError(
            f"{path}: the columns {both} both hold embeddings; say which is meant: "
            f"--embedding-column {_called(titles, fitting[0])[0]}"
        )
    if not fitting and len(lists) == 1 and lists == answers and wanted.width and not strict:
        fitting = lists  # so that its rows are faulty, and say how
    if not fitting:
        if answers:
            return wrong_width(max(answers)[0], wanted.width, wanted.whose)
        return (
            "no column of lists and no run of number columns such as e0 ... e511; the columns are "
            f"{_listed(titles)}; say which is meant: --embedding-column NAME"
        )
    count, places = fitting[0]
    named = _name(path, titles, sizes, places, wanted)
    told = {"name": named, "age": label.get("age"), "gender": label.get("gender")}
    used = {*places, *told.values()}
    left_out = tuple(t or "(unnamed)" for place, t in enumerate(titles) if place not in used)
    keys = range(len(titles)) if keys is None else keys
    told = {
        word: None if place is None or place in places else keys[place]
        for word, place in told.items()
        if word == "name" or wanted.labels
    }
    return Columns(
        wanted.width or count, wanted.whose if wanted.width else path,
        tuple(keys[place] for place in places), fitting[0] in lists, **told,
        count=len(titles), left_out=left_out,
    )  # fmt: skip


def _fits(count: int, wanted: Wanted) -> bool:
    return count == wanted.width if wanted.width else numbers.FEWEST <= count <= numbers.MOST


def _called(titles: Sequence[str], answer: tuple[int, tuple[int, ...]]) -> list[str]:
    """What an answer may be called: its first column, or what its columns' names share."""
    first = titles[answer[1][0]]
    return [first, first.rstrip("0123456789")] if len(answer[1]) > 1 else [first]


def _runs(titles: Sequence[str], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Places of columns whose names differ in a running number alone, in its order."""
    families: dict[tuple[str, str], dict[int, int]] = {}
    for place, title in enumerate(titles):
        if sizes[place] <= 0 and (match := re.fullmatch(r"(.*?)([0-9]{1,6})(\D*)", title)):
            families.setdefault((match[1], match[3]), {}).setdefault(int(match[2]), place)
    runs = []
    for family in families.values():
        run: list[int] = []
        for number in [*sorted(family), None]:
            if run and (number is None or number - 1 not in family):
                # A few bad cells in the row that is looked at do not end a run.
                if len(run) > 1 and 2 * sum(sizes[place] == 0 for place in run) >= len(run):
                    runs.append(tuple(run))
                run = []
            run += [family[number]] if number is not None else []
    return runs


def _name(path, titles, sizes, embedding: Sequence[int], wanted: Wanted) -> int | None:
    """The place of the column that holds names, or None."""
    if wanted.name is not None:
        return titles.index(wanted.name)
    folded = [title.casefold() for title in titles]
    for word in NAMES:
        found = [place for place, title in enumerate(folded) if title == word]
        if len(found) > 1:
            both = " and ".join(titles[place] for place in found[:2])
            raise InputError(
                f"{path}: the columns {both} both hold names; say which is meant: "
                f"--name-column {titles[found[0]]}"
            )
        if found:
            return found[0]
    indices = [i for i, title in enumerate(titles) if UNNAMED.fullmatch(title) and sizes[i] < 0]
    return indices[0] if len(indices) == 1 and indices[0] not in embedding else None


def _listed(titles: Sequence[str]) -> str:
    return ", ".join(title or "(unnamed)" for title in titles[:8]) + ", ..." * (len(titles) > 8)


def wrong_width(count: int, width: int | None, whose: str) -> str:
    """Why a row of `count` numbers is not what is wanted."""
    numbers_of = f"{count} number{'s' * (count != 1)}"
    if width is None:
        return f"{numbers_of}; an embedding has {numbers.FEWEST} to {numbers.MOST:,}"
    if whose == "the model":
        return (
            f"{numbers_of}, not {width}, which this model takes; embeddings of another model need "
            "a model of their own: python prepare.py --features YOURS && python train.py"
        )
    return f"{numbers_of}, not {width} as in {whose}; prepare tables of one width at a time"
