"""A vector in any form that tools write comes back to the last bit of float32."""

import base64
import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from age_gender.errors import InputError
from age_gender.readers import blobs, tables, vectors
from age_gender.readers.bad_rows import RowError
from age_gender.readers.columns import ReadOptions

WIDTH = 20


def joined(row, separator=", ") -> str:
    return separator.join(map(repr, row.tolist()))


def npy(row) -> bytes:
    stream = io.BytesIO()
    np.save(stream, row)
    return stream.getvalue()


TEXTS = {
    "a list": lambda row: f"[{joined(row)}]",
    "a tuple": lambda row: str(tuple(row.tolist())),
    "a PostgreSQL array": lambda row: "{" + joined(row, ",") + "}",
    "a NumPy array": lambda row: f"array([{joined(row, ',' + chr(10) + ' ' * 7)}], dtype=float32)",
    "a PyTorch tensor": lambda row: f"tensor([{joined(row)}],\n       grad_fn=<DivBackward0>)",
    "a TensorFlow tensor": (
        lambda row: f"tf.Tensor([{joined(row, ' ')}], shape=(20,), dtype=float32)"
    ),
    "a TensorFlow value": (
        lambda row: (
            f"<tf.Tensor: shape=(20,), dtype=float32, numpy=array([{joined(row)}], dtype=float32)>"
        )
    ),
    "a typed array": lambda row: f"Float32Array(20) [ {joined(row)} ]",
    "an R vector": lambda row: f"c({joined(row)})",
    "a Julia vector": lambda row: f"Float32[{joined(row)}]",
    "a Go slice": lambda row: "[]float32{" + joined(row) + "}",
    "a C# or Java array": lambda row: "new float[] {" + joined(row) + "}",
    "a deque": lambda row: f"deque([{joined(row)}], maxlen=20)",
    "a DeepFace answer": lambda row: str(
        [
            {
                "embedding": row.tolist(),
                "facial_area": {"x": 1, "left_eye": (3, 4)},
                "face_confidence": 1,
            }
        ]
    ),
    "an MXNet array": lambda row: f"\n[[{joined(row, ' ')}]]\n<NDArray 1x20 @cpu(0)>",
    "a PaddlePaddle tensor": (
        lambda row: (
            "Tensor(shape=[20], dtype=float32, place=Place(gpu:0), stop_gradient=True,\n"
            f"       [{joined(row)}])"
        )
    ),
    "a Spark or pgvector vector": lambda row: f"DenseVector([{joined(row)}])",
    "a list in quotes": lambda row: f"'[{joined(row)}]'",
    "bare numbers": lambda row: joined(row, ","),
}
BYTES = {
    "": lambda data: data,
    "hex of ": lambda data: "\\x" + data.hex(),
    "a bytes literal of ": repr,
    "base64 of ": lambda data: base64.b64encode(data).decode(),
    "an object of ": lambda data: {"type": "Buffer", "data": [*data]},
    "a list of bytes of ": lambda data: [*data],
}
OTHERS = {
    "numbers in a list": lambda row: row.tolist(),
    "a tuple of numbers": lambda row: tuple(row.tolist()),
    "a list in a list": lambda row: [row.tolist()],
    "running keys": lambda row: {str(i): x for i, x in enumerate(row.tolist())},
    "consecutive fields": lambda row: {f"e{i}": x for i, x in enumerate(row.tolist(), 1)},
    "an array": lambda row: row,
    "an .npy": npy,
    "a list as bytes": lambda row: f"[{joined(row)}]".encode(),
    "a list in a list, as text": lambda row: f"[[{joined(row)}]]",
    "arrays in a list, as text": lambda row: f"[array([{joined(row)}])]",
    "texts in a list": lambda row: str([*map(repr, row.tolist())]),
    "texts in a JSON list": lambda row: json.dumps([*map(repr, row.tolist())]),
    "an object as JSON text": lambda row: json.dumps(
        {str(i): x for i, x in enumerate(row.tolist())}
    ),
    "what DeepFace returns, as JSON": lambda row: json.dumps([{"embedding": row.tolist()}]),
    "Python's array": lambda row: f"array('f', [{joined(row)}])",
    "a torch parameter": lambda row: f"Parameter containing:\ntensor([[{joined(row)}]])",
    "pgvector's Vector": lambda row: f"Vector([{joined(row)}])",
    "Julia's float32": lambda row: f"Float32[{', '.join(f'{x:.25f}f0' for x in row.tolist())}]",
    "MATLAB's column": lambda row: f"[{joined(row, ';')}]",
    "decimal commas": lambda row: joined(row, ";").replace(".", ","),
    **{
        f"numbers between {name}": lambda row, separator=separator: joined(row, separator)
        for name, separator in [
            ("spaces", " "),
            ("bars", "|"),
            ("semicolons", ";"),
            ("tabs", "\t"),
            ("line feeds", "\n"),
            ("commas and spaces", ", "),
        ]
    },
    "NumPy's numbers in a list": lambda row: f"[np.float32({joined(row, '), np.float32(')})]",
    "two dimensions with spaces": lambda row: f"[[{joined(row, chr(10) + '  ')}]]",
    "upper-case hex": lambda row: "0x" + row.tobytes().hex().upper(),
    "SQL's hex": lambda row: f"X'{row.tobytes().hex()}'",
    "URL-safe base64": lambda row: base64.urlsafe_b64encode(row.tobytes()).decode().rstrip("="),
    "MongoDB's binary": lambda row: {
        "$binary": {"base64": base64.b64encode(row.tobytes()).decode(), "subType": "00"}
    },
    "MongoDB's vector": lambda row: {
        "$binary": {"base64": base64.b64encode(b"\x27\0" + row.tobytes()).decode(), "subType": "09"}
    },
    "hex with hyphens": lambda row: row.tobytes().hex("-").upper(),
    "a bytes literal of base64": lambda row: repr(base64.b64encode(row.tobytes())),
    "a data URI": lambda row: (
        "data:application/octet-stream;base64," + base64.b64encode(row.tobytes()).decode()
    ),
    "base64 of an .npy": lambda row: base64.b64encode(npy(row)).decode(),
}
FORMS = {
    **TEXTS,
    **OTHERS,
    **{
        f"{encoding}{name}": lambda row, write=write, dtype=dtype: write(
            row.astype(dtype).tobytes()
        )
        for encoding, write in BYTES.items()
        for name, dtype in blobs.DTYPES.items()
        if not name.startswith("float16")
    },
}


def rows():
    """Rows of lengths that embeddings have, so that bytes show their type."""
    numbers = st.floats(-4, 4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6)
    return st_numpy.arrays("float32", WIDTH, elements=numbers).filter(
        lambda row: 0.1 < np.linalg.norm(row) < 30 and np.count_nonzero(row) > 15
    )


@given(rows(), st.sampled_from(sorted(FORMS)))
def test_a_vector_in_any_form_comes_back_to_the_last_bit(row, name):
    value = FORMS[name](row)
    vector_format = vectors.find_format([value], WIDTH)
    assert vector_format is not None
    np.testing.assert_array_equal(vector_format.read(value, WIDTH).view("u4") & 0x7FFFFFFF,
                                  row.view("u4") & 0x7FFFFFFF)  # fmt: skip
    np.testing.assert_array_equal(vector_format.read(value, WIDTH), row)


def test_every_form_of_the_tables_has_a_case_here():
    assert set(TEXTS) == set(vectors.WRAPPERS)
    assert set(BYTES) == set(blobs.ENCODINGS)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("order", ["", "-be"])
@pytest.mark.parametrize("width", [None, 512])
def test_bytes_are_read_as_the_type_that_fits(faces, dtype, order, width):
    data = [row.astype(blobs.DTYPES[dtype + order]).tobytes() for row in faces[1][:20]]
    vector_format = vectors.find_format(data, width)
    assert vector_format.name == dtype + order and not vector_format.other_dtypes
    expected = faces[1][0].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(vector_format.read(data[0], 512), expected)


def test_where_two_types_fit_the_error_names_both_and_the_option(tmp_path):
    import sqlite3

    numbers = struct.pack("<32e", *([1.5, 2.25] * 16))  # as float32: 16 numbers of about 24
    path = tmp_path / "t.db"
    with sqlite3.connect(path) as database:
        database.execute("create table faces (path text, vector blob)")
        database.executemany("insert into faces values (?, ?)", [("a", numbers), ("b", numbers)])
    database.close()
    with pytest.raises(InputError, match=r"vector may be float32 or float16 .*--blob-type float32"):
        tables.read([path])
    features = tables.read([path], ReadOptions(blob_type="float16"))[1]
    np.testing.assert_array_equal(features, [[1.5, 2.25] * 16] * 2)


@pytest.mark.parametrize("value, reason", [
    ("(0.5, 1.5)", "'(0.5, 1.5)' is not a list of numbers"),
    ("System.Single[]", "is the name of a type"), ("[F@1b6d3586", "is the name of a type"),
    (b"\xff\xd8\xff\xe0" + bytes(20), "is an image"), (bytes(7), "7 bytes"),
    (base64.b64encode(np.arange(20, dtype="<f4").tobytes()).decode(), "is base64 of float32, not"),
    ("[[1, 2], [3, 4]]", "a list of several faces"), ("[1 2 ... 3]", "numpy shortened"),
    ("['a', 'b']", "2 numbers, not 20"), ("nonsense", "'nonsense' is not a list"),
])  # fmt: skip
def test_a_value_of_another_form_says_which_it_nearly_is(value, reason):
    with pytest.raises(RowError) as caught:
        vectors.TEXT_LIST.read(value, WIDTH)
    assert reason in str(caught.value)


def test_a_row_of_another_form_than_the_first_rows_is_a_bad_row(tmp_path, faces):
    lists = [json.dumps(row) for row in faces[1][:3].tolist()]
    lists[1] = base64.b64encode(faces[1][1].tobytes()).decode()
    text = "".join(f'a{i};"{value}"\n' for i, value in enumerate(lists))
    (tmp_path / "t.csv").write_text("path;embedding\n" + text)
    with pytest.raises(InputError, match=r"row 2 \(line 3\): .* is base64 of float32, not a list"):
        tables.read([tmp_path / "t.csv"])
