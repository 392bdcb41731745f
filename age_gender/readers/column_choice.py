"""Choose the columns of a table that hold the embedding, the name and the labels.

It serves CSV (csv_headers.py makes up titles where there are none), JSON, Parquet and SQLite. For
NPZ, numpy_files.py chooses the arrays.
"""

import itertools
import re
from collections.abc import Sequence

from age_gender.cli import counted
from age_gender.embeddings import MAX_WIDTH, MIN_WIDTH
from age_gender.errors import InputError
from age_gender.labels import LABEL_COLUMNS
from age_gender.readers import names
from age_gender.readers.bad_rows import RowError
from age_gender.readers.columns import Columns, ColumnSummary, ReadOptions
from age_gender.trained_models import TRAIN_COMMAND

TRANSPOSE = (
    "the table looks transposed; write one row per face, as table.T does in pandas and NumPy"
)
TRAIN_YOUR_OWN = f"embeddings of another network need a model of their own: {TRAIN_COMMAND}"

Candidate = tuple[int, ...]  # index of one column of vectors, or indices of columns of numbers


def choose_columns(
    path: str, header: Sequence[str], summaries: Sequence[ColumnSummary], options: ReadOptions,
    by_title: bool = False, accept_other_width: bool = True,
) -> Columns:  # fmt: skip
    """Return the columns to read, chosen by their titles and summaries.

    Columns are identified by index, or `by_title`. Raises RowError where the first sampled row
    shows no embedding, and, without `accept_other_width`, where its embedding has another width
    than is read. Raises InputError, naming `path`, where two columns fit.
    """
    for summary in summaries:
        if summary.error:
            raise summary.error
    titles = [title.strip() for title in header]

    # Choose names and labels
    metadata = find_label_columns(path, titles, options)
    if (name := _find_name(path, titles, summaries, options)) is not None:
        metadata["name"] = name

    # Choose the embedding
    chosen = _choose_embedding(
        path, titles, summaries, options, {*metadata.values()}, accept_other_width
    )
    vector_format = summaries[chosen[0]].vector_format
    if vector_format and vector_format.other_dtypes:
        raise InputError(
            f"{path}: the bytes of {titles[chosen[0]]} may be {vector_format.name} or "
            f"{vector_format.other_dtypes[0]} numbers; say which: --blob-type {vector_format.name}"
        )

    # Separate the columns that are read from the others
    used = {*chosen, *metadata.values()}
    unread_columns = tuple(t or "(unnamed)" for i, t in enumerate(titles) if i not in used)
    metadata = {
        role: index for role, index in metadata.items()
        if index not in chosen and (role == "name" or options.reads_labels)
    }  # fmt: skip
    keys = header if by_title else range(len(titles))
    return Columns(
        width=options.width or _count_numbers(chosen, summaries),
        embedding=tuple(keys[index] for index in chosen),
        vector_format=vector_format,
        metadata_columns={role: keys[index] for role, index in metadata.items()},
        column_count=len(titles),
        unread_columns=unread_columns,
    )


def _choose_embedding(
    path: str, titles: Sequence[str], summaries: Sequence[ColumnSummary], options: ReadOptions,
    metadata: set[int], accept_other_width: bool,
) -> Candidate:  # fmt: skip
    """Return the columns of the embedding; raises as `choose_columns` does."""
    # Try columns of vectors and numbered columns of a width that is read
    candidates = _find_candidates(titles, summaries, options)
    fitting = [
        candidate for candidate in candidates if options.fits(_count_numbers(candidate, summaries))
    ]
    if not options.width and not any(summaries[candidate[0]].width for candidate in fitting):
        longest = max(map(len, fitting), default=0)
        fitting = [candidate for candidate in fitting if len(candidate) == longest]
    if len(fitting) > 1:
        first_titles = [titles[candidate[0]] for candidate in fitting]
        raise ambiguity_error(
            path, "columns", first_titles, "hold embeddings", "--embedding-column"
        )
    if fitting:
        return fitting[0]

    # Try all columns of numbers, whatever their titles
    has_vectors = any(summary.width for summary in summaries)
    if options.embedding_column is None and not has_vectors:
        numbers = (index for index, summary in enumerate(summaries) if summary.is_number)
        numbers = tuple(index for index in numbers if index not in metadata)
        is_known_width = options.width or options.widths
        has_other_columns = len(numbers) + len(metadata) < len(titles)
        if options.fits(len(numbers)) and (is_known_width or not has_other_columns):
            return numbers

    # Take the only column of vectors, of another width: each of its rows is then bad for that
    if has_vectors and len(candidates) == 1 and options.width and accept_other_width:
        return candidates[0]
    if candidates:
        raise width_error(
            max(_count_numbers(candidate, summaries) for candidate in candidates), options
        )
    raise _no_embedding_error(titles, summaries)


def _find_candidates(
    titles: Sequence[str], summaries: Sequence[ColumnSummary], options: ReadOptions
) -> list[Candidate]:
    """Return the columns of vectors and the runs of numbered columns, or those that options name.

    Raises RowError if `--embedding-column` does not exist, or holds no embeddings.
    """
    vector_columns = [(index,) for index, summary in enumerate(summaries) if summary.width]
    candidates = vector_columns + _find_numbered_runs(titles, summaries, options.width)
    title = options.embedding_column
    if title is None:
        return candidates
    candidates = [
        candidate for candidate in candidates if title in _possible_titles(candidate, titles)
    ]
    if not candidates and title in titles:
        raise RowError(f"the column {title} holds neither a list nor numbers")
    if not candidates:
        raise _no_column_error(title, titles)
    return candidates


def _no_column_error(title: str, titles: Sequence[str]) -> RowError:
    return RowError(f"no column {title}", f"the columns are {_list_titles(titles)}")


def _no_embedding_error(titles: Sequence[str], summaries: Sequence[ColumnSummary]) -> RowError:
    """Return the error of a table without any candidate; it describes the last column of text."""
    text = ""
    for title, summary in zip(titles, summaries, strict=True):
        if summary.text:
            text = f"; {title or '(unnamed)'} holds {summary.text}"
    return RowError(
        f"no column of lists and no run of number columns such as e0, e1, e2 ...{text[:122]}",
        f"the columns are {_list_titles(titles)}; say which is meant: --embedding-column NAME",
    )


def find_label_columns(path: str, titles: Sequence[str], options: ReadOptions) -> dict[str, int]:
    """Return the indices of the columns of ages and of genders."""
    folded = [title.casefold().rpartition(".")[2] for title in titles]  # also payload.age
    present = [title for title in LABEL_COLUMNS if title in folded]
    for title in present:
        if options.reads_labels and folded.count(title) > 1:
            raise InputError(f"{path}: two columns are called {title}; leave one of them out")
    return {title: folded.index(title) for title in present}


def _find_name(
    path: str, titles: Sequence[str], summaries: Sequence[ColumnSummary], options: ReadOptions
) -> int | None:
    """Return the index of the column that holds names, or None. Raises as `choose_columns` does."""
    if options.name_column is not None:
        if options.name_column not in titles:
            raise _no_column_error(options.name_column, titles)
        return titles.index(options.name_column)
    by_rank: dict[int, list[int]] = {}
    for index, (title, summary) in enumerate(zip(titles, summaries, strict=True)):
        rank = names.rank_title(title) if summary.may_be_name else None
        if rank is not None and not (rank == names.INDEX_RANK and summary.is_number):
            by_rank.setdefault(rank, []).append(index)
    if not by_rank:
        return None
    best = min(by_rank)
    indices = by_rank[best]
    exact = [index for index in indices if titles[index].casefold() in names.NAME_COLUMNS]
    if len(exact) > 1:
        both = [titles[index] for index in exact]
        raise ambiguity_error(path, "columns", both, "hold names", "--name-column")
    # Of several index columns, none is a name by itself
    has_levels = best == names.INDEX_RANK and len(indices) > 1
    return None if has_levels else (exact or indices)[0]


def _find_numbered_runs(
    titles: Sequence[str], summaries: Sequence[ColumnSummary], width: int | None
) -> list[Candidate]:
    """Return the runs of columns whose titles differ only in a running number, in its order."""
    families: dict[tuple[str, str], dict[int, int]] = {}  # by prefix and suffix: number to index
    for index, title in enumerate(titles):
        if not summaries[index].width and (match := re.fullmatch(r"(.*?)([0-9]{1,6})(\D*)", title)):
            families.setdefault((match[1], match[3]), {}).setdefault(int(match[2]), index)
    runs = []
    for family in families.values():
        in_order = enumerate(sorted(family))
        for _, running in itertools.groupby(in_order, lambda pair: pair[1] - pair[0]):
            run = tuple(family[number] for _, number in running)
            # Bad cells in the inspected row do not end a run.
            are_numbers = 2 * sum(summaries[index].is_number for index in run) >= len(run)
            if len(run) > 1 and (are_numbers or len(run) == width):
                runs.append(run)
    return runs


def _count_numbers(candidate: Candidate, summaries: Sequence[ColumnSummary]) -> int:
    return max(len(candidate), summaries[candidate[0]].width)


def _possible_titles(candidate: Candidate, titles: Sequence[str]) -> list[str]:
    """Return the names that `--embedding-column` may use: the first title, or a run's prefix."""
    first = titles[candidate[0]]
    return [first, first.rstrip("0123456789")] if len(candidate) > 1 else [first]


def _list_titles(titles: Sequence[str]) -> str:
    short = (title if len(title) <= 40 else f"{title[:40]}..." for title in titles[:8])
    return ", ".join(title or "(unnamed)" for title in short) + ", ..." * (len(titles) > 8)


def ambiguity_error(
    path: str, noun: str, titles: Sequence[str], fit: str, option: str
) -> InputError:
    """Return the error of two columns, arrays or tables that `fit`: the user must choose one."""
    value = '"select path, embedding from faces"' if option == "--query" else titles[0]
    return InputError(
        f"{path}: the {noun} {titles[0]} and {titles[1]} both {fit}; say which is meant: "
        f"{option} {value}"
    )


def width_error(count: int, options: ReadOptions, row_count: int = 0) -> RowError:
    """Return the error of a row of `count` numbers, which no embedding to read has.

    The table's `row_count`, if known, may show that it is transposed.
    """
    numbers = counted(count, "number")
    if options.looks_transposed(row_count, count):
        return RowError(f"{row_count:,} rows of {numbers}", TRANSPOSE)
    known_widths = filter(None, (options.width, *options.widths))
    is_multiple = any(count > width and count % width == 0 for width in known_widths)
    remedy = "write one row per face if a row holds several; " * is_multiple + TRAIN_YOUR_OWN
    if options.width is None and options.widths:
        return RowError(
            f"{numbers}, which no model here takes ({options.models_description})", remedy
        )
    if options.width is None:
        return RowError(numbers, f"an embedding has {MIN_WIDTH} to {MAX_WIDTH:,} numbers")
    if options.width_source is None:
        return RowError(f"{numbers}, not {options.width:,}, which this model takes", remedy)
    return RowError(
        f"{numbers}, not {options.width:,} as in {options.width_source}",
        "give tables of one width at a time",
    )
