"""Tables where they lie: what people's tools write scores as the plain CSV of the same faces.

The tables are written by pandas, numpy, sqlite3 and json, not by this project.
"""

import importlib.util
import io
import json
import pickle
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from conftest import program, refused, script
from other_tools import (
    MODEL,
    database,
    faces_named,
    long,
    objects,
    refusal,
    score_plain_csv,
    scored,
)

import run
from age_gender.readers import tables

pandas = pytest.importorskip("pandas")


COUNT = 300  # rows: more than a parser needs to be worth its start


@pytest.fixture(scope="module")
def names(faces) -> list[str]:
    return faces_named(faces, COUNT)[0]


@pytest.fixture(scope="module")
def features(faces) -> np.ndarray:
    return faces_named(faces, COUNT)[1]


@pytest.fixture(scope="module")
def plain(names, features, tmp_path_factory) -> str:
    """run.py's CSV for the plain CSV of these faces."""
    return score_plain_csv(tmp_path_factory.mktemp("plain"), names, features)


E = [f"e{i}" for i in range(512)]


def wide(names, features) -> "pandas.DataFrame":
    return pandas.concat(
        [
            pandas.DataFrame({"filename": names, "score": 0.5}),
            pandas.DataFrame(features, columns=E),
        ],
        axis=1,
    )


def write_sql(path: Path, table) -> None:
    with sqlite3.connect(path) as connection:
        table.to_sql("faces", connection, index=False)
    connection.close()


WRITERS = {
    "columns.csv": lambda p, n, f: wide(n, f).to_csv(p, index=False),
    "columns_indexed.csv": lambda p, n, f: wide(n, f).to_csv(p),
    "numbered.csv": lambda p, n, f: pandas.DataFrame(f, index=n).to_csv(p),
    "lists.csv": lambda p, n, f: long(n, f, area=[{"x": 1, "y": [2]}] * len(n)).to_csv(p),
    "arrays.csv": lambda p, n, f: (
        long(n, f)
        .assign(embedding=[np.array2string(r, threshold=9999, precision=9) for r in f])
        .to_csv(p)
    ),
    "scalars.csv": lambda p, n, f: long(n, f).assign(embedding=[list(r) for r in f]).to_csv(p),
    "lines.jsonl": lambda p, n, f: p.write_text("\n".join(map(json.dumps, objects(n, f)))),
    "pandas.jsonl": lambda p, n, f: long(n, f).to_json(
        p, orient="records", lines=True, double_precision=15
    ),
    "indented.json": lambda p, n, f: p.write_text(json.dumps(objects(n, f), indent=1)),
    "pandas.json": lambda p, n, f: long(n, f).to_json(p, orient="records", double_precision=15),
    "other_names.npz": lambda p, n, f: np.savez(p, X=f.astype(float), y=np.zeros(3), paths=n),
    "bytes.npz": lambda p, n, f: np.savez_compressed(
        p, vectors=np.asfortranarray(f), files=np.char.encode(n)
    ),
    "columns.parquet": lambda p, n, f: wide(n, f).to_parquet(p),
    "lists.parquet": lambda p, n, f: long(n, f, area=[{"x": 1}] * len(n)).to_parquet(p),
    "columns.db": lambda p, n, f: write_sql(p, wide(n, f)),
    "blobs.sqlite": lambda p, n, f: database(p, n, [row.tobytes() for row in f]),
    "doubles.sqlite3": lambda p, n, f: database(p, n, [r.astype("<f8").tobytes() for r in f]),
    "texts.db": lambda p, n, f: database(p, n, [json.dumps(r) for r in f.tolist()], "text"),
}


@pytest.mark.parametrize("file", WRITERS)
def test_what_other_tools_write_scores_as_the_plain_csv(tmp_path, names, features, plain, file):
    if file.endswith("parquet"):
        pytest.importorskip("pyarrow")
    WRITERS[file](tmp_path / file, names, features)
    assert scored(tmp_path / file) == plain


def test_all_of_them_score_the_same_on_a_cluster(tmp_path, names, features, plain):
    pytest.importorskip("distributed")
    for file in WRITERS:
        if not file.endswith("parquet") or importlib.util.find_spec("pyarrow"):
            WRITERS[file](tmp_path / file, names, features)
    written = sorted(path for path in tmp_path.iterdir() if path.suffix in tables.READERS)
    output = tmp_path / "out"
    given = ["--features", *map(str, written), "--model", MODEL, "--output", str(output)]

    run.main([*given, "--dask", "local"])

    rows = output.read_text(encoding="utf-8").splitlines()

    assert rows == [plain.splitlines()[0], *plain.splitlines()[1:] * len(written)]


def test_an_npy_takes_its_names_from_a_file(tmp_path, names, features, plain):
    np.save(tmp_path / "t.npy", features)
    path = tmp_path / "t.npy"
    (tmp_path / "names.txt").write_text("\ufeff" + "\r\n".join(names))
    assert scored(tmp_path / "t.npy", "--names", str(tmp_path / "names.txt")) == plain
    for text, word in [("a\n" * 3, "3 names for 300 rows"), ("a\n" * 301, "301 names for 300")]:
        (tmp_path / "names.txt").write_text(text)
        assert word in refusal_of_new(path, "--names", str(tmp_path / "names.txt"))


def test_what_deepface_represents_becomes_ages(tmp_path, names, features, plain, capsys):
    """DeepFace.represent gives a list of such dictionaries for each image."""
    table = pandas.DataFrame(
        [
            {
                "embedding": row,
                "facial_area": {"x": 0, "y": 1, "w": 200, "h": 200, "left_eye": None},
                "face_confidence": 0.93,
                "file": name,
            }
            for name, row in zip(names, features.tolist(), strict=True)
        ]
    )
    table.to_csv(tmp_path / "faces.csv", index=False)
    assert scored(tmp_path / "faces.csv") == plain
    assert "columns left out: facial_area, face_confidence\n" in capsys.readouterr().err


def test_what_postgresql_prints_of_pgvector_comes_through_a_pipe(names, features, plain):
    """psql -c "\\copy (select path, embedding from faces) to stdout csv header" | run.py"""
    text = io.StringIO()
    print("path,embedding", file=text)
    for name, row in zip(names, features, strict=True):
        print(f'"{name}","[{",".join(map("%.9g".__mod__, row))}]"', file=text)
    for lines in (text.getvalue(), text.getvalue().partition("\n")[2]):  # also without header
        done = program("run.py", "--features", "-", "--model", MODEL, input=lines.encode())
        assert done.code == 0 and done.out == plain, done.err


def test_a_photo_library_in_sqlite_is_read_by_a_query(tmp_path, names, features, plain):
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table photos (id integer primary key, path text, preview blob)")
        connection.execute("create table faces (photo integer, vector blob, backup blob)")
        preview = np.random.default_rng(0).bytes(2_000_000)
        for i, (name, row) in enumerate(zip(names, features, strict=True)):
            connection.execute("insert into photos values (?, ?, ?)", (i, name, preview * (i < 3)))
            connection.execute(
                "insert into faces values (?, ?, ?)", (i, row.tobytes(), row.tobytes())
            )
    connection.close()
    before = path.read_bytes()
    query = "select path, vector from faces join photos on photos.id = photo order by photo"
    assert scored(path, "--query", query) == plain
    assert "the columns vector and backup both hold embeddings" in refusal_of_new(path)
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == [
        "out.csv", "photos.db"
    ]  # fmt: skip


def refusal_of_new(path: Path, *more: str) -> str:
    path.with_name("out.csv").unlink(missing_ok=True)
    try:
        return refusal(path, *more)
    finally:
        path.with_name("out.csv").touch()


def test_json_lines_come_through_a_pipe(names, features, plain):
    lines = "\n".join(map(json.dumps, objects(names, features))).encode()
    array = json.dumps(objects(names, features)).encode()
    for given in (lines, b"\n " + array):
        done = program("run.py", "--features", "-", "--model", MODEL, input=given)
        assert done.code == 0 and done.out == plain, done.err


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path, names, features):
    long(names, features).to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    for option in ("--embedding-column", "--name-column"):
        said = refusal(tmp_path / "t.jsonl", option, "x")
        assert "no column x; the columns are path, embedding" in said


def test_a_query_runs_one_select_and_nothing_else(tmp_path, names, features):
    path = database(tmp_path / "t.db", names, [row.tobytes() for row in features])
    before = path.read_bytes()
    for query in (
        "delete from faces", "drop table faces", "pragma journal_mode = wal", "vacuum",
        "select path, vector from faces; delete from faces", f"attach '{tmp_path}/x.db' as x",
        "create table x (y)", "insert into faces values (1, 'a', 'b') returning path, vector", "",
    ):  # fmt: skip
        if query:
            assert "--query" in refusal(path, "--query", query)
    assert "no such column: nobody" in refusal(path, "--query", "select nobody from faces")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["t.db"]


def test_databases_that_cannot_be_read_are_refused(tmp_path, names, features):
    path = database(tmp_path / "t.db", names, [row.tobytes() for row in features])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("begin exclusive")
    assert "locked; close what writes to it" in refusal(path)
    writer.execute("commit")
    writer.execute("create table more as select * from faces")
    assert "the tables faces and more both hold embeddings; say which" in refusal(path)
    writer.close()
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:3000], b"nonsense" * 999, b""):
        path.write_bytes(broken)
        said = refusal(path)
        assert str(path) in said
    path.write_bytes(content[:5000] + b"\xff" * 90_000 + content[95_000:])
    assert str(path) in refusal(path, "--query", "select path, vector from faces")


def test_a_value_of_any_size_costs_no_memory(tmp_path):
    path = database(tmp_path / "t.db", ["a"], ["x"])
    said = refusal(path, "--query", "select 'a' as path, zeroblob(900000000) as vector")
    assert "a step or a row of this query takes over 128 MB; leave wide columns out" in said


@pytest.mark.parametrize("suffix", ["pkl", "npy", "csv", "parquet"])
def test_a_pickle_is_refused_with_lines_that_turn_it_into_npz(
    tmp_path, names, features, plain, suffix, monkeypatch
):
    path = tmp_path / f"faces.{suffix}"
    rows = [{"identity": n, "embedding": e} for n, e in zip(names, features.tolist(), strict=True)]
    path.write_bytes(pickle.dumps(rows))
    done = script("run.py", "--features", path, "--model", MODEL)
    refused(done, "a pickle, which is never opened", "trust it", "import numpy, pandas; ")
    lines = done.err[done.err.index("import numpy") :].strip()
    assert lines.count("; ") == 2  # three lines
    monkeypatch.chdir(tmp_path)
    exec(lines)
    assert scored(tmp_path / "faces.npz") == plain
