"""Records, models, labels and saved states that cannot be used are refused in one line."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import BATCH_SIZE, MODEL, refused, script, training, with_cell
from readers.fuzz_containers import checksum

import run
import test
import train
from age_gender import files
from age_gender.errors import InputError
from age_gender.training import records

# ------------------------------------------------------------------------ other scripts


def test_prepare_refuses_what_it_cannot_read_and_leaves_no_records(tmp_path, rows):
    path = tmp_path / "my.csv"
    path.write_text("\n".join([rows[0], with_cell(rows[1], "NaN")]))
    done = script("prepare.py", "--features", path, "--output", tmp_path / "out")
    refused(done, str(path), "row 2 (line 2)", "not a finite number", "correct or remove this row")
    assert list((tmp_path / "out").iterdir()) == []
    path.write_text("\n".join(rows))
    refused(script("prepare.py", "--features", path, "--output", path), "my.csv")


def corrupt(path: Path, target: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    return target


def write_examples(path: Path, *features: dict) -> Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for feature in features:
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    return path


def example(count: int = 512, age: int = 30, gender: int = 0, **more) -> dict:
    return {
        "features": tf.train.Feature(float_list=tf.train.FloatList(value=[0.1] * count)),
        "age": tf.train.Feature(int64_list=tf.train.Int64List(value=[age])),
        "gender": tf.train.Feature(int64_list=tf.train.Int64List(value=[gender])),
        "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a.jpg"])),
    } | more


def test_records_that_cannot_be_used_are_refused_with_the_record(tmp_path, record_folder):
    good = record_folder / "test.tfrecords"
    empty, cut = tmp_path / "empty", tmp_path / "cut"
    empty.touch()
    cut.write_bytes(good.read_bytes()[:-100])
    path = tmp_path / "t"
    for bad, words in [
        (tmp_path / "none", ["no such records file", "prepare.py"]),
        (empty, ["no records in this file", "prepare.py"]),
        (corrupt(good, path), ["corrupt", "checksum", "prepare.py"]),
        (cut, ["corrupt", "truncated"]),
    ]:
        with pytest.raises(InputError) as caught:
            records.read(bad)
        for word in (str(bad), *words):
            assert word in str(caught.value)
    zeros = tf.train.Feature(float_list=tf.train.FloatList(value=[0.0] * 512))
    zeros = example(features=zeros)
    for bad, words in [
        ([example(), example(128)], ["record 2", "does not match the schema", "float[512]"]),
        ([example(), {}], ["record 2", "does not match the schema"]),
        (
            [example(), example(), example(age=117)],
            ["record 3", "its age 117 is not from 0 to 116"],
        ),
        ([example(gender=2)], ["record 1", "its gender 2 is not 0 or 1"]),
        ([example(), zeros], ["record 2", "its features are all zeros"]),
        ([example(1)], ["record 1", "does not match the schema", "float[16 to 4,096]"]),
    ]:
        with pytest.raises(InputError) as caught:
            records.read(write_examples(path, *bad))
        for word in (str(path), *words):
            assert word in str(caught.value)


def test_a_length_with_a_right_checksum_is_not_believed(tmp_path):
    """TensorFlow allocates it: of 2**62 bytes it ends with a segmentation fault."""
    good = write_examples(tmp_path / "good", example(), example()).read_bytes()
    length = int.from_bytes(good[:8], "little")
    assert checksum(good[:8]) == good[8:12]
    for claimed in (2**62, 2**64 - 1, 2**63, 2**31, 2**20 + 1, length + 1):
        claim = claimed.to_bytes(8, "little")
        claim += checksum(claim)
        second = len(good) // 2
        (tmp_path / "bad").write_bytes(good[:second] + claim + good[second + 12 :])
        with pytest.raises(InputError) as caught:
            records.read(tmp_path / "bad")
        assert f"corrupt at record 2 (its length reads {claimed:,} bytes" in str(caught.value)


def test_compressed_records_are_called_so(tmp_path):
    path = write_examples(tmp_path / "t.tfrecords", example())
    packed = tmp_path / "t.tfrecords.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="compressed with gzip; unpack it: gunzip"):
        records.read(packed)


def test_train_and_test_name_the_records_that_are_corrupt(tmp_path, record_folder):
    bad = corrupt(record_folder / "test.tfrecords", tmp_path / "bad.tfrecords")
    refused(script("test.py", "--test", bad, "--model", MODEL), str(bad), "checksum", "prepare.py")
    done = script("train.py", "--train", bad, "--models", tmp_path / "models", "--children", "none")
    refused(done, str(bad), "checksum", "prepare.py")
    assert not list((tmp_path / "models").glob("age_gender*"))


def test_a_mistyped_path_of_records_costs_no_interrupted_training(tmp_path, record_folder):
    work = tmp_path / ".training"
    work.mkdir()
    (work / "final.npz").write_text("hours of work")
    with pytest.raises(InputError, match="no such records file"):
        train.main(training(tmp_path / "typo", tmp_path))
    assert (work / "final.npz").read_text() == "hours of work"


def test_a_state_that_cannot_be_resumed_is_refused(tmp_path, mobile_folder):
    work = tmp_path / ".training"
    work.mkdir()
    arguments = training(mobile_folder, tmp_path, "--resume")
    (work / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings\.json.*without --resume"):
        train.main(arguments)
    settings = {
        "train": files.sha256(mobile_folder / "train.tfrecords"),
        "children": files.sha256(mobile_folder / "children.tfrecords"), "views": None,
        "epochs": 2, "batch_size": int(BATCH_SIZE), "learning_rate": 3e-2, "whitening": 0.5,
        "crop_share": 0.5, "seed": 0,
    }  # fmt: skip
    (work / "settings.json").write_text(json.dumps(settings))
    (work / "validation.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"validation\.npz.*without --resume"):
        train.main(arguments)


def test_models_that_cannot_be_used_are_refused(tmp_path, rows):
    path = tmp_path / "my.csv"
    path.write_text("\n".join(rows))
    model = tmp_path / "model"
    for name, change, words in [
        ("age_gender.json", b'{"format": 99, "files": {}}', ["format 99", "run train.py again"]),
        ("age_gender.json", b"{", ["not a readable age_gender.json of train.py"]),
        ("age_gender.tflite", b"TFL3 nothing", ["age_gender.tflite", "train"]),
    ]:
        shutil.copytree(MODEL, model)
        (model / name).write_bytes(change)
        with pytest.raises(InputError) as caught:
            run.main(["--features", str(path), "--model", str(model)])
        for word in words:
            assert word in str(caught.value)
        shutil.rmtree(model)
    alone = tmp_path / "alone.tflite"
    for content in (b"", b"TFL3 nothing", np.random.default_rng(0).bytes(5000)):
        alone.write_bytes(content)
        refused(script("run.py", "--features", path, "--model", alone), "alone.tflite", "train")


def test_a_model_that_takes_one_row_alone_is_refused_and_not_the_machine(
    tmp_path, rows, monkeypatch
):
    def resize(interpreter, index, shape):
        if shape[0] > 1:
            raise RuntimeError("failed to reshape runtimeNode")

    monkeypatch.setattr(Interpreter, "resize_tensor_input", resize)
    (tmp_path / "t.csv").write_text("\n".join(rows))
    refused(script("run.py", "--features", tmp_path / "t.csv", "--model", MODEL), "not a model")


@pytest.mark.parametrize(
    ("shape", "said"),
    [((3, 192), "other inputs or outputs"), ((191,), "takes 191 numbers per face"), (None, "NaN")],
)
def test_a_keras_model_of_another_shape_or_that_gives_nan_is_refused(
    tmp_path, mobile_folder, shape, said
):
    import keras

    path = tmp_path / "age_gender.keras"
    if shape:
        inputs = keras.Input(shape)
        flat = keras.layers.Flatten()(inputs)
        outputs = {"age": keras.layers.Dense(117)(flat), "gender": keras.layers.Dense(2)(flat)}
        network = keras.Model(inputs, outputs)
    else:
        network = keras.saving.load_model(mobile_folder / "model" / path.name, compile=False)
        network.set_weights([np.full_like(w, np.nan) for w in network.get_weights()])
    network.save(path)
    done = script("test.py", "--test", mobile_folder / "test.tfrecords", "--model", path)
    refused(done, str(path), said)


def test_label_files_and_predictions_that_cannot_be_used_are_refused(tmp_path):
    predictions, labels = tmp_path / "p.csv", tmp_path / "labels"
    labels.mkdir()

    def said() -> str:
        with pytest.raises(InputError) as caught:
            test.main(["--lfw", str(predictions), "--lfw-labels", str(labels)])
        return str(caught.value)

    predictions.write_text("filename,gender\na.jpg,0\n")
    assert "male_names.txt: no such label file" in said()
    (labels / "male_names.txt").write_text("a.jpg\n")
    assert "female_names.txt: no such label file" in said()
    (labels / "female_names.txt").write_text("\n\n")
    assert "no names in this file" in said()
    (labels / "female_names.txt").write_bytes(b"\xff\xfe\x00")
    assert "not a text of names" in said()
    (labels / "female_names.txt").write_text("b.jpg\n")
    for content, word in [
        ("", "needs the columns filename and gender"),
        ("filename,gender\n", "no predictions"),
        ("filename,gender\na.jpg,0\nb.jpg,male\n", "row 2 (line 3): gender is 'male'"),
        ("filename,gender\na.jpg\n", "row 1 (line 2)"),
    ]:
        predictions.write_text(content)
        assert word in said()
    predictions.write_bytes(b"filename,gender\n\xff,0\n")
    assert "not a CSV of predictions" in said()


def test_a_training_that_cannot_end_well_leaves_the_model_from_before(
    mobile_folder, tmp_path, mobile
):
    before = tmp_path / "age_gender.json"
    before.write_text("the model from before")
    with pytest.raises(InputError, match=r"diverged.*--learning-rate"):
        train.main(training(mobile_folder, tmp_path, "--learning-rate", "1e30", "--epochs", "1"))
    same = tmp_path / "same"
    same.mkdir()
    names = [f"{20 + i % 40}_{i % 2}_0_{i}.jpg" for i in range(250)]
    rows = [(mobile[1][0], 20 + i % 40, i % 2, name) for i, name in enumerate(names)]
    records.write(same / "train.tfrecords", rows)
    with pytest.raises(InputError, match="embeddings of all 250 faces are the same"):
        train.main(training(same, tmp_path, "--children", "none"))
    assert before.read_text() == "the model from before"
    assert not (tmp_path / "age_gender.tflite").exists()
