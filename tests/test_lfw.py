"""The LFW gender check: the published convention, and label files with the published faults."""

import subprocess
import sys

import pytest
from conftest import refused, script

from age_gender import paths

MALE = b"Al_0001.jpg\r\nBo_0001.jpg\r\nCy_0001.jpg\r\nDi_0001.jpg\r\n\r\n"
FEMALE = b"Di_0001.jpg\r\nEve_0001\r\nFay_0001.jpg\r\n"
# Di stands in both lists, Eve's name lacks .jpg, Gus stands in neither.
PREDICTIONS = """filename,gender,age
Al_0001.jpg,0,30
lfw/Bo/Bo_0001.jpg,0,31
Cy_0001.jpg,1,32
Di_0001.jpg,1,33
Eve_0001.jpg,1,34
Fay_0001.jpg,0,35
Gus_0001.jpg,0,36
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "male_names.txt").write_bytes(MALE)
    (tmp_path / "female_names.txt").write_bytes(FEMALE)
    (tmp_path / "predictions.csv").write_text(PREDICTIONS)
    return tmp_path


def check(folder):
    return script("test.py", "--lfw", folder / "predictions.csv", "--lfw-labels", folder)


def test_the_published_lines_count_with_the_faults(folder):
    done = check(folder)
    assert done.code == 0, done.err
    # Of 4 predicted male, Al and Bo are listed; of 4 names. Of 3 predicted female, Di; of 3.
    assert done.out.splitlines()[:2] == [
        "Male 0.5000, correct 2, wrong 2",
        "Female 0.3333, correct 1, wrong 2",
    ]


def test_below_it_names_the_faults_and_counts_without_them(folder):
    lines = check(folder).out.splitlines()[2:]
    text = "\n".join(lines)
    for fault in ("CR LF: 8", "blank lines: 1", "Eve_0001", "Di_0001.jpg", "Gus_0001.jpg"):
        assert fault in text
    # Male: Al and Bo right, Cy wrong. Female: Eve right, Fay wrong.
    assert [line.strip() for line in lines[-3:]] == [
        "Male 0.6667, correct 2, wrong 1",
        "Female 0.5000, correct 1, wrong 1",
        "All 0.6000, correct 3, wrong 2",
    ]


def test_it_does_not_import_tensorflow(folder):
    code = "import sys, test; test.main(sys.argv[1:]); print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--lfw", folder / "predictions.csv", "--lfw-labels", folder],
        cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False"


def test_what_is_missing_is_named(folder):
    (folder / "female_names.txt").unlink()
    refused(check(folder), "female_names.txt", "label file")
    refused(script("test.py", "--lfw", folder / "predictions.csv"), "--lfw-labels")
    refused(script("test.py", "--lfw", folder / "no.csv", "--lfw-labels", folder), "no.csv")


def test_a_bad_prediction_is_named_by_its_row(folder):
    (folder / "predictions.csv").write_text("filename,gender\na.jpg,0\nb.jpg,2\n")
    refused(check(folder), "predictions.csv", "row 2 (line 3)", "'2'")
