"""What databases, APIs and people's own scripts export as JSON and text is read, or named."""

import json
import sqlite3

import numpy as np
import pytest
from other_tools import refusal

from age_gender.readers import tables

pytestmark = pytest.mark.filterwarnings("error")
COUNT = 6


def lines(rows) -> str:
    return "\n".join(map(json.dumps, rows))


def mongodb(n, f):
    return lines(
        {"_id": {"$oid": f"{i:024x}"}, "filename": a, "e": [{"$numberDouble": repr(x)} for x in e]}
        for i, (a, e) in enumerate(zip(n, f, strict=True))
    )


def dynamodb(n, f):
    return lines(
        {"Item": {"filename": {"S": a}, "e": {"L": [{"N": repr(x)} for x in e]}}}
        for a, e in zip(n, f, strict=True)
    )


def firestore(n, f):
    return json.dumps({"documents": [
        {"name": a, "fields": {"e": {"arrayValue": {"values": [{"doubleValue": x} for x in e]}}}}
        for a, e in zip(n, f, strict=True)]})  # fmt: skip


def elasticsearch_bulk(n, f):
    return "".join(
        f'{{"index": {{"_id": "{i}"}}}}\n{json.dumps({"file": a, "e": e})}\n'
        for i, (a, e) in enumerate(zip(n, f, strict=True))
    )


def chroma(n, f):
    return json.dumps({"ids": n, "embeddings": f, "metadatas": [None] * len(n), "documents": None,
                       "uris": None, "data": None, "included": ["embeddings"]})  # fmt: skip


EXPORTS = {
    "MongoDB's extended JSON": mongodb,
    "DynamoDB's JSON": dynamodb,
    "Firestore's documents": firestore,
    "Elasticsearch's bulk files": elasticsearch_bulk,
    "Chroma's get with all that it includes": chroma,
    "a list of a name and a vector a line": lambda n, f: lines(zip(n, f, strict=True)),
    "objects with commas behind each": lambda n, f: "".join(
        json.dumps({"file": a, "e": e}) + ",\n" for a, e in zip(n, f, strict=True)
    ),
    "the names that face_recognition's example has": lambda n, f: json.dumps(
        {"known_face_encodings": f, "known_face_names": n}
    ),
    **{
        f"names under {key}": lambda n, f, key=key: lines(
            {"model_name": "Facenet512", key: a, "e": e} for a, e in zip(n, f, strict=True)
        )
        for key in ("img_path", "image_path", "file_name", "img", "photo", "face_id", "imagePath")
    },
}


# Documents of rows, each made of a name and a vector
DOCUMENTS = {
    "a list of InsightFace's faces": (
        lambda rows: rows,
        lambda a, e: {"bbox": [1.5, 2, 3, 4], "kps": [[1.5, 2.5]] * 5, "det_score": 0.9,
                      "landmark_3d_68": [[1.0, 2, 3]] * 68, "embedding": e, "img_path": a}),
    "Qdrant's named vectors": (
        lambda rows: {"result": {"points": rows, "next_page_offset": None}, "status": "ok"},
        lambda a, e: {"id": 7, "payload": {"path": a, "tags": ["x"]}, "vector": {"face": e}}),
    "Milvus' REST answer": (
        lambda rows: {"code": 0, "cost": 6, "data": rows},
        lambda a, e: {"id": 7, "path": a, "vector": e}),
    "Weaviate's objects": (
        lambda rows: {"objects": rows, "totalResults": len(rows)},
        lambda a, e: {"class": "Face", "properties": {"path": a}, "vectors": {"default": e}}),
    "PostgREST's and Supabase's rows of pgvector": (
        lambda rows: rows, lambda a, e: {"id": 7, "path": a, "embedding": json.dumps(e)}),
    "Elasticsearch's scroll": (
        lambda rows: {"_scroll_id": "x==", "hits": {"total": {"value": 6}, "hits": rows}},
        lambda a, e: {"_index": "f", "_id": "7", "_source": {"filename": a, "face": e}}),
    "Redis' search": (
        lambda rows: {"total": len(rows), "documents": rows},
        lambda a, e: {"id": a, "payload": None, "embedding": e}),
    "Vespa's visit": (
        lambda rows: {"pathId": "/document", "documents": rows},
        lambda a, e: {"id": "id:f:face::7", "fields": {"path": a, "e": {"values": e}}}),
    "Solr's answer": (
        lambda rows: {"responseHeader": {"status": 0}, "response": {"start": 0, "docs": rows}},
        lambda a, e: {"id": a, "vector": e}),
    "Azure's search": (
        lambda rows: {"@odata.context": "https://x", "value": rows},
        lambda a, e: {"@search.score": 1, "id": a, "embedding": e}),
    "Astra's documents": (
        lambda rows: {"data": {"documents": rows, "nextPageState": None}},
        lambda a, e: {"_id": a, "$vector": e}),
    "a GraphQL connection": (
        lambda rows: {"data": {"faces": {"edges": rows, "pageInfo": {"hasNextPage": False}}}},
        lambda a, e: {"node": {"path": a, "embedding": e}}),
    "JSON:API": (
        lambda rows: {"data": rows}, lambda a, e: {"id": a, "attributes": {"embedding": e}}),
    "what R's jsonlite writes without auto_unbox": (
        lambda rows: rows, lambda a, e: {"path": [a], "embedding": e}),
    "what R's jsonlite makes of row names": (
        lambda rows: rows, lambda a, e: {"embedding": e, "_row": a}),
    "detections of face-api.js": (
        lambda rows: rows,
        lambda a, e: {"detection": {"_score": 0.9, "_box": {"_x": 1}}, "file": a,
                      "landmarks": {"_positions": [{"_x": 1.5, "_y": 2.5}] * 68},
                      "descriptor": {str(i): x for i, x in enumerate(e)}}),
}  # fmt: skip
EXPORTS |= {
    export: lambda n, f, document=document, row=row: json.dumps(
        document([row(a, e) for a, e in zip(n, f, strict=True)])
    )
    for export, (document, row) in DOCUMENTS.items()
} | {
    "Qdrant's batch": lambda n, f: json.dumps(
        {"batch": {"ids": [*range(len(n))], "vectors": f, "payloads": [{"path": a} for a in n]}}),
    "SageMaker's lines": lambda n, f: lines(
        {"id": a, "SageMakerOutput": [e]} for a, e in zip(n, f, strict=True)),
    "polars' columns": lambda n, f: json.dumps({"columns": [
        {"name": "path", "datatype": "Utf8", "values": n},
        {"name": "e", "datatype": {"List": "Float64"}, "values": [
            {"name": "", "datatype": "Float64", "values": e} for e in f]}]}),
    "Firebase's keys": lambda n, f: json.dumps(
        {f"-N{i}x": {"path": a, "e": e} for i, (a, e) in enumerate(zip(n, f, strict=True))}),
    "names and what DeepFace represents": lambda n, f: json.dumps(
        {a: [{"embedding": e, "facial_area": {"x": 1}}] for a, e in zip(n, f, strict=True)}),
}  # fmt: skip


@pytest.mark.parametrize("export", EXPORTS)
def test_json_that_tools_export_is_read(tmp_path, names, features, export):
    (tmp_path / "t.json").write_text(EXPORTS[export](names, features.tolist()))
    found, read = tables.read([tmp_path / "t.json"])
    assert found == names
    np.testing.assert_array_equal(read, features)


@pytest.mark.parametrize("head_bytes", [1 << 20, 20_000])
def test_vectors_by_person_and_photo_are_all_read(
    tmp_path, names, features, head_bytes, monkeypatch
):
    monkeypatch.setattr("age_gender.readers.json_chunks.JSON_HEAD_BYTES", head_bytes)
    faces = dict(zip(names, features.tolist(), strict=True))
    people = {"ann": {n: faces[n] for n in names[:4]}, "bob": {n: faces[n] for n in names[4:]}}
    (tmp_path / "t.json").write_text(json.dumps(people))
    found, read = tables.read([tmp_path / "t.json"])
    assert found == [f"{'ann' if i < 4 else 'bob'}/{name}" for i, name in enumerate(names)]
    np.testing.assert_array_equal(read, features)


@pytest.mark.parametrize("text, said", [
    ("{'a': [1.0, 2.0]}", "Python's print of objects, not JSON"),
    ("[{'path': 'a', 'embedding': [1.0]}]", "Python's print of objects, not JSON"),
    ("[('a', [1.0])]", "Python's print of objects, not JSON"),
    ("[ 0.5 -0.25\n  1.5]\n[ 1.0 2.0\n 3.0]\n", "NumPy's print, not JSON"),
])  # fmt: skip
def test_what_only_looks_like_json_is_called_what_it_is(tmp_path, text, said):
    for suffix in ("json", "txt"):
        (tmp_path / f"t.{suffix}").write_text(text)
        assert said in refusal(tmp_path / f"t.{suffix}")


def test_a_face_matcher_of_face_api_js_has_a_row_a_descriptor(tmp_path, features):
    people = [{"label": name, "descriptors": features[i : i + 2].tolist()}
              for i, name in ((0, "ann"), (2, "bob"))]  # fmt: skip
    (tmp_path / "t.json").write_text(
        json.dumps({"distanceThreshold": 0.6, "labeledDescriptors": people})
    )
    names, read = tables.read([tmp_path / "t.json"])
    assert names == ["ann#1", "ann#2", "bob#1", "bob#2"]
    np.testing.assert_array_equal(read, features[:4])


def test_vectors_in_chromas_own_database_are_read(tmp_path, names, features):
    with sqlite3.connect(tmp_path / "chroma.sqlite3") as database:
        database.execute("create table embeddings (id integer primary key, embedding_id text)")
        database.execute("create table embeddings_queue (seq_id integer primary key, topic text, "
                         "id text, vector blob, encoding text, metadata text)")  # fmt: skip
        database.executemany(
            "insert into embeddings_queue (id, vector, encoding) values (?, ?, 'FLOAT32')",
            zip(names, map(bytes, features), strict=True),
        )
    database.close()
    names_read, read = tables.read([tmp_path / "chroma.sqlite3"])
    assert names_read == names
    np.testing.assert_array_equal(read, features)
