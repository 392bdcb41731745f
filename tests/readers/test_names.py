"""Names of faces: which values are names, and how they are written."""

import sqlite3
import uuid

import pytest

from age_gender.readers import names, tables

OF_BYTES = uuid.UUID("00000010-0000-0000-0000-00000000018f")  # its bytes are UTF-8, with NUL


@pytest.mark.parametrize(
    "value, text",
    [
        ("a.jpg", "a.jpg"), (7, "7"), (7.0, "7"), (2**53 + 1, "9007199254740993"), ("", None),
        (None, None), (float("nan"), None), (b"a.jpg", "a.jpg"), (b"", None),
        (b"photo_000001.jpg", "photo_000001.jpg"), (OF_BYTES, str(OF_BYTES)),
        (OF_BYTES.bytes, str(OF_BYTES)),
    ],
)  # fmt: skip
def test_a_name_is_written_as_people_would(value, text):
    assert names.to_text([value]) == ([text], {})
    assert names.may_be_name(value) or value != value  # a column that begins with NaN is of numbers


@pytest.mark.parametrize(
    "value", [0.5, True, ["a"], {"a": 1}, b"\xff\xd8\xff", "/9j/" + "A" * 96, "UklGR" + "A" * 99,
              "x" * 1000]
)  # fmt: skip
def test_other_values_are_no_names(value):
    assert not names.may_be_name(value)


def test_a_column_of_images_is_no_name_though_its_first_values_are_missing(tmp_path):
    path = tmp_path / "t.db"
    with sqlite3.connect(path) as database:
        database.execute("create table faces (image, id, embedding)")
        database.executemany(
            "insert into faces values (?, ?, ?)",
            [(None if i < 3 else b"\xff\xd8\xff", f"id {i}", str([i + 1] * 16)) for i in range(9)],
        )
    database.close()
    assert tables.read([path])[0] == [f"id {i}" for i in range(9)]


def test_an_empty_cell_of_csv_is_called_by_its_row(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{name},{','.join(['1.5'] * 16)}\n" for name in ("a", "", '""', "b")]
    path.write_text("filename," + ",".join(f"e{i}" for i in range(16)) + "\n" + "".join(rows))
    assert tables.read([path])[0] == ["a", "2", "3", "b"]
