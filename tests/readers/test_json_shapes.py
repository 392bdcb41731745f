"""Whatever shape tools give to JSON, each vector comes back to the last bit, named and in order."""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from age_gender import paths
from age_gender.errors import InputError
from age_gender.readers import json_chunks, tables
from age_gender.readers.columns import ReadOptions

pandas = pytest.importorskip("pandas")

FACES = np.load(paths.ROOT / "data" / "utkface.npz")["embeddings"][:40].astype(np.float32)
METADATA = {"model": "Facenet512", "count": 3, "took": 0.5, "next": None, "sizes": [1, 2, 3]}


@dataclass
class Faces:
    """Hold what is drawn: embeddings as float32 and as lists, their names, and more columns."""

    features: np.ndarray = field(repr=False)
    vectors: list[list[float]] = field(repr=False)
    names: list[str]
    others: list[dict]  # for each face, keys that its row may have besides

    def rows(self, title: str = "path", vector: str = "embedding") -> list[dict]:
        parts = zip(self.names, self.vectors, self.others, strict=True)
        return [{title: name, vector: row, **other} for name, row, other in parts]


@st.composite
def faces(draw) -> Faces:
    count = draw(st.integers(2, 30))
    name = st.text("abé\"\\ ,:[]{}#/'\n7", min_size=1, max_size=9).map("f{}x".format)
    names = draw(st.lists(name, min_size=count, max_size=count, unique=True))
    features = FACES[draw(st.permutations(range(40)))[:count]]
    other = draw(st.sampled_from([
        {}, {"box": [1, 2, 3, 4]}, {"area": {"x": 1, "eye": [3, 4]}}, {"thumbnail": [0.5] * 128},
        {"other_vector": [0.25] * 20, "note": "]}[{"},
    ]))  # fmt: skip
    return Faces(features, features.tolist(), names, [other] * count)


def pandas_json(orient: str, wide: bool) -> Callable[[Faces], object]:
    def write(faces: Faces) -> object:
        vectors = faces.features.astype(float)
        if wide:
            frame = pandas.DataFrame(vectors, columns=[f"e{i}" for i in range(512)])
        else:
            frame = pandas.DataFrame({"embedding": faces.vectors})
        frame.insert(0, "filename", faces.names)
        return json.loads(frame.to_json(orient=orient, double_precision=15))

    return write


def nested(faces: Faces) -> list[dict]:
    rows = zip(faces.names, faces.vectors, faces.others, strict=True)
    return [
        {"id": i, "payload": {"path": name, "age": 30}, "vector": row} | other
        for i, (name, row, other) in enumerate(rows)
    ]


def halves(faces: Faces) -> list[slice]:
    middle = len(faces.names) // 2
    return [slice(0, middle), slice(middle, None)]


# One row per face, and its own name
NAMED: dict[str, Callable[[Faces], object]] = {
    "an array of objects": Faces.rows,
    "an array of nested objects": nested,
    **{f"rows under {key}": lambda f, key=key: {**METADATA, key: f.rows()}
       for key in ("result", "results", "data", "rows", "points", "hits")},
    **{f"nested rows under {key}": lambda f, key=key: {key: nested(f), **METADATA}
       for key in ("result", "results", "data", "rows", "points", "hits")},
    **{f"rows under {outer} and {inner}": (
           lambda f, outer=outer, inner=inner: {"status": "ok", outer: {inner: f.rows(), "x": [1]}})
       for outer, inner in [("result", "points"), ("hits", "hits"), ("data", "Get")]},
    "columns": lambda f: {"embeddings": f.vectors, **METADATA, "names": f.names},
    "columns below a key": lambda f: {"result": {"ids": f.names, "embeddings": f.vectors}},
    "columns of lists of one": lambda f: {
        "paths": f.names, "embeddings": [[row] for row in f.vectors]},
    "Chroma's query": lambda f: {
        "ids": [f.names[part] for part in halves(f)],
        "embeddings": [f.vectors[part] for part in halves(f)], "documents": None,
        "distances": [[0.5] * len(f.names[part]) for part in halves(f)], "included": ["x"]},
    "parallel lists": lambda f: [{"names": f.names[part], "encodings": f.vectors[part],
                                  "boxes": [[1, 2, 3, 4]] * len(f.names[part])}
                                 for part in halves(f)],
    "name to vector": lambda f: dict(zip(f.names, f.vectors, strict=True)),
    "name to text": lambda f: {n: str(row) for n, row in zip(f.names, f.vectors, strict=True)},
    "name to row": lambda f: {
        n: {"values": row, "note": "x"} for n, row in zip(f.names, f.vectors, strict=True)},
    "name beside vector": lambda f: [*map(list, zip(f.names, f.vectors, strict=True))],
    **{f"pandas' {orient}, {'columns of numbers' * wide or 'lists'}": pandas_json(orient, wide)
       for orient in ("columns", "index", "split", "records", "table", "values")
       for wide in (False, True)},
}  # fmt: skip
# Several faces a row, numbered behind its name
OF_SEVERAL: dict[str, Callable[[str, list], dict]] = {
    "descriptors": lambda name, rows: {"label": name, "descriptors": rows},
    "faces": lambda name, rows: {
        "path": name, "faces": [{"embedding": row, "box": [1, 2]} for row in rows]},
    "a list of vectors": lambda name, rows: {"file": name, "embeddings": rows, "size": {"w": 640}},
}  # fmt: skip


def check(document: object, names: list[str], features: np.ndarray, as_lines: bool, head: int):
    """Assert that a document is read as these names and features, with a head of so many bytes."""
    text = (
        "\n".join(map(json.dumps, document)) if as_lines else json.dumps(document, indent=head % 3)
    )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder, "t.json")
        path.write_text(text)
        patch.setattr(json_chunks, "JSON_HEAD_BYTES", head)
        options = ReadOptions(width=512)
        names_read, features_read = tables.read([path], options)
    assert names_read == names
    np.testing.assert_array_equal(features_read, features)


heads = st.sampled_from([1 << 20, 60_001, 24_002])  # smaller than most of the documents


@settings(deadline=None, max_examples=100)
@given(faces(), st.sampled_from(sorted(NAMED)), st.booleans(), heads)
def test_vectors_of_any_shape_come_back_with_their_names_in_order(faces, shape, as_lines, head):
    document = NAMED[shape](faces)
    check(document, faces.names, faces.features, as_lines and isinstance(document, list), head)


@settings(deadline=None, max_examples=40)
@given(faces(), st.sampled_from(sorted(OF_SEVERAL)), st.booleans(), heads)
def test_several_faces_of_a_photo_are_numbered_behind_its_name(faces, shape, as_lines, head):
    parts = [part for part in halves(faces) if faces.names[part]]
    rows = [OF_SEVERAL[shape](faces.names[part][0], faces.vectors[part]) for part in parts]
    names = [f"{faces.names[part][0]}#{i}" for part in parts
             for i in range(1, len(faces.names[part]) + 1)]  # fmt: skip
    check(rows, names, faces.features, as_lines, head)
    first = len(faces.names[parts[0]])
    check(rows[0], names[:first], faces.features[:first], False, head)  # alone in its file


@pytest.mark.parametrize("document, width", [
    (lambda f: [{"path": n, "embedding": [*e.tobytes()]} for n, e in f], 512),
    (lambda f: {"outputs": [{"name": "embeddings", "shape": [2, 512], "datatype": "FP32",
                             "data": [x for _, e in f for x in e.tolist()]}]}, None),
])  # fmt: skip
def test_flat_lists_of_numbers_or_bytes_are_cut_into_vectors(tmp_path, document, width):
    (tmp_path / "t.json").write_text(json.dumps(document([("1", FACES[0]), ("2", FACES[1])])))
    names, features = tables.read([tmp_path / "t.json"], ReadOptions(width=width))
    assert names == ["1", "2"]
    np.testing.assert_array_equal(features, FACES[:2])


@pytest.mark.parametrize("opening, closing", [('{"a":', "}"), ("[", "]"), ('{"data": [', "]}")])
def test_json_nested_deeply_is_refused_in_one_line(tmp_path, opening, closing):
    for depth in (950, 20_000):
        (tmp_path / "t.json").write_text(opening * depth + str([0.5] * 20) + closing * depth)
        if (opening, depth) == ("[", 950) and sys.version_info >= (3, 12):  # a deeper C stack
            assert tables.read([tmp_path / "t.json"])[1].tolist() == [[0.5] * 20]
            continue
        with pytest.raises(InputError):
            tables.read([tmp_path / "t.json"])
