"""Of whatever table, every row is in the output, in a printed count or in the list of bad rows."""

import contextlib
import csv
import io
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prepare import prepared, vectors, write

import run
from age_gender import paths
from age_gender.errors import InputError

GENDERS = {"m": 0, "f": 1, "Female": 1, "man": 0, None: -1, "unknown": -1}
AGES = [*range(5, 60), 40.4, "33", None, -1, 117]
BAD_VECTORS = {
    "zeros": lambda vector: [0] * len(vector),
    "missing": lambda vector: None,
    "short": lambda vector: vector[:-1],
    "text": lambda vector: ["x", *vector[1:]],
    "infinite": lambda vector: [1e39, *vector[1:]],
}


@st.composite
def labelled_rows(draw) -> list[tuple]:
    """Draw names (perhaps none), ages, genders and faults of vectors, with faults of one kind."""
    fault = draw(st.sampled_from([None, None, "names", "ages", "genders", "vectors"]))
    row = st.tuples(
        st.sampled_from([*"abcdefgh", None]),
        st.sampled_from(AGES + ["20-29"] * 9 * (fault == "ages")),
        st.sampled_from([*GENDERS] + ["other"] * (fault == "genders")),
        st.sampled_from([""] * 15 + [*BAD_VECTORS] * (fault == "vectors")),
    )
    rows = draw(st.lists(row, min_size=4, max_size=14))
    if fault != "names":  # rows of one name have the same labels
        rows = [(name and f"{name} {age} {gender}", age, gender, bad)
                for name, age, gender, bad in rows]  # fmt: skip
    return rows


def expected_refusal(rows: list[tuple]) -> str | None:
    """A regular expression of the message that such a table ends with; None for any other."""
    for column, is_fault in ((3, bool), (1, lambda age: age == "20-29")):
        bad = [i for i, row in enumerate(rows, 1) if is_fault(row[column])]
        if bad:
            return rf"t\.jsonl: row {bad[0]}\b"
    if others := [row[2] for row in rows].count("other"):
        return rf"other \({others} rows?\)"
    return None


@settings(max_examples=60, deadline=None)
@given(labelled_rows())
def test_prepare_writes_counts_or_names_every_row(rows):
    # What it does
    names, ages, genders, faults = zip(*rows, strict=True)
    embeddings = [
        BAD_VECTORS[fault](vector) if fault else vector
        for vector, fault in zip(vectors(len(rows)), faults, strict=True)
    ]
    out, err, refusal = io.StringIO(), io.StringIO(), expected_refusal(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "t.jsonl"), name=names, age=ages, gender=genders, e=embeddings)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                parts = prepared(path, Path(folder), test_size=1)
        except InputError as error:
            other = r"but different labels|--gender-codes|--test-size|no face of|class|most ages in"
            assert re.search(refusal or other, str(error))
            return
    assert refusal is None

    # Each row is written, listed as one without labels, or a further view of a tested face
    written = [int(row) for part in parts.values() for row in part.features[:, 0]]
    listed = [int(row) for row in re.findall(r"row (\d+) \(line \d+\): no ", err.getvalue())]
    assert len({*written, *listed}) == len(written) + len(listed)
    missing = {*range(1, len(rows) + 1)} - {*written} - {*listed}
    tested = {name for part in ("test", "children_test") if part in parts
              for name in parts[part].file_names}  # fmt: skip
    assert all(names[row - 1] in tested for row in missing)

    # The counts say so, and the labels are those of the table
    counts = dict(re.findall(r"(read|[a-z ]+?):? (\d+)(?:,|\n)", out.getvalue()))
    counts = {name.strip(): int(count) for name, count in counts.items()}
    assert counts["read"] == len(rows)
    assert counts["without labels"] == len(listed) and counts["repeated"] == len(missing)
    assert counts["train"] + counts["test"] + counts["children"] == len(written)
    assert counts["men"] + counts["women"] == len(rows) - len(listed)
    for part in parts.values():
        columns = part.features[:, 0].astype(int), part.age, part.gender
        for row, age, gender in zip(*columns, strict=True):
            assert (GENDERS[genders[row - 1]], int(float(ages[row - 1]))) == (gender, age)
    assert paths.TRAIN_RECORDS.stem in parts


@pytest.fixture(scope="module")
def embeddings_of(faces):
    """Return a function (hypothesis prints arguments) that gives embeddings of so many faces."""
    return lambda count: faces[1][:count].tolist()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a.jpg", "b.jpg", 7, None, ""]),
            st.sampled_from(["", "", "", "other network", *BAD_VECTORS]),
        ),
        min_size=1,
        max_size=14,
    )
)
def test_run_scores_or_lists_every_row(embeddings_of, rows):
    bad = {**BAD_VECTORS, "other network": lambda vector: vector[::-1], "": list}
    vectors_of_faces = embeddings_of(len(rows))
    embeddings = [
        bad[fault](vector) for (_, fault), vector in zip(rows, vectors_of_faces, strict=True)
    ]
    faulty = [i for i, (_, fault) in enumerate(rows, 1) if fault]
    unnamed = "t.jsonl" if len(rows) == 1 else ""  # the only row has the name of its file
    names = [str(name or unnamed or i) for i, (name, fault) in enumerate(rows, 1) if not fault]
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "t.jsonl"), name=[name for name, _ in rows], e=embeddings)
        arguments = ["--features", str(path), "--output", str(Path(folder, "out.csv"))]
        with contextlib.redirect_stderr(said):
            if faulty:
                with pytest.raises(InputError, match=rf"row {faulty[0]}\b|no model|only one"):
                    run.main(arguments)
            ending = contextlib.nullcontext() if names else pytest.raises(InputError)
            with ending:
                run.main([*arguments, "--skip-bad-rows"])
        listed = Path(folder, "out.errors.csv").read_text().splitlines()[1:]
        assert [int(row[1]) for row in csv.reader(listed)] == faulty
        if names:
            scored = Path(folder, "out.csv").read_text().splitlines()[1:]
            assert [row[0] for row in csv.reader(scored)] == names
            counted = f", scored {len(names)}\n"
            assert (counted in said.getvalue()) == bool(faulty)
