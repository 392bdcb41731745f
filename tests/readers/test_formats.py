"""Tables where they lie: what people's tools write scores as the plain CSV of the same faces.

The tables are written by pandas, numpy, sqlite3 and json, not by this project.
"""

import csv
import importlib.util
import io
import json
import pickle
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from conftest import program, refused, script

import run
from age_gender import paths
from age_gender.cli import InputError
from age_gender.readers import tables

pandas = pytest.importorskip("pandas")
MODEL = str(paths.FACENET)
COUNT = 300  # rows: more than a parser needs to be worth its start
E = [f"e{i}" for i in range(512)]


@pytest.fixture(scope="module")
def names(faces) -> list[str]:
    return [f"folder/{i}, {name}" for i, name in enumerate(faces[0][:COUNT])]


@pytest.fixture(scope="module")
def features(faces) -> np.ndarray:
    return faces[1][:COUNT]


@pytest.fixture(scope="module")
def plain(names, features, tmp_path_factory) -> str:
    """run.py's CSV for the plain CSV of these faces."""
    path = tmp_path_factory.mktemp("plain") / "t.csv"
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows(
            [n, *row] for n, row in zip(names, features.tolist(), strict=True)
        )
    return scored(path)


def scored(path: Path, *more: str) -> str:
    output = path.with_name("out.csv")
    run.main(["--features", str(path), "--model", MODEL, "--output", str(output), *more])
    return output.read_bytes().decode()


def wide(names, features) -> "pandas.DataFrame":
    return pandas.concat(
        [
            pandas.DataFrame({"filename": names, "score": 0.5}),
            pandas.DataFrame(features, columns=E),
        ],
        axis=1,
    )


def long(names, features, **more) -> "pandas.DataFrame":
    return pandas.DataFrame({"path": names, "embedding": features.tolist(), **more})


def objects(names, features) -> list[dict]:
    return [
        {"id": 7, "embedding": e, "Path": n} for n, e in zip(names, features.tolist(), strict=True)
    ]


def database(path: Path, names, vectors, kind: str = "blob") -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute("create table settings (name text, value real)")
        connection.execute("insert into settings values ('x', 1.5)")
        connection.execute(f"create table faces (id integer primary key, path text, vector {kind})")
        rows = zip(names, vectors, strict=True)
        connection.executemany("insert into faces (path, vector) values (?, ?)", rows)
    connection.close()
    return path


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


@pytest.mark.parametrize("kind", WRITERS)
def test_what_other_tools_write_scores_as_the_plain_csv(tmp_path, names, features, plain, kind):
    if kind.endswith("parquet"):
        pytest.importorskip("pyarrow")
    WRITERS[kind](tmp_path / kind, names, features)
    assert scored(tmp_path / kind) == plain


def test_all_of_them_score_the_same_on_a_cluster(tmp_path, names, features, plain):
    pytest.importorskip("distributed")
    for kind in WRITERS:
        if not kind.endswith("parquet") or importlib.util.find_spec("pyarrow"):
            WRITERS[kind](tmp_path / kind, names, features)
    found = sorted(path for path in tmp_path.iterdir() if path.suffix in tables.FORMATS)
    output = tmp_path / "out"
    given = ["--features", *map(str, found), "--model", MODEL, "--output", str(output)]

    run.main([*given, "--dask", "local"])

    rows = output.read_text(encoding="utf-8").splitlines()

    assert rows == [plain.splitlines()[0], *plain.splitlines()[1:] * len(found)]


def test_an_npy_takes_its_names_from_a_file(tmp_path, names, features, plain):
    np.save(tmp_path / "t.npy", features)
    path = tmp_path / "t.npy"
    (tmp_path / "names.txt").write_text("\ufeff" + "\r\n".join(names))
    assert scored(tmp_path / "t.npy", "--names", str(tmp_path / "names.txt")) == plain
    for text, word in [("a\n" * 3, "3 names for 300 rows"), ("a\n" * 301, "301 names for 300")]:
        (tmp_path / "names.txt").write_text(text)
        assert word in refusal_of_new(path, "--names", str(tmp_path / "names.txt"))


def refusal(path: Path, *more: str) -> str:
    with pytest.raises(InputError) as caught:
        scored(path, *more)
    assert not path.with_name("out.csv").exists()
    return str(caught.value)


# ------------------------------------------------------------------ examples of docs/formats.md


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


# ------------------------------------------------------------------------------ bad rows


def bad_lists(features) -> dict[str, tuple[object, str]]:
    """What may stand in a JSON row in place of an embedding, and what is said of it."""
    good = features[1].tolist()
    return {
        "short": (good[:100], "100 numbers, not 512"),
        "word": ([*good[:6], "x", *good[7:]], "number 7 is 'x', not a finite number"),
        "null": ([*good[:6], None, *good[7:]], "number 7 is empty"),
        "nested": ([*good[:6], [1.0], *good[7:]], "number 7 is [1.0], not a finite number"),
        "true": ([*good[:6], True, *good[7:]], "number 7 is True, not a finite number"),
        "nan": ([*good[:6], float("nan"), *good[7:]], "number 7 is nan, not a finite number"),
        "large": ([*good[:6], 10**400, *good[7:]], "too large a number"),
        "missing": (None, "the embedding is missing"),
        "zeros": ([0] * 512, "a row of zeros"),
        "empty": ([], "0 numbers, not 512"),
        "number": (0.5, "0.5 is not a list of numbers"),
    }


CASES = [
    "short", "word", "null", "nested", "true", "nan", "large", "missing", "zeros", "empty", "number"
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "db"])
def test_a_bad_list_is_refused_with_its_row_or_skipped(
    tmp_path, names, features, plain, kind, case
):
    bad, reason = bad_lists(features)[case]
    found, path = objects(names, features), tmp_path / f"t.{kind}"
    found[1]["embedding"] = bad
    text = "" if bad is None else json.dumps(bad)
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, found)))
    elif kind == "json":
        path.write_text(json.dumps(found))
    elif kind == "csv":
        lists = [*map(json.dumps, features.tolist())]
        lists[1] = text
        pandas.DataFrame({"name": names, "e": lists}).to_csv(path, index=False)
    else:
        lists = [*map(json.dumps, features.tolist())]
        lists[1] = None if bad is None else text
        database(path, names, lists, "text")
    where = {"jsonl": "row 2 (line 2): ", "csv": "row 2 (line 3): "}.get(kind, "row 2: ")
    said = refusal(path)
    if kind in ("csv", "db"):  # there all is text
        reason = {
            "null": "number 7 is 'null'", "nested": "number 7 is '[1.0]'", "nan": "'NaN'",
            "true": "number 7 is 'true'", "word": "number 7 is '\"x\"'", "number": "'0.5' is not",
        }.get(case, reason)  # fmt: skip
    assert f"{path}: {where}" in said and reason in said, said
    lines = plain.splitlines()
    assert scored(path, "--skip-bad-rows").splitlines() == [*lines[:2], *lines[3:]]
    listed = list(csv.DictReader((tmp_path / "out.errors.csv").open()))
    assert [row["row"] for row in listed] == ["2"]


def test_rows_of_json_that_are_no_objects_are_refused(tmp_path, names, features):
    good = [json.dumps(row) for row in objects(names, features)]
    for bad, reason in [
        ('{"Path": "a", "Path": "b"}', "the key 'Path' is given twice"),
        ("{", "not JSON"), ("[1, 2]", "2 numbers, not 512"), ("nonsense", "not JSON"),
        ("{" + '"a":[' * 100_000, "not JSON"), ('{"Path": "a"}', "the embedding is missing"),
        (good[0].replace('"Path": "', '"Path": "\\ud800'), "the name is not UTF-8"),
        (good[0].replace('"Path": "folder', '"Path": 0.5, "x": "'), "the name is 0.5, not text"),
    ]:  # fmt: skip
        (tmp_path / "t.jsonl").write_text("\n".join([good[0], "", bad, *good[1:]]))
        said = refusal(tmp_path / "t.jsonl")
        assert "row 2 (line 3): " in said and reason in said
    for text, reason in [
        ("", "no row of embeddings"), ("[]", "no row of embeddings"), ("[\n", "cut off"),
        (f"[{good[0]},{good[1][:99]}", "row 2: the array does not end here"),
        (f"[{good[0]}]\n[{good[1]}]", "more behind the end of the array"),
        (f"[{good[0]}, null, 3]", "row 2: not JSON"), ('{"a": {"0": 1}}', "no column of lists"),
    ]:  # fmt: skip
        (tmp_path / "t.json").write_text(text)
        assert reason in refusal(tmp_path / "t.json")


def test_a_list_that_numpy_shortened_is_refused_with_that_reason(tmp_path, names, features):
    np.set_printoptions(threshold=10)
    try:
        table = pandas.DataFrame({"path": names, "embedding": list(features)})
        table.to_csv(tmp_path / "t.csv", index=False)
    finally:
        np.set_printoptions(threshold=1000)
    said = refusal(tmp_path / "t.csv")
    assert "row 1 (line 2): numpy shortened this list (...)" in said and "tolist()" in said


def test_a_blob_of_another_length_is_a_bad_row(tmp_path, names, features, plain):
    blobs = [row.tobytes() for row in features]
    for bad, reason in [
        (blobs[4][:-4], "511 numbers, not 512"), (b"\xff" * 7, "a BLOB of 7 bytes"),
        (bytes(2048), "a row of zeros"), (None, "the embedding is missing"),
        (b"\xff" * 2048, "not a finite number"), (3, "3 is not a list of numbers"),
    ]:  # fmt: skip
        (tmp_path / "t.db").unlink(missing_ok=True)
        (tmp_path / "out.csv").unlink(missing_ok=True)
        database(tmp_path / "t.db", names, [*blobs[:4], bad, *blobs[5:]])
        said = refusal(tmp_path / "t.db")
        assert f"{tmp_path / 't.db'}: row 5: " in said and reason in said
        lines = plain.splitlines()
        kept = scored(tmp_path / "t.db", "--skip-bad-rows").splitlines()
        assert kept == [*lines[:5], *lines[6:]]


# --------------------------------------------------------------------- other people's files


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
    assert "row 1: a value of over 33,554,432 bytes" in said


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
