"""run.py --skip-bad-rows scores the good rows and lists the bad ones with row and reason."""

import csv
import os

import numpy as np
from conftest import HEADER, MODEL, refused, script, with_cell


def test_skipping_scores_the_others_and_lists_file_row_line_and_reason(tmp_path, rows):
    good, mixed = tmp_path / "good.csv", tmp_path / "mixed.csv"
    good.write_text("\n".join(rows[:2]))
    bad = [with_cell(rows[1], "x"), '"open' + rows[2], rows[3].rpartition(",")[0]]
    mixed.write_text("\n".join([HEADER, rows[0], bad[0], "", bad[1], rows[4], bad[2], rows[5]]))
    output = tmp_path / "out.csv"
    done = script(
        "run.py", "--features", good, mixed, "--output", output, "--skip-bad-rows", "--model", MODEL
    )
    assert done.code == 0, done.err
    assert "skipped 3 bad rows, scored 5" in done.err
    scored = list(csv.DictReader(output.open()))
    expected = ["face0.jpg", "face1.jpg", "face0.jpg", "face4.jpg", "face5.jpg"]
    assert [row["filename"] for row in scored] == expected
    listed = list(csv.DictReader((tmp_path / "out.errors.csv").open()))
    assert [(row["file"], row["row"], row["line"]) for row in listed] == [
        (str(mixed), "2", "3"), (str(mixed), "3", "5"), (str(mixed), "5", "7")
    ]  # fmt: skip
    assert "'x', not a finite number" in listed[0]["reason"]
    assert "quote" in listed[1]["reason"] and "511 numbers" in listed[2]["reason"]


def test_skipping_with_standard_output_lists_on_standard_error(tmp_path, rows):
    path = tmp_path / "my.csv"
    path.write_text("\n".join([rows[0], with_cell(rows[1], "NaN")]))
    done = script("run.py", "--features", path, "--skip-bad-rows", "--model", MODEL)
    assert done.code == 0 and len(done.out.splitlines()) == 2
    said = [text for text in done.err.splitlines() if not text.startswith("model: ")]
    assert said[0] == "file,row,line,reason"
    assert said[1].startswith(f"{path},2,2,") and said[2] == "skipped 1 bad row, scored 1"
    assert os.listdir(tmp_path) == ["my.csv"]


def test_where_no_row_is_good_there_is_the_list_but_no_output(tmp_path, rows):
    path, output = tmp_path / "my.csv", tmp_path / "out.csv"
    path.write_text("\n".join(with_cell(row, "NaN") for row in rows))
    done = script(
        "run.py", "--features", path, "--output", output, "--skip-bad-rows", "--model", MODEL
    )
    refused(done, "no row can be scored: all 6 are bad", "the list")
    assert not output.exists()
    assert len(list(csv.DictReader((tmp_path / "out.errors.csv").open()))) == 6
    done = script("run.py", "--features", path, "--skip-bad-rows", "--model", MODEL)
    assert (done.code, done.out) == (2, "")


def test_an_embedding_of_another_network_is_listed_with_its_row_and_line(tmp_path, faces):
    table, output = tmp_path / "my.csv", tmp_path / "out.csv"
    rows = faces[1][:5].copy()
    rows[3] = np.random.default_rng(0).normal(size=rows.shape[1])
    titles = ",".join(["filename", *(f"e{i}" for i in range(rows.shape[1]))])
    lines = (",".join([f"f{i}", *map(repr, row)]) for i, row in enumerate(rows.tolist()))
    table.write_text("\n".join([titles, *lines]) + "\n")
    done = script("run.py", "--features", table, "--output", output, "--skip-bad-rows")
    assert done.code == 0, done.err
    listed = list(csv.DictReader((tmp_path / "out.errors.csv").open()))
    assert [(row["row"], row["line"]) for row in listed] == [("4", "5")]


def test_an_empty_file_before_many_without_a_good_row_is_named(tmp_path):
    for number in range(70):  # more than MAX_FIRST_BAD_CHUNKS
        (tmp_path / f"{number:02}.csv").write_text("a,b\n" if number else "")
    done = script("run.py", "--features", tmp_path, "--skip-bad-rows")
    assert done.code == 2
    assert f"{tmp_path / '00.csv'}: this file has no rows" in done.err
