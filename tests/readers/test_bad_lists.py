"""A row whose embedding is no good list or BLOB is refused with its row, or skipped."""

import csv
import json

import numpy as np
import pytest
from other_tools import (
    database,
    faces_named,
    objects,
    refusal,
    score_plain_csv,
    scored,
)

pandas = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def good(faces, tmp_path_factory) -> tuple[list[str], np.ndarray, str]:
    """Names and embeddings of faces, and run.py's output for the plain CSV of them."""
    names, features = faces_named(faces, 40)
    return names, features, score_plain_csv(tmp_path_factory.mktemp("plain"), names, features)


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
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "db"])
def test_a_bad_list_is_refused_with_its_row_or_skipped(tmp_path, suffix, case, good):
    names, features, plain = good
    bad, reason = bad_lists(features)[case]
    rows, path = objects(names, features), tmp_path / f"t.{suffix}"
    rows[1]["embedding"] = bad
    text = "" if bad is None else json.dumps(bad)
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "csv":
        lists = [*map(json.dumps, features.tolist())]
        lists[1] = text
        pandas.DataFrame({"name": names, "e": lists}).to_csv(path, index=False)
    else:
        lists = [*map(json.dumps, features.tolist())]
        lists[1] = None if bad is None else text
        database(path, names, lists, "text")
    where = {"jsonl": "row 2 (line 2): ", "csv": "row 2 (line 3): "}.get(suffix, "row 2: ")
    said = refusal(path)
    if suffix in ("csv", "db"):  # there all is text
        reason = {
            "null": "number 7 is 'null'", "nested": "number 7 is '[1.0]'", "nan": "'NaN'",
            "true": "number 7 is 'true'", "number": "'0.5' is not",
        }.get(case, reason)  # fmt: skip
    assert f"{path}: {where}" in said and reason in said, said
    lines = plain.splitlines()
    assert scored(path, "--skip-bad-rows").splitlines() == [*lines[:2], *lines[3:]]
    listed = list(csv.DictReader((tmp_path / "out.errors.csv").open()))
    assert [row["row"] for row in listed] == ["2"]


def test_rows_of_json_that_are_no_objects_are_refused(tmp_path, good):
    names, features, _ = good
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
        ("", "this file has no rows"), ("[]", "this file has no rows"), ("[\n", "cut off"),
        (f"[{good[0]},{good[1][:99]}", "row 2: the file ends here, but the array does not"),
        (f"[{good[0]}]\n{good[1]}", "more text after the end of the array"),
        (f"[{good[0]}, null, 3]", "row 2: not a JSON object"),
        ('{"a": {"0": 1}}', "no column of lists"), (f"[{good[0]}}}", "row 1: a bracket is missing"),
    ]:  # fmt: skip
        (tmp_path / "t.json").write_text(text)
        assert reason in refusal(tmp_path / "t.json")


def test_a_list_that_numpy_shortened_is_refused_with_that_reason(tmp_path, good):
    names, features, _ = good
    np.set_printoptions(threshold=10)
    try:
        table = pandas.DataFrame({"path": names, "embedding": list(features)})
        table.to_csv(tmp_path / "t.csv", index=False)
    finally:
        np.set_printoptions(threshold=1000)
    said = refusal(tmp_path / "t.csv")
    assert "row 1 (line 2): numpy shortened this list (...)" in said and "tolist()" in said


def test_a_blob_of_another_length_is_a_bad_row(tmp_path, good):
    names, features, plain = good
    blobs = [row.tobytes() for row in features]
    for bad, reason in [
        (blobs[4][:-4], "511 numbers, not 512"), (b"\xff" * 7, "7 bytes"),
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
