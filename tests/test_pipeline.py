"""prepare.py, train.py, test.py and run.py in sequence, as a user runs them."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import program, refused, script, training

import network_conv
import prepare
from age_gender import files, metrics, paths, table_writing, trained_models
from age_gender.readers import tables
from age_gender.scoring.scorer import Scorer
from age_gender.training import records
from age_gender.training.calibration import calibrate

LINE = re.compile(r"Age_MAE:\d+\.\d\d, Gender_Acc:\d+\.\d\d%, Loss:\d+\.\d\d")


# ------------------------------------------------------------------------- prepare.py


def write_table(path, names, features):
    table_writing.write(path, names, [features])
    return path


def test_prepare_counts_what_it_read_dropped_skipped_and_split(tmp_path, faces):
    names = [
        "9_0_1_x.jpg", "10_1_2_x.jpg", "39_1_20170116174525125.jpg", "116_0_0_x.jpg",
        "folder/26_1_3_x.jpg", "117_0_0_x.jpg", "26_2_0_x.jpg", "nobody.jpg",
    ]  # fmt: skip
    path = write_table(tmp_path / "t.csv", names, faces[1][: len(names)])
    done = program("prepare.py", "--features", path, "--output", tmp_path, "--test-size", "1")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "read 8"
    # Exactly 10 is no child, exactly 9 is one.
    assert "train: 3, test: 1, children: 1, without labels: 3, repeated: 0" in done.out
    for name in ("117_0_0_x.jpg", "26_2_0_x.jpg", "nobody.jpg"):
        assert name in done.err
    kept = {}
    for part in ("train", "test"):
        read = records.read(tmp_path / f"{part}.tfrecords")
        kept |= dict(zip(read.file_names, zip(read.age, read.gender, strict=True), strict=True))
    assert kept == {
        "10_1_2_x.jpg": (10, 1),
        "39_1_20170116174525125.jpg": (39, 1),
        "116_0_0_x.jpg": (116, 0),
        "folder/26_1_3_x.jpg": (26, 1),
    }


def test_a_record_is_readable_with_the_schema_alone(record_folder, faces):
    schema = {
        "features": tf.io.FixedLenFeature([512], tf.float32),
        "age": tf.io.FixedLenFeature([], tf.int64),
        "gender": tf.io.FixedLenFeature([], tf.int64),
        "file_name": tf.io.FixedLenFeature([], tf.string),
    }
    raw = next(iter(tf.data.TFRecordDataset(str(record_folder / "test.tfrecords"))))
    record = tf.io.parse_single_example(raw, schema)
    name = record["file_name"].numpy().decode()
    age, gender, _ = name.split("_")[:3]
    assert (int(record["age"]), int(record["gender"])) == (int(age), int(gender))
    np.testing.assert_array_equal(record["features"], faces[1][faces[0].index(name)])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, table):
    for folder, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        prepare.main(["--features", str(table), "--output", str(tmp_path / folder),
                      "--test-size", "100", "--seed", seed])  # fmt: skip
    a, b, c = [{p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in "abc"]
    assert a == b and len(a) == 4
    assert all(a[name] != c[name] for name in a)


def test_one_csv_a_face_is_the_original_layout(tmp_path, faces):
    for name, row in zip(faces[0][:30], faces[1][:30], strict=True):
        (tmp_path / f"{name}.csv").write_text(",".join(map(repr, row.tolist())) + "\n")
    names, features = tables.read([tmp_path])
    assert sorted(names) == sorted(faces[0][:30])
    np.testing.assert_array_equal(features, [faces[1][faces[0].index(name)] for name in names])


# --------------------------------------------------------------------------- train.py


def test_training_writes_three_files_that_belong_together(model_folder, record_folder):
    described = json.loads((model_folder / "age_gender.json").read_text())
    for name in ("age_gender.keras", "age_gender.tflite"):
        assert described["files"][name] == files.sha256(model_folder / name)
    faces = len(records.read(record_folder / "train.tfrecords").age)
    assert (described["faces"], described["validation"]["faces"]) == (faces, faces // 5)
    assert 3 < described["validation"]["age_mae"] < 20
    assert {p.name for p in model_folder.iterdir()} == {
        *described["files"],
        "age_gender.json",
        "logs",
    }
    assert list((model_folder / "logs").rglob("events.out.*"))


def test_resuming_with_other_settings_is_refused(record_folder, tmp_path):
    settings = {"train": "x", "epochs": 9, "batch_size": 64, "learning_rate": 2e-3, "seed": 0}
    (tmp_path / ".training").mkdir()
    (tmp_path / ".training" / "settings.json").write_text(json.dumps(settings))
    refused(script("train.py", *training(record_folder, tmp_path, "--resume")), "train", "epochs")


# ---------------------------------------------------------------------------- test.py


def test_the_report_has_a_line_a_batch_and_a_summary_over_all_samples(record_folder, model_folder):
    done = program("test.py", "--test", record_folder / "test.tfrecords", "--model", model_folder)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 4 and lines[2] == "Summary:"  # 150 faces: 128 and 22
    assert all(LINE.fullmatch(lines[i]) for i in (0, 1, 3))
    first, second, summary = [
        [float(number) for number in re.findall(r"\d+\.\d\d", lines[i])] for i in (0, 1, 3)
    ]
    by_samples = (np.array(first) * 128 + np.array(second) * 22) / 150
    np.testing.assert_allclose(summary, by_samples, atol=0.011)
    # The same from the records and the model, by hand.
    faces = records.read(record_folder / "test.tfrecords")
    network = tf.keras.models.load_model(model_folder / "age_gender.keras", compile=False)
    softmax = network.predict(faces.features, verbose=0)
    expected = (softmax["age"] * np.arange(117)).sum(axis=1)
    assert summary[0] == pytest.approx(np.abs(expected - faces.age).mean(), abs=0.006)
    right = (softmax["gender"][:, 1] > 0.5) == faces.gender
    assert summary[1] == pytest.approx(100 * right.mean(), abs=0.006)


# ----------------------------------------------------------------------------- run.py


def scores(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def test_run_scores_a_csv_as_documented(table, faces, model_folder, tmp_path):
    path = write_table(tmp_path / "my.csv", faces[0], faces[1])
    done = program("run.py", "--features", path, "--model", model_folder)
    assert done.code == 0, done.err
    assert done.out.startswith("filename,gender,age,age_low,age_high,female_probability\n")
    rows = scores(done.out)
    assert [row["filename"] for row in rows] == faces[0]
    for row in rows:
        low, age, high = (int(row[key]) for key in ("age_low", "age", "age_high"))
        assert 0 <= low <= age <= high <= 116
        assert re.fullmatch(r"[01]\.\d{4}", row["female_probability"])
        assert int(row["gender"]) == (float(row["female_probability"]) >= 0.5)
    assert str(model_folder) in done.err
    assert "TensorFlow" not in done.err and "INFO" not in done.err


def test_every_format_gives_the_same_estimates(faces, model_folder, tmp_path):
    names, features = faces[0][:60], faces[1][:60]
    expected = None
    for suffix in ("csv", "npz", "parquet"):
        path = write_table(tmp_path / f"t.{suffix}", names, features)
        output = tmp_path / f"{suffix}.out"
        done = script("run.py", "--features", path, "--model", model_folder, "--output", output)
        assert done.code == 0, done.err
        expected = expected or output.read_bytes()
        assert output.read_bytes() == expected
    done = program(
        "run.py", "--features", "-", "--model", model_folder,
        input=(tmp_path / "t.csv").read_bytes(),
    )  # fmt: skip
    assert done.out.encode() == expected


def test_the_litert_model_agrees_with_the_keras_model(faces, model_folder):
    from ai_edge_litert.interpreter import Interpreter

    network = tf.keras.models.load_model(model_folder / "age_gender.keras", compile=False)
    softmax = network.predict(faces[1], verbose=0)
    interpreter = Interpreter(model_path=str(model_folder / "age_gender.tflite"))
    outputs = interpreter.get_signature_runner()(features=faces[1])
    expected = softmax["age"] @ np.arange(117)
    np.testing.assert_allclose(outputs["age"], expected, rtol=1e-4)  # 0.004 years at 40
    calibration = json.loads((model_folder / "age_gender.json").read_text())["calibration"]
    child = 1 / (1 + np.exp(expected - 3.5))  # 1 for a newborn, 0 from about ten years
    power = 1 - (1 - calibration["child_certainty"]) * child
    odds = (softmax["gender"][:, 1] / softmax["gender"][:, 0]) ** (
        power / calibration["gender_temperature"]
    )
    np.testing.assert_allclose(outputs["female_probability"], odds / (1 + odds), atol=1e-4)
    assert outputs["age"].std() > 1  # weights that were lost would give every face the same age


def test_the_model_with_a_wiener_filter_is_exported_as_it_is():
    folder = paths.MODELS / "dlib"
    network = tf.keras.models.load_model(folder / "age_gender.keras", compile=False)
    with np.load(paths.DATA / "utkface_dlib.npz") as table:
        rows = table["embeddings"][:200]
    age = metrics.compute_expected_age(network.predict(rows, verbose=0)["age"])
    model = Scorer((folder / trained_models.LITERT_MODEL).read_bytes(), "model")
    np.testing.assert_allclose(model.score_by_name(rows)["age"], age, atol=1e-3)


def test_the_exported_interval_is_the_softmax_cut_at_the_calibrated_tails(faces, model_folder):
    network = tf.keras.models.load_model(model_folder / "age_gender.keras", compile=False)
    softmax = network.predict(faces[1], verbose=0)["age"].astype(np.float64)
    description = json.loads((model_folder / "age_gender.json").read_text())
    tail = description["calibration"]["tail"]
    model = (model_folder / trained_models.LITERT_MODEL).read_bytes()
    outputs = Scorer(model, "model").score_by_name(faces[1])
    for row, low, high, age in zip(
        softmax, outputs["age_low"], outputs["age_high"], outputs["age"], strict=True
    ):
        part = tail * (1.0 if round(float(age)) < 45 else 0.8)
        years = np.searchsorted(np.cumsum(row), [part, 1 - part])  # the first at or above it
        expected = min(years[0], round(float(age))), max(years[1], round(float(age)))
        assert np.abs(np.subtract((low, high), expected)).max() <= 1  # float32 at a year's edge


def test_calibration_by_hand():
    # Four faces of 30; each softmax is flat over 20-39, 26-35, 29-38 or 10-19.
    softmax = np.zeros((4, 117))
    for row, start, years in zip(softmax, (20, 26, 29, 10), (20, 10, 10, 10), strict=True):
        row[start : start + years] = 1 / years
    age = np.full(4, 30)
    # P(age <= 30) and P(age >= 30): 0.55, 0.5; 0.5, 0.6; 0.2, 0.9; 1, 0: levels 0.5 0.5 0.2 0.
    # With 105 of each, a tail of 0 leaves 105 of 420 outside: it takes the lowest 10 % of them.
    # The estimates are 29.5, 30.5, 33.5 and 14.5 years; the tail is multiplied from 45 only.
    softmax = softmax.astype(np.float32)
    many = {"age": np.repeat(softmax, 105, 0), "gender": np.tile([0.2, 0.8], (420, 1))}
    is_adult = np.ones(420, bool)
    genders = np.tile([1, 1, 1, 1, 0], 84)
    calibrated = calibrate(many, np.repeat(age, 105), genders, is_adult)
    assert calibrated.child_certainty == 1  # no child was held out
    assert calibrated.tail == pytest.approx(0, abs=1e-6)
    assert calibrated.gender_temperature == pytest.approx(1, abs=0.011)  # 4 of 5 are female
    third = {key: values[:315] for key, values in many.items()}  # levels 0.5, 0.5 and 0.2
    genders = np.tile([1, 0], 158)[:315]
    calibrated = calibrate(third, np.repeat(age, 105)[:315], genders, is_adult[:315])
    assert calibrated.tail == pytest.approx(0.2)
    # A hundred newborns of whom as many are boys as girls, all called girls with 0.8.
    newborn = np.zeros((100, 117), np.float32)
    newborn[:, 0] = 1
    all_of_them = {
        "age": np.concatenate([third["age"], newborn]), "gender": np.tile([0.2, 0.8], (415, 1)),
    }  # fmt: skip
    calibrated = calibrate(
        all_of_them, np.concatenate([np.full(315, 30), np.zeros(100, int)]),
        np.concatenate([np.tile([1, 1, 1, 1, 0], 63), np.tile([0, 1], 50)]),
        np.arange(415) < 315,
    )  # fmt: skip
    assert calibrated.tail == pytest.approx(0.2)  # children do not change it
    assert calibrated.child_certainty == pytest.approx(0, abs=0.05)


def test_the_age_loss_by_hand():
    # Softmax 3/4 at 40 and 1/4 at 44: the expected age is 41, one year from the label.
    softmax = np.full((1, 117), 1e-12, np.float32)
    softmax[0, [40, 44]] = 0.75, 0.25
    gaussian = np.exp(-0.5 * ((np.arange(117) - 40) / 3) ** 2)
    gaussian /= gaussian.sum()
    cross_entropy = -(gaussian * np.log(np.clip(softmax[0], 1e-7, 1))).sum()
    loss = network_conv.age_loss(np.array([40]), tf.constant(softmax))
    assert float(loss[0]) == pytest.approx(cross_entropy + 0.1 * 1, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 7.0, 1e15])
def test_embeddings_of_any_length_score_the_same(faces, model_folder, scale):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model_folder / "age_gender.tflite"))
    runner = interpreter.get_signature_runner()
    expected, outputs = runner(features=faces[1]), runner(features=faces[1] * np.float32(scale))
    for key, values in expected.items():
        # Where rounding moves a quantile over the edge of a year, the interval's end moves by 1.
        allowed = 1 if key in ("age_low", "age_high") else 1e-3
        np.testing.assert_allclose(outputs[key], values, rtol=1e-4, atol=allowed)


def test_run_imports_neither_tensorflow_nor_pandas(faces, model_folder, tmp_path):
    path = write_table(tmp_path / "t.csv", faces[0][:3], faces[1][:3])
    code = (
        "import sys, run; run.main(sys.argv[1:]);"
        "print(sorted({'tensorflow', 'keras', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--features", path, "--model", model_folder],
        cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_a_trio_that_does_not_match_is_refused(faces, model_folder, tmp_path):
    path = write_table(tmp_path / "t.csv", faces[0][:3], faces[1][:3])
    mixed = tmp_path / "mixed"
    shutil.copytree(model_folder, mixed)
    with open(mixed / "age_gender.tflite", "ab") as stream:
        stream.write(b"x")
    refused(script("run.py", "--features", path, "--model", mixed), "age_gender.tflite", "train")


def test_the_tflite_alone_is_enough(faces, model_folder, tmp_path):
    path = write_table(tmp_path / "t.csv", faces[0][:3], faces[1][:3])
    alone = tmp_path / "phone.tflite"
    shutil.copy(model_folder / "age_gender.tflite", alone)
    by_file = script("run.py", "--features", path, "--model", alone)
    by_folder = script("run.py", "--features", path, "--model", model_folder)
    assert by_file.code == 0 and by_file.out == by_folder.out


@pytest.mark.parametrize("name", ["prepare.py", "train.py", "test.py", "run.py"])
def test_help_shows_every_option_with_an_example(name):
    done = script(name, "--help")
    assert done.code == 0 and f"python {name}" in done.out
    options = {
        "prepare.py": "--features --output --min-age --test-size --seed",
        "train.py": "--train --children --views --models --epochs --batch-size --learning-rate "
        "--seed --resume --logs",
        "test.py": "--test --model --batch-size --views --report --lfw --lfw-labels",
        "run.py": "--features --output --model --skip-bad-rows --force --dask",
    }[name]
    assert all(option in done.out for option in options.split())
