"""Parquet: what its pages claim is looked at first; vectors and names of any type of Arrow's."""

import datetime
import decimal
import uuid
from pathlib import Path

import fuzz_containers
import numpy as np
import pytest
from conftest import refusal

from age_gender.errors import InputError
from age_gender.readers import parquet_pages, tables
from age_gender.readers.columns import ReadOptions

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def features(faces) -> np.ndarray:
    return faces[1][:40]


def write(target: Path, how: dict | None = None, /, **columns) -> Path:
    parquet.write_table(pa.table(columns), target, **how or {})
    return target


def lists(features) -> "pa.Array":
    return pa.array(features.tolist(), pa.list_(pa.float32()))


def batches(path: Path, **options) -> list:
    return [*map(tables.parse, tables.read_chunks([str(path)], ReadOptions(width=512, **options)))]


def names_of(path: Path, **options) -> list:
    return [name for batch in batches(path, **options) for name in batch.metadata.get("name", [])]


# --------------------------------------------------------------------------------- forms

FORMS = {
    "list": lists,
    "large_list": lambda f: pa.array(f.tolist(), pa.large_list(pa.float32())),
    "fixed_size_list": lambda f: pa.array(f.tolist(), pa.list_(pa.float32(), 512)),
    "list_view": lambda f: pa.array(f.tolist(), pa.list_view(pa.float32())),
    "large_list_view": lambda f: pa.array(f.tolist(), pa.large_list_view(pa.float32())),
    "list of doubles": lambda f: pa.array(f.tolist(), pa.list_(pa.float64())),
    "one list in a list": lambda f: pa.array([[row] for row in f.tolist()]),
    "binary": lambda f: pa.array([row.tobytes() for row in f]),
    "large_binary": lambda f: pa.array([row.tobytes() for row in f], pa.large_binary()),
    "fixed_size_binary": lambda f: pa.array([row.tobytes() for row in f], pa.binary(2048)),
    "binary of doubles": lambda f: pa.array([row.astype(float).tobytes() for row in f]),
    "string": lambda f: pa.array([str(row) for row in f.tolist()]),
    "struct": lambda f: pa.array([{str(i): v for i, v in enumerate(r)} for r in f.tolist()]),
    "struct e0 ...": lambda f: pa.array(
        [{f"e{i}": v for i, v in enumerate(r)} for r in f.tolist()]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_vectors_of_any_type_read_as_lists_of_numbers(tmp_path, faces, features, form):
    path = write(tmp_path / "t.parquet", path=faces[0][:40], embedding=FORMS[form](features))
    names, rows = tables.read([path], ReadOptions(width=512))
    assert names == faces[0][:40] and np.array_equal(rows, features)


@pytest.mark.parametrize("form", ["halffloat", "decimal"])
def test_numbers_of_less_precision_read_as_they_are(tmp_path, features, form):
    if form == "halffloat":
        expected = features.astype(np.float16).astype(np.float32)
        cells = pa.array([*features.astype(np.float16)], pa.list_(pa.float16()))
    else:
        rows = [[decimal.Decimal(f"{v:.3f}") for v in row] for row in features.tolist()]
        expected = np.float32([[float(v) for v in row] for row in rows])
        cells = pa.array(rows)
    path = write(tmp_path / "t.parquet", embedding=cells)
    assert np.array_equal(tables.read([path], ReadOptions(width=512))[1], expected)


def test_a_struct_that_is_missing_is_a_bad_row(tmp_path, features):
    rows = [{str(i): v for i, v in enumerate(row)} for row in features[:3].tolist()]
    rows[1] = None
    path = write(tmp_path / "t.parquet", embedding=pa.array(rows))
    assert [bad.row for batch in batches(path) for bad in batch.bad_rows] == [2]


# --------------------------------------------------------------------------------- names


def test_a_column_of_images_is_no_name(tmp_path, faces, features):
    jpeg = [b"\xff\xd8\xff\xe0" + bytes([i]) * 300 for i in range(40)]
    names, embedding = faces[0][:40], lists(features)
    path = write(tmp_path / "t.parquet", image=jpeg, name=names, embedding=embedding)
    assert names_of(path) == names
    image = pa.array([{"bytes": b, "path": n} for b, n in zip(jpeg, names, strict=True)])
    path = write(tmp_path / "t.parquet", image=image, embedding=embedding)  # Hugging Face
    assert names_of(path) == names


def test_names_that_are_no_texts_are_written_as_people_would(tmp_path, features):
    random = np.random.default_rng(0)
    ids = [uuid.UUID(bytes=random.bytes(16)) for _ in range(40)]
    for values, expected in [
        (pa.array([i.bytes for i in ids], pa.uuid()), [*map(str, ids)]),
        (pa.array([i.bytes for i in ids], pa.binary(16)), [*map(str, ids)]),
        (pa.array([f"{i}.jpg".encode() for i in range(40)]), [f"{i}.jpg" for i in range(40)]),
        (pa.array(range(40)), [*map(str, range(40))]),
        (pa.array(map(float, range(40))), [*map(str, range(40))]),
        (pa.array([decimal.Decimal(i) for i in range(40)]), [*map(str, range(40))]),
        (pa.array([f"{i}" for i in range(40)]).dictionary_encode(), [*map(str, range(40))]),
        (pa.array([None, *"b" * 39]), [None, *"b" * 39]),
    ]:
        path = write(tmp_path / "t.parquet", id=values, embedding=lists(features))
        assert names_of(path) == expected, values.type


def test_a_column_without_any_number_among_those_of_an_embedding_makes_bad_rows(tmp_path, features):
    columns = {f"e{i}": features[:, i] for i in range(512)}
    path = write(tmp_path / "t.parquet", **columns | {"e9": pa.nulls(len(features))})
    assert "row 1: number 10 is nan" in refusal(path)


@pytest.mark.parametrize("value", ["0.1", True, b"x", datetime.date(2020, 1, 1)])
def test_a_column_of_another_type_among_those_of_an_embedding_is_named(tmp_path, features, value):
    columns = {f"e{i}": features[:, i] for i in range(512)}
    path = write(tmp_path / "t.parquet", **columns | {"e9": pa.array([value] * len(features))})
    assert "the column e9 of the embedding has the type " in refusal(path)


# ------------------------------------------------------------------------------- claims


def test_a_list_of_any_length_is_refused_before_it_is_decoded(tmp_path, features):
    """A million zeros take a few bytes."""
    count = 10_000_000
    ends = np.int32([*range(0, 41 * 512, 512), 40 * 512 + count])
    values = np.concatenate([features.ravel(), np.zeros(count, np.float32)])
    column = pa.ListArray.from_arrays(pa.array(ends), pa.array(values))
    path = write(tmp_path / "t.parquet", embedding=column)
    assert path.stat().st_size < 100_000
    assert "the column embedding: 10,020,480 numbers in " in refusal(path)


def test_a_long_name_that_many_rows_share_costs_no_memory(tmp_path, features):
    """In the file it stands once, in a dictionary."""
    rows = lists(np.tile(features, (50, 1)))
    names = pa.DictionaryArray.from_arrays(
        pa.array(np.int32([0] + 1999 * [1])), pa.array(["short", "x" * 1_500_000])
    )
    path = write(tmp_path / "t.parquet", {"compression": "zstd"}, path=names, embedding=rows)
    assert path.stat().st_size < 3_000_000
    parts = batches(path)
    assert (
        len(parts) > 40 and sum(batch.row_count for batch in parts) == 2000
    )  # a few rows at a time
    reasons = {bad.reason for batch in parts for bad in batch.bad_rows}
    assert reasons == {"the name is over 1,048,576 bytes, not text"}
    assert names_of(path) == ["short"]


def page(header: str, data: bytes = b"") -> bytes:
    """A file of one page whose header is in Thrift's compact protocol."""
    return b"PAR1" + bytes.fromhex(header) + data


def test_the_claimed_size_of_a_value_takes_no_memory(tmp_path, features):
    values = pa.array([row.tobytes() for row in features], pa.binary(2048))
    path = write(tmp_path / "t.parquet", {"store_schema": False}, embedding=values)
    content, length = path.read_bytes(), b"\x15\x80\x20"  # in the schema, 2048
    assert content.count(b"\x15\x0e" + length) == 1
    path.write_bytes(content.replace(b"\x15\x0e" + length, b"\x15\x0e\x15\xfe\xff\xff\x7f", 1))
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 2
    path.write_bytes(content[:-8] + footer.to_bytes(4, "little") + b"PAR1")
    assert "the column embedding: values of 134,217,727 bytes" in refusal(path)


PAGES = {  # type, bytes decompressed and compressed, then the header of a page of values
    "15 00 15 feffffff0f 15 08 2c 15 02 15 00 15 06 15 06 00 00": "a page of 2,147,483,647 bytes",
    "15 00 15 01 15 08 2c 15 02 15 00 15 06 15 06 00 00": "a page of -1 bytes",
    "15 00 15 08 15 feffffff0f 2c 15 02 15 00 15 06 15 06 00 00": "broken metadata",
    "15 00 15 08 15 01 2c 15 02 15 00 15 06 15 06 00 00": "broken metadata",
    "15 04 15 08 15 08 4c 15 feffffff0f 15 00 00 00": "broken metadata",  # of a dictionary
    "15 00 15 08": "broken metadata",
    "15 ffffffffffffffffffffffffffff": "broken metadata",
    "19 00": "broken metadata",
    "00": "broken metadata",
}


@pytest.mark.parametrize("header", PAGES)
def test_what_the_header_of_a_page_claims_is_not_believed(tmp_path, header):
    content = page(header, b"1234")
    (tmp_path / "t").write_bytes(content)
    span = parquet_pages.Span(4, len(content) - 4, codec=0)
    with pytest.raises(InputError, match=PAGES[header]):
        parquet_pages.check_pages(str(tmp_path / "t"), "x", span, is_list=False)


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_the_pages_of_numbers_are_checked_too(tmp_path, features, compression):
    how = {"compression": compression, "use_dictionary": False}
    path = write(tmp_path / "t.parquet", how, **{f"e{i}": features[:, i] for i in range(512)})
    content = bytearray(path.read_bytes())
    assert content[4:7] == b"\x15\x00\x15" and content[9] == 0x15  # the first page's header
    content[10:12] = b"\xff\x7f"  # its size, of which Arrow takes memory for any
    path.write_bytes(content)
    assert "broken metadata" in refusal(path)


def test_the_pages_of_a_good_file_hold_what_was_written(tmp_path, features):
    how = {"compression": "zstd", "data_page_size": 4000, "use_dictionary": False}
    path = write(tmp_path / "t.parquet", how, embedding=lists(features))
    layout = parquet_pages.read_layout(str(path))
    assert layout.columns == ["embedding.list.element"] and layout.rows_per_group == [40]
    pages = parquet_pages.check_pages(str(path), "embedding", layout.spans[0][0], is_list=True)
    assert pages.values == 40 * 512 and pages.largest_entry == 0


def test_metadata_over_which_arrow_ends_the_process_is_refused(tmp_path, features):
    """A column that may be missing becomes one that may not, against its statistics."""
    path = write(tmp_path / "t.parquet", **{f"e{i}": features[:, i] for i in range(512)})
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    at = content.index(b"\x25\x02\x18", footer)  # a schema's element: optional, then its name
    path.write_bytes(content[: at + 1] + b"\x00" + content[at + 2 :])
    assert "not a readable .parquet file (Definition level histogram" in refusal(path)


# ------------------------------------------------------------------------ the machine's


def test_a_lack_of_memory_does_not_blame_the_file(tmp_path, features, monkeypatch):
    path = write(tmp_path / "t.parquet", embedding=lists(features))

    def fail(*arguments, **options):
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", fail)
    with pytest.raises(MemoryError):
        batches(path)


# ------------------------------------------------------------------------------ any bytes


@pytest.mark.parametrize("target", fuzz_containers.TARGETS.values())
def test_the_fuzz_target_holds_on_its_seeds_and_on_random_changes_of_them(target):
    generator = np.random.default_rng(0)
    for seed in fuzz_containers.seeds(target):
        target(seed)
        for _ in range(4):
            target(seed + generator.bytes(6))
