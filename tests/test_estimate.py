"""age_gender.estimate, the function for programs; what scoring needs installed."""

import csv
import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from conftest import line, script

from age_gender import EmbeddingError, estimate, paths, table_writing

COLUMNS = ["gender", "age", "age_low", "age_high", "female_probability"]


def embeddings(file: str, count: int = 30) -> np.ndarray:
    with np.load(paths.DATA / file) as arrays:
        return arrays["embeddings"][:: 21_000 // count][:count].astype(np.float32)


@pytest.mark.parametrize("file", ["utkface.npz", "utkface_dlib.npz", "utkface_mobilefacenet.npz"])
def test_the_numbers_are_those_of_run(file, tmp_path):
    features = embeddings(file)
    table = estimate(features)
    assert list(table.columns) == COLUMNS and list(table.index) == [*range(30)]
    table_writing.write(tmp_path / "t.npz", [str(i) for i in range(30)], [features])
    done = script("run.py", "--features", tmp_path / "t.npz")
    rows = [*csv.DictReader(done.out.splitlines())]
    for name in COLUMNS[:-1]:
        assert table[name].tolist() == [int(row[name]) for row in rows]
    assert [f"{p:.4f}" for p in table.female_probability] == [row[COLUMNS[-1]] for row in rows]


def test_one_embedding_lists_and_other_types_of_numbers_are_taken():
    features = embeddings("utkface_dlib.npz", 5)
    expected = estimate(features)
    for same in (features.tolist(), features.astype(np.float64), list(features),
                 pd.Series(list(features)), np.asfortranarray(features)):  # fmt: skip
        pd.testing.assert_frame_equal(estimate(same), expected)
    pd.testing.assert_frame_equal(estimate(features[0]), expected[:1])
    pd.testing.assert_frame_equal(estimate(features, model=paths.MODELS / "dlib"), expected)


def test_bad_rows_are_an_error_or_rows_of_missing_values():
    features = embeddings("utkface.npz", 10)
    expected = estimate(features)
    features[2] = features[2, ::-1]  # of another network
    features[5, 7] = np.nan
    features[8] = 0
    with pytest.raises(EmbeddingError, match="row 6: number 8 is nan") as caught:
        estimate(features)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    features[[5, 8]] = features[[0, 1]]
    with pytest.raises(EmbeddingError, match="row 3: an embedding of another network"):
        estimate(features)
    features[5] = np.inf
    table = estimate(features, skip_bad_rows=True)
    assert list(table.columns) == COLUMNS and len(table) == 10
    assert [*np.flatnonzero(table.age.isna())] == [2, 5]
    kept = [0, 1, 3, 4, 6, 7, 9]
    assert table.age[kept].tolist() == expected.age[kept].tolist()


@pytest.mark.parametrize("wrong, reason", [
    (np.zeros((3, 512)), "zeros"),
    (np.random.default_rng(0).normal(size=(4, 512)), "another network made them"),
    (np.ones((3, 200)), "200 numbers"),
    (np.ones((2, 3, 512)), "shape"),
    (np.ones((0, 512)), "shape"),
    ([[1, 2], [3]], "different lengths"),
    (["a", "b"], "type"),
    (None, "numbers"),
])  # fmt: skip
def test_what_is_no_embedding_is_a_value_error_of_one_line(wrong, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        estimate(wrong)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_width_or_none_is_a_value_error(tmp_path):
    features = embeddings("utkface.npz", 3)
    with pytest.raises(EmbeddingError, match="512 numbers; this model takes 128"):
        estimate(features, model=paths.MODELS / "dlib")
    with pytest.raises(EmbeddingError, match="no such model"):
        estimate(features, model=tmp_path / "nothing")


def test_rounded_embeddings_are_warned_of():
    features = embeddings("utkface.npz", 50)
    with pytest.warns(UserWarning, match="rounded or quantised"):
        estimate(np.round(features * 400) / 400)
    with pytest.raises(EmbeddingError, match="rounded or quantised"):
        estimate(np.round(features, 2)[:20])


def test_threads_may_call_it_at_once():
    features = embeddings("utkface.npz", 200)
    expected = estimate(features)
    with ThreadPoolExecutor(8) as pool:
        for table in pool.map(lambda _: estimate(features), range(24)):
            pd.testing.assert_frame_equal(table, expected)


def test_a_second_call_loads_no_model(monkeypatch):
    features = embeddings("utkface_dlib.npz", 3)
    estimate(features)
    from age_gender.scoring.scorer import Scorer

    monkeypatch.setattr(Scorer, "__init__", lambda *_: 1 / 0)
    assert len(estimate(features)) == 3


ONLY = """
import sys
allowed = {"numpy", "ai_edge_litert", "simdjson", "csimdjson", *sys.argv.pop(1).split()}
class Others:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = allowed | sys.stdlib_module_names | {"age_gender", "run"}
        if top not in known and not top.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Others())
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The same three faces in every form that needs no package of its own."""
    folder = tmp_path_factory.mktemp("tables")
    features = embeddings("utkface_dlib.npz", 3)
    names = ["a.jpg", "b.jpg", "c.jpg"]
    table_writing.write(folder / "t.npz", names, [features])
    np.save(folder / "t.npy", features)
    (folder / "t.csv").write_text(
        "".join(line(row, name) + "\n" for name, row in zip(names, features.tolist(), strict=True))
    )
    rows = [{"id": n, "e": row.tolist()} for n, row in zip(names, features, strict=True)]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with sqlite3.connect(folder / "t.db") as database:
        database.execute("create table faces (id text, e blob)")
        database.executemany(
            "insert into faces values (?, ?)",
            [(n, row.astype(np.float64).tobytes()) for n, row in zip(names, features, strict=True)],
        )
    return folder


@pytest.mark.parametrize("file", ["t.npz", "t.npy", "t.csv", "t.jsonl", "t.db"])
def test_scoring_needs_requirements_score_alone(tables, file):
    code = ONLY + "import run; run.main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, "", "--features", tables / file],
        cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("\n") == 4, done.stderr


def test_estimate_needs_pandas_and_nothing_else(tables):
    code = ONLY + (
        "import numpy, age_gender\n"
        "assert not {'pandas', 'ai_edge_litert'} & set(sys.modules)\n"
        f"print(len(age_gender.estimate(numpy.load({str(tables / 't.npy')!r}))))"
    )
    of_pandas = "pandas dateutil six pytz tzdata"
    done = subprocess.run(
        [sys.executable, "-c", code, of_pandas], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert done.stdout == "3\n", done.stderr


def test_where_no_row_is_good_all_are_missing():
    table = estimate(np.zeros((3, 512)), skip_bad_rows=True)
    assert table.shape == (3, 5) and table.isna().all(axis=None)


def test_int8_with_one_clipped_scale_for_all_is_refused():
    features = embeddings("utkface.npz", 300)
    scale = np.percentile(np.abs(features), 98) / 127
    clipped = np.clip(np.rint(features / scale), -127, 127).astype(np.int8)
    with pytest.raises(EmbeddingError, match="quantised"):
        estimate(clipped, skip_bad_rows=True)
