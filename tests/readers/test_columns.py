"""Which column is what, how wide, and which labels."""

import csv
import os

import numpy as np
import pytest

import prepare
from age_gender.errors import InputError
from age_gender.readers import chunks, label_parsing, labelled_tables, tables
from age_gender.readers.columns import DEFAULT_OPTIONS, ReadOptions
from age_gender.training import records

pandas = pytest.importorskip("pandas")


def chosen(tmp_path, header: list[str], row: list[str], options: ReadOptions = DEFAULT_OPTIONS):
    path = tmp_path / "t.csv"
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, row])
    return [*tables.read_chunks([str(path)], options)][-1].columns


def test_the_name_is_the_first_of_the_names_that_tools_give(tmp_path):
    numbers = [f"{i}.5" for i in range(20)]
    run20 = [f"v_{i}" for i in range(20)]
    for header, name in [
        (["id", "Name", *run20, "PATH"], 22), (["identity", "id", *run20, "x"], 0),
        (["x", "y", *run20, "z"], None), (["", *run20, "image"], 21), (["what", *run20], 0),
    ]:  # fmt: skip
        row = ["t"] * (len(header) - 20)
        place = header.index("v_0")
        columns = chosen(tmp_path, header, row[:place] + numbers + row[place:])
        assert columns.metadata_columns.get("name") == name and columns.width == 20
        assert columns.embedding == tuple(range(place, place + 20))


def test_where_two_answers_fit_the_error_names_both_and_the_option(tmp_path):
    listed = "[" + ",".join(["0.5"] * 32) + "]"
    with pytest.raises(InputError, match=r"a and b both hold embeddings.*--embedding-column a"):
        chosen(tmp_path, ["id", "a", "b"], ["x", listed, listed])
    assert chosen(
        tmp_path, ["a", "b"], [listed] * 2, ReadOptions(embedding_column="b")
    ).embedding == (1,)
    with pytest.raises(InputError, match=r"Path and path both hold names.*--name-column Path"):
        chosen(tmp_path, ["Path", "path", "e"], ["x", "y", listed])
    columns = chosen(
        tmp_path, ["Path", "path", "e"], ["x", "y", listed], ReadOptions(name_column="path")
    )
    assert columns.metadata_columns["name"] == 1
    two = [f"{w}{i}" for w in "ef" for i in range(16)]
    with pytest.raises(InputError, match=r"e0 and f0 both hold embeddings.*--embedding-column e0"):
        chosen(tmp_path, two, ["0.5"] * 32)
    for named in ("f", "f0"):
        columns = chosen(tmp_path, two, ["0.5"] * 32, ReadOptions(embedding_column=named))
        assert columns.embedding == tuple(range(16, 32))
    # A list that is no embedding, such as a box, does not fit.
    assert chosen(tmp_path, ["box", "e"], ["[1,2,3,4]", listed]).embedding == (1,)


# ------------------------------------------------------------------------ widths and labels


@pytest.mark.parametrize("width", [16, 128, 192])
@pytest.mark.parametrize("suffix", ["csv", "npz", "jsonl"])
def test_prepare_takes_any_width_and_labels_from_columns(tmp_path, width, suffix, capsys):
    random = np.random.default_rng(0)
    table = random.normal(size=(40, width)).astype(np.float32)
    ages = [*range(20, 58), 7, 130]
    genders = ["male", "F", "m", "woman", "M", "f", "Man", "female"] * 5
    columns = {"name": [f"p{i}" for i in range(40)], "Age": ages, "gender": genders}
    path = tmp_path / f"t.{suffix}"
    if suffix == "npz":
        columns["age"] = columns.pop("Age")
        np.savez(path, v=table, **columns)
    else:
        frame = pandas.DataFrame({**columns, "v": table.tolist()})
        frame.to_csv(path) if suffix == "csv" else frame.to_json(path, orient="records", lines=True)
    prepare.main(["--features", str(path), "--output", str(tmp_path), "--test-size", "9"])
    said = capsys.readouterr()
    assert "children: 1, without labels: 1, repeated: 0\n" in said.out
    line = {"csv": " (line 41)", "jsonl": " (line 40)", "npz": ""}[suffix]
    assert f"row 40{line}: no age: p39\n" in said.err
    kept = {}
    for part in ("train", "test"):
        read = records.read(tmp_path / f"{part}.tfrecords")
        assert read.features.shape[1] == width
        kept |= dict(
            zip(
                read.file_names,
                zip(read.age.tolist(), read.gender.tolist(), strict=True),
                strict=False,
            )
        )
    assert kept == {f"p{i}": (20 + i, [0, 1, 0, 1, 0, 1, 0, 1][i % 8]) for i in range(38)}


def test_a_table_of_another_width_than_the_first_is_refused_with_both(tmp_path, faces):
    features = faces[1][:300]
    np.save(tmp_path / "a.npy", features)
    np.save(tmp_path / "b.npy", features[:, :128])
    text = "\n".join(",".join(map(str, row)) for row in features[:, :64].tolist())
    (tmp_path / "c.csv").write_text(text)
    for other, word in [("b.npy", "128 numbers, not 512"), ("c.csv", "64 numbers, not 512")]:
        with pytest.raises(InputError, match=f"{other}: .*{word} as in .*a.npy"):
            tables.read([tmp_path / "a.npy", tmp_path / other])


def test_names_have_the_labels_that_no_column_has(tmp_path, faces):
    names = ["30_1_0_a.jpg", "31_0_0_b.jpg", "32_1_0_c.jpg", "nobody.jpg"]
    columns = {"path": names, "embedding": list(faces[1][:4]), "age": [40.4, None, "55", 60]}
    table = pandas.DataFrame(columns)
    table.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    table = labelled_tables.read_table([tmp_path / "t.jsonl"], ReadOptions(reads_labels=True))
    assert label_parsing.read_ages(table.ages, 10).tolist() == [40, -1, 55, 60]
    assert label_parsing.read_genders(table.genders, {}).tolist() == [1, 0, 1, -1]


@pytest.mark.parametrize(
    "width, named", [(512, True), (128, True), (100, True), (100, False), (192, False)]
)
def test_without_a_header_the_first_row_tells_the_width(tmp_path, width, named):
    rows = [",".join(["7"] * named + ["0.25"] * width)] * 3
    (tmp_path / "t.csv").write_text("\n".join(rows))
    names, features = tables.read([tmp_path / "t.csv"])
    assert features.shape == (3, width) and names == (["7"] * 3 if named else ["1", "2", "3"])


def test_numbers_of_text_are_those_of_python_to_the_last_bit(tmp_path):
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**63, (400, 64)).view(np.float64)
    table = np.where(np.isfinite(bits) & (np.abs(bits) < 3e38), bits, -0.0)
    table[:, 0], table[:, 1] = 1.0, -0.0
    text = [[repr(x) if x else "-0" for x in row] for row in table.tolist()]
    expected = np.array([[*map(float, row)] for row in text])
    with np.errstate(all="ignore"):
        expected = expected.astype(np.float32)
    (tmp_path / "t.csv").write_text("\n".join(map(",".join, text)))
    lists = ['{"e":[' + ",".join(row) + "]}" for row in text]
    (tmp_path / "t.jsonl").write_text("\n".join(lists))
    for name in ("t.csv", "t.jsonl"):
        assert (tmp_path / name).stat().st_size > 4 * chunks.SMALL_BYTES
        _, features = tables.read([tmp_path / name])
        np.testing.assert_array_equal(features.view(np.uint32), expected.view(np.uint32))


def test_a_header_of_names_that_python_takes_for_numbers_is_a_header(tmp_path, rows):
    path = tmp_path / "my.csv"
    path.write_text(
        "\n".join([",".join(["name", *(f"{i // 32}_{i % 32}" for i in range(512))]), *rows])
    )
    assert tables.read([path], ReadOptions(width=512))[0] == [row.partition(",")[0] for row in rows]


def test_one_row_in_a_file_of_any_name_is_called_by_it(tmp_path, rows):
    path = os.path.join(os.fsencode(tmp_path), b"one\xff.csv")
    with open(path, "w") as stream:
        stream.write(rows[0].partition(",")[2] + "\n")
    names, _ = tables.read([os.fsdecode(path)])
    assert names == ["one\\xff"]


def test_the_index_of_a_filtered_pandas_table_is_no_embedding(tmp_path, faces):
    table = pandas.DataFrame(faces[1][:9], columns=[f"e{i}" for i in range(512)])
    table.insert(0, "filename", faces[0][:9])
    table.iloc[[0, 1, 4]].to_parquet(tmp_path / "t.parquet")
    names, features = tables.read([tmp_path / "t.parquet"])
    assert names == [faces[0][i] for i in (0, 1, 4)]
    np.testing.assert_array_equal(features, faces[1][[0, 1, 4]])
