"""What docs/embedders.md says of dlib's libraries, run as it stands there."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import script

from age_gender import paths

SNIPPETS = re.findall(
    r"```python\n(.*?)```\n\n    python (.*?)\n",
    (paths.ROOT / "docs/embedders.md").read_text(),
    re.S,
)
# What the snippets use of the library: encodings are float64 (128,), a photograph's in a list.
LIBRARY = """
import numpy as np
ENCODINGS = np.load({file!r})
def load_image_file(path):
    return int(path.rpartition("/")[2].removesuffix(".jpg"))
def face_encodings(image):
    return [ENCODINGS[image], ENCODINGS[image + 10]] if image else []
"""


@pytest.fixture(scope="module")
def encodings() -> np.ndarray:
    """Encodings (20, 128) as face_recognition returns them, float64."""
    with np.load(paths.DATA / "utkface_dlib.npz") as arrays:
        return arrays["embeddings"][::1000][:20].astype(np.float64)


@pytest.fixture(scope="module")
def expected(encodings, tmp_path_factory) -> list[list[str]]:
    """Return what run.py says of them, but their names."""
    np.save(tmp_path_factory.mktemp("expected") / "e.npy", encodings)
    path = tmp_path_factory.getbasetemp() / "expected0" / "e.npy"
    return [row[1:] for row in csv.reader(script("run.py", "--features", path).out.splitlines())]


def said_of(done) -> list[list[str]]:
    assert done.code == 0 and "models/dlib/" in done.err, done.err
    return [*csv.reader(done.out.splitlines())]


@pytest.mark.parametrize("code, command", SNIPPETS)
def test_face_recognition_snippets_give_scored_tables(
    encodings, expected, tmp_path, monkeypatch, code, command
):
    np.save(tmp_path / "encodings.npy", encodings)
    library = LIBRARY.format(file=str(tmp_path / "encodings.npy"))
    (tmp_path / "face_recognition.py").write_text(library)
    (tmp_path / "photos").mkdir()
    for number in range(4):  # no face in the first, two in the others
        (tmp_path / "photos" / f"{number}.jpg").touch()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    rows = said_of(script(*command.split()))[1:]
    assert [row[0] for row in rows] == [f"photos/{i}.jpg" for i in (1, 1, 2, 2, 3, 3)]
    assert [row[1:] for row in rows] == [expected[1 + i] for i in (1, 11, 2, 12, 3, 13)]


def test_there_are_two_snippets():
    assert len(SNIPPETS) == 2


def stringified(descriptor: np.ndarray) -> dict[str, float]:
    """Return what JSON.stringify writes of a Float32Array."""
    return {str(i): float(np.float32(value)) for i, value in enumerate(descriptor)}


def test_descriptors_of_face_api_as_json_lines_are_scored(encodings, expected, tmp_path):
    lines = [
        json.dumps({"path": f"photos/{i}.jpg", "descriptor": stringified(row)}) + "\n"
        for i, row in enumerate(encodings)
    ]
    (tmp_path / "faces.jsonl").write_text("".join(lines))
    rows = said_of(script("run.py", "--features", tmp_path / "faces.jsonl"))[1:]
    assert [row[0] for row in rows] == [f"photos/{i}.jpg" for i in range(20)]
    assert [row[1:] for row in rows] == expected[1:]


def test_labeled_face_descriptors_are_scored(encodings, expected, tmp_path):
    people = [
        {"label": f"person {i}", "descriptors": encodings[[i, i + 10]].tolist()} for i in range(10)
    ]
    (tmp_path / "faces.json").write_text(json.dumps(people))
    rows = said_of(script("run.py", "--features", tmp_path / "faces.json"))[1:]
    both = [expected[1 + i] for person in range(10) for i in (person, person + 10)]
    assert [row[1:] for row in rows] == both
    assert all(row[0].startswith(f"person {i // 2}") for i, row in enumerate(rows))
