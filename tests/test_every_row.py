"""prepare.py: of whatever table, every row is written, counted or named."""

import contextlib
import io
import re
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from test_prepare import WIDTH, prepared, vectors, write

from age_gender import paths
from age_gender.cli import InputError

GOOD = {"m": 0, "f": 1, "Female": 1, "man": 0, None: -1, "unknown": -1}
ROW = st.tuples(
    st.sampled_from([*"abcdefgh", None]),  # a name that others may have
    st.sampled_from([*range(5, 60), 40.4, "33", None, -1, 117]),
    st.sampled_from([*GOOD]),
)


FAULTS = [None, None, None, "names", "zeros", "range", "other"]


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=4, max_size=14), st.sampled_from(FAULTS))
def test_every_row_is_written_counted_or_named(rows, fault):
    names = [(name and (name if fault == "names" else f"{name} {rest}")) or f"only {i}"
             for i, (name, *rest) in enumerate(rows)]  # fmt: skip
    ages, genders = [row[1] for row in rows], [row[2] for row in rows]
    embeddings = vectors(len(rows))
    if fault == "zeros":
        embeddings[-1] = [0] * WIDTH
    ages[-1] = "20-29" if fault == "range" else ages[-1]
    genders[-1] = "other" if fault == "other" else genders[-1]
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "t.jsonl"), name=names, age=ages, gender=genders, e=embeddings)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                parts = prepared(path, Path(folder), test_size=1)
        except InputError as error:
            said = str(error)
            assert fault in (None, "names") or re.search(r"row \d+|other \(1 row\)", said)
            assert re.search(r"row \d+|--gender-codes|--test-size|no face of|class", said)
            return
    assert fault in (None, "names")
    written = [int(row) for part in parts.values() for row in part.features[:, 0]]
    listed = [int(row) for row in re.findall(r"row (\d+): no ", err.getvalue())]
    assert len({*written, *listed}) == len(written) + len(listed)
    missing = {*range(1, len(rows) + 1)} - {*written} - {*listed}
    tested = {name for part in ("test", "children_test") if part in parts
              for name in parts[part].file_name}  # fmt: skip
    assert all(names[row - 1] in tested for row in missing)  # other views of tested faces
    counts = dict(re.findall(r"(read|[a-z ]+?):? (\d+)(?:,|\n)", out.getvalue()))
    counts = {name.strip(): int(count) for name, count in counts.items()}
    assert counts["read"] == len(rows)
    assert counts["without labels"] == len(listed) and counts["repeated"] == len(missing)
    assert counts["train"] + counts["test"] + counts["children"] == len(written)
    assert counts["men"] + counts["women"] == len(rows) - len(listed)
    for part in parts.values():
        for row, gender in zip(part.features[:, 0].astype(int), part.gender, strict=True):
            assert GOOD[genders[row - 1]] == gender
    assert paths.TRAIN_RECORDS.stem in parts
