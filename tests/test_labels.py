"""Ages and genders as data sets code them: understood where they mean one thing, else refused."""

import argparse
import re
from pathlib import Path

import numpy as np
import pytest

from age_gender.errors import InputError
from age_gender.readers import label_parsing
from age_gender.readers.label_parsing import (
    LabelColumn,
    check_agreement,
    merge_gender_codes,
    parse_gender_codes,
    read_ages,
    read_genders,
)

M, F, NONE = label_parsing.MALE, label_parsing.FEMALE, label_parsing.MISSING


def column(*values, title: str = "gender", path: str = "t.csv") -> LabelColumn:
    return LabelColumn(path, title, [*values], np.arange(1, len(values) + 1))


def genders(*values, title: str = "gender", codes: str = "") -> list[int]:
    said = dict(parse_gender_codes(codes)) if codes else {}
    return read_genders([column(*values, title=title)], said).tolist()


@pytest.mark.parametrize(
    "values",
    [
        (0, 1), ("0", "1"), (0.0, 1.0), ("0.0", "1.0"), (" 0", "1 "), ("'0'", '"1"'), ("+0", "1e0"),
        (np.int64(0), np.float32(1)), ("male", "female"), ("Male", "Female"), ("MAN", "woman"),
        ("m", "f"), ("M", "F"), ("m.", "f."), ("m", "w"), ("H", "F"), ("H", "M"), ("E", "K"),
        ("M", "K"), ("L", "P"), ("М", "Ж"), ("Homme", "Femme"), ("männlich", "weiblich"),
        ("ma\u0308nnlich", "weiblich"), ("masculino", "femenino"), ("homem", "mulher"),
        ("uomo", "donna"), ("man", "vrouw"), ("mężczyzna", "kobieta"), ("мужской", "женский"),
        ("erkek", "kadın"), ("laki-laki", "perempuan"), ("男", "女"), ("男性", "女性"),
        ("남자", "여자"), (b"male", b"female"),
    ],
)  # fmt: skip
def test_a_coding_that_means_one_thing_check_agreement(values):
    male, female = values
    assert genders(male, female, female, male) == [M, F, F, M]


@pytest.mark.parametrize("title", ["gender", "sex", "Sex", "GENDER"])
@pytest.mark.parametrize("missing", [None, float("nan"), "", " ", "nan", "unknown", "None", "N/A"])
def test_an_unknown_gender_is_a_missing_label(title, missing):
    assert genders(0, 1, missing, title=title) == [M, F, NONE]
    assert genders("f", missing, "m", title=title) == [F, NONE, M]


def test_minus_one_is_unknown_beside_0_and_1_alone():
    assert genders(0, 1, -1, "-1.0") == [M, F, NONE, NONE]
    for values in ((-1, 1), (-1, 0), (-1, "male", "female")):
        with pytest.raises(InputError, match="-1"):
            genders(*values)


@pytest.mark.parametrize(
    "values, words",
    [
        ((1, 2, 2), ["1 (1 row)", "2 (2 rows)", "--gender-codes 1=male,2=female"]),
        ((-1, 1), ["-1 (1 row)", "--gender-codes 1=male,-1=female"]),
        ((0, 1, 2), ["0 (1 row)", "2 (1 row)"]), ((1, 1), ["1 (2 rows)"]), ((0,), ["0 (1 row)"]),
        ((True, False), ["true (1 row)", "false (1 row)", "--gender-codes"]),
        (("True", "False"), ["true", "false"]), (("x", "y"), ["x (1 row)", "y (1 row)"]),
        (("male", "female", "other"), ["other (1 row)", "female (1 row)"]),
        (("male", "0"), ["0 (1 row)", "male (1 row)"]), (("0", "1", "female"), ["0 (1 row)"]),
        (("m", "v"), ["m (1 row)", "v (1 row)"]), (("m", "f", "d"), ["d (1 row)"]),
        (("m", "m"), ["m (2 rows)"]), ((1, 2, None), ["no value (1 row)"]), ((0.5, 1), ["0.5"]),
        ((["m"], ["f"]), ["m"]), (("0_0", "1"), ["0_0"]), ((0, 0.9999999), ["0.9999999 (1 row)"]),
        ((0, 99999999, 1), ["99999999 (1 row)", "0=male,1=female,99999999=unknown"]),
        (("m", "d", "f"), ["--gender-codes m=male,f=female,d=unknown"]),
        (("male", "x", "female"), ["--gender-codes x=unknown"]),
        (("masc", "fem"), ["--gender-codes masc=male,fem=female"]),
        (("Herr", "Frau"), ["--gender-codes herr=male"]), (("f", "f"), ["--gender-codes f=female"]),
        (({"Man": 9, "Woman": 1}, {"Man": 1, "Woman": 9}), ["one value"]),
    ],
)  # fmt: skip
def test_any_other_coding_is_refused_with_its_values_counts_and_the_option(values, words):
    with pytest.raises(InputError) as refused:
        genders(*values)
    for word in ("t.csv: the column gender holds", "--gender-codes", *words):
        assert word in str(refused.value)


@pytest.mark.parametrize(
    "title, values, expected",
    [
        ("Male", (1, 0), [M, F]), ("male", ("True", "False"), [M, F]), ("MALE", (1, -1), [M, F]),
        ("Male", (1, 0, -1), [M, F, NONE]), ("female", (True, False), [F, M]),
        ("Male", ("Y", "N"), [M, F]), ("male", ("t", "f"), [M, F]), ("female", ("t", "f"), [F, M]),
        ("Male", ("m", "f"), [M, F]), ("female", ("f", "m"), [F, M]),
        ("Female", (1.0, 0.0, None), [F, M, NONE]), ("Male", ("yes", "no"), [M, F]),
        ("male", (1, 1), [M, M]), ("female", ("female", "male"), [F, M]),
    ],
)  # fmt: skip
def test_a_column_called_male_or_female_says_which_one_its_1_is(title, values, expected):
    assert genders(*values, title=title) == expected


def test_a_column_called_male_with_other_numbers_is_refused():
    with pytest.raises(InputError, match=r"the column Male holds 1 \(1 row\), 2 \(1 row\)"):
        genders(1, 2, title="Male")


@pytest.mark.parametrize(
    "codes, values, expected",
    [
        ("1=male,2=female", (1, 2, "2.0", None), [M, F, F, NONE]),
        ("-1=female,1=male", (1, -1), [M, F]), ("0=female,1=male", (0, 1, -1), [F, M, NONE]),
        ("False=male,True=female", (True, False), [F, M]),
        ("x = Male, y = FEMALE", "xyX", [M, F, M]),
        ("d=unknown,m=male,f=female", "mfd", [M, F, NONE]),
        ("other=unknown", ("man", "Other"), [M, NONE]), ("M=female,V=male", "MV", [F, M]),
        ("1=male", (1, 1), [M, M]), ("a=b=male,c=female", ("a=b", "c"), [M, F]),
        ("1=male;2=female", (1, 1), [M, M]), ("1000001=male,1000002=female", (1000001,), [M]),
        ("a,b=male,c;d=female", ("a,b", "c;d"), [M, F]),
    ],
)  # fmt: skip
def test_gender_codes_say_what_values_mean(codes, values, expected):
    assert genders(*values, codes=codes) == expected


def test_codes_of_some_answers_do_not_leave_the_others_their_meaning():
    for codes, values in [("1=female", (1, 0)), ("True=female", (True, False)), ("t=female", "tf")]:
        with pytest.raises(InputError, match="the column Male holds"):
            genders(*values, title="Male", codes=codes)
    with pytest.raises(InputError, match="--gender-codes 1=male,2=female"):
        genders(1, 2, codes="1=male")


def understood(first, second, title: str = "Male", codes: str = "") -> bool:
    """Whether another column of the same rows as a column gender means one thing."""
    columns, said = [column(*first)], dict(parse_gender_codes(codes)) if codes else {}
    others = [column(*second, title=title)]
    return check_agreement(others, columns, read_genders(columns, said), said)


def test_two_columns_of_genders_must_agree():
    assert understood((0, 1, 1), (1, 0, 0)) and understood("mff", ("", 0, None))
    assert understood((0, 1), (0, 1), "sex", "0=female,1=male")
    assert not understood((0, 1), (1, 2), "sex")
    with pytest.raises(InputError) as refused:
        understood((0, 1, 1, 0), (1, 0, 1, 0))
    assert str(refused.value) == (
        "t.csv: row 3: female by the column gender, male by the column Male (2 such rows); correct "
        "them or leave one column out"
    )


def test_a_value_that_the_codes_leave_out_is_refused():
    for codes, values in [("1=male,2=female", (1, 2, 3)), ("0=male", (0, 1)), ("m=female", "mf")]:
        with pytest.raises(InputError, match="--gender-codes"):
            genders(*values, codes=codes)
    with pytest.raises(InputError, match="no row has the value 7"):
        genders("m", "f", codes="7=male")


@pytest.mark.parametrize("text", ["", "1", "1=boy", "1=male,"])
def test_codes_of_another_form_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_gender_codes(text)


def test_a_code_with_two_genders_is_refused():
    with pytest.raises(InputError, match="two genders"):
        merge_gender_codes([parse_gender_codes("1=male,1=female")])


def test_each_file_is_read_by_itself_but_those_of_one_value():
    numbers = [column(0, 1), column(1, path="one.csv"), column(0, path="two.csv")]
    assert read_genders(numbers, {}).tolist() == [M, F, F, M]
    with pytest.raises(InputError, match=r"other.csv: the column gender holds -1"):
        read_genders([column(0, 1), column(-1, 1, path="other.csv")], {})
    with pytest.raises(InputError, match=r"holds 1 .*, 2 "):
        read_genders([column(1), column(2, path="two.csv")], {})


def test_names_of_utkface_need_not_hold_both_genders():
    assert genders(1, None, 1, title="") == [F, NONE, F]


def test_the_documented_words_are_those_that_are_understood():
    text = (Path(__file__).parent.parent / "data" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z][^|]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    documented = {language: (men.split(", "), women.split(", ")) for language, men, women in rows}
    understood = {
        language: (men.split(), women.split())
        for language, (men, women) in label_parsing.GENDER_WORDS.items()
    }
    assert {key: documented.get(key) for key in understood} == understood


# ---------------------------------------------------------------------------------- ages


@pytest.mark.parametrize(
    "value, years",
    [
        (31, 31), ("31", 31), (31.4, 31), ("31.5", 32), (" 31 ", 31), ("'31'", 31), (0, 0),
        (116.4, 116), (np.int32(31), 31), (np.float64(31), 31), (b"31", 31), ("1e1", 10),
        (None, NONE), ("", NONE), ("nan", NONE), (float("nan"), NONE), ("unknown", NONE),
        (-1, NONE), (117, NONE), (2011, NONE),
    ],
)  # fmt: skip
def test_an_age_is_a_number_of_years(value, years):
    assert read_ages([column(40, 50, value, 60, title="age")], 10).tolist()[2] == years


@pytest.mark.parametrize(
    "value, words",
    [
        ("20-29", ["a range", "middle of the range"]), ("(25, 32)", ["a range"]),
        ("20–29", ["a range"]), ([25, 32], ["a range"]), ("3_0", ["a range"]),
        ("(20.0, 30.0]", ["a range"]), ("1985-05-03", ["not a number"]),
        ("25,5", ["a range"]),
        ("34 years", ["not a number"]), ("more than 70", ["not a number"]),
        ("70+", ["not a number"]),
        ("adult", ["not a number"]), (True, ["not a number"]), ("<20", ["not a number"]),
    ],
)  # fmt: skip
def test_an_age_of_another_form_is_refused_with_its_row_and_the_remedy(value, words):
    with pytest.raises(InputError) as refused:
        read_ages([column(40, value, title="age")], 10)
    for word in ("t.csv: row 2: the age", "one number of years in each row", *words):
        assert word in str(refused.value)


def test_ages_that_look_like_numbers_of_classes_are_refused():
    for values in ([0, 3, 8, 2], ["1", "2", None], [0.1, 0.35, 0.9]):
        with pytest.raises(InputError, match=r"class numbers.*--min-age 0"):
            read_ages([column(*values, title="age")], 10)
    assert read_ages([column(0, 3, 8, title="age")], 0).tolist() == [0, 3, 8]
    assert read_ages([column(0, 3, 10, title="age")], 10).tolist() == [0, 3, 10]


def test_a_column_of_years_of_birth_is_refused():
    with pytest.raises(InputError, match=r"row 1: the age 1985 is outside 0 to 116"):
        read_ages([column(1985, 1999, 40, title="age")], 10)
