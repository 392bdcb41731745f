"""Which column of a table is what: the embedding, the name, the labels, and the rest."""

import itertools
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from age_gender.cli import InputError
from age_gender.label_columns import GENDER_COLUMNS
from age_gender.readers import names, vectors
from age_gender.readers.errors import RowError
from age_gender.readers.numbers import FEWEST, MOST, float32

# What a column of names is called, also in the plural, nested (image.path) or with an underscore
# before it (_id). The first of them is taken.
NAMES = ("filename", "file", "path", "image", "name", "identity", "id", "label")
LABELS = ("age", *GENDER_COLUMNS)
UNNAMED = re.compile(r"|__index_level_\d+__|Unnamed: \d+")  # a pandas index, written


@dataclass(frozen=True)
class ReadOptions:
    """What is read of tables: what the caller needs, and what the user said about them."""

    width: int | None = None  # numbers of an embedding; None: as many as the first table has
    first_table: str | None = None  # the file that has this width; None: a model takes it
    widths: tuple[int, ...] = ()  # without a width: those of the models here; none: any
    models: str = ""  # these models, for a message
    embedding: str | None = None  # the column that is the embedding
    name: str | None = None  # the column that is the name
    names: str | None = None  # a text file of the names of an NPY
    query: str | None = None  # to SQLite
    blob_type: str | None = None  # of the numbers in bytes: a name of blobs.DTYPES
    labels: bool = False  # whether ages and genders are read

    def fits(self, count: int) -> bool:
        """Return whether `count` numbers are an embedding of a width that is read."""
        if self.width or self.widths:
            return count == self.width if self.width else count in self.widths
        return FEWEST <= count <= MOST

    def width_of(self, count: int) -> int | None:
        """Return the width that is read of which `count` cells are a row, maybe behind a name."""
        widths = (self.width,) if self.width else self.widths
        return next((width for width in widths if 0 <= count - width <= 1), None)


ANY = ReadOptions()  # tables of any width; which column is what is read from them


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what: each by its place or, in JSON and Parquet, by its name."""

    width: int = 0
    embedding: Sequence[Hashable] = ()  # the column of lists, or those of a number each
    form: vectors.Form | None = None  # of the values of a column of lists; None: of numbers
    metadata: dict[str, Hashable] = field(default_factory=dict)  # "name", "age", "gender": if there
    count: int = 0  # of all columns
    left_out: tuple[str, ...] = ()

    def vector(self, get: Callable) -> np.ndarray:
        """Return a row's float32 (width,); `get(column)` is what the row holds in a column.

        Raises RowError.
        """
        if self.form is None:
            first = self.embedding[0] + 1 if isinstance(self.embedding[0], int) else 1
            return float32([*map(get, self.embedding)], "cell", first)
        return self.form.read(get(self.embedding[0]), self.width)

    def names(self) -> list[Hashable]:
        """Return the columns that are read."""
        return [*self.embedding, *self.metadata.values()]

    @property
    def is_list(self) -> bool:
        """Whether one column holds the embedding."""
        return self.form is not None


UNKNOWN = Columns()


class Sample(NamedTuple):
    """What the first values of a column show of it."""

    size: int  # numbers of an embedding in its first value: 0 for a number, -1 for neither
    form: vectors.Form | None = None
    can_name: bool = True
    fault: RowError | None = None  # of a first value that is an embedding, but faulty


def sample(values: Sequence[object], options: ReadOptions) -> Sample:
    """Return what the values of a column in the first rows show."""
    form = vectors.find_form(values, options.width, options.blob_type)
    try:
        size = vectors.size(values[0], form)
    except RowError as fault:
        return Sample(-1, form, False, fault)
    return Sample(size, form if size > 0 else None, size <= 0 and names.can_name(values[0]))


def of_rows(
    path: str, header: Sequence[str], rows: Sequence[Sequence], options: ReadOptions, **how
) -> Columns:
    """Return what `choose` does, by the first of these rows; the others help to tell types."""
    return choose(path, header, samples_of(rows, options), options, **how)


def samples_of(rows: Sequence[Sequence], options: ReadOptions) -> list[Sample]:
    """Return a sample of each column of the first row; rows of another length do not count."""
    rows = [row for row in rows if len(row) == len(rows[0])]
    return [sample(values, options) for values in zip(*rows, strict=True)]


def choose(
    path: str, header: Sequence[str], samples: Sequence[Sample], options: ReadOptions,
    by_name: bool = False, strict: bool = False,
) -> Columns:  # fmt: skip
    """Return which column is what, from their names and what their first values show.

    Columns are named by their places, or `by_name`. Raises RowError where this row does not show
    it, or, `strict`, where no column has the width; InputError, naming `path`, where two answers
    fit.
    """
    for fault in filter(None, (sample.fault for sample in samples)):
        raise fault
    sizes = [sample.size for sample in samples]
    titles = [title.strip() for title in header]
    metadata = label_columns(path, titles, options)
    if (name := _name(path, titles, samples, options)) is not None:
        metadata["name"] = name
    # An answer is the place of a column of lists, or the places of columns of a number each.
    lists = [(place,) for place, size in enumerate(sizes) if size > 0]
    answers = lists + _runs(titles, sizes, options.width)
    if options.embedding is not None:
        answers = [a for a in answers if options.embedding in _called(titles, a)]
    for named in (options.name, options.embedding):
        if named not in (None, *titles) and not (named == options.embedding and answers):
            raise RowError(f"no column {named}", f"the columns are {_listed(titles)}")
    if options.embedding is not None and not answers:
        raise RowError(f"the column {options.embedding} holds neither a list nor numbers")

    fitting = [answer for answer in answers if options.fits(_count(answer, sizes))]
    if not fitting and not lists and options.embedding is None:  # all numbers of whatever name
        rest = tuple(i for i, size in enumerate(sizes) if not size and i not in metadata.values())
        others = len(titles) - len(rest) - len({*metadata.values()})
        if options.fits(len(rest)) and (options.width or options.widths or not others):
            fitting = [rest]
    if not options.width and len(fitting) > 1 and not {*fitting} & {*lists}:
        longest = max(map(len, fitting))
        fitting = [answer for answer in fitting if len(answer) == longest]
    if len(fitting) > 1:
        both = [_called(titles, answer)[0] for answer in fitting]
        raise two_answers(path, "columns", both, "hold embeddings", "--embedding-column")
    if not fitting and len(lists) == 1 and lists == answers and options.width and not strict:
        fitting = lists  # so that its rows are faulty, and say how
    if not fitting and answers:
        raise wrong_width(max(_count(answer, sizes) for answer in answers), options)
    if not fitting:
        raise RowError(
            "no column of lists and no run of number columns such as e0 ... e511",
            f"the columns are {_listed(titles)}; say which is meant: --embedding-column NAME",
        )
    places = fitting[0]
    used = {*places, *metadata.values()}
    left_out = tuple(t or "(unnamed)" for place, t in enumerate(titles) if place not in used)
    metadata = {
        w: i for w, i in metadata.items() if i not in places and (w == "name" or options.labels)
    }
    form = samples[places[0]].form if places in lists else None
    if form and form.rivals:
        raise InputError(
            f"{path}: the bytes of {titles[places[0]]} may be {form.name} or {form.rivals[0]} "
            f"numbers; say which: --blob-type {form.name}"
        )
    keys = header if by_name else range(len(titles))
    return Columns(
        options.width or _count(places, sizes), tuple(keys[place] for place in places), form,
        {word: keys[place] for word, place in metadata.items()}, len(titles), left_out,
    )  # fmt: skip


def label_columns(path: str, titles: Sequence[str], options: ReadOptions) -> dict[str, int]:
    """Return the places of the columns of ages and of genders; of several genders the first."""
    folded = [title.casefold().rpartition(".")[2] for title in titles]  # payload.age, too
    present = [word for word in LABELS if word in folded]
    for word in present:
        if options.labels and folded.count(word) > 1:
            raise InputError(f"{path}: two columns are called {word}; leave one of them out")
    genders = [word for word in present if word in GENDER_COLUMNS][:1]
    return {word: folded.index(word) for word in ["age"] * ("age" in present) + genders}


def _count(answer: tuple[int, ...], sizes: Sequence[int]) -> int:
    return max(len(answer), sizes[answer[0]])


def _called(titles: Sequence[str], answer: tuple[int, ...]) -> list[str]:
    """Return what an answer may be called: its first column, or what its columns' names share."""
    first = titles[answer[0]]
    return [first, first.rstrip("0123456789")] if len(answer) > 1 else [first]


def _runs(titles: Sequence[str], sizes: Sequence[int], width: int | None) -> list[tuple[int, ...]]:
    """Return the places of columns whose names differ in a running number alone, in its order."""
    families: dict[tuple[str, str], dict[int, int]] = {}
    for place, title in enumerate(titles):
        if sizes[place] <= 0 and (match := re.fullmatch(r"(.*?)([0-9]{1,6})(\D*)", title)):
            families.setdefault((match[1], match[3]), {}).setdefault(int(match[2]), place)
    runs = []
    for family in families.values():
        in_order = enumerate(sorted(family))
        for _, running in itertools.groupby(in_order, lambda pair: pair[1] - pair[0]):
            run = tuple(family[number] for _, number in running)
            # Bad cells in the row that is looked at do not end a run.
            are_numbers = 2 * sum(sizes[place] == 0 for place in run) >= len(run)
            if len(run) > 1 and (are_numbers or len(run) == width):
                runs.append(run)
    return runs


def _name(
    path: str, titles: Sequence[str], samples: Sequence[Sample], options: ReadOptions
) -> int | None:
    """Return the place of the column that holds names, or None."""
    if options.name is not None:
        return titles.index(options.name) if options.name in titles else None
    places_of: dict[str, list[int]] = {}
    for place, title in enumerate(titles):
        if samples[place].can_name:
            last = title.casefold().rpartition(".")[2].lstrip("_")
            word = last if last in NAMES else last.removesuffix("s")
            places_of.setdefault(word, []).append(place)
    for word in NAMES:
        places = places_of.get(word, [])
        places = [place for place in places if titles[place].casefold() == word] or places[:1]
        if len(places) > 1:
            both = [titles[place] for place in places]
            raise two_answers(path, "columns", both, "hold names", "--name-column")
        if places:
            return places[0]
    indices = [i for i, t in enumerate(titles) if UNNAMED.fullmatch(t) and samples[i].size < 0]
    return indices[0] if len(indices) == 1 else None


def two_answers(path: str, what: str, answers: Sequence[str], fit: str, option: str) -> InputError:
    """Return the error where two columns, arrays or tables `fit`: the user must say which one."""
    value = '"select path, embedding from faces"' if option == "--query" else answers[0]
    return InputError(
        f"{path}: the {what} {answers[0]} and {answers[1]} both {fit}; say which is meant: "
        f"{option} {value}"
    )


def _listed(titles: Sequence[str]) -> str:
    return ", ".join(title or "(unnamed)" for title in titles[:8]) + ", ..." * (len(titles) > 8)


def count_of(count: int) -> str:
    return f"{count} number{'s' * (count != 1)}"


def wrong_width(count: int, options: ReadOptions) -> RowError:
    """Return the error of a row of `count` numbers in a table of other embeddings."""
    if options.width is None and options.widths:
        return RowError(
            f"{count_of(count)}, which no model here takes ({options.models})",
            "embeddings of another network need a model of their own: "
            "python prepare.py --features YOURS && python train.py",
        )
    if options.width is None:
        span = f"{FEWEST} to {MOST:,}"
        return RowError(f"{count_of(count)}", f"an embedding has {span} numbers")
    reason = f"{count_of(count)}, not {options.width}"
    if options.first_table is None:
        return RowError(
            f"{reason}, which this model takes",
            "embeddings of another model need a model of their own: "
            "python prepare.py --features YOURS && python train.py",
        )
    return RowError(f"{reason} as in {options.first_table}", "give tables of one width at a time")
