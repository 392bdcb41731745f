"""The report of test.py: its figures by hand and by an independent sum, its page in a browser."""

import base64
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import refused, script

from age_gender import files, paths, trained_models
from age_gender.errors import InputError
from age_gender.report import measurement, robustness
from age_gender.report import page as report_page
from age_gender.scoring.scorer import OUTPUTS
from age_gender.training import records

PLOTS = {
    "age_estimated_against_true.png", "age_error_by_band.png", "gender_confusion.png",
    "interval_by_band.png", "probability.png",
}  # fmt: skip
BROWSER = next(
    filter(None, map(shutil.which, ("google-chrome", "chromium", "chromium-browser"))), None
)


@pytest.fixture(scope="module")
def made(record_folder, model_folder, tmp_path_factory):
    """What test.py --report did in a folder that held a note and an old page."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "note.txt").write_text("mine")
    (folder / "report.html").write_text("old")
    done = script(
        "test.py", "--test", record_folder / "test.tfrecords", "--model", model_folder,
        "--report", folder,
    )  # fmt: skip
    assert done.code == 0, done.err
    return folder, done


@pytest.fixture(scope="module")
def measured(made) -> dict:
    return json.loads((made[0] / "figures.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(made) -> str:
    return (made[0] / "report.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------------ figures by hand


def test_the_interval_of_a_share_is_that_of_the_binomial():
    # Of four faces one is right: a resample's count is binomial (4, 1/4), so that 32 % of the
    # resamples have none, 5.1 % three or more, and 0.4 % four.
    figure = measurement.estimate_interval(np.array([0, 0, 1, 0]))
    assert figure == {"value": 0.25, "low": 0.0, "high": 0.75}


def test_the_interval_of_a_mean_is_two_standard_errors_to_each_side():
    values = np.random.default_rng(3).normal(7, 2, 400)
    figure = measurement.estimate_interval(values)
    error = values.std() / 20
    assert figure["value"] == pytest.approx(values.mean(), abs=1e-6)
    assert figure["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert figure["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    assert measurement.estimate_interval(values) == figure  # the same every time


@pytest.mark.parametrize("values", [[3.5], [2, 2, 2]])
def test_the_interval_of_equal_values_has_no_width(values):
    assert set(measurement.estimate_interval(np.array(values)).values()) == {values[0]}


def test_both_ends_of_a_band_belong_to_it():
    bands = measurement.assign_bands(np.array([0, 9, 10, 19, 20, 29, 30, 44, 45, 59, 60, 116]))
    places = {name: np.flatnonzero(bands == name).tolist() for name in bands.categories}
    assert places == {
        "under 10": [0, 1], "10–19": [2, 3], "20–29": [4, 5], "30–44": [6, 7], "45–59": [8, 9],
        "60+": [10, 11],
    }  # fmt: skip


def test_the_calibration_error_of_two_bins():
    # Half of the faces in a bin with 0.05 against 1/2, half in one with 0.95 against 1.
    found = measurement.measure_calibration(
        np.array([0.05, 0.05, 0.95, 0.95]), np.array([0, 1, 1, 1])
    )
    assert found["calibration_error"]["value"] == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    assert [(b["from"], b["n"], b["probability"], b["female"]["value"]) for b in found["bins"]] == [
        (0.0, 2, 0.05, 0.5),
        (0.9, 2, 0.95, 1.0),
    ]


def test_a_certain_and_right_probability_has_no_calibration_error():
    found = measurement.measure_calibration(np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1]))
    assert set(found["calibration_error"].values()) == {0.0}
    assert found["expected_if_exact"] == 0
    assert [(b["from"], b["to"], b["n"]) for b in found["bins"]] == [(0.0, 0.1, 1), (0.9, 1.0, 2)]


def test_an_exact_probability_errs_by_as_much_as_chance_explains():
    random = np.random.default_rng(5)
    female = random.random(4000)
    found = measurement.measure_calibration(female, (random.random(4000) < female).astype(int))
    # Ten bins of 400 faces, deviation sqrt(p (1 - p) / 400); the mean of |normal| is 0.8 of it.
    chance = np.mean([0.798 * np.sqrt(p * (1 - p) / 400) for p in np.arange(0.05, 1, 0.1)])
    assert found["expected_if_exact"] == pytest.approx(chance, rel=0.1)
    assert found["calibration_error"]["value"] < 2 * chance


# ---------------------------------------------------------------- figures of a real report


def test_the_figures_are_those_of_an_independent_sum(measured, record_folder, model_folder):
    faces = records.read(record_folder / "test.tfrecords")
    interpreter = Interpreter(model_path=str(model_folder / "age_gender.tflite"))
    found = interpreter.get_signature_runner()(features=faces.features)
    rows = []
    for i, name in enumerate(faces.file_names):
        age, gender, race = (int(part) for part in name.split("_")[:3])
        low, high = round(float(found["age_low"][i])), round(float(found["age_high"][i]))
        error = float(found["age"][i]) - age
        right = int((found["female_probability"][i] >= 0.5) == gender)
        estimate = round(float(found["age"][i]))
        rows.append((age, gender, race, estimate, abs(error), error, right, low <= age <= high,
                     high - low))  # fmt: skip

    def check(row: dict, chosen: list[tuple]) -> None:
        assert row["n"] == len(chosen)
        for measure, column in zip(measurement.MEASURES, range(4, 9), strict=True):
            mean = sum(part[column] for part in chosen) / len(chosen)
            assert row[measure]["value"] == pytest.approx(mean, abs=1e-5), measure
            assert row[measure]["low"] <= row[measure]["value"] <= row[measure]["high"]

    check(measured["all"], rows)
    ends = {"under 10": (0, 9), "10–19": (10, 19), "20–29": (20, 29), "30–44": (30, 44),
            "45–59": (45, 59), "60+": (60, 116)}  # fmt: skip
    for key, column in (("by_true_age", 0), ("by_estimated_age", 3)):
        assert sum(row["n"] for row in measured[key]) == len(rows)
        for row in measured[key]:
            low, high = ends[row["group"]]
            check(row, [part for part in rows if low <= part[column] <= high])
    for number, row in enumerate(measured["by_gender"]):
        check(row, [part for part in rows if part[1] == number])
    names = ["White", "Black", "Asian", "Indian", "others"]
    for row in measured["by_race"]:
        check(row, [part for part in rows if names[part[2]] == row["group"]])
    for label in (0, 1):
        of_label = [part for part in rows if part[1] == label]
        counts = measured["gender_confusion"][label]
        assert counts[label] == sum(part[6] for part in of_label)
        assert sum(counts) == len(of_label)


def test_the_report_agrees_with_the_lines_on_standard_output(made, measured):
    lines = made[1].out.splitlines()
    whole = measured["all"]
    assert len(lines) == 2 + 2 and lines[-2] == "Summary:"  # 150 faces: two batches
    assert lines[-1] == (
        f"Age_MAE:{whole['age_mae']['value']:.2f}, "
        f"Gender_Acc:{whole['gender_accuracy']['value']:.2%}, Loss:{whole['loss']['value']:.2f}"
    )


def test_the_report_names_what_it_measured(measured, page, record_folder, model_folder):
    for part, path in (
        (measured["records"], record_folder / "test.tfrecords"),
        (measured["model"]["litert"], model_folder / "age_gender.tflite"),
        (measured["model"]["keras"], model_folder / "age_gender.keras"),
    ):
        assert (part["file"], part["sha256"]) == (path.name, files.sha256(path))
        assert part["sha256"][:12] in page
        assert str(path.parent) not in page + json.dumps(measured)


# ------------------------------------------------------------------------------- the page


class Page(HTMLParser):
    """What a page holds: (tag, attributes) of each element, and the text of its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.headings, self.open = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open = tag

    def handle_data(self, data):
        if self.open == "h2" and data.strip():
            self.headings.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_folder_holds_the_report_and_what_else_was_there(made):
    names = {path.name for path in made[0].iterdir()}
    assert names == PLOTS | {
        "report.html", "figures.json", "tables.md", "note.txt",
    }  # fmt: skip
    assert (made[0] / "note.txt").read_text() == "mine"


def test_the_page_has_its_sections_plots_and_tables(made, page):
    read = Page(page)
    assert read.headings == [
        "At a glance", "Age", "The interval of the age", "Gender and its probability",
        "Where the estimates err more", "The embedder", "Limits of these figures",
        "What was measured",
    ]  # fmt: skip
    embedded = {base64.b64decode(image["src"].split(",")[1]) for image in read.all("img")}
    assert embedded == {(made[0] / name).read_bytes() for name in PLOTS}
    assert all(len(image["alt"]) > 30 for image in read.all("img"))
    assert len(read.all("table")) == len(read.all("caption")) == 5
    assert {cell.get("scope") for cell in read.all("th")} == {"col", "row"}


def test_coarse_storage_and_embeddings_of_other_networks_are_measured(measured):
    row = np.array([[127, 1.4, -63.6]], np.float32)  # by hand: a scale of 1
    assert robustness.quantise(row).tolist() == [[127, 1, -64]]
    as_they_are, float16, *_ = measured["embedder"]["by_storage"]
    assert as_they_are["age_mae"] == measured["all"]["age_mae"]
    assert abs(float16["age_mae"]["value"] - as_they_are["age_mae"]["value"]) < 0.05
    assert measured["embedder"]["others_refused"]["random vectors"] == 1


def test_the_page_needs_nothing_from_elsewhere(page):
    bare = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "data:", page)
    assert set(re.findall(r"(?:src|href|srcset)\s*=\s*\"([^\"]*)", bare)) == {"data:"}
    for word in ("http:", "https:", "//", "url(", "@import", "<link", "<script", "<iframe"):
        assert word not in bare


def test_a_name_from_outside_is_text_in_the_page_and_as_it_is_in_markdown(measured):
    figures = measured | {"records": measured["records"] | {"file": "<b>&.tfrecords"}}
    images = dict.fromkeys((name.removesuffix(".png") for name in PLOTS), "")
    page = report_page.render("page.html", figures, images=images)
    assert "&lt;b&gt;&amp;.tfrecords" in page and "<b>" not in page
    assert "`<b>&.tfrecords`" in report_page.render("tables.md", figures)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome, which is not installed")
@pytest.mark.parametrize("width", [1280, 390, 360])
def test_a_browser_shows_the_page_without_scrolling_sideways(page, tmp_path, width):
    # In a frame: a window of headless Chromium is never narrower than 500 pixels.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{html.escape(page)}">'
        "</iframe><script>addEventListener('load', () => {"
        "const inside = document.querySelector('iframe').contentDocument;"
        "const whole = [...inside.images].filter(i => i.naturalWidth);"
        "const shown = document.createElement('output');"
        "shown.textContent = [inside.defaultView.innerWidth, inside.documentElement.scrollWidth,"
        "whole.length, Math.min(...whole.map(i => i.width))].join();"
        "document.body.append(shown); });</script>",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,1000", "--dump-dom", frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found = re.search(r"<output>(\d+),(\d+),(\d+),(\d+)</output>", done.stdout)
    assert found, done.stderr[-2000:]
    inner, scrolled, images, narrowest = map(int, found.groups())
    assert (inner, images) == (width, len(PLOTS))
    assert scrolled <= inner
    assert narrowest > 0.3 * inner  # large enough to read


def test_a_single_face_without_labels_of_race_makes_a_report_too(tmp_path, measured):
    scores = dict(zip(OUTPUTS, np.array([[31.4], [20], [40], [0.9], [0], [0]]), strict=True))
    one = measurement.tabulate_faces(np.array([7]), np.array([1]), ["me.jpg"], scores)
    found = measurement.measure(one, np.array([2.5]))
    rest = {key: measured[key] for key in ("model", "records", "views", "by_crop", "embedder")}
    report_page.write(tmp_path, rest | found, one)
    assert [row["group"] for row in found["by_race"]] == ["none"]
    assert [row["group"] for row in found["by_true_age"]] == ["under 10"]
    assert [row["group"] for row in found["by_estimated_age"]] == ["30–44"]
    assert found["all"]["age_mae"] == {"value": 24.4, "low": 24.4, "high": 24.4}
    assert {path.name for path in tmp_path.iterdir()} >= PLOTS | {"report.html"}


# ----------------------------------------------------------------------------- model card


def test_the_pretrained_model_and_the_tables_in_its_card_belong_together():
    card = paths.FACENET / "README.md"
    tables = card.read_text(encoding="utf-8").partition("<!-- tables: make card -->")[2]
    assert files.sha256(paths.FACENET / trained_models.LITERT_MODEL)[:12] in tables


# --------------------------------------------------------------------------- what is refused


def test_a_report_that_cannot_be_made_is_refused_before_the_work(tmp_path, model_folder):
    (tmp_path / "file").write_text("")
    refused(script("test.py", "--model", model_folder, "--report", tmp_path / "file"), "file")
    done = script("test.py", "--lfw", "p.csv", "--lfw-labels", ".", "--report", tmp_path)
    refused(done, "--report", "--lfw")


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_a_package_one_line_says_how_to_install_it(tmp_path, monkeypatch, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else name)
    with pytest.raises(
        InputError, match=rf"{package}; install: pip install -r requirements-extra\.txt"
    ):
        report_page.prepare_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_two_models_of_different_trainings_are_refused(model_folder, record_folder, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(model_folder, mixed)
    (mixed / "age_gender.json").unlink()  # without the hashes nothing else tells
    network = keras.saving.load_model(mixed / "age_gender.keras", compile=False)
    for weight in network.weights:
        if tuple(weight.shape[1:]) == (117,):  # the layer before the age softmax
            weight.assign(1.1 * weight)
    network.save(mixed / "age_gender.keras")
    done = script(
        "test.py", "--test", record_folder / "test.tfrecords", "--model", mixed,
        "--report", tmp_path / "report",
    )  # fmt: skip
    refused(done, "age_gender.tflite", "age_gender.keras", "years", "run train.py again")
    assert not list((tmp_path / "report").iterdir())
