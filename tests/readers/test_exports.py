"""What databases, APIs and people's own scripts export as JSON and text is read, or named."""

import json

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
    monkeypatch.setattr("age_gender.readers.json_lines.HEAD_BYTES", head_bytes)
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
