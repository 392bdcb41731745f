"""run.py without --model finds the model for the network that made a table."""

import json
import shutil

import numpy as np
import pytest
from conftest import line, program, refused, script

from age_gender import embedding_space, paths, rounding, table_writing, trained_models
from age_gender.embeddings import to_unit_length
from age_gender.processes import tensorflow_import
from age_gender.scoring import model_choice

TABLES = {
    "facenet": "utkface.npz",
    "dlib": "utkface_dlib.npz",
    "mobilefacenet": "utkface_mobilefacenet.npz",
}


def rows_of(name: str, count: int = 40) -> tuple[list[str], np.ndarray]:
    with np.load(paths.DATA / TABLES[name]) as arrays:
        features = arrays["embeddings"][:: 21_000 // count][:count].astype(np.float32)
    return [f"face{i}.jpg" for i in range(count)], features


@pytest.fixture(params=TABLES)
def network(request) -> str:
    return request.param


@pytest.mark.parametrize("suffix", ["csv", "npz", "npy", "jsonl", "parquet", "nameless.csv"])
def test_the_model_of_the_network_is_found_and_said(network, tmp_path, suffix):
    names, features = rows_of(network)
    path = tmp_path / f"t.{suffix}"
    if suffix == "npy":
        np.save(path, features)
    elif suffix == "jsonl":
        objects = [{"name": n, "e": x.tolist()} for n, x in zip(names, features, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in objects))
    elif suffix == "nameless.csv":
        path.write_text("".join(line(row) + "\n" for row in features.tolist()))
    else:
        table_writing.write(path, names, [features])
    chosen = script("run.py", "--features", path)
    assert chosen.code == 0, chosen.err
    assert f"models/{network}/" in chosen.err
    given = script("run.py", "--features", path, "--model", paths.MODELS / network)
    assert chosen.out == given.out and chosen.out.count("\n") == 41


def test_standard_input_is_read_once(network, tmp_path):
    names, features = rows_of(network, 700)  # several chunks
    table_writing.write(tmp_path / "t.csv", names, [features])
    expected = program("run.py", "--features", tmp_path / "t.csv").out
    text = (tmp_path / "t.csv").read_bytes()
    done = program("run.py", "--features", "-", input=text)
    assert done.code == 0 and done.out == expected, done.err
    header = ",".join(["filename", *(f"e{i}" for i in range(features.shape[1]))]).encode()
    done = program("run.py", "--features", "-", input=header + b"\n" + text)
    assert done.out == expected, done.err


def test_rows_of_no_model_are_refused_with_the_models_and_the_remedy(network, tmp_path):
    names, features = rows_of(network)
    path = tmp_path / "t.npz"
    table_writing.write(path, names, [np.ascontiguousarray(features[:, ::-1])])
    done = script("run.py", "--features", path)
    width = str(features.shape[1])
    refused(done, width, "models/facenet 512", "models/dlib 128", "mobilefacenet 192", "train.py")
    assert script("run.py", "--features", path, "--force").out.count("\n") == 41


@pytest.mark.parametrize("suffix", ["csv", "npz", "jsonl", "parquet"])
def test_a_width_that_no_model_takes_is_refused_with_the_models(tmp_path, suffix):
    features = np.random.default_rng(0).normal(size=(30, 200)).astype(np.float32)
    path = tmp_path / f"t.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps({"e": row}) + "\n" for row in features.tolist()))
    else:
        table_writing.write(path, [f"{i}.jpg" for i in range(30)], [features])
    done = script("run.py", "--features", path)
    refused(done, "200 numbers", "models/facenet 512", "models/dlib 128", "train.py")


def test_bad_rows_before_the_first_good_one_are_left_out(network, tmp_path):
    names, features = rows_of(network)
    lines = [line(row, name) for name, row in zip(names, features.tolist(), strict=True)]
    wrong = line(features[0, ::-1].tolist(), "wrong.jpg")
    path = tmp_path / "t.csv"
    path.write_text("\n".join([wrong, wrong, lines[3], "x,y", *lines[4:]]) + "\n")
    done = script("run.py", "--features", path, "--skip-bad-rows")
    assert done.code == 0 and f"models/{network}/" in done.err, done.err
    assert done.out.count("\n") == 1 + 37 and "scored 37" in done.err


def copy_models(folder, *names: str) -> None:
    for name in names:
        shutil.copytree(paths.MODELS / name, folder / name)


def chosen_name(features: np.ndarray) -> str:
    return model_choice.choose_model(trained_models.find_model_widths(paths.MODELS), features).path


def test_what_train_wrote_comes_first_of_two_models_for_one_network(tmp_path, monkeypatch):
    copy_models(tmp_path, "facenet", "dlib")
    for file in (paths.MODELS / "facenet").glob("age_gender.*"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    assert [*trained_models.find_model_widths(tmp_path).values()] == [512, 128, 512]
    assert chosen_name(rows_of("facenet")[1]) == str(tmp_path / trained_models.LITERT_MODEL)
    assert "dlib" in chosen_name(rows_of("dlib")[1])


def test_of_two_models_of_one_width_the_nearest_is_taken(mobile_of_512, tmp_path, monkeypatch):
    copy_models(tmp_path, "facenet")
    shutil.copytree(mobile_of_512[0], tmp_path / "another")  # which comes first
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    assert "facenet" in chosen_name(rows_of("facenet")[1])
    assert "another" in chosen_name(mobile_of_512[1][:40])


@pytest.fixture(scope="module")
def mobile_of_512(tmp_path_factory):
    """A model for MobileFaceNet's embeddings turned into 512 dimensions, and these (600, 512).

    The network in it is not trained: the choice is made by the embedding space alone.
    """
    tensorflow_import.import_tensorflow()
    import network_conv
    from age_gender.training.calibration import Calibration

    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(512, 192)))[0]
    features = (rows_of("mobilefacenet", 600)[1] @ turned.T).astype(np.float32)
    space = embedding_space.fit(to_unit_length(features))
    preprocessing = network_conv.build_preprocessing(space, whitening=0.5)
    network = network_conv.build_network(space.component_count)
    calibration = Calibration(0.05, 1, 1)
    curve = rounding.RoundingCurve(np.float32([0, 1]), np.zeros(2, np.float32))
    scorer = network_conv.build_scorer(preprocessing, network, calibration, space, curve)
    folder = tmp_path_factory.mktemp("another")
    trained_models.write_model(
        folder, network_conv.join_preprocessing(preprocessing, network),
        network_conv.to_litert(scorer),
        {"embeddings": {"dimensions": 512}},
    )  # fmt: skip
    return folder, features
