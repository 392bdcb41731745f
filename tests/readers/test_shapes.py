"""JSON of other shapes, text with other separators, compressed files, and what is no table."""

import bz2
import gzip
import json
import lzma
import os
import sqlite3
import threading

import numpy as np
import pytest
from conftest import MODEL, refusal, start

from age_gender.errors import InputError
from age_gender.readers import compressed, json_chunks, tables, unsupported_formats

COUNT = 60
pandas = pytest.importorskip("pandas")


def objects(names, features, name="path", embedding="embedding") -> list[dict]:
    return [{name: n, embedding: e} for n, e in zip(names, features.tolist(), strict=True)]


def frame(n, f):
    return pandas.DataFrame({"filename": n, "embedding": f.astype(float).tolist()})


def to_json(orient):
    return lambda n, f: json.loads(frame(n, f).to_json(orient=orient, double_precision=15))


NAMED = {
    "DeepFace's API": lambda n, f: {"results": [{"file": a, "embedding": e, "area": {"x": 1}}
                                                for a, e in zip(n, f.tolist(), strict=True)]},
    "Qdrant's scroll": lambda n, f: {"result": {"points": [
        {"id": i, "payload": {"path": a}, "vector": e}
        for i, (a, e) in enumerate(zip(n, f.tolist(), strict=True))], "next_page_offset": None},
        "status": "ok"},
    "Milvus' rows": lambda n, f: {"rows": objects(n, f)},
    "Elasticsearch's hits": lambda n, f: {"took": 3, "hits": {"total": {"value": 9}, "hits": [
        {"_id": a, "_source": {"face": e, "x": 1}} for a, e in zip(n, f.tolist(), strict=True)]}},
    "Weaviate's answer": lambda n, f: {"data": {"Get": {"Face": [
        {"name": a, "_additional": {"vector": e}} for a, e in zip(n, f.tolist(), strict=True)]}}},
    "Pinecone's fetch": lambda n, f: {"namespace": "", "vectors": {
        a: {"id": a, "values": e} for a, e in zip(n, f.tolist(), strict=True)}},
    "Chroma's get": lambda n, f: {"ids": n, "embeddings": f.tolist(), "documents": None,
                                  "metadatas": [{"p": 1}] * len(n)},
    "name to vector": lambda n, f: dict(zip(n, f.tolist(), strict=True)),
    "columns": lambda n, f: {"embeddings": f.tolist(), "names": n},
    "Float32Arrays": lambda n, f: [
        {"name": a, "descriptor": {str(i): x for i, x in enumerate(e)}}
        for a, e in zip(n, f.tolist(), strict=True)],
    "a list round each": lambda n, f: [
        {"path": a, "embedding": [e]} for a, e in zip(n, f.tolist(), strict=True)],
    "names beside vectors": lambda n, f: [[a, e] for a, e in zip(n, f.tolist(), strict=True)],
    **{f"pandas' {orient}": to_json(orient)
       for orient in ("columns", "index", "split", "records", "table", "values")},
}  # fmt: skip


@pytest.mark.parametrize("pretty", [None, 1])
@pytest.mark.parametrize("shape", NAMED)
def test_json_of_any_shape_is_read(tmp_path, names, features, shape, pretty):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(NAMED[shape](names, features), indent=pretty))
    names_read, read = tables.read([path])
    assert names_read == names
    np.testing.assert_allclose(read, features, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", ["Qdrant's scroll", "DeepFace's API", "name to vector",
                                   "Elasticsearch's hits", "Milvus' rows"])  # fmt: skip
def test_rows_of_a_large_document_are_read_in_parts(tmp_path, names, features, shape, monkeypatch):
    """A document that is larger than its head streams; whole ones are not read here."""
    path = tmp_path / "t.json"
    path.write_text(json.dumps(NAMED[shape](names, features)))
    monkeypatch.setattr(json_chunks, "JSON_HEAD_BYTES", 60_000)
    monkeypatch.setattr(json_chunks, "_read_document", None)
    names_read, read = tables.read([path])
    assert names_read == names
    np.testing.assert_array_equal(read, features)


def test_json_without_names_is_numbered(tmp_path, features):
    rows, path = features.tolist(), tmp_path / "t.json"
    batches = [[{"embedding": row, "facial_area": {"x": 1}}] for row in rows]
    for document in (rows, batches, {"embeddings": rows}):
        path.write_text(json.dumps(document))
        names_read, read = tables.read([path])
        assert names_read == [str(i + 1) for i in range(COUNT)]
        np.testing.assert_array_equal(read, features)


def test_several_faces_of_a_photo_are_rows_of_their_own(tmp_path, features):
    rows, path = features.tolist(), tmp_path / "t.json"
    for document in (
        [{"label": "a", "descriptors": rows[:2]}, {"label": "b", "descriptors": rows[2:3]}],
        [{"path": "a", "faces": [{"embedding": row, "box": [1, 2]} for row in rows[:2]]},
         {"path": "b", "faces": [{"embedding": rows[2]}]}],
    ):  # fmt: skip
        for text in (json.dumps(document), "\n".join(map(json.dumps, document))):
            path.write_text(text)
            names_read, read = tables.read([path])
            assert names_read == ["a#1", "a#2", "b#1"]
            np.testing.assert_array_equal(read, features[:3])


def test_objects_behind_each_other_are_rows(tmp_path, names, features):
    """As jq prints them."""
    text = "\n".join(json.dumps(row, indent=2) for row in objects(names, features))
    (tmp_path / "t.json").write_text(text)
    assert tables.read([tmp_path / "t.json"])[0] == names


def test_a_key_given_twice_among_many_is_named_at_once(tmp_path):
    keys = ", ".join(f'"k{i}": 1' for i in range(60_000))
    (tmp_path / "t.jsonl").write_text("{" + keys + ', "k7": 2}\n')
    assert "the key 'k7' is given twice" in refusal(tmp_path / "t.jsonl")


# ----------------------------------------------------------------------------- separators


def with_separator(names, features, separator, header=True, number="%.9g".__mod__) -> str:
    lines = [["name", *(f"e{i}" for i in range(512))]] if header else []
    lines += [[n, *map(number, row)] for n, row in zip(names, features.tolist(), strict=True)]
    return "".join(separator.join(line) + "\n" for line in lines)


def german(x: float) -> str:
    return f"{x:.9g}".replace(".", ",")


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("separator, number", [
    ("\t", "%.9g".__mod__), (";", "%.9g".__mod__), ("|", "%.9g".__mod__), ("   ", "%.9g".__mod__),
    (";", german), ("\t", german), (",", "%.9g".__mod__),
])  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n", "SEP\n"])
def test_cells_may_stand_between_any_separators(
    tmp_path, names, features, separator, number, header, end
):
    text = with_separator(names, features, separator, header, number)
    text = text.replace("\n", end.replace("SEP", separator))
    (tmp_path / "t.txt").write_bytes(text.encode())
    names_read, read = tables.read([tmp_path / "t.txt"])
    assert names_read == names
    np.testing.assert_array_equal(read, features)


@pytest.mark.parametrize("separator", ["\t", ";", "|"])
def test_lists_need_no_quotes_between_other_separators(tmp_path, names, features, separator):
    rows = (f"{n}{separator}{row}\n" for n, row in zip(names, features.tolist(), strict=True))
    (tmp_path / "t.tsv").write_text(f"path{separator}embedding\n" + "".join(rows))
    names_read, read = tables.read([tmp_path / "t.tsv"])
    assert names_read == names
    np.testing.assert_array_equal(read, features)


def test_a_line_that_tells_excel_the_separator_is_heeded(tmp_path, names, features):
    text = "sep=;\n" + with_separator(names, features, ";")
    (tmp_path / "t.csv").write_text(text)
    assert tables.read([tmp_path / "t.csv"])[0] == names
    bad = text.splitlines()
    bad[3] = bad[3].replace(";0.", ";x", 1).replace(";-0.", ";x", 1)
    (tmp_path / "t.csv").write_text("\n".join(bad))
    with pytest.raises(InputError, match=r"row 2 \(line 4\): cell "):
        tables.read([tmp_path / "t.csv"])


def test_what_savetxt_writes_is_read(tmp_path, features):
    np.savetxt(tmp_path / "t.txt", features)
    np.testing.assert_array_equal(tables.read([tmp_path / "t.txt"])[1], features)


# ----------------------------------------------------------------------------- compressed

PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_text_is_read_by_its_content(tmp_path, names, features, suffix):
    lines = "\n".join(map(json.dumps, objects(names, features))).encode()
    table = with_separator(names, features, ",").encode()
    half = len(table) // 2
    for name, data in [
        (f"a.csv{suffix}", PACKERS[suffix](table)), (f"b.jsonl{suffix}", PACKERS[suffix](lines)),
        ("c.csv", PACKERS[suffix](table[:half]) + PACKERS[suffix](table[half:])),
    ]:  # fmt: skip
        (tmp_path / name).write_bytes(data)
        names_read, read = tables.read([tmp_path / name])
        assert names_read == names
        np.testing.assert_array_equal(read, features)
    (tmp_path / "c.csv").unlink()
    assert len(tables.list_files([tmp_path])) == 2  # in a folder, too


@pytest.mark.parametrize("suffix", PACKERS)
def test_broken_and_bloated_compressed_files_are_refused(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"t.csv{suffix}"
    path.write_bytes(PACKERS[suffix](b"1,2,3\n" * 9000)[:-9])
    assert "copy or write it again" in refusal(path)
    monkeypatch.setattr(compressed, "UNLIMITED_BYTES", 1 << 20)
    path.write_bytes(PACKERS[suffix](b" " * (8 << 20)))
    assert "more than 200 times its size" in refusal(path)
    path.write_bytes(b"1,2,3\n")
    assert "not compressed as its name says" in refusal(path)


# ------------------------------------------------------------------------------ no tables


@pytest.mark.parametrize("form", unsupported_formats.FORMATS, ids=lambda form: form.suffixes[0])
def test_what_is_no_table_is_named_with_the_lines_that_export_it(tmp_path, form):
    path = tmp_path / f"faces{form.suffixes[0]}"
    path.write_bytes(b"anything")
    said = refusal(path)
    assert str(path) in said and form.name in said
    assert form.export.partition("{")[0][:40] in said
    for magic in form.magics:
        (tmp_path / "t.dat").write_bytes(magic + bytes(50))
        assert form.name in refusal(tmp_path / "t.dat")


def test_a_folder_of_lancedb_is_named(tmp_path):
    (tmp_path / "faces.lance").mkdir()
    for path in (tmp_path, tmp_path / "faces.lance"):
        assert "LanceDB" in refusal(path)


# ---------------------------------------------------------------------- names and pauses


def test_a_document_of_texts_with_several_faces_each_is_refused_in_one_line(tmp_path):
    path, lists = tmp_path / "t.json", [[0.1] * 30, [0.2] * 30]
    path.write_text(json.dumps({"e+": str(lists), "b": str(lists)}))
    with pytest.raises(InputError):
        tables.read([path])
    path.write_text('\r{"e+": "[1,2FFFFFFFFFF [1,: [0, [2], 3]FWWWWWFFF,FFFFF!,3]"}Jk\x02", "b"], ')
    with pytest.raises(InputError):
        tables.read([path])


def test_a_missing_name_is_the_row_number_and_an_image_is_no_name(tmp_path, features):
    path, image = tmp_path / "t.db", b"\xff\xd8\xff\xe0" + bytes(99)
    with sqlite3.connect(path) as database:
        database.execute("create table faces (image blob, name text, id integer, e blob)")
        for i, row in enumerate(features[:4]):
            name = None if i == 1 else f"face {i}"
            database.execute("insert into faces values (?, ?, ?, ?)",
                             (image, name, 7 + i, row.tobytes()))  # fmt: skip
    database.close()
    assert tables.read([path])[0] == ["face 0", "2", "face 2", "face 3"]


@pytest.mark.parametrize("first", [
    b"\n", b"\xef\xbb\xbf", b" \r\n\t", b"\xef", b"\x1f",
    pytest.param(b"\n" * 3_000_000, id="3 MB of line feeds"),
])  # fmt: skip
def test_a_pipe_that_pauses_before_its_first_character_is_json(first, names, features):
    lines = "\n".join(map(json.dumps, objects(names, features))).encode()
    lines = b"\xbb\xbf" * (first == b"\xef") + lines
    if first == b"\x1f":  # gzip's first byte
        lines = gzip.compress(lines)[1:]
    reading, writing = os.pipe()
    process = start("run.py", "--features", "-", "--model", MODEL, stdin=reading, stdout=-1)
    os.close(reading)
    os.write(writing, first)
    threading.Timer(2, lambda: (os.write(writing, lines[:9000]), os.write(writing, lines[9000:]),
                                os.close(writing))).start()  # fmt: skip
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert len(out.splitlines()) == COUNT + 1
