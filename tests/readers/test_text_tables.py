"""Text tables as R, MATLAB, NumPy, PowerShell, word2vec and hands write them are read, or named."""

import io

import numpy as np
import pandas
import pytest
from other_tools import refusal

from age_gender.readers import tables
from age_gender.readers.columns import ReadOptions

COUNT = 6
TITLES = [f"e{i}" for i in range(512)]
KNOWN_WIDTH = ReadOptions(width=512)


def text(lines, separator=",") -> str:
    return "".join(separator.join(map(str, line)) + "\n" for line in lines)


def rows(names, features) -> list[list]:
    return [[name, *row] for name, row in zip(names, features.tolist(), strict=True)]


def numbered(names, features) -> list[list]:
    return [[i, *row] for i, row in enumerate(rows(names, features), 1)]


def savetxt(features, **how) -> str:
    stream = io.StringIO()
    np.savetxt(stream, features, **how)
    return stream.getvalue()


def in_two_levels(names, features) -> str:
    columns = pandas.MultiIndex.from_product([["embedding"], range(512)])
    return pandas.DataFrame(features.astype(float), names, columns).to_csv()


def quoted_decimals(names, features) -> str:
    lines = [["filename", *TITLES], *rows(names, features)]
    return text([[f'"{cell}"'.replace(".", ",", cell != lines[0][0]) if isinstance(cell, float)
                  else f'"{cell}"' for cell in line] for line in lines])  # fmt: skip


TABLES = {
    "R's names of rows without a title": lambda n, f: text([TITLES, *rows(n, f)], "\t"),
    "R's numbers of rows without a title": lambda n, f: text(
        [['"filename"', *TITLES], *numbered([f'"{name}"' for name in n], f)], " "
    ),
    "two levels of pandas' titles": in_two_levels,
    "PowerShell's decimal commas in quotes": quoted_decimals,
    "word2vec's counts": lambda n, f: f"{COUNT} 512\n" + text(rows(n, f), " "),
    "comments above the header": lambda n, f: "# faces\n# 2024\n" + text(
        [["filename", *TITLES], *rows(n, f)]
    ),
    "a title above the header": lambda n, f: "Faces of 2024\n\n" + text(
        [["filename", *TITLES], *rows(n, f)]
    ),
    "a title above a column of lists": lambda n, f: "Faces\npath,embedding\n" + text(
        [name, f'"{row}"'] for name, row in zip(n, f.tolist(), strict=True)
    ),
    "a megabyte of line feeds above the header": lambda n, f: "\n" * 1_100_000 + text(
        [["filename", *TITLES], *rows(n, f)]
    ),
    "titles in a comment": lambda n, f: "# filename " + text([TITLES, *rows(n, f)], " "),
}  # fmt: skip
BESIDE = {
    "a number before the name": numbered,
    "the name last": lambda n, f: [[*row[1:], row[0]] for row in rows(n, f)],
    "a label behind the numbers": lambda n, f: [[*row, "adult"] for row in rows(n, f)],
}


def check(path, content, names, features, options=tables.DEFAULT_OPTIONS):
    path.write_text(content)
    found, read = tables.read([path], options)
    assert found == names
    np.testing.assert_array_equal(read, features)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_below_other_lines_or_titles_is_read(tmp_path, names, features, table):
    check(tmp_path / "t.txt", TABLES[table](names, features), names, features)


@pytest.mark.parametrize("table", BESIDE)
def test_without_a_header_the_text_beside_the_numbers_is_the_name(tmp_path, names, features, table):
    content = text(BESIDE[table](names, features))
    check(tmp_path / "t.csv", content, names, features, KNOWN_WIDTH)


@pytest.mark.parametrize("header", ["", "# two lines\n# of comments\n"])
@pytest.mark.parametrize("delimiter", [" ", ",", "\t"])
def test_what_savetxt_writes_below_a_comment_is_read(tmp_path, features, header, delimiter):
    numbers = [str(i + 1) for i in range(COUNT)]
    check(tmp_path / "t.txt", header + savetxt(features, delimiter=delimiter), numbers, features)
    titles = savetxt(features, delimiter=delimiter, header=delimiter.join(TITLES))
    check(tmp_path / "t.txt", titles, numbers, features)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("separator, brackets", [
    (",", "[]"), (",", "{}"), (",", "()"), (";", "[]"), (" ", "[]"), (": ", "[]"), (" = ", "[]"),
])  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_without_quotes_may_hold_the_separator(
    tmp_path, names, features, separator, brackets, header, end
):
    inner = {";": ";"}.get(separator, ", ")
    lists = (f"{brackets[0]}{inner.join(map(str, row))}{brackets[1]}" for row in features.tolist())
    content = text(zip(names, lists, strict=True), separator)
    if header:
        content = f"path{separator if separator in ',;' else ' '}embedding\n" + content
    path = tmp_path / "t.txt"
    check(path, content.replace("\n", end), names, features)
    if separator == ",":
        content = text((*line.split(",", 1), "x") for line in content.splitlines())
        check(path, content, names, features)


def test_a_bad_row_of_lists_without_quotes_is_named(tmp_path, names, features):
    lines = [f"{name},{row}" for name, row in zip(names, features.tolist(), strict=True)]
    lines[2] = lines[2].replace(", ", ", x", 1)
    (tmp_path / "t.csv").write_text("path,embedding\n" + "\n".join(lines))
    said = refusal(tmp_path / "t.csv")
    assert "row 3 (line 4): number 2 is 'x" in said


def test_a_name_that_begins_with_a_hash_is_no_comment(tmp_path, features):
    names = [f"#{i}" for i in range(COUNT)]
    names[1] = "1"
    check(tmp_path / "t.csv", text(rows(names, features)), names, features)
    lists = ([name, f'"{row}"'] for name, row in zip(names, features.tolist(), strict=True))
    check(tmp_path / "t.csv", text(lists), names, features)


@pytest.mark.parametrize("content, said", [
    (" path  | embedding\n-------+-----------\n a.jpg | [0.1,0.2]\n(1 row)\n", "a printed table"),
    ("| path | embedding |\n|------|-----------|\n| a | [0.1,0.2] |\n", "a printed table"),
    ("+------+\n| path |\n+------+\n| a    |\n+------+\n", "a printed table"),
    ("INSERT INTO faces VALUES('a.jpg', X'00');\n", "an SQL dump"),
    ("--\n-- PostgreSQL database dump\n--\n", "an SQL dump"), ("<?xml version='1.0'?>\n", "XML"),
    ("path,embedding\na.jpg,System.Single[]\n", "'System.Single[]', the name of a type"),
    ("path,embedding\na.jpg,H4sIALb" + "A" * 200 + "\n", "compressed by gzip"),
    ("path,embedding\na.jpg,gASVjQ" + "A" * 200 + "\n", "a pickle"),
    ("path,embedding\na.jpg," + "some words " * 20 + "\n", "embedding holds 'some words some word"),
    ("a^0.1^0.2\n", "a row without any numbers"),
])  # fmt: skip
def test_text_that_holds_no_embeddings_is_called_what_it_is(tmp_path, content, said):
    (tmp_path / "t.txt").write_text(content)
    assert said in refusal(tmp_path / "t.txt")


def separated_by_padded_semicolons(names, features) -> str:
    return "".join(" ; ".join(map(str, row)) + " \n" for row in rows(names, features))


def quoted_as_sql(names, features) -> str:
    lists = ((name, f"'{row}'") for name, row in zip(names, features.tolist(), strict=True))
    return "'filename','embedding'\n" + text([f"'{name}'", row] for name, row in lists)


@pytest.mark.parametrize("write", [separated_by_padded_semicolons, quoted_as_sql])
def test_names_are_read_without_what_stands_round_the_cells(tmp_path, faces, write):
    names, features = faces[0][:COUNT], faces[1][:COUNT]
    check(tmp_path / "table.csv", write(names, features), names, features)


@pytest.mark.parametrize("titles", [None, ["a.jpg", "b.jpg", "c.jpg"]])
def test_a_transposed_table_is_called_that(tmp_path, faces, titles):
    path = tmp_path / "table.csv"
    header = titles is not None
    pandas.DataFrame(faces[1][:3].T, columns=titles).to_csv(path, header=header, index=header)
    assert "the table looks transposed; write one row per face" in refusal(path)
    np.save(tmp_path / "table.npy", faces[1][:3].T)
    assert "512 rows of 3 numbers; the table looks transposed" in refusal(tmp_path / "table.npy")


@pytest.mark.parametrize("begin", ["list(`a.jpg` = c(", "structure(c(", "c("])
def test_what_dput_of_r_writes_is_called_that(tmp_path, begin):
    path = tmp_path / "table.txt"
    path.write_text(begin + "0.1, 0.2, \n0.3, " * 300 + "0.4))\n")
    assert "R's dput, not a table" in refusal(path)


def test_bytes_written_as_numbers_are_called_that(tmp_path, faces):
    path = tmp_path / "table.csv"
    text_of_bytes = str(list(faces[1][0].astype("<f4").tobytes()))
    path.write_text(f'filename,embedding\na.jpg,"{text_of_bytes}"\n')
    assert "2,048 whole numbers from 0 to 255, the bytes of an embedding" in refusal(path)
