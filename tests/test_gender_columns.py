"""prepare.py: columns of genders by their titles, and --gender-codes."""

import pytest
from conftest import refused, script
from prepared_tables import prepared, refusal, vectors, write


@pytest.mark.parametrize(
    "title, codes",
    [
        ("sex", [1, 0]), ("Male", [0, 1]), ("female", [1, 0]), ("is_male", [0, 1]),
        ("Is_Female", [True, False]), ("Geschlecht", [*"wm"]),
    ],
)  # fmt: skip
def test_genders_come_from_columns_of_these_names(tmp_path, title, codes):
    path = write(tmp_path / "t.jsonl", age=[*range(20, 40)], e=vectors(20),
                 **{title: codes * 10})  # fmt: skip
    parts = prepared(path, tmp_path, test_size=5)
    rows = parts["train"].features[:, 0].astype(int)
    assert parts["train"].gender.tolist() == (rows % 2).tolist()  # the first is a woman


def test_two_columns_of_one_label_are_refused(tmp_path):
    path = write(tmp_path / "t.jsonl", age=[20], Age=[30], gender=["m"], e=vectors(1))
    assert "two columns are called age" in refusal(path)


def test_messages_on_labels_name_the_row_and_its_line(tmp_path):
    ages = [*range(20, 39), "twenty"]
    path = write(tmp_path / "t.jsonl", age=ages, gender=[0, 1] * 10, e=vectors(20))
    path.write_text("\n" + path.read_text())
    assert "t.jsonl: row 20 (line 21): the age 'twenty' is not a number" in refusal(path)


def test_codes_may_begin_with_a_minus(tmp_path):
    path = write(tmp_path / "t.jsonl", age=[*range(20, 40)], gender=[-1, 1] * 10, e=vectors(20))
    assert "--gender-codes 1=male,-1=female" in refusal(path)
    parts = prepared(path, tmp_path, "--gender-codes", "-1=female,1=male", test_size=5)
    assert {*parts["train"].gender} == {0, 1}


def test_a_mistyped_code_is_named_with_the_form(tmp_path):
    done = script("prepare.py", "--gender-codes", "1:male")
    refused(done, "--gender-codes", "'1:male' is not VALUE=male, VALUE=female or VALUE=unknown")
