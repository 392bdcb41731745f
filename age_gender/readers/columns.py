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
_COMPOUND_TITLE = re.compile(
    r"(?:known_)?(?:img|image|file|photo|picture|face|person|source)s?_?(path|file|name|id)s?"
    r"|(?:img|photo|picture)()"
)
UNNAMED = re.compile(r"|__index_level_\d+__|Unnamed: \d+")  # how pandas titles its index
SAMPLE_ROWS = 20  # rows that show which column is what, and which type bytes hold
TRAIN_YOUR_OWN = f"embeddings of another network need a model of their own: {TRAIN_COMMAND}"


class NameRank(NamedTuple):
    """Say how well a title suits a column of names: the least rank suits best."""

    tier: int  # 0 for a word of NAME_COLUMNS, 1 for a compound of them, 2 for an index of pandas
    word: int  # its index in NAME_COLUMNS
    is_other: bool  # whether the title is more than the word: in the plural, nested, ...


UNNAMED_RANK = NameRank(2, 0, True)


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


def _choose_embedding(
    path: str, titles: Sequence[str], samples: Sequence[Sample], options: ReadOptions,
    metadata: set[int], must_fit_width: bool,
) -> Candidate:  # fmt: skip
    """Return the columns of the embedding; raises as `choose_columns` does."""
    # Columns of vectors and numbered columns, of a width that is read
    candidates = _find_candidates(titles, samples, options)
    fitting = [candidate for candidate in candidates if options.fits(_width(candidate, samples))]
    if not options.width and not any(samples[candidate[0]].width for candidate in fitting):
        longest = max(map(len, fitting), default=0)
        fitting = [candidate for candidate in fitting if len(candidate) == longest]
    if len(fitting) > 1:
        first_titles = [titles[candidate[0]] for candidate in fitting]
        raise ambiguity(path, "columns", first_titles, "hold embeddings", "--embedding-column")
    if fitting:
        return fitting[0]

    # All columns of numbers, whatever their titles
    has_vectors = any(sample.width for sample in samples)
    if options.embedding is None and not has_vectors:
        numbers = (index for index, sample in enumerate(samples) if sample.is_number)
        numbers = tuple(index for index in numbers if index not in metadata)
        is_known_width = options.width or options.widths
        has_other_columns = len(numbers) + len(metadata) < len(titles)
        if options.fits(len(numbers)) and (is_known_width or not has_other_columns):
            return numbers

    # The one column of vectors, so that its rows are bad ones, which say how
    if has_vectors and len(candidates) == 1 and options.width and not must_fit_width:
        return candidates[0]
    if candidates:
        raise width_error(max(_width(candidate, samples) for candidate in candidates), options)
    raise _no_embedding_error(titles, samples)


def _find_candidates(
    titles: Sequence[str], samples: Sequence[Sample], options: ReadOptions
) -> list[Candidate]:
    """Return the columns of vectors and the runs of numbered columns, or those that options name.

    Raises RowError where there is no such column as `--embedding-column`, or it is no candidate.
    """
    vector_columns = [(index,) for index, sample in enumerate(samples) if sample.width]
    candidates = vector_columns + _numbered_runs(titles, samples, options.width)
    given = options.embedding
    if given is None:
        return candidates
    candidates = [candidate for candidate in candidates if given in _titles_of(candidate, titles)]
    if not candidates and given in titles:
        raise RowError(f"the column {given} holds neither a list nor numbers")
    if not candidates:
        raise _no_column_error(given, titles)
    return candidates


def _no_column_error(title: str, titles: Sequence[str]) -> RowError:
    return RowError(f"no column {title}", f"the columns are {_listed(titles)}")


def _no_embedding_error(titles: Sequence[str], samples: Sequence[Sample]) -> RowError:
    """Return the error of a table without any candidate; its last column of text may be meant."""
    reason = "no column of lists and no run of number columns such as e0, e1, e2 ..."
    texts = [f"{titles[i] or '(unnamed)'} holds {s.text}" for i, s in enumerate(samples) if s.text]
    if texts:
        reason += f"; {texts[-1][:120]}"
    return RowError(
        reason, f"the columns are {_listed(titles)}; say which is meant: --embedding-column NAME"
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
    """Return the index of the column that holds names, or None. Raises as `choose_columns` does."""
    if options.name is not None:
        if options.name not in titles:
            raise _no_column_error(options.name, titles)
        return titles.index(options.name)
    ranks = {
        index: rank for index, (title, sample) in enumerate(zip(titles, samples, strict=True))
        if sample.is_name and (rank := _rank_as_name(title, sample))
    }  # fmt: skip
    best = min(ranks.values(), default=None)
    indices = [index for index, rank in ranks.items() if rank == best]
    if len(indices) > 1 and not best.is_other:
        both = [titles[index] for index in indices]
        raise ambiguity(path, "columns", both, "hold names", "--name-column")
    is_ambiguous = len(indices) > 1 and best == UNNAMED_RANK
    return indices[0] if indices and not is_ambiguous else None


def _rank_as_name(title: str, sample: Sample) -> NameRank | None:
    """Return how well a column suits as that of names, or None where its title is no such one."""
    last = title.casefold().rpartition(".")[2]
    singular = last.lstrip("_")
    singular = singular if singular in NAME_COLUMNS else singular.removesuffix("s")
    if singular in NAME_COLUMNS:
        is_other = title.casefold() != singular
        return NameRank(0, NAME_COLUMNS.index(singular), is_other)
    if compound := _COMPOUND_TITLE.fullmatch(last):
        return NameRank(1, NAME_COLUMNS.index(compound[1] or "image"), True)
    return UNNAMED_RANK if UNNAMED.fullmatch(title) and not sample.is_number else None


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
