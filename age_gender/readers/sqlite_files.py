"""Read SQLite: the only table that holds embeddings, or the rows that a query returns."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO, NamedTuple

from age_gender.errors import InputError
from age_gender.readers import chunks, object_rows
from age_gender.readers.column_choice import ambiguity_error, choose_columns
from age_gender.readers.columns import SAMPLE_ROWS, Columns, ReadOptions, summarise_columns
from age_gender.readers.object_rows import MAX_VALUE_BYTES, limit_size
from age_gender.readers.sqlite_database import Database, quote_sql
from age_gender.readers.sqlite_vec import Vec0Table

CHUNK_VALUE_BYTES = 8 << 20  # size of the values in a chunk


def read_chunks(path: str, stream: BinaryIO, options: ReadOptions) -> Iterator[chunks.Chunk]:
    """Yield chunks of the query's rows, or of the only table that holds embeddings."""
    with contextlib.closing(Database(path)) as database:
        template = chunks.Chunk(path, object_rows.parse)
        if options.query is None:
            columns, rows = _choose_table(database, options)
            yield from _read_rows(replace(template, columns=columns), rows)
        else:
            yield from _read_rows(*_run_query(template, database, options))


class _Relation(NamedTuple):
    """Hold the titles and first rows of a table or view, and a function that yields all rows."""

    titles: Sequence[str]
    head: list[tuple]
    select: Callable[[Columns], Iterator[tuple]]  # values of other columns are None


def _run_query(
    template: chunks.Chunk, database: Database, options: ReadOptions
) -> tuple[chunks.Chunk, Iterator[tuple]]:
    """Return `template` with the columns of `--query`, and the rows of the query."""
    query = options.query.rstrip("; \r\n\t")
    try:
        titles = database.find_titles(query)
    except InputError as error:
        hint = "; a table of sqlite-vec is read without --query"
        names_vec0 = any(name in query for name in _list_relations(database)[2])
        raise InputError(f"{error}{hint * names_vec0}") from None
    rows = database.rows(f"({query}\n)", titles, range(len(titles)))
    head = [tuple(map(limit_size, row)) for row in itertools.islice(rows, SAMPLE_ROWS)]
    template = _assign_columns(template, titles, head, options)
    for row in template.bad_rows:
        raise InputError("; ".join(filter(None, [str(row), row.remedy])))
    return template, itertools.chain(head, rows)


def _choose_table(database: Database, options: ReadOptions) -> tuple[Columns, Iterator[tuple]]:
    """Return the columns and the rows of the only table with embeddings, or else the only view.

    Views come second, since they may be slow, or show a table's rows again.
    """
    tables, views, vec0_tables = _list_relations(database)
    empty = chunks.Chunk(database.path)

    @functools.cache
    def inspect(name: str) -> _Relation | None:
        if vec0 := vec0_tables.get(name):
            head = [*itertools.islice(vec0.rows(database), SAMPLE_ROWS)]
            return _Relation(vec0.titles, head, lambda columns: vec0.rows(database))
        if inspected := database.inspect(name, name in views):
            titles, head = inspected
            select = functools.partial(database.rows, quote_sql(name), titles)
            return _Relation(titles, head, lambda columns: select({*columns.used_columns()}))
        return None

    # Try columns of the width that is read, then of another width, whose rows are then bad
    for accept_other_width, names in itertools.product((False, True), (tables, views)):
        readable = {name: relation for name in names if (relation := inspect(name))}
        columns = {
            name: _assign_columns(
                empty, relation.titles, relation.head, options, accept_other_width
            ).columns
            for name, relation in readable.items()
        }
        fitting = [name for name in columns if columns[name].width]
        if len(fitting) > 1:
            raise ambiguity_error(database.path, "tables", fitting, "hold embeddings", "--query")
        if fitting:
            return columns[fitting[0]], readable[fitting[0]].select(columns[fitting[0]])

    # List the tables, and what a column of text holds
    relations = {name: inspect(name) for name in (*tables, *views)}
    listed = ", ".join([*relations][:8]) or "none"
    if skipped := [name for name, relation in relations.items() if relation is None]:
        listed += "; skipped, as they take too long or need an extension: "
        listed += ", ".join(skipped[:8])
    contents = [
        f"; {name}.{title} holds {summary.text}"
        for name, relation in relations.items() if relation and relation.head
        for title, summary in zip(
            relation.titles, summarise_columns(relation.head, options), strict=True)
        if summary.text
    ]  # fmt: skip
    raise InputError(
        f"{database.path}: no table with a column of embeddings (tables: {listed})"
        f'{"".join(contents[:1])}; name the columns: --query "select path, embedding from faces"'
    )


def _list_relations(database: Database) -> tuple[list[str], list[str], dict[str, Vec0Table]]:
    """Return the names of tables and of views, and the tables of sqlite-vec by name."""
    master = database.select(
        "select name, type, coalesce(sql, '') from sqlite_master where type in ('table', 'view') "
        "and name not like 'sqlite!_%' escape '!' order by name"
    )
    next(master)
    entries = [*master]
    vec0 = {name: table for name, _, sql in entries if (table := Vec0Table.from_sql(name, sql))}
    tables, views = (
        [
            name for name, entry_type, _ in entries
            if entry_type == of_type and not any(table.owns_shadow(name) for table in vec0.values())
        ]
        for of_type in ("table", "view")
    )  # fmt: skip
    return tables, views, vec0


def _assign_columns(
    template: chunks.Chunk, titles: Sequence[str], head: list[tuple], options: ReadOptions,
    accept_other_width: bool = True,
) -> chunks.Chunk:  # fmt: skip
    """Return `template` with the columns of the first usable row, as `with_columns` does."""

    def choose(rows: list[tuple]) -> Columns:
        summaries = summarise_columns(rows, options)
        return choose_columns(
            template.path, titles, summaries, options, accept_other_width=accept_other_width
        )

    return template.with_columns(((0, row) for row in head), choose)


def _read_rows(template: chunks.Chunk, rows: Iterator[tuple]) -> Iterator[chunks.Chunk]:
    """Yield copies of `template` that hold the rows, in order."""
    part, size = [], 0
    for row in rows:
        row_size = sum(len(value) if isinstance(value, bytes | str) else 8 for value in row)
        part.append(row if row_size <= MAX_VALUE_BYTES else tuple(map(limit_size, row)))
        size += row_size
        if len(part) == chunks.CHUNK_ROWS or size >= CHUNK_VALUE_BYTES:
            yield replace(template, data=part, input_bytes=size)
            part, size = [], 0
    yield replace(template, data=part, input_bytes=size)
