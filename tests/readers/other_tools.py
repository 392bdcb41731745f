"""Tables as other tools write them, by pandas, sqlite3 and json, and what run.py makes of them."""

import csv
import sqlite3
from pathlib import Path

import numpy as np
import pytest

import run
from age_gender import paths
from age_gender.errors import InputError

pandas = pytest.importorskip("pandas")


MODEL = str(paths.FACENET)


def faces_named(faces, count: int) -> tuple[list[str], np.ndarray]:
    """Return the embeddings of so many faces, and names that need quoting."""
    return [f"folder/{i}, {name}" for i, name in enumerate(faces[0][:count])], faces[1][:count]


def score_plain_csv(folder: Path, names, features) -> str:
    """Return run.py's output for the plain CSV of these faces."""
    path = folder / "plain.csv"
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows(
            [n, *row] for n, row in zip(names, features.tolist(), strict=True)
        )
    return scored(path)


def scored(path: Path, *more: str) -> str:
    """Return run.py's output for a table."""
    output = path.with_name("out.csv")
    run.main(["--features", str(path), "--model", MODEL, "--output", str(output), *more])
    return output.read_bytes().decode()


def long(names, features, **more) -> "pandas.DataFrame":
    """Return a table with a column of lists."""
    return pandas.DataFrame({"path": names, "embedding": features.tolist(), **more})


def objects(names, features) -> list[dict]:
    """Return a dictionary a face, in which neither the name nor its place is the usual one."""
    return [
        {"id": 7, "embedding": e, "Path": n} for n, e in zip(names, features.tolist(), strict=True)
    ]


def database(path: Path, names, vectors, column_type: str = "blob") -> Path:
    """Write a database whose second table holds the faces."""
    with sqlite3.connect(path) as connection:
        connection.execute("create table settings (name text, value real)")
        connection.execute("insert into settings values ('x', 1.5)")
        connection.execute(
            f"create table faces (id integer primary key, path text, vector {column_type})"
        )
        rows = zip(names, vectors, strict=True)
        connection.executemany("insert into faces (path, vector) values (?, ?)", rows)
    connection.close()
    return path


def refusal(path: Path, *more: str) -> str:
    """Return what run.py says of a table; there is no output."""
    with pytest.raises(InputError) as caught:
        scored(path, *more)
    assert not path.with_name("out.csv").exists()
    return str(caught.value)
