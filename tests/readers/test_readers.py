"""Properties of the readers: every accepted layout reads the same, and nothing else gets through.

The width is 4 instead of 512 here, so that hypothesis reaches every cell.
"""

import contextlib
import json
import sqlite3
from functools import partial

import fuzz_readers
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from age_gender import table_writing
from age_gender.errors import InputError
from age_gender.readers import chunks, numpy_files, tables
from age_gender.readers.columns import ReadOptions
from age_gender.readers.text_chunks import BOM
from age_gender.table_writing import quote_csv

WIDTH = 4
read_csv = partial(fuzz_readers.read_text, width=WIDTH)
settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")


OPTIONS = ReadOptions(width=WIDTH)


def random_tables(dtype="float32", least=1):
    """Finite numbers (n, 4), no row all zeros."""
    size = np.dtype(dtype).itemsize * 8
    numbers = st.floats(width=size, allow_nan=False, allow_infinity=False)
    if size == 64:
        numbers = st.floats(-3e38, 3e38)
    shape = st.tuples(st.integers(least, 12), st.just(WIDTH))
    return st_numpy.arrays(dtype, shape, elements=numbers).filter(
        lambda table: (np.abs(table.astype("float64")).max(axis=1) >= 1e-37).all()
    )


def names(count: int):
    letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    awkward = st.sampled_from(
        ['a,b', '"', '""', 'a"b', '",', "\n", "\r", "\r\n", "a\r\nb,c", " a ", "1", "0.5", "NA",
         "True", "é", "\ufeffx", "x" * 300, "'", "e 5", "+1", "\t"]
    )  # fmt: skip
    texts = st.text(letters, min_size=1, max_size=8)
    return st.lists(awkward | texts, min_size=count, max_size=count)


def as_csv(data, table, row_names) -> bytes:
    """The table in one of the layouts that are read, drawn by hypothesis."""
    number = data.draw(st.sampled_from([str, "%.9g".__mod__, "%.17g".__mod__, "%.20e".__mod__]))
    line_end = data.draw(st.sampled_from(["\n", "\r\n"]))
    quoting = data.draw(st.sampled_from(["minimal", "names", "all"]))
    lines = []

    def cell_text(place: int, cell: str) -> str:
        by_choice = quoting == "all" or (quoting == "names" and place == 0 and bool(row_names))
        if by_choice or any(c in '",\r\n\ufeff' for c in cell):
            return '"' + cell.replace('"', '""') + '"'
        return cell

    def write(cells: list[str]) -> None:
        lines.append(",".join(map(cell_text, range(len(cells)), cells)) + line_end)

    first = [["filename"], [""], ["é\n"]] if row_names else [[]]
    headers = [None, *([*cell, *map("e{}".format, range(WIDTH))] for cell in first)]
    headers += [[*first[0], *map(str, range(start, start + WIDTH))] for start in (0, 1)]
    header = data.draw(st.sampled_from(headers))
    cells = [list(map(number, row)) for row in table]
    if header:
        write(header)
    else:  # the numbers that pandas writes as column names are a header, by definition
        assume(not any(cells[0] == [str(i + k) for i in range(WIDTH)] for k in (0, 1)))
    for i, row in enumerate(cells):
        write([row_names[i], *row] if row_names else row)
    text = "".join(lines).removesuffix(data.draw(st.sampled_from(["", line_end])))
    start = data.draw(st.sampled_from([b"", BOM]))
    return start + text.encode()


@given(st.data(), random_tables(), st.booleans(), st.integers(5, 300))
@settings(max_examples=300)
def test_a_csv_in_any_layout_reads_the_same_in_one_piece_in_many_and_fast(
    data, table, named, chunk
):
    row_names = data.draw(names(len(table))) if named else None
    text = as_csv(data, table, row_names)
    one = ["fuzz"] if len(table) == 1 else ["1"]
    for how in ({"chunk": 1 << 20}, {"chunk": 1 << 20, "fast": True},
                {"chunk": chunk}, {"chunk": chunk, "fast": True}):  # fmt: skip
        names_read, features, bad = read_csv(text, **how)
        assert not bad
        np.testing.assert_array_equal(features, table)
        assert names_read == (row_names or one + [str(i + 2) for i in range(len(table) - 1)])


@given(st.data(), st.sampled_from(["<f2", "<f4", "<f8", ">f4"]))
def test_an_npz_reads_the_same_whatever_its_type_order_and_compression(
    tmp_path_factory, data, dtype
):
    table = data.draw(random_tables(dtype))
    row_names = [name.rstrip("\0") for name in data.draw(names(len(table)))]
    path = str(tmp_path_factory.getbasetemp() / "t.npz")
    save = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    table = np.asarray(table, order=data.draw(st.sampled_from("CF")))
    save(path, filenames=np.array(row_names), embeddings=table, other=np.zeros(3))
    names_read, features = tables.read([path], OPTIONS)
    assert names_read == row_names
    np.testing.assert_array_equal(features, table.astype(np.float32))


@given(table=random_tables(), order=st.sampled_from("CF"), band=st.integers(1, 200))
def test_an_npy_reads_the_same_in_either_order_and_in_bands(tmp_path_factory, table, order, band):
    path = str(tmp_path_factory.getbasetemp() / "t.npy")
    np.save(path, np.asarray(table, order=order))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_files, "FORTRAN_BYTES", band)
        patch.setattr(chunks, "CHUNK_ROWS", 1 + band % 4)
        _, features = tables.read([path], OPTIONS)
    np.testing.assert_array_equal(features, table)


@given(st.data(), random_tables(), st.sampled_from(["jsonl", "json", "csv", "text.db", "blob.db"]),
       st.integers(5, 300), st.booleans())  # fmt: skip
@settings(max_examples=200)
def test_lists_read_the_same_from_json_csv_and_databases(
    tmp_path_factory, data, table, suffix, chunk, fast
):
    row_names, folder = data.draw(names(len(table))), tmp_path_factory.mktemp("lists")
    number = data.draw(st.sampled_from([repr, "%.9g".__mod__, "%.20e".__mod__]))
    space = data.draw(st.sampled_from([",", ", ", " ,\t"]))
    lists = [f"[{space.join(map(number, row))}]" for row in table.tolist()]
    as_json = data.draw(st.sampled_from([json.dumps, partial(json.dumps, ensure_ascii=False)]))
    path = folder / f"t.{suffix}"
    if suffix.endswith("db"):
        values = lists if suffix == "text.db" else [row.tobytes() for row in table]
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("create table faces (path text, other real, embedding blob)")
            database.executemany(
                "insert into faces values (?, 0.5, ?)", zip(row_names, values, strict=True)
            )
    else:
        lines = ["filename,other,embedding"] if suffix == "csv" else []
        for name, text in zip(row_names, lists, strict=True):
            row = f'{quote_csv(name)},x,"{text}"'
            line = f'{{"filename": {as_json(name)}, "other": [1], "embedding": {text}}}'
            lines.append(row if suffix == "csv" else line)
        text = f"[{', '.join(lines)}]" if suffix == "json" else "\n".join(lines)
        path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", chunk)
        patch.setattr(chunks, "SMALL_BYTES", 0 if fast else 1 << 30)
        names_read, features = tables.read([path], OPTIONS)
    assert names_read == row_names
    np.testing.assert_array_equal(features, table)


@given(st.data(), random_tables(), st.booleans(), st.booleans())
def test_a_parquet_reads_the_same_as_columns_and_as_lists(
    tmp_path_factory, data, table, as_list, named
):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row_names = data.draw(names(len(table)))
    columns = {"filename": row_names} if named else {}
    if as_list:
        columns["embedding"] = pa.array(table.tolist(), pa.list_(pa.float32(), WIDTH))
    else:
        columns |= {f"c{i}": table[:, i] for i in range(WIDTH)}
    path = str(tmp_path_factory.getbasetemp() / "t.parquet")
    parquet.write_table(pa.table(columns), path)
    names_read, features = tables.read([path], OPTIONS)
    np.testing.assert_array_equal(features, table)
    if named:
        assert names_read == row_names


@given(st.data(), random_tables(least=3), st.integers(5, 300))
@settings(max_examples=200)
def test_a_changed_byte_in_one_row_leaves_every_other_row_as_it_is(data, table, chunk):
    lines = [f"face {i}," + ",".join(map(str, row)) for i, row in enumerate(table)]
    which = data.draw(st.integers(1, len(lines) - 1))
    line = bytearray(lines[which].encode())
    where = data.draw(st.integers(0, len(line) - 1))
    line[where] = data.draw(st.integers(0, 255).filter(lambda byte: byte not in b"\r\n"))
    text = "\n".join(lines[:which]).encode() + b"\n" + bytes(line) + b"\n"
    text += "".join(line + "\n" for line in lines[which + 1 :]).encode()
    others = [i for i in range(len(lines)) if i != which]
    for how in ({"chunk": 1 << 20}, {"chunk": 1 << 20, "fast": True}, {"chunk": chunk}):
        names_read, features, bad = read_csv(text, **how)
        assert [row.row for row in bad] in ([], [which + 1])
        places = [i for i in range(len(lines)) if [i + 1] != [row.row for row in bad]]
        kept = [places.index(i) for i in others]
        assert [names_read[i] for i in kept] == [f"face {i}" for i in others]
        np.testing.assert_array_equal(features[kept], table[others])


@given(st.data(), random_tables(), st.booleans(), st.sampled_from(["npz", "npy", "parquet"]))
@settings(max_examples=300)
def test_a_changed_binary_file_is_refused_or_read_with_the_same_values(
    tmp_path_factory, data, table, cut, suffix
):
    """For NPZ, which carries checksums; the others must only never end in another error."""
    path = tmp_path_factory.getbasetemp() / f"t.{suffix}"
    row_names = [f"face {i}" for i in range(len(table))]
    if suffix == "npy":
        np.save(path, table)
    else:
        table_writing.write(path, row_names, [table])
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if cut:
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        names_read, features = tables.read([path], OPTIONS)
    except InputError as error:
        assert str(path) in str(error)
        return
    if suffix == "npz":
        assert names_read == row_names
        np.testing.assert_array_equal(features, table)


@pytest.mark.parametrize("target", fuzz_readers.TARGETS.values())
def test_the_fuzz_target_holds_on_its_seeds_and_on_random_changes_of_them(target):
    generator = np.random.default_rng(0)
    for seed in fuzz_readers.seeds(target):
        target(seed)
        for _ in range(10):
            changed = np.frombuffer(seed, np.uint8).copy()
            changed[generator.integers(len(changed), size=2)] = generator.integers(256, size=2)
            target(changed.tobytes())


# ------------------------------------------------------------------------ single cases


@pytest.mark.parametrize("cell", ["1e", "+1e 5", "1 2", "0x1p3", "1_0", "١", "True", "\v1", "1d5"])
def test_the_fast_parser_reads_no_number_that_the_careful_parser_refuses(cell):
    text = f"a,1,2,3,{cell}\n".encode() * 9
    for fast in (False, True):
        names_read, _, bad = read_csv(text, chunk=1 << 20, fast=fast)
        assert names_read == [] and len(bad) == 9


def test_a_quote_that_is_not_closed_costs_its_own_row_only():
    text = b'"a",9,2,3,4\n"b,9,2,3,4\n"c",5,6,7,8\n"d",1,2,3,4\n'
    for how in ({"chunk": 1 << 20}, {"chunk": 1 << 20, "fast": True}, {"chunk": 16}):
        names_read, _, bad = read_csv(text, **how)
        assert names_read == ["a", "c", "d"]
        assert [(row.row, row.line) for row in bad] == [(2, 2)]


def test_a_row_that_is_too_long_costs_that_row_only():
    row = b"name %d,9,2,3,4\n"
    for long in (b"x" * 500, b'"' + b"y\n" * 3 + b"x" * 500, b"1," * 300):
        text = row % 1 + row % 2 + long + b"\n" + row % 3 + row % 4
        for chunk in (16, 90, 1000, 1 << 20):
            names_read, _, bad = read_csv(text, chunk=chunk, record=100)
            assert names_read == ["name 1", "name 2", "name 3", "name 4"], chunk
            assert bad[0][1:3] == (3, 3)


def test_lines_and_rows_are_counted_over_headers_blank_lines_and_line_breaks_in_names():
    text = b'name,a,b,c,d\n\n"x\ny",1,2,3,4\n\nz,1,2,3\n\n"p\r\nq",1,2,nan,4\nr,1,2,3,4\n'
    for how in ({"chunk": 1 << 20}, {"chunk": 1 << 20, "fast": True}, {"chunk": 8}):
        names_read, _, bad = read_csv(text, **how)
        assert names_read == ["x\ny", "r"]
        assert [(row.row, row.line) for row in bad] == [(2, 6), (3, 8)]


def test_half_written_files_in_a_folder_are_not_read(tmp_path):
    table_writing.write(tmp_path / "a.csv", ["a"], [np.ones((1, WIDTH))])
    (tmp_path / ".b.csv.0123.part.csv").write_text("half")
    assert tables.list_files([tmp_path]) == [str(tmp_path / "a.csv")]
