"""Read columns of ages and genders, and refuse those that may mean two things.

Data sets code genders in many ways, such as 1 and 2. A value is understood only where it can mean
one thing: words by a table, 0 and 1 in a column without other values. The user must say what
anything else means.
"""

import argparse
import contextlib
import functools
import itertools
import math
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from age_gender.cli import counted
from age_gender.errors import InputError, printable
from age_gender.labels import ADULT_AGE, AGE_CLASSES, GENDERS
from age_gender.readers.bad_rows import RowSource

MALE, FEMALE, MISSING = 0, 1, -1
GENDER_WORDS = {  # per language: words for male, words for female
    "English": ("male males man men boy masculine", "female females woman women girl feminine"),
    "German": ("männlich mann maennlich", "weiblich frau"),
    "French": ("homme masculin", "femme féminin"),
    "Spanish": ("hombre masculino varón", "mujer femenino"),
    "Portuguese": ("homem masculino", "mulher feminino"),
    "Italian": ("uomo maschio maschile", "donna femmina femminile"),
    "Dutch": ("man mannelijk", "vrouw vrouwelijk"),
    "Swedish, Danish, Norwegian": ("man mand mann", "kvinna kvinde kvinne"),
    "Polish": ("mężczyzna", "kobieta"),
    "Czech": ("muž", "žena"),
    "Russian": ("мужчина мужской муж", "женщина женский жен"),
    "Turkish": ("erkek", "kadın kadin"),
    "Indonesian": ("laki-laki pria", "perempuan wanita"),
    "Chinese, Japanese": ("男 男性 男人", "女 女性 女人"),
    "Korean": ("남 남자 남성", "여 여자 여성"),
}
# Pairs of letters, male then female. One letter alone is ambiguous: M is Spanish "mujer" beside H.
LETTERS = ("mf", "mw", "hf", "hm", "mk", "ek", "mz", "lp", "мж")
UNKNOWN_WORDS = {
    "", "-", "--", "?", "n/a", "na", "<na>", "nan", "nat", "none", "null", "unknown", "unk",
    "undefined", "missing", "unbekannt", "inconnu", "desconocido", "неизвестно", "未知",
}  # fmt: skip
# Answers in a column called male or female. f means false only beside t: alone it may mean female.
YES, NO = ("1", "true", "yes", "y", "t"), ("0", "false", "no", "n")
CODE = re.compile(rf"(.*?)=\s*({'|'.join(GENDERS)}|unknown)\s*(?:[,;](?=.)|\Z)", re.I | re.S)


class LabelColumn(NamedTuple):
    """Hold the ages or genders of one file, from a column or, if `title` is empty, from names."""

    path: str
    title: str
    values: list
    rows: Sequence[int]  # row numbers in the file, from 1
    lines: Sequence[int] = ()  # line numbers in the file, from 1, if it is text

    def sources(self) -> Iterator[RowSource]:
        """Yield the position of each row."""
        lines = self.lines or itertools.repeat(0)
        return map(RowSource, itertools.repeat(self.path), self.rows, lines)

    def __str__(self) -> str:
        subject = f"the column {printable(self.title)} holds" if self.title else "its names hold"
        return f"{self.path}: {subject}"


def parse_gender_codes(text: str) -> list[tuple[str, int]]:
    """Return the values in VALUE=male,VALUE=female with their codes: 0 male, 1 female, -1 unknown.

    VALUE=unknown is a missing label, and a value may contain commas. Raises ArgumentTypeError for
    any other text.
    """
    meanings = {**{word: gender for gender, word in enumerate(GENDERS)}, "unknown": MISSING}
    codes: list[tuple[str, int]] = []
    end = 0
    while end < len(text) or not codes:
        if not (code := CODE.match(text, end)):
            raise argparse.ArgumentTypeError(
                f"{text[end:]!r} is not VALUE=male, VALUE=female or VALUE=unknown"
            )
        codes.append((_normalise_text(code[1]), meanings[code[2].casefold()]))
        end = code.end()
    return codes


def merge_gender_codes(options: list[list[tuple[str, int]]]) -> dict[str, int]:
    """Return the codes of all --gender-codes. Raises InputError for a value with two genders."""
    codes: dict[str, int] = {}
    for value, code in itertools.chain.from_iterable(options):
        if codes.setdefault(value, code) != code:
            raise InputError(f"--gender-codes: {value!r} is given two genders; give it one")
    return codes


def read_genders(columns: Sequence[LabelColumn], codes: dict[str, int]) -> np.ndarray:
    """Return the gender of each row (n,), 0 male, 1 female, -1 where it is missing.

    `codes` are the user's. Raises InputError for an ambiguous column, with its values, how often
    each occurs, and the option that says what they mean.
    """
    genders, normalised = [], [[*map(_normalise_value, column.values)] for column in columns]
    all_counts = Counter(itertools.chain.from_iterable(normalised))
    if codes and not codes.keys() & all_counts.keys():
        raise InputError(
            f"--gender-codes: no row has the value {printable(' or '.join(codes))}; there are "
            f"{_format_counts(all_counts)}"
        )
    for column, values in zip(columns, normalised, strict=True):
        counts = Counter(values)
        if len(counts.keys() - UNKNOWN_WORDS - codes.keys()) == 1:
            counts = all_counts  # a file of one row, or of one gender
        meanings = _find_meanings({*counts}, column.title.casefold(), codes)
        if unclear := set(values) - meanings.keys():
            present = {meanings[value] for value in counts.keys() & meanings.keys()}
            raise _ambiguity_error(column, counts, unclear, present, codes)
        genders += [meanings[value] for value in values]
    return np.array(genders, np.int64)


def check_agreement(
    others: Sequence[LabelColumn],
    columns: Sequence[LabelColumn],
    genders: np.ndarray,
    codes: dict[str, int],
) -> bool:
    """Return whether the columns `others` can be read, with the `codes` or without.

    They describe the same rows as `columns`, which were read as `genders` (n,). Raises InputError
    where they contradict these.
    """
    contradiction = None
    for tried_codes in ({}, codes):
        with contextlib.suppress(InputError):
            other = read_genders(others, tried_codes)
            differs = (genders >= 0) & (other >= 0) & (genders != other)
            if not differs.any():
                return True
            contradiction = other, differs
    if contradiction is None:
        return False
    other, differs = contradiction
    row = int(differs.argmax())
    source = next(itertools.islice(row_sources(columns), row, None))
    titles = [next(filter(None, (column.title for column in c)), "") for c in (columns, others)]
    raise InputError(
        f"{source}: {GENDERS[genders[row]]} by the column {printable(titles[0])}, "
        f"{GENDERS[other[row]]} by the column {printable(titles[1])} "
        f"({counted(int(differs.sum()), 'such row')}); correct them or leave one column out"
    )


def read_ages(columns: Sequence[LabelColumn], min_age: int) -> np.ndarray:
    """Return the age of each row (n,) in whole years, -1 where it is missing or over 116.

    Raises InputError that names the first row of a column without numbers of years.
    """
    ages: list[int] = []
    for column in columns:
        years = [*_parse_years(column)]
        too_old = [age >= AGE_CLASSES for age in years]
        if 2 * sum(too_old) > sum(age >= 0 for age in years):
            first = too_old.index(True)
            source = next(itertools.islice(column.sources(), first, None))
            raise InputError(
                f"{source}: the age {years[first]} is outside 0 to {AGE_CLASSES - 1}, and so are "
                f"most ages in the column {column.title} (years of birth? days?); give ages in "
                "years"
            )
        ages += [age if age < AGE_CLASSES else MISSING for age in years]
    known = [age for age in ages if age >= 0]
    if known and max(known) < min(ADULT_AGE, min_age):
        column = next(column for column in columns if len(column.rows))
        raise InputError(
            f"{column} only ages from {min(known)} to {max(known)}, probably class numbers; "
            "give ages in years, or --min-age 0 if these are children"
        )
    return np.array(ages, np.int64)


def gender_codes_option(columns: Sequence[LabelColumn], genders: np.ndarray) -> str:
    """Return the --gender-codes by which `genders` (n,) were read, such as 0=male,1=female."""
    code_of_value: dict[str, int] = {}
    values = (value for column in columns for value in column.values)
    for value, gender in zip(values, genders.tolist(), strict=True):
        if gender != MISSING:
            code_of_value.setdefault(_normalise_value(value), gender)
    codes = sorted(code_of_value.items(), key=lambda code: (code[0].startswith("-"), code[0]))
    return shlex.quote(",".join(f"{value}={GENDERS[gender]}" for value, gender in codes))


def row_sources(columns: Sequence[LabelColumn]) -> Iterator[RowSource]:
    """Yield the position of each row of the input."""
    return itertools.chain.from_iterable(column.sources() for column in columns)


def _normalise_value(value: object) -> str:
    """Return a value as text for comparison, in small letters without accents; 1 for 1.0."""
    plain = value is None or isinstance(value, str | bytes | bool | int | float)
    return _normalise_text(
        value if plain else value.item() if isinstance(value, np.generic) else str(value)
    )


@functools.lru_cache(4096, typed=True)
def _normalise_text(value: str | bytes | float | None) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = text.strip().strip("\"'").strip().rstrip(".")
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    text = "".join(mark for mark in decomposed if not unicodedata.combining(mark))
    if (number := _parse_number(text)) is not None and math.isfinite(number):
        return f"{number + 0:.0f}" if number.is_integer() else repr(number)  # + 0: -0 is 0
    return "" if text in UNKNOWN_WORDS else text


def _parse_number(text: str) -> float | None:
    if "_" in text:  # float() ignores it
        return None
    try:
        return float(text)
    except ValueError:
        return None


@functools.cache
def _known_words() -> dict[str, int]:
    """Return the genders of all GENDER_WORDS, and UNKNOWN_WORDS as missing ones."""
    genders = {
        _normalise_text(word): gender
        for pair in GENDER_WORDS.values()
        for gender, words in enumerate(pair)
        for word in words.split()
    }
    return dict.fromkeys(UNKNOWN_WORDS, MISSING) | genders


def _find_meanings(values: set[str], title: str, codes: dict[str, int]) -> dict[str, int]:
    """Return the gender of each value that has one possible meaning, plus the user's codes."""
    # 0 and 1 together, or yes and no in a column called male or female
    meanings = {**_known_words()}
    rest = values - meanings.keys()
    has_no_words = values - {""} == rest
    answers = _find_answers(title, rest, has_no_words)
    if codes.keys() & answers.keys():  # codes for one of them apply to all
        answers = {"-1": MISSING} if answers.get("-1") == MISSING else {}

    # Letters: only both of a pair
    letters = {value for value in rest - codes.keys() if len(value) == 1 and value.isalpha()}
    for male, female in LETTERS:
        if letters == {male, female}:
            meanings |= {male: MALE, female: FEMALE}
    return meanings | answers | codes


def _find_answers(title: str, values: set[str], has_no_words: bool) -> dict[str, int]:
    """Return the meanings of numbers and of yes and no among the `values` that are no known words.

    `has_no_words` says that the column has no word for a gender. Without the user's codes 2 never
    has a meaning, and 1 only has one where 0 is the only other value, or by a title such as Male.
    """
    titled = title.removeprefix("is_")
    if titled in GENDERS:  # 1 is what the column is called
        gender = GENDERS.index(titled)
        no = (*NO, "f") if "t" in values else NO
        answers = {**dict.fromkeys(YES, gender), **dict.fromkeys(no, 1 - gender)}
        if "-1" in values:  # with 1 only, as in CelebA's column Male, it is the other gender
            answers["-1"] = MISSING if "0" in values else 1 - gender
        return answers
    if not title:  # UTKFace's names
        return {"0": MALE, "1": FEMALE}
    if has_no_words and {"0", "1"} <= values <= {"0", "1", "-1"}:
        return {"0": MALE, "1": FEMALE, "-1": MISSING}
    return {}


def _ambiguity_error(
    column: LabelColumn, counts: Counter, unclear: set[str], present: set[int],
    codes: dict[str, int],
) -> InputError:  # fmt: skip
    """Return the error of values that may mean either gender, or none.

    `present` are the genders that other values mean, `codes` the user's meanings of some values.
    """
    # Suggest codes: what a value most likely means, else what no other value means
    guesses = {"0": MALE, "m": MALE, "h": MALE, "f": FEMALE, "w": FEMALE}
    in_order = sorted(
        unclear, key=lambda value: (guesses.get(value, 2), value[0] not in "0123456789mh", value)
    )
    suggested, free = dict(codes), [gender for gender in (MALE, FEMALE) if gender not in present]
    for value in in_order[:4]:
        guess = guesses.get(value)
        suggested[value] = guess if guess in free else next(iter(free), MISSING)
        free = [gender for gender in free if gender != suggested[value]]

    # Say what was found, and what to do
    words = [*GENDERS, "unknown"]  # indexed by 0, 1 and -1
    option = ",".join(f"{value}={words[gender]}" for value, gender in suggested.items())
    remedy = (
        "say which is male and which is female, such as "
        f"--gender-codes {shlex.quote(printable(option))}"
    )
    if in_order[0][0] in "[{":
        remedy = "give each row one value, not a list or an object (--gender-codes names values)"
    return InputError(f"{column} {_format_counts(counts)}; {remedy}")


def _format_counts(counts: Counter) -> str:
    """Return the values and their numbers of rows, for a message."""
    parts = [
        f"{printable(value)[:40] or 'no value'} ({counted(count, 'row')})"
        for value, count in counts.most_common(8)
    ]
    return ", ".join(parts) + ", ..." * (len(counts) > 8)


def _parse_years(column: LabelColumn) -> Iterator[int]:
    """Yield the whole years of each row, -1 where they are missing. Raises InputError for text."""
    for source, value in zip(column.sources(), column.values, strict=True):
        text = str(value.decode("utf-8", "replace") if isinstance(value, bytes) else value).strip()
        number = None if isinstance(value, bool | np.bool_) else _parse_number(text.strip("\"'"))
        if number is None and text.casefold() not in UNKNOWN_WORDS:
            is_range = len(re.findall(r"\d+(?:\.\d+)?", text)) == 2
            fault = "a range, not a number" if is_range else "not a number"
            remedy = "such as the middle of the range" if is_range else "and nothing else"
            raise InputError(
                f"{source}: the age {printable(repr(value))[:80]} is {fault}; give "
                f"the column {printable(column.title)} one number of years in each row, {remedy}"
            )
        is_age = number is not None and 0 <= number < 1e9
        yield math.floor(number + 0.5) if is_age else MISSING
