"""Read columns of ages and genders, and refuse those that may mean two things.

Data sets code genders in many ways, such as 1 and 2. A value is understood only where it can mean
one thing: words by a table, 0 and 1 where a column holds these two alone. Everything else is for
the user to say.
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
from age_gender.labels import ADULT_AGE, AGES, GENDERS

MALE, FEMALE, MISSING = 0, 1, -1
GENDER_WORDS = {  # as data sets write them; male, female
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
# A letter means something beside its counterpart alone: M is Spanish "mujer" beside H.
LETTERS = ("mf", "mw", "hf", "hm", "mk", "ek", "mz", "lp", "мж")  # male, female
UNKNOWN_WORDS = {
    "", "-", "--", "?", "n/a", "na", "<na>", "nan", "nat", "none", "null", "unknown", "unk",
    "undefined", "missing", "unbekannt", "inconnu", "desconocido", "неизвестно", "未知",
}  # fmt: skip
# Answers in a column called male or female. Beside t, f is false; alone it may be female.
YES, NO = ("1", "true", "yes", "y", "t"), ("0", "false", "no", "n")
CODE = re.compile(rf"(.*?)=\s*({'|'.join(GENDERS)}|unknown)\s*(?:[,;](?=.)|\Z)", re.I | re.S)


class RowSource(NamedTuple):
    """Say where a row stands: its file, its number there from 1, its line or 0; for messages."""

    path: str
    row: int
    line: int

    def __str__(self) -> str:
        return f"{self.path}: row {self.row}" + f" (line {self.line})" * (self.line > 0)


class LabelColumn(NamedTuple):
    """Hold the ages or genders of one file: a column, or, without a title, those in its names."""

    path: str
    title: str
    values: list
    rows: Sequence[int]  # their numbers in the file, from 1
    lines: Sequence[int] = ()  # their lines in the file, from 1, if it is text

    def sources(self) -> Iterator[RowSource]:
        """Yield where each row stands."""
        lines = self.lines or itertools.repeat(0)
        return map(RowSource, itertools.repeat(self.path), self.rows, lines)

    def __str__(self) -> str:
        subject = f"the column {printable(self.title)} holds" if self.title else "its names hold"
        return f"{self.path}: {subject}"


def parse_gender_codes(text: str) -> dict[str, int]:
    """Return the gender that each value of VALUE=male,VALUE=female stands for.

    A value may also be =unknown: a missing label; it may hold commas. Raises ArgumentTypeError for
    any other text.
    """
    meanings = {**{word: gender for gender, word in enumerate(GENDERS)}, "unknown": MISSING}
    codes: dict[str, int] = {}
    end = 0
    while end < len(text) or not codes:
        if not (code := CODE.match(text, end)):
            raise argparse.ArgumentTypeError(
                f"{text[end:]!r} is not VALUE=male, VALUE=female or VALUE=unknown"
            )
        gender, end = meanings[code[2].casefold()], code.end()
        if codes.setdefault(_normalise_text(code[1]), gender) != gender:
            raise argparse.ArgumentTypeError(f"{code[1]!r} is given two genders")
    return codes


def merge_gender_codes(options: list[dict[str, int]]) -> dict[str, int]:
    """Return the codes of all --gender-codes. Raises InputError for a value with two genders."""
    codes: dict[str, int] = {}
    for value, code in itertools.chain.from_iterable(option.items() for option in options):
        if codes.setdefault(value, code) != code:
            raise InputError(f"--gender-codes: {value!r} is given two genders; give it one")
    return codes


def read_genders(columns: Sequence[LabelColumn], codes: dict[str, int]) -> np.ndarray:
    """Return the gender of each row (n,), 0 male, 1 female, -1 where it is missing.

    `codes` are what the user said. Raises InputError for a column that may mean two things, with
    its values, how often each stands, and the option that says what they mean.
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
            counts = all_counts  # a row a file, or the last part of a table that is many files
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
    """Return whether other columns of genders mean one thing, without the `codes` or with them.

    They have the same rows as `columns`, which mean the `genders` (n,). Raises InputError where
    they contradict these.
    """
    contradiction = None
    for given in ({}, codes):
        with contextlib.suppress(InputError):
            other = read_genders(others, given)
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

    Raises InputError for a column that does not hold numbers of years, with the first such row.
    """
    ages: list[int] = []
    for column in columns:
        years = [*_parse_years(column)]
        too_old = [age >= AGES for age in years]
        if 2 * sum(too_old) > sum(age >= 0 for age in years):
            first = too_old.index(True)
            source = next(itertools.islice(column.sources(), first, None))
            raise InputError(
                f"{source}: the age {years[first]} is outside 0 to {AGES - 1}, and so are most "
                f"ages in the column {column.title} (years of birth? days?); give ages in years"
            )
        ages += [age if age < AGES else MISSING for age in years]
    known = [age for age in ages if age >= 0]
    if known and max(known) < min(ADULT_AGE, min_age):
        column = next(column for column in columns if len(column.rows))
        raise InputError(
            f"{column} only ages from {min(known)} to {max(known)}, probably class numbers; "
            "give ages in years, or --min-age 0 if these are children"
        )
    return np.array(ages, np.int64)


def gender_codes_option(columns: Sequence[LabelColumn], genders: np.ndarray) -> str:
    """Return the --gender-codes that read `genders` (n,) as they were: 0=male,1=female."""
    shown: dict[str, int] = {}
    values = (value for column in columns for value in column.values)
    for value, gender in zip(values, genders.tolist(), strict=True):
        if gender != MISSING:
            shown.setdefault(_normalise_value(value), gender)
    codes = sorted(shown.items(), key=lambda code: (code[0].startswith("-"), code[0]))
    return shlex.quote(",".join(f"{value}={GENDERS[gender]}" for value, gender in codes))


def row_sources(columns: Sequence[LabelColumn]) -> Iterator[RowSource]:
    """Yield where each row of the input stands."""
    return itertools.chain.from_iterable(column.sources() for column in columns)


def _normalise_value(value: object) -> str:
    """Return a value as it is compared: text in small letters without accents; 1 for 1.0."""
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
    if "_" in text:  # which float() reads over
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
    if codes.keys() & answers.keys():  # whoever says what one of them means says it of all
        answers = {"-1": MISSING} if answers.get("-1") == MISSING else {}

    # Letters: only both of a pair
    letters = {value for value in rest - codes.keys() if len(value) == 1 and value.isalpha()}
    for male, female in LETTERS:
        if letters == {male, female}:
            meanings |= {male: MALE, female: FEMALE}
    return meanings | answers | codes


def _find_answers(title: str, values: set[str], has_no_words: bool) -> dict[str, int]:
    """Return the meanings of numbers and of yes and no among the `values` that are no known words.

    `has_no_words` says that the column holds no word for a gender. Without the user's codes 2 never
    has a meaning, and 1 has one beside 0 alone, or by a title such as Male.
    """
    titled = title.removeprefix("is_")
    if titled in GENDERS:  # 1 is what the column is called
        gender = GENDERS.index(titled)
        no = (*NO, "f") if "t" in values else NO
        answers = {**dict.fromkeys(YES, gender), **dict.fromkeys(no, 1 - gender)}
        if "-1" in values:  # beside 1 alone, as in CelebA's column Male, it is the other gender
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

    `present` are the genders that other values mean, `codes` what the user said of some.
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
    words = [*GENDERS, "unknown"]  # by 0, 1 and -1
    option = ",".join(f"{value}={words[gender]}" for value, gender in suggested.items())
    remedy = (
        "say which is male and which is female, such as "
        f"--gender-codes {shlex.quote(printable(option))}"
    )
    if in_order[0][0] in "[{":
        remedy = "give each row one value, not a list or an object (--gender-codes names values)"
    return InputError(f"{column} {_format_counts(counts)}; {remedy}")


def _format_counts(counts: Counter) -> str:
    """Return the values and in how many rows each stands, for a message."""
    parts = [
        f"{printable(value)[:40] or 'no value'} ({counted(count, 'row')})"
        for value, count in counts.most_common(8)
    ]
    return ", ".join(parts) + ", ..." * (len(counts) > 8)


def _parse_years(column: LabelColumn) -> Iterator[int]:
    """Yield the whole years of each row, -1 where they are missing; InputError for a text."""
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
