"""SQLite: other people's databases stay as they are, end, fit into memory, and are read whole."""

import contextlib
import errno
import json
import os
import pickle
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL, refusal, start

from age_gender import paths
from age_gender.errors import InputError
from age_gender.readers import sqlite_database, tables
from age_gender.readers.columns import ReadOptions

ENDLESS = "with recursive c(x) as (select 1 union all select x + 1 from c)"


@pytest.fixture(scope="module")
def features(faces) -> np.ndarray:
    return faces[1][:40]


def make(path: Path, features, *statements: str, vector: str = "vector blob") -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute(f"create table faces (id integer primary key, path text, {vector})")
        rows = [(f"{i}.jpg", row.tobytes()) for i, row in enumerate(features)]
        connection.executemany("insert into faces (path, vector) values (?, ?)", rows)
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return path


def read(path: Path, **options) -> tuple[list[str], np.ndarray]:
    return tables.read([path], ReadOptions(width=512, **options))


def bad_rows(path: Path, **options) -> list[tuple[int, str]]:
    chunks = tables.read_chunks([str(path)], ReadOptions(width=512, **options))
    return [(bad.row, bad.reason) for batch in map(tables.parse, chunks) for bad in batch.bad_rows]


# --------------------------------------------------------------------- no end, no memory


def test_a_view_without_an_end_is_not_looked_into_for_ever(tmp_path, features, monkeypatch):
    monkeypatch.setattr(sqlite_database, "VIEW_SECONDS", 0.1)
    endless = f"create view a as {ENDLESS} select x from c where x < 0"
    path = make(tmp_path / "t.db", features, endless)
    assert np.array_equal(read(path)[1], features)
    path = make(tmp_path / "u.db", features, endless, "alter table faces drop column vector")
    with pytest.raises(InputError, match=r"skipped, as they take too long or .*: a"):
        read(path)


# One step that takes minutes: each of 5 million places is compared up to its 5 millionth byte
ENDLESS_STEP = "select instr(zeroblob(10000000), zeroblob(5000000) || x'01') as vector"


@pytest.mark.parametrize("number, query", [
    (signal.SIGINT, f"{ENDLESS} select x from c where x < 0"),
    (signal.SIGTERM, f"{ENDLESS} select x from c where x < 0"),
    (signal.SIGINT, ENDLESS_STEP),
])  # fmt: skip
def test_an_interrupt_ends_a_query_without_an_end(tmp_path, features, number, query):
    path = make(tmp_path / "t.db", features)
    process = start("run.py", "--features", path, "--query", query, "--model", MODEL)
    assert process.stderr.readline().startswith(b"model: ")
    time.sleep(1)
    process.send_signal(number)
    assert process.wait(20) == 130
    assert process.stderr.read() == b"run.py: interrupted\n"


def test_a_query_does_not_fill_the_folder_of_temporary_files(tmp_path, features, monkeypatch):
    monkeypatch.setattr(sqlite_database, "TEMPORARY_BYTES", 4 << 20)
    monkeypatch.setattr(sqlite_database, "CHECK_SECONDS", 0)
    path = make(tmp_path / "t.db", features)
    query = f"{ENDLESS} select randomblob(10000) as blob from c order by blob"
    assert "needs over 4 MB of temporary files" in refusal(path, "--query", query)


def test_a_view_of_wide_values_takes_no_memory(tmp_path, features):
    wide = ", ".join(f"randomblob(1000000) as c{i}" for i in range(1500))
    ten = " union all ".join(f"select {i} as x" for i in range(10))
    path = make(tmp_path / "t.db", [], f"create view a as select {wide} from ({ten})")
    for query in (None, "select * from a"):
        code = (
            "from age_gender.readers import tables, columns, sqlite_database\n"
            "sqlite_database.VIEW_SECONDS = 0.5\n"
            f"try: tables.read([{str(path)!r}], columns.ReadOptions(query={query!r}))\n"
            "except Exception as error: print(error)\n"
            "print(next(line for line in open('/proc/self/status') if 'VmHWM' in line))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ROOT
        )
        said, memory = done.stdout.split("\nVmHWM:")  # in kB
        assert "no table with a column of embeddings" in said or "takes over 128 MB" in said
        assert int(memory.split()[0]) < 400_000


def test_a_table_is_taken_before_a_view_of_it(tmp_path, features):
    view = "create view a as select path, vector from faces where id > 5"
    assert np.array_equal(read(make(tmp_path / "t.db", features, view))[1], features)


def test_a_view_is_read_where_no_table_holds_embeddings(tmp_path, features):
    half = "create table half as select id, substr(vector, 1, 1000) as a from faces"
    rest = "create table rest as select id, substr(vector, 1001) as b, path from faces"
    view = (
        "create view both as select path, cast(a || b as blob) as vector from half join rest "
        "using (id)"
    )
    path = make(tmp_path / "t.db", features, half, rest, view, "drop table faces")
    assert np.array_equal(read(path)[1], features)


# ---------------------------------------------------------- files beside a database


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_database_with_a_write_ahead_log_is_left_as_it_was(tmp_path, features):
    (tmp_path / "closed").mkdir()
    path = make(tmp_path / "closed" / "t.db", features)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("pragma journal_mode = wal")
    writer.close()
    before = files(path.parent)
    assert [*before] == ["t.db"] and np.array_equal(read(path)[1], features)
    assert files(path.parent) == before

    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("delete from faces where id > 9")  # which lies in the log until it is closed
    assert np.array_equal(read(path)[1], features[:9])
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in ("t.db", "t.db-wal"):
        (copied / name).write_bytes((path.parent / name).read_bytes())
    before = files(copied)
    assert np.array_equal(read(copied / "t.db")[1], features[:9])
    assert files(copied) == before
    writer.close()


def test_any_path_of_a_file_is_a_path_of_a_database(tmp_path, features):
    path = make(tmp_path / "50 % of it?#.db", features)
    for given in (f"/{path}", path):  # two slashes at the beginning
        assert np.array_equal(tables.read([given], ReadOptions(width=512))[1], features)


# --------------------------------------------------------------------------- large values


@pytest.mark.parametrize("size", [2_000_000, 40_000_000])
@pytest.mark.parametrize(
    "query",
    [
        None,
        "select path, vector from faces; ",
        "select path, vector from faces where id > 6 -- rest",
    ],
)
def test_a_large_value_makes_its_row_a_bad_one_and_no_other(tmp_path, features, size, query):
    row = 1 if query and "where" in query else 7
    large = f"update faces set vector = zeroblob({size}) where id = 7"
    path = make(tmp_path / "t.db", features, large)
    reason = "over 1,048,576 bytes"
    assert bad_rows(path, query=query) == [(row, f"{reason} is not a list of numbers")]
    path = make(tmp_path / "u.db", features, large.replace("vector", "path"))
    assert bad_rows(path)[0] == (7, f"the name is {reason}, not text")


@pytest.mark.parametrize("vector, said", [
    (bytes(range(256)) * 2, "faces.vector holds .*512 bytes, perhaps int8; int8 needs its scale"),
    (pickle.dumps([0.5] * 512), "faces.vector holds .*, a pickle; "),
    (b"\x89PNG" + bytes(9000), "faces.vector holds .*, an image; "),
])  # fmt: skip
def test_bytes_that_are_no_embedding_are_called_what_they_are(tmp_path, vector, said):
    path = make(tmp_path / "t.db", [np.frombuffer(vector, "u1")] * 3)
    with pytest.raises(InputError, match=said):
        read(path)
    with pytest.raises(InputError, match=said.replace("faces.", "")):
        read(path, query="select path, vector from faces")


def test_a_large_value_that_is_not_needed_is_passed_over(tmp_path, features):
    large = "create table photos as select id, zeroblob(3000000 * (id = 2)) as preview from faces"
    path = make(tmp_path / "t.db", features, large)
    query = "select preview, path, vector from faces join photos using (id) order by preview"
    assert len(read(path, query=query)[1]) == 40


# ------------------------------------------------------------------------ the machine's


def test_a_lack_of_open_files_does_not_blame_the_database(tmp_path, features):
    path = make(tmp_path / "t.db", features)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        highest, opened = max(map(int, os.listdir("/proc/self/fd"))), []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, limits[1]))
        with pytest.raises(OSError):
            while True:
                opened.append(stack.enter_context(open(path, "rb")))
        opened[-1].close()  # one descriptor is free, and SQLite needs more
        with pytest.raises(OSError) as caught:
            read(path, query="select path, vector from faces order by vector")
    assert caught.value.errno == errno.EMFILE


# --------------------------------------------------------------------------- sqlite-vec


def vec0(path: Path, features, names) -> Path:
    """What sqlite-vec 0.1.9 writes, of chunks of 16 rows, of which every fifth was deleted."""
    declared = (
        "CREATE VIRTUAL TABLE f USING vec0(face text primary key, owner integer partition key, "
        "embedding float[512] distance_metric=cosine, age integer, gender text, +path text)"
    )
    with sqlite3.connect(path) as connection:
        execute = connection.execute
        execute("pragma writable_schema = on")
        execute(
            "insert into sqlite_master (type, name, tbl_name, rootpage, sql) values "
            "('table', 'f', 'f', 0, ?)",
            (declared,),
        )
        execute("create table f_chunks(chunk_id integer primary key, size, sequence_id integer, "
                "partition00, validity blob not null, rowids blob not null)")  # fmt: skip
        execute("create table f_rowids(rowid integer primary key, id text, chunk_id, chunk_offset)")
        execute("create table f_vector_chunks00(rowid primary key, vectors blob not null)")
        execute("create table f_auxiliary(rowid integer primary key, value00)")
        for place in ("00", "01"):
            execute(f"create table f_metadatachunks{place}(rowid primary key, data blob)")
        execute("create table f_metadatatext01(rowid primary key, data text)")
        for chunk, start in enumerate(range(0, len(features), 16), 1):
            part = features[start : start + 16]
            rowids, bits = np.zeros(16, "<i8"), np.zeros(16, bool)
            vectors, ages = np.zeros((16, 512), "<f4"), np.zeros(16, "<i8")
            texts = b""
            for i, row in enumerate(part):
                rowid = start + i + 1
                gender = b"female" if i % 2 else b"male, says the passport"
                texts += len(gender).to_bytes(4, "little") + gender[:12].ljust(12, b"\0")
                if rowid % 5 == 0:
                    continue
                rowids[i], bits[i], vectors[i], ages[i] = rowid, True, row, 20 + rowid
                execute("insert into f_rowids values (?, ?, ?, ?)", (rowid, f"k{rowid}", chunk, i))
                execute("insert into f_auxiliary values (?, ?)", (rowid, names[start + i]))
                if not i % 2:
                    execute("insert into f_metadatatext01 values (?, ?)", (rowid, gender.decode()))
            validity = np.packbits(bits, bitorder="little").tobytes()
            execute("insert into f_chunks values (?, 16, null, 7, ?, ?)",
                    (chunk, validity, rowids.tobytes()))  # fmt: skip
            execute("insert into f_vector_chunks00 values (?, ?)", (chunk, vectors.tobytes()))
            execute("insert into f_metadatachunks00 values (?, ?)", (chunk, ages.tobytes()))
            texts = texts.ljust(16 * 16, b"\0")
            execute("insert into f_metadatachunks01 values (?, ?)", (chunk, texts))
    connection.close()
    return path


def test_the_tables_of_sqlite_vec_are_read_from_behind(tmp_path, faces, features):
    names = faces[0][:40]
    path = vec0(tmp_path / "t.db", features, names)
    kept = [i for i in range(40) if (i + 1) % 5]
    names_read, vectors = read(path)
    assert names_read == [names[i] for i in kept]
    assert np.array_equal(vectors, features[kept])
    assert read(path, name_column="face")[0] == [f"k{i + 1}" for i in kept]
    (batch,) = [
        tables.parse(chunk)
        for chunk in tables.read_chunks([str(path)], ReadOptions(width=512, reads_labels=True))
        if len(chunk.data)
    ]
    assert batch.metadata["age"] == [21 + i for i in kept]
    assert batch.metadata["gender"] == [
        "female" if i % 16 % 2 else "male, says the passport" for i in kept
    ]


def test_a_query_of_sqlite_vec_says_that_none_is_needed(tmp_path, faces, features):
    path = vec0(tmp_path / "t.db", features, faces[0])
    said = refusal(path, "--query", "select path, embedding from f")
    assert "a table of sqlite-vec is read without --query" in said


def test_vectors_as_text_in_a_column_are_read(tmp_path, features):
    texts = [json.dumps(row.tolist()) for row in features]
    path = make(tmp_path / "t.db", [], vector="vector text")
    with sqlite3.connect(path) as connection:
        rows = enumerate(texts)
        connection.executemany("insert into faces (path, vector) values (?, ?)", rows)
    connection.close()
    assert np.array_equal(read(path)[1], features)
