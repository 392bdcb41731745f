"""Choose which column of a table is what: the embedding, the name, the labels, and the rest."""

import itertools
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from age_gender.cli import InputError
from age_gender.labels import LABEL_COLUMNS
from age_gender.readers import names, vectors
from age_gender.readers.errors import RowError
from age_gender.readers.numbers import MAX_WIDTH, MIN_WIDTH, count_text, parse_cells
from age_gender.trained_models import TRAIN_COMMAND

# Titles of columns of names, also in the plural, nested (image.path) or with an underscore before
# them (_id). The first of them that a table has is read.
NAME_COLUMNS = ("filename", "file", "path", "image", "name", "identity", "id", "label")
# Titles of columns that hold names where a table has none of these: the last word stands for them.
_NAME_TITLE = re.compile(
    r"(?:known_)?(?:img|image|file|photo|picture|face|person|source)s?_?(path|file|name|id)s?"
    r"|(?:img|photo|picture)()"
)
UNNAMED = re.compile(r"|__index_level_\d+__|Unnamed: \d+")  # a pandas index, written
SAMPLE_ROWS = 20  # rows that show which column is what, and which type bytes hold
TRAIN_YOUR_OWN = f"embeddings of another network need a model of their own: {TRAIN_COMMAND}"


@dataclass(frozen=True)
class ReadOptions:
    """Say what is read of tables: what the caller needs, and what the user said about them."""

    width: int | None = None  # numbers of an embedding; None: as many as the first table has
    width_source: str | None = None  # the file whose width must be kept; None: a model sets it
    widths: tuple[int, ...] = ()  # if `width` is None, those of the models here; (): any
    models: str = ""  # the models here, for a message
    embedding: str | None = None  # title of the column of embeddings
    name: str | None = None  # title of the column of names
    names: str | None = None  # a text file of the names of an NPY
    query: str | None = None  # a SELECT for SQLite
    blob_type: str | None = None  # type of the numbers in bytes: a key of blobs.DTYPES
    labels: bool = False  # whether ages and genders are read

    def fits(self, count: int) -> bool:
        """Return whether `count` numbers are an embedding of a width that is read."""
        if self.width or self.widths:
            return count == self.width if self.width else count in self.widths
        return MIN_WIDTH <= count <= MAX_WIDTH

    def width_of(self, count: int) -> int | None:
        """Return the width of which `count` cells are a row, perhaps behind a name; or None."""
        widths = (self.width,) if self.width else self.widths
        return next((width for width in widths if 0 <= count - width <= 1), None)


ANY = ReadOptions()  # tables of any width; which column is what is inferred


@dataclass(frozen=True)
class Columns:
    """Say which column is what, by its index or, in JSON and Parquet, by its title."""

    width: int = 0
    embedding: Sequence[Hashable] = ()  # one column of vectors, or columns of one number each
    form: vectors.Form | None = None  # how a column holds vectors; None: columns of numbers
    metadata: dict[str, Hashable] = field(default_factory=dict)  # of "name", "age", "gender", ...
    count: int = 0  # of all columns of the table
    unread_columns: tuple[str, ...] = ()

    def vector(self, get: Callable) -> np.ndarray:
        """Return a row's float32 (width,); `get(column)` is the row's value in a column.

        Raises RowError.
        """
        if self.form is None:
            first = self.embedding[0] + 1 if isinstance(self.embedding[0], int) else 1
            return parse_cells([*map(get, self.embedding)], "cell", first)
        return self.form.read(get(self.embedding[0]), self.width)

    def read_columns(self) -> list[Hashable]:
        """Return the columns that are read."""
        return [*self.embedding, *self.metadata.values()]

    @property
    def is_list(self) -> bool:
        """Return whether one column holds the embedding."""
        return self.form is not None


UNKNOWN = Columns()


class Sample(NamedTuple):
    """Say what the first values of a column show of it."""

    width: int = 0  # numbers of its vectors; 0 for other columns
    is_number: bool = False
    form: vectors.Form | None = None
    is_name: bool = True
    fault: RowError | None = None  # of a first value that is a faulty vector
    text: str = ""  # what the first value seems to be, for a message


def inspect_column(values: Sequence[object], options: ReadOptions) -> Sample:
    """Return what the values of a column in the first rows show."""
    if vectors.is_scalar(values[0]):  # most columns of most tables
        return Sample(is_number=True, is_name=names.is_name(values[0]))
    form = vectors.find_form(values, options.width, options.blob_type)
    try:
        width = vectors.count_numbers(values[0], form)
    except RowError as fault:
        return Sample(is_name=False, fault=fault)
    if width:
        return Sample(width, form=form, is_name=False)
    value = next((value for value in values if value is not None), None)
    return Sample(is_name=names.is_name(value), text=vectors.describe(value))


def inspect_columns(rows: Sequence[Sequence], options: ReadOptions) -> list[Sample]:
    """Return a sample of each column of the first row; rows of another length do not count."""
    rows = [row for row in rows if len(row) == len(rows[0])]
    return [inspect_column(values, options) for values in zip(*rows, strict=True)]


Candidate = tuple[int, ...]  # indices of one column of vectors, or of columns of a number each


def choose_columns(
    path: str, header: Sequence[str], samples: Sequence[Sample], options: ReadOptions,
    by_title: bool = False, must_fit_width: bool = False,
) -> Columns:  # fmt: skip
    """Return which column is what, from their titles and what their first values show.

    Columns are identified by index, or `by_title`. Raises RowError where this row does not show
    it, or, if `must_fit_width`, where no column has the width; InputError, naming `path`, where
    two columns fit.
    """
    for sample in samples:
        if sample.fault:
            raise sample.fault
    titles = [title.strip() for title in header]

    # Names and labels
    metadata = find_label_columns(path, titles, options)
    if (name := _find_name(path, titles, samples, options)) is not None:
        metadata["name"] = name

    # The embedding
    chosen = _choose_embedding(path, titles, samples, options, {*metadata.values()}, must_fit_width)
    form = samples[chosen[0]].form
    if form and form.rivals:
        raise InputError(
            f"{path}: the bytes of {titles[chosen[0]]} may be {form.name} or {form.rivals[0]} "
            f"numbers; say which: --blob-type {form.name}"
        )

    # What is read and what is not
    used = {*chosen, *metadata.values()}
    unread_columns = tuple(t or "(unnamed)" for i, t in enumerate(titles) if i not in used)
    metadata = {
        role: index for role, index in metadata.items()
        if index not in chosen and (role == "name" or options.labels)
    }  # fmt: skip
    keys = header if by_title else range(len(titles))
    return Columns(
        options.width or _width(chosen, samples), tuple(keys[index] for index in chosen), form,
        {role: keys[index] for role, index in metadata.items()}, len(titles), unread_columns,
    )  # fmt: skip


def choose_from_rows(
    path: str, header: Sequence[str], rows: Sequence[Sequence], options: ReadOptions, **how
) -> Columns:
    """Return what `choose_columns` does, by the first of these rows; the others show types."""
    return choose_columns(path, header, inspect_columns(rows, options), options, **how)


def _choose_embedding(
    path: str, titles: Sequence[str], samples: Sequence[Sample], options: ReadOptions,
    metadata: set[int], must_fit_width: bool,
) -> Candidate:  # fmt: skip
    """Return the columns of the embedding; raises as `choose_columns` does."""
    # Columns of vectors, and runs of columns whose titles are numbered
    lists = [(index,) for index, sample in enumerate(samples) if sample.width]
    candidates = lists + _numbered_runs(titles, samples, options.width)
    if options.embedding is not None:
        candidates = [c for c in candidates if options.embedding in _titles_of(c, titles)]
    for title in (options.name, options.embedding):
        if title not in (None, *titles) and not (title == options.embedding and candidates):
            raise RowError(f"no column {title}", f"the columns are {_listed(titles)}")
    if options.embedding is not None and not candidates:
        raise RowError(f"the column {options.embedding} holds neither a list nor numbers")

    # Those of a width that is read, else all columns of numbers, whatever their titles
    fitting = [candidate for candidate in candidates if options.fits(_width(candidate, samples))]
    if not fitting and not lists and options.embedding is None:
        numbers = (index for index, sample in enumerate(samples) if sample.is_number)
        rest = tuple(index for index in numbers if index not in metadata)
        has_others = len(rest) + len(metadata) < len(titles)
        if options.fits(len(rest)) and (options.width or options.widths or not has_others):
            return rest
    if not options.width and len(fitting) > 1 and not {*fitting} & {*lists}:
        longest = max(map(len, fitting))
        fitting = [candidate for candidate in fitting if len(candidate) == longest]

    # One, or what is wrong
    if len(fitting) > 1:
        fitting_titles = [_titles_of(candidate, titles)[0] for candidate in fitting]
        raise ambiguity(path, "columns", fitting_titles, "hold embeddings", "--embedding-column")
    if fitting:
        return fitting[0]
    if len(lists) == 1 and lists == candidates and options.width and not must_fit_width:
        return lists[0]  # so that its rows are bad ones, which say how
    if candidates:
        raise width_error(max(_width(candidate, samples) for candidate in candidates), options)
    texts = [f"{titles[i] or '(unnamed)'} holds {s.text}" for i, s in enumerate(samples) if s.text]
    raise RowError(
        "no column of lists and no run of number columns such as e0, e1, e2 ..."
        + "".join(f"; {text[:120]}" for text in texts[-1:]),
        f"the columns are {_listed(titles)}; say which is meant: --embedding-column NAME",
    )


def find_label_columns(path: str, titles: Sequence[str], options: ReadOptions) -> dict[str, int]:
    """Return the indices of the columns of ages and of genders."""
    folded = [title.casefold().rpartition(".")[2] for title in titles]  # payload.age, too
    present = [title for title in LABEL_COLUMNS if title in folded]
    for title in present:
        if options.labels and folded.count(title) > 1:
            raise InputError(f"{path}: two columns are called {title}; leave one of them out")
    return {title: folded.index(title) for title in present}


def _find_name(
    path: str, titles: Sequence[str], samples: Sequence[Sample], options: ReadOptions
) -> int | None:
    """Return the index of the column that holds names, or None."""
    if options.name is not None:
        return titles.index(options.name) if options.name in titles else None
    by_word: dict[str, list[int]] = {}
    for index, title in enumerate(titles):
        if samples[index].is_name:
            last = title.casefold().rpartition(".")[2].lstrip("_")
            word = last if last in NAME_COLUMNS else last.removesuffix("s")
            by_word.setdefault(word, []).append(index)
    for word in NAME_COLUMNS:
        indices = by_word.get(word, [])
        indices = [index for index in indices if titles[index].casefold() == word] or indices[:1]
        if len(indices) > 1:
            both = [titles[index] for index in indices]
            raise ambiguity(path, "columns", both, "hold names", "--name-column")
        if indices:
            return indices[0]
    alike = {}
    for index, title in enumerate(titles):
        word = _NAME_TITLE.fullmatch(title.casefold().rpartition(".")[2])
        if word and samples[index].is_name:
            alike.setdefault(word[1] or "image", index)
    if alike:
        return alike[min(alike, key=NAME_COLUMNS.index)]
    unnamed = [
        index for index, title in enumerate(titles)
        if UNNAMED.fullmatch(title) and not samples[index].is_number and not samples[index].width
    ]  # fmt: skip
    return unnamed[0] if len(unnamed) == 1 else None


def _numbered_runs(
    titles: Sequence[str], samples: Sequence[Sample], width: int | None
) -> list[Candidate]:
    """Return the columns whose titles differ in a running number alone, in its order."""
    families: dict[tuple[str, str], dict[int, int]] = {}  # by prefix and suffix: number to index
    for index, title in enumerate(titles):
        if not samples[index].width and (match := re.fullmatch(r"(.*?)([0-9]{1,6})(\D*)", title)):
            families.setdefault((match[1], match[3]), {}).setdefault(int(match[2]), index)
    runs = []
    for family in families.values():
        in_order = enumerate(sorted(family))
        for _, running in itertools.groupby(in_order, lambda pair: pair[1] - pair[0]):
            run = tuple(family[number] for _, number in running)
            # Bad cells in the inspected row do not end a run.
            are_numbers = 2 * sum(samples[index].is_number for index in run) >= len(run)
            if len(run) > 1 and (are_numbers or len(run) == width):
                runs.append(run)
    return runs


def _width(candidate: Candidate, samples: Sequence[Sample]) -> int:
    return max(len(candidate), samples[candidate[0]].width)


def _titles_of(candidate: Candidate, titles: Sequence[str]) -> list[str]:
    """Return what `--embedding-column` may call a candidate: its first title, or their prefix."""
    first = titles[candidate[0]]
    return [first, first.rstrip("0123456789")] if len(candidate) > 1 else [first]


def _listed(titles: Sequence[str]) -> str:
    short = (title if len(title) <= 40 else f"{title[:40]}..." for title in titles[:8])
    return ", ".join(title or "(unnamed)" for title in short) + ", ..." * (len(titles) > 8)


def ambiguity(path: str, noun: str, titles: Sequence[str], fit: str, option: str) -> InputError:
    """Return the error where two columns, arrays or tables `fit`: the user must say which one."""
    value = '"select path, embedding from faces"' if option == "--query" else titles[0]
    return InputError(
        f"{path}: the {noun} {titles[0]} and {titles[1]} both {fit}; say which is meant: "
        f"{option} {value}"
    )


def width_error(count: int, options: ReadOptions) -> RowError:
    """Return the error of a row of `count` numbers in a table of other embeddings."""
    numbers = count_text(count)
    if options.width is None and options.widths:
        return RowError(f"{numbers}, which no model here takes ({options.models})", TRAIN_YOUR_OWN)
    if options.width is None:
        return RowError(numbers, f"an embedding has {MIN_WIDTH} to {MAX_WIDTH:,} numbers")
    if options.width_source is None:
        return RowError(f"{numbers}, not {options.width}, which this model takes", TRAIN_YOUR_OWN)
    return RowError(
        f"{numbers}, not {options.width} as in {options.width_source}",
        "give tables of one width at a time",
    )
